# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Figures of a split: bounds and what they are made of, log-likelihoods, active units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_spvae import distributed
from pyro_spvae.data import Rows
from pyro_spvae.data.rows import select
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.evaluating import block, by_blocks, evaluating, shared_blocks
from pyro_spvae.infer import BoundTerms, CircuitELBO, bound_terms
from pyro_spvae.queries import Queries
from pyro_spvae.queries.programs import draw_means
from pyro_spvae.training.by_kind import by_kind
from pyro_spvae.training.pace import Pace

Tick = Callable[[int, int], None]

TERMS = ("elbo", "leaf_elbo", "reconstruction", "latent_kl", "tree_kl")
_BOUND_ROWS, _LIKELIHOOD_ROWS = 256, 16
_READ = 4096  # rows whose masks are counted together
_ACTIVE = 0.01  # variance of means above which a unit is active, Burda et al. 2016
_DRAWS, _PAIRS = 32, 512  # draws of the sites that a site depends on; rows times draws at a time


class Evaluation(NamedTuple):
    """
    What :func:`evaluate_rows` finds.

    :ivar dict results: ``rows``, where not all entries are seen ``seen_entries`` (mean number of a row),
        ``log_likelihood`` (mean) and its ``standard_error``, of tables what :func:`pyro_spvae.training.by_kind.by_kind`
        says of it, ``samples`` (0 where it is exact), the bounds of
        :func:`mean_bounds`, ``seed``, where there are any the numbers ``stated`` by parts of the model, by name of the
        module (see :meth:`pyro_spvae.part.Part.stated`); and for each latent site its ``kl``, a sum of which is
        ``latent_kl``, as ``cross_entropy`` less ``entropy`` (see :class:`~pyro_spvae.infer.LatentTerms`), and
        ``active_units`` (see :func:`active_units`). In nats, means over rows.
    :ivar Tensor log_likelihood: of every row, nats, float64 ``[data]``.
    :ivar dict dimensions: of every latent site and dimension, float64 ``[leaf, *event]``: ``mean_variance_<site>``, the
        statistic that active units are counted by, and, where the prior is standard normal, ``dimension_kl_<site>``,
        the dimension's part of the site's divergence in closed form, means over rows.
    """

    results: dict[str, Any]
    log_likelihood: Tensor
    dimensions: dict[str, Tensor]


def prepare_evaluation(spvae: Queries, seed: int) -> None:
    """Lets parts compute what figures need, in evaluation mode, with noise that is the same in every process."""
    with evaluating(spvae, noise_seed(seed, 0, stream=9)):
        spvae.prepare_evaluation()


def before_validation(spvae: Queries, seed: int) -> None:
    """Lets parts compute what a validation needs, in evaluation mode, with noise that is the same in every process."""
    with evaluating(spvae, noise_seed(seed, 0, stream=10)):
        spvae.before_validation()


def mean_bounds(
    spvae: Queries,
    elbo: CircuitELBO,
    rows: Rows | Tensor,
    seed: int,
    observed: Tensor | None = None,
    tick: Tick | None = None,
) -> dict[str, float]:
    """
    The bound that is trained (``elbo``), and that of leaf ELBOs (``leaf_elbo``) with its parts ``reconstruction``,
    ``latent_kl`` and ``tree_kl``; nats, means over rows.

    Both see the same noise, so that they differ by their definition alone: for ``alpha=1`` they are equal.

    :param callable tick: told now and then how many rows are done, and of how many.
    """
    return _mean_bounds(spvae, elbo, rows, seed, observed, {}, tick)[0]


