# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a model knows of data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Embedding(NamedTuple):
    """
    Posterior quantities of data, see :meth:`pyro_spvae.models.SPVAE.embed`.

    :ivar dict latents: for each latent site the guide's means, ``[data, leaf, *event]``; of discrete variables
        probabilities, see :meth:`pyro_spvae.blocks.Latent.summary`.
    :ivar Tensor leaf_posterior: probability that a leaf is on the induced tree, ``[data, leaf]``.
    :ivar list sum_posterior: probability that the induced tree reaches a sum node and takes one of its products, a
        tensor ``[data, region, sum, product]`` for each group of ``circuit.log_weights()``; or ``None``.
    :ivar dict components: for each latent site that is the number of a kind, and for each whose distribution under the
        guide is a mixture, the probability of each kind or component, ``[data, leaf, component]``, see
        :meth:`pyro_spvae.blocks.Latent.components`; the prior's where a leaf sees nothing, or equal ones if the prior
        is no mixture of as many components; 0 for leaves that do not have the site.

    Example::

        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, latent_dim=3, likelihood=Bernoulli())
        >>> embedding = spvae.embed(spvae.sample(5))
        >>> embedding.latents["z"].shape
        torch.Size([5, 8, 3])
        >>> bool(torch.allclose(embedding.leaf_posterior.sum(-1), torch.full((5,), 4.0)))  # a leaf of every cell
        True
    """

    latents: dict[str, Tensor]
    leaf_posterior: Tensor
    sum_posterior: list[Tensor] | None
    components: dict[str, Tensor]

    @property
    def most_probable(self) -> dict[str, Tensor]:
        """The most probable component of each site, int64 ``[data, leaf]``; -1 for leaves that do not have the site."""
        found = {}
        for name, probs in self.components.items():
            best = probs.max(-1)
            found[name] = torch.where(best.values > 0, best.indices, -1)
        return found
