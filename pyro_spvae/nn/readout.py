# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a residual network's map says of each position."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.nn.leaf_conv import NORMS, PixelHeads, images
from pyro_spvae.nn.mlp import check_activation, check_output_gain
from pyro_spvae.nn.network import Network
from pyro_spvae.nn.residual import PreActivation


class Readout(Network):
    r"""
    Outputs at each position of a map, :math:`W * \phi(\mathrm{norm}(h)) + b` with a 1 x 1 convolution: how the sum of
    residual blocks is read.

    It is bound with the ``map_shape`` of its input, which lies flattened, and the ``output_shape`` ``[C, H, W]`` of
    its outputs, on the same grid.

    :param str norm: as of :class:`~pyro_spvae.nn.residual.ResidualBlock`, like ``activation``.
    :param float output_gain: factor of the outputs' initial weights.
    :raises ValueError: for options out of range, and when bound for maps of other sides than its input's.
    """

    def __init__(self, norm: str = "batch", activation: str = "elu", output_gain: float = 0.1) -> None:
        super().__init__()
        check_activation(activation)
        check_output_gain(output_gain)
        self.norm = checks.one_of("norm", norm, NORMS)
        self.activation = activation
        self.output_gain = float(output_gain)

    def build(
        self,
        leaves: int,
        inputs: int,
        outputs: tuple[int, ...],
        output_shape: Any = None,
        map_shape: Any = None,
    ) -> None:
        """
        Makes the parameters.

        :param tuple output_shape: channels, height and width of the outputs.
        :param tuple map_shape: of the input, which lies flattened.
        """
        if map_shape is None or output_shape is None or map_shape[1:] != output_shape[1:]:
            raise ValueError(
                f"a Readout reads maps at their own positions; map_shape is {map_shape} and output_shape "
                f"{output_shape}, of which height and width must agree"
            )
        if inputs != math.prod(map_shape):
            raise ValueError(f"inputs is {inputs}; the values of the map_shape {map_shape} are needed")
        self.map_shape = map_shape
        self.first = PreActivation(leaves, map_shape[0], self.norm, self.activation)
        self.heads = PixelHeads(leaves, map_shape[0], output_shape, outputs, "readout", self.output_gain)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        heads = self.heads(self.first(images(x, self.map_shape)))
        return tuple(head.reshape(*x.shape[:-1], head.size(-1)) for head in heads)
