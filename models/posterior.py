# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tree and latent variables given data: circuit posterior and importance resampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae.distributions import InducedTree
from pyro_spvae.infer import collapse_tree, renyi_mean
from pyro_spvae.infer.leaf_terms import LEAF_PLATE, PARTICLE_PLATE, LeafTermCollector
from pyro_spvae.infer.local_param import LocalParamMessenger
from pyro_spvae.models.decoding import DrawMessenger
from pyro_spvae.nn.mode import in_mode
from pyro_spvae.nn.part import is_positive

if TYPE_CHECKING:
    from pyro_spvae.models.spvae import SPVAE


@dataclass(frozen=True, eq=False)
class LeafDraws:
    """
    Draws of the leaf guide given data, with what the model says about them.

    :ivar Tensor log_weight: log importance weights in nats, ``[particle, data, leaf]``.
    :ivar dict sites: the guide's latent sites inside the leaf plate by name, each as Pyro traced it; values and
        distributions have batch shape ``[particle, data, leaf]``.
    :ivar Tensor seen: leaves that see anything, ``bool [data or 1, leaf]``, or ``None`` if all do.
    """

    log_weight: Tensor
    sites: dict[str, Any]
    seen: Tensor | None

    @staticmethod
    def make(spvae: SPVAE, x: Tensor, observed: Tensor | None, num_particles: int) -> LeafDraws:
        """Runs guide and model once, all particles together (one, if nothing is latent); data have been checked."""
        num_particles = num_particles if spvae.has_latents else 1
        with torch.no_grad(), in_mode(spvae, training=False), pyro.validation_enabled(False), LocalParamMessenger():
            guide_trace: Any = poutine.trace(_particles(spvae.guide, num_particles)).get_trace(x, observed)
            model = collapse_tree(poutine.replay(_particles(spvae.model, num_particles), trace=guide_trace))
            model_trace: Any = poutine.trace(model).get_trace(x, observed)
            terms = LeafTermCollector(joint_particles=False).collect(model_trace, guide_trace)
            seen = spvae.prepare(x, observed).seen
        sites = {
            name: site
            for name, site in guide_trace.nodes.items()
            if site["type"] == "sample"
            and not site["is_observed"]
            and name in model_trace.nodes
            and any(frame.name == LEAF_PLATE for frame in site["cond_indep_stack"])
        }
        return LeafDraws(terms.log_weight.expand(num_particles, len(x), spvae.num_leaves), sites, seen)

    @property
    def leaf_values(self) -> Tensor:
        """Log of the mean weight of each leaf, the leaf values that the circuit takes; nats, ``[data, leaf]``."""
        return renyi_mean(self.log_weight)

    def means(self, spvae: SPVAE) -> dict[str, Tensor]:
        """
        Mean of each latent site under the guide, ``[data, leaf, *event]``; under the prior where a leaf sees nothing.

        :raises ValueError: if the distribution of a site has no mean.
        """
        means = {name: _mean(name, site, "guide") for name, site in self.sites.items()}
        if self.seen is None:
            return means
        prior = prior_sites(spvae, *self.log_weight.shape[:2])
        return {
            name: torch.where(_with_event(self.seen, self.sites[name]), mean, _mean(name, prior[name], "model"))
            for name, mean in means.items()
        }


