# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One of two distributions by a mask."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_spvae.distributions import Kumaraswamy, StickWeights
from pyro_spvae.distributions.chosen import Chosen
from pyro_spvae.distributions.kept import kept

MASK = torch.tensor([[True, False, True], [False, False, True]])


def normals():
    return dist.Normal(torch.randn(3, 2), 0.5).to_event(1), dist.Normal(torch.randn(2, 3, 2), 2.0).to_event(1)


def sticks(rows=200):
    a, b = (torch.full((rows, 2, 3, 30), value) for value in (3.0, 0.05))
    return StickWeights(Kumaraswamy(a, b).to_event(1)), StickWeights(Kumaraswamy(b, a).to_event(1))


@pytest.mark.parametrize("particles", [(), (4,)])
def test_is_the_distribution_of_pyro(particles):
    first, second = normals()
    ours, theirs = (kind(MASK, first, second) for kind in (Chosen, dist.MaskedMixture))
    value = torch.randn(*particles, 2, 3, 2)
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value))
    torch.testing.assert_close(ours.log_prob(value[..., :1, :]), theirs.log_prob(value[..., :1, :]))
    wide = ours.expand((5, 2, 3))
    assert type(wide) is Chosen and wide.batch_shape == (5, 2, 3)
    torch.testing.assert_close(wide.log_prob(value[..., None, :, :, :]).squeeze(-3)[..., 0, :, :], ours.log_prob(value))
    for draw in ("sample", "rsample"):
        torch.manual_seed(0)
        one = getattr(ours, draw)(particles)
        torch.manual_seed(0)
        assert torch.equal(one, getattr(theirs, draw)(particles))


def test_draws_know_the_fractions_that_they_are_made_of():
    first, second = sticks()
    law = Chosen(MASK, first, second)
    value = law.rsample()
    assert kept(value) is not None
    torch.manual_seed(1)
    value = law.sample()
    torch.manual_seed(1)
    of_second, of_first = second.sample(), first.sample()
    expected = torch.where(MASK, second.log_prob(of_second), first.log_prob(of_first))
    torch.testing.assert_close(law.log_prob(value), expected)
    rounded = law.log_prob(value.clone())
    assert not torch.allclose(rounded, expected, atol=0.1), "it matters"


def test_its_support_is_that_of_the_second():
    law = Chosen(MASK, dist.Normal(torch.zeros(2, 3), 1.0), dist.LogNormal(torch.zeros(2, 3), 1.0))
    assert law.support is dist.constraints.positive
    with pytest.raises(ValueError, match="support"):
        Chosen(MASK, dist.Normal(0.0, 1.0), dist.LogNormal(0.0, 1.0), validate_args=True).log_prob(-torch.ones(2, 3))
