# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Are imputations calibrated? Seen entries are hidden, drawn given the others, and compared with what they were."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_spvae import checks, distributed
from pyro_spvae.data import Column, Rows
from pyro_spvae.data.masks import random_mask
from pyro_spvae.data.rows import select
from pyro_spvae.evaluating import block, evaluating, shared_blocks
from pyro_spvae.queries.calibrated import Calibration, Entries
from pyro_spvae.queries.generation import BLOCK, EXACT_BLOCK, Generation
from pyro_spvae.queries.marginals import Marginal
from pyro_spvae.queries.predictive import Predictive
from pyro_spvae.queries.scores import fair_crps, randomised_pit

_MASKS, _NOISE = 12, 13  # streams
_READ = 4096  # rows
_MARGINAL_ROWS = 2**16  # training rows that marginals are made of, evenly spaced
_VALUES = 2**24  # draws of all rows that are held together
_KINDS: dict[str, str] = {"binary": "binary", "real": "real", "counts": "count", "positive": "positive"}


def hidden_entries(
    rows: Rows | Tensor, observed: Tensor | None, holdout: float, seed: int, channels: bool = False
) -> Tensor:
    """
    Entries to hide: each seen one with the probability ``holdout``, by the seed and the number of the row alone.

    :param rows: rows, of which entries may be missing.
    :param Tensor observed: ``bool``, broadcastable to the rows, True = seen.
    :param bool channels: whether the channels of a position are hidden together.
    :returns: ``bool [data, *event_shape]``, on the CPU.
    :raises ValueError: if ``holdout`` is no number between 0 and 1, or nothing is hidden.
    """
    holdout = check_holdout(holdout)
    event = tuple(rows.shape[1:])
    grid = event[1:] if channels else event
    hidden = random_mask(len(rows), grid, holdout, seed, _MASKS)
    hidden = hidden.unsqueeze(1).repeat(1, event[0], *[1] * len(grid)) if channels else hidden
    seen_entries = 0
    for start in range(0, len(rows), _READ):
        part = slice(start, start + _READ)
        _, seen = select(rows, observed, part)
        if seen is not None:
            hidden[part] &= seen.cpu()
        seen_entries += math.prod(hidden[part].shape) if seen is None else int(seen.sum())
    if not bool(hidden.any()):
        raise ValueError(
            f"holdout is {holdout:g}, which hides none of the {seen_entries:,} seen entries; give a larger one, or "
            "more rows"
        )
    return hidden


def check_hidden(root: Generation, rows: Rows | Tensor, observed: Tensor | None, hidden: Tensor) -> None:
    """
    Refuses rows that the model does not take, and those of which it does not take what is left when some entries are
    hidden, looking at few at a time.

    :param Tensor hidden: see :func:`hidden_entries`.
    :raises ValueError: such as for an autoregressive decoder, which takes whole patches alone.
    """
    like = root._reference()
    for start in range(0, len(rows), _READ):
        part = slice(start, start + _READ)
        x, seen = select(rows, observed, part)
        own = hidden[part].to(like.device)
        x, seen = x.to(like), torch.ones_like(own) if seen is None else seen.to(like.device)
        root.check(x, seen)
        try:
            root.check(x, seen & ~own)
        except ValueError as error:
            raise ValueError(f"holdout hides single entries, but then {error}") from None


def check_holdout(holdout: Any) -> float:
    """
    :raises ValueError: if ``holdout`` is no number between 0 and 1.
    """
    if not checks.is_number(holdout) or not 0 < holdout < 1:
        raise ValueError(f"holdout is {holdout!r}; a part of the seen entries, above 0 and below 1, is needed")
    return float(holdout)


def check_draws(draws: Any) -> int:
    """
    :raises ValueError: if ``draws`` is no integer of at least 2.
    """
    if checks.positive_integer("draws", draws) < 2:
        raise ValueError(f"draws is {draws!r}; an integer of at least 2 is needed, since draws are compared")
    return int(draws)


