# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How much latent dimensions vary with the data (Burda et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae import distributed
from pyro_spvae.data import Rows
from pyro_spvae.models import SPVAE
from pyro_spvae.models.posterior import draw_means
from pyro_spvae.training.blocks import block, evaluating, shared_blocks

_DRAWS = 32  # of the sites that a site depends on
_PAIRS = 512  # rows times draws at a time
_STREAM = 8  # of seeds


def mean_variances(
    spvae: SPVAE, rows: Rows | Tensor, observed: Tensor | None = None, seed: int = 0
) -> dict[str, Tensor | None]:
    r"""
    The statistic of Burda et al. 2016, the variance over data of what the guide expects of a latent dimension,

    .. math:: A_u = \mathrm{Var}_x(E_{q(u \mid x)}[u]).

    A site whose distribution depends on sites that the guide draws before it, such as the lower layer of two, has means
    that are averaged over 32 draws of these. The noise that is left, a 32nd of the variance of means among the draws
    of one datum, is subtracted, so that estimates are unbiased (and may be below 0); one draw of the upper layer, as
    in the authors' code, finds dimensions active that follow that draw alone. A leaf that sees nothing of a datum
    encodes zeros.

    :param Tensor observed: ``bool``, broadcastable to the rows, True = seen.
    :param int seed: of the draws.
    :returns: by site, float64 ``[leaf, *event]``; ``None`` for a single row, and where a site has no finite mean.
    """
    if not spvae.has_latents:
        return {}
    with evaluating(spvae):
        torch.manual_seed(seed)
        first = draw_means(spvae, *block(spvae, rows, observed, 0, 1), 2)
        shifts = {name: mean.cpu().double()[0, 0] for name, mean in first.items() if mean is not None}
        if len(rows) < 2 or not shifts:
            return dict.fromkeys(first)
        drawn = any(mean is not None and bool((mean[0] != mean[1]).any()) for mean in first.values())
        draws = _DRAWS if drawn else 1
        sums = {name: shift.new_zeros(3, *shift.shape) for name, shift in shifts.items()}
        size = max(1, _PAIRS // draws)
        for start, _ in shared_blocks(len(rows), size, seed, _STREAM):
            means = draw_means(spvae, *block(spvae, rows, observed, start, start + size), draws)
            for name, shift in shifts.items():
                sums[name] += _sums(means[name], shift)
    return {name: _variance(sums[name], len(rows), draws) if name in sums else None for name in first}


def _sums(means: Tensor | None, shift: Tensor) -> Tensor:
    """
    Over data: sums of averages over draws, of their squares, and of variances among draws, ``[3, leaf, *event]``.

    :param Tensor means: ``[particle, data, leaf, *event]``.
    :param Tensor shift: ``[leaf, *event]``; keeps the sums of squares small.
    """
    if means is None:  # not finite here, but for the first row
        return torch.full((3, *shift.shape), torch.nan, dtype=shift.dtype)
    means = means.cpu().double() - shift
    average = means.mean(0)
    among = means.var(0) if len(means) > 1 else torch.zeros_like(average)
    return torch.stack([average.sum(0), average.square().sum(0), among.sum(0)])


def _variance(sums: Tensor, rows: int, draws: int) -> Tensor | None:
    first, second, among = distributed.total(sums.to(distributed.message_device())).cpu() / rows
    variance = (second - first.square()) * rows / (rows - 1) - among / draws
    return variance if bool(variance.isfinite().all()) else None
