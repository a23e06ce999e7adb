# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tree and latent variables given data: circuit posterior and importance resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.circuits.numerics import log_sum_exp
from pyro_spvae.distributions import InducedTree
from pyro_spvae.infer import collapse_tree
from pyro_spvae.infer.enumerated import enumerate_guide, flatten_particles
from pyro_spvae.infer.leaf_terms import LeafTermCollector
from pyro_spvae.queries.batch import LeafBatch
from pyro_spvae.queries.programs import NESTING, leaf_sites, particles, prior_sites, where_seen
from pyro_spvae.queries.quiet import quiet
from pyro_spvae.queries.root import Root


@dataclass(frozen=True, eq=False)
class LeafDraws:
    """
    Weighted draws of the leaf guide given data: those of its drawn sites, with every value of its enumerated ones.

    :ivar Tensor log_share: logarithm of what each particle counts, which sums to 1; ``[particle, data, leaf]``.
    :ivar Tensor log_weight: the same plus log importance weights, in nats, whose sum is the leaf's value.
    :ivar dict sites: the guide's latent sites inside the leaf plate by name, each as Pyro traced it; values and
        distributions broadcast to ``shape``.
    :ivar Size shape: axes of enumerated values, drawn particles, data and leaves.
    :ivar Tensor seen: leaves that see anything, ``bool [data or 1, leaf]``, or ``None`` if all do.
    """

    log_weight: Tensor
    log_share: Tensor
    sites: dict[str, Any]
    shape: torch.Size
    seen: Tensor | None

    @staticmethod
    def make(root: Root, batch: LeafBatch, num_particles: int) -> LeafDraws:
        """
        Runs guide and model once, all particles together (one, if nothing is latent); data have been checked.

        :raises ValueError: if a row has density 0, naming it, or a parameter is not finite, naming that.
        """
        num_particles = num_particles if root.latents else 1
        collector = LeafTermCollector(joint_particles=False)
        with torch.no_grad(), quiet(root):
            batch = batch.kept()
            guide = enumerate_guide(particles(root.guide, num_particles), NESTING)
            guide_trace: Any = poutine.trace(guide).get_trace(batch)
            model = collapse_tree(poutine.replay(particles(root.model, num_particles), trace=guide_trace))
            model_trace: Any = poutine.trace(model).get_trace(batch)
            collector.collect(model_trace, guide_trace)
        log_weight, log_share = collector.weighted()
        shape = torch.broadcast_shapes(
            log_weight.shape,
            (num_particles, batch.rows, root.num_leaves),
            () if log_share is None else log_share.shape,
        )
        share = (log_weight.new_zeros(()) if log_share is None else log_share) - math.log(num_particles)
        log_weight = log_weight - math.log(num_particles)
        sites = {name: site for name, site in leaf_sites(guide_trace).items() if name in model_trace.nodes}
        log_weight, share = (flatten_particles(value, shape) for value in (log_weight, share))
        seen = None if batch.seen is None or bool(batch.seen.all()) else batch.seen
        draws = LeafDraws(log_weight, share, sites, shape, seen)
        with torch.no_grad():
            without = ~(root.circuit(draws.leaf_values) > -math.inf)  # NaN, too
        if bool(without.any()):
            for name, parameter in root.named_parameters():
                if not bool(parameter.isfinite().all()):
                    raise ValueError(
                        f"the model's parameter '{name}' holds values that are not finite, so that no data have a "
                        "density; load or train the model anew"
                    )
            row = batch.first + int(without.nonzero()[0])
            raise ValueError(
                f"row {row} of the data has density 0 under the model, so that nothing follows from it; is an entry "
                "far from all that the model was trained on? Mark it by observed=False, or leave the row out"
            )
        return draws

    @property
    def leaf_values(self) -> Tensor:
        """Log of the mean weight of each leaf, the leaf values that the circuit takes; nats, ``[data, leaf]``."""
        return self.log_weight[0] if len(self.log_weight) == 1 else log_sum_exp(self.log_weight, 0)

    def value(self, name: str) -> Tensor:
        """Values of a site, ``[particle, data, leaf, *event]``."""
        site = self.sites[name]
        return flatten_particles(site["value"], self.shape, site["fn"].event_dim)

    def summaries(self, root: Root) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """
        What the guide says of each latent site, see :meth:`pyro_spvae.blocks.Latent.summary`, ``[data, leaf, *event]``,
        and of the components of those that have some, see :meth:`pyro_spvae.blocks.Latent.components`,
        ``[data, leaf, component]``; the prior where a leaf sees nothing.
        """
        means, components = self._average(root, Latent.summary, Latent.components)
        return means, components

    def points(self, root: Root) -> dict[str, Tensor]:
        """A typical value of each latent site, see :meth:`pyro_spvae.blocks.Latent.point`, ``[data, leaf, *event]``."""
        (points,) = self._average(root, Latent.point)
        return points

    def _average(self, root: Root, *descriptions: Any) -> list[dict[str, Tensor]]:
        """Each description of the sites that have it, averaged over particles."""
        prior = None if self.seen is None else prior_sites(root, len(self.log_weight), self.log_weight.size(1))
        found: list[dict[str, Tensor]] = []
        for describe in descriptions:
            found.append({})
            for name, site in self.sites.items():
                latent = root.latents[name]
                values = self._described(latent, site, describe)
                if values is None:
                    continue
                if prior is not None:
                    other = _described(latent, prior[name], describe)
                    if other is None or other.shape[2:] != values.shape[2:]:  # the prior is a mixture of no such kind
                        other = values.sum(-1, keepdim=True).expand_as(values) / values.size(-1)
                    seen = self.seen.reshape(*self.seen.shape, *[1] * (values.dim() - 2))  # type: ignore[union-attr]
                    values = torch.where(seen, values, other)
                found[-1][name] = values
        return found

    def _described(self, latent: Latent, site: Any, describe: Any) -> Tensor | None:
        values = _of_particles(latent, site, describe, self.shape)
        if values is None:
            return None
        weight = self.log_share.exp()
        if latent.is_discrete and describe is Latent.point:  # values are not averaged: that of the likeliest particle
            return values.gather(0, _index(weight.argmax(0, keepdim=True), values)).squeeze(0)
        weight = weight.reshape(*weight.shape, *[1] * (values.dim() - 3))
        return values[0] + (weight * (values - values[0])).sum(0)  # exact where all particles say the same


