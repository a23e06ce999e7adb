# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small networks of every kind, and comparisons of what they compute."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pyro_spvae.nn import MLP, Conv, GatedConv, Joint, MultiScale, PixelCNN, SEResNet

PATCH = (1, 3, 4)
ENCODER = {"inputs": 12, "outputs": (2, 3), "input_shape": PATCH}
DECODER = {"inputs": 4, "outputs": (24, 12), "output_shape": PATCH}
LAYERS = ((5, 3, 1, 1), (4, 3, 1, 1))

#: by name, how to make a network and the sizes to bind it with
NETWORKS = {
    "mlp": (lambda: MLP((5,)), {"inputs": 4, "outputs": (2, 3)}),
    "mlp, shared": (lambda: MLP((5, 17), networks="shared", skip=True), {"inputs": 4, "outputs": (2, 3)}),
    "mlp, gated": (lambda: MLP((17, 5), "gated", "shared", init="he"), {"inputs": 4, "outputs": (20, 3)}),
    "mlp, normalised": (lambda: MLP((5, 6), "tanh", "shared", normalise=True), {"inputs": 4, "outputs": (2, 3)}),
    "mlp, linear": (lambda: MLP((), networks="shared"), {"inputs": 4, "outputs": (2, 3)}),
    "joint": (lambda: Joint((5, 6)), {"inputs": (4, 2), "outputs": (2, 3)}),
    "joint, normalised": (lambda: Joint((5, 6), "relu", normalise=True), {"inputs": (4, 2), "outputs": (2, 3)}),
    "joint, linear": (lambda: Joint(()), {"inputs": (4, 2), "outputs": (2, 3)}),
    "joint, gated": (
        lambda: Joint((5, 6), "gated", first=GatedConv(LAYERS, heads=False)),
        ENCODER | {"inputs": (12, 2)},
    ),
    "conv, encoder": (lambda: Conv((4, 3), dense=5), ENCODER),
    "conv, decoder": (lambda: Conv((4, 3), 1), DECODER),
    "conv, decoder of stride 2": (lambda: Conv((4, 3)), DECODER),
    "gated-conv, encoder": (lambda: GatedConv(((5, 3, 1, 1), (6, 3, 2, 1))), ENCODER),
    "gated-conv, decoder": (lambda: GatedConv(LAYERS), DECODER),
    "gated-conv, decoder of two inputs": (lambda: GatedConv(LAYERS, 5), DECODER | {"inputs": (4, 2)}),
    "pixelcnn": (lambda: PixelCNN(5, 3), DECODER),
    "pixelcnn of two inputs": (lambda: PixelCNN(5, 2, norm="none", latents="masked"), DECODER | {"inputs": (4, 2)}),
    "multi-scale": (lambda: MultiScale(2, 5, 1, "bottom-right"), DECODER),
    "multi-scale of two inputs": (
        lambda: MultiScale(1, 3, 1, "bottom-right", norm="none", checkpoint=True),
        DECODER | {"inputs": (4, 2)},
    ),
    "se-resnet, encoder": (lambda: SEResNet((8, 6), dense=5, activation="silu", ratio=1), ENCODER),
    "se-resnet, decoder": (lambda: SEResNet(3, blocks=2, checkpoint=True), DECODER),
    "se-resnet, decoder of a map": (
        lambda: SEResNet(4, norm="none"),
        DECODER | {"inputs": 12, "map_shape": (3, 2, 2)},
    ),
}


def bound(name, leaves=3):
    make, sizes = NETWORKS[name]
    return make().bind(leaves=leaves, **sizes)


def inputs(name, *lead, leaves=3, device=None):
    """For each of the network's inputs ``[.., leaf, in]``; last, pixels for an autoregressive one."""
    make, sizes = NETWORKS[name]
    every = (sizes["inputs"],) if isinstance(sizes["inputs"], int) else sizes["inputs"]
    if make().autoregressive:
        every += (12,)
    return [torch.randn(*lead, leaves, size, device=device) for size in every]


def call(network, *inputs):
    if not network.autoregressive:
        return network(*inputs)
    *latents, x = inputs
    return network(network.context(*latents), x)


def redrawn(network):
    """Biases too, and heads as large as the rest."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_().mul_(0.5)
    return network


def by_hand(stack, x, activation="softplus"):
    """Linear layers of torch, one leaf after the other; gated ones as the VampPrior paper writes them."""
    function = getattr(F, activation, None) or getattr(torch, activation, None)
    leaves = []
    for leaf in range(x.size(-2)):
        h = x[..., leaf, :]
        layers = [(w[leaf].T, b[leaf, 0]) for w, b in zip(stack.weights, stack.biases, strict=True)]
        hidden, heads = layers[: len(layers) - stack.heads], layers[len(layers) - stack.heads :]
        if activation == "gated":
            for value, gate in zip(hidden[::2], hidden[1::2], strict=True):
                h = F.linear(h, *value) * torch.sigmoid(F.linear(h, *gate))
        else:
            for layer in hidden:
                h = function(F.linear(h, *layer))
        outputs = [F.linear(h, *head) for head in heads]
        for place, skip in enumerate(stack.skips):
            outputs[place] = outputs[place] + x[..., leaf, :] @ skip[leaf]
        leaves.append(outputs or [h])
    return [torch.stack(each, -2) for each in zip(*leaves, strict=True)]


def assert_same(actual, expected, tensors):
    """Outputs, and the gradients of one random combination of them to tensors."""
    torch.testing.assert_close(list(actual), list(expected))
    weights = [torch.randn_like(out) for out in expected]
    gradients = [
        torch.autograd.grad(sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True)), tensors)
        for outs in (actual, expected)
    ]
    torch.testing.assert_close(*gradients)
    assert all(gradient.any() for gradient in gradients[0])
