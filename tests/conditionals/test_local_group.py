# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The conditional that a latent variable's support asks for; groups of variables on a grid, by torch's layers."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Independent, Normal, constraints

from pyro_spvae.blocks import Latent, LatentBits
from pyro_spvae.conditionals import Bits, Gaussian, LocalGroup, conditional
from pyro_spvae.distributions import OverlappingExponentials, Unsmoothed
from pyro_spvae.nn import MLP
from pyro_spvae.testing import BlockTests
from tests.nn.residual_twins import scattered, stack_by_hand

EVENT, MAP = (2, 2, 3), (4, 2, 3)
LATENTS = {"normal": Latent(EVENT), "bits": LatentBits(EVENT, Unsmoothed())}


class GroupTests(BlockTests):
    """What programs make from what is declared, which no description tells of: they are told by those of programs."""

    test_is_made_anew_from_its_description = None
    test_numbers_of_numpy_make_the_same_part = None


class TestNormalGroup(GroupTests):
    sizes = {"leaves": 3, "event_shape": EVENT, "map_shape": MAP}

    def make(self):
        return LocalGroup(LATENTS["normal"], 2, norm="none", activation="silu")


class TestBitsGroup(GroupTests):
    sizes = {"leaves": 3, "event_shape": EVENT, "map_shape": MAP}

    def make(self):
        return LocalGroup(LATENTS["bits"], last=True, checkpoint=True)


def bound(kind, **options):
    torch.manual_seed(0)
    group = LocalGroup(LATENTS[kind], **options).bind(leaves=2, event_shape=EVENT, map_shape=MAP)
    return scattered(group).eval()


@pytest.mark.parametrize("kind", LATENTS)
def test_by_hand(kind):
    """Residual blocks, then a law whose parameters are read at each position, then the value is added to the map."""
    group = bound(kind, blocks=2)
    state = torch.randn(5, 2, *MAP)
    refined = group.refine(state)
    each = [stack_by_hand(group.residual, leaf, maps) for leaf, maps in enumerate(state.unbind(1))]
    torch.testing.assert_close(refined, torch.stack(each, 1))
    law, outputs = group(refined), group.law.network(refined.flatten(-3))
    assert (law.batch_shape, law.event_shape) == ((5, 2), EVENT)
    value = law.sample()
    if kind == "bits":
        by_hand = Bernoulli(logits=outputs[0].unflatten(-1, EVENT))
        seen = torch.where(value > 0, 1.0, -1.0)
    else:
        by_hand, seen = Normal(law.mean, law.variance.sqrt()), value
        torch.testing.assert_close(law.mean, outputs[0].unflatten(-1, EVENT))
    torch.testing.assert_close(law.log_prob(value), Independent(by_hand, 3).log_prob(value))
    layer = group.inserted
    for leaf, added in enumerate((group.insert(refined, value) - refined).unbind(1)):
        torch.testing.assert_close(added, F.conv2d(seen[:, leaf], layer.kernels[0][leaf], layer.biases[0][leaf]))


@pytest.mark.parametrize("kind", LATENTS)
def test_more_values_than_maps(kind):
    """Particles of the value, in front of the data: each is as if it were alone."""
    group = bound(kind)
    state = torch.randn(5, 2, *MAP)
    values = group(state).sample((3,))
    torch.testing.assert_close(group.insert(state, values), torch.stack([group.insert(state, each) for each in values]))
    states = group.insert(state, values)
    torch.testing.assert_close(group.refine(states), torch.stack([group.refine(each) for each in states]))


def test_after_the_last_group_the_map_stays():
    group = bound("normal", last=True)
    state = torch.randn(5, 2, *MAP)
    assert group.inserted is None and group.insert(state, torch.randn(5, 2, *EVENT)) is state
    assert sum(p.numel() for p in bound("normal").parameters()) > sum(p.numel() for p in group.parameters())


class TestConditional:
    @pytest.mark.parametrize(
        ("latent", "kind"),
        [
            (Latent(6), Gaussian),
            (Latent((2, 3)), Gaussian),
            (Latent(6, constraints.independent(constraints.real, 1)), Gaussian),
            (Latent(6, constraints.boolean), Bits),
            (LatentBits(6, OverlappingExponentials()), Bits),
            (Latent((1, 6), constraints.integer_interval(0, 1)), Bits),
        ],
    )
    def test_follows_from_the_support(self, latent, kind):
        network = MLP((3,))
        block = conditional(latent, network)
        assert type(block) is kind and block.network is network
        law = block.bind(leaves=2, inputs=5, event_shape=latent.event_shape)(torch.randn(4, 2, 5))
        assert (law.batch_shape, law.event_shape) == ((4, 2), latent.event_shape)
        assert bool(latent.support.check(law.sample()).all())

    def test_options_of_bits_reach_bits_alone(self):
        options = {"groups": 3, "hidden_dims": (7,), "activation": "relu", "normalise": True}
        block = conditional(Latent(6, constraints.boolean), MLP(()), **options)
        assert {name: getattr(block, name) for name in options} == options
        assert type(conditional(Latent(6), MLP(()), **options)) is Gaussian

    @pytest.mark.parametrize(
        ("support", "words"),
        [
            (constraints.unit_interval, "numbers from 0 to 1"),
            (constraints.integer_interval(0, 4), "the integers from 0 to 4"),
            (constraints.simplex, "the support Simplex"),
            (constraints.positive, "numbers from 0 to inf"),
        ],
    )
    def test_refuses_other_supports(self, support, words):
        message = f"a conditional of {words} is not known; of real numbers or bits it is"
        with pytest.raises(ValueError, match=f"^{message}$"):
            conditional(Latent(6, support), MLP(()))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: LocalGroup(LATENTS["bits"]).bind(leaves=1, event_shape=EVENT, map_shape=(4, 3, 2)),
            "a Readout reads maps at their own positions; map_shape is (4, 3, 2) and output_shape (2, 2, 3), of which ",
        ),
        (lambda: LocalGroup(Latent(EVENT, constraints.simplex)), "a conditional of the support Simplex is not known"),
        (lambda: LocalGroup(LATENTS["normal"], norm="layer"), "norm is 'layer'; known are "),
        (lambda: LocalGroup(LATENTS["normal"], activation="step"), "activation is 'step'"),
        (lambda: LocalGroup(LATENTS["normal"], blocks=0), "blocks is 0; a positive integer is needed"),
        (lambda: LocalGroup(LATENTS["normal"], checkpoint=2), "checkpoint is 2; "),
    ],
)
def test_refused(act, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        act()
