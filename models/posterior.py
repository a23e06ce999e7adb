# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tree and latent variables given data: circuit posterior and importance resampling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae.distributions import InducedTree
from pyro_spvae.infer import collapse_tree, renyi_mean
from pyro_spvae.infer.leaf_terms import LeafTermCollector
from pyro_spvae.infer.local_param import LocalParamMessenger

if TYPE_CHECKING:
    from pyro_spvae.models.spvae import SPVAE


class TreePosterior:
    """
    The guide that :meth:`pyro_spvae.models.SPVAE.posterior` returns.

    Draws ``num_particles`` values of every latent site from the leaf guide once, with their importance weights; each
    call then states ``tree`` (from the posterior over trees given the averaged weights) and the latent sites
    (resampled by their weights, per datum and leaf).
    """

    def __init__(self, spvae: SPVAE, x: Tensor, observed: Tensor | None, num_particles: int) -> None:
        if isinstance(num_particles, bool) or not isinstance(num_particles, int) or num_particles < 1:
            raise ValueError(f"num_particles is {num_particles!r}; a positive integer is needed")
        self.num_leaves = spvae.num_leaves
        self.rows = len(x)
        particles = pyro.plate("num_particles_vectorized", num_particles, dim=-3)
        with torch.no_grad(), pyro.validation_enabled(False), LocalParamMessenger():
            guide_trace: Any = poutine.trace(particles(spvae.guide)).get_trace(x, observed)
            model = collapse_tree(poutine.replay(particles(spvae.model), trace=guide_trace))
            model_trace: Any = poutine.trace(model).get_trace(x, observed)
            terms = LeafTermCollector(joint_particles=False).collect(model_trace, guide_trace)
            prior_trace: Any = poutine.trace(particles(collapse_tree(spvae.model))).get_trace(num=len(x))
            batch = spvae.prepare(x, observed)
        self.log_weight = terms.log_weight.expand(num_particles, self.rows, self.num_leaves)  # [K, B, L]
        self.tree = InducedTree(spvae.circuit, renyi_mean(self.log_weight).unsqueeze(-2))
        self.values: dict[str, tuple[Tensor, int]] = {}
        for name, site in guide_trace.nodes.items():
            if site["type"] != "sample" or site["is_observed"] or name not in model_trace.nodes:
                continue
            if not any(frame.name == "leaf" for frame in site["cond_indep_stack"]):
                continue
            value, event_dim = site["value"], site["fn"].event_dim
            if batch.seen is not None:
                # a leaf that sees nothing has weight 1 whatever the guide drew; its posterior is its prior
                seen = batch.seen.reshape(batch.seen.shape + (1,) * event_dim)
                value = torch.where(seen, value, prior_trace.nodes[name]["value"])
            self.values[name] = (value, event_dim)

    def __call__(self, *args: object, **kwargs: object) -> None:
        particle = dist.Categorical(logits=self.log_weight.movedim(0, -1)).sample()  # [B, L]
        with pyro.plate("data", self.rows, dim=-2):
            pyro.sample("tree", self.tree)
            with pyro.plate("leaf", self.num_leaves, dim=-1):
                for name, (value, event_dim) in self.values.items():
                    index = particle.reshape(1, *particle.shape, *[1] * event_dim)
                    chosen = value.gather(0, index.expand(1, *value.shape[1:])).squeeze(0)
                    pyro.sample(name, dist.Delta(chosen, event_dim=event_dim))
