# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Directed priors of latent bits: independent ones, and groups given those before them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.blocks.latent_bits import centred, group_sizes
from pyro_spvae.distributions import BinaryHierarchy, FactorialBernoulli
from pyro_spvae.nn.mlp import MLP, check_layers
from pyro_spvae.priors.mixture_of_gaussians import vector
from pyro_spvae.priors.prior import Prior


class IndependentBits(Prior):
    """Independent bits with learned logits, from 0 at the start (Vahdat et al. 2018, section 4).

    Example::

        >>> from pyro_spvae.priors import IndependentBits
        >>> prior = IndependentBits().bind(leaves=2, event_shape=(3,))
        >>> prior().log_prob(torch.zeros(2, 3)).exp().detach()  # of 8 values, all alike at the start
        tensor([0.1250, 0.1250])
    """

    support: Any = constraints.boolean

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        """Makes the logits ``[leaf, D]``."""
        self.logits = nn.Parameter(torch.zeros(leaves, *vector("IndependentBits", event_shape)))

    def forward(self) -> FactorialBernoulli:
        self.sizes  # noqa: B018, says so if there are none
        return FactorialBernoulli(self.logits)


class BitChain(Prior):
    r"""
    Bits in groups of equal size, each given those before it, :math:`p(z_1) \prod_g p(z_g \mid z_{<g})`: the directed
    prior of two layers and more (Vahdat et al. 2018, Figure 2a). In training the groups before are smoothed.

    :param int groups: number of groups.
    :param hidden_dims: hidden layers of the networks between groups; linear if it is empty.
    :param str activation: of these.
    :param bool normalise: whether they have batch normalisation.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.priors import BitChain
        >>> prior = BitChain(groups=2).bind(leaves=1, event_shape=(4,)).eval()
        >>> values = torch.cartesian_prod(*[torch.arange(2.0)] * 4).unsqueeze(1)
        >>> round(prior().log_prob(values).exp().sum().item(), 4)
        1.0
    """

    support: Any = constraints.boolean

    def __init__(
        self,
        groups: int = 2,
        hidden_dims: tuple[int, ...] = (32, 32),
        activation: str = "tanh",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.groups = checks.positive_integer("groups", groups)
        self.normalise = check_layers(hidden_dims, activation, normalise)
        self.hidden_dims, self.activation = tuple(hidden_dims), activation
        self.networks: Any = nn.ModuleList(
            MLP(self.hidden_dims, activation, "shared", normalise=normalise) for _ in range(groups - 1)
        )

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        """Makes the logits of the first group, ``[leaf, size]``, and networks."""
        (size,) = vector("BitChain", event_shape)
        self.group_sizes = group_sizes(size, self.groups)
        each = self.group_sizes[0]
        self.logits = nn.Parameter(torch.zeros(leaves, each))
        for group, network in enumerate(list[Any](self.networks), 1):
            network.bind(leaves=leaves, inputs=group * each, outputs=(each,))

    def forward(self) -> BinaryHierarchy:
        self.sizes  # noqa: B018, says so if there are none
        networks = self.networks

        def logits_of(group: int, before: Tensor | None) -> Tensor:
            if before is None or not group:
                return self.logits
            logits: Tensor = networks[group - 1](centred(before))[0]
            return logits

        return BinaryHierarchy(self.group_sizes, logits_of)
