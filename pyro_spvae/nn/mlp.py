# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Multilayer perceptrons with a leaf axis: one network per leaf, all evaluated by batched matrix products."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.circuits.numerics import HALF
from pyro_spvae.nn.leaf_conv import LeafBatchNorm
from pyro_spvae.nn.network import Network


def softplus_(h: Tensor) -> Tensor:
    """Softplus written over its argument."""
    found: Tensor = torch.ops.aten.softplus.out(h, out=h)
    return found


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": F.softplus,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
# the same written over their argument, which costs no fresh memory where nothing is to be differentiated; no lambdas,
# which modules that keep them could not be pickled with
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "softplus": softplus_,
    "relu": torch.relu_,
    "leaky_relu": partial(F.leaky_relu, inplace=True),
    "elu": partial(F.elu, inplace=True),
    "silu": partial(F.silu, inplace=True),
    "tanh": torch.tanh_,
}
GATED = "gated"
NETWORKS = ("separate", "shared")
INITS = ("truncated", "he", "glorot")
_NARROW = 16  # columns below which products of several leaves take as long as of so many; measured


class MLP(Network):
    r"""
    Independent multilayer perceptrons with one or more outputs each.

    Leaf :math:`l` computes :math:`h_0 = x_l`, :math:`h_{i+1} = \phi(h_i W_{l,i} + b_{l,i})` and linear outputs. With
    ``networks="separate"`` each output has a network of its own (mean and scale networks, the form of the SPVAE paper);
    with ``"shared"`` all outputs are linear heads on one trunk, with fewer parameters.

    With ``activation="gated"`` (Dauphin et al. 2017; the VampPrior paper) a hidden layer is
    :math:`(h_i W + b) \odot \mathrm{sigmoid}(h_i V + c)`, with twice the parameters.

    Each layer, gate and output has a weight ``[leaf, in, out]`` and a bias ``[leaf, 1, out]`` of its own, and the
    computation is leaf-first (``torch.baddbmm``). The weights of the outputs are scaled by ``output_gain`` at the
    start, so that a new guide is close to the prior and no new decoder is certain of anything.

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
    :param bool normalise: batch normalisation of each unit before its activation (Ioffe and Szegedy 2015); not of gated
        layers.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.nn import MLP
        >>> encoder = MLP((16,), activation="relu").bind(leaves=3, inputs=10, outputs=(2, 2))
        >>> mean, scale = encoder(torch.rand(5, 3, 10))
        >>> mean.shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        hidden_dims: Sequence[int] = (32, 32),
        activation: str = "softplus",
        networks: str = "separate",
        output_gain: float = 0.1,
        skip: bool = False,
        init: str = "truncated",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.normalise = check_layers(hidden_dims, activation, normalise)
        check_output_gain(output_gain)
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.networks = checks.one_of("networks", networks, NETWORKS)
        self.output_gain = float(output_gain)
        self.skip = checks.boolean("skip", skip)
        self.init = checks.one_of("init", init, INITS)

    def build(self, leaves: int, inputs: int, outputs: tuple[int, ...]) -> None:
        """Makes the weights."""
        targets = [(size,) for size in outputs] if self.networks == "separate" else [outputs]
        sizes = (inputs, *self.hidden_dims)
        self.stacks = nn.ModuleList(
            Stack(leaves, sizes, self.activation, heads, self.output_gain, self.skip, self.init, self.normalise)
            for heads in targets
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        return apply(self.stacks, x)

    def extra_repr(self) -> str:
        return f"hidden_dims={self.hidden_dims}, activation={self.activation}, networks={self.networks}"


class Stack(nn.Module):
    """
    Layers of one network per leaf: hidden ones, each with an activation, then linear outputs side by side.

    :param Sequence[int] sizes: of the input and the hidden layers.
    :param str activation: name of an activation, or ``"gated"``.
    :param Sequence[int] heads: sizes of the outputs; without any the last hidden layer is the one output.
    :param float output_gain: factor of the initial weights of the outputs.
    :param bool skip: whether outputs have a linear map of the input beside.
    :param str init: as of :class:`MLP`; ``normalise`` likewise.
    :ivar ParameterList weights: ``[leaf, in, out]`` of the hidden layers, each followed by that of its gates if it is
        gated, then of the outputs; ``biases`` likewise, ``[leaf, 1, out]``, but for layers that are normalised.
        ``skips`` has one for each output.
    """

    def __init__(
        self,
        leaves: int,
        sizes: Sequence[int],
        activation: str,
        heads: Sequence[int] = (),
        output_gain: float = 1.0,
        skip: bool = False,
        init: str = "truncated",
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS.get(activation)  # none if gated
        self._in_place = IN_PLACE.get(activation)
        self.heads = len(heads)
        layers = [(*pair, 1.0) for pair in pairwise(sizes) for _ in range(1 + (activation == GATED))]
        layers += [(sizes[-1], head, output_gain) for head in heads]
        self.weights = nn.ParameterList(_weight(leaves, *layer, init) for layer in layers)
        # a normalised layer has the one of its norm
        biased = layers[len(layers) - self.heads :] if normalise else layers
        self.biases = nn.ParameterList(_bias(leaves, *layer, init) for layer in biased)
        self.skips = nn.ParameterList(_weight(leaves, sizes[0], head, output_gain, init) for head in heads if skip)
        self.norms = nn.ModuleList(LeafBatchNorm(leaves, size) for size in sizes[1:] if normalise)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[leaf, N, in]``.
        :returns: one tensor ``[leaf, N, out]`` per output.
        """
        weights, biases = list(self.weights), list(self.biases)
        if weights and weights[0].dtype in HALF:  # latent variables may be drawn in single precision
            x = x.to(weights[0].dtype)
        h, hidden = x, len(weights) - self.heads
        if self.activation is None:
            for i in range(0, hidden, 2):
                values, gates = affine(h, weights[i : i + 2], biases[i : i + 2])
                h = values * torch.sigmoid(gates)
        else:
            activation = self.activation if torch.is_grad_enabled() or self._in_place is None else self._in_place
            for layer, weight in enumerate(weights[:hidden]):
                if len(self.norms):
                    h = activation(normalised(self.norms[layer], torch.bmm(h, weight)))
                else:
                    h = activation(torch.baddbmm(biases[layer], h, weight))
        if not self.heads:
            return (h,)
        outputs = affine(h, weights[hidden:], biases[len(biases) - self.heads :])
        return tuple(affine(x, list(self.skips), outputs) if len(self.skips) else outputs)


