# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a site of a trace says: its plates, and how much it counts."""

from __future__ import annotations

from typing import Any

from pyro.distributions.util import scale_and_mask
from torch import Tensor

DATA_PLATE = "data"
LEAF_PLATE = "leaf"
PARTICLE_PLATE = "num_particles_vectorized"


def counted(site: Any, value: Tensor) -> Tensor:
    """
    A value of a site ``[.., data, leaf]``, such as its log-density, under the site's mask and the user's scale, but not
    the plates' scale, which acts outside the logarithm.
    """
    plates_scale = plate_scale(site)
    scale = site["scale"] if plates_scale == 1.0 else site["scale"] / plates_scale
    return scale_and_mask(value, scale, site["mask"])


def plates(site: Any) -> set[str]:
    """Names of the plates that a site is in."""
    return {frame.name for frame in site["cond_indep_stack"] if frame.vectorized}


def plate_scale(site: Any) -> float:
    """Product of full size over subsample size; a user's poutine.scale is not part of it."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size > 0:
            scale *= frame.full_size / frame.size
    return scale


def own_scale(site: Any) -> float:
    """The scale that a user, or annealing, gives to a site, without that of its plates."""
    return float(site["scale"]) / plate_scale(site)


def is_subsample(site: Any) -> bool:
    """Whether a site is a plate's own choice of rows."""
    return type(site["fn"]).__name__ == "_Subsample"


def is_drawn(site: Any) -> bool:
    """Whether a node of a trace is a latent variable: a sample site that is neither observed nor of a plate."""
    return site["type"] == "sample" and not site["is_observed"] and not is_subsample(site)
