# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Planes in the latent spaces of leaves, and the patches that the leaves decode on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints

from pyro_spvae.blocks import Latent
from pyro_spvae.distributions.autoregressive import pixel_summaries
from pyro_spvae.evaluating import evaluating
from pyro_spvae.models import SPVAE

SPAN = 2.0  # standard deviations from the middle of a grid to its sides


class Components(NamedTuple):
    """
    The principal components of each leaf's latent means.

    :ivar Tensor centre: ``[leaf, latent]``.
    :ivar Tensor axes: unit vectors ``[leaf, component, latent]``.
    :ivar Tensor deviations: standard deviations along them, ``[leaf, component]``.
    :ivar Tensor explained: share of the variance, ``[leaf, component]``; 0 where nothing varies.
    :ivar Tensor scores: the data in these coordinates, ``[data, leaf, component]``.
    """

    centre: Tensor
    axes: Tensor
    deviations: Tensor
    explained: Tensor
    scores: Tensor


class Coordinates(NamedTuple):
    """
    A latent site in real coordinates.

    :ivar Tensor values: what is known of the data, float64 ``[data, leaf, coordinate]``.
    :ivar transform: from coordinates to values of the site, ``None`` where there is none.
    :ivar tuple shape: of the coordinates of one value, before they are put into one axis.
    :ivar Tensor like: of the model's type, on its device.
    """

    values: Tensor
    transform: Transform | None
    shape: tuple[int, ...]
    like: Tensor

    def value(self, coordinates: Tensor) -> Tensor:
        """Values of the site inside of its support, ``[point, leaf, *event]``."""
        assert self.transform is not None
        return self.transform(coordinates.to(self.like).reshape(*coordinates.shape[:2], *self.shape))


def in_coordinates(latent: Latent, values: Tensor, like: Tensor) -> Coordinates:
    """
    What is known of a latent site in real coordinates: unconstrained ones where values are continuous, so that sums of
    coordinates are those of values inside of the support; the values themselves where no transform to such coordinates
    is known or values lie on the edge of the support; of discrete variables the probabilities.

    :param Latent latent: the site.
    :param Tensor values: as in :class:`~pyro_spvae.queries.Embedding`, ``[data, leaf, *event]``.
    :param Tensor like: of the model's type, on its device.
    """
    values = values.to(like)
    transform = None if latent.is_discrete else _from_reals(latent.support)
    reals = values if transform is None else transform.inv(values)
    if not bool(reals.isfinite().all()):  # on the edge of the support
        reals, transform = values, None
    flat = reals.reshape(*reals.shape[:2], math.prod(reals.shape[2:]))
    return Coordinates(flat.cpu().double(), transform, tuple(reals.shape[2:]), like)


def _from_reals(support: constraints.Constraint) -> Any:
    """The transform from unconstrained values, ``None`` for a support that is not registered with torch as having
    one, such as one of a user's own."""
    try:
        return biject_to(support)
    except NotImplementedError as error:
        if not str(error).startswith("Cannot transform"):  # raised by what is registered, which is a fault of it
            raise
        return None


def principal_components(means: Tensor) -> Components:
    """
    The first two principal components (or one, where there is no second) of every leaf.

    :param Tensor means: ``[data, leaf, latent]``, at least two data.
    """
    from sklearn.decomposition import PCA

    found = []
    for leaf in means.cpu().double().unbind(1):
        pca = PCA(min(2, *leaf.shape), svd_solver="full")
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing varies
            scores = pca.fit_transform(leaf.numpy())
        ratio = np.nan_to_num(pca.explained_variance_ratio_)
        found.append((pca.mean_, pca.components_, pca.explained_variance_**0.5, ratio, scores))
    centre, axes, deviations, explained, scores = (
        torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True)
    )
    return Components(centre, axes, deviations, explained, scores.movedim(0, 1))


def component_grid(components: Components, size: int) -> Tensor:
    """
    Points of the plane of two components, evenly spaced up to two standard deviations to either side; of the line of
    one component, read row by row.

    :returns: ``[size * size, leaf, latent]``; rows of the grid from the highest second component to the lowest.
    """
    line = components.axes.size(1) == 1
    steps = torch.linspace(-SPAN, SPAN, size * size if line else size, dtype=torch.float64, device="cpu")
    steps = steps.unsqueeze(-1) if line else _square(steps)  # [point, component]
    offsets = steps[:, None, :] * components.deviations  # [point, leaf, component]
    return components.centre + torch.einsum("plc,lcd->pld", offsets, components.axes)


def prior_grid(latent_dim: int, leaves: int, size: int) -> Tensor:
    """
    Points that a standard normal prior finds equally likely to fall between: the inverse normal distribution function
    of an even grid on the unit square (Kingma and Welling 2014, figure 4), or on the unit interval, read row by row.

    :param int latent_dim: 1 or 2.
    :returns: ``[size * size, leaf, latent]``; rows of the grid from the highest second coordinate to the lowest.
    """
    number = size if latent_dim == 2 else size * size
    steps = torch.special.ndtri((torch.arange(number, dtype=torch.float64, device="cpu") + 0.5) / number)
    points = _square(steps) if latent_dim == 2 else steps.unsqueeze(-1)
    return points.unsqueeze(1).expand(-1, leaves, -1)


def decode(spvae: SPVAE, latents: Mapping[str, Tensor]) -> Tensor:
    """
    The means of all leaves' patches given values of their latent sites.

    :param dict latents: site to values ``[data, leaf, *event]``.
    :returns: ``[data, leaf, pixel]``; pixels of a leaf in the order of its scope, channel by channel.
    """
    values = {site: value.to(next(spvae.parameters())) for site, value in latents.items()}
    number = len(next(iter(values.values())))
    with evaluating(spvae):
        model = poutine.condition(spvae.model, data=values)
        trace: Any = poutine.trace(model).get_trace(num=number)
        means = pixel_summaries(trace.nodes["x"]["fn"], trace.nodes["x"]["value"])
    return means.expand(number, spvae.num_leaves, means.size(-1))


def _square(steps: Tensor) -> Tensor:
    """All pairs of steps ``[size * size, 2]``, the first rising to the right, the second upwards."""
    second, first = torch.meshgrid(steps.flip(0), steps, indexing="ij")
    return torch.stack([first, second], -1).reshape(-1, 2)
