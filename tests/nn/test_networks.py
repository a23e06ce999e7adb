# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What holds of every network: what one of a user's own inherits, and a parameter per head and gate."""

from __future__ import annotations

import inspect

import pytest
import torch

from pyro_spvae import nn as networks
from pyro_spvae import testing
from pyro_spvae.nn import Network
from tests.nn.cases import NETWORKS, assert_same, bound, call, inputs, redrawn

LEAVES = 3


class TestNetworks(testing.NetworkTests):
    @pytest.fixture(autouse=True, params=NETWORKS)
    def _network(self, request):
        self.name = request.param
        self.make, sizes = NETWORKS[self.name]
        self.sizes = {"leaves": LEAVES} | sizes

    def bound(self, leaves=None):
        """An autoregressive one is called with latent values and pixels."""
        part = super().bound(leaves)
        if part.autoregressive:
            forward = part.forward
            part.forward = lambda *inputs: forward(part.context(*inputs[:-1]), inputs[-1])
        return part

    def inputs(self, *lead, leaves=LEAVES):
        return tuple(inputs(self.name, *lead, leaves=leaves))

    @pytest.mark.parametrize("training", [True, False])
    def test_runs_on_the_meta_device(self, training):
        """It is made there, too."""
        with torch.device("meta"):
            part = self.bound()
        super().test_runs_on_the_meta_device(part.train(training))


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def test_every_network_is_here():
    public = {value for value in vars(networks).values() if inspect.isclass(value)}
    assert {type(make()) for make, _ in NETWORKS.values()} == public - {Network}


def test_a_parameter_is_of_one_head_or_of_all(name):
    """No parameter holds two heads side by side: entries that one output depends on would not matter to the other."""
    network = redrawn(bound(name))
    parameters = list(network.parameters())
    first, second = (
        [
            g.abs() > 1e-12  # a sum that a normalisation fixes has gradients of rounding errors
            for g in torch.autograd.grad(output.sum(), parameters, retain_graph=True, materialize_grads=True)
        ]
        for output in call(network, *inputs(name, 4))
    )
    shared = [bool(one.any() and other.any()) for one, other in zip(first, second, strict=True)]
    assert sum(bool(one.any()) for one in first) >= sum(shared) + 2  # a weight and a bias of its own
    assert sum(bool(one.any()) for one in second) >= sum(shared) + 2
    for one, other, both in zip(first, second, shared, strict=True):
        assert not both or torch.equal(one, other)


@pytest.mark.parametrize("lead", [(), (0,)])
def test_batch_dimensions_are_rows(name, lead):
    network, x = redrawn(bound(name)).eval(), inputs(name, *lead)
    flat = call(network, *(each.reshape(torch.Size(lead).numel(), *each.shape[-2:]) for each in x))
    outputs = call(network, *x)
    torch.testing.assert_close(list(outputs), [out.reshape(*lead, *out.shape[-2:]) for out in flat])


@pytest.mark.parametrize("name", [name for name in NETWORKS if len(inputs(name)) > 1])
def test_batch_dimensions_of_inputs_broadcast(name):
    network, x = redrawn(bound(name)).eval(), inputs(name, 2, 5)
    narrow = [each if i else each[:1] for i, each in enumerate(x)]
    wide = [each.expand(2, 5, *each.shape[-2:]) for each in narrow]
    assert_same(call(network, *narrow), call(network, *wide), list(network.parameters()))