def calibrate(
    root: Generation,
    rows: Rows | Tensor,
    observed: Tensor | None = None,
    *,
    holdout: float = 0.1,
    draws: int = 100,
    seed: int = 0,
    num_particles: int = 100,
    training: Rows | Tensor | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Calibration:
    """
    What :meth:`pyro_spvae.models.SPVAE.calibration` returns, of rows that are read when they are needed, and computed
    by all processes together.

    :param training: rows whose columns are the baselines; the entries of ``rows`` that are not hidden by default.
    :param callable tick: told now and then how many rows are done, and of how many.
    :raises ValueError: if ``holdout`` is not between 0 and 1 or hides nothing, or another option is out of range.
    """
    draws, num_particles = check_draws(draws), checks.positive_integer("num_particles", num_particles)
    event = root.event_shape
    is_table = len(event) == 1
    hidden = hidden_entries(rows, observed, holdout, seed, channels=len(event) == 3)
    columns = described(root)
    counts = hidden.flatten(1).sum(1)
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    where = distributed.message_device()
    found = torch.zeros(int(counts.sum()), len(Entries.COMPUTED), dtype=torch.float64, device=where)
    joint = torch.zeros(len(rows), dtype=torch.float64, device=where)
    size = max(1, BLOCK // num_particles) if root.latents else EXACT_BLOCK
    size = max(1, min(size, _VALUES // (draws * event.numel())))
    check_hidden(root, rows, observed, hidden)
    with evaluating(root):
        for start, _ in shared_blocks(len(rows), size, seed, stream=_NOISE):
            part = slice(start, start + size)
            x, seen = block(root, rows, observed, start, start + size)
            own = hidden[part].to(x.device)
            seen = torch.ones_like(own) if seen is None else seen
            predictive = Predictive(root, x, seen & ~own, num_particles, first=start)
            computed, joint[part] = _block(predictive, x, own, draws, columns if is_table else None)
            found[first[start] : first[min(start + size, len(rows))]] = computed.to(found)
            if tick is not None:
                tick(min(start + len(x) * distributed.world(), len(rows)), len(rows))
    found, joint = distributed.total(found).cpu(), distributed.total(joint).cpu()
    place = hidden.flatten(1).nonzero()
    entries = Entries(place[:, 0], place[:, 1], *found.unbind(1))
    marginals = _marginals(columns, *((rows, observed, hidden) if training is None else (training, None, None)))
    known = root.columns is not None or _of(root) in _KINDS
    return Calibration.make(
        entries, joint, columns, marginals, is_table, known, holdout=float(holdout), draws=draws, seed=seed
    )


def _block(
    predictive: Predictive, x: Tensor, hidden: Tensor, draws: int, columns: Sequence[Column] | None
) -> tuple[Tensor, Tensor]:
    """What is computed of the hidden entries of few rows, ``[entry, ..]``, and of these together, ``[data]``."""
    drawn = predictive.draw(draws)[:, hidden].double()  # [R, E]
    value = x[hidden].double()
    uniform = torch.rand(value.shape, dtype=torch.float64, device=value.device)
    best, log = drawn.mean(0).round(), torch.full_like(value, torch.nan)
    if columns is not None:
        coded = hidden & predictive.coded(columns)
        best = torch.where(coded[hidden], predictive.likeliest(columns, coded)[hidden].double(), best)
        log = predictive.log_single([x], hidden)[0][hidden]
    crps, pit = fair_crps(drawn, value), randomised_pit(drawn, value, uniform)
    found = [value, drawn.mean(0), best, crps, pit, log]
    return torch.stack(found, -1), predictive.log_joint(x, hidden)


def described(root: Generation) -> tuple[Column, ...]:
    """What each entry of a row is: as the likelihood knows, or of the kind that it is a distribution of."""
    if root.columns is not None:
        return root.columns
    kind: Any = _KINDS.get(_of(root), "count" if _of(root) == "levels" else "real")
    categories = ("0", "1") if kind == "binary" else ()
    return tuple(
        Column(f"column {number}", kind, categories=categories) for number in range(1, root.event_shape.numel() + 1)
    )


def _of(root: Generation) -> str:
    """What the likelihood of the leaves is a distribution of; of several, if they agree."""
    found = {likelihood.of for likelihood in root.likelihoods}
    return found.pop() if len(found) == 1 else "real"


def _marginals(
    columns: Sequence[Column], rows: Rows | Tensor, observed: Tensor | None, hidden: Tensor | None
) -> list[Marginal]:
    number = min(len(rows), _MARGINAL_ROWS)
    index = torch.linspace(0, len(rows) - 1, number, dtype=torch.float64, device="cpu").round().long()
    x, seen = select(rows, observed, index)
    x = x.flatten(1).cpu()
    seen = torch.ones_like(x, dtype=torch.bool) if seen is None else seen.flatten(1).cpu()
    seen = seen & ~x.isnan()
    seen = seen if hidden is None else seen & ~hidden[index].flatten(1)
    return [
        Marginal(own[there], column) for own, there, column in zip(x.unbind(1), seen.unbind(1), columns, strict=True)
    ]
