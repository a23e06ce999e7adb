# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the evidence lower bound of a sum-product VAE is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_spvae.infer.circuit_elbo import CircuitELBO
from pyro_spvae.infer.latent_terms import LatentTermCollector, LatentTerms
from pyro_spvae.infer.tree_sums import leaf_posterior, push_up


class BoundTerms(NamedTuple):
    r"""
    Terms of eq. (7) of the SPVAE paper for every datum, in nats, ``[data]``.

    With leaf ELBOs :math:`L_l` and the exact leaf posterior :math:`r_l` under them,
    ``elbo = reconstruction - latent_kl - tree_kl`` holds exactly.

    :ivar Tensor elbo: the bound.
    :ivar Tensor reconstruction: :math:`\sum_l r_l\, E_q \log p(x_l \mid z_l)`.
    :ivar Tensor latent_kl: :math:`\sum_l r_l\, KL(q(z_l \mid x_l) \| p(z_l))`, estimated by sampling.
    :ivar Tensor tree_kl: divergence of the posterior over trees from the prior over trees.
    :ivar dict latents: ``latent_kl`` by sites, as entropies and cross-entropies, see
        :class:`~pyro_spvae.infer.LatentTerms`; their divergences add up to it.

    Example::

        >>> from pyro_spvae.infer import bound_terms
        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> terms = bound_terms(spvae.model, spvae.guide, spvae.sample(6), num_particles=5)
        >>> terms.elbo.shape, list(terms.latents)
        (torch.Size([6]), ['z'])
        >>> bool(torch.allclose(terms.elbo, terms.reconstruction - terms.latent_kl - terms.tree_kl, atol=1e-4))
        True
    """

    elbo: Tensor
    reconstruction: Tensor
    latent_kl: Tensor
    tree_kl: Tensor
    latents: dict[str, LatentTerms]


def bound_terms(model: Any, guide: Any, *args: Any, num_particles: int = 1, **kwargs: Any) -> BoundTerms:
    """
    Splits the ELBO of a model and guide on a batch.

    :param int num_particles: samples that expectations over the guide are estimated with.
    :returns: :class:`BoundTerms`.
    :raises ValueError: if no leaf site is observed, or sites outside the leaf plate belong to the bound too.

    Example::

        >>> from pyro_spvae.infer import bound_terms
        >>> vae = SPVAE(whole((4, 4)), units=1, likelihood=Bernoulli())
        >>> terms = bound_terms(vae.model, vae.guide, vae.sample(6), num_particles=5)
        >>> terms.tree_kl.abs().max().item() < 1e-5  # of a single leaf there is one tree
        True
    """
    with torch.no_grad():
        collector = LatentTermCollector(joint_particles=num_particles == 1, alpha=1.0)
        elbo = CircuitELBO(num_particles=num_particles, alpha=1.0)
        terms = elbo.terms(model, guide, args, kwargs, collector=collector)
        if terms.observed is None or terms.outside is not None or terms.tree is None:
            raise ValueError("bound_terms needs a model whose only sites are a tree, latent and observed leaf sites")
        leaf = terms.log_weight.mean(0)  # leaf ELBOs [B, L]
        seen = terms.observed.mean(0)
        root = push_up(terms, leaf)
        posterior = leaf_posterior(terms, leaf)
        latent_kl = (posterior * (seen - leaf)).sum(-1)
        tree_kl = (posterior * leaf).sum(-1) - root
        latents = collector.latent_terms(posterior)
        return BoundTerms(root, (posterior * seen).sum(-1), latent_kl, tree_kl, latents)
