# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent bits by networks: of what is given, and in groups also of the groups before."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.blocks.block import Block
from pyro_spvae.blocks.latent_bits import centred, group_sizes
from pyro_spvae.distributions import BinaryHierarchy, FactorialBernoulli, Shaped
from pyro_spvae.nn.joint import Joint
from pyro_spvae.nn.mlp import check_layers
from pyro_spvae.nn.network import Network


class Bits(Block):
    r"""
    :math:`\prod_g q(z_g \mid h, z_{<g})`: bits in groups of equal size, each factorial, with logits by a network of the
    input h and the groups before it (Rolfe 2017; Vahdat et al. 2018, Figure 2).

    :param Network network: from the input to the logits of the first group.
    :param int groups: number of groups.
    :param hidden_dims: of the networks of further groups, which are :class:`~pyro_spvae.nn.Joint` ones; linear if it is
        empty. Likewise ``activation`` and ``normalise``.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.conditionals import Bits
        >>> from pyro_spvae.nn import MLP
        >>> posterior = Bits(MLP(), groups=2).bind(leaves=3, inputs=10, event_shape=(4,))
        >>> bits = posterior(torch.rand(5, 3, 10)).sample()
        >>> bits.shape, bool(((bits == 0) | (bits == 1)).all())
        (torch.Size([5, 3, 4]), True)
    """

    support = constraints.boolean

    def __init__(
        self,
        network: Network,
        groups: int = 1,
        hidden_dims: tuple[int, ...] = (32, 32),
        activation: str = "tanh",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        checks.instance("network", network, Network)
        self.groups = checks.positive_integer("groups", groups)
        self.normalise = check_layers(hidden_dims, activation, normalise)
        self.network, self.hidden_dims, self.activation = network, tuple(hidden_dims), activation
        self.further: Any = nn.ModuleList(
            Joint(self.hidden_dims, activation, normalise=normalise) for _ in range(self.groups - 1)
        )

    def build(self, leaves: int, inputs: int, event_shape: tuple[int, ...], **shapes: Any) -> None:
        """
        Binds the networks.

        :param shapes: ``input_shape``, ``map_shape`` or ``output_shape``, handed on to the first group's network.
        """
        if not event_shape:
            raise ValueError("Bits states a vector or an array, but the latent variable has the shape []")
        self.group_sizes = group_sizes(math.prod(event_shape), self.groups)
        each = self.group_sizes[0]
        self.network.bind(leaves=leaves, inputs=inputs, outputs=(each,), **shapes)
        for group, network in enumerate(self.further, 1):
            network.bind(leaves=leaves, inputs=(inputs, group * each), outputs=(each,))

    def embed(self, h: Tensor) -> list[Any]:
        """What follows from the input alone: the first group's logits, and of each further network what it has seen."""
        return [self.network(h)[0], *(network.embed(h) for network in self.further)]

    def join(self, embedded: list[Any]) -> FactorialBernoulli | BinaryHierarchy | Shaped:
        """The distribution given what :meth:`embed` returned."""
        first, *others = embedded
        if not others:
            return self._shaped(FactorialBernoulli(first))

        def logits_of(group: int, before: Tensor | None) -> Tensor:
            if before is None or not group:
                return first
            logits: Tensor = self.further[group - 1].join(others[group - 1], centred(before))[0]
            return logits

        return self._shaped(BinaryHierarchy(self.group_sizes, logits_of, first=first))

    def _shaped(self, law: FactorialBernoulli | BinaryHierarchy) -> Any:
        event = self.sizes["event_shape"]
        return law if len(event) == 1 else Shaped(law, event)

    def forward(self, h: Tensor) -> FactorialBernoulli | BinaryHierarchy | Shaped:
        """
        :param Tensor h: ``[.., leaf, in]``.
        """
        return self.join(self.embed(h))
