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

from pyro_spvae.nn.network import Network
from pyro_spvae.nn.part import check_part, is_positive

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
NETWORKS = ("separate", "shared")


class MLP(Network):
    r"""
    Independent multilayer perceptrons with one or more outputs each.

    Leaf :math:`l` computes :math:`h_0 = x_l`, :math:`h_{i+1} = \phi(h_i W_{l,i} + b_{l,i})` and linear outputs. With
    ``networks="separate"`` each output has a network of its own (mean and scale networks, the form of the SPVAE paper);
    with ``"shared"`` all outputs are linear heads on one trunk, with fewer parameters.

    Weights are ``[leaf, in, out]`` and the computation is leaf-first (``torch.baddbmm``). Weights start as truncated
    normals of variance ``2 / in``, biases at zero, as in the paper's code; those of the outputs are scaled by
    ``output_gain``, so that a new guide is close to the prior and no new decoder is certain of anything.

    :param Sequence[int] hidden_dims: sizes of the hidden layers, may be empty.
    :param str activation: one of ``softplus relu leaky_relu elu silu tanh``.
    :param str networks: ``separate`` or ``shared``.
    :param float output_gain: factor of the outputs' initial weights; 1 is the paper's.
    :param bool skip: add to each output a linear map of the input, :math:`x_l S_l`, so that the layers have only to
        learn what is not linear.
    :raises ValueError: for options out of range.
    """

    def __init__(
        self,
        hidden_dims: Sequence[int] = (32, 32),
        activation: str = "softplus",
        networks: str = "separate",
        output_gain: float = 0.1,
        skip: bool = False,
    ) -> None:
        super().__init__()
        _check(hidden_dims, networks)
        check_activation(activation)
        check_output_gain(output_gain)
        if not isinstance(skip, bool):
            raise ValueError(f"skip is {skip!r}; True or False is needed")
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.networks = networks
        self.output_gain = float(output_gain)
        self.skip = skip

    def build(self, leaves: int, inputs: int, outputs: tuple[int, ...]) -> None:
        """Makes the weights."""
        targets = [(size,) for size in outputs] if self.networks == "separate" else [outputs]
        self.stacks = nn.ModuleList(
            _Stack(
                leaves,
                (inputs, *self.hidden_dims, sum(target)),
                ACTIVATIONS[self.activation],
                self.output_gain,
                self.skip,
            )
            for target in targets
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        leaves, outputs = self.sizes["leaves"], self.sizes["outputs"]
        lead = x.shape[:-2]
        h = x.movedim(-2, 0).reshape(leaves, -1, x.size(-1))  # [L, N, in]
        results = [stack(h).reshape(leaves, *lead, -1).movedim(0, -2) for stack in self.stacks]
        if self.networks == "shared":
            return tuple(results[0].split(outputs, -1))
        return tuple(results)

    def extra_repr(self) -> str:
        return f"hidden_dims={self.hidden_dims}, activation={self.activation}, networks={self.networks}"


class _Stack(nn.Module):
    """Layers of one network per leaf, ``[L, N, in] -> [L, N, out]``."""

    def __init__(
        self,
        leaves: int,
        sizes: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        output_gain: float,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            gain = output_gain if len(self.weights) == len(sizes) - 2 else 1.0
            self.weights.append(_weight(leaves, fan_in, fan_out, gain))
            self.biases.append(nn.Parameter(torch.zeros(leaves, 1, fan_out)))
        self.skip = _weight(leaves, sizes[0], sizes[-1], output_gain) if skip else None

    def forward(self, x: Tensor) -> Tensor:
        h, last = x, len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < last:
                h = self.activation(h)
        return h if self.skip is None else torch.baddbmm(h, x, self.skip)


def _weight(leaves: int, fan_in: int, fan_out: int, gain: float) -> nn.Parameter:
    """Truncated normals of variance ``2 gain^2 / in``, ``[leaf, in, out]``."""
    weight = torch.empty(leaves, fan_in, fan_out)
    std = gain * math.sqrt(1.3 * 2 / fan_in)  # 1.3 makes up for the variance that truncation at two std takes away
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    return nn.Parameter(weight)


def network_or_mlp(
    name: str,
    network: Network | None,
    hidden_dims: Sequence[int] | None,
    activation: str | None,
    networks: str | None,
) -> Network:
    """
    The network that a part was given, or by default an :class:`MLP` of the options that are not ``None``.

    :param str name: the argument that ``network`` is, for messages.
    :raises TypeError: if ``network`` is no network.
    :raises ValueError: if both are given, or an option is out of range.
    """
    options: dict[str, Any] = {"hidden_dims": hidden_dims, "activation": activation, "networks": networks}
    options = {key: value for key, value in options.items() if value is not None}
    if network is None:
        return MLP(**options)
    check_part(name, network, Network)
    if options:
        raise ValueError(f"{name} is given, so leave out the options of the default network ({', '.join(options)})")
    return network


def check_activation(activation: Any) -> None:
    """
    :raises ValueError: if there is no such activation.
    """
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; known are {', '.join(ACTIVATIONS)}")


def check_output_gain(output_gain: Any) -> None:
    """
    :raises ValueError: if it is no positive number.
    """
    is_number = isinstance(output_gain, (int, float)) and not isinstance(output_gain, bool)
    if not is_number or not 0 < output_gain < math.inf:
        raise ValueError(f"output_gain is {output_gain!r}; a positive number is needed")


def _check(hidden_dims: Any, networks: Any) -> None:
    """Raises a ValueError in one sentence for options that :class:`MLP` does not take."""
    if not isinstance(hidden_dims, Sequence) or isinstance(hidden_dims, str):
        raise ValueError(f"hidden_dims is {hidden_dims!r}; a sequence of positive integers is needed, such as (32, 32)")
    if not all(map(is_positive, hidden_dims)):
        raise ValueError(f"hidden_dims is {tuple(hidden_dims)!r}; positive integers are needed")
    if networks not in NETWORKS:
        raise ValueError(f"networks is {networks!r}; known are {', '.join(NETWORKS)}")
