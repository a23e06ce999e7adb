# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the guide of a leaf is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae.blocks.latent import Latent
from pyro_spvae.blocks.program import Program
from pyro_spvae.part import Part


class LeafGuide(Part, Program):
    """
    An inference program for the latent variables of one leaf, written without plates. This base states no site: it is
    the guide of leaves without latent variables.

    Subclasses make their parameters in ``build(leaves, pixels, latents)``, where ``latents`` is what the leaf declares.
    What depends on the data alone is computed by ``encode``, once a batch however many particles there are; what is
    random is stated by ``forward``: a site for each latent variable of the leaf model, by the same name, with the same
    event shape and support. Encoders see features, of
    which there are ``pixels`` a leaf: the leaf model brings pixel values to about [0, 1], or numbers of categories to
    several features each.

    A site with ``infer={"enumerate": "parallel"}`` is summed over, see :class:`~pyro_spvae.infer.CircuitELBO`.

    Example, for the leaf :class:`~pyro_spvae.models.VAE`, whose one latent site is ``"z"``::

        >>> from pyro import sample
        >>> from pyro.distributions import Normal
        >>> class LinearGuide(LeafGuide):
        ...     def build(self, leaves, pixels, latents):
        ...         (size,) = self.shape_of(latents, "z")
        ...         self.weight = torch.nn.Parameter(0.1 * torch.randn(leaves, pixels, size))
        ...         self.log_scale = torch.nn.Parameter(torch.zeros(leaves, size))
        ...
        ...     def forward(self, x):  # [data, leaf, pixel]
        ...         loc = torch.einsum("blp,lpd->bld", x, self.weight)
        ...         sample("z", Normal(loc, self.log_scale.exp()).to_event(1))
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=VAE(Bernoulli()), guide=LinearGuide())
        >>> spvae.embed(spvae.sample(5)).latents["z"].shape
        torch.Size([5, 8, 8])
    """

    #: names of the networks that take several inputs, where a perceptron has a first layer for each
    joint_networks: tuple[str, ...] = ()

    #: whether it makes further networks by its options ``hidden_dims`` and ``activation``, as many as it needs
    makes_networks: bool = False

    #: whether the networks that it has by default are of a kind of its own, so that configurations give it no others
    #: unless they name some
    has_own_networks: bool = False

    def build(self, *args: Any, **sizes: Any) -> None:
        """There are no parameters."""

    def shape_of(self, latents: Mapping[str, Latent], *sites: str) -> tuple[Any, ...]:
        """
        The event shape of the one latent site that a guide states, or of each of several.

        :param dict latents: what the leaf declares.
        :param sites: names of all that the guide states.
        :raises ValueError: if the leaf declares others.
        """
        if set(latents) != set(sites):
            declared = ", ".join(latents) or "none"
            raise ValueError(
                f"a {type(self).__name__} states the latent sites {', '.join(sites)}, but the leaf declares {declared}"
                "; give a guide of these"
            )
        shapes = tuple(latents[site].event_shape for site in sites)
        return shapes[0] if len(sites) == 1 else shapes

    def by_part(self, parts: int) -> Iterable[LeafGuide]:
        """
        The guides of the parts of a leaf that is made of several; by default this one serves all.

        :param int parts: number of parts.
        """
        return [self] * parts

    @property
    def states_nothing(self) -> bool:
        """Whether it states no site, as this base, so that it need not see features."""
        return type(self).forward is LeafGuide.forward

    def encode(self, x: Tensor) -> Any:
        """
        What :meth:`forward` needs to know of the data; by default the features themselves.

        :param Tensor x: features of the patches ``[data, leaf, pixel]``; missing pixels are 0.
        """
        return x

    def posterior(self, x: Tensor) -> TorchDistribution:
        """
        The distribution of the latent variable that has the leaf's prior given features alone, which a
        :class:`~pyro_spvae.priors.VampPrior` is a mixture of.

        :param Tensor x: features ``[.., leaf, pixel]``.
        :raises ValueError: if the guide has no such encoder.
        """
        raise ValueError(
            f"the guide {type(self).__name__} has no encoder that a VampPrior could use; define posterior(self, x), or "
            "choose another prior"
        )

    def forward(self, encoding: Any) -> None:
        """
        States the latent sites of the leaf.

        :param encoding: what :meth:`encode` returned.
        """
