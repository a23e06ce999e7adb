# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a model knows of data."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Embedding(NamedTuple):
    """
    Posterior quantities of data, see :meth:`pyro_spvae.models.SPVAE.embed`.

    :ivar dict latents: for each latent site the guide's means, ``[data, leaf, *event]``; of discrete variables
        probabilities, see :meth:`pyro_spvae.blocks.Latent.summary`.
    :ivar Tensor leaf_posterior: probability that a leaf is on the induced tree, ``[data, leaf]``.
    :ivar list sum_posterior: probability that the induced tree reaches a sum node and takes one of its products, a
        tensor ``[data, region, sum, product]`` for each group of ``circuit.log_weights()``; or ``None``.
    """

    latents: dict[str, Tensor]
    leaf_posterior: Tensor
    sum_posterior: list[Tensor] | None
