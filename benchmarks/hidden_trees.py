# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of a training step of a hidden Chow-Liu tree: 69 binary columns, 16 units, batch 128.

The trainer's step beside a plain-torch twin of the same layers, and beside SPFlow's hidden Chow-Liu tree of as many
states where it is installed. Contenders take turns in one process on one thread; medians of CPU time over the rounds,
and of the ratios of neighbours in time. Run ``python -m benchmarks.hidden_trees``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.tree_twin import BinaryTreeTwin, check_same, step_of
from benchmarks.turns import in_turns, median, one_thread, ratio
from pyro_spvae.circuits import Circuit, chow_liu
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPN
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

COLUMNS, UNITS, BATCH, ROUNDS, WARM_UP = 69, 16, 128, 60, 10
TWIN, TRAINER, CIRCUIT, SPFLOW = (
    "plain torch twin",
    "trainer's step",
    "circuit alone, forward and backward",
    "SPFlow's hidden Chow-Liu tree",
)
LIMITS = {TRAINER: 1.3}
OF_SPFLOW = 0.25  # the trainer's step at most


def rows(number: int) -> Tensor:
    """Binary rows whose columns depend on each other as the nodes of a random tree."""
    generator = torch.Generator().manual_seed(0)
    x = torch.empty(number, COLUMNS)
    for column in range(COLUMNS):
        parent = int(torch.randint(max(1, column), (), generator=generator))
        flipped = torch.rand(number, generator=generator) < 0.2
        x[:, column] = torch.where(flipped, 1 - x[:, parent], x[:, parent]) if column else flipped.float()
    return x


def measure() -> list[dict[str, Any]]:
    """
    Times all contenders in turn.

    :returns: ``contender``, ``milliseconds``, ``ratio`` to the twin, ``of_spflow``: ratio to SPFlow's, ``limit``.
    :raises RuntimeError: if the twin's likelihood is not the same.
    """
    with one_thread():
        times = in_turns(_contenders(rows(BATCH)), ROUNDS, WARM_UP)
    ratios = {other: {name: ratio(taken, times[other]) for name, taken in times.items()} for other in times}
    return [
        {
            "contender": name,
            "milliseconds": median(taken),
            "ratio": ratios[TWIN][name],
            "of_spflow": ratios[SPFLOW][name] if SPFLOW in ratios else None,
            "limit": LIMITS.get(name),
        }
        for name, taken in times.items()
    ]


def _contenders(x: Tensor) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    regions = chow_liu(rows(2000), arity=None)
    spn = SPN(Circuit(regions, UNITS, weights="cp"), likelihood=Bernoulli())
    twin = BinaryTreeTwin(spn)
    check_same(spn, twin, x)
    trainer = Trainer(spn, x, x, FitConfig(lr=0.03, particles=1))
    circuit = Circuit(regions, UNITS, weights="cp")
    leaf = torch.randn(BATCH, circuit.num_leaves, requires_grad=True)
    steps: dict[str, Callable[[], object]] = {
        TWIN: step_of(twin, lambda: -twin(x).mean()),
        TRAINER: lambda: trainer.train_step(x),
        CIRCUIT: lambda: circuit(leaf).sum().backward(),
    }
    if importlib.util.find_spec("spflow") is not None:
        from spflow.zoo.hclt import learn_hclt_binary

        peer = learn_hclt_binary(rows(2000), num_hidden_cats=UNITS, init="uniform")
        steps[SPFLOW] = step_of(peer, lambda: -peer.log_likelihood(x).mean())
    return steps


def table(rows: list[dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = ["| step | CPU ms, median | of the twin's | at most | of SPFlow's | at most |", "|---|---|---|---|---|---|"]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.2f}"
        peer = "" if row["of_spflow"] is None else f"{row['of_spflow']:.2f}"
        most = f"{OF_SPFLOW:.2f}" if peer and row["contender"] == TRAINER else ""
        name, ms = row["contender"], row["milliseconds"]
        lines.append(f"| {name} | {ms:.1f} | {row['ratio']:.2f} | {limit} | {peer} | {most} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()
