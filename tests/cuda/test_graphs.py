# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Training on a GPU, by captured steps and by ordinary ones; ``make gpu-check`` runs it, and without one it skips."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from tests.training.cases import same
from tests.training.graph_cases import ALL, trainer

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]


def trained(name, steps=None, **options):
    made = trainer(name, device="cuda", epochs=2, **options)
    made.run(steps)
    return made


def assert_close(one, other):
    """Parameters and bounds, but for rounding: a captured learning rate is in single precision."""
    for name, value in one.spvae.state_dict().items():
        torch.testing.assert_close(value, other.spvae.state_dict()[name], rtol=1e-5, atol=1e-6, msg=name)
    for line, other_line in zip(one.metrics, other.metrics, strict=True):
        assert line["elbo"] == pytest.approx(other_line["elbo"], rel=1e-5)
        assert line["val_elbo"] == pytest.approx(other_line["val_elbo"], rel=1e-5)


@pytest.mark.parametrize("name", [*ALL, "adamax"])
def test_captured_steps_are_ordinary_ones(name):
    """Of every kind of model and objective, noise included."""
    options = {"optimiser": "adamax"} if name == "adamax" else {}
    of = "iwae" if name == "adamax" else name
    captured, ordinary = trained(of, graphs="on", **options), trained(of, graphs="off", **options)
    assert not captured.queued.refused and captured.queued._graphs
    assert_close(captured, ordinary)


@pytest.mark.parametrize("name", ["iwae", "vamp", "annealed smoothing", "hide"])
def test_a_run_goes_on_from_its_state(name):
    """To the last bit, where the device's own sums are the same from run to run."""
    whole, other = (trained(name, 5, graphs="on") for _ in range(2))
    half = trained(name, 2, graphs="on")
    again = trainer(name, device="cuda", epochs=2, graphs="on")
    again.load_state(copy.deepcopy(half.state()), half.metrics)
    again.run(3)
    assert_close(again, whole)
    if same(whole.spvae.state_dict(), other.spvae.state_dict()):
        assert same(whole.spvae.state_dict(), again.spvae.state_dict())
        assert whole.state()["summed"][:2] == again.state()["summed"][:2]


def test_the_host_waits_for_no_step():
    made = trained("iwae", 2, graphs="on")
    x, observed = made._sent(*made.batches(0, 1))
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the mode, which torch calls a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        made.pending.add(made.queued(x, observed, len(x), False))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert made.pending.number == 1