class TreePosterior:
    """
    The guide that :meth:`pyro_spvae.models.SPVAE.posterior` returns.

    Draws ``num_particles`` values of every latent site from the leaf guide once, with their importance weights; each
    call then states ``tree`` (from the posterior over trees given the averaged weights) and the latent sites
    (resampled by their weights, per datum and leaf).
    """

    def __init__(self, root: Root, batch: LeafBatch, num_particles: int) -> None:
        num_particles = checks.positive_integer("num_particles", num_particles)
        self.num_leaves = root.num_leaves
        self.rows = batch.rows
        draws = LeafDraws.make(root, batch, num_particles)
        self.log_weight = draws.log_weight  # [K, B, L]
        self.tree = InducedTree(root.circuit, draws.leaf_values.unsqueeze(-2))
        self.values: dict[str, tuple[Tensor, int]] = {}
        prior = None if draws.seen is None else prior_sites(root, len(self.log_weight), self.rows)
        for name, site in draws.sites.items():
            value, event_dim = draws.value(name), site["fn"].event_dim
            if prior is not None and draws.seen is not None:
                # a leaf that sees nothing has weight 1 whatever the guide drew; its posterior is its prior
                value = where_seen(draws.seen, value, prior[name], event_dim)
            self.values[name] = (value, event_dim)

    def __call__(self, *args: object, **kwargs: object) -> None:
        with pyro.plate("data", self.rows, dim=-2):
            tree = pyro.sample("tree", self.tree)
            outside = tree.shape[:-3]  # of plates around this program
            values = resampled(self.log_weight, {name: value for name, (value, _) in self.values.items()}, outside)
            with pyro.plate("leaf", self.num_leaves, dim=-1):
                for name, (_, event_dim) in self.values.items():
                    pyro.sample(name, dist.Delta(values[name], event_dim=event_dim))


def resampled(log_weight: Tensor, values: dict[str, Tensor], shape: Sequence[int] = ()) -> dict[str, Tensor]:
    """
    One particle of each datum and leaf, drawn by its weight, the same for all sites.

    :param Tensor log_weight: ``[particle, data, leaf]``.
    :param dict values: ``[particle, data, leaf, *event]`` by site.
    :param shape: of independent draws.
    :returns: ``[*shape, data, leaf, *event]`` by site.
    """
    if not values:
        return {}
    # a leaf of density 0 is on no tree, and any of its particles may be drawn
    logits = log_weight.masked_fill(log_weight.amax(0) == -math.inf, 0.0)
    particle = dist.Categorical(logits=logits.movedim(0, -1)).sample(torch.Size([math.prod(shape)]))  # [S, B, L]
    return {
        name: value.gather(0, _index(particle, value)).reshape(*shape, *value.shape[1:])
        for name, value in values.items()
    }


def _index(particle: Tensor, value: Tensor) -> Tensor:
    """Numbers of particles ``[n, data, leaf]`` for all entries of values ``[particle, data, leaf, *event]``."""
    return particle.reshape(*particle.shape, *[1] * (value.dim() - 3)).expand(len(particle), *value.shape[1:])


def _of_particles(latent: Latent, site: Any, describe: Any, shape: torch.Size) -> Tensor | None:
    """What each particle's distribution says, ``[particle, data, leaf, *]``; ``None`` if nothing."""
    law, draws = site["fn"], site["value"]
    batch = torch.broadcast_shapes(law.batch_shape, draws.shape[: draws.dim() - law.event_dim])
    if batch != law.batch_shape:  # values of an enumerated site have an axis that its distribution has not
        law = law.expand(batch)
    values = describe(latent, law, draws.expand(batch + law.event_shape).unsqueeze(0))
    return None if values is None else flatten_particles(values, shape, values.dim() - len(batch))


def _described(latent: Latent, site: Any, describe: Any) -> Tensor | None:
    """What a site of the model without data says, averaged over particles, ``[data, leaf, *]``."""
    values = _of_particles(latent, site, describe, site["fn"].batch_shape)
    if values is None:
        return None
    return values[0] if latent.is_discrete and describe is Latent.point else values.mean(0)
