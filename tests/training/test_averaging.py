# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Averaged weights: what they are, that they are what is validated and kept, and that training goes on without them."""

from __future__ import annotations

import copy

import pytest
import torch

from pyro_spvae.distributions import Unsmoothed
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE
from pyro_spvae.training.averaging import AveragedWeights
from pyro_spvae.training.evaluation import mean_bounds
from pyro_spvae.training.fit import fit
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer
from tests.helpers import small_spvae
from tests.training import test_discrete as discrete
from tests.training.cases import built, images, same, script, table, trainer_of, untimed

STEPS = 9  # of three epochs


def of_table(**options):
    """A trainer in float64, without a folder, of rows of a table or of images; three steps an epoch."""
    options = {"batch_size": 7, "epochs": 3, "patience": 9, "schedule": "constant", "lr": 0.01} | options
    spvae, data, config = built(table() if options.get("structure") != "whole" else images(2), **options)
    return trainer_of(spvae.double(), data, config)


def watched(trainer):
    """States after each step, without their average, as it trains."""
    taken, after = [], trainer.averaged.after_step

    def look(step):
        taken.append({name: value.clone() for name, value in trainer.spvae.state_dict().items()})
        after(step)

    trainer.averaged.after_step = look
    return taken


def average_by_hand(states, name, decay=None):
    """The definition: of the moving average, or, without a decay, of the mean."""
    if decay is None:
        return torch.stack([state[name] for state in states]).mean(0)
    found = states[0][name]
    for n, state in enumerate(states[1:], 1):
        d = min(decay, (1 + n) / (10 + n))
        found = d * found + (1 - d) * state[name]
    return found


VAMP = {"structure": "whole", "prior": "vamp(components=3)", "objective": "elbo", "particles": 1}
AVERAGES = {
    "ema": ({"average": "ema"}, 0, 0.999),
    "ema of a small decay": ({"average": "ema", "average_decay": 0.3}, 0, 0.3),
    "ema from the middle": ({"average": "ema", "average_start": 0.5}, 4, 0.999),
    "swa": ({"average": "swa"}, 6, None),
    "swa from the start": ({"average": "swa", "average_start": 0.0}, 0, None),
}


@pytest.mark.parametrize(
    "options", [{}, {"warmup": 2, "optimiser": "adam-normgrad"}, VAMP], ids=["", "warm-up", "vamp"]
)
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_by_hand(name, options, monkeypatch):
    """Each validation sees them, and the last, which is the best, is what the model ends with."""
    given, start, decay = AVERAGES[name]
    trainer = of_table(**given, **options)
    taken, seen = watched(trainer), script(trainer, monkeypatch, [-3.0, -2.0, -1.0])
    trainer.run()
    assert len(taken) == STEPS and len(seen) == 3
    parameters = dict(trainer.spvae.named_parameters())
    assert ("leaf.prior.pseudo_inputs" in parameters) == (options is VAMP)
    for epoch, state in enumerate(seen, 1):
        counted = taken[start : 3 * epoch]
        for key in parameters:
            wanted = average_by_hand(counted, key, decay) if counted else taken[3 * epoch - 1][key]
            torch.testing.assert_close(state[key], wanted, rtol=1e-12, atol=1e-13)
    assert same(trainer.spvae.state_dict(), seen[-1])
    assert not same(seen[-1], taken[-1])


