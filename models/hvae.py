# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two layers of latent variables as a leaf: the hierarchical VAE of the VampPrior paper, and Burda et al.'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
from torch import Tensor

from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides import LeafGuide, NormalGuide
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models.decoding import decode
from pyro_spvae.models.leaf import LatentLeaf
from pyro_spvae.nn import Joint, Network, positive_scale
from pyro_spvae.nn.mlp import network_or_mlp
from pyro_spvae.nn.part import check_part, is_positive
from pyro_spvae.nn.scale import check_scale
from pyro_spvae.priors import Prior, StandardNormal


class HVAE(LatentLeaf):
    r"""
    :math:`p(z_2)\, p(z_1 \mid z_2)\, p(x \mid z_1, z_2)` for every leaf (Tomczak and Welling 2018, eqs. (11) to (13)).

    Sites: latent ``"z2"`` with event ``[top]`` and ``"z1"`` with event ``[latent]``, observed ``"x"`` with event
    ``[pixel]``. :math:`p(z_1 \mid z_2)` is normal, with a network for mean and standard deviation. The guide is a
    :class:`~pyro_spvae.guides.HierarchicalGuide`.

    With ``skip=False`` the pixels depend on :math:`z_1` alone: the two-layer model of Burda et al. 2016, whose guide
    draws :math:`z_1` first (``order="bottom-up"``).

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: size of ``z1``.
    :param int top_dim: size of ``z2``; that of ``z1`` by default.
    :param Sequence[int] hidden_dims: hidden layers of the default networks, (32, 32).
    :param Prior prior: distribution of ``z2``; standard normal by default.
    :param str activation: activation of the default networks, ``"softplus"``.
    :param str scale: how the standard deviation of ``z1`` is parameterised, see :func:`pyro_spvae.nn.positive_scale`.
    :param float min_scale: smallest of these; 1e-3 by default for ``"softplus"``, else none.
    :param bool skip: whether the pixels depend on ``z2`` beside ``z1``.
    :param Network conditional: from ``z2`` to mean and scale of ``z1``; by default an :class:`~pyro_spvae.nn.MLP` with
        a shared trunk.
    :param Network decoder: from ``z1`` (and ``z2`` with ``skip``) to the likelihood's parameters; by default a
        :class:`~pyro_spvae.nn.Joint` network, or an :class:`~pyro_spvae.nn.MLP` with a shared trunk.
    :raises ValueError: for options out of range, or if all networks and options of the default ones are given.
    """

    shorthands = ("hidden_dims", "activation")
    guide_name = "hierarchical"
    #: networks of several inputs
    joint = ("decoder",)

    def __init__(
        self,
        likelihood: Likelihood,
        latent_dim: int = 8,
        top_dim: int | None = None,
        hidden_dims: Sequence[int] | None = None,
        prior: Prior | None = None,
        activation: str | None = None,
        scale: str = "softplus",
        min_scale: float | None = None,
        skip: bool = True,
        conditional: Network | None = None,
        decoder: Network | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("latent_dim", latent_dim), ("top_dim", latent_dim if top_dim is None else top_dim)):
            if not is_positive(value):
                raise ValueError(f"{name} is {value!r}; a positive integer is needed")
        if not isinstance(skip, bool):
            raise ValueError(f"skip is {skip!r}; True or False is needed")
        prior = StandardNormal() if prior is None else prior
        check_part("prior", prior, Prior)
        check_part("likelihood", likelihood, Likelihood)
        self.latent_dim = latent_dim
        self.top_dim = latent_dim if top_dim is None else top_dim
        self.prior = prior
        self.likelihood = likelihood
        self.scale = scale
        self.min_scale = check_scale(scale, min_scale)
        self.skip = skip
        options = (hidden_dims, activation)
        given = conditional is not None and decoder is not None
        if given and options != (None, None):
            raise ValueError("conditional and decoder are given, so leave out hidden_dims and activation")
        self.conditional = conditional if conditional is not None else default_network(False, *options)
        self.decoder = decoder if decoder is not None else default_network(skip, *options)
        check_part("conditional", self.conditional, Network)
        check_part("decoder", self.decoder, Network)

    @property
    def guide_sizes(self) -> dict[str, int]:
        """Sizes of both layers."""
        return {"latent_dim": self.latent_dim, "top_dim": self.top_dim}

    def build(self, leaves: int, pixels: int, patch: tuple[int, ...] | None = None) -> None:
        """Binds prior, likelihood and networks."""
        self.prior.bind(leaves=leaves, latent_dim=self.top_dim, pixels=pixels)
        self.likelihood.bind(leaves=leaves, pixels=pixels)
        self.conditional.bind(leaves=leaves, inputs=self.top_dim, outputs=(self.latent_dim, self.latent_dim))
        self.decoder.bind(
            leaves=leaves,
            inputs=(self.latent_dim, self.top_dim) if self.skip else self.latent_dim,
            outputs=self.likelihood.heads,
            output_shape=patch,
        )

    def connect(self, guide: LeafGuide, patches: Callable[[Tensor], Tensor], mask: Tensor | None) -> None:
        """
        Shows the prior the guide's encoder.

        :raises ValueError: for the guide of a single layer.
        """
        if type(guide) is NormalGuide:
            raise ValueError(
                "guide is a NormalGuide, which states z alone, but the leaf HVAE has z2 and z1; accepted is "
                "HierarchicalGuide, or a guide of your own that states them"
            )
        super().connect(guide, patches, mask)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``z2``, ``z1`` and ``x``."""
        z2 = self.draw_latent("z2", self.prior(), self.top_dim)
        loc, raw = self.conditional(z2)
        between = LeafNormal(loc, positive_scale(raw, self.scale, self.min_scale))
        z1 = self.draw_latent("z1", between, self.latent_dim)
        latents = (z1, z2) if self.skip else (z1,)
        return pyro.sample("x", decode(self.decoder, self.likelihood, latents, mask), obs=x)


def default_network(joint: bool, hidden_dims: Sequence[int] | None, activation: str | None) -> Network:
    """
    A network of one input, or of several.

    :param bool joint: of several.
    """
    if not joint:
        return network_or_mlp("network", None, hidden_dims, activation, "shared")
    options = {"hidden_dims": hidden_dims, "activation": activation}
    return Joint(**{key: value for key, value in options.items() if value is not None})  # type: ignore[arg-type]
