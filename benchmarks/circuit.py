# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the circuit: forward and backward to weights and leaf log-densities, on one thread, in CPU milliseconds.

Contenders take turns in one process and the median over the rounds is given. Run ``python -m benchmarks.circuit``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from pyro_spvae.circuits import Circuit, poon_domingos
from pyro_spvae.circuits.layer import SumLayer

# (cells per side, units, rounds, limit in ms that the project has set itself)
CASES = [(4, 2, 41, 5.0), (7, 10, 7, 400.0), (4, 20, 7, None)]
BATCH = 128


class RegionLoop:
    """The same circuit, evaluated region by region as published implementations do: logs of sums of exponentials by
    autograd.

    :param Circuit circuit: whose weights to use.
    """

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        cells = circuit.num_leaf_regions
        # a region's logits in the order (partition, left unit, right unit), as the circuit keeps them
        self.logits = {region: layer.logits[place] for layer, place, region in _places(circuit)}
        self.inner = range(cells, circuit.regions.num_regions)

    def __call__(self, leaf: Tensor) -> Tensor:
        """Value of the root.

        :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
        """
        values = dict(enumerate(leaf.unflatten(-1, (-1, self.circuit.leaves)).unbind(1)))  # [batch, unit]
        for region in self.inner:
            products = [
                (values[left].unsqueeze(2) + values[right].unsqueeze(1)).flatten(1)
                for _, left, right in self.circuit.regions.region_partitions[region]
            ]
            weights = torch.log_softmax(self.logits[region], dim=-1)  # [sum, product]
            values[region] = torch.logsumexp(torch.cat(products, dim=1).unsqueeze(1) + weights, dim=2)
        return values[self.circuit.regions.root].squeeze(1)


def _places(circuit: Circuit) -> list[tuple[SumLayer, int, int]]:
    layers = [cast(SumLayer, layer) for layer in circuit.layers]
    return [(layer, place, region) for layer in layers for place, region in enumerate(layer.regions)]


def measure() -> list[dict[str, Any]]:
    """Time all cases.

    :return: for each case and contender ``grid``, ``units``, ``contender``, ``milliseconds``, ``ratio`` (to ours) and
        ``limit``.
    :raises RuntimeError: if the contenders disagree.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [row for case in CASES for row in _measure_case(*case)]
    finally:
        torch.set_num_threads(threads)


def _measure_case(side: int, units: int, rounds: int, limit: float | None) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    circuit = Circuit(poon_domingos((side, side), 1), units)
    leaf = torch.randn(BATCH, circuit.num_leaves)
    contenders: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
        "pyro-spvae": lambda: _step(circuit, circuit, leaf),
        "loop over regions": lambda: _step(circuit, RegionLoop(circuit), leaf),
    }
    (value, gradient), (other_value, other_gradient) = (step() for step in contenders.values())
    if not (torch.allclose(value, other_value, atol=1e-3) and torch.allclose(gradient, other_gradient, atol=1e-4)):
        raise RuntimeError(f"the contenders disagree on {side}x{side} with {units} units.")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            start = time.process_time()
            step()
            times[name].append(1000 * (time.process_time() - start))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return [
        {
            "grid": f"{side}x{side}",
            "units": units,
            "contender": name,
            "milliseconds": median,
            "ratio": median / medians["pyro-spvae"],
            "limit": limit if name == "pyro-spvae" else None,
        }
        for name, median in medians.items()
    ]


def _step(circuit: Circuit, contender: Callable[[Tensor], Tensor], leaf: Tensor) -> tuple[Tensor, Tensor]:
    circuit.zero_grad()
    leaf = leaf.detach().requires_grad_()
    value = contender(leaf)
    value.sum().backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


def table(rows: list[dict[str, Any]]) -> str:
    """The rows of :func:`measure` as a Markdown table."""
    lines = [
        f"| cells | units | contender | CPU ms, forward + backward, batch {BATCH} | times ours | limit |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.0f}"
        lines.append(
            f"| {row['grid']} | {row['units']} | {row['contender']} | {row['milliseconds']:.2f} "
            f"| {row['ratio']:.1f} | {limit} |"
        )
    return "\n".join(lines)


def main() -> list[dict[str, Any]]:
    """Measure and print."""
    rows = measure()
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
