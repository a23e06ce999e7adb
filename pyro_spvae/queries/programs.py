# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs of a root's two programs: what they draw and state by latent site, without importance weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae.conditionals.pixels import pixels_unread
from pyro_spvae.distributions.kinds import means_given
from pyro_spvae.infer import collapse_tree
from pyro_spvae.infer.enumerated import flatten_particles
from pyro_spvae.infer.site import LEAF_PLATE, PARTICLE_PLATE, is_drawn, plates
from pyro_spvae.queries.batch import LeafBatch
from pyro_spvae.queries.decoding import DrawMessenger
from pyro_spvae.queries.quiet import forked, quiet
from pyro_spvae.queries.root import Root

NESTING = 3  # plates of particles, data and leaves


def guide_draws(root: Root, batch: LeafBatch, num: int) -> dict[str, Tensor]:
    """
    Draws of all latent sites from the guide, enumerated ones too, ``[num, data, leaf, *event]``; where a leaf sees
    nothing from the prior.
    """
    shape = torch.Size((num, batch.rows, root.num_leaves))
    with torch.no_grad(), quiet(root):
        trace: Any = poutine.trace(particles(root.guide, num)).get_trace(batch)
    sites = leaf_sites(trace)
    prior = None if batch.seen is None or bool(batch.seen.all()) else prior_sites(root, num, batch.rows)
    found = {}
    for name, latent in root.latents.items():
        event_dim = len(latent.event_shape)
        found[name] = flatten_particles(sites[name]["value"], shape, event_dim)
        if prior is not None and batch.seen is not None:
            found[name] = where_seen(batch.seen, found[name], prior[name], event_dim)
    return found


def draw_means(root: Root, batch: LeafBatch, num_particles: int) -> dict[str, Tensor | None]:
    """
    What the guide says of each latent site, given its draws of the sites before it, or of the groups of bits.

    :param int num_particles: number of draws.
    :returns: ``[particle, data, leaf, *event]`` by site, the same for all particles where nothing is drawn before it;
        ``None`` where the distribution of a site has no mean, not even given draws, or none that is finite.
    """
    with torch.no_grad(), quiet(root):
        trace: Any = poutine.trace(particles(root.guide, num_particles)).get_trace(batch)
    means: dict[str, Tensor | None] = {}
    for name, site in leaf_sites(trace).items():
        try:
            mean = root.latents[name].summary(site["fn"]) if name in root.latents else site["fn"].mean
        except (ValueError, NotImplementedError, AttributeError):
            mean = means_given(site["fn"], site["value"])
        means[name] = None if mean is None or not bool(mean.isfinite().all()) else mean
    return means


def prior_sites(root: Root, num_particles: int, rows: int, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """
    Sites of the model without data, all leaves, batch shape ``[particle, data, leaf]``; decoders are not run.

    :param dict given: values of latent sites that are held fixed, ``[data, leaf, *event]``.
    """
    zero = root._reference().new_zeros(())
    with torch.no_grad(), quiet(root), pixels_unread(), DrawMessenger(zero=zero):
        model = particles(poutine.condition(collapse_tree(root.model), data=dict(given or {})), num_particles)
        trace: Any = poutine.trace(model).get_trace(num=rows)
    return dict(trace.nodes)


def guide_laws(root: Root) -> dict[str, Any]:
    """The distributions that the guide states by latent site, given a datum of which all features are 0."""
    features = root._reference().new_zeros(1, root.num_leaves, root.num_features)

    def guide() -> None:
        encoding = root.leaf_guide.encode(features)
        with pyro.plate("data", 1, dim=-2), pyro.plate("leaf", root.num_leaves, dim=-1):
            root.leaf_guide(encoding)

    with torch.no_grad(), quiet(root), forked(features.device):
        trace: Any = poutine.trace(guide).get_trace()
    sites = leaf_sites(trace).items()
    return {name: site["fn"] for name, site in sites if not site["infer"].get("is_auxiliary")}


def model_laws(root: Root) -> dict[str, Any]:
    """The distributions that the model states by latent site."""
    with forked(root._reference().device):
        nodes = prior_sites(root, 1, 1)
    inside = (name for name, site in nodes.items() if is_drawn(site) and LEAF_PLATE in plates(site))
    return {name: nodes[name]["fn"] for name in inside if name != "x"}


def particles(program: Any, num: int) -> Any:
    """A program inside the plate of particles."""
    return pyro.plate(PARTICLE_PLATE, num, dim=-NESTING)(program)


def leaf_sites(trace: Any) -> dict[str, Any]:
    """Latent sites inside the leaf plate."""
    return {name: site for name, site in trace.nodes.items() if is_drawn(site) and LEAF_PLATE in plates(site)}


def where_seen(seen: Tensor, value: Tensor, prior: Any, event_dim: int) -> Tensor:
    """Values ``[particle, data, leaf, *event]``, the prior's where a leaf sees nothing."""
    return torch.where(seen.reshape(seen.shape + (1,) * event_dim), value, prior["value"].to(value.dtype))
