# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Figures of a split: bounds, log-likelihoods, active units.

Rows are evaluated in blocks. The noise of a block is a function of the seed and the block's number, and blocks are
shared out among the processes, so that every number is the same however many processes there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae import distributed
from pyro_spvae.data import Rows
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.infer import CircuitELBO, bound_terms
from pyro_spvae.models import SPVAE
from pyro_spvae.training.lean import lean

TERMS = ("elbo", "leaf_elbo", "reconstruction", "latent_kl", "tree_kl")
_BOUND_ROWS, _LIKELIHOOD_ROWS = 256, 16


def mean_bounds(
    spvae: SPVAE, elbo: CircuitELBO, rows: Rows | Tensor, seed: int, observed: Tensor | None = None
) -> dict[str, float]:
    """
    The bound that is trained (``elbo``), and that of leaf ELBOs (``leaf_elbo``) with its parts ``reconstruction``,
    ``latent_kl`` and ``tree_kl``; nats, means over rows.

    Both see the same noise, so that they differ by their definition alone: for ``alpha=1`` they are equal.
    """

    def terms(x: Tensor, seen: Tensor | None, block_seed: int) -> Tensor:
        arguments = (x,) if seen is None else (x, seen)
        bound = elbo.bound(spvae.model, spvae.guide, *arguments)
        torch.manual_seed(block_seed)
        parts = bound_terms(spvae.model, spvae.guide, *arguments, num_particles=elbo.num_particles)
        return torch.stack([bound, *parts], -1)

    means = _by_blocks(spvae, rows, observed, terms, len(TERMS), _BOUND_ROWS, seed).mean(0)
    return dict(zip(TERMS, means.tolist(), strict=True))


def log_likelihoods(
    spvae: SPVAE,
    rows: Rows | Tensor,
    *,
    samples: int,
    chunk_size: int,
    seed: int,
    observed: Tensor | None = None,
    progress: bool = False,
) -> Tensor:
    """
    The log-likelihood of every row, see :meth:`pyro_spvae.models.SPVAE.log_likelihood`.

    :param Tensor observed: ``bool``, broadcastable to the rows: marginal log-likelihoods of the seen entries.
    :returns: nats, float64 ``[data]``, the same in every process.
    """

    def estimate(x: Tensor, seen: Tensor | None, block_seed: int) -> Tensor:
        return spvae.log_likelihood(x, seen, num_samples=samples, chunk_size=chunk_size).unsqueeze(-1)

    samples = samples if spvae.has_latents else 1  # which is exact
    size = max(_LIKELIHOOD_ROWS, min(chunk_size // samples, _BOUND_ROWS))
    return _by_blocks(spvae, rows, observed, estimate, 1, size, seed, progress).squeeze(-1)


def evaluate_rows(
    spvae: SPVAE,
    rows: Rows | Tensor,
    *,
    elbo: CircuitELBO,
    samples: int,
    chunk_size: int,
    seed: int,
    observed: Tensor | None = None,
    progress: bool = False,
) -> tuple[dict[str, Any], Tensor]:
    """
    The figures of a split.

    :returns: ``rows``, ``log_likelihood`` (mean) and its ``standard_error``, ``samples`` (0 where it is exact), the
        bounds of :func:`mean_bounds`, ``active_units``, ``seed``; and the log-likelihood of every row. All in nats.
    :raises ValueError: if one of them is not finite.
    """
    per_datum = log_likelihoods(
        spvae, rows, samples=samples, chunk_size=chunk_size, seed=seed, observed=observed, progress=progress
    )
    bounds = mean_bounds(spvae, elbo, rows, seed, observed)
    mean = float(per_datum.mean())
    for name, value in {"log-likelihood": mean, **bounds}.items():
        if not math.isfinite(value):
            raise ValueError(
                f"the mean {name.replace('_', ' ')} is {value}; look for values far from those that the model was "
                "trained on"
            )
    results = {
        "rows": len(per_datum),
        "log_likelihood": mean,
        "standard_error": float(per_datum.std() / len(per_datum) ** 0.5) if len(per_datum) > 1 else None,
        "samples": samples if spvae.has_latents else 0,
        **bounds,
        "active_units": active_units(spvae, rows, observed),
        "seed": seed,
    }
    return results, per_datum


def active_units(spvae: SPVAE, rows: Rows | Tensor, observed: Tensor | None = None) -> int | None:
    r"""
    Number of latent dimensions of all leaves whose posterior mean varies with the data,
    :math:`\mathrm{Var}_x(E_q[z \mid x]) > 0.01` (Burda et al. 2016), every leaf encoding every datum.

    :returns: the count, 0 where nothing is latent, or ``None`` for a single row, or where what the guide's ``encode``
        returns has no mean.
    """
    if not spvae.has_latents:
        return 0
    if len(rows) < 2:
        return None
    with lean(), torch.no_grad():
        encoding = spvae.leaf_guide.encode(spvae.prepare(*_block(spvae, rows, observed, 0, 1)).features)
        if not isinstance(encoding, torch.distributions.Distribution):
            return None
        shift = encoding.mean.cpu().double()  # [1, leaf, latent]; keeps the sums of squares small
        sums = torch.zeros(2, *shift.shape[1:], dtype=torch.float64, device=distributed.message_device())
        for start in _shared_starts(len(rows), _BOUND_ROWS):
            batch = spvae.prepare(*_block(spvae, rows, observed, start, start + _BOUND_ROWS))
            means = spvae.leaf_guide.encode(batch.features).mean.cpu().double() - shift
            sums += torch.stack([means.sum(0), means.square().sum(0)]).to(sums)
        first, second = distributed.total(sums) / len(rows)
    variance = (second - first.square()) * len(rows) / (len(rows) - 1)
    return int((variance > 0.01).sum())


def _by_blocks(
    spvae: SPVAE,
    rows: Rows | Tensor,
    observed: Tensor | None,
    compute: Callable[[Tensor, Tensor | None, int], Tensor],
    columns: int,
    size: int,
    seed: int,
    progress: bool = False,
) -> Tensor:
    """Results ``[data, columns]`` of all rows, computed by blocks in all processes; leaves torch's generators alone."""
    where, _ = _place(spvae)
    results = torch.zeros(len(rows), columns, dtype=torch.float64, device=distributed.message_device())
    bar = tqdm(total=len(rows), desc="log-likelihood", unit="row", disable=not (progress and distributed.is_main()))
    with bar, lean(), torch.no_grad(), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        for start in _shared_starts(len(rows), size):
            block_seed = noise_seed(seed, start // size, stream=3)
            torch.manual_seed(block_seed)
            x, seen = _block(spvae, rows, observed, start, start + size)
            results[start : start + size] = compute(x, seen, block_seed).to(results)
            bar.update(min(len(x) * distributed.world(), len(rows) - bar.n))
    return distributed.total(results).cpu()


def _shared_starts(rows: int, size: int) -> range:
    """First rows of the blocks that this process computes."""
    return range(distributed.rank() * size, rows, distributed.world() * size)


def _block(
    spvae: SPVAE, rows: Rows | Tensor, observed: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor | None]:
    """Rows and their mask as the model takes them."""
    where, dtype = _place(spvae)
    x = rows[start:stop].to(where, dtype)
    if observed is None:
        return x, None
    return x, (observed.expand(len(rows), *x.shape[1:])[start:stop]).to(where)


def _place(spvae: SPVAE) -> tuple[torch.device, torch.dtype]:
    parameter = next(spvae.parameters())
    return parameter.device, parameter.dtype
