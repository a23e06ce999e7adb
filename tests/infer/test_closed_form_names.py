# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Messages about divergences name the distributions that programs state, also where programs take turns."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_spvae.distributions.joined import SomeLeaves, as_given
from pyro_spvae.infer.closed_form import ClosedSites


def test_distributions_of_some_leaves_are_named_by_what_they_are():
    index = torch.tensor([0, 2])
    guide, model = dist.Gamma(torch.ones(2), torch.ones(2)), dist.Normal(torch.zeros(2), torch.ones(2))
    inner = SomeLeaves(SomeLeaves(guide, index, 3), torch.tensor([0, 1, 3]), 4)
    assert type(as_given(inner)) is dist.Gamma and as_given(model) is model
    with pytest.raises(ValueError, match="^kl names the site 'z', but no divergence of a Gamma from a Normal is known"):
        ClosedSites("z").divergence("z", SomeLeaves(guide, index, 3), SomeLeaves(model, index, 3), torch.ones(3))
