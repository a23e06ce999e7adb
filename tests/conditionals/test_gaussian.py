# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Diagonal Gaussians of networks' outputs, with events of any shape."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from pyro_spvae.blocks import positive_scale
from pyro_spvae.conditionals import Gaussian
from pyro_spvae.distributions import LeafNormal
from pyro_spvae.nn import MLP, Joint


@pytest.mark.parametrize("scale", ["softplus", "precision", "exp", "logvar"])
@pytest.mark.parametrize("event", [(), (3,), (2, 3)])
def test_is_torchs_normal_of_the_networks_outputs(event, scale):
    block = Gaussian(MLP((4,), networks="shared"), scale, 0.1).bind(leaves=2, inputs=5, event_shape=event)
    h = torch.randn(6, 2, 5)
    loc, raw = block.network(h)
    assert loc.shape == (6, 2, math.prod(event))
    law, z = block(h), torch.randn(6, 2, *event)
    assert law.batch_shape == (6, 2) and law.event_shape == event and isinstance(law, LeafNormal) == (len(event) == 1)
    expected = Normal(loc, positive_scale(raw, scale, 0.1)).log_prob(z.reshape(loc.shape)).sum(-1)
    torch.testing.assert_close(law.log_prob(z), expected)
    assert law.has_rsample and law.sample().shape == z.shape


def test_what_follows_from_the_first_of_several_inputs_may_be_kept():
    block = Gaussian(Joint((4,))).bind(leaves=2, inputs=(5, 3), event_shape=(2,))
    x, z = torch.randn(6, 2, 5), torch.randn(7, 6, 2, 3)
    joined, whole = block.join(block.embed(x), z), block(x, z)
    torch.testing.assert_close(joined.loc, whole.loc)
    torch.testing.assert_close(joined.scale, whole.scale)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(nn.Linear(2, 2)), "network is a Linear; an instance of Network is needed"),
        (lambda: Gaussian(MLP(), "relu"), "scale is 'relu'; known are softplus, precision, exp, logvar"),
        (lambda: Gaussian(MLP(), min_scale=-1), "min_scale is -1; a number of at least 0 is needed"),
        (
            lambda: Gaussian(MLP()).bind(leaves=1, inputs=(2, 3), event_shape=(2,)),
            "a MLP takes one input, but there are 2 here; give a network of several inputs, such as Joint",
        ),
    ],
)
def test_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}$"):
        make()