def _mean_bounds(
    spvae: Queries,
    elbo: CircuitELBO,
    rows: Rows | Tensor,
    seed: int,
    observed: Tensor | None,
    latents: dict[str, Tensor | None],
    tick: Tick | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, Tensor]]:
    """
    :func:`mean_bounds`; entropy, cross-entropy and divergence by latent site; divergences by dimension.

    :param dict latents: the sites that are wanted, and of those whose divergence is a sum over dimensions zeros in
        their shape.
    """
    sums = {name: zeros.clone() for name, zeros in latents.items() if zeros is not None}

    def terms(x: Tensor, seen: Tensor | None, block_seed: int) -> Tensor:
        arguments = (x,) if seen is None else (x, seen)
        bound = elbo.bound(spvae.model, spvae.guide, *arguments)
        torch.manual_seed(block_seed)
        parts = bound_terms(spvae.model, spvae.guide, *arguments, num_particles=elbo.num_particles)
        sites = [parts.latents[name] for name in latents]
        for name, total in sums.items():
            total += parts.latents[name].dimension_kl.sum(0).to(total)  # type: ignore[union-attr]
        columns = [bound, parts.elbo, parts.reconstruction, parts.latent_kl, parts.tree_kl]
        return torch.stack([*columns, *(column for site in sites for column in (site.entropy, site.cross_entropy))], -1)

    columns = len(TERMS) + 2 * len(latents)
    means = by_blocks(spvae, rows, observed, terms, columns, _BOUND_ROWS, seed, tick=tick).mean(0).tolist()
    entropy = dict(zip(latents, means[len(TERMS) :: 2], strict=True))
    cross_entropy = dict(zip(latents, means[len(TERMS) + 1 :: 2], strict=True))
    split = {
        "kl": {name: cross_entropy[name] - entropy[name] for name in latents},
        "entropy": entropy,
        "cross_entropy": cross_entropy,
    }
    by_dimension = {name: distributed.total(total).cpu() / len(rows) for name, total in sums.items()}
    return dict(zip(TERMS, means[: len(TERMS)], strict=True)), split, by_dimension


def _latents(spvae: Queries, rows: Rows | Tensor, observed: Tensor | None) -> dict[str, Tensor | None]:
    """The latent sites, see :func:`_mean_bounds`; every process knows them, whether or not it has rows."""

    def zeros(by_dimension: Tensor | None) -> Tensor | None:
        where = distributed.message_device()
        return None if by_dimension is None else torch.zeros(by_dimension.shape[1:], dtype=torch.float64, device=where)

    with evaluating(spvae):
        x, seen = block(spvae, rows, observed, 0, 1)
        arguments = (x,) if seen is None else (x, seen)
        parts: BoundTerms = bound_terms(spvae.model, spvae.guide, *arguments)
    return {name: zeros(site.dimension_kl) for name, site in parts.latents.items()}


