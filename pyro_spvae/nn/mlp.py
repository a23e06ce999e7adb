# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Multilayer perceptrons with a leaf axis: one network per leaf, all evaluated by batched matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
NETWORKS = ("separate", "shared")


class StackedMLP(nn.Module):
    r"""
    ``leaves`` independent multilayer perceptrons with one or more outputs each.

    Leaf :math:`l` computes :math:`h_0 = x_l`, :math:`h_{i+1} = \phi(h_i W_{l,i} + b_{l,i})` and linear outputs. With
    ``networks="separate"`` each output has a network of its own (mean and scale networks, the form of the SPVAE paper);
    with ``"shared"`` all outputs are linear heads on one trunk, with fewer parameters.

    Weights are ``[leaf, in, out]`` and the computation is leaf-first (``torch.baddbmm``). Weights start as truncated
    normals of variance ``2 / in``, biases at zero, as in the paper's code; those of the outputs are scaled by
    ``output_gain``, so that a new guide is close to the prior and no new decoder is certain of anything.

    :param int leaves: number of leaves.
    :param int inputs: input size.
    :param Sequence[int] hidden_dims: sizes of the hidden layers, may be empty.
    :param Sequence[int] outputs: size of each output.
    :param str activation: one of ``softplus relu leaky_relu elu silu tanh``.
    :param str networks: ``separate`` or ``shared``.
    :param float output_gain: factor of the outputs' initial weights; 1 is the paper's.
    """

    def __init__(
        self,
        leaves: int,
        inputs: int,
        hidden_dims: Sequence[int],
        outputs: Sequence[int],
        activation: str = "softplus",
        networks: str = "separate",
        output_gain: float = 0.1,
    ) -> None:
        super().__init__()
        check_network(hidden_dims, activation, networks)
        self.leaves = leaves
        self.outputs = tuple(outputs)
        self.activation = activation
        self.networks = networks
        targets = [(size,) for size in self.outputs] if networks == "separate" else [self.outputs]
        self.stacks = nn.ModuleList(
            _Stack(leaves, (inputs, *hidden_dims, sum(target)), ACTIVATIONS[activation], output_gain)
            for target in targets
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        lead = x.shape[:-2]
        h = x.movedim(-2, 0).reshape(self.leaves, -1, x.size(-1))  # [L, N, in]
        results = [stack(h).reshape(self.leaves, *lead, -1).movedim(0, -2) for stack in self.stacks]
        if self.networks == "shared":
            return tuple(results[0].split(self.outputs, -1))
        return tuple(results)

    def extra_repr(self) -> str:
        return f"leaves={self.leaves}, outputs={self.outputs}, activation={self.activation}, networks={self.networks}"


class _Stack(nn.Module):
    """Layers of one network per leaf, ``[L, N, in] -> [L, N, out]``."""

    def __init__(
        self, leaves: int, sizes: Sequence[int], activation: Callable[[Tensor], Tensor], output_gain: float
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            weight = torch.empty(leaves, fan_in, fan_out)
            gain = output_gain if len(self.weights) == len(sizes) - 2 else 1.0
            std = gain * math.sqrt(
                1.3 * 2 / fan_in
            )  # 1.3 makes up for the variance that truncation at two std takes away
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(leaves, 1, fan_out)))

    def forward(self, h: Tensor) -> Tensor:
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < last:
                h = self.activation(h)
        return h


def check_network(hidden_dims: Any, activation: str, networks: str) -> None:
    """Raises a ValueError in one sentence for options that :class:`StackedMLP` does not take."""
    if not isinstance(hidden_dims, Sequence) or isinstance(hidden_dims, str):
        raise ValueError(f"hidden_dims is {hidden_dims!r}; a sequence of positive integers is needed, such as (32, 32)")
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in hidden_dims):
        raise ValueError(f"hidden_dims is {tuple(hidden_dims)!r}; positive integers are needed")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; known are {', '.join(ACTIVATIONS)}")
    if networks not in NETWORKS:
        raise ValueError(f"networks is {networks!r}; known are {', '.join(NETWORKS)}")
