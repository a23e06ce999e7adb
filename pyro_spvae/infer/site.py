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


def check_plates(site: Any) -> None:
    """
    :raises ValueError: if the plates of data and leaves are not the dimensions -2 and -1 of a site.
    """
    for frame in site["cond_indep_stack"]:
        wanted = {DATA_PLATE: -2, LEAF_PLATE: -1}.get(frame.name)
        if frame.vectorized and wanted is not None and frame.dim != wanted:
            raise ValueError(
                f"CircuitELBO: the plate '{frame.name}' of the site '{site['name']}' is the dimension {frame.dim}; "
                f"{wanted} is needed"
            )


def plate_scale(site: Any) -> float:
    """Product of full size over subsample size; a user's poutine.scale is not part of it."""
    scale = 1.0
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size > 0:
            scale *= frame.full_size / frame.size
    return scale


def own_scale(site: Any) -> float:
    """The scale that a user, or annealing, gives to a site, without that of its plates."""
    scale = site["scale"]
    if isinstance(scale, Tensor) and scale.numel() != 1:
        raise ValueError(
            f"CircuitELBO: poutine.scale gives the site '{site['name']}' a scale of the shape {list(scale.shape)}; one "
            "number for all of it is needed"
        )
    return float(scale) / plate_scale(site)


def is_subsample(site: Any) -> bool:
    """Whether a site is a plate's own choice of rows."""
    return type(site["fn"]).__name__ == "_Subsample"


def is_drawn(site: Any) -> bool:
    """Whether a node of a trace is a latent variable: a sample site that is neither observed nor of a plate."""
    return site["type"] == "sample" and not site["is_observed"] and not is_subsample(site)
