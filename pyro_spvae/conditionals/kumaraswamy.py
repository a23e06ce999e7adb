# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Kumaraswamy distributions of a network's outputs: posteriors of fractions."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae import distributions as dist
from pyro_spvae.blocks.block import Block
from pyro_spvae.nn.network import Network

_BOUND = 4.0  # parameters lie between exp(-4) and exp(4)


class Kumaraswamy(Block):
    r"""
    Independent Kumaraswamy distributions with parameters :math:`a(h), b(h)` by a network of the inputs: posteriors of
    the fractions of a stick (Nalisnick and Smith 2017).

    A network's output :math:`o` means :math:`\exp(4 \tanh(o / 4))`, between 0.018 and 55, and 1 for 0, where the
    distribution is uniform.

    :param Network network: from the inputs to both parameters; without one, the inputs are a network's outputs.
    """

    support = constraints.unit_interval

    def __init__(self, network: Network | None = None) -> None:
        super().__init__()
        if network is not None:
            checks.instance("network", network, Network)
        self.network = network

    def build(
        self, leaves: int, event_shape: tuple[int, ...], inputs: int | tuple[int, ...] = (), **shapes: Any
    ) -> None:
        """
        Binds the network.

        :param inputs: size of the input, or a tuple of sizes of several.
        :param tuple event_shape: number of fractions.
        :param shapes: ``input_shape``, handed on to the network.
        """
        (count,) = event_shape
        if self.network is not None:
            self.network.bind(leaves=leaves, inputs=inputs, outputs=(count, count), **shapes)

    def forward(self, *inputs: Tensor) -> TorchDistribution:
        """
        :param Tensor inputs: ``[.., leaf, in]`` each.
        :returns: batch ``[.., leaf]``, event ``[fraction]``.
        """
        a, b = positive(torch.stack(inputs if self.network is None else self.network(*inputs)))
        return dist.Kumaraswamy(a, b).to_event(1)


def positive(raw: Tensor) -> Tensor:
    """Parameters of outputs."""
    return (_BOUND * (raw / _BOUND).tanh()).exp()
