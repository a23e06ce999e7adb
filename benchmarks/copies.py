# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Torch's own layers with the parameters of layers that have a leaf axis, of one leaf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Copies:
    """
    Makes the layers, and remembers what is a copy of what.

    :ivar list parameters: those of ours that are one of torch's, that one, and whether it is the transpose.
    :ivar list norms: a norm of ours, and its copy.
    """

    def __init__(self) -> None:
        self.parameters: list[tuple[list[Tensor], nn.Parameter, bool]] = []
        self.norms: list[tuple[Any, Any]] = []

    def conv(self, ours: Any) -> nn.Conv2d:
        """Of a LeafConv; several convolutions of the same input are one."""
        _, _, before, side, _ = ours.kernels[0].shape
        after = sum(kernel.size(1) for kernel in ours.kernels)
        theirs = nn.Conv2d(before, after, side, ours.stride, ours.padding, bias=len(ours.biases) > 0)
        self._take(theirs.weight, ours.kernels)
        if theirs.bias is not None:
            self._take(theirs.bias, ours.biases)
        return theirs

    def norm(self, ours: Any, positions: bool = True) -> nn.Module:
        """Of a LeafBatchNorm, in the state in which it starts."""
        theirs: Any = (nn.BatchNorm2d if positions else nn.BatchNorm1d)(ours.weight.size(1))
        self._take(theirs.weight, [ours.weight])
        self._take(theirs.bias, [ours.bias])
        self.norms.append((ours, theirs))
        module: nn.Module = theirs
        return module

    def dense(self, stack: Any, layer: int, bias: int | None = None) -> nn.Linear:
        """Of a layer of a Stack, with the bias of that place, or without one."""
        weight = stack.weights[layer]
        theirs = nn.Linear(weight.size(1), weight.size(2), bias=bias is not None)
        self._take(theirs.weight, [weight], transposed=True)
        if bias is not None:
            self._take(theirs.bias, [stack.biases[bias]])
        return theirs

    def own(self, ours: Tensor) -> nn.Parameter:
        """Of a parameter, without the leaf axis."""
        theirs = nn.Parameter(torch.empty_like(ours[0]))
        self._take(theirs, [ours])
        return theirs

    def gradients(self) -> list[tuple[Tensor, Tensor]]:
        """Those of our parameters, in the shape of the copies, and those of the copies."""
        found = []
        for ours, theirs, transposed in self.parameters:
            assert theirs.grad is not None
            found.append((_as(theirs, [each.grad for each in ours if each.grad is not None], transposed), theirs.grad))
        return found

    def _take(self, theirs: Any, ours: Sequence[Tensor], transposed: bool = False) -> None:
        theirs.data = _as(theirs, [each.detach() for each in ours], transposed).clone()
        self.parameters.append((list(ours), theirs, transposed))


def _as(like: Tensor, parts: Sequence[Tensor], transposed: bool) -> Tensor:
    """Tensors of the one leaf, side by side, in the shape of another one."""
    whole = torch.cat([part[0] for part in parts])
    return whole.T.contiguous() if transposed else whole.reshape(like.shape)
