# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Fitting from Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_spvae import random_binary_tree, whole
from pyro_spvae.data import DataSet, Rows, Values
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import SPN, SPVAE
from pyro_spvae.priors import VampPrior
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.run import open_run
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import images, same, stopped_after, table

OPTIONS = {"epochs": 6, "batch_size": 16, "lr": 0.02, "particles": 2}


def make(latent_dim=2):
    torch.manual_seed(0)
    return SPVAE(random_binary_tree(4, 1, 2, seed=0), 2, latent_dim=latent_dim, hidden_dims=(6,))


def rows(number=60):
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(number, 1, generator=generator, dtype=torch.float64)
    return shared + 0.3 * torch.randn(number, 4, generator=generator, dtype=torch.float64)


def alike(one, other):
    return same(one.state_dict(), other.state_dict())


def test_the_bound_rises_and_the_best_parameters_stay():
    spvae, x = make(), rows()
    lines = spvae.fit(x, **(OPTIONS | {"epochs": 20}))
    bounds = [line["val_elbo"] for line in lines]
    assert max(bounds) > bounds[0] + 0.5 and [line["epoch"] for line in lines] == list(range(1, 21))
    assert spvae.log_likelihood(x, num_samples=50).mean() > make().log_likelihood(x, num_samples=50).mean() + 1


@pytest.mark.parametrize(("kind", "rate"), [(SPN, 0.03), (SPVAE, 0.005)], ids=["exact", "vae"])
def test_the_rate_follows_from_whether_there_are_latent_variables(kind, rate):
    x = torch.randn(60, 3)
    runs = []
    for options in ({}, {"lr": None}, {"lr": rate}, {"lr": 0.1}):
        torch.manual_seed(0)
        model = kind(whole((3,)), units=2, likelihood=Normal())
        metrics = model.fit(x, epochs=2, batch_size=20, **options)
        assert metrics[0]["lr"] == (options.get("lr") or rate)
        runs.append(model.state_dict())
    assert same(runs[0], runs[1]) and same(runs[0], runs[2]) and not same(runs[0], runs[3])


def test_batches_have_128_rows():
    model = SPN(whole((3,)), units=2, likelihood=Normal())
    assert model.fit(torch.randn(300, 3), torch.randn(10, 3), epochs=1)[0]["step"] == 3


def test_float64_is_kept_to_the_last_bit(monkeypatch):
    spvae, x = make(), rows()
    assert x.dtype == torch.float64
    seen, step = [], Trainer._step

    def recorded(self, objective, values, *args, **options):
        seen.append(values)
        return step(self, objective, values, *args, **options)

    monkeypatch.setattr(Trainer, "_step", recorded)
    spvae.fit(x, x, **(OPTIONS | {"epochs": 1}))
    drawn = torch.cat(seen)
    assert torch.equal(drawn.sort(0).values, x.sort(0).values)


def test_missing_entries_may_hold_anything():
    x = rows()
    observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    holes, zeros = x.clone(), x.clone()
    holes[~observed], zeros[~observed] = math.nan, 0.0
    one, other, full = make(), make(), make()
    one.fit(holes, observed=observed, **OPTIONS)
    other.fit(zeros, observed=observed, **OPTIONS)
    full.fit(x, **OPTIONS)
    assert alike(one, other) and not alike(one, full)
    half = torch.tensor([True, True, False, False])
    again, broadcast = make(), make()
    again.fit(x, x, observed=half, validation_observed=half, **OPTIONS)
    broadcast.fit(x, x, observed=half.expand(60, 4), validation_observed=half.expand(60, 4), **OPTIONS)
    assert alike(again, broadcast)


def test_rows_of_a_data_set_are_drawn_anew():
    data = images(levels=4).preprocessed("binarize", 0)
    spvae = SPVAE(whole((4, 4)), 1, latent_dim=2, hidden_dims=(4,), likelihood=Bernoulli())
    lines = spvae.fit(data, epochs=2, batch_size=16, particles=2)
    assert len(lines) == 2 and lines[1]["step"] == 4


