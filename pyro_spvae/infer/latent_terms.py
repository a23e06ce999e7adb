# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the latent part of a bound is made of: entropies of the guide and cross-entropies to the prior, by site."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_spvae.distributions import divergence_by_dimension
from pyro_spvae.infer.leaf_terms import LeafTermCollector
from pyro_spvae.infer.site import counted


class LatentTerms(NamedTuple):
    r"""
    The divergence of a latent site from its prior as two terms (Tomczak and Welling 2018, eq. (5)), for every datum, in
    nats; sums over leaves by the exact leaf posterior :math:`r_l`, as those of
    :class:`~pyro_spvae.infer.BoundTerms`.

    For a site ``z`` that guide and model draw given their other sites, :math:`p` and :math:`q` are these conditional
    densities, and expectations are also over the guide's draws of the other sites.

    :ivar Tensor entropy: :math:`\sum_l r_l\, E_q[-\log q(z_l \mid x_l)]`, ``[data]``; exact (given the other sites)
        where the guide's distribution knows its entropy, as ``LeafNormal`` does, else estimated by sampling.
    :ivar Tensor cross_entropy: :math:`\sum_l r_l\, E_q[-\log p(z_l)]`, ``[data]``: the entropy plus the sampled
        divergence, so that the divergences of all sites add up to ``latent_kl`` exactly. 0 for a site that the model
        has not.
    :ivar Tensor dimension_kl: :math:`r_l\, KL(q(z_{ld} \mid x_l) \| N(0, 1))`, in closed form,
        ``[data, leaf, *event]``, where the pair of distributions has such a sum, as a ``LeafNormal`` and a standard
        normal prior have; else ``None``, since the divergence from a mixture is no sum over dimensions. What tells
        dimensions apart whatever the prior is the variance of their means, which active units are counted by.

    Example::

        >>> from pyro_spvae.infer import bound_terms
        >>> vae = SPVAE(whole((4, 4)), units=1, latent_dim=3, likelihood=Bernoulli())
        >>> terms = bound_terms(vae.model, vae.guide, vae.sample(6), num_particles=5)
        >>> z = terms.latents["z"]
        >>> z.dimension_kl.shape
        torch.Size([6, 1, 3])
        >>> bool(torch.allclose(z.cross_entropy - z.entropy, terms.latent_kl, atol=1e-4))
        True
    """

    entropy: Tensor
    cross_entropy: Tensor
    dimension_kl: Tensor | None

    @property
    def kl(self) -> Tensor:
        r""":math:`\sum_l r_l\, KL(q(z_l \mid x_l) \| p(z_l))`, estimated by sampling, ``[data]``."""
        return self.cross_entropy - self.entropy


class LatentTermCollector(LeafTermCollector):
    """
    A collector that keeps what :class:`LatentTerms` are made of, of the last traces it saw.

    :param bool joint_particles: see :class:`~pyro_spvae.infer.leaf_terms.LeafTermCollector`.
    :param float alpha: likewise.
    """

    def __init__(self, joint_particles: bool, alpha: float = 1.0) -> None:
        super().__init__(joint_particles, alpha)
        self._model: dict[str, tuple[Any, Tensor]] = {}
        self._guide: dict[str, tuple[Any, Tensor]] = {}

    def see_model(self, name: str, site: Any, log_prob: Tensor) -> None:
        """Keeps the site."""
        self._model[name] = site, log_prob

    def see_guide(self, name: str, site: Any, log_prob: Tensor) -> None:
        """Keeps the site."""
        self._guide[name] = site, log_prob

    def latent_terms(self, posterior: Tensor) -> dict[str, LatentTerms]:
        """
        The terms of each of the guide's sites, in the order that it draws them in.

        :param Tensor posterior: probability that each leaf is on the tree, ``[data, leaf]``.
        """
        return {name: self._terms(name, posterior) for name in self._guide}

    def _terms(self, name: str, posterior: Tensor) -> LatentTerms:
        site, log_q = self._guide[name]
        if name not in self._model:
            entropy = (posterior * self._mean(-log_q, posterior)).sum(-1)
            return LatentTerms(entropy, torch.zeros_like(entropy), None)
        prior, log_p = self._model[name]
        try:
            entropies = self._mean(counted(site, site["fn"].entropy()), posterior)
        except NotImplementedError:
            entropies = self._mean(-log_q, posterior)
        crosses = entropies + self._mean(log_q - log_p, posterior)
        terms = divergence_by_dimension(site["fn"], prior["fn"]) if not self.enumerated.dims else None
        if terms is not None:
            event = terms.shape[terms.dim() - site["fn"].event_dim :]
            weight = counted(site, posterior).reshape(*posterior.shape, *[1] * len(event))
            axes = posterior.dim() + len(event)
            terms = weight * (terms.mean(0) if terms.dim() > axes else terms).expand(*posterior.shape, *event)
        return LatentTerms((posterior * entropies).sum(-1), (posterior * crosses).sum(-1), terms)

    def _mean(self, value: Tensor, like: Tensor) -> Tensor:
        """The mean over particles, which stand in front of the dimensions of ``like`` if there are any."""
        value = self.enumerated.expect(value)
        return (value.mean(0) if value.dim() > like.dim() else value).expand(like.shape)
