# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Hidden trees in plain torch, by autograd: the speed that a step of ours is measured against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyro_spvae.circuits.factored_layer import FactoredLayer
from pyro_spvae.models import SPN


class TreeTwin(nn.Module):
    """
    The sums of a hidden tree of which every variable is a leaf region.

    :param SPN spn: over a tree, whose parameters are copied.
    """

    def __init__(self, spn: SPN) -> None:
        super().__init__()
        layer, root = spn.circuit.layers
        self.layer = [cast(FactoredLayer, layer)]  # not a part: its structure alone is used
        self.units = spn.circuit.units
        leaf = spn.leaf.pixels.outputs[0].detach()
        self.leaf = nn.Parameter(leaf.view(-1, self.units, leaf.size(-1)).clone())  # [variable, unit, head]
        self.weights = nn.ParameterList(logits.detach().clone() for logits in self.layer[0].unit_logits)
        self.root = nn.Parameter(cast(Any, root).logits.detach().flatten().clone())

    def values(self, x: Tensor) -> Tensor:
        """Log-probabilities of data ``[data, variable]`` under each leaf, ``[variable, unit, data]``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Log-likelihoods, ``[data]``."""
        (layer,) = self.layer
        values = self.values(x.flatten(1))
        weights = [torch.softmax(own, dim=-1) for own in self.weights]
        products = values.new_zeros(layer.num_partitions, self.units, len(x))
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


class BinaryTreeTwin(TreeTwin):
    """Over zeros and ones."""

    def values(self, x: Tensor) -> Tensor:
        """The logistic function of the logit of what was seen."""
        return nn.functional.logsigmoid(torch.where(x.t().unsqueeze(1) > 0, self.leaf, -self.leaf))


class LevelsTreeTwin(TreeTwin):
    """Over levels, whose probabilities are looked up in a table."""

    def values(self, x: Tensor) -> Tensor:
        """One table of all log-probabilities, of which those of the levels that were seen are gathered."""
        index = x.long().t().unsqueeze(1)  # [variable, 1, data]
        return self.leaf.log_softmax(-1).gather(-1, index.expand(-1, self.units, -1))


def check_same(spn: SPN, twin: TreeTwin, x: Tensor) -> None:
    """
    :raises RuntimeError: if the likelihoods are not the same.
    """
    ours, theirs = spn.log_prob(x), twin(x)
    if not torch.allclose(ours, theirs, rtol=1e-5):
        raise RuntimeError(f"the twin computes {float(theirs.mean())}, ours {float(ours.mean())}")


def step_of(module: nn.Module, loss: Callable[[], Tensor], lr: float = 0.03) -> Callable[[], float]:
    """A step of torch's fused Adam."""
    optimiser = torch.optim.Adam(module.parameters(), lr, fused=True)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        found = loss()
        found.backward()
        optimiser.step()
        return found.item()

    return step