@pytest.mark.parametrize("average", ["ema", "swa"])
@pytest.mark.parametrize("folder", [True, False])
def test_the_best_bound_is_that_of_the_average_which_is_kept(folder, average, tmp_path):
    x = torch.randn(60, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spvae = small_spvae(likelihood=Normal()).double()
    config = FitConfig(epochs=4, batch_size=10, lr=0.05, average=average, average_start=0.0, schedule="constant")
    kept = RunFolder.create(tmp_path / "run", config.to_dict(), {}) if folder else None
    identity = {"architecture": spvae.architecture()} if folder else {}
    trainer = Trainer(spvae, x[:40], x[40:], config, kept, identity)
    taken = watched(trainer)
    trainer.run()
    assert mean_bounds(spvae, trainer.elbo, x[40:], config.seed)["elbo"] == trainer.best
    assert not same(spvae.state_dict(), taken[4 * trainer.best_epoch - 1])
    if folder:
        again, last = SPVAE.load(tmp_path / "run"), SPVAE.load(tmp_path / "run", checkpoint="last.pt")
        assert same(again.state_dict(), spvae.state_dict()), "an opened run has the average"
        assert same(last.state_dict(), taken[-1]), "the last checkpoint has what training goes on from"
        assert mean_bounds(last, trainer.elbo, x[40:], config.seed)["elbo"] != trainer.metrics[-1]["val_elbo"]


BESIDE = {
    "machine": (lambda: discrete.make(discrete.machine(), normalise=True), discrete.JOINT),
    "estimator": (
        lambda: discrete.make(discrete.machine(), Unsmoothed(), normalise=True),
        {"objective": "elbo", "particles": 1, "estimator": "nvil(hidden_dims=(5,))"},
    ),
}


@pytest.mark.parametrize("average", ["ema", "swa"])
@pytest.mark.parametrize("name", BESIDE)
def test_training_is_what_it_is_without_an_average(name, average, tmp_path):
    """Weights, chains, log Z, running statistics, what an estimator learns, the optimiser's state."""
    make, options = BESIDE[name]
    start = {} if average == "ema" else {"average_start": 0.2}
    lines = {}
    for run, given in (("plain", {}), ("averaged", {"average": average} | start)):
        made = fit(
            make(), discrete.rows(), discrete.rows(9, 2), out=tmp_path / run, **discrete.OPTIONS | options | given
        )
        lines[run] = [line["elbo"] for line in made]
    plain, averaged = (RunFolder(tmp_path / run).load("last.pt") for run in ("plain", "averaged"))
    assert lines["plain"] == lines["averaged"] and same(plain["model"], averaged["model"])
    assert plain["estimator"].keys() == averaged["estimator"].keys()
    assert bool(plain["estimator"]) == (name == "estimator")
    assert all(torch.equal(value, averaged["estimator"][key]) for key, value in plain["estimator"].items())
    for own, other in zip(plain["optimiser"]["state"].values(), averaged["optimiser"]["state"].values(), strict=True):
        assert same(own, other)
    assert plain["average"] == {} and averaged["average"]["count"] > 1


def test_running_statistics_are_averaged_and_other_buffers_are_not(monkeypatch):
    """log Z is that of the averaged machine."""
    spvae = discrete.make(discrete.machine(), normalise=True)
    config = FitConfig(epochs=3, batch_size=8, lr=0.05, average="ema", patience=9, **discrete.JOINT)
    trainer = Trainer(spvae, discrete.rows(), discrete.rows(9, 2), config)
    taken, seen = watched(trainer), script(trainer, monkeypatch, [-3.0, -2.0, -1.0])
    trainer.run()
    last = taken[-1]
    running = [name for name in last if "running" in name]
    others = last.keys() - set(running) - dict(spvae.named_parameters()).keys()
    assert running and {"leaf.prior.states", "leaf_guide.mean.values", "leaf.smoothing.inverse_temperature"} < others
    for name in running:
        torch.testing.assert_close(seen[-1][name], average_by_hand(taken, name, 0.999), rtol=1e-12, atol=1e-13)
        assert not torch.equal(seen[-1][name], last[name])
    for name in others - {"leaf.prior.log_z", "leaf.prior.log_z_standard_error"}:
        assert torch.equal(seen[-1][name], last[name]), name
    lists = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 4)
    bias, weight = (seen[-1][f"leaf.prior.{name}"] for name in ("bias", "weight"))
    energies = torch.einsum("sd,ld->ls", lists, bias)
    energies = energies + torch.einsum("si,lij,sj->ls", lists[:, :2], weight, lists[:, 2:])
    torch.testing.assert_close(seen[-1]["leaf.prior.log_z"], energies.logsumexp(1))
    assert not torch.equal(seen[-1]["leaf.prior.bias"], last["leaf.prior.bias"])


