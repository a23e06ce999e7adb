# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Multilayer perceptrons with a leaf axis: one network per leaf, all evaluated by batched matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
GATED = "gated"
NETWORKS = ("separate", "shared")
INITS = ("truncated", "he", "glorot")


class MLP(Network):
    r"""
    Independent multilayer perceptrons with one or more outputs each.

    Leaf :math:`l` computes :math:`h_0 = x_l`, :math:`h_{i+1} = \phi(h_i W_{l,i} + b_{l,i})` and linear outputs. With
    ``networks="separate"`` each output has a network of its own (mean and scale networks, the form of the SPVAE paper);
    with ``"shared"`` all outputs are linear heads on one trunk, with fewer parameters.

    With ``activation="gated"`` (Dauphin et al. 2017; the VampPrior paper) a hidden layer is
    :math:`(h_i W + b) \odot \mathrm{sigmoid}(h_i V + c)`, with twice the parameters.

    Weights are ``[leaf, in, out]`` and the computation is leaf-first (``torch.baddbmm``). Those of the outputs are
    scaled by ``output_gain`` at the start, so that a new guide is close to the prior and no new decoder is certain of
    anything.

    :param Sequence[int] hidden_dims: sizes of the hidden layers, may be empty.
    :param str activation: one of ``softplus relu leaky_relu elu silu tanh gated``.
    :param str networks: ``separate`` or ``shared``.
    :param float output_gain: factor of the outputs' initial weights; 1 is the papers'.
    :param str init: how weights and biases start. ``"truncated"``: truncated normals of variance ``2 / in`` and zero,
        as in the SPVAE paper's code; ``"he"``: normals of variance ``2 / in`` and uniform within ``1 / sqrt(in)``, as
        in the VampPrior paper's code; ``"glorot"``: uniform of variance ``2 / (in + out)`` and zero, as that paper says
        and as Burda et al. 2016.
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
        init: str = "truncated",
    ) -> None:
        super().__init__()
        check_hidden_dims(hidden_dims)
        if networks not in NETWORKS:
            raise ValueError(f"networks is {networks!r}; known are {', '.join(NETWORKS)}")
        check_activation(activation, gated=True)
        check_init(init)
        check_output_gain(output_gain)
        if not isinstance(skip, bool):
            raise ValueError(f"skip is {skip!r}; True or False is needed")
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.networks = networks
        self.output_gain = float(output_gain)
        self.skip = skip
        self.init = init

    def build(self, leaves: int, inputs: int, outputs: tuple[int, ...]) -> None:
        """Makes the weights."""
        targets = [(size,) for size in outputs] if self.networks == "separate" else [outputs]
        self.stacks = nn.ModuleList(
            Stack(
                leaves,
                (inputs, *self.hidden_dims, sum(target)),
                self.activation,
                self.output_gain,
                self.skip,
                self.init,
                heads=target,
            )
            for target in targets
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        results = apply(self.stacks, x)
        if self.networks == "shared":
            return tuple(results[0].split(self.sizes["outputs"], -1))
        return tuple(results)

    def extra_repr(self) -> str:
        return f"hidden_dims={self.hidden_dims}, activation={self.activation}, networks={self.networks}"


class Stack(nn.Module):
    """
    Layers of one network per leaf, ``[L, N, in] -> [L, N, out]``, with an activation between them.

    :param Sequence[int] sizes: of the input, the hidden layers and the output.
    :param str activation: name of an activation, or ``"gated"``.
    :param bool hidden: whether the last layer is a hidden one, with an activation of its own.
    :param Sequence[int] heads: sizes of the outputs that the last layer holds side by side; one by default.
    """

    def __init__(
        self,
        leaves: int,
        sizes: Sequence[int],
        activation: str,
        output_gain: float = 1.0,
        skip: bool = False,
        init: str = "truncated",
        hidden: bool = False,
        heads: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.blocks: list[tuple[int, ...]] = []
        self.activation: Callable[[Tensor], Tensor] = F.glu if activation == GATED else ACTIVATIONS[activation]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            is_last = len(self.weights) == len(sizes) - 2 and not hidden
            gates = 1 + (activation == GATED and not is_last)  # values and gates side by side
            gain = output_gain if is_last else 1.0
            self.weights.append(_weight(leaves, fan_in, fan_out, gain, init, gates))
            self.biases.append(_bias(leaves, fan_in, gates * fan_out, gain, init))
            self.blocks.append((fan_out,) * gates if not is_last or heads is None else tuple(heads))
        self.skip = _weight(leaves, sizes[0], sizes[-1], output_gain, init) if skip else None

    def tensor_blocks(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Values, gates and heads are tensors of their own; by name the axis and the sizes along it."""
        named = {f"{kind}.{i}": (2, sizes) for kind in ("weights", "biases") for i, sizes in enumerate(self.blocks)}
        if self.skip is not None:
            named["skip"] = (2, self.blocks[-1])
        return {name: block for name, block in named.items() if len(block[1]) > 1}

    def forward(self, x: Tensor) -> Tensor:
        h, last = x, len(self.weights) - (not self.hidden)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < last:
                h = self.activation(h)
        return h if self.skip is None else torch.baddbmm(h, x, self.skip)


