# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What leaves off the tree do when the tree is a random variable and not summed out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_spvae.distributions.chosen import Chosen


class PseudoPriorMessenger(Messenger):
    r"""
    Lets only the leaves on the tree count: observed sites are masked by the tree, and a latent site of a leaf off the
    tree takes the guide's density as its prior.

    Carlin and Chib (1995) call that density a pseudo-prior. It may be any normalised density without changing
    :math:`p(x)`; with the guide's own, the terms :math:`\log p(z) - \log q(z \mid x)` of leaves off the tree are
    exactly 0, so that the pair is right under every Pyro objective, and ``TraceEnum_ELBO`` equals
    :class:`~pyro_spvae.infer.CircuitELBO`. Masks and scales that the programs give to sites of their own hold on the
    tree and off it, there as the guide has them.

    :param Tensor tree: selected leaves ``bool [.., data, leaf]``.
    :param callable guide: runs the leaf guide's statements, without plates.
    """

    def __init__(self, tree: Tensor, guide: Callable[[], Any]) -> None:
        super().__init__()
        self.tree = tree
        self.guide = guide
        self.values: dict[str, Tensor] = {}
        self._latents: set[str] = set()  # sites that handlers outside may give values, which makes them observed

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            msg["mask"] = self.tree if msg["mask"] is None else msg["mask"] & self.tree
            return
        self._latents.add(msg["name"])
        guide = self._guide_site(msg["name"])
        msg["fn"] = Chosen(self.tree, guide["fn"], msg["fn"])
        # off the tree it counts as it does in the guide
        if msg["mask"] is not guide["mask"]:
            msg["mask"] = self._by_tree(*(True if mask is None else mask for mask in (msg["mask"], guide["mask"])))
        scales = msg["scale"], guide["scale"]
        if any(isinstance(scale, Tensor) for scale in scales) or scales[0] != scales[1]:
            msg["scale"] = self._by_tree(*scales)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self._latents:
            self.values[msg["name"]] = msg["value"]

    def _by_tree(self, on: Any, off: Any) -> Tensor:
        on, off = (torch.as_tensor(value, device=self.tree.device) for value in (on, off))
        return torch.where(self.tree, on, off)

    def _guide_site(self, name: str) -> Any:
        # a second latent layer's guide may depend on the first one's value in this run of the model
        with poutine.block(), poutine.trace() as tracer, poutine.condition(data=self.values):
            self.guide()
        if name not in tracer.trace.nodes:
            raise ValueError(f"the leaf model's latent site '{name}' is not in the leaf guide; add it there")
        for before, site in tracer.trace.nodes.items():
            if before == name:
                break
            if site["type"] == "sample" and not site["is_observed"]:
                raise ValueError(
                    f"the leaf guide draws '{before}' before '{name}', the leaf model after it; with a tree that is "
                    "sampled both need one order: use CircuitELBO, which sums the tree out, or another guide"
                )
        return tracer.trace.nodes[name]
