# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Directed priors of latent bits: independent ones, and groups given those before them."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch.distributions import Bernoulli

from pyro_spvae.distributions import OverlappingExponentials, SmoothedHierarchy
from pyro_spvae.priors import BitChain, IndependentBits
from pyro_spvae.testing import DiscretePriorTests
from pyro_spvae.testing.block_tests import moved_from_start


class TestIndependentBits(DiscretePriorTests):
    def make(self):
        return IndependentBits()

    def test_is_torchs_bernoulli_of_its_logits(self, part):
        z = self.values(part, 5, 3)
        torch.testing.assert_close(part().log_prob(z), Bernoulli(logits=part.logits).log_prob(z).sum(-1))

    def test_starts_as_fair_coins(self):
        part = self.make().bind(**self.sizes)
        assert bool((part().mean == 0.5).all()) and part.groups == 1


class TestBitChain(DiscretePriorTests):
    def make(self):
        return BitChain(hidden_dims=(3,))


class TestLinearChainOfFour(DiscretePriorTests):
    def make(self):
        return BitChain(4, ())


class TestNormalisedChain(DiscretePriorTests):
    """In evaluation mode, where a value's mass does not depend on others."""

    def make(self):
        return BitChain(2, (3,), "relu", normalise=True)

    def bound(self, leaves=None):
        return super().bound(leaves).eval()

    def alone(self, part, leaf):
        return super().alone(part, leaf).eval()


def chain(groups, size, hidden=(5,), **options):
    part = BitChain(groups, hidden, **options).bind(leaves=2, event_shape=(size,))
    moved_from_start(part)
    return part


@pytest.mark.parametrize(("groups", "size"), [(1, 3), (2, 4), (3, 6)])
def test_a_chain_by_hand(groups, size):
    """Each group's network sees the bits of all groups before it, as numbers from -1 to 1."""
    part, each = chain(groups, size), size // groups
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=size))).unsqueeze(1).expand(-1, 2, -1)
    total = Bernoulli(logits=part.logits).log_prob(bits[..., :each]).sum(-1)
    for group in range(1, groups):
        (logits,) = part.networks[group - 1](torch.where(bits[..., : group * each] > 0, 1.0, -1.0))
        total = total + Bernoulli(logits=logits).log_prob(bits[..., group * each : (group + 1) * each]).sum(-1)
    torch.testing.assert_close(part().log_prob(bits), total)
    assert len(part.networks) == groups - 1 and part.group_sizes == (each,) * groups
    assert [network.sizes["inputs"] for network in part.networks] == [each * group for group in range(1, groups)]


def test_in_training_the_groups_before_are_smoothed():
    part, smoothing = chain(2, 4), OverlappingExponentials(3.0)
    law = smoothing(part())
    assert isinstance(law, SmoothedHierarchy)
    zeta = torch.rand(7, 2, 4)
    (logits,) = part.networks[0](2 * zeta[..., :2] - 1)
    expected = smoothing.log_prob(part.logits, zeta[..., :2]) + smoothing.log_prob(logits, zeta[..., 2:])
    torch.testing.assert_close(law.log_prob(zeta), expected.sum(-1))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: BitChain(0), "groups is 0; a positive integer is needed"),
        (lambda: BitChain(hidden_dims=(0,)), "hidden_dims is (0,); positive integers are needed"),
        (lambda: BitChain(activation="step"), "activation is 'step'; known are softplus"),
        (
            lambda: BitChain(activation="gated", normalise=True),
            "normalise is True, but gated layers are not normalised",
        ),
        (lambda: BitChain(1, activation="gated", normalise=True), "normalise is True, but gated layers are not"),
        (lambda: BitChain(1, normalise=2), "normalise is 2; True or False is needed"),
        (lambda: chain(3, 4), "groups is 3, which does not divide the 4 bits; groups are of equal size"),
        (lambda: BitChain()(), "this BitChain has no sizes yet"),
        (lambda: IndependentBits()(), "this IndependentBits has no sizes yet"),
        (
            lambda: IndependentBits().bind(leaves=1, event_shape=(2, 2)),
            "a IndependentBits is a prior of vectors, but the latent variable has the shape [2, 2]",
        ),
        (
            lambda: BitChain().bind(leaves=1, event_shape=(2, 2)),
            "a BitChain is a prior of vectors, but the latent variable has the shape [2, 2]",
        ),
    ],
)
def test_refused(act, message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(message)}"):
        act()
