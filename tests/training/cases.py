# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small data sets, models and trainers for the tests of training, and comparisons of what they end with."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager

import pyro
import pytest
import torch

from pyro_spvae.data import DataSet, Values
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.build import build_model
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import TERMS, log_likelihoods
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.run import open_run
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer

TINY = TrainConfig(
    units=1, latent_dim=2, hidden=(4,), particles=2, batch_size=16, epochs=2, patience=4, samples=6, chunk_size=16
)
TIMINGS = ("seconds", "step_seconds", "images_per_second", "train_seconds")


def table(columns: int = 4, rows: int = 40, seed: int = 0) -> DataSet:
    """Continuous rows of a table."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return _split("table", x, Values(low=float(x.min()), high=float(x.max())))


def images(levels: int | None = 4, channels: int = 1, side: int = 4, rows: int = 40) -> DataSet:
    """Images of grey levels, or of values in [0, 1] where ``levels`` is ``None``."""
    generator = torch.Generator().manual_seed(1)
    shape = (rows, channels, side, side)
    if levels is None:
        x = torch.rand(shape, generator=generator, dtype=torch.float32)
        return _split("images", x, Values(low=0, high=1))
    x = torch.randint(levels, shape, generator=generator).float()
    return _split("images", x.to(torch.float32), Values.grey_levels(levels))


def _split(name: str, x: torch.Tensor, values: Values) -> DataSet:
    held_out = len(x) // 4
    train, validation, test = x.split([len(x) - 2 * held_out, held_out, held_out])
    return DataSet(name, train, validation, test, values)


def built(data, **options):
    """A new model of the tiny configuration with some options, the data as it sees them, and the configuration."""
    config = resolve(dataclasses.replace(TINY, **options), data)
    data = modelled(config, data)
    pyro.set_rng_seed(config.seed)
    with pyro.settings.context(module_local_params=True):
        return build_model(config, data), data, config


def trainer_of(spvae, data, config, *args, **options):
    """What trains such a model."""
    return Trainer(spvae, data.train, data.validation, config, *args, **options)


def script(trainer, monkeypatch, bounds):
    """Lets validation give the listed bounds, and records the parameters that each was given for."""
    states = []

    def validate(spvae, *args):
        states.append({key: value.clone() for key, value in spvae.state_dict().items()})
        return dict.fromkeys(TERMS, bounds[len(states) - 1])

    monkeypatch.setattr(trainer_module, "mean_bounds", validate)
    return states


@contextmanager
def stopped_after(step, error=KeyboardInterrupt, match=None):
    """Training that is asked to stop when it has taken some steps, and the error that it ends with."""
    advance = Trainer._advance
    with pytest.MonkeyPatch.context() as patch, pytest.raises(error, match=match):
        patch.setattr(Trainer, "_advance", lambda self, *args: advance(self, *args) or self.step == step)
        yield


def likelihood_again(path):
    """Mean log-likelihood of the test rows, of the model and the data made anew from what a run's folder holds."""
    run = open_run(path)
    config = run.config
    options = {"samples": config.samples, "chunk_size": config.chunk_size, "seed": config.seed}
    return float(log_likelihoods(run.spvae, run.data().test, **options).mean())


def untimed(line):
    """Metrics or results without timings."""
    return {name: value for name, value in line.items() if name not in TIMINGS}


def same(state, other):
    """Whether two states have exactly the same tensors, at least one."""
    return bool(state) and state.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in state.items())


def same_average(state, other):
    """Whether two averages of weights are exactly the same, or there are none."""
    if not state:
        return not other
    return state["count"] == other["count"] and same(state["weights"], other["weights"])


def outcome(path):
    """Parameters, optimiser, metrics and results of a run, without timings."""
    folder = RunFolder(path)
    metrics = [untimed(line) for line in folder.read_metrics()]
    results = untimed(json.loads((path / "results.json").read_text()))
    return folder.load("best.pt")["model"], folder.load("last.pt"), metrics, results


def assert_same_outcome(path, other_path):
    """Two runs ended alike, to the last bit."""
    (best, last, *figures), (other_best, other_last, *other_figures) = outcome(path), outcome(other_path)
    assert figures == other_figures and figures[0]
    assert same(best, other_best) and same(last["model"], other_last["model"])
    assert last.keys() == other_last.keys() and last.get("schedule") == other_last.get("schedule")
    assert last["estimator"].keys() == other_last["estimator"].keys()
    assert all(torch.equal(value, other_last["estimator"][name]) for name, value in last["estimator"].items())
    assert len(last["processes"]) == len(other_last["processes"])
    for own, other_own in zip(last["processes"], other_last["processes"], strict=True):
        assert own.keys() == other_own.keys() and all(
            torch.equal(value, other_own[name]) for name, value in own.items()
        )
    assert same_average(last["average"], other_last["average"])
    state, other_state = (kept["optimiser"]["state"] if "optimiser" in kept else {} for kept in (last, other_last))
    assert state.keys() == other_state.keys() and all(same(state[name], other_state[name]) for name in state)
