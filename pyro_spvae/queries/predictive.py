# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What is not seen of data given what is: draws, and densities of entries alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae.circuits.numerics import log_sum_exp
from pyro_spvae.data import Column
from pyro_spvae.distributions.autoregressive import means_need_draws, pixel_means
from pyro_spvae.distributions.kinds import hidden_pixels
from pyro_spvae.infer import collapse_tree
from pyro_spvae.queries.decoding import DrawMessenger
from pyro_spvae.queries.generation import Generation
from pyro_spvae.queries.posterior import TreePosterior
from pyro_spvae.queries.programs import particles
from pyro_spvae.queries.quiet import quiet

_VALUES = 2**22  # log-densities that are held together
_PAIRS = 8192  # data times draws of pixels


class Predictive:
    r"""
    The posterior predictive distribution of data of which a part is seen, by weighted particles of each leaf.

    With :math:`z_{kl}` from the guide given what is seen, :math:`\hat w_{kl}` its normalised importance weights and
    :math:`P(l \mid s)` the circuit's posterior of a leaf, the density of one entry is Rao-Blackwellised over tree and
    particles,

    .. math:: p(x_j \mid s) = \sum_{l \ni j} P(l \mid s) \sum_k \hat w_{kl}\, p(x_{lj} \mid z_{kl}, s_l),

    since an induced tree has one leaf that sees the entry; what else that leaf sees matters where pixels depend on each
    other given its latent variables. That of several together multiplies every leaf's value by
    :math:`\sum_k \hat w_{kl}\, p(x_{l,\mathrm{hidden}} \mid z_{kl})` and takes the ratio of the circuit's roots: both
    terms of :math:`\log p(h, s) - \log p(s)` see the same particles, whose noise cancels. Exact where nothing is
    latent.

    :param Generation root: the model.
    :param Tensor x: data ``[data, *event_shape]`` that were checked; entries that are not seen are not looked at.
    :param Tensor observed: ``bool [data, *event_shape]``.
    :param int num_particles: importance samples of each leaf.
    :param int first: number of the first row among those that were asked about, for messages.
    """

    def __init__(self, root: Generation, x: Tensor, observed: Tensor, num_particles: int, first: int = 0) -> None:
        self.root, self.x, self.observed, self.num_particles = root, x, observed, num_particles
        self.batch = replace(root.prepare(torch.where(observed, x, 0.0), observed), first=first)
        with torch.no_grad(), quiet(root):
            self.posterior = TreePosterior(root, self.batch, num_particles)
            log_weight = self.posterior.log_weight
            self.leaf_values = log_sum_exp(log_weight, 0)  # [B, L]
            self.log_share = torch.where(self.leaf_values == -torch.inf, 0.0, log_weight - self.leaf_values)
            self.log_posterior = root.circuit.posterior(self.leaf_values).double().log()

    @torch.no_grad()
    def draw(self, num: int) -> Tensor:
        """Draws of what is not seen, ``[num, data, *event_shape]``; in the place of what is, anything may stand."""
        root, mask = self.root, self.batch.mask
        seen = None if mask is None else (self.batch.patches, mask)
        with quiet(root):
            return torch.stack(
                [root._generate(self.batch.rows, self.posterior, False, False, seen=seen) for _ in range(num)]
            )

    @torch.no_grad()
    def mean(self, progress: bool = False) -> Tensor:
        r"""
        Means of what is not seen, Rao-Blackwellised like the densities,

        .. math:: E[x_j \mid s] = \sum_{l \ni j} P(l \mid s) \sum_k \hat w_{kl}\, E[x_{lj} \mid z_{kl}, s_l],

        and where pixels of a leaf wait for each other of each given a draw of those before it, averaged over as many
        draws as there are particles. Of categories that of their numbers.

        :param bool progress: show a progress bar where pixels are drawn one after the other.
        :returns: float64 ``[data, *event_shape]``; in the place of what is seen, anything may stand.
        """
        means, drawn = self._means(len(self.log_share), progress)
        most = self.num_particles if drawn and len(self.log_share) == 1 else 1  # draws of latent variables are averaged
        size = max(1, _PAIRS // self.batch.rows)
        total, done = means, 1
        while done < most:
            size = min(size, most - done)
            total = total + self._means(size, progress)[0].sum(0, keepdim=True)
            done += size
        means = total / done  # [K, B, L, P]
        posterior = self.log_posterior.exp()
        of_leaves = (self.log_share.double().exp().unsqueeze(-1) * means).sum(0)  # [B, L, P]
        return self.root.view.assemble(posterior > 0, posterior.unsqueeze(-1) * of_leaves)

    def _means(self, num: int, progress: bool) -> tuple[Tensor, bool]:
        """
        Means of pixels given what was drawn of latent variables, ``[particle, data, leaf, pixel]``, and whether also
        given pixels that are drawn.
        """
        root, mask = self.root, self.batch.mask
        seen = None if mask is None else (self.batch.patches, mask)
        latents = {name: value for name, (value, _) in self.posterior.values.items()}
        zero = root._reference().new_zeros(())  # draws of all leaves would take long, and most means need none
        with quiet(root), DrawMessenger(progress=progress, zero=zero, seen=seen, means=True):
            model = particles(poutine.condition(collapse_tree(root.model), data=latents), num)
            trace: Any = poutine.trace(model).get_trace(num=self.batch.rows)
            law = trace.nodes["x"]["fn"]
            return pixel_means(law, trace.nodes["x"]["value"]).double(), means_need_draws(law)

    def coded(self, columns: Sequence[Column]) -> Tensor:
        """Which columns hold numbers of categories, ``bool [entry]``."""
        return torch.tensor([column.is_coded for column in columns], device=self.x.device)

    def likeliest(self, columns: Sequence[Column], hidden: Tensor) -> Tensor:
        """
        The most probable category of each hidden entry by itself, given what is seen.

        :param columns: what the entries of a row are.
        :param Tensor hidden: ``bool [data, entry]``, of columns of categories, none of which are seen.
        :returns: numbers of categories ``[data, entry]``; 0 where entries are not hidden.
        """
        last = torch.tensor([max(0, len(column.categories) - 1) for column in columns], device=self.x.device)
        found = torch.zeros_like(self.x, dtype=torch.long)
        if not bool(hidden.any()):
            return found
        # a column of fewer categories is asked for its last one again, and the first of the largest is taken
        values = [torch.full_like(self.x, number).minimum(last.to(self.x)) for number in range(int(last.max()) + 1)]
        return torch.where(hidden, self.log_single(values, hidden).argmax(0), found)

    def log_joint(self, x: Tensor, hidden: Tensor) -> Tensor:
        r"""
        :math:`\log p(h \mid s)` of all hidden entries of a row together, nats, ``[data]``; 0 where there are none.

        :param Tensor hidden: ``bool [data, *event_shape]``, none of which are seen.
        """
        (ratio,), _ = self._ratios([x], (hidden | self.observed).unsqueeze(0), self.observed)
        with torch.no_grad():
            circuit = self.root.circuit
            return (circuit(self.leaf_values + ratio[0].to(self.leaf_values)) - circuit(self.leaf_values)).double()

    def log_single(self, values: Sequence[Tensor], hidden: Tensor) -> Tensor:
        r"""
        :math:`\log p(x_j \mid s)` of each hidden entry by itself, nats, for several values of it.

        :param values: data ``[data, entry]`` that hold them.
        :param Tensor hidden: ``bool [data, entry]``, none of which are seen.
        :returns: ``[value, data, entry]``; 0 where entries are not hidden.
        """
        number = hidden.cumsum(1)  # of the hidden entries of a row, from 1
        most = int(number.max())
        found = torch.zeros(len(values), *hidden.shape, dtype=torch.float64, device=hidden.device)
        leaves, pixels = self.batch.patches.shape[1:]
        size = max(1, _VALUES // (len(self.log_share) * hidden.size(0) * leaves * pixels))
        for start in range(1, most + 1, size):
            numbers = torch.arange(start, min(start + size, most + 1), device=hidden.device).reshape(-1, 1, 1)
            masks = hidden & (number == numbers)  # [M, B, D]
            ratios, members = self._ratios(values, masks)
            for own, ratio in zip(found, ratios, strict=True):
                log = (self.log_posterior + ratio).masked_fill(~members, -torch.inf).logsumexp(-1)  # [M, B]
                own += torch.where(masks, log.unsqueeze(-1), 0.0).sum(0)
        return found

    def _ratios(
        self, values: Sequence[Tensor], masks: Tensor, given: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        r"""
        Of each leaf :math:`\log \sum_k \hat w_{kl}\, p(x_{l} \mid z_{kl}, s_l)` of the entries of a mask, none of which
        are seen unless some are ``given``.

        :param values: data ``[data, *event_shape]``, only read where a mask is set.
        :param Tensor masks: ``bool [mask, data, *event_shape]``.
        :param Tensor given: ``bool [data, *event_shape]``, of entries in the mask that the others are given; by default
            all that are seen.
        :returns: for each of the values ``[mask, data, leaf]``, float64; and which leaves see any entry of a mask.
        """
        root, padding = self.root, self.root.view.mask
        pixels = root.view(masks if given is None else torch.cat([masks, given.unsqueeze(0)]))  # [M, B, L, P]
        pixels = pixels if padding is None else pixels & padding
        counted = masks.any(0)
        patches = [root.view.patches(torch.where(counted, x, 0.0)) for x in values]
        batch = replace(self.batch, patches=patches[0], mask=pixels.unsqueeze(1), seen=None)
        latents = {name: value for name, (value, _) in self.posterior.values.items()}
        with torch.no_grad(), quiet(root):
            model = particles(poutine.condition(collapse_tree(root.model), data=latents), len(self.log_share))
            trace: Any = poutine.trace(model).get_trace(batch)
            law = trace.nodes["x"]["fn"]
            if given is None and self.batch.mask is not None:  # which matters where pixels depend on each other
                law = hidden_pixels(law, self.batch.patches, self.batch.mask)
            found = []
            for patch in patches:
                log = law.log_prob(patch).double()  # [M, K, B, L]
                log = log if given is None else log[:-1] - log[-1]
                found.append((self.log_share + log).logsumexp(1))
        return found, pixels[: len(masks)].any(-1)
