# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent bits of networks' outputs, in one group and in several that depend on each other."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli

from pyro_spvae.conditionals import Bits
from pyro_spvae.distributions import FactorialBernoulli
from pyro_spvae.distributions.kinds import means_given
from pyro_spvae.nn import MLP, Joint
from pyro_spvae.testing import BlockTests
from pyro_spvae.testing.block_tests import moved_from_start


class TestBits(BlockTests):
    sizes = {"leaves": 3, "inputs": 5, "event_shape": (6,)}

    def make(self):
        return Bits(MLP((4,)), 3, (4,), "relu", normalise=True)


class TestLinearBits(BlockTests):
    sizes = {"leaves": 3, "inputs": 5, "event_shape": (6,)}

    def make(self):
        return Bits(MLP(()), 2, ())


def bound(groups, size=6, hidden=(4,), **options):
    torch.manual_seed(1)
    part = Bits(MLP((3,)), groups, hidden, **options).bind(leaves=2, inputs=5, event_shape=(size,))
    moved_from_start(part)
    return part


@pytest.mark.parametrize("hidden", [(4,), ()])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_logits_by_hand(groups, hidden):
    """Further groups see the input, and as numbers from -1 to 1 the bits of all groups before them."""
    part, each = bound(groups, hidden=hidden), 6 // groups
    h = torch.randn(4, 2, 5)
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)))[:, None, None].expand(-1, 4, 2, -1)
    total = Bernoulli(logits=part.network(h)[0]).log_prob(bits[..., :each]).sum(-1)
    for group, network in enumerate(part.further, 1):
        assert isinstance(network, Joint) and network.sizes["inputs"] == (5, group * each)
        (logits,) = network(h, torch.where(bits[..., : group * each] > 0, 1.0, -1.0))
        total = total + Bernoulli(logits=logits).log_prob(bits[..., group * each : (group + 1) * each]).sum(-1)
    law = part(h)
    assert len(part.further) == groups - 1 and isinstance(law, FactorialBernoulli) == (groups == 1)
    assert law.batch_shape == (4, 2) and law.event_shape == (6,)
    torch.testing.assert_close(law.log_prob(bits), total)
    torch.testing.assert_close(total.exp().sum(0), torch.ones(4, 2))


def test_what_follows_from_the_input_alone_may_be_kept():
    """The first group's network and the input's layers run once, whatever is drawn how often."""
    part, calls = bound(3), []
    for module in (part.network, *(network.branches[0] for network in part.further)):
        module.register_forward_hook(lambda module, *_: calls.append(module))
    h = torch.randn(4, 2, 5)
    embedded = part.embed(h)
    for _ in range(2):
        law = part.join(embedded).expand(torch.Size((7, 4, 2)))
        z = law.sample()
        torch.testing.assert_close(law.log_prob(z), part(h).log_prob(z))
        assert len(calls) == 3 or calls.clear() is None
    part.join(embedded).sample()
    assert len(calls) <= 3


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_reach_every_parameter(groups):
    part = bound(groups)
    loss = (part(torch.randn(4, 2, 5)).log_prob(torch.randint(2, (4, 2, 6)).double()) * torch.randn(4, 2)).sum()
    assert all(bool((slope != 0).any()) for slope in torch.autograd.grad(loss, list(part.parameters())))


@pytest.mark.parametrize("groups", [1, 2])
def test_arrays_of_bits_are_vectors_in_another_shape(groups):
    laws = []
    for event in ((6,), (3, 1, 2)):
        torch.manual_seed(1)
        part = Bits(MLP((4,)), groups).bind(leaves=2, inputs=5, event_shape=event)
        laws.append(part(torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(2))))
    value = torch.randint(2, (3, 2, 6)).double()
    assert laws[1].event_shape == (3, 1, 2)
    torch.testing.assert_close(laws[1].log_prob(value.unflatten(-1, (3, 1, 2))), laws[0].log_prob(value))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Bits(nn.Linear(2, 2)), "network is a Linear; an instance of Network is needed"),
        (lambda: Bits(MLP(), 0), "groups is 0; a positive integer is needed"),
        (lambda: Bits(MLP(), 2, (0,)), "hidden_dims is (0,); positive integers are needed"),
        (lambda: Bits(MLP(), 1, (0,)), "hidden_dims is (0,); positive integers are needed"),
        (lambda: Bits(MLP(), 1, 3), "hidden_dims is 3; a sequence of positive integers is needed"),
        (lambda: Bits(MLP(), 1, activation="step"), "activation is 'step'; known are softplus"),
        (lambda: Bits(MLP(), 1, activation="gated", normalise=True), "normalise is True, but gated layers are not"),
        (lambda: bound(4), "groups is 4, which does not divide the 6 bits; groups are of equal size"),
        (
            lambda: Bits(MLP()).bind(leaves=1, inputs=2, event_shape=()),
            "Bits states a vector or an array, but the latent variable has the shape []",
        ),
    ],
)
def test_refused(act, message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(message)}"):
        act()


def test_means_of_arrays_of_groups_are_those_of_vectors():
    bits = Bits(MLP(), groups=2).bind(leaves=3, inputs=5, event_shape=(2, 2, 2))
    law = bits(torch.rand(4, 3, 5))
    value = law.sample()
    found = means_given(law, value)
    assert torch.equal(found.flatten(-3), law.base_dist.conditional_mean(value.flatten(-3)))
