# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of tables: what contenders are given, how they are scored and compared, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import time

import numpy as np
import pytest
import torch

from benchmarks import tables, tables_ours
from benchmarks.tables_data import BINARY, TABLES, make_split
from benchmarks.tables_imputers import IMPUTERS
from benchmarks.tables_ours import Clock, Ours, completed, parsed
from benchmarks.tables_scores import HIDDEN, MOST_ROWS, Outcome, hidden, imputation, record, with_holes
from pyro_spvae import Circuit, whole
from pyro_spvae.data import load_data
from pyro_spvae.likelihoods import Columns
from pyro_spvae.models import SPN, FactorizedLeaf
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.train import train
from tests.benchmarks.cases import mixed_table, real_table, split_of


def test_what_is_hidden(tmp_path):
    split = split_of(mixed_table(3000), tmp_path)
    x, mask = hidden(split)
    np.testing.assert_array_equal(x, split.test[:MOST_ROWS])
    assert not mask[np.isnan(x)].any()
    seen = ~np.isnan(x)
    assert (seen & ~mask).sum(1)[seen.any(1)].min() == 1
    assert abs(mask.sum() / seen.sum() - HIDDEN) < 0.02
    np.testing.assert_array_equal(mask, hidden(split)[1])
    np.testing.assert_array_equal(np.isnan(with_holes(split)), mask | np.isnan(x))
    first, second = (hidden(split_of(real_table(2000), tmp_path, seed=seed))[1] for seed in (0, 1))
    assert (first != second).any(), "other splits have other holes"


class Spy:
    """A contender that keeps what it was given."""

    def __init__(self, name, seen):
        self.name, self.seen = name, seen

    def applies(self, split):
        return split.table != "iris"

    def run(self, split, budget):
        self.seen.append((split.train, with_holes(split)))
        return Outcome(nats=split.test[:, 0], filled=split.test[:MOST_ROWS], chosen=str(budget))


def test_all_contenders_get_the_same():
    first, second = [], []
    contenders = [Spy("ours", first), Spy("other", second)]
    found = tables.compare(["wine", "iris"], contenders, seeds=2, budget=9.0)
    assert [(own["table"], own["seed"], own["method"], own["chosen"]) for own in found] == [
        ("wine", seed, name, "9.0") for seed in (0, 1) for name in ("ours", "other")
    ]
    for (train_rows, masked), (others, others_masked) in zip(first, second, strict=True):
        np.testing.assert_array_equal(train_rows, others)
        np.testing.assert_array_equal(masked, others_masked)
    assert (first[0][0] != first[1][0]).any()
    assert set(found[0]["squared"]) == {0.0}
    again = tables.compare(["wine"], contenders, seeds=2, known=found)
    assert again == found and len(first) == 2, "known records are not made again"
    changed = [own | {"data": "other"} for own in found]
    tables.compare(["wine"], contenders[:1], seeds=1, known=changed)
    assert len(first) == 3


def test_errors_are_in_units_of_training_rows(tmp_path):
    split = split_of(mixed_table(3000), tmp_path)
    x, mask = hidden(split)
    filled = np.nan_to_num(x)
    filled[:, 0] += 2 * np.nanstd(split.train[:, 0])
    filled[:, 1] = (filled[:, 1] + 1) % 3
    found = imputation(split, filled)
    np.testing.assert_allclose(found["squared"], [4.0] * mask[:, 0].sum())
    assert len(found["hits"]) == mask[:, 1:].sum() and sum(found["hits"]) == mask[:, 2].sum()


def test_records_are_json(tmp_path):
    split = split_of(mixed_table(), tmp_path)
    own = record(split, "mean", IMPUTERS[0].run(split, 1.0), 2)
    assert json.loads(json.dumps(own)) == own and own["nats"] is None and own["threads"] == 2


def test_ours_is_a_run_of_the_package(tmp_path):
    split = split_of(mixed_table(), tmp_path, {"length": "student-t"}, seed=3)
    ours = Ours("leaf=factorized epochs=3 structure=whole units=2")
    outcome = ours.run(split, 500.0)
    options = {"leaf": "factorized", "epochs": 3, "structure": "whole", "units": 2, "kinds": "length=student-t"}
    config = TrainConfig(data=str(split.path), seed=3, device="cpu", **options)
    results = train(config, tmp_path / "run")
    assert outcome.nats.mean() == pytest.approx(results["log_likelihood"], abs=1e-5)
    assert outcome.validation.mean() == pytest.approx(results["val_elbo"], abs=1e-5), "nothing is latent"
    assert outcome.parameters == results["parameters"] and len(outcome.nats) == len(split.test)
    assert len(outcome.curve) == 3 and outcome.curve[-1][0] <= outcome.wall
    assert "leaf=factorized" in outcome.chosen and "structure=whole" in outcome.chosen
    seen = with_holes(split)
    np.testing.assert_array_equal(outcome.filled[~np.isnan(seen)], seen[~np.isnan(seen)])
    assert not np.isnan(outcome.filled).any()


