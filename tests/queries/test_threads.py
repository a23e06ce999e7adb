# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Several threads ask models and train others: they take turns, and Pyro is as it was afterwards."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from pyro.infer.util import is_validation_enabled
from pyro.poutine.runtime import _PYRO_STACK

from pyro_spvae import infer, locking, poon_domingos
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.locking import alone
from pyro_spvae.models import SPN, SPVAE
from tests.helpers import small_spvae

GRID = poon_domingos((4, 4), delta=2)
THREADS, TURNS = 4, 6


@pytest.fixture(autouse=True)
def often():
    """Threads take turns as often as Python can."""
    before, types = sys.getswitchinterval(), torch.get_default_dtype()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
    assert not _PYRO_STACK and is_validation_enabled() and torch.distributions.Distribution._validate_args
    assert not pyro.settings.get("module_local_params") and torch.get_default_dtype() == types


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((5, 1, 4, 4), 0.5))


@pytest.fixture
def left():
    return (torch.arange(4) < 2).expand(1, 4, 4)


def in_threads(*asks):
    """What each thread finds, all starting together."""
    together = threading.Barrier(len(asks))

    def run(ask):
        together.wait()
        return ask()

    with ThreadPoolExecutor(len(asks)) as pool:
        return [found.result() for found in [pool.submit(run, ask) for ask in asks]]


def untouched(model):
    return all(part.training for part in model.modules()) and all(p.requires_grad for p in model.parameters())


EXACT = {
    "log_prob": lambda spn, x, left: spn.log_prob(x).detach(),
    "marginal": lambda spn, x, left: spn.log_prob(x, left).detach(),
    "log_likelihood": lambda spn, x, left: spn.log_likelihood(x),
    "infer.log_likelihood": lambda spn, x, left: infer.log_likelihood(spn.model, spn.guide, x),
    "mpe": lambda spn, x, left: spn.mpe(x, left).x,
    "embed": lambda spn, x, left: spn.embed(x).leaf_posterior,
    "interpolate": lambda spn, x, left: spn.interpolate(x, x.flip(0), 3),
}


@pytest.mark.parametrize("name", EXACT)
def test_exact_answers_are_those_of_one_thread(x, left, name):
    """Of two models, by turns."""
    spns = [SPN(GRID, 2, likelihood=Bernoulli()) for _ in range(2)]
    expected = [EXACT[name](spn, x, left) for spn in spns]
    ask = [lambda spn=spns[i % 2]: [EXACT[name](spn, x, left) for _ in range(TURNS)] for i in range(THREADS)]
    for i, answers in enumerate(in_threads(*ask)):
        assert all(torch.equal(answer, expected[i % 2]) for answer in answers)
    assert all(map(untouched, spns))


def test_random_answers_are_whole(x, left):
    spvae = SPVAE(GRID, latent_dim=2, hidden_dims=(3,), likelihood=Bernoulli())  # whose weights vary little at first
    runs = torch.stack([spvae.log_likelihood(x, num_samples=500).mean() for _ in range(10)])
    mean, near = float(runs.mean()), 8 * float(runs.std())

    def ask():
        for _ in range(TURNS):
            assert float(spvae.log_likelihood(x, num_samples=500).mean()) == pytest.approx(mean, abs=near)
            assert ((spvae.sample(3) - 0.5).abs() == 0.5).all()
            filled = spvae.impute(x, left, num_particles=20)[0]
            assert torch.equal(filled[:, left], x[:, left]) and ((filled - 0.5).abs() == 0.5).all()
            means = spvae.reconstruct(x, num_particles=20)
            assert means.shape == x.shape and ((means > 0) & (means < 1)).all()
            cells = spvae.embed(x, num_particles=20).leaf_posterior.unflatten(-1, (4, 2)).sum(-1)
            torch.testing.assert_close(cells, torch.ones(5, 4))
            spvae.posterior(x, num_particles=5)
            assert spvae.interpolate(x, x, 2, 5).isfinite().all()
        return True

    assert all(in_threads(*[ask] * THREADS)) and untouched(spvae)


def test_training_beside_queries_is_as_if_alone(x):
    """Of another model, by gradient and by EM; a query is answered before the training ends."""
    rows = torch.bernoulli(torch.full((40, 1, 4, 4), 0.5))
    ends = []
    for beside in (False, True):
        pyro.set_rng_seed(5)
        spvae, spn, asked = (small_spvae(GRID, likelihood=Bernoulli()), SPN(GRID, 2), SPN(GRID, 2))
        expected, done, early = asked.log_prob(x).detach(), threading.Event(), []

        def train(spvae=spvae, spn=spn, done=done):
            history = spvae.fit(rows, epochs=2, batch_size=8, seed=1)
            assert spn.fit_em(rows, 3)
            done.set()
            return [{name: value for name, value in line.items() if "second" not in name} for line in history]

        def ask(asked=asked, expected=expected, done=done, early=early):
            while not done.is_set():
                assert torch.equal(asked.log_likelihood(x), expected)
                early.append(not done.is_set())
                SPVAE.from_architecture(asked.architecture())
            return None

        history = in_threads(train, *[ask] * (2 if beside else 0))[0]
        assert not beside or sum(early) > 10, "answers between the steps"
        ends.append((history, spvae.state_dict(), spn.state_dict()))
        assert untouched(spvae) and untouched(asked)
    for one, other in zip(*ends, strict=True):
        if isinstance(one, list):
            assert one == other and len(one) == 2
        else:
            assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_turns_may_be_nested_and_end_with_an_error():
    with pytest.raises(ValueError, match="inside"), alone(), alone():
        raise ValueError("inside")
    assert in_threads(lambda: alone()(lambda: 1)()) == [1]


def test_who_waits_is_before_who_comes_again():
    order = []

    def wait():
        with alone():
            order.append("waited")

    with alone():
        waiting = threading.Thread(target=wait)
        waiting.start()
        for _ in range(5000):
            if locking._GATE.locked():
                break
            time.sleep(0.001)
    with alone():
        order.append("came again")
    waiting.join()
    assert order == ["waited", "came again"]
