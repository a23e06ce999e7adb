# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The diagonal Gaussian of a network's outputs: posteriors q(z | x) and conditionals p(z1 | z2)."""

from __future__ import annotations

import math
from typing import Any

from pyro.distributions import Normal
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.blocks.block import Block
from pyro_spvae.blocks.scale import check_scale, positive_scale
from pyro_spvae.distributions import LeafNormal, Shaped
from pyro_spvae.nn.network import Network


class Gaussian(Block):
    r"""
    :math:`N(\mu(h), \mathrm{diag}\, \sigma(h)^2)` with mean and standard deviation by a network of the inputs.

    :param Network network: from the inputs to mean and unconstrained scale.
    :param str scale: how the standard deviation is parameterised, see :func:`pyro_spvae.blocks.positive_scale`.
    :param float min_scale: smallest standard deviation; 1e-3 by default for ``"softplus"``, else none.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.nn import MLP
        >>> posterior = Gaussian(MLP((16,)), scale="exp").bind(leaves=3, inputs=10, event_shape=(2,))
        >>> z = posterior(torch.rand(5, 3, 10)).rsample()
        >>> z.shape
        torch.Size([5, 3, 2])
    """

    support = constraints.real

    def __init__(self, network: Network, scale: str = "softplus", min_scale: float | None = None) -> None:
        super().__init__()
        checks.instance("network", network, Network)
        self.network = network
        self.scale = scale
        self.min_scale = check_scale(scale, min_scale)

    def build(self, leaves: int, inputs: int | tuple[int, ...], event_shape: tuple[int, ...], **shapes: Any) -> None:
        """
        Binds the network.

        :param inputs: size of the input, or a tuple of sizes of several.
        :param tuple event_shape: of a value.
        :param shapes: ``input_shape`` or ``output_shape``, handed on to the network.
        """
        size = math.prod(event_shape)
        self.network.bind(leaves=leaves, inputs=inputs, outputs=(size, size), **shapes)

    def embed(self, first: Tensor) -> Any:
        """What follows from the first input alone, for :meth:`join`."""
        return self.network.embed(first)

    def join(self, embedded: Any, *others: Tensor) -> LeafNormal | Shaped | Normal:
        """The distribution given what :meth:`embed` returned, and the other inputs."""
        return self._law(*self.network.join(embedded, *others))

    def forward(self, *inputs: Tensor) -> LeafNormal | Shaped | Normal:
        """
        :param Tensor inputs: ``[.., leaf, in]`` each.
        """
        return self._law(*self.network(*inputs))

    def _law(self, loc: Tensor, raw: Tensor) -> LeafNormal | Shaped | Normal:
        scale = positive_scale(raw, self.scale, self.min_scale)
        event = self.sizes["event_shape"]
        if not event:
            return Normal(loc.squeeze(-1), scale.squeeze(-1))
        law = LeafNormal(loc, scale)
        return law if len(event) == 1 else Shaped(law, event)
