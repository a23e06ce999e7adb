# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""PixelCNN decoders see what they may and nothing else, leaf by leaf, and pixel by pixel as all at once."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_spvae.nn import MLP, GatedConv, PixelCNN
from pyro_spvae.nn.gated_conv import gated_dense
from pyro_spvae.nn.leaf_conv import LeafBatchNorm

INPUTS = (3, 2)
# shape of a patch, leaves, options
CASES = {
    "one channel": ((1, 4, 3), 2, {"filters": 6, "layers": 3}),
    "colours": ((3, 3, 4), 2, {"filters": 5, "layers": 2}),
    "one layer": ((1, 3, 3), 3, {"filters": 7, "layers": 1}),
    "larger kernel": ((1, 5, 4), 1, {"filters": 6, "layers": 2, "kernel": 5}),
    "without normalisation": ((2, 3, 3), 2, {"filters": 6, "layers": 3, "norm": "none"}),
    "masked latent vectors": ((1, 4, 4), 2, {"filters": 6, "layers": 3, "latents": "masked"}),
    "as the paper": ((1, 3, 2), 1, {}),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def bound(shape, leaves, options, values=(1, 2), inputs=INPUTS):
    """A network in evaluation mode whose normalisations are not the identity, nor any bias zero."""
    outputs = tuple(math.prod(shape) * value for value in values)
    network = PixelCNN(**options).bind(leaves=leaves, inputs=inputs, outputs=outputs, output_shape=shape)
    for norm in network.norms:
        if isinstance(norm, LeafBatchNorm):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return network.eval()


def latents(lead, leaves):
    return [torch.randn(*lead, leaves, size) for size in INPUTS]


class TestCausality:
    """Jacobians of the outputs, which are piecewise linear: an entry that is not exactly zero is a dependence."""

    def test_outputs_depend_on_the_pixels_before_and_no_others(self, case):
        shape, leaves, options = case
        network = bound(shape, leaves, options)
        channels, pixels = shape[0], shape[1] * shape[2]
        depends = [torch.zeros(pixels, pixels) for _ in range(2)]
        for _ in range(5):  # ReLUs hide some dependences at one point
            context, x = network.context(*latents((), leaves)), torch.randn(leaves, math.prod(shape))
            jacobians = torch.autograd.functional.jacobian(lambda y, c=context: network(c, y), x)
            for jacobian, value, seen in zip(jacobians, (1, 2), depends, strict=True):
                assert not any(jacobian[i, :, j].any() for i in range(leaves) for j in range(leaves) if i != j)
                own = jacobian.diagonal(dim1=0, dim2=2).reshape(channels, pixels, value, channels, pixels, leaves)
                seen += own.abs().sum((0, 2, 3, 5))
        reach = (options.get("kernel", 3) // 2) * options.get("layers", 8)
        row, column = torch.arange(pixels) // shape[2], torch.arange(pixels) % shape[2]
        for seen in depends:
            assert not seen.triu().any()  # a pixel sees neither itself nor any after it
            near = (row[:, None] - row <= reach) & ((column[:, None] - column).abs() <= reach)
            # a row above is seen one column further for each layer, the present row to its left
            beside = (row[:, None] == row) & (column[:, None] > column) & near
            above = (row[:, None] == row + 1) & ((column[:, None] - column).abs() <= options.get("kernel", 3) // 2)
            assert (seen[beside] != 0).all() and (seen[above] != 0).all()

    @pytest.mark.parametrize("form", ["all", "masked"])
    def test_latent_vectors_reach_all_pixels_unless_masked(self, form):
        shape = (1, 3, 3)
        network = bound(shape, 2, {"filters": 8, "layers": 2, "latents": form})
        x = torch.randn(2, 9)
        for place in range(2):
            reached = torch.zeros(9)
            for _ in range(5):
                codes = latents((), 2)

                def outputs(z, place=place, codes=codes):
                    return network(network.context(*(z if i == place else code for i, code in enumerate(codes))), x)[0]

                jacobian = torch.autograd.functional.jacobian(outputs, codes[place])  # [L, P, L, d]
                assert not jacobian[0, :, 1].any() and not jacobian[1, :, 0].any()
                reached += jacobian.abs().sum((0, 2, 3))
            assert (reached[1:] > 0).all()
            assert (reached[0] > 0) == (form == "all")


class Twin(nn.Module):
    """One leaf as modules of torch, with the masks on the weights themselves."""

    def __init__(self, network, leaf):
        super().__init__()
        self.shape = network.shape
        filters, kernel = network.filters, network.kernel
        before = torch.ones(kernel, kernel)
        before[kernel // 2, kernel // 2 :] = 0
        before[kernel // 2 + 1 :] = 0
        present = before.clone()
        present[kernel // 2, kernel // 2] = 1
        maps = network.of_maps.kernel[leaf] * (before if network.latents == "masked" else 1)
        first = torch.cat([network.of_pixels.kernel[leaf] * before, maps], 1)
        self.kernels = [first, *(layer.kernel[leaf] * present for layer in network.convolutions)]
        layers = [network.of_pixels, *network.convolutions]
        self.biases = [None if layer.bias is None else layer.bias[leaf] for layer in layers]
        self.dense = [
            [(w[leaf], b[leaf]) for w, b in zip(stack.weights, stack.biases, strict=True)] for stack in network.maps
        ]
        self.head = network.heads.conv.kernel[leaf], network.heads.conv.bias[leaf]
        self.norms = nn.ModuleList()
        for norm in network.norms:
            twin = nn.Identity()
            if isinstance(norm, LeafBatchNorm):
                twin = nn.BatchNorm2d(filters)
                twin.load_state_dict({key: value[leaf] for key, value in norm.state_dict().items()}, strict=False)
            self.norms.append(twin)
        self.train(network.training)

    def forward(self, codes, x):
        """Codes ``[N, latent]``, features ``[N, pixel]`` to ``[N, head channel, H, W]``."""
        maps = []
        for z, layers in zip(codes, self.dense, strict=True):
            value, gate = (z @ weight + bias for weight, bias in layers)
            maps.append((value * torch.sigmoid(gate)).reshape(-1, *self.shape))
        h = torch.cat([x.reshape(-1, *self.shape), *maps], 1)
        for kernel, bias, norm in zip(self.kernels, self.biases, self.norms, strict=True):
            h = norm(F.conv2d(h, kernel, bias, padding=kernel.size(-1) // 2)).relu()
        return F.conv2d(h, *self.head)


@pytest.mark.parametrize("training", [True, False])
def test_equals_one_torch_network_per_leaf(case, training):
    shape, leaves, options = case
    network = bound(shape, leaves, options).train(training)
    twins = [Twin(network, leaf) for leaf in range(leaves)]
    codes, x = latents((3, 4), leaves), torch.randn(4, leaves, math.prod(shape))
    each = []
    for leaf, twin in enumerate(twins):
        rows = [z[:, :, leaf].flatten(0, 1) for z in codes]
        heads = twin(rows, x[:, leaf].expand(3, -1, -1).flatten(0, 1)).split([shape[0], 2 * shape[0]], 1)
        parts = [head.reshape(3, 4, shape[0], -1, *shape[1:]).movedim(3, -1).flatten(2) for head in heads]
        each.append(parts)
    expected = [torch.stack(parts, 2) for parts in zip(*each, strict=True)]
    torch.testing.assert_close(list(network(network.context(*codes), x)), expected)
    for place, norm in enumerate(network.norms):  # what was learned of the batch
        for name, value in norm.named_buffers():
            torch.testing.assert_close(value, torch.stack([twin.norms[place].get_buffer(name) for twin in twins]))


def test_batch_dimensions_broadcast(case):
    shape, leaves, options = case
    network = bound(shape, leaves, options)
    first, second = torch.randn(3, 1, leaves, 3), torch.randn(4, leaves, 2)
    context = network.context(first, second)
    assert context.shape == (3, 4, leaves, 2 * shape[0], *shape[1:])
    x = torch.randn(4, leaves, math.prod(shape))
    torch.testing.assert_close(network(context, x), network(context, x.expand(3, 4, -1, -1)))
    for one in (x[:, :1], x[0, 0]):  # the same patch for all leaves, and for all data
        torch.testing.assert_close(network(context, one), network(context, one.expand(4, leaves, -1)))
    one = network.context(first[0, 0], second[0])
    assert [out.shape[:-1] for out in network(one, x)] == [(4, leaves)] * 2


def test_steps_equal_all_pixels_at_once(case):
    shape, leaves, options = case
    network = bound(shape, leaves, options)
    context, x = network.context(*latents((4,), leaves)), torch.randn(4, leaves, math.prod(shape))
    expected = [out.unflatten(-1, (math.prod(shape), -1)) for out in network(context, x)]
    network.train()  # steps use running statistics whatever the mode
    steps, seen = network.steps(context), []
    for place in steps:
        seen += place.tolist()
        for output, whole in zip(steps.outputs(), expected, strict=True):
            torch.testing.assert_close(output.unflatten(-1, (shape[0], -1)), whole[..., place, :])
        steps.put(x[..., place])
    assert sorted(seen) == list(range(math.prod(shape)))


def test_steps_compute_every_layer_once_at_every_pixel(monkeypatch):
    shape, leaves = (1, 4, 5), 2
    network = bound(shape, leaves, {"filters": 6, "layers": 3})
    rows = []
    product = torch.baddbmm

    def counted(bias, h, weight):
        rows.append(h.shape)
        return product(bias, h, weight)

    steps = network.steps(network.context(*latents((2,), leaves)))
    monkeypatch.setattr(torch, "baddbmm", counted)
    for place in steps:
        steps.outputs()
        steps.put(torch.randn(2, leaves, len(place)))
    # a product for each of three layers and the heads at each pixel, over the positions that masks leave
    assert len(rows) == 4 * 20
    assert [size[-1] for size in rows[:4]] == [4, 5 * 6, 5 * 6, 6]


class TestSizesOfThePaper:
    """Numbers of parameters of the VampPrior paper's convHVAE, 28 x 28 pixels and two times 40 latent variables."""

    def decoder(self):
        return PixelCNN().bind(leaves=1, inputs=(40, 40), outputs=(784,), output_shape=(1, 28, 28))

    def test_decoder(self):
        expected = 2 * 2 * (40 * 784 + 784) + 3 * 64 * 9 + 7 * 64 * 64 * 9 + 8 * 2 * 64 + 65
        assert sum(p.numel() for p in self.decoder().parameters()) == expected

    def test_whole_model(self):
        shape = {"leaves": 1, "inputs": 784, "outputs": (40, 40), "input_shape": (1, 28, 28)}
        modules = [
            self.decoder(),
            GatedConv("large").bind(**shape),  # q(z2 | x)
            GatedConv("small", heads=False).bind(**shape),  # q(z1 | x, z2): patches, z2, and both
            gated_dense(1, 40, 294),
            MLP((300,), "gated", "shared").bind(leaves=1, inputs=588, outputs=(40, 40)),
            MLP((300, 300), "gated", "shared").bind(leaves=1, inputs=40, outputs=(40, 40)),  # p(z1 | z2)
        ]
        assert sum(p.numel() for module in modules for p in module.parameters()) == 1_385_821


def test_initial_kernels_have_the_fan_of_pixels_and_maps_together():
    network = PixelCNN(40, 2).bind(leaves=20, inputs=(2, 2), outputs=(18,), output_shape=(2, 3, 3))
    for layer, fan in ((network.of_pixels, 6 * 9), (network.of_maps, 6 * 9), (network.convolutions[0], 40 * 9)):
        assert 0.99 / math.sqrt(fan) < layer.kernel.abs().max() <= 1 / math.sqrt(fan)


def test_masks_are_no_part_of_the_state_and_leave_parameters_alone():
    network = bound((1, 3, 3), 1, {"filters": 4, "layers": 2})
    (kernel,) = network.convolutions[0].kernels
    before = kernel.detach().clone()
    network(network.context(*latents((2,), 1)), torch.randn(2, 1, 9))[0].sum().backward()
    assert torch.equal(kernel, before) and (before[..., 2, :] != 0).all()
    assert not kernel.grad[..., 2, :].any() and kernel.grad[..., 1, 1].any()
    assert not any("mask" in name for name in network.state_dict())
