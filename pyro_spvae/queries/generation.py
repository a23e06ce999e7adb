# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Generation: data drawn from a model, or made from values of its tree and latent variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.distributions import InducedTree
from pyro_spvae.distributions.autoregressive import pixel_summaries
from pyro_spvae.locking import alone
from pyro_spvae.queries.decoding import DrawMessenger
from pyro_spvae.queries.given import Given
from pyro_spvae.queries.held import Held
from pyro_spvae.queries.quiet import quiet
from pyro_spvae.queries.storage import Storage

BLOCK = 8192  # data (times particles) that are generated or decoded at a time, which bounds memory
EXACT_BLOCK = 256  # data at a time where nothing is latent: such leaves are small, and circuits over them large


class Generation(Storage):
    """The part of :class:`~pyro_spvae.queries.Queries` that makes data."""

    @alone()
    @torch.no_grad()
    def sample(
        self,
        num: int = 1,
        given: Mapping[str, Any] | None = None,
        *,
        means: bool = False,
        num_particles: int = 100,
        hold: Sequence[str] = (),
        copies: int = 1,
        progress: bool = False,
    ) -> Tensor:
        """
        Draws data from the model, or from it given values of latent variables, such as ``{"c": 2}``.

        With ``copies``, so many data after one another share the induced tree and one draw of the variables that are
        held, and all else is drawn anew for each: what a global variable says, and what local ones vary.

        The variables after those that are given are drawn given them. Those before them, on which they may depend, are
        resampled from draws of the prior by the density of what is given, separately for each datum and leaf.

        :param int num: how many.
        :param dict given: values of latent sites, in all data and leaves: a number, or a tensor that broadcasts to
            ``[num, leaf, *event]``.
        :param bool means: return the likelihood's means instead of draws (of the same trees and latent variables' law).
        :param int num_particles: draws of the variables before those that are given, of which one is taken.
        :param hold: names of the latent sites that copies share besides the tree; the model draws no other before them.
        :param int copies: how many data share them, a divisor of ``num``.
        :param bool progress: show a progress bar where pixels are drawn one after the other.
        :returns: ``[num, *event_shape]``.
        :raises ValueError: if a site is unknown, or a value is outside of its support or does not broadcast; for copies
            beside ``given``, or held sites without copies.

        Example::

            >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, latent_dim=2, likelihood=Bernoulli())
            >>> spvae.sample(5).shape
            torch.Size([5, 1, 8, 8])
            >>> means = spvae.sample(5, means=True)
            >>> bool(((means > 0) & (means < 1)).all())
            True
        """
        num = checks.positive_integer("num", num)
        num_particles = checks.positive_integer("num_particles", num_particles)
        with quiet(self):
            held = Held.make(self, hold, copies, num, given)
            fixed = Given.make(self, given, num)
            size = max(1, BLOCK // num_particles) if fixed.before else max(1, BLOCK // held.copies) * held.copies
            blocks = []
            for start in range(0, num, size):
                rows = min(size, num - start)
                latents = fixed.latents(self, start, rows, num_particles) | held.draw(self, rows)
                blocks.append(self._generate(rows, None, means, progress, latents))
            return torch.cat(blocks)

    @alone()
    @torch.no_grad()
    def decode(self, tree: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """
        The likelihood's means given tree and latent variables.

        :param Tensor tree: selected leaves of an induced tree, ``bool [data, leaf]``.
        :param dict latents: values of latent sites of all leaves, ``[data, leaf, *event]``; sites that are left out are
            drawn from the model given the others.
        :returns: ``[data, *event_shape]``.
        :raises TypeError: if a value is no tensor.
        :raises ValueError: if a site is unknown, or a value of another shape, or leaves are those of no induced tree.
        """
        checks.instance("tree", tree, Tensor)
        if tree.dtype != torch.bool or tree.dim() != 2 or tree.size(1) != self.num_leaves:
            raise ValueError(
                f"tree is of type {tree.dtype} and shape {list(tree.shape)}; bool [data, {self.num_leaves}], the "
                "leaves that are selected, is needed"
            )
        none = InducedTree(self.circuit).log_prob(tree) == -math.inf
        if bool(none.any()):
            row = int(none.nonzero()[0, 0])
            raise ValueError(
                f"tree selects in row {row} the leaves {tree[row].nonzero().flatten().tolist()}, which no induced tree "
                "has; leaves that hold each entry once, such as InducedTree(spvae.circuit).sample() has, are needed"
            )
        for name, value in latents.items():
            checks.latent_site("latents holds", name, self.latents)
            checks.instance(f"latents[{name!r}]", value, Tensor)
            wanted = (len(tree), self.num_leaves, *self.latents[name].event_shape)
            if value.shape != wanted:
                raise ValueError(
                    f"latents[{name!r}] has shape {list(value.shape)}; [data, leaf, *event], {list(wanted)}, is needed"
                )
        given = {**latents, "tree": tree.unsqueeze(-2)}
        with quiet(self):
            trace: Any = poutine.trace(poutine.condition(self.model, data=given)).get_trace(num=len(tree))
            means = pixel_summaries(trace.nodes["x"]["fn"], trace.nodes["x"]["value"])
        return self.view.assemble(tree, means)

    def _generate(
        self,
        num: int,
        posterior: Callable[..., None] | None,
        means: bool,
        progress: bool,
        given: dict[str, Tensor] | None = None,
        seen: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """
        Data given draws of a posterior, or values of latent sites ``[num, leaf, *event]``; and, of every leaf, given
        patches and which of their pixels are ``seen``, in the place of which anything may be.
        """
        with quiet(self), DrawMessenger(progress=progress, seen=seen):
            model: Callable[..., Tensor] = self.model
            if posterior is not None:
                model = poutine.replay(model, trace=poutine.trace(posterior).get_trace())
            if given:
                model = poutine.condition(model, data=given)
            trace: Any = poutine.trace(model).get_trace(num=num)
            if not means:
                return trace.nodes["_RETURN"]["value"]
            patches = pixel_summaries(trace.nodes["x"]["fn"], trace.nodes["x"]["value"])
        return self.view.assemble(trace.nodes["tree"]["value"].squeeze(-2).to(patches.device), patches)
