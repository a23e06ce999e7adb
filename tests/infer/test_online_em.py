# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""EM by batches: running statistics by hand, and what becomes of one batch of all rows."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from pyro_spvae import SPN, Circuit, random_binary_tree, whole
from pyro_spvae.infer import ExpectedStatistics, RunningStatistics
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import FactorizedLeaf, GaussianLeaf

LEAVES = {
    "bernoulli": lambda: FactorizedLeaf(Bernoulli()),
    "normal": lambda: FactorizedLeaf(Normal()),
    "gaussian": lambda: GaussianLeaf(),
    "low rank": lambda: GaussianLeaf(1),
}


def made(name, weights="full"):
    torch.manual_seed(0)
    spn = SPN(Circuit(random_binary_tree(5, 1, 2), 2, weights=weights), leaf=LEAVES[name]())
    shared = torch.rand(60, 1) < 0.4
    binary = torch.where(torch.rand(60, 5) < 0.1, ~shared, shared).double()
    x = binary if name == "bernoulli" else binary + 0.3 * torch.randn(60, 5)
    if spn.wanted_rows:
        spn.start(x)
    return spn, x


@pytest.mark.parametrize("weights", ["full", "cp"])
@pytest.mark.parametrize("name", LEAVES)
def test_one_batch_of_all_rows_is_a_step_on_all(name, weights):
    ours, x = made(name, weights)
    theirs = copy.deepcopy(ours)
    history = ours.fit_em(x, 1, step_rows=len(x), step_size=1.0)
    before = theirs.em_step(x)
    assert history[0] == pytest.approx(before, abs=1e-12)
    for (key, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert_close(one, other, rtol=1e-11, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", LEAVES)
def test_running_statistics_by_hand(name):
    """Means of a datum times all rows; the first 1 / step_size batches weigh alike, and then each as the step says."""
    spn, x = made(name)
    running = RunningStatistics(600)
    found, ready = [], []
    for batch in x.split(15):
        expected = spn.expected_statistics()
        spn.expect(expected, batch)
        found.append([total * (600 / 15) for total in expected.sums])
        running.take(expected, 0.4)
        ready.append(running.ready)
    assert ready == [False, False, True, True] and running.steps == 4
    for place, total in enumerate(running.sums):
        s = found[0][place]
        s = s + (found[1][place] - s) / 2
        s = 0.6 * s + 0.4 * found[2][place]
        s = 0.6 * s + 0.4 * found[3][place]
        assert_close(total, s)
    again = RunningStatistics(600)
    again.load_state_dict(running.state_dict())
    for one, other in zip((running, again), (spn.expected_statistics(), spn.expected_statistics()), strict=True):
        spn.expect(other, x[:7])
        one.take(other, 0.2)
    assert all(torch.equal(one, other) for one, other in zip(running.sums, again.sums, strict=True))


def test_parameters_wait_for_the_first_batches():
    spn, x = made("bernoulli")
    before = copy.deepcopy(spn.state_dict())
    running = RunningStatistics(len(x))
    expected = spn.expected_statistics()
    spn.expect(expected, x[:10])
    running.take(expected, 0.5)
    assert not running.ready and all(torch.equal(value, before[name]) for name, value in spn.state_dict().items())
    small = RunningStatistics(len(x))
    for batch in x.split(20):  # all rows are enough, whatever the step size
        expected = spn.expected_statistics()
        spn.expect(expected, batch)
        small.take(expected, 1e-3)
    assert small.ready
    whole_step = ExpectedStatistics(spn.circuit, spn.leaf)
    spn.expect(whole_step, x)
    for one, other in zip(small.sums, whole_step.sums, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("name", LEAVES)
def test_reaches_what_all_rows_do(name):
    """About as likely as after many steps on all rows, and never far from it."""
    spn, x = made(name)
    twin = copy.deepcopy(spn)
    torch.manual_seed(1)
    history = spn.fit_em(x, 60, step_rows=12, step_size=0.3, tolerance=-math.inf, ridge=1e-2)
    wanted = twin.fit_em(x, 200, tolerance=1e-7, ridge=1e-2)
    assert len(history) == 61 and history[-1] > wanted[-1] - 0.1 and history[-1] > history[0]
    assert history[-1] == pytest.approx(spn.log_prob(x).mean().item(), abs=1e-12)


def test_shuffles_are_drawn_from_torchs_generator():
    found = []
    for seed in (1, 1, 2):
        spn, x = made("gaussian")
        torch.manual_seed(seed)
        found.append(spn.fit_em(x, 3, step_rows=7))
    assert found[0] == found[1] and found[0] != found[2]


def test_holes_and_batches_that_go_together_in_parts():
    states = []
    for batch_size in (3, 256):
        spn, x = made("gaussian")
        torch.manual_seed(1)
        observed = torch.rand(x.shape) < 0.7
        torch.manual_seed(2)
        spn.fit_em(x, 3, observed, step_rows=20, batch_size=batch_size)
        states.append(spn.state_dict())
    for name, value in states[0].items():
        assert_close(value, states[1][name], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_rows": 0}, "step_rows is 0; a positive integer is needed"),
        ({"step_size": 0}, "step_size is 0; a number above 0 and at most 1 is needed"),
        ({"step_size": 1.5}, "step_size is 1.5; a number above 0 and at most 1 is needed"),
        ({"step_size": math.nan}, "step_size is nan; a number above 0 and at most 1 is needed"),
        ({"ridge": -1}, "ridge is -1; a number of at least 0 is needed"),
    ],
)
def test_refused(options, message):
    spn = SPN(whole((2,)), 1, 1, leaf=GaussianLeaf())
    with pytest.raises(ValueError, match=f"^{message}$"):
        spn.fit_em(torch.randn(5, 2), **options)
    assert spn.wanted_rows > 0
