# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Residual networks with squeeze-and-excitation and a leaf axis, in both directions (those of DVAE++)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.nn.leaf_conv import PixelHeads, side_by_side
from pyro_spvae.nn.mlp import Stack, apply, check_output_gain
from pyro_spvae.nn.pyramid import FeaturePyramid, ResidualNetwork, Shape
from pyro_spvae.nn.residual import PreActivation
from pyro_spvae.nn.upscale import Upscale


class SEResNet(ResidualNetwork):
    r"""
    Independent residual networks with squeeze-and-excitation (SE-ResNets, He et al. 2016, Hu et al. 2018) between
    patches and vectors, in the direction in which they are bound; the blocks of DVAE++ (Vahdat et al. 2018).

    An encoder (bound with the shape of its input): the last map of a :class:`~pyro_spvae.nn.pyramid.FeaturePyramid`,
    normalised and activated, a dense layer, and a linear head for each output. A decoder (bound with the shape of its
    output): an :class:`~pyro_spvae.nn.upscale.Upscale` from the input to the patch's sides, mirroring the encoder's
    scales, normalisation, the activation, and a 1 x 1 convolution for each output. A decoder that is bound with a
    ``map_shape`` starts from that map instead of a dense layer.

    Batch normalisation uses the statistics of the batch in training, over particles, data and positions, and the
    running ones in evaluation; in training mode a log-density therefore depends on the rest of the batch.

    :param channels: of each leaf's map at each scale, the finest first, scales beyond the last one having its channels;
        of one integer, that of the finest, which every next scale doubles.
    :param int levels: how often sides halve, ``ceil(side / 2)``.
    :param int blocks: residual blocks at each scale.
    :param int dense: units of the encoder's dense layer.
    :param str norm: ``"batch"``, of each channel of each leaf; ``"none"``.
    :param str activation: as of :class:`~pyro_spvae.nn.MLP`, but for ``gated``.
    :param int ratio: reduction of squeeze-and-excitation.
    :param float output_gain: factor of the outputs' initial weights.
    :param bool checkpoint: gradient checkpointing of every residual block: less memory, and more time.
    :raises ValueError: for options out of range, and when bound for leaves that are no rectangles of one shape, or such
        as cannot be halved so often.

    Example::

        >>> import torch
        >>> from pyro_spvae.nn import SEResNet
        >>> encoder = SEResNet(8, levels=2).bind(leaves=3, inputs=49, outputs=(5, 5), input_shape=(1, 7, 7))
        >>> mean, scale = encoder(torch.rand(10, 3, 49))
        >>> mean.shape
        torch.Size([10, 3, 5])
        >>> decoder = SEResNet(8, levels=2).bind(leaves=3, inputs=5, outputs=(49,), output_shape=(1, 7, 7))
        >>> decoder(mean)[0].shape
        torch.Size([10, 3, 49])
    """

    def __init__(
        self,
        channels: int | Sequence[int] = 32,
        levels: int = 2,
        blocks: int = 1,
        dense: int = 64,
        norm: str = "batch",
        activation: str = "elu",
        ratio: int = 16,
        output_gain: float = 0.1,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(channels, levels, blocks, norm, activation, ratio, checkpoint)
        self.dense = checks.positive_integer("dense", dense)
        check_output_gain(output_gain)
        self.output_gain = float(output_gain)

    def build(
        self,
        leaves: int,
        inputs: int,
        outputs: tuple[int, ...],
        input_shape: Shape | None = None,
        output_shape: Shape | None = None,
        map_shape: Shape | None = None,
    ) -> None:
        """
        Makes the parameters.

        :param tuple input_shape: ``(channels, height, width)`` of the patches that an encoder sees.
        :param tuple output_shape: likewise, that a decoder makes.
        :param tuple map_shape: likewise, of a decoder's input that is a map and lies flattened.
        """
        if input_shape is not None and output_shape is not None:
            raise ValueError("input_shape and output_shape are both given; the network 'se-resnet' takes one of them")
        if input_shape is not None:
            pyramid = FeaturePyramid(**self.scales).bind(leaves=leaves, inputs=inputs, input_shape=input_shape)
            dense = Stack(
                leaves, (math.prod(pyramid.shapes[-1]), self.dense), self.activation, outputs, self.output_gain
            )
            self.network: nn.Module = _Encoder(pyramid, self._last(leaves, pyramid.shapes[-1]), dense)
        elif output_shape is not None:
            shape = (self.channels_at(0), *output_shape[1:])
            heads = PixelHeads(leaves, shape[0], output_shape, outputs, "se-resnet", self.output_gain)
            upscale = Upscale(**self.scales).bind(leaves=leaves, inputs=inputs, output_shape=shape, map_shape=map_shape)
            self.network = _Decoder(upscale, self._last(leaves, shape), heads)
        else:
            raise ValueError("the network 'se-resnet' needs leaf regions that are equal rectangles")

    def _last(self, leaves: int, shape: Shape) -> PreActivation:
        return PreActivation(leaves, shape[0], self.norm, self.activation)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        outputs: tuple[Tensor, ...] = self.network(x)
        return outputs


class _Encoder(nn.Module):
    def __init__(self, pyramid: FeaturePyramid, last: PreActivation, dense: Stack) -> None:
        super().__init__()
        self.pyramid, self.last, self.dense = pyramid, last, dense

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        top = self.last(side_by_side(self.pyramid(x)[-1]))
        return apply([self.dense], top.reshape(*x.shape[:-1], math.prod(self.pyramid.shapes[-1])))


class _Decoder(nn.Module):
    def __init__(self, upscale: Upscale, last: PreActivation, heads: PixelHeads) -> None:
        super().__init__()
        self.upscale, self.last, self.heads = upscale, last, heads

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        heads = self.heads(self.last(side_by_side(self.upscale(x))))
        return tuple(head.reshape(*x.shape[:-1], head.size(-1)) for head in heads)