class Hasty(Clock):
    """One whose budget is used up after the second epoch."""

    def look(self, line):
        super().look(line)
        if line.startswith("epoch   2"):
            self.budget = 0.0
            self._fire(0, None)


def test_ours_is_stopped_by_its_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_ours, "Clock", Hasty)
    split = split_of(real_table(), tmp_path)
    outcome = Ours("leaf=factorized epochs=100000 patience=100000").run(split, 1e6)
    assert 2 <= len(outcome.curve) < 10 and np.isfinite(outcome.nats).all() and outcome.wall > 0


def test_too_small_a_budget(tmp_path):
    with pytest.raises(ValueError, match="budget is 0.001 s, in which ours came to no validation of table; give more"):
        Ours().run(split_of(real_table(), tmp_path), 0.001)


def test_the_clock():
    with Clock(0.05) as clock:
        while time.process_time() - clock._start[0] < 20:
            pass
        raise AssertionError("it goes on")
    assert 0.05 <= clock.cpu < 20
    with pytest.raises(KeyboardInterrupt), Clock(100.0):
        raise KeyboardInterrupt
    with Clock(100.0) as clock:
        clock.look("trained     3 epochs")
        over = clock.wall
    assert over > 0 and clock.wall == over


def test_entries_are_completed_by_means(tmp_path):
    """Of independent columns what is seen says nothing: each has its mean, or its most probable category."""
    split = split_of(mixed_table(600), tmp_path)
    spn = SPN(Circuit(whole((3,)), 1), leaf=FactorizedLeaf(likelihood=Columns(split.columns)))

    def density(place, values):
        x = torch.zeros(len(values), 3)
        x[:, place] = torch.as_tensor(values)
        return np.exp(spn.log_likelihood(x, torch.arange(3) == place).detach().numpy())

    rows = np.array([[np.nan, 1.0, np.nan], [4.0, np.nan, 1.0]])
    filled = completed(spn, rows, split.coded, 0)
    grid = np.linspace(-200, 200, 40_001)
    mean = np.trapezoid(grid * density(0, grid), grid)
    likely = [density(place, np.arange(size) * 1.0).argmax() for place, size in ((1, 3), (2, 2))]
    np.testing.assert_allclose(filled, [[mean, 1.0, likely[1]], [4.0, likely[0], 1.0]], rtol=1e-6)


def test_splits_are_those_of_training(tmp_path):
    split = make_split("wine", 4, tmp_path)
    same = load_data(split.path, seed=4, kinds=split.kinds)
    np.testing.assert_array_equal(split.test, same.test[:].double().numpy())
    assert {column.kind for column in split.columns} == {"real"} and not split.has_holes
    np.savez(tmp_path / "dna.npz", **{name: np.eye(3, 5, dtype=np.uint8) for name in ("train", "validation", "test")})
    binary = make_split("dna", 0, tmp_path, tmp_path)
    np.testing.assert_array_equal(binary.test, np.eye(3, 5))
    assert binary.coded.all() and binary.levels == 2


@pytest.mark.parametrize("name", [name for name in TABLES if TABLES[name].source != "scikit-learn"])
def test_tables_of_other_packages(name, tmp_path):
    pytest.importorskip(TABLES[name].source)
    split = make_split(name, 0, tmp_path)
    assert len(split.test) > 10 and len(split.columns) > 3
    few = [
        column.name
        for place, column in enumerate(split.columns)
        if column.is_density and len(np.unique(split.train[:, place])) < 20
    ]
    assert not few, "densities grow without limit on values that are repeated"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tables", "wine,beer"], "tables has 'beer'; known are wine, "),
        (["--peers", "forest"], "peers has 'forest'; known are gaussian, "),
        (["--ours", "units"], "ours is 'units'; name=value is needed"),
        (["--ours", "units=2 units=3"], "ours is 'units=2 units=3'; name=value is needed, each name once"),
        (["--ours", "unit=2"], "unknown key 'unit'; did you mean units"),
        (["--ours", "units=0"], "units is 0; a positive integer"),
        (["--seeds", "0"], "seeds is 0; a number above 0 is needed"),
        (["--budget", "-1"], "budget is -1.0; a number above 0"),
        (["--tables", "dna"], "dna is one of a folder of .npz files; give the folder by --debd"),
        (["--tables", "dna", "--debd", "nowhere"], "debd is nowhere, which has no file dna.npz"),
    ],
)
def test_refusals(words, message):
    with pytest.raises(ValueError) as refused:
        tables.main(words)
    assert message in str(refused.value)


def test_what_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="table penguins needs the package palmerpenguins, which is not installed; "):
        make_split("penguins", 0, tmp_path)
    split = split_of(real_table(), tmp_path)
    with pytest.raises(ValueError, match=r"peer spflow-hclt needs .* spflow, .* install pyro-spvae\[benchmarks\]"):
        tables.PEERS["spflow-hclt"].run(split, 1.0)


def test_options_of_ours():
    assert parsed("leaf=vae hidden=[8,8] tie=none") == {"leaf": "vae", "hidden": [8, 8], "tie": "none"}
    assert set(BINARY).isdisjoint(TABLES)
