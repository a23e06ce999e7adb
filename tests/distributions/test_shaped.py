# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Vectors as arrays: the same law, whatever is asked."""

from __future__ import annotations

import re

import pytest
import torch
from pyro.distributions import Normal
from torch.distributions import constraints, kl_divergence

from pyro_spvae.blocks import Latent
from pyro_spvae.blocks.latent import check_sites, support_key
from pyro_spvae.distributions import (
    BinaryHierarchy,
    FactorialBernoulli,
    LeafNormal,
    LeafStandardNormal,
    OverlappingExponentials,
    Shaped,
    divergence,
    divergence_by_dimension,
)
from pyro_spvae.distributions.kinds import limit_support

EVENT = (3, 1, 2)


def draw(*shape, seed=0):
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(seed))


def normal(seed=0):
    return LeafNormal(draw(4, 2, seed=seed), draw(4, 2, seed=seed + 9).exp())


def bits(seed=0):
    return FactorialBernoulli(draw(4, 2, seed=seed))


def smoothed_bits(seed=0):
    return OverlappingExponentials(5.0)(bits(seed))


def drawn(law, *args, seed=3):
    torch.manual_seed(seed)
    return (law.rsample if law.has_rsample else law.sample)(*args)


@pytest.mark.parametrize("make", [normal, bits, smoothed_bits])
class TestTheSameLaw:
    def test_density_draws_and_moments(self, make):
        base, law = make(), Shaped(make(), EVENT)
        assert law.batch_shape == (4, 2) and law.event_shape == EVENT and law.has_rsample == base.has_rsample
        value = drawn(base, (5,))
        torch.testing.assert_close(drawn(law, (5,)), value.unflatten(-1, EVENT))
        torch.testing.assert_close(law.log_prob(value.unflatten(-1, EVENT)), base.log_prob(value))
        torch.testing.assert_close(law.mean, base.mean.unflatten(-1, EVENT))

    def test_expands_by_record_alone(self, make):
        law = Shaped(make(), EVENT).expand((7, 4, 2))
        assert law.batch_shape == (7, 4, 2) and drawn(law).shape == (7, 4, 2, *EVENT)
        value = drawn(law)
        torch.testing.assert_close(law.log_prob(value), make().log_prob(value.flatten(-3)))

    def test_divergences_are_those_of_the_vectors(self, make):
        q, p = (Shaped(make(seed), EVENT) for seed in (1, 2))
        value = drawn(make(1))
        expected = divergence(make(1), make(2), value)
        torch.testing.assert_close(divergence(q, p, value.unflatten(-1, EVENT)), expected)
        assert expected is not None and float(expected.min()) > 0
        other = Shaped(make(2), (6, 1, 1))  # no law of the same arrays
        assert divergence(q, other, value.unflatten(-1, EVENT)) is None

    def test_support_is_of_arrays(self, make):
        law = Shaped(make(), EVENT)
        assert law.support.event_dim == 3 and support_key(law.support) == support_key(make().support)
        assert bool(law.support.check(drawn(law)).all())
        check_sites({"h": Latent(EVENT, limit_support(make()) or make().support)}, {"h": law}, "the guide", "leaf")


def test_equals_the_stock_normal():
    loc, scale, value = draw(4, 2), draw(4, 2, seed=1).exp(), draw(4, 2, seed=2)
    law = Shaped(LeafNormal(loc, scale), EVENT)
    stock = Normal(loc.unflatten(-1, EVENT), scale.unflatten(-1, EVENT)).to_event(3)
    torch.testing.assert_close(law.log_prob(value.unflatten(-1, EVENT)), stock.log_prob(value.unflatten(-1, EVENT)))
    torch.testing.assert_close(law.entropy(), stock.entropy())
    for mine, other in ((law.mean, stock.mean), (law.variance, stock.variance), (law.mode, stock.mean)):
        torch.testing.assert_close(mine, other)


def test_terms_by_dimension_are_arrays():
    q, p = Shaped(normal(), EVENT), Shaped(LeafStandardNormal(6), EVENT)
    terms = divergence_by_dimension(q, p)
    assert terms.shape == (4, 2, *EVENT)
    torch.testing.assert_close(terms.flatten(-3).sum(-1), kl_divergence(normal(), LeafStandardNormal(6)))
    assert divergence_by_dimension(q, Shaped(normal(1), EVENT)) is None


def test_smoothed_it_is_the_smoothed_law_of_arrays():
    law = OverlappingExponentials(5.0)(Shaped(bits(), EVENT))
    assert isinstance(law, Shaped) and limit_support(law) is constraints.boolean
    value = drawn(law)
    torch.testing.assert_close(law.log_prob(value), smoothed_bits().log_prob(value.flatten(-3)))


def test_detached_only_where_vectors_are():
    loc = draw(4, 2).requires_grad_()
    law = Shaped(LeafNormal(loc, torch.ones(6)), EVENT)
    assert (
        law.log_prob(torch.zeros(EVENT)).requires_grad and not law.detach().log_prob(torch.zeros(EVENT)).requires_grad
    )
    groups = BinaryHierarchy([3, 3], lambda group, before: torch.zeros(2, 3))
    assert not hasattr(Shaped(groups, EVENT), "detach") and hasattr(law, "detach")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: Shaped(bits(), (3, 3)),
            "event_shape is (3, 3), but events of the FactorialBernoulli have the shape [6]",
        ),
        (lambda: Shaped(bits(), ()), "event_shape is (), but events of the FactorialBernoulli have the shape [6]"),
        (lambda: Shaped(bits(), (-6, -1)), "event_shape is (-6, -1), but events"),
        (lambda: Shaped(bits(), EVENT).log_prob(torch.zeros(6)), "value of shape (6,) was given to Shaped.log_prob"),
        (lambda: Shaped(bits(), EVENT).log_prob(torch.zeros(2, 1, 3)), "value of shape (2, 1, 3) was given"),
        (lambda: Shaped(bits(), EVENT).log_prob(torch.full(EVENT, 2.0)), "value of FactorialBernoulli.log_prob lies"),
    ],
)
def test_refused(act, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        act()