def apply(stacks: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """Outputs ``[.., leaf, out]`` of stacks for the same input ``[.., leaf, in]``."""
    leaves, lead = x.size(-2), x.shape[:-2]
    h = x.movedim(-2, 0).reshape(leaves, -1, x.size(-1))  # [L, N, in]
    return [stack(h).reshape(leaves, *lead, -1).movedim(0, -2) for stack in stacks]


def _weight(leaves: int, fan_in: int, fan_out: int, gain: float, init: str, blocks: int = 1) -> nn.Parameter:
    """``[leaf, in, blocks * out]``; the blocks' fans are their own."""
    weight = torch.empty(leaves, fan_in, blocks * fan_out)
    if init == "truncated":
        std = gain * math.sqrt(1.3 * 2 / fan_in)  # 1.3 makes up for the variance that truncation at two std takes away
        nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    elif init == "he":
        nn.init.normal_(weight, std=gain * math.sqrt(2 / fan_in))
    else:
        bound = gain * math.sqrt(6 / (fan_in + fan_out))
        nn.init.uniform_(weight, -bound, bound)
    return nn.Parameter(weight)


def _bias(leaves: int, fan_in: int, fan_out: int, gain: float, init: str) -> nn.Parameter:
    bias = torch.zeros(leaves, 1, fan_out)
    if init == "he":
        nn.init.uniform_(bias, -gain / math.sqrt(fan_in), gain / math.sqrt(fan_in))
    return nn.Parameter(bias)


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


def check_activation(activation: Any, gated: bool = False) -> None:
    """
    :param bool gated: whether layers may be gated.
    :raises ValueError: if there is no such activation.
    """
    known = [*ACTIVATIONS, GATED] if gated else [*ACTIVATIONS]
    if activation not in known:
        raise ValueError(f"activation is {activation!r}; known are {', '.join(known)}")


def check_init(init: Any) -> None:
    """
    :raises ValueError: if there is no such initialisation.
    """
    if init not in INITS:
        raise ValueError(f"init is {init!r}; known are {', '.join(INITS)}")


def check_output_gain(output_gain: Any) -> None:
    """
    :raises ValueError: if it is no positive number.
    """
    is_number = isinstance(output_gain, (int, float)) and not isinstance(output_gain, bool)
    if not is_number or not 0 < output_gain < math.inf:
        raise ValueError(f"output_gain is {output_gain!r}; a positive number is needed")


def check_hidden_dims(hidden_dims: Any) -> None:
    """
    :raises ValueError: if it is no sequence of positive integers.
    """
    if not isinstance(hidden_dims, Sequence) or isinstance(hidden_dims, str):
        raise ValueError(f"hidden_dims is {hidden_dims!r}; a sequence of positive integers is needed, such as (32, 32)")
    if not all(map(is_positive, hidden_dims)):
        raise ValueError(f"hidden_dims is {tuple(hidden_dims)!r}; positive integers are needed")
