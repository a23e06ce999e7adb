# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent bits as a leaf declares them."""

from __future__ import annotations

import re

import pytest
import torch
from torch.distributions import constraints

from pyro_spvae.blocks import LatentBits
from pyro_spvae.blocks.latent_bits import centred, group_sizes
from pyro_spvae.distributions import FactorialBernoulli, OverlappingExponentials, Shaped, SmoothedBernoulli, Unsmoothed


def test_are_a_vector_of_bits_that_is_smoothed_in_training():
    smoothing = OverlappingExponentials(3.0)
    bits = LatentBits(6, smoothing, 2)
    assert bits.event_shape == (6,) and bits.support is constraints.boolean and bits.is_discrete
    assert bits.groups == 2 and LatentBits(6, smoothing).groups == 1
    law = FactorialBernoulli(torch.zeros(1, 6))
    found = bits.smooth(law)
    assert isinstance(found, SmoothedBernoulli) and found.smoothing is smoothing and found.logits is law.logits
    smoothing.eval()
    assert bits.smooth(law) is law
    assert LatentBits(6, Unsmoothed().train()).smooth(law) is law


def test_are_an_array_of_bits():
    """On a grid: each entry is smoothed as that of a vector, and groups share out all entries together."""
    smoothing = OverlappingExponentials(3.0)
    bits = LatentBits((2, 3, 4), smoothing, 6)
    assert bits.event_shape == (2, 3, 4) and bits.groups == 6 and bits.is_discrete
    flat = FactorialBernoulli(torch.randn(5, 1, 24))
    law = Shaped(flat, (2, 3, 4))
    found, vector = bits.smooth(law), LatentBits(24, smoothing).smooth(flat)
    value = found.sample()
    assert found.event_shape == (2, 3, 4) and bool(((value > 0) & (value < 1)).all())
    torch.testing.assert_close(found.log_prob(value), vector.log_prob(value.flatten(-3)))
    assert torch.equal(bits.seen(value), 2 * value - 1)
    smoothing.eval()
    assert bits.smooth(law) is law
    torch.testing.assert_close(bits.summary(law), flat.logits.sigmoid().unflatten(-1, (2, 3, 4)))
    assert set(bits.point(law).unique().tolist()) <= {0.0, 1.0}


def test_groups_are_of_equal_size():
    assert group_sizes(6, 3) == (2, 2, 2) and group_sizes(6, 1) == (6,)


def test_networks_see_numbers_from_minus_one_to_one():
    assert centred(torch.tensor([0.0, 0.25, 1.0])).tolist() == [-1.0, -0.5, 1.0]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda r: LatentBits(0, r), "event_shape is 0; a positive integer, or a tuple of them, is needed"),
        (lambda r: LatentBits(4, r, 0), "groups is 0; a positive integer is needed"),
        (lambda r: LatentBits(4, r, 2.0), "groups is 2.0; a positive integer is needed"),
        (lambda r: LatentBits(4, r, 3), "groups is 3, which does not divide the 4 bits; groups are of equal size"),
        (lambda r: LatentBits((), r, 2), "groups is 2, which does not divide the 1 bits; groups are of equal size"),
        (
            lambda r: LatentBits((2, 3, 4), r, 5),
            "groups is 5, which does not divide the 24 bits; groups are of equal size",
        ),
        (lambda r: LatentBits((2, 0), r), "event_shape is (2, 0); a positive integer, or a tuple of them, is needed"),
        (lambda r: LatentBits(4, r, 8), "groups is 8, which does not divide the 4 bits; groups are of equal size"),
        (lambda r: LatentBits(4, "exponential"), "smoothing is a str; an instance of Smoothing is needed"),
    ],
)
def test_refused(act, message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(message)}$"):
        act(Unsmoothed())
