# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Residual networks of one leaf in plain torch, computed with the parameters of a network with a leaf axis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from pyro_spvae.nn.leaf_conv import LeafBatchNorm


class Twin(nn.Module):
    """One residual block as the papers draw it."""

    def __init__(self, before, after, resample="same", norm="batch", activation="elu"):
        super().__init__()
        stride = 2 if resample == "down" else 1
        self.resample, self.phi = resample, getattr(F, activation)
        self.norm1, self.norm2 = (
            nn.BatchNorm2d(size) if norm == "batch" else nn.Identity() for size in (before, after)
        )
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=norm == "none")
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1)
        self.squeeze, self.expand = nn.Linear(after, 4), nn.Linear(4, after)
        same = before == after and resample == "same"
        self.skip = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, h, size=None):
        skip, h = h, self.phi(self.norm1(h))
        if self.resample == "up":
            skip, h = upsampled(skip, size), upsampled(h, size)
        h = self.conv2(self.phi(self.norm2(self.conv1(h))))
        gates = torch.sigmoid(self.expand(F.relu(self.squeeze(h.mean((2, 3))))))
        return self.skip(skip) + h * gates[:, :, None, None]


def upsampled(h, size=None):
    """The value at ``floor(i * from / to)`` for each position ``i``."""
    height, width = h.shape[2:]
    to_height, to_width = size or (2 * height, 2 * width)
    rows = torch.arange(to_height) * height // to_height
    columns = torch.arange(to_width) * width // to_width
    return h[:, :, rows[:, None], columns]


def conv(prefix, layer, leaf):
    return {f"{prefix}.weight": layer.kernels[0][leaf]} | (
        {f"{prefix}.bias": layer.biases[0][leaf]} if len(layer.biases) else {}
    )


def normed(prefix, pre, leaf, statistics):
    """Those of a norm; its running statistics as copies, under the same names."""
    if pre.norm is None:
        return {}
    for name in ("running_mean", "running_var"):
        statistics[f"{prefix}.{name}"] = getattr(pre.norm, name)[leaf].clone()
    return {f"{prefix}.weight": pre.norm.weight[leaf], f"{prefix}.bias": pre.norm.bias[leaf]}


def linear(prefix, stack, place, leaf):
    return {f"{prefix}.weight": stack.weights[place][leaf].T, f"{prefix}.bias": stack.biases[place][leaf, 0]}


def parameters_of(block, leaf, statistics):
    """What a twin is called with, for one leaf of a block."""
    found = normed("norm1", block.first, leaf, statistics) | normed("norm2", block.second, leaf, statistics)
    found |= conv("conv1", block.widen, leaf) | conv("conv2", block.refine, leaf)
    found |= linear("squeeze", block.excite.gates, 0, leaf) | linear("expand", block.excite.gates, 1, leaf)
    return found | (conv("skip", block.skip, leaf) if block.skip is not None else {})


def block_by_hand(block, leaf, h, size=None, moved=None):
    """
    What one leaf of a block makes of ``[N, channel, H, W]``, by a twin.

    :param dict moved: takes the running statistics after it, a pair of those of both norms by ``id(norm), leaf``.
    """
    after, before = block.widen.kernels[0].shape[1:3]
    norm = "none" if block.first.norm is None else "batch"
    twin = Twin(before, after, block.resample, norm, block.first.activation).train(block.training)
    statistics = {}
    parameters = parameters_of(block, leaf, statistics)
    h = functional_call(twin, parameters | statistics, (h, size))
    if moved is not None and norm == "batch":
        for place, each in (("norm1", block.first.norm), ("norm2", block.second.norm)):
            moved[id(each), leaf] = statistics[f"{place}.running_mean"], statistics[f"{place}.running_var"]
    return h


def stack_by_hand(stack, leaf, h, size=None, moved=None):
    """Likewise for all blocks of a stack."""
    for block in stack.blocks:
        h, size = block_by_hand(block, leaf, h, size, moved), None
    return h


def stem_by_hand(layer, leaf, h):
    return F.conv2d(h, layer.kernels[0][leaf], layer.biases[0][leaf] if len(layer.biases) else None, padding=1)


def last_by_hand(pre, leaf, h, moved=None):
    """Normalisation and the activation."""
    if pre.norm is not None:
        norm = pre.norm
        mean, var = norm.running_mean[leaf].clone(), norm.running_var[leaf].clone()
        h = F.batch_norm(h, mean, var, norm.weight[leaf], norm.bias[leaf], pre.training)
        if moved is not None:
            moved[id(norm), leaf] = mean, var
    return getattr(F, pre.activation)(h)


def pyramid_by_hand(pyramid, leaf, x, moved=None):
    """The maps ``[N, channel, H, W]`` that one leaf's pyramid makes of pixels ``[N, pixel]``."""
    maps = [stem_by_hand(pyramid.first, leaf, x.unflatten(-1, pyramid.input_shape))]
    for stack in pyramid.stacks:
        maps.append(stack_by_hand(stack, leaf, maps[-1], None, moved))
    return maps[1:]


def upscale_by_hand(upscale, leaf, x, sides, moved=None):
    """The map that one leaf's upsampling network makes of ``[N, in]``, through given sides."""
    if upscale.map_shape is None:
        stack = upscale.first
        (weight,), (bias,) = stack.weights, stack.biases
        h = F.linear(x, weight[leaf].T, bias[leaf, 0]).unflatten(-1, (-1, *sides[0]))
    else:
        h = stem_by_hand(upscale.first, leaf, x.unflatten(-1, upscale.map_shape))
    assert len(upscale.stacks) == max(len(sides) - 1, 1)
    for stack, size in zip(upscale.stacks, sides[1:] or [None], strict=True):
        h = stack_by_hand(stack, leaf, h, size, moved)
    return h


def assert_moved(module, moved):
    """Running statistics of every norm are those that the twins had after one step."""
    norms = [each for each in module.modules() if isinstance(each, LeafBatchNorm)]
    assert len(moved) == sum(len(norm.weight) for norm in norms)
    for norm in norms:
        for leaf in range(len(norm.weight)):
            mean, var = moved[id(norm), leaf]
            torch.testing.assert_close(norm.running_mean[leaf], mean)
            torch.testing.assert_close(norm.running_var[leaf], var)


def scattered(module):
    """Parameters and running statistics away from where they start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            buffer.uniform_(0.5, 1.5) if name.endswith("running_var") else buffer.normal_()
    return module
