# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Residual blocks with squeeze-and-excitation and a leaf axis (He et al. 2016, Hu et al. 2018), those of DVAE++."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from pyro_spvae import checks
from pyro_spvae.nn.leaf_conv import NORMS, LeafBatchNorm, LeafConv, StatisticsUnmoved
from pyro_spvae.nn.mlp import ACTIVATIONS, IN_PLACE, Stack, check_activation

RESAMPLES = ("same", "down", "up")
_KERNEL = 3
_FEWEST = 4  # hidden units of squeeze-and-excitation
_GAIN = 0.1  # of the last convolution of a block at the start
_FROM_RESULT = ("relu", "elu")  # whose derivative follows from the result, so that the argument may be written over


class PreActivation(nn.Module):
    """
    Normalisation and the activation, what a convolution of a residual network sees.

    :param str norm: ``"batch"``, of each channel of each leaf; ``"none"``.
    :param str activation: as of :class:`~pyro_spvae.nn.MLP`, but for ``gated``.
    :raises ValueError: for an unknown one.
    """

    def __init__(self, leaves: int, channels: int, norm: str = "batch", activation: str = "elu") -> None:
        super().__init__()
        check_activation(activation)
        batch = checks.one_of("norm", norm, NORMS) == "batch"
        self.norm = LeafBatchNorm(leaves, channels) if batch else None
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """
        :param Tensor h: ``[N, leaf * channel, H, W]``.
        :returns: of the same shape.
        """
        if self.norm is None:
            return ACTIVATIONS[self.activation](h)
        over = self.activation in _FROM_RESULT or not torch.is_grad_enabled()
        return (IN_PLACE if over else ACTIVATIONS)[self.activation](self.norm(h))


