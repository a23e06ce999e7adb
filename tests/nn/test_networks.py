# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What holds of every network: a network per leaf, a parameter per head and gate, and no look at values."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

from pyro_spvae import nn as networks
from pyro_spvae import poon_domingos, random_binary_tree
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import Conv, GatedConv, Network, PixelCNN
from pyro_spvae.registry import build, describe
from tests.nn.cases import NETWORKS, assert_same, bound, call, inputs, redrawn

LEAVES = 3


@pytest.fixture(params=NETWORKS)
def name(request):
    return request.param


def test_every_network_is_here():
    public = {value for value in vars(networks).values() if inspect.isclass(value)}
    assert {type(make()) for make, _ in NETWORKS.values()} == public - {Network}


@pytest.mark.parametrize("training", [True, False])
def test_runs_on_the_meta_device(name, training):
    """Tensors without content, on which a look at a value is an error: nothing waits for a GPU."""
    with torch.device("meta"):
        network = bound(name).train(training)
        outputs = call(network, *inputs(name, 2, 5))
    sum(output.sum() for output in outputs).backward()
    sizes = network.sizes["outputs"]
    assert [output.shape for output in outputs] == [(2, 5, LEAVES, size) for size in sizes]
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in network.parameters())


def test_a_stack_is_each_leaf_alone(name):
    network, x = redrawn(bound(name)).eval(), inputs(name, 4)
    outputs = call(network, *x)
    for leaf in range(LEAVES):
        alone = bound(name, leaves=1).eval()
        alone.load_state_dict({key: value[leaf : leaf + 1] for key, value in network.state_dict().items()})
        expected = call(alone, *(each[:, leaf : leaf + 1] for each in x))
        torch.testing.assert_close([out[:, leaf : leaf + 1] for out in outputs], list(expected))


def test_leaves_do_not_see_each_other(name):
    network, x = redrawn(bound(name)), [each.requires_grad_() for each in inputs(name, 4)]
    of_second = sum(output[:, 1].sum() for output in call(network, *x))
    gradients = torch.autograd.grad(of_second, [*network.parameters(), *x])
    for gradient in [*gradients[: -len(x)], *(each.movedim(1, 0) for each in gradients[-len(x) :])]:
        assert [bool(of_leaf.any()) for of_leaf in gradient] == [False, True, False]


def test_a_parameter_is_of_one_head_or_of_all(name):
    """No parameter holds two heads side by side: entries that one output depends on would not matter to the other."""
    network = redrawn(bound(name))
    parameters = list(network.parameters())
    first, second = (
        [g != 0 for g in torch.autograd.grad(output.sum(), parameters, retain_graph=True, materialize_grads=True)]
        for output in call(network, *inputs(name, 4))
    )
    shared = [bool(one.any() and other.any()) for one, other in zip(first, second, strict=True)]
    assert sum(bool(one.any()) for one in first) >= sum(shared) + 2  # a weight and a bias of its own
    assert sum(bool(one.any()) for one in second) >= sum(shared) + 2
    for one, other, both in zip(first, second, shared, strict=True):
        assert not both or torch.equal(one, other)


@pytest.mark.parametrize("lead", [(), (2, 3), (0,)])
def test_batch_dimensions_are_rows(name, lead):
    network, x = redrawn(bound(name)).eval(), inputs(name, *lead)
    flat = call(network, *(each.reshape(torch.Size(lead).numel(), *each.shape[-2:]) for each in x))
    outputs = call(network, *x)
    torch.testing.assert_close(list(outputs), [out.reshape(*lead, *out.shape[-2:]) for out in flat])


def test_batch_dimensions_of_inputs_broadcast(name):
    network, x = redrawn(bound(name)).eval(), inputs(name, 2, 5)
    narrow = [each if i else each[:1] for i, each in enumerate(x)]
    wide = [each.expand(2, 5, *each.shape[-2:]) for each in narrow]
    if len(x) > 1:
        assert_same(call(network, *narrow), call(network, *wide), list(network.parameters()))


def test_a_description_makes_the_same_network(name):
    network = NETWORKS[name][0]()
    again = build("network", describe(network))
    assert type(again) is type(network) and describe(again) == describe(network)


@pytest.mark.parametrize(("network", "name"), [(Conv, "conv"), (GatedConv, "gated-conv"), (PixelCNN, "pixelcnn")])
@pytest.mark.parametrize(
    "regions", [poon_domingos((6, 5), 3), random_binary_tree((4, 4), 2, 2, seed=1), poon_domingos((8,), 4)]
)
def test_convolutions_refuse_leaves_that_are_no_equal_rectangles(network, name, regions):
    message = f"^the network '{name}' needs leaf regions that are equal rectangles$"
    with pytest.raises(ValueError, match=message):
        SPVAE(regions, leaf=VAE(Bernoulli(), decoder=network()), guide=NormalGuide())
    if network is not PixelCNN:
        with pytest.raises(ValueError, match=message):
            SPVAE(regions, leaf=VAE(Bernoulli()), guide=NormalGuide(encoder=network()))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Network().bind(leaves=1, inputs=1, outputs=(1,)), NotImplementedError, "Network must define build("),
        (lambda: Network()(torch.zeros(1, 1)), NotImplementedError, "Network must define forward("),
        (lambda: bound("mlp").context(torch.zeros(1, 1)), NotImplementedError, "MLP is not autoregressive, and has no"),
        (
            lambda: networks.MLP().bind(leaves=1, inputs=(2, 3), outputs=(1,)),
            ValueError,
            "a MLP takes one input, but there are 2 here; give a network of several inputs, such as Joint",
        ),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        make()
