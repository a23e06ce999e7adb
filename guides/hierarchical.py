# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of two layers of latent variables, from the top down or from the bottom up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides.leaf import LeafGuide
from pyro_spvae.nn import Joint, Network, memoized, positive_scale
from pyro_spvae.nn.mlp import network_or_mlp
from pyro_spvae.nn.part import check_part
from pyro_spvae.nn.scale import check_scale

_ORDERS = ("top-down", "bottom-up")


class HierarchicalGuide(LeafGuide):
    r"""
    The guide of :class:`~pyro_spvae.models.HVAE`. Sites: ``"z2"`` with event ``[top]``, ``"z1"`` with event
    ``[latent]``, all normal with diagonal covariances.

    ``order="top-down"``: :math:`q(z_2 \mid x)\, q(z_1 \mid x, z_2)` (Tomczak and Welling 2018, eqs. (14) to (16)), of
    whose :math:`q(z_2 \mid x)` a :class:`~pyro_spvae.priors.VampPrior` can be made. ``order="bottom-up"``:
    :math:`q(z_1 \mid x)\, q(z_2 \mid z_1)` (Burda et al. 2016).

    :param Sequence[int] hidden_dims: hidden layers of the default networks, (32, 32).
    :param str activation: activation of the default networks, ``"softplus"``.
    :param str scale: how standard deviations are parameterised, see :func:`pyro_spvae.nn.positive_scale`.
    :param float min_scale: smallest standard deviation; 1e-3 by default for ``"softplus"``, else none.
    :param str order: see above.
    :param Network encoder: from features to mean and scale of ``z2`` (top-down) or ``z1`` (bottom-up); by default an
        :class:`~pyro_spvae.nn.MLP` with a shared trunk.
    :param Network second: from features and ``z2`` to mean and scale of ``z1`` (top-down), by default a
        :class:`~pyro_spvae.nn.Joint` network; from ``z1`` to those of ``z2`` (bottom-up), by default an MLP.
    :raises ValueError: for options out of range, or if all networks and options of the default ones are given.
    """

    shorthands = ("hidden_dims", "activation")
    #: networks of several inputs
    joint = ("second",)

    def __init__(
        self,
        hidden_dims: Sequence[int] | None = None,
        activation: str | None = None,
        scale: str = "softplus",
        min_scale: float | None = None,
        order: str = "top-down",
        encoder: Network | None = None,
        second: Network | None = None,
    ) -> None:
        super().__init__()
        if order not in _ORDERS:
            raise ValueError(f"order is {order!r}; known are {', '.join(_ORDERS)}")
        if encoder is not None and second is not None and (hidden_dims, activation) != (None, None):
            raise ValueError("encoder and second are given, so leave out hidden_dims and activation")
        self.order = order
        self.scale = scale
        self.min_scale = check_scale(scale, min_scale)
        self.encoder = (
            network_or_mlp("encoder", None, hidden_dims, activation, "shared") if encoder is None else encoder
        )
        if second is None and order == "bottom-up":
            second = network_or_mlp("second", None, hidden_dims, activation, "shared")
        elif second is None:
            given = {"hidden_dims": hidden_dims, "activation": activation}
            second = Joint(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
        check_part("encoder", self.encoder, Network)
        check_part("second", second, Network)
        if order == "top-down" and not isinstance(second, Joint):
            raise ValueError(
                f"second is a {type(second).__name__}; a Joint network, of features and z2, is needed "
                "in the order top-down"
            )
        self.second = second

    def build(
        self,
        leaves: int,
        pixels: int,
        latent_dim: int,
        top_dim: int | None = None,
        patch: tuple[int, ...] | None = None,
    ) -> None:
        """Binds the networks."""
        if top_dim is None:
            raise ValueError("a HierarchicalGuide needs a leaf with two latent layers, such as HVAE, but it has one")
        top, bottom = (top_dim, top_dim), (latent_dim, latent_dim)
        encoder: dict[str, Any] = {"leaves": leaves, "inputs": pixels, "input_shape": patch}
        if self.order == "top-down":
            self.encoder.bind(**encoder, outputs=top)
            self.second.bind(leaves=leaves, inputs=(pixels, top_dim), outputs=bottom, input_shape=patch)
        else:
            self.encoder.bind(**encoder, outputs=bottom)
            self.second.bind(leaves=leaves, inputs=latent_dim, outputs=top)

    @memoized
    def encode(self, x: Tensor) -> tuple[LeafNormal, Tensor | None]:
        """
        The distribution of the variable that is drawn first, and top-down what the second network sees of the data.

        :param Tensor x: features ``[.., leaf, pixel]``.
        """
        first = self._normal(self.encoder(x))
        return first, self.second.embed(x) if self.order == "top-down" else None  # type: ignore[operator]

    def posterior(self, x: Tensor) -> LeafNormal:
        """
        The distribution of ``z2`` given features.

        :raises ValueError: bottom-up, where it has no closed form.
        """
        if self.order == "bottom-up":
            raise ValueError(
                "a VampPrior needs q(z2 | x), which a HierarchicalGuide of the order bottom-up has not; choose "
                "order='top-down', or another prior"
            )
        return self._normal(self.encoder(x))

    def forward(self, encoding: tuple[LeafNormal, Tensor | None]) -> None:
        """States ``z2`` and ``z1``, in the order that they are drawn in."""
        first, embedded = encoding
        if embedded is not None:
            z2 = pyro.sample("z2", first)
            pyro.sample("z1", self._normal(self.second.join(embedded, z2)))  # type: ignore[operator]
        else:
            z1 = pyro.sample("z1", first)
            pyro.sample("z2", self._normal(self.second(z1)))

    def _normal(self, outputs: tuple[Tensor, ...]) -> LeafNormal:
        loc, raw = outputs
        return LeafNormal(loc, positive_scale(raw, self.scale, self.min_scale))
