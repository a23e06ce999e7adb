# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A circuit of cirkit (``libcirkit`` on PyPI) over a region graph of ours.

Of its releases 0.3.0 is meant: later ones clamp the log-density of a product at that of the smallest number of double
precision, -708 nats, which a picture falls below. It asks for older versions of SciPy and Graphviz than others need,
and is installed apart: ``pip install --no-deps --target FOLDER libcirkit==0.3.0 einops opt_einsum graphviz``, and
FOLDER in ``PYTHONPATH``.
"""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import Tensor, nn

from pyro_spvae.circuits import RegionGraph

NAME = "cirkit"
INSTALL = "pip install --no-deps libcirkit==0.3.0 einops opt_einsum graphviz"


def is_installed() -> bool:
    """Whether it can be imported, with what it needs."""
    return all(importlib.util.find_spec(name) is not None for name in ("cirkit", "einops", "opt_einsum", "graphviz"))


class CirkitCircuit(nn.Module):
    """
    Categorical leaves of free probabilities and CP layers, all weights by softmax: what ``Circuit(regions, units,
    weights="cp")`` over ``FactorizedLeaf(Categorical(levels))`` is with us.

    :param RegionGraph regions: of single variables; a tree.
    :param int units: of each region.
    :param int levels: of each variable.
    """

    def __init__(self, regions: RegionGraph, units: int, levels: int) -> None:
        super().__init__()
        from cirkit.pipeline import PipelineContext
        from cirkit.templates.utils import (
            Parameterization,
            name_to_input_layer_factory,
            parameterization_to_factory,
        )

        softmax = parameterization_to_factory(Parameterization(activation="softmax", initialization="normal"))
        leaf: dict[str, Any] = {"num_categories": levels, "probs_factory": softmax}
        symbolic = _graph(regions).build_circuit(
            input_factory=name_to_input_layer_factory("categorical", **leaf),
            sum_product="cp",
            sum_weight_factory=softmax,
            num_input_units=units,
            num_sum_units=units,
        )
        context = PipelineContext(backend="torch", semiring="lse-sum", fold=True, optimize=True)
        self.circuit: Any = context.compile(symbolic)

    def forward(self, x: Tensor) -> Tensor:
        """Log-likelihoods of levels ``[data, variable]``, nats, ``[data]``."""
        found: Tensor = self.circuit(x.long())
        return found.flatten()


def _graph(regions: RegionGraph) -> Any:
    """The same regions and partitions."""
    from cirkit.templates.region_graph import PartitionNode, RegionNode
    from cirkit.templates.region_graph import RegionGraph as Graph

    nodes = [RegionNode(regions.scope(region)) for region in range(regions.num_regions)]
    partitions, inputs = [], {}
    for region, *parts in regions.partitions:
        partition = PartitionNode(regions.scope(region))
        partitions.append(partition)
        inputs[partition] = [nodes[part] for part in parts]
        inputs.setdefault(nodes[region], []).append(partition)
    return Graph([*nodes, *partitions], inputs, [nodes[regions.root]])
