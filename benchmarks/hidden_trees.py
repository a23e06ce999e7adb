# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of a training step of a hidden Chow-Liu tree: 69 binary columns, 16 units, batch 128.

The trainer's step beside a plain-torch twin of the same layers, and beside SPFlow's hidden Chow-Liu tree of as many
states where it is installed. Contenders take turns in one process on one thread; medians of CPU time over the rounds,
and of the ratios of neighbours in time. Run ``python -m benchmarks.hidden_trees``.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.step import Lean
from pyro_spvae.circuits import Circuit, chow_liu
from pyro_spvae.circuits.factored_layer import FactoredLayer
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPN
from pyro_spvae.training.config import FitConfig
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


class Twin(nn.Module):
    """The same sums in plain torch, by autograd.

    :param SPN spn: over a tree, whose parameters are copied.
    """

    def __init__(self, spn: SPN) -> None:
        super().__init__()
        layer, root = spn.circuit.layers
        self.layer = [cast(FactoredLayer, layer)]  # not a part: its structure alone is used
        self.leaf = nn.Parameter(spn.leaf.pixels.outputs[0].detach().view(COLUMNS, UNITS).clone())
        self.weights = nn.ParameterList(logits.detach().clone() for logits in self.layer[0].unit_logits)
        self.root = nn.Parameter(cast(Any, root).logits.detach().flatten().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Log-likelihoods, ``[data]``."""
        (layer,) = self.layer
        logits = self.leaf.unsqueeze(-1)  # [column, unit, 1]
        values = nn.functional.logsigmoid(torch.where(x.t().unsqueeze(1) > 0, logits, -logits))  # [column, unit, data]
        weights = [torch.softmax(own, dim=-1) for own in self.weights]
        products = values.new_zeros(layer.num_partitions, UNITS, len(x))
        for level in layer.levels[:-1]:
            if level.choices:
                first = level.choices[0].first
                values = products[first : first + level.regions]
            own = slice(*level.edges)
            top = values.amax(1, keepdim=True).detach()
            mixed = torch.bmm(weights[level.kind][own], (values - top).exp()).log() + top
            partition = getattr(layer, f"edge_partition_{level.kind}")[own]
            products = products.index_add(0, partition, mixed)
        return torch.logsumexp(products[-1] + torch.log_softmax(self.root, 0).unsqueeze(-1), 0)


def measure() -> list[dict[str, Any]]:
    """
    Times all contenders in turn.

    :returns: ``contender``, ``milliseconds``, ``ratio`` to the twin, ``of_spflow``: ratio to SPFlow's, ``limit``.
    :raises RuntimeError: if the twin's likelihood is not the same.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Lean():
            steps = _contenders(rows(BATCH))
            times: dict[str, list[float]] = {name: [] for name in steps}
            for round_ in range(WARM_UP + ROUNDS):
                for name, step in steps.items():
                    start = time.process_time()
                    step()
                    if round_ >= WARM_UP:
                        times[name].append(1000 * (time.process_time() - start))
    finally:
        torch.set_num_threads(threads)
    ratios = {
        other: {
            name: statistics.median(a / b for a, b in zip(taken, times[other], strict=True))
            for name, taken in times.items()
        }
        for other in times
    }
    return [
        {
            "contender": name,
            "milliseconds": statistics.median(taken),
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
    twin = Twin(spn)
    ours, theirs = spn.log_prob(x), twin(x)
    if not torch.allclose(ours, theirs, rtol=1e-5):
        raise RuntimeError(f"the twin computes {float(theirs.mean())}, ours {float(ours.mean())}")
    trainer = Trainer(spn, x, x, FitConfig(lr=0.03, particles=1))
    circuit = Circuit(regions, UNITS, weights="cp")
    leaf = torch.randn(BATCH, circuit.num_leaves, requires_grad=True)
    steps: dict[str, Callable[[], object]] = {
        TWIN: _step(twin, lambda: -twin(x).mean()),
        TRAINER: lambda: trainer.train_step(x),
        CIRCUIT: lambda: circuit(leaf).sum().backward(),
    }
    if importlib.util.find_spec("spflow") is not None:
        from spflow.zoo.hclt import learn_hclt_binary

        peer = learn_hclt_binary(rows(2000), num_hidden_cats=UNITS, init="uniform")
        steps[SPFLOW] = _step(peer, lambda: -peer.log_likelihood(x).mean())
    return steps


def _step(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], float]:
    optimiser = torch.optim.Adam(module.parameters(), 0.03, fused=True)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        found = loss()
        found.backward()
        optimiser.step()
        return found.item()

    return step


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
