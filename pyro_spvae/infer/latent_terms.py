# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the latent part of a bound is made of: entropies of the guide and cross-entropies to the prior, by site."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_spvae.distributions import LeafNormal, LeafStandardNormal
from pyro_spvae.infer.leaf_terms import LeafTermCollector, counted


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
        ``[data, leaf, latent]``, where the guide is a ``LeafNormal`` and the prior standard normal; else ``None``,
        since the divergence from a mixture is no sum over dimensions. What tells dimensions apart whatever the prior is
        the variance of their means, which active units are counted by.
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
    """

    def __init__(self, joint_particles: bool) -> None:
        super().__init__(joint_particles)
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
            entropy = (posterior * _mean(-log_q, posterior)).sum(-1)
            return LatentTerms(entropy, torch.zeros_like(entropy), None)
        prior, log_p = self._model[name]
        try:
            entropies = _mean(counted(site, site["fn"].entropy()), posterior)
        except NotImplementedError:
            entropies = _mean(-log_q, posterior)
        crosses = entropies + _mean(log_q - log_p, posterior)
        by_dimension = _by_dimension(site["fn"], prior["fn"])
        if by_dimension is not None:
            weight = counted(site, posterior).unsqueeze(-1)
            by_dimension = weight * _mean(by_dimension, weight.expand(*posterior.shape, by_dimension.size(-1)))
        return LatentTerms((posterior * entropies).sum(-1), (posterior * crosses).sum(-1), by_dimension)


def _by_dimension(guide: Any, prior: Any) -> Tensor | None:
    """Divergence of every dimension from a standard normal prior, ``[.., latent]``."""
    if not isinstance(guide, LeafNormal) or guide.pixel_mask is not None or not isinstance(prior, LeafStandardNormal):
        return None
    return 0.5 * (guide.scale.square() + guide.loc.square() - 1.0) - guide.scale.log()


def _mean(value: Tensor, like: Tensor) -> Tensor:
    """The mean over particles, which stand in front of the dimensions of ``like`` if there are any."""
    return (value.mean(0) if value.dim() > like.dim() else value).expand(like.shape)
