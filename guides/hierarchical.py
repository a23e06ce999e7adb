# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of two layers of latent variables, from the top down or from the bottom up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import Gaussian
from pyro_spvae.leaves import LeafGuide
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults

_ORDERS = {"top-down": ("z2", "z1"), "bottom-up": ("z1", "z2")}


class HierarchicalGuide(LeafGuide):
    r"""
    Guide of two layers ``"z2"`` and ``"z1"``, diagonal normals: ``order="top-down"``, :math:`q(z_2 \mid x)\,
    q(z_1 \mid x, z_2)` (Tomczak and Welling 2018, (14) to (16)), or ``"bottom-up"``, :math:`q(z_1 \mid x)\,
    q(z_2 \mid z_1)` (Burda et al. 2016), which has no :math:`q(z_2 \mid x)` for a VampPrior.

    :param Sequence[int] hidden_dims: hidden layers of the default networks, (32, 32); ``activation``: ``"softplus"``.
    :param str scale: of both, see :func:`pyro_spvae.blocks.positive_scale`; ``min_scale`` is the smallest.
    :param Network encoder: from features to mean and scale of the variable that is drawn first.
    :param Network second: from features and ``z2`` (top-down) or from ``z1`` to those of the other one.
    :raises ValueError: for options out of range, or if all networks and options of the default ones are given.

    Example::

        >>> guide = HierarchicalGuide(hidden_dims=(16,), order="bottom-up")
        >>> hvae = SPVAE(whole((8, 8)), units=1, leaf=HVAE(Bernoulli(), latent_dim=3, top_dim=2), guide=guide)
        >>> {name: means.shape for name, means in hvae.embed(hvae.sample(4)).latents.items()}
        {'z1': torch.Size([4, 1, 3]), 'z2': torch.Size([4, 1, 2])}
    """

    joint_networks = ("second",)

    def __init__(
        self, hidden_dims: Sequence[int] | None = None, activation: str | None = None, scale: str = "softplus",
        min_scale: float | None = None, order: str = "top-down", encoder: Network | None = None,
        second: Network | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.order = checks.one_of("order", order, tuple(_ORDERS))
        given, options = {"encoder": encoder, "second": second}, {"hidden_dims": hidden_dims, "activation": activation}
        networks = networks_or_defaults(given, options, self.joint_networks if order == "top-down" else (), True)
        self.first, self.second = (Gaussian(network, scale, min_scale) for network in networks)

    def build(self, leaves: int, pixels: int, latents: Mapping[str, Latent], patch: Any = None) -> None:
        """Binds the networks."""
        first, second = self.shape_of(latents, *_ORDERS[self.order])
        self.first.bind(leaves=leaves, inputs=pixels, event_shape=first, input_shape=patch)
        seen = {"inputs": (pixels, *first), "input_shape": patch} if self.order == "top-down" else {"inputs": first[0]}
        self.second.bind(leaves=leaves, event_shape=second, **seen)

    def encode(self, x: Tensor) -> Any:
        """The distribution that is drawn from first, and what the second network sees of the data."""
        return self.first(x), self.second.embed(x) if self.order == "top-down" else None

    def posterior(self, x: Tensor) -> Any:
        """The distribution of ``z2`` given features; refused bottom-up."""
        if self.order == "top-down":
            return self.first(x)
        raise ValueError("a VampPrior needs q(z2 | x), which the order bottom-up has not; choose order='top-down'")

    def forward(self, encoding: Any) -> None:
        """States both sites, in the order that they are drawn in."""
        (first, second), (law, embedded) = _ORDERS[self.order], encoding
        value = pyro.sample(first, law)
        pyro.sample(second, self.second(value) if embedded is None else self.second.join(embedded, value))
