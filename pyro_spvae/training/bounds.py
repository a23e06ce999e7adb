# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mean bounds of a split, the same for validation in every epoch and for the test split at the end."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.infer import CircuitELBO, bound_terms
from pyro_spvae.models import SPVAE

_ROWS = 512


def mean_bounds(spvae: SPVAE, elbo: CircuitELBO, x: Tensor) -> dict[str, float]:
    """
    The bound that is trained (``elbo``), and that of leaf ELBOs (``leaf_elbo``) with its parts ``reconstruction``,
    ``latent_kl`` and ``tree_kl``; nats, means over rows.

    Both see the same noise, so that they differ by their definition alone: for ``alpha=1`` they are equal.
    """
    totals = torch.zeros(5, dtype=torch.float64)
    for rows in x.split(_ROWS):
        noise = torch.get_rng_state()
        bound = elbo.bound(spvae.model, spvae.guide, rows)
        torch.set_rng_state(noise)
        terms = bound_terms(spvae.model, spvae.guide, rows, num_particles=elbo.num_particles)
        totals += torch.stack([part.double().sum() for part in (bound, *terms)])
    names = ("elbo", "leaf_elbo", "reconstruction", "latent_kl", "tree_kl")
    return dict(zip(names, (totals / len(x)).tolist(), strict=True))