def test_frozen_pseudo_inputs_stay_what_they_are(monkeypatch):
    trainer = of_table(**VAMP | {"prior": "vamp(components=3, init=data, frozen=True)"}, average="ema")
    before = trainer.spvae.leaf.prior.pseudo_inputs.clone()
    seen = script(trainer, monkeypatch, [-3.0, -2.0, -1.0])
    trainer.run()
    assert all(torch.equal(state["leaf.prior.pseudo_inputs"], before) for state in seen) and bool(before.any())


def test_a_start_at_clusters_counts_and_what_was_before_it_does_not(monkeypatch):
    options = {"leaf": "gaussian", "latent_dim": None, "start": "clusters", "units": 2, "epochs": 1}
    trainer = of_table(**options, average="ema")
    drawn = copy.deepcopy(trainer.spvae.state_dict())
    taken, seen = watched(trainer), script(trainer, monkeypatch, [-1.0])
    trainer.run()
    for name in dict(trainer.spvae.named_parameters()):
        torch.testing.assert_close(seen[0][name], average_by_hand(taken, name, 0.999), rtol=1e-12, atol=1e-13)
    moved = (taken[0][name] - drawn[name] for name in dict(trainer.spvae.named_parameters()))
    assert max(float(by.abs().max()) for by in moved if by.numel()) > 0.2, "more than a step of the rate"


def test_weights_are_put_back_where_a_validation_fails(monkeypatch):
    trainer = of_table(average="ema")
    taken = watched(trainer)
    script(trainer, monkeypatch, [-1.0, float("nan")])
    with pytest.raises(ValueError, match="^the val_elbo became nan at step 6"):
        trainer.run()
    assert same(trainer.spvae.state_dict(), taken[-1])


def test_an_average_of_the_last_steps_begins_anew_in_a_run_that_is_trained_on(tmp_path):
    """It ends with the average of a run that had all epochs from its start."""
    x = torch.randn(60, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def run(name, *all_epochs):
        torch.manual_seed(0)
        spvae = small_spvae(likelihood=Normal()).double()
        for epochs in all_epochs:
            options = {"epochs": epochs, "batch_size": 10, "patience": 20, "schedule": "constant"}
            lines = spvae.fit(x[:40], x[40:], average="swa", out=tmp_path / name, resume=True, **options)
        return RunFolder(tmp_path / name).load("last.pt"), [untimed(line) for line in lines]

    (whole, lines), (run_on, other_lines) = run("whole", 8), run("run", 3, 8)
    assert whole["average"]["count"] == run_on["average"]["count"] == 8
    assert same(whole["average"]["weights"], run_on["average"]["weights"]) and same(whole["model"], run_on["model"])
    assert lines[3:] == other_lines[3:] and lines[2]["val_elbo"] != other_lines[2]["val_elbo"]


def test_weights_of_one_type_each():
    """A model with parameters in several precisions."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 2).double(), torch.nn.Linear(2, 1).float())
    averaged = AveragedWeights(FitConfig(average="swa", average_start=0.0), model, 3)
    for step in range(1, 4):
        for parameter in model.parameters():
            torch.nn.init.constant_(parameter, float(step))
        averaged.after_step(step)
    with averaged.applied():
        inside = [parameter.detach().clone() for parameter in model.parameters()]
    assert [value.dtype for value in inside] == [torch.float64] * 2 + [torch.float32] * 2
    assert all(bool((value == 2).all()) for value in inside)
    assert all(bool((value == 3).all()) for value in model.parameters())


@pytest.mark.parametrize(("start", "told"), [(None, True), (0.01, False)])
def test_an_average_that_never_began_is_told_of(start, told):
    torch.manual_seed(0)
    spvae, lines = small_spvae(), []
    options = {"average": "swa", "average_start": start, "lr": 0.3, "schedule": "constant"}
    x = torch.rand(40, 1, 2, 2).double()
    metrics = spvae.fit(x, batch_size=20, patience=3, epochs=200, report=lines.append, **options)
    assert 3 < len(metrics) < 150
    note = "note        the average of the weights (swa) begins after step 300 of 400, and training ended before"
    assert sum(line.startswith(note) for line in lines) == told