@pytest.mark.parametrize("name", ["binarize", "dequantize", "binarize-static"])
@pytest.mark.parametrize("partly", [False, True])
def test_rows_that_draw_anew_do_so_without_validation_rows_too(monkeypatch, name, partly):
    """Training rows have new noise in every epoch, those that are held out never have: as if the two had been given."""
    rows = images(levels=4).preprocessed(name, 0).train
    observed = torch.rand(rows.shape, generator=torch.Generator().manual_seed(2)) < 0.7 if partly else None
    trained, watched = [], []
    step, validate = Trainer._step, trainer_module.mean_bounds

    def recorded(self, objective, values, *args, **options):
        trained.append(values)
        return step(self, objective, values, *args, **options)

    def recorded_too(spvae, elbo, x, *args):
        watched.append(x[:])
        return validate(spvae, elbo, x, *args)

    monkeypatch.setattr(Trainer, "_step", recorded)
    monkeypatch.setattr(trainer_module, "mean_bounds", recorded_too)

    def fitted(x, *args, **options):
        torch.manual_seed(0)
        likelihood = Normal() if name == "dequantize" else Bernoulli()
        spvae = SPVAE(whole((4, 4)), 1, latent_dim=2, hidden_dims=(4,), likelihood=likelihood).float()
        spvae.fit(x, *args, epochs=3, batch_size=50, particles=2, **options)
        return spvae

    ours = fitted(rows, observed=observed)
    first, *others = (values.flatten(1).sort(0).values for values in trained)
    assert all(torch.equal(first, other) == (name == "binarize-static") for other in others) and len(others) == 2
    index, held_out = shuffled_split(20, [18, 2], seed=0)
    assert len(watched) == 3 and all(torch.equal(values, rows[held_out]) for values in watched)
    seen = {} if observed is None else {"observed": observed[index], "validation_observed": observed[held_out]}
    assert alike(ours, fitted(rows.part(index), rows.part(held_out), **seen))