def normalised(norm: nn.Module, h: Tensor) -> Tensor:
    """Batch normalisation of units ``[leaf, N, unit]``."""
    found: Tensor = norm(h.movedim(0, 1).flatten(1))
    return found.unflatten(1, (h.size(0), h.size(2))).movedim(1, 0)


def affine(h: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Sequence[Tensor]:
    """
    Several affine maps ``h W + b`` of the same input, ``[leaf, N, out]`` each.

    :param Tensor h: ``[leaf, N, in]``.
    :param weights: ``[leaf, in, out]`` each.
    :param biases: broadcastable to the results.
    """
    sizes = [weight.size(-1) for weight in weights]
    if len(sizes) == 1 or len(h) == 1 or max(sizes) >= _NARROW:
        return [torch.baddbmm(bias, h, weight) for weight, bias in zip(weights, biases, strict=True)]
    return torch.baddbmm(torch.cat(list(biases), -1), h, torch.cat(list(weights), -1)).split(sizes, -1)


def apply(stacks: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, ...]:
    """All outputs ``[.., leaf, out]`` of leaf-first modules, one after the other, of one input ``[.., leaf, in]``."""
    leaves, lead = x.size(-2), x.shape[:-2]
    h = x.movedim(-2, 0).reshape(leaves, -1, x.size(-1))  # [L, N, in]
    outputs = [output for stack in stacks for output in stack(h)]
    return tuple(output.reshape(leaves, *lead, output.size(-1)).movedim(0, -2) for output in outputs)


def _weight(leaves: int, fan_in: int, fan_out: int, gain: float, init: str) -> nn.Parameter:
    weight = torch.empty(leaves, fan_in, fan_out)
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


def check_activation(activation: Any, gated: bool = False) -> None:
    """
    :param bool gated: whether layers may be gated.
    :raises ValueError: if there is no such activation.
    """
    checks.one_of("activation", activation, [*ACTIVATIONS, *[GATED] * gated])


def check_layers(hidden_dims: Any, activation: Any, normalise: Any) -> bool:
    """
    Checks options of hidden layers, whether a network of them is made or not; returns the last one.

    :raises ValueError: if one is out of range, or normalised layers are gated.
    """
    check_hidden_dims(hidden_dims)
    check_activation(activation, gated=True)
    if checks.boolean("normalise", normalise) and activation == GATED:
        raise ValueError("normalise is True, but gated layers are not normalised; choose another activation")
    return bool(normalise)


def check_output_gain(output_gain: Any) -> None:
    """
    :raises ValueError: if it is no positive number.
    """
    if not checks.is_number(output_gain) or output_gain <= 0:
        raise ValueError(f"output_gain is {output_gain!r}; a positive number is needed")


def check_hidden_dims(hidden_dims: Any) -> None:
    """
    :raises ValueError: if it is no sequence of positive integers.
    """
    if not isinstance(hidden_dims, Sequence) or isinstance(hidden_dims, str):
        raise ValueError(f"hidden_dims is {hidden_dims!r}; a sequence of positive integers is needed, such as (32, 32)")
    if not all(map(checks.is_positive, hidden_dims)):
        raise ValueError(f"hidden_dims is {tuple(hidden_dims)!r}; positive integers are needed")
