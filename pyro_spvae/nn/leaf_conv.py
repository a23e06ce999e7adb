# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Convolutions of patches with a leaf axis, and the layers around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae.circuits.numerics import is_recorded

NORMS = ("batch", "none")
NORM_EPS = 1e-5  # added to variances, torch's default
_CHANNELS = 16  # of a group of a convolution below which the processor is not busy; measured
_SEEN_BEFORE = ContextVar("_SEEN_BEFORE", default=0)


class StatisticsUnmoved:
    """Within the block batch normalisation learns nothing of the batches that it sees; it may be entered repeatedly."""

    def __enter__(self) -> None:
        _SEEN_BEFORE.set(_SEEN_BEFORE.get() + 1)

    def __exit__(self, *error: object) -> None:
        _SEEN_BEFORE.set(_SEEN_BEFORE.get() - 1)


class LeafConv(nn.Module):
    """
    One convolution per leaf, ``[N, leaf * in, H, W] -> [N, leaf * out, H', W']``, or several of the same input, whose
    results are channels side by side.

    Kernels and biases start uniform within ``1 / sqrt(fan_in)``, as torch's own. All leaves are one grouped
    convolution; leaves of few channels share a group whose kernel is block diagonal: more arithmetic, but at a
    processor's pace.

    :param int before: channels of each leaf's input.
    :param Sequence[int] after: channels of what each convolution makes of it.
    :param Tensor mask: multiplies the kernels when they are used, ``[kernel, kernel]`` of 0 and 1.
    :param int fan_in: where the input is a part of what the layer sees.
    :param float gain: factor of kernels and biases at the start.
    :ivar ParameterList kernels: ``[leaf, after, before, kernel, kernel]`` of each; ``biases``: ``[leaf, after]``.
    """

    mask: Tensor | None

    def __init__(
        self,
        leaves: int,
        before: int,
        after: Sequence[int],
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        mask: Tensor | None = None,
        fan_in: int | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.leaves, self.stride, self.padding = leaves, stride, padding
        bound = gain / math.sqrt(before * kernel**2 if fan_in is None else fan_in)
        kernels = [torch.empty(leaves, channels, before, kernel, kernel) for channels in after]
        biases = [torch.empty(leaves, channels) for channels in after if bias]
        self.kernels, self.biases = (
            nn.ParameterList(nn.Parameter(each.uniform_(-bound, bound)) for each in some) for some in (kernels, biases)
        )
        self.register_buffer("mask", mask, persistent=False)
        most = math.ceil(_CHANNELS * stride / min(before, sum(after)))
        self.block = max(size for size in range(1, min(leaves, most) + 1) if leaves % size == 0)

    @property
    def kernel(self) -> Tensor:
        """The kernels as they are used, ``[leaf, out, in, kernel, kernel]``."""
        kernel = joined(self.kernels)
        return kernel if self.mask is None else kernel * self.mask

    @property
    def bias(self) -> Tensor | None:
        """The biases, ``[leaf, out]``, if there are any."""
        return joined(self.biases) if len(self.biases) else None

    def forward(self, x: Tensor) -> Tensor:
        """
        :param Tensor x: ``[N, leaf * in, H, W]``.
        :returns: ``[N, leaf * out, H', W']``.
        """
        bias, groups = self.bias, self.leaves // self.block
        kernel = block_diagonal(self.kernel, groups)
        return F.conv2d(x, kernel, None if bias is None else bias.flatten(), self.stride, self.padding, groups=groups)


class GatedLeafConv(LeafConv):
    r"""
    Gated convolution, :math:`(x * W + b) \odot \mathrm{sigmoid}(x * V + c)`; parameters as of :class:`LeafConv`, those
    of the values first.
    """

    def __init__(self, leaves: int, before: int, after: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(leaves, before, (after, after), kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        both = super().forward(x).unflatten(1, (self.leaves, -1))  # values and gates of a leaf side by side
        return F.glu(both, 2).flatten(1, 2)


class LeafBatchNorm(nn.Module):
    """
    Batch normalisation (Ioffe and Szegedy 2015) of each channel of each leaf, over rows and positions: in training by
    the statistics of the batch, else by their running means. Factors and momentum are torch's. A batch of one row
    without positions, such as the last of an epoch may be, has no statistics; it is normalised as in evaluation. Within
    :class:`StatisticsUnmoved` the running means stay.
    """

    #: each process knows its own rows'
    process_buffers = ("running_mean", "running_var")

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, leaves: int, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(leaves, channels))
        self.bias = nn.Parameter(torch.zeros(leaves, channels))
        self.register_buffer("running_mean", torch.zeros(leaves, channels))
        self.register_buffer("running_var", torch.ones(leaves, channels))

    def forward(self, h: Tensor) -> Tensor:
        """
        :param Tensor h: ``[N, leaf * channel, H, W]``, or without positions.
        """
        if self.training and is_recorded():
            return self._of_any_batch(h)
        # views of the buffers, so that what is learned of the batch stays in them
        statistics = self.running_mean.view(-1), self.running_var.view(-1)
        by_batch = self.training and h.numel() > self.weight.numel()
        if by_batch and _SEEN_BEFORE.get():
            statistics = statistics[0].clone(), statistics[1].clone()
        return F.batch_norm(h, *statistics, self.weight.flatten(), self.bias.flatten(), by_batch, eps=NORM_EPS)

    def _of_any_batch(self, h: Tensor) -> Tensor:
        """In training, for a program that is recorded once: whether the batch has statistics is known when it runs."""
        weight, bias = self.weight.flatten(), self.bias.flatten()
        running = self.running_mean.flatten().clone(), self.running_var.flatten().clone()
        learned = running[0].clone(), running[1].clone()
        by_batch = torch.batch_norm(h, weight, bias, *learned, True, 0.1, NORM_EPS, True)  # F's refuses to record one
        several = torch.ones_like(h[:, 0]).sum() > 1
        for buffer, new, old in zip((self.running_mean, self.running_var), learned, running, strict=True):
            buffer.copy_(torch.where(several, new, old).view_as(buffer))
        return torch.where(several, by_batch, F.batch_norm(h, *running, weight, bias, eps=NORM_EPS))


class PixelHeads(nn.Module):
    """
    Outputs of the size of patches or of several times it, by 1 x 1 convolution.

    :param int before: channels of each leaf's input.
    :param tuple shape: channels, height and width of a patch.
    :param tuple outputs: sizes of the outputs.
    :param str name: of the network, for messages.
    :param float gain: factor of kernels and biases at the start.
    :raises ValueError: if an output is no multiple of the patch.
    """

    def __init__(
        self, leaves: int, before: int, shape: tuple[int, ...], outputs: Sequence[int], name: str, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.shape = shape
        self.channels = head_channels(name, shape, outputs)
        self.conv = LeafConv(leaves, before, self.channels, 1, gain=gain)

    def forward(self, h: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor h: ``[N, leaf * in, H, W]``.
        :returns: one tensor ``[N, leaf, out]`` per output.
        """
        heads = self.conv(h).unflatten(1, (self.conv.leaves, -1)).split(self.channels, 2)
        return tuple(by_pixel(head, self.shape[0]) for head in heads)


def head_channels(name: str, shape: tuple[int, ...], outputs: Sequence[int]) -> list[int]:
    """
    Channels of outputs that are images of a patch's height and width.

    :param str name: of the network, for messages.
    :param tuple shape: channels, height and width of a patch.
    :param tuple outputs: sizes of the outputs.
    :raises ValueError: if an output is no multiple of the patch.
    """
    pixels = math.prod(shape)
    for size in outputs:
        if size % pixels:
            raise ValueError(
                f"an output of the network {name!r} has the size {size}; a multiple of the patch's {pixels} pixels "
                "is needed"
            )
    return [size // pixels * shape[0] for size in outputs]


def by_pixel(head: Tensor, channels: int) -> Tensor:
    """
    An output ``[.., channel * value, H, W]`` in which channel ``c * values + v`` is value ``v`` of the patch's channel
    ``c``, as ``[.., pixel * value]``.
    """
    return head.unflatten(-3, (channels, -1)).movedim(-3, -1).flatten(-4)


def joined(parameters: nn.ParameterList) -> Tensor:
    """Kernels ``[leaf, out, ..]`` or biases of several convolutions as one; one alone is itself."""
    return parameters[0] if len(parameters) == 1 else torch.cat(list(parameters), 1)


def images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Patches ``[.., leaf, pixel]`` as ``[N, leaf * channel, H, W]``, with one N for all batch dimensions."""
    channels, height, width = shape
    return x.reshape(math.prod(x.shape[:-2]), x.size(-2) * channels, height, width)


def side_by_side(maps: Tensor) -> Tensor:
    """Maps ``[.., leaf, channel, H, W]`` as ``[N, leaf * channel, H, W]``, with one N for all batch dimensions."""
    return images(maps.flatten(-3), tuple(maps.shape[-3:]))


def block_diagonal(kernel: Tensor, groups: int = 1) -> Tensor:
    """
    The kernel of one convolution for all leaves, each seeing its own channels.

    :param Tensor kernel: ``[leaf, first, second, height, width]``.
    :param int groups: of the convolution, into which leaves are put in equal numbers.
    :returns: ``[leaf * first, leaf / groups * second, height, width]``.
    """
    leaves, first, second, *sides = kernel.shape
    block = leaves // groups
    if block == 1:
        return kernel.reshape(leaves * first, second, *sides)
    whole = kernel.new_zeros(groups, block, first, block, second, *sides)
    place = torch.arange(block, device=kernel.device)
    whole[:, place, :, place] = kernel.unflatten(0, (groups, block)).transpose(0, 1)
    return whole.reshape(leaves * first, block * second, *sides)
