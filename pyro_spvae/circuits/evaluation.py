# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a circuit, layer by layer, in the log domain, with a hand-written derivative.

The values of all leaves and sums are the rows of one table ``[row, batch]``, leaves first, the root last, the batch
being the last axis, contiguous, since there are often as few as two units. What a layer computes of the rows below is
its own matter (:class:`~.layer.Layer`).

The derivative is written by hand because it can write into one table in place, where autograd would make a new one for
each layer, and because it keeps no products. Derivatives of derivatives are left to autograd, without that economy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .layer import Layer
from .numerics import by_hand

Factors = Sequence[Sequence[Tensor]]


def evaluate(leaf: Tensor, layers: Sequence[Layer], factors: Sequence[Tensor]) -> Tensor:
    """Log-probability at the root, differentiable in the leaves and the log-weights.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :param layers: the layers of the circuit.
    :param factors: what :meth:`Layer.log_factors` of all layers returned, in one list.
    :return: ``[batch]``.
    """
    if by_hand(leaf, *factors):
        return _Evaluate.apply(leaf, layers, *factors)
    return _differentiable_upward(leaf, layers, _by_layer(layers, factors))


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, layers: Sequence[Layer], *factors: Tensor) -> Tensor:
        rows, saved = upward(leaf, layers, _by_layer(layers, factors))
        ctx.layers = layers
        ctx.kept = [len(own) for own in saved]
        ctx.save_for_backward(leaf, rows, *factors, *(tensor for own in saved for tensor in own))
        return rows[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        leaf, rows, *rest = ctx.saved_tensors
        first = len(rest) - sum(ctx.kept)
        factors, tensors = _by_layer(ctx.layers, rest[:first]), iter(rest[first:])
        saved = [[next(tensors) for _ in range(kept)] for kept in ctx.kept]
        # under create_graph=True the derivative itself is to be differentiable (the compiler traces without it)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _differentiable_downward(grad, leaf, ctx.layers, factors)
        need = any(ctx.needs_input_grad[2:])
        leaf_grad, weight_grads = downward(grad, rows, saved, ctx.layers, factors, need)
        return leaf_grad, None, *weight_grads


def upward(leaf: Tensor, layers: Sequence[Layer], factors: Factors) -> tuple[Tensor, list[list[Tensor]]]:
    """Values of all leaves and sums.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :param factors: what :meth:`Layer.log_factors` of each layer returned.
    :return: the log-values, ``[row, batch]``, and what each layer keeps for :func:`downward`.
    """
    rows = _table(leaf, layers)
    return rows, [layer.upward(rows, own) for layer, own in zip(layers, factors, strict=True)]


def upward_max(leaf: Tensor, layers: Sequence[Layer], factors: Factors) -> Tensor:
    """Like :func:`upward` with maxima in the place of sums: the value of the best tree below each sum.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :param factors: what :meth:`Layer.log_factors` of each layer returned.
    :return: ``[row, batch]``.
    """
    rows = _table(leaf, layers)
    for layer, own in zip(layers, factors, strict=True):
        layer.upward_max(rows, own)
    return rows


def downward(
    grad: Tensor,
    rows: Tensor,
    saved: Sequence[Sequence[Tensor]],
    layers: Sequence[Layer],
    factors: Factors,
    weights: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Derivatives of the root in the leaves and the log-weights, times ``grad``.

    What reaches a sum is divided among its products by shares that sum to 1 whatever the rounding of the values was.

    :param Tensor grad: factor of each member of the batch, ``[batch]``; with ones, the derivatives in
        the leaves are the posterior probabilities that they are on the induced tree.
    :param Tensor rows: the first, and
    :param saved: the second of what :func:`upward` returned.
    :param bool weights: whether the derivatives in the log-weights are wanted.
    :return: ``[batch, leaf]``, and for each of the factors of all layers a tensor of its shape or None.
    """
    flow = torch.zeros_like(rows)
    flow[-1] = grad
    grads: list[list[Tensor | None]] = []
    for layer, kept, own in zip(reversed(layers), reversed(saved), reversed(factors), strict=True):
        grads.append(layer.downward(flow, rows, kept, own, weights))
    num_leaves = layers[0].start if layers else rows.shape[0]
    return flow[:num_leaves].t(), [grad for own in reversed(grads) for grad in own]


def flows(rows: Tensor, saved: Sequence[Sequence[Tensor]], layers: Sequence[Layer], factors: Factors) -> list[Tensor]:
    """Derivatives of the root in each log-weight, one for each member of the batch where :func:`downward` adds them up.

    :param Tensor rows: the first, and
    :param saved: the second of what :func:`upward` returned.
    :return: for each group of each layer ``[R, O, C, batch]``.
    """
    flow = torch.zeros_like(rows)
    flow[-1] = 1
    shares: list[list[Tensor]] = []
    for layer, kept, own in zip(reversed(layers), reversed(saved), reversed(factors), strict=True):
        shares.append(layer.product_flows(flow, rows, kept, own))
    return [share for own in reversed(shares) for share in own]


def _by_layer(layers: Sequence[Layer], factors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The factors of each layer, from one list of all."""
    remaining = iter(factors)
    return [[next(remaining) for _ in range(layer.num_factors)] for layer in layers]


def _differentiable_downward(
    grad: Tensor, leaf: Tensor, layers: Sequence[Layer], factors: Factors
) -> tuple[Tensor | None, ...]:
    """The derivatives as :class:`_Evaluate` returns them, from autograd and so with a graph of their own, at its
    cost."""
    root = _differentiable_upward(leaf, layers, factors)
    tensors = (leaf, *(factor for own in factors for factor in own))
    inputs = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(root, inputs, grad, create_graph=True))
    leaf_grad, *weight_grads = (next(found) if tensor.requires_grad else None for tensor in tensors)
    return leaf_grad, None, *weight_grads


def _differentiable_upward(leaf: Tensor, layers: Sequence[Layer], factors: Factors) -> Tensor:
    """The root of :func:`upward` in operations that autograd follows, ``[batch]``."""
    rows = leaf.t()
    for layer, own in zip(layers, factors, strict=True):
        rows = torch.cat([rows, layer.values(rows, own)])
    return rows[-1]


def _table(leaf: Tensor, layers: Sequence[Layer]) -> Tensor:
    batch, num_leaves = leaf.shape
    rows = leaf.new_empty(layers[-1].stop if layers else num_leaves, batch)
    rows[:num_leaves] = leaf.t()
    return rows