def test_stopped_and_resumed_is_as_if_it_never_had_been(tmp_path):
    whole_run, stopped = make(), make()
    lines = whole_run.fit(rows(), **OPTIONS)
    message = r"^stopped after step 9, everything is saved; continue with: fit\(..., out=.*run, resume=True\)$"
    with stopped_after(9, match=message):
        stopped.fit(rows(), out=tmp_path / "run", **OPTIONS)
    with pytest.raises(ValueError, match="was fitted from Python; continue it by spvae.fit"):
        resume(tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert not folder.is_finished
    folder.append_metrics({"epoch": 99})  # of a validation after the checkpoint
    fresh = make()
    again = fresh.fit(rows(), out=tmp_path / "run", resume=True, **OPTIONS)
    assert alike(fresh, whole_run)
    assert [line["val_elbo"] for line in again] == [line["val_elbo"] for line in lines]
    assert alike(SPVAE.load(tmp_path / "run"), whole_run)
    results = folder.read_json("results.json")
    assert results["steps"] == lines[-1]["step"] and results["val_elbo"] == max(line["val_elbo"] for line in lines)
    assert results["parameters"] == sum(parameter.numel() for parameter in fresh.parameters())
    run = open_run(tmp_path / "run")
    assert run.values.high == float(rows().max())
    with pytest.raises(ValueError, match="was fitted from Python and does not know its data; give --data"):
        run.data()


def test_resuming_what_is_not_there_starts(tmp_path):
    make().fit(rows(), out=tmp_path / "run", resume=True, **OPTIONS)
    assert len(RunFolder(tmp_path / "run").read_metrics()) == 6


@pytest.mark.parametrize("options", [{}, {"schedule": "plateau", "lr": 0.1}], ids=str)
def test_a_finished_run_is_trained_on_by_more_epochs(tmp_path, options):
    """As by ``train``: it ends as one that had all epochs from its start."""
    options = OPTIONS | {"schedule": "constant", "patience": 20} | options
    whole_run, run = make(), make()
    lines = whole_run.fit(rows(), **(options | {"epochs": 6}))
    run.fit(rows(), out=tmp_path / "run", **(options | {"epochs": 3}))
    folder = RunFolder(tmp_path / "run")
    assert folder.is_finished
    with stopped_after(13):
        make().fit(rows(), out=tmp_path / "run", resume=True, **(options | {"epochs": 6}))
    assert not folder.is_finished and folder.read_json("config.json")["epochs"] == 6
    fresh = make()
    left_out = {name: value for name, value in options.items() if name != "epochs"}
    again = fresh.fit(rows(), out=tmp_path / "run", resume=True, **left_out)
    assert alike(fresh, whole_run) and [line["val_elbo"] for line in again] == [line["val_elbo"] for line in lines]
    assert folder.is_finished and folder.read_json("results.json")["steps"] == lines[-1]["step"]


def test_what_a_finished_run_is_not_trained_on_by(tmp_path):
    make().fit(rows(), out=tmp_path / "run", **OPTIONS)
    before = (tmp_path / "run" / "config.json").read_text()
    for options, message in (
        ({"epochs": 2}, "epochs is 2, but the run .* was trained for [0-9]+ already; more are needed to train it on"),
        ({"epochs": 99, "lr": 0.5}, "lr is 0.5, but the run .* was started with 0.02"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            make().fit(rows(), out=tmp_path / "run", resume=True, **(OPTIONS | options))
    assert (tmp_path / "run" / "config.json").read_text() == before
    with stopped_after(3):
        make().fit(rows(), out=tmp_path / "other", **OPTIONS)
    with pytest.raises(ValueError, match="^epochs is 99, but the run .* was started with"):
        make().fit(rows(), out=tmp_path / "other", resume=True, **(OPTIONS | {"epochs": 99}))


def test_other_runs_are_not_resumed(tmp_path):
    make().fit(rows(), out=tmp_path / "run", **OPTIONS)
    for spvae, x, options, message in (
        (make(), rows(), {"lr": 0.5}, "lr is 0.5, but the run .* was started with 0.02"),
        (make(), rows(59), {}, "rows is 59, but the run .* was started with 60"),
        (make(latent_dim=3), rows(), {}, "the run .* was started with a model of another architecture"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            spvae.fit(x, out=tmp_path / "run", resume=True, **(OPTIONS | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 3}, "fit has the unknown key 'epoch'; did you mean epochs"),
        ({"lr": -1}, "fit: lr is -1; a positive number"),
        ({"x": rows()[:, :3]}, r"x has shape \[60, 3\]; the model's"),
        ({"x": rows().float()}, "x has dtype torch.float32, the model torch.float64"),
        ({"x": rows() / 0}, "x holds .* NaN or infinite values"),
        ({"x": rows(1)}, "x has 1 row; at least 2"),
        ({"x": table(), "validation": rows()}, "validation is given, but x is a data set, which has validation rows"),
        ({"resume": True}, "resume is given without out"),
        ({"x": rows().tolist()}, r"x is a list; a tensor \[data, \*event_shape\], an array, a DataFrame, Rows or a D"),
        ({"x": torch.utils.data.TensorDataset(rows())}, "x is a TensorDataset; a tensor"),
        ({"x": rows().numpy().astype(str)}, "x is an array of type <U.*; booleans, integers or floats are needed"),
        ({"validation": rows().tolist()}, "validation is a list; a tensor"),
        ({"observed": np.ones(4)}, "observed is a ndarray; a bool tensor is needed, True = seen"),
        ({"validation_observed": torch.ones(4, dtype=torch.bool)}, "validation_observed is given without validation"),
        ({"observed": torch.ones(3, dtype=torch.bool)}, "observed has shape"),
    ],
)
def test_refusals(options, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        make().fit(**({"x": rows()} | options))


@pytest.mark.parametrize("failing", ["bound", "components"])
def test_a_run_that_fails_before_its_first_checkpoint_leaves_no_folder(tmp_path, failing):
    """So that it may be started anew with other options; one that is there already stays."""
    prior = VampPrior(500, init="data") if failing == "components" else None
    spvae = SPVAE(whole((2, 2)), units=1, likelihood=Normal(), prior=prior)
    x = torch.rand(40, 1, 2, 2)
    with pytest.raises(ValueError, match="nothing was kept|components is 500, but there are"):
        spvae.fit(x, epochs=2, out=tmp_path / "run", lr=1e30)
    assert not (tmp_path / "run").exists()
    other = SPVAE(whole((2, 2)), units=1, likelihood=Normal())
    other.fit(x, epochs=1, out=tmp_path / "run")
    with pytest.raises(ValueError, match="which exists already"):
        spvae.fit(x, epochs=2, out=tmp_path / "run", lr=1e30)
    assert (tmp_path / "run" / "last.pt").exists()


def test_data_with_a_graph_are_taken_as_they_are():
    x = torch.rand(40, 1, 2, 2, requires_grad=True)
    found = []
    for rows in (x, x.detach()):
        torch.manual_seed(0)
        spvae = SPVAE(whole((2, 2)), units=1, likelihood=Normal())
        spvae.fit(rows * 1.0, epochs=2)
        found.append(spvae.state_dict())
    assert all(torch.equal(own, found[1][name]) for name, own in found[0].items() if isinstance(own, torch.Tensor))


def test_further_refusals():
    spvae = SPVAE(whole((2, 2)), units=1, likelihood=Normal())
    x = torch.rand(40, 1, 2, 2)
    data = DataSet("own", *(Rows(x),) * 3, Values(0.0, 1.0, bounded=False))
    with pytest.raises(TypeError, match=r"^validation is a DataSet; rows are needed: give its \.validation, or x as"):
        spvae.fit(x, data)
    for parameter in spvae.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="^no parameter of the model requires a gradient, so that nothing would be"):
        spvae.fit(x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimiser": "em", "lr": 0.1}, "lr is given, but the optimiser 'em' takes none; it belongs to adam, adamax"),
        ({"optimiser": "online-em", "lr": 0.1}, "lr is given, but the optimiser 'online-em' takes none; it belongs"),
        ({"optimiser": "em", "schedule": "cosine"}, "schedule is given, but the optimiser 'em' takes none; .*, online"),
        ({"step_size": 0.5}, "step_size is given, but the optimiser 'adam' takes none; it belongs to online-em, so "),
        ({"smoothing": 0.5}, "smoothing is given, but the optimiser 'adam' takes none; it belongs to em, online-em, s"),
        ({"optimiser": "adamw", "ridge": 0.5}, "ridge is given, but the optimiser 'adamw' takes none"),
    ],
)
def test_what_an_optimiser_does_not_take_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        SPN(whole((3,)), units=2, likelihood=Normal()).fit(torch.randn(30, 3), **options)