class SqueezeExcitation(nn.Module):
    r"""
    Squeeze-and-excitation (Hu et al. 2018, section 3) of each leaf: channels weighted by what all positions show.

    .. math:: y_c = h_c\, s_c, \quad s = \mathrm{sigmoid}(W_2\, \mathrm{relu}(W_1 m + b_1) + b_2), \quad
        m_c = \frac{1}{HW} \sum_{ij} h_{cij}

    with ``channels // ratio`` hidden units, at least 4.

    :param int channels: of each leaf.
    :param int ratio: reduction of the hidden layer.
    :raises ValueError: if ``ratio`` is no positive integer.
    :ivar Stack gates: the two dense layers.
    """

    def __init__(self, leaves: int, channels: int, ratio: int = 16) -> None:
        super().__init__()
        hidden = max(channels // checks.positive_integer("ratio", ratio), _FEWEST)
        self.leaves = leaves
        self.gates = Stack(leaves, (channels, hidden), "relu", (channels,))

    def forward(self, h: Tensor, skip: Tensor | None = None) -> Tensor:
        """
        :param Tensor h: ``[N, leaf * channel, H, W]``.
        :param Tensor skip: what the weighted channels are added to, of the same shape.
        :returns: of the same shape.
        """
        rows, channels = h.size(0), h.size(1)
        means = h.mean((2, 3)).reshape(rows, self.leaves, channels // self.leaves).movedim(1, 0)  # [L, N, C]
        gates = torch.sigmoid(self.gates(means)[0]).movedim(0, 1).reshape(rows, channels, 1, 1)
        return h * gates if skip is None else torch.addcmul(skip, h, gates)


class ResidualBlock(nn.Module):
    r"""
    Pre-activation residual block (He et al. 2016, "Identity mappings") with squeeze-and-excitation, one per leaf.

    .. math:: y = S h + \mathrm{SE}(W_2 * \phi(\mathrm{norm}(W_1 * R\, \phi(\mathrm{norm}(h)))))

    with 3 x 3 convolutions. Going down, :math:`W_1` has stride 2, so that sides become ``ceil(side / 2)``; going up,
    :math:`R` is nearest upsampling. The skip path :math:`S` is the identity, or a 1 x 1 convolution (of stride 2, or
    upsampled) where channels or sides change. The last convolution starts small, so that a new block is near its skip
    path.

    :param int before: channels of each leaf's input.
    :param int after: of its output.
    :param str resample: ``"same"``, ``"down"`` or ``"up"``.
    :param str norm: ``"batch"``, see :class:`~pyro_spvae.nn.leaf_conv.LeafBatchNorm`; ``"none"``: biases instead.
    :param str activation: :math:`\phi`, as of :class:`~pyro_spvae.nn.MLP`, but for ``gated``.
    :param int ratio: of :class:`SqueezeExcitation`.
    :raises ValueError: for options out of range.

    Example::

        >>> import torch
        >>> from pyro_spvae.nn.residual import ResidualBlock
        >>> maps = torch.randn(8, 3 * 16, 4, 4)  # of three leaves
        >>> ResidualBlock(3, 16, 32, "up")(maps, size=(7, 7)).shape
        torch.Size([8, 96, 7, 7])
    """

    def __init__(
        self,
        leaves: int,
        before: int,
        after: int,
        resample: str = "same",
        norm: str = "batch",
        activation: str = "elu",
        ratio: int = 16,
    ) -> None:
        super().__init__()
        self.resample = checks.one_of("resample", resample, RESAMPLES)
        stride, padding = 1 + (resample == "down"), _KERNEL // 2
        self.first = PreActivation(leaves, before, norm, activation)
        self.widen = LeafConv(leaves, before, [after], _KERNEL, stride, padding, bias=norm == "none")
        self.second = PreActivation(leaves, after, norm, activation)
        self.refine = LeafConv(leaves, after, [after], _KERNEL, 1, padding, gain=_GAIN)
        self.excite = SqueezeExcitation(leaves, after, ratio)
        changes = before != after or resample != "same"
        self.skip = LeafConv(leaves, before, [after], 1, stride, bias=False) if changes else None

    def forward(self, h: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """
        :param Tensor h: ``[N, leaf * before, H, W]``.
        :param tuple size: height and width after upsampling; by default twice those before.
        :returns: ``[N, leaf * after, H', W']``.
        :raises ValueError: if a block that does not go up is given a size.
        """
        skip = h if self.skip is None else self.skip(h)
        h = self.first(h)
        if self.resample == "up":
            height, width = size or (2 * h.size(2), 2 * h.size(3))
            skip, h = (F.interpolate(each, (height, width)) for each in (skip, h))
        elif size is not None:
            raise ValueError(f"size is {size}; of the resample {self.resample!r} the sides follow, so leave it out")
        return self.excite(self.refine(self.second(self.widen(h))), skip)


class ResidualStack(nn.Module):
    """
    Several residual blocks, one after the other; the first changes channels and sides.

    :param int blocks: how many.
    :param bool checkpoint: gradient checkpointing (Chen et al. 2016): in training each block keeps its input alone, and
        is computed once more for its gradient. Values and gradients are the same, and running statistics move once.
    :param before: and the others as of :class:`ResidualBlock`.
    :raises ValueError: for options out of range.
    """

    def __init__(
        self,
        leaves: int,
        before: int,
        after: int,
        blocks: int = 1,
        resample: str = "same",
        norm: str = "batch",
        activation: str = "elu",
        ratio: int = 16,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint = checks.boolean("checkpoint", checkpoint)
        of_each = [(before, resample)] + (checks.positive_integer("blocks", blocks) - 1) * [(after, "same")]
        self.blocks = nn.ModuleList(
            ResidualBlock(leaves, channels, after, way, norm, activation, ratio) for channels, way in of_each
        )

    def forward(self, h: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """See :meth:`ResidualBlock.forward`."""
        again = self.checkpoint and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            if again:
                h = recomputed(
                    block, h, size, use_reentrant=False, preserve_rng_state=False, context_fn=_first_and_again
                )
            else:
                h = block(h, size)
            size = None
        return h


def _first_and_again() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Where a checkpointed block is computed first, and again for each gradient."""
    return nullcontext(), StatisticsUnmoved()