class TreePosterior:
    """
    The guide that :meth:`pyro_spvae.models.SPVAE.posterior` returns.

    Draws ``num_particles`` values of every latent site from the leaf guide once, with their importance weights; each
    call then states ``tree`` (from the posterior over trees given the averaged weights) and the latent sites
    (resampled by their weights, per datum and leaf).
    """

    def __init__(self, spvae: SPVAE, x: Tensor, observed: Tensor | None, num_particles: int) -> None:
        if not is_positive(num_particles):
            raise ValueError(f"num_particles is {num_particles!r}; a positive integer is needed")
        self.num_leaves = spvae.num_leaves
        self.rows = len(x)
        draws = LeafDraws.make(spvae, x, observed, num_particles)
        prior = prior_sites(spvae, len(draws.log_weight), self.rows)
        self.log_weight = draws.log_weight  # [K, B, L]
        self.tree = InducedTree(spvae.circuit, draws.leaf_values.unsqueeze(-2))
        self.values: dict[str, tuple[Tensor, int]] = {}
        for name, site in draws.sites.items():
            value = site["value"]
            if draws.seen is not None:
                # a leaf that sees nothing has weight 1 whatever the guide drew; its posterior is its prior
                value = torch.where(_with_event(draws.seen, site), value, prior[name]["value"])
            self.values[name] = (value, site["fn"].event_dim)

    def __call__(self, *args: object, **kwargs: object) -> None:
        particle = dist.Categorical(logits=self.log_weight.movedim(0, -1)).sample()  # [B, L]
        with pyro.plate("data", self.rows, dim=-2):
            pyro.sample("tree", self.tree)
            with pyro.plate("leaf", self.num_leaves, dim=-1):
                for name, (value, event_dim) in self.values.items():
                    index = particle.reshape(1, *particle.shape, *[1] * event_dim)
                    chosen = value.gather(0, index.expand(1, *value.shape[1:])).squeeze(0)
                    pyro.sample(name, dist.Delta(chosen, event_dim=event_dim))


def draw_means(spvae: SPVAE, x: Tensor, observed: Tensor | None, num_particles: int) -> dict[str, Tensor | None]:
    """
    Means of the guide's latent sites, each given the guide's draws of the sites before it.

    :param int num_particles: number of draws.
    :returns: ``[particle, data, leaf, *event]`` by site, the same for all particles where nothing is drawn before it;
        ``None`` where the distribution of a site has no mean, or none that is finite.
    """
    with torch.no_grad(), in_mode(spvae, training=False), pyro.validation_enabled(False), LocalParamMessenger():
        trace: Any = poutine.trace(_particles(spvae.guide, num_particles)).get_trace(x, observed)
    means: dict[str, Tensor | None] = {}
    for name, site in trace.nodes.items():
        inside = any(frame.name == LEAF_PLATE for frame in site.get("cond_indep_stack", ()))
        if site["type"] == "sample" and not site["is_observed"] and inside:
            try:
                mean = site["fn"].mean
            except (NotImplementedError, AttributeError):
                mean = None
            means[name] = None if mean is None or not bool(mean.isfinite().all()) else mean
    return means


def prior_sites(spvae: SPVAE, num_particles: int, rows: int) -> dict[str, Any]:
    """Sites of the model without data, all leaves, batch shape ``[particle, data, leaf]``."""
    with (
        torch.no_grad(),
        in_mode(spvae, training=False),
        pyro.validation_enabled(False),
        LocalParamMessenger(),
        DrawMessenger(skip=True),
    ):
        model = _particles(collapse_tree(spvae.model), num_particles)
        trace: Any = poutine.trace(model).get_trace(num=rows)
    return dict(trace.nodes)


def _particles(program: Any, num: int) -> Any:
    return pyro.plate(PARTICLE_PLATE, num, dim=-3)(program)


def _with_event(seen: Tensor, site: Any) -> Tensor:
    """``bool [data or 1, leaf]`` with axes of size 1 for the event of a site."""
    return seen.reshape(seen.shape + (1,) * site["fn"].event_dim)


def _mean(name: str, site: Any, program: str) -> Tensor:
    try:
        mean = site["fn"].mean
    except (NotImplementedError, AttributeError):
        raise ValueError(
            f"the latent site '{name}' has no mean: the {program}'s {type(site['fn']).__name__} does not define it"
        ) from None
    # means that depend on other latent variables differ between particles
    return mean[0] if mean.stride(0) == 0 else mean.mean(0)
