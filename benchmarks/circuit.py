# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the circuit: forward and backward to weights and leaf log-densities, on one thread, in CPU milliseconds.

The circuit with free weights is compared with a loop over its regions, and with circuits of the same structure whose
weights are tied, products of factors ("cp") or both. Contenders take turns in one process and the median over the
rounds is given. Run ``python -m benchmarks.circuit``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.turns import in_turns
from pyro_spvae.circuits import Circuit, poon_domingos
from pyro_spvae.circuits.sum_layer import SumLayer

# (cells per side, units, rounds, limit in ms that the project has set itself)
CASES = [(4, 2, 41, 5.0), (7, 10, 7, 400.0), (4, 20, 7, None)]
BATCH = 128
LOOP = "loop over regions"
OURS = "pyro-spvae"
OPTIONS: dict[str, dict[str, Any]] = {
    OURS: {},
    "pyro-spvae, tie shape": {"tie": "shape"},
    "pyro-spvae, weights cp": {"weights": "cp"},
    "pyro-spvae, tie shape, weights cp": {"tie": "shape", "weights": "cp"},
}


class RegionLoop:
    """The same circuit, evaluated region by region as published implementations do: logs of sums of exponentials by
    autograd.

    :param Circuit circuit: with as many leaves in a leaf region as sums in an inner one.
    :param logits: the weights to use, for each layer of the circuit ``[region, sum, product]``, products in the order
        (partition, left unit, right unit), as the circuit keeps them.
    """

    def __init__(self, circuit: Circuit, logits: Sequence[Tensor]) -> None:
        self.circuit = circuit
        cells = circuit.num_leaf_regions
        self.logits: dict[int, Tensor] = {}
        self.mixture: Tensor | None = None  # of the root's own sums, where weights are products
        for group, own in zip(circuit.groups(), logits, strict=True):
            for place, region in enumerate(group.regions):
                if region in self.logits:
                    self.mixture = own[place]
                else:
                    self.logits[region] = own[place]
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
        root = values[self.circuit.regions.root]
        if self.mixture is not None:
            root = torch.logsumexp(root + torch.log_softmax(self.mixture, dim=-1), dim=1, keepdim=True)
        return root.squeeze(1)


def measure() -> list[dict[str, Any]]:
    """Time all cases.

    :return: for each case and contender ``grid``, ``units``, ``contender``, ``weights`` (how many), ``milliseconds``,
        ``ratio`` (to ours with free weights) and ``limit``.
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
    graph = poon_domingos((side, side), 1)
    leaf = torch.randn(BATCH, graph.num_leaf_regions * units)
    contenders: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {}
    weights: dict[str, int] = {}
    for name, options in OPTIONS.items():
        circuit = Circuit(graph, units, **options)
        weights[name] = circuit.num_weights
        contenders[name] = partial(_step, circuit, circuit, leaf)
        _check(circuit, leaf, name)
        if name == OURS:
            logits = [cast(SumLayer, layer).logits for layer in circuit.layers]
            weights[LOOP] = circuit.num_weights
            contenders[LOOP] = partial(_step, circuit, RegionLoop(circuit, logits), leaf)
    times = in_turns(contenders, rounds)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return [
        {
            "grid": f"{side}x{side}",
            "units": units,
            "contender": name,
            "weights": weights[name],
            "milliseconds": median,
            "ratio": median / medians[OURS],
            "limit": limit if name == OURS else None,
        }
        for name, median in medians.items()
    ]


def _check(circuit: Circuit, leaf: Tensor, name: str) -> None:
    """The circuit against the loop, for the same weights."""
    loop = RegionLoop(circuit, [weight.detach() for weight in circuit.log_weights()])
    (value, gradient), (other, other_gradient) = (_step(circuit, one, leaf) for one in (circuit, loop))
    if not (torch.allclose(value, other, atol=1e-3) and torch.allclose(gradient, other_gradient, atol=1e-4)):
        raise RuntimeError(f"{name} disagrees with the loop over regions, with {circuit.units} units.")


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
        f"| cells | units | contender | weights | CPU ms, forward + backward, batch {BATCH} | times ours | limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.0f}"
        lines.append(
            f"| {row['grid']} | {row['units']} | {row['contender']} | {row['weights']:,} "
            f"| {row['milliseconds']:.2f} | {row['ratio']:.2f} | {limit} |"
        )
    return "\n".join(lines)


def main() -> list[dict[str, Any]]:
    """Measure and print."""
    rows = measure()
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
