# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of a hidden tree over the pixels of grey images: 28 x 28 pixels of 256 levels, 16 units, batch 128.

The trainer's step beside a plain-torch twin of the same layers, and beside the same step with leaves whose levels are
computed for each datum instead of looked up; then exact log-likelihoods and completions. Contenders take turns in one
process on one thread; medians of CPU time over the rounds, and of the ratios of neighbours in time. Run
``python -m benchmarks.grey_trees``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from benchmarks.tree_twin import LevelsTreeTwin, check_same, step_of
from benchmarks.turns import in_turns, median, one_thread, ratio
from pyro_spvae.circuits import Circuit, chow_liu
from pyro_spvae.distributions import LeafCategorical
from pyro_spvae.likelihoods import Categorical
from pyro_spvae.models import SPN
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

SIDE, LEVELS, UNITS, BATCH, ROUNDS, WARM_UP = 28, 256, 16, 128, 20, 3
SCORED, COMPLETED = 10_000, 100
SELDOM = 5  # every so many rounds what takes seconds
TWIN, TRAINER, COMPUTED, SCORES, COMPLETIONS = (
    "plain torch twin",
    "trainer's step",
    "trainer's step, leaves computed for each datum",
    f"exact scores of {SCORED:,} images",
    f"right halves of {COMPLETED} images",
)
#: contender: what it is compared with, and the most that it may take of it
LIMITS = {TRAINER: (TWIN, 1.3), COMPUTED: (TRAINER, None), SCORES: (TRAINER, 60.0), COMPLETIONS: (TRAINER, 5.0)}
OF_COMPUTED = 0.08  # the trainer's step at most


def images(number: int) -> Tensor:
    """Grey images ``[number, 1, 28, 28]`` of which each pixel is that above it or that to its left, give or take a few
    levels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(number, SIDE, SIDE)
    for row in range(SIDE):
        for column in range(SIDE):
            steps = (24 * torch.randn(number, generator=generator)).round()
            if not row and not column:
                x[:, 0, 0] = LEVELS // 2 + 2 * steps
            else:
                above = row > 0 and (not column or bool(torch.rand((), generator=generator) < 0.5))
                x[:, row, column] = x[:, row - 1, column] + steps if above else x[:, row, column - 1] + steps
            x[:, row, column].clamp_(0, LEVELS - 1)
    return x.unsqueeze(1)


class ComputedCategorical(Categorical):
    """Categorical pixels of which every datum has all log-probabilities, of which one is taken."""

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        return _Computed(logits.unflatten(-1, (self.sizes["pixels"], self.levels)), mask=mask)


class _Computed(LeafCategorical):
    def by_pixel(self, value: Tensor) -> Tensor:
        log_probs = self.logits.log_softmax(-1).expand(*value.shape, self.num_levels)
        return log_probs.gather(-1, value.long().unsqueeze(-1)).squeeze(-1)


def measure() -> list[dict[str, Any]]:
    """
    Times all contenders in turn.

    :returns: ``contender``, ``milliseconds``, ``other``, ``ratio`` to the other, ``limit``.
    :raises RuntimeError: if the twin's likelihood is not the same.
    """
    with one_thread():
        steps = contenders()
        seldom = {name: SELDOM for name in (COMPUTED, SCORES)}
        times = in_turns(steps, ROUNDS, WARM_UP, seldom)
    pairs = [(TWIN, TWIN, None), *((name, *limit) for name, limit in LIMITS.items())]
    pairs.insert(2, (TRAINER, COMPUTED, OF_COMPUTED))
    return [
        {
            "contender": name,
            "milliseconds": median(times[name]),
            "other": other,
            "ratio": ratio(times[name], times[other]),
            "limit": limit,
        }
        for name, other, limit in pairs
    ]


def contenders() -> dict[str, Callable[[], object]]:
    """What each of them does."""
    torch.manual_seed(0)
    rows = images(SCORED)
    x = rows[:BATCH]
    regions = chow_liu(rows[:2000], arity=None)
    spn = SPN(Circuit(regions, UNITS, weights="cp"), likelihood=Categorical(LEVELS))
    twin = LevelsTreeTwin(spn)
    check_same(spn, twin, x)
    computed = SPN(Circuit(regions, UNITS, weights="cp"), likelihood=ComputedCategorical(LEVELS))
    computed.load_state_dict(copy.deepcopy(spn.state_dict()))
    options = FitConfig(lr=0.03, particles=1)
    trainer, slow = Trainer(spn, x, x, options), Trainer(computed, x, x, options)
    left = torch.arange(SIDE) < SIDE // 2
    few = rows[:COMPLETED]
    return {
        TWIN: step_of(twin, lambda: -twin(x).mean()),
        TRAINER: lambda: trainer.train_step(x),
        COMPUTED: lambda: slow.train_step(x),
        COMPLETIONS: lambda: spn.impute(few, left),
        SCORES: lambda: spn.log_likelihood(rows),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| what | CPU ms, median | times | of | at most |", "|---|---|---|---|---|"]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:g}"
        ms, times = row["milliseconds"], row["ratio"]
        lines.append(f"| {row['contender']} | {ms:,.1f} | {times:.2f} | {row['other']} | {limit} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()
