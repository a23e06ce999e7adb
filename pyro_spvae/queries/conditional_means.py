# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Conditional means: the expectation of what is missing given what is seen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.locking import alone
from pyro_spvae.queries.generation import BLOCK, EXACT_BLOCK, Generation
from pyro_spvae.queries.predictive import Predictive


class ConditionalMeans(Generation):
    """The part of :class:`~pyro_spvae.queries.Queries` that averages over the posterior of trees and latents."""

    @alone()
    @torch.no_grad()
    def conditional_mean(
        self, x: Any, observed: Any = None, *, num_particles: int = 100, progress: bool = False
    ) -> Tensor:
        r"""
        Conditional mean :math:`E[x_\mathrm{missing} \mid x_\mathrm{seen}]`, the imputation of least expected squared
        error, in the units of the data.

        The mean over induced trees is exact, that over the latent variables of a leaf by self-normalised importance
        sampling, see :class:`~pyro_spvae.queries.predictive.Predictive`; exact where nothing is latent and pixels of a
        leaf do not wait for each other. Of columns of categories it is the most probable category.

        :param x: data ``[data, *event_shape]``; values at missing entries are not looked at.
        :param observed: ``bool``, broadcastable to ``x``, True = seen; need not be given for tables with NaN.
        :param int num_particles: importance samples of each leaf.
        :param bool progress: show a progress bar where pixels are drawn one after the other.
        :returns: ``[data, *event_shape]``, seen entries as in ``x``.
        :raises ValueError: if a row has density 0, or data or mask are unfit.
        """
        num_particles = checks.positive_integer("num_particles", num_particles)
        x, observed = self.taken(x, observed)
        checks.instance("observed", observed, Tensor)
        self.refuse(x, observed)
        observed = observed.expand(x.shape)
        size = max(1, BLOCK // num_particles) if self.latents else EXACT_BLOCK
        blocks = []
        for start in range(0, len(x), size):
            own, seen = x[start : start + size], observed[start : start + size]
            predictive = Predictive(self, own, seen, num_particles, first=start)
            found = predictive.mean(progress).to(x.dtype)
            if self.columns is not None:
                coded = ~seen & predictive.coded(self.columns)
                found = torch.where(coded, predictive.likeliest(self.columns, coded).to(x.dtype), found)
            blocks.append(torch.where(seen, own, found))
        return torch.cat(blocks)