def log_likelihoods(
    spvae: Queries,
    rows: Rows | Tensor,
    *,
    samples: int,
    chunk_size: int,
    seed: int,
    observed: Tensor | None = None,
    progress: bool = False,
    tick: Tick | None = None,
) -> Tensor:
    """
    The log-likelihood of every row, see :meth:`pyro_spvae.models.SPVAE.log_likelihood`.

    :param Tensor observed: ``bool``, broadcastable to the rows: marginal log-likelihoods of the seen entries.
    :param callable tick: told now and then how many rows are done, and of how many.
    :returns: nats, float64 ``[data]``, the same in every process.
    """

    def estimate(x: Tensor, seen: Tensor | None, block_seed: int) -> Tensor:
        return spvae.log_likelihood(x, seen, num_samples=samples, chunk_size=chunk_size).unsqueeze(-1)

    samples = samples if spvae.latents else 1  # which is exact
    size = max(_LIKELIHOOD_ROWS, min(chunk_size // samples, _BOUND_ROWS))
    return by_blocks(spvae, rows, observed, estimate, 1, size, seed, progress, tick).squeeze(-1)


def evaluate_rows(
    spvae: Queries,
    rows: Rows | Tensor,
    *,
    elbo: CircuitELBO,
    samples: int,
    chunk_size: int,
    seed: int,
    observed: Tensor | None = None,
    progress: bool = False,
    pace: Pace | None = None,
) -> Evaluation:
    """
    The figures of a split, of the entries that are seen.

    :param Pace pace: told how far it came; without one nothing is reported.

    :raises ValueError: if one of them is not finite.
    """

    pace = Pace(lambda line: None) if pace is None else pace
    with pace.during("evaluating"):
        return _evaluated(spvae, rows, elbo, samples, chunk_size, seed, observed, progress, pace)


def _evaluated(
    spvae: Queries,
    rows: Rows | Tensor,
    elbo: CircuitELBO,
    samples: int,
    chunk_size: int,
    seed: int,
    observed: Tensor | None,
    progress: bool,
    pace: Pace,
) -> Evaluation:
    tick = pace.counting

    def beside_bar(what: str) -> Tick:
        return (lambda done, rows: pace.said()) if progress else tick(what)

    seen = seen_per_row(rows, observed)
    prepare_evaluation(spvae, seed)
    per_mask = partial(
        log_likelihoods, spvae, rows, samples=samples, chunk_size=chunk_size, seed=seed, progress=progress
    )
    per_datum = per_mask(observed=observed, tick=beside_bar("evaluating"))
    kinds = by_kind(spvae, per_datum, lambda mask: per_mask(observed=mask, tick=beside_bar("discrete")), observed)
    bounds, latents, by_dimension = _mean_bounds(
        spvae, elbo, rows, seed, observed, _latents(spvae, rows, observed), tick("bounds")
    )
    mean = float(per_datum.mean())
    of_sites = {f"{term} of {site}": value for term, found in latents.items() for site, value in found.items()}
    for name, value in {"log-likelihood": mean, **bounds, **of_sites}.items():
        if not math.isfinite(value):
            raise ValueError(
                f"the mean {name.replace('_', ' ')} is {value}; look for values far from those that the model was "
                "trained on"
            )
    variances = mean_variances(spvae, rows, observed, seed, tick("latents"))
    results = {
        "rows": len(per_datum),
        **({} if seen is None else {"seen_entries": seen}),
        "log_likelihood": mean,
        **kinds,
        "standard_error": float(per_datum.std() / len(per_datum) ** 0.5) if len(per_datum) > 1 else None,
        "samples": samples if spvae.latents else 0,
        **bounds,
        **latents,
        "active_units": {name: _count(variance) for name, variance in variances.items()},
        **({"stated": stated} if (stated := spvae.stated()) else {}),
        "seed": seed,
    }
    dimensions = {f"mean_variance_{name}": variance for name, variance in variances.items() if variance is not None}
    dimensions |= {f"dimension_kl_{name}": values for name, values in by_dimension.items()}
    return Evaluation(results, per_datum, dimensions)


def seen_per_row(rows: Rows | Tensor, observed: Tensor | None) -> float | None:
    """Mean number of the entries of a row that are seen; ``None`` if all are without being asked."""
    if isinstance(rows, Tensor) or not rows.missing:
        return None if observed is None else int(observed.expand(rows.shape).sum()) / len(rows)
    found = (select(rows, observed, slice(start, start + _READ))[1] for start in range(0, len(rows), _READ))
    return sum(int(seen.sum()) for seen in found if seen is not None) / len(rows)


def per_dimension(figures: Mapping[str, Any], bits_per_dim: Callable[[float], float | None]) -> dict[str, Any]:
    """
    The mean log-likelihood of :func:`evaluate_rows` for each dimension, ``bits_per_dim``; where not all entries are
    seen for each that is, ``nats_per_seen_entry``, since bits/dim stand for a code of every entry.
    """
    mean, seen = figures["log_likelihood"], figures.get("seen_entries")
    if seen is None:
        return {"bits_per_dim": bits_per_dim(mean)}
    return {"bits_per_dim": None, "nats_per_seen_entry": mean / seen if seen else None}


def active_units(
    spvae: Queries, rows: Rows | Tensor, observed: Tensor | None = None, seed: int = 0
) -> dict[str, int | None]:
    """
    Number of active dimensions of every latent site, over all leaves, each of which encodes every datum: those whose
    :func:`mean_variances` are above 0.01.

    :returns: by site, empty where nothing is latent; ``None`` for a single row, and where a site has no mean.
    """
    return {name: _count(variance) for name, variance in mean_variances(spvae, rows, observed, seed).items()}


def mean_variances(
    spvae: Queries,
    rows: Rows | Tensor,
    observed: Tensor | None = None,
    seed: int = 0,
    tick: Tick | None = None,
) -> dict[str, Tensor | None]:
    r"""
    The statistic of Burda et al. 2016, the variance over data of what the guide expects of a latent dimension,

    .. math:: A_u = \mathrm{Var}_x(E_{q(u \mid x)}[u]).

    A site whose distribution depends on sites that the guide draws before it, such as the lower layer of two, has means
    that are averaged over 32 draws of these, and likewise groups of bits given those before them. The noise that is
    left, a 32nd of the variance of means among the draws of one datum, is subtracted, so that estimates are unbiased
    (and may be below 0); one draw of the upper layer, as in the authors' code, finds dimensions active that follow that
    draw alone. A leaf that sees nothing of a datum encodes zeros.

    :param Tensor observed: ``bool``, broadcastable to the rows, True = seen.
    :param int seed: of the draws.
    :param callable tick: told now and then how many rows are done, and of how many.
    :returns: by site, float64 ``[leaf, *event]``; ``None`` for a single row, and where a site has no finite mean.
    """
    if not spvae.latents:
        return {}
    with evaluating(spvae, seed):
        first = draw_means(spvae, spvae.prepare(*block(spvae, rows, observed, 0, 1)), 2)
        shifts = {name: mean.cpu().double()[0, 0] for name, mean in first.items() if mean is not None}
        if len(rows) < 2 or not shifts:
            return dict.fromkeys(first)
        drawn = any(mean is not None and bool((mean[0] != mean[1]).any()) for mean in first.values())
        draws = _DRAWS if drawn else 1
        sums = {name: shift.new_zeros(3, *shift.shape) for name, shift in shifts.items()}
        size = max(1, _PAIRS // draws)
        for start, _ in shared_blocks(len(rows), size, seed, stream=8):
            batch = spvae.prepare(*block(spvae, rows, observed, start, start + size))
            means = draw_means(spvae, batch, draws)
            for name, shift in shifts.items():
                sums[name] += _sums(means[name], shift)
            if tick is not None:
                tick(min(start + size, len(rows)), len(rows))
    return {name: _variance(sums[name], len(rows), draws) if name in sums else None for name in first}


def _sums(means: Tensor | None, shift: Tensor) -> Tensor:
    """
    Over data: sums of averages over draws, of their squares, and of variances among draws, ``[3, leaf, *event]``.

    :param Tensor means: ``[particle, data, leaf, *event]``.
    :param Tensor shift: ``[leaf, *event]``; keeps the sums of squares small.
    """
    if means is None:  # not finite here, but for the first row
        return shift.new_full((3, *shift.shape), torch.nan)
    means = means.cpu().double() - shift
    average = means.mean(0)
    among = means.var(0) if len(means) > 1 else torch.zeros_like(average)
    return torch.stack([average.sum(0), average.square().sum(0), among.sum(0)])


def _variance(sums: Tensor, rows: int, draws: int) -> Tensor | None:
    first, second, among = distributed.total(sums.to(distributed.message_device())).cpu() / rows
    variance = (second - first.square()) * rows / (rows - 1) - among / draws
    return variance if bool(variance.isfinite().all()) else None


def _count(variance: Tensor | None) -> int | None:
    return None if variance is None else int((variance > _ACTIVE).sum())
