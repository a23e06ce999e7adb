# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a circuit, layer by layer, in the log domain, with a hand-written derivative.

The values of all leaves and sums are the rows of one table ``[row, batch]``, leaves first, the root last. A layer of
``R`` regions with ``O`` sums and ``C`` products each computes

    out[r, o] = log sum_c exp(log_weight[r, o, c] + left[r, c] + right[r, c])

for each member of the batch. With few units this is done exactly as written. With more, the exponentials are taken of
the children (``K`` values) instead of their products (``K^2``), each child relative to its largest unit, and the sum
is a matrix product ("log-einsum-exp", Peharz et al. 2020, "Einsum networks"). Then weights below a floor far under
the precision of the type count as the floor, so that the largest product of a region always counts and the sum is
never 0. Layers whose weights are products are evaluated in ``factored.py``.

The batch is the last axis, contiguous, since there are often as few as two units. The derivative is written by hand
because it can write into one table in place, where autograd would make a new one for each layer, and because it keeps
no products. Derivatives of derivatives are left to autograd, without that economy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import factored
from .layer import FactoredLayer, SumLayer
from .numerics import by_hand, floored, largest

Factors = Sequence[Sequence[Tensor]]


def evaluate(leaf: Tensor, layers: Sequence[SumLayer], factors: Sequence[Tensor]) -> Tensor:
    """Log-probability at the root, differentiable in the leaves and the log-weights.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :param layers: the layers of the circuit.
    :param factors: what :meth:`SumLayer.log_factors` of all layers returned, in one list: the log-weights of each
        layer, ``[R, O, C]``, unless it is factored.
    :return: ``[batch]``.
    """
    if by_hand(leaf, *factors):
        return _Evaluate.apply(leaf, layers, *factors)
    return _differentiable_upward(leaf, layers, _by_layer(layers, factors))


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, layers: Sequence[SumLayer], *factors: Tensor) -> Tensor:
        rows, sums = upward(leaf, layers, _by_layer(layers, factors))
        ctx.layers = layers
        ctx.save_for_backward(leaf, rows, *sums, *factors)
        return rows[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        leaf, rows, *saved = ctx.saved_tensors
        first = len(saved) - sum(layer.num_factors for layer in ctx.layers)
        sums, factors = saved[:first], _by_layer(ctx.layers, saved[first:])
        # under create_graph=True the derivative itself is to be differentiable (the compiler traces without it)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _differentiable_downward(grad, leaf, ctx.layers, factors)
        need = any(ctx.needs_input_grad[2:])
        leaf_grad, weight_grads = downward(grad, rows, sums, ctx.layers, factors, need)
        return leaf_grad, None, *weight_grads


def upward(leaf: Tensor, layers: Sequence[SumLayer], factors: Factors) -> tuple[Tensor, list[Tensor]]:
    """Values of all leaves and sums.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :param factors: what :meth:`SumLayer.log_factors` of each layer returned.
    :return: the log-values, ``[row, batch]``, and for each layer that is neither exact nor factored its sums relative
        to the largest product of the region, ``[R, O, batch]``.
    """
    rows = _table(leaf, layers)
    sums = []
    for layer, own in zip(layers, factors, strict=True):
        if isinstance(layer, FactoredLayer):
            out = factored.upward(rows, layer, own)
        elif layer.exact:
            out = torch.logsumexp(_exact_terms(rows, layer, own[0]), dim=2)
        else:
            products, top = _scaled_products(rows, layer)  # [R, C, B], [R, 1, B]
            sums.append(torch.bmm(floored(own[0]).exp(), products))
            out = sums[-1].log() + top
        rows[layer.start : layer.stop] = out.flatten(0, 1)
    return rows, sums


def upward_max(leaf: Tensor, layers: Sequence[SumLayer], log_weights: Sequence[Tensor]) -> Tensor:
    """Like :func:`upward` with maxima in the place of sums: the value of the best tree below each sum.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :param log_weights: normalised log-weights of each layer, ``[R, O, C]``.
    :return: ``[row, batch]``.
    """
    rows = _table(leaf, layers)
    for layer, log_weight in zip(layers, log_weights, strict=True):
        products = log_products(rows, layer)  # [R, C, B]
        out = rows[layer.start : layer.stop].view(layer.num_regions, layer.num_sums, -1)
        for unit in range(layer.num_sums):  # one unit at a time, to keep no [R, O, C, B]
            out[:, unit] = (products + log_weight[:, unit, :, None]).amax(dim=1)
    return rows


def downward(
    grad: Tensor,
    rows: Tensor,
    sums: Sequence[Tensor],
    layers: Sequence[SumLayer],
    factors: Factors,
    weights: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Derivatives of the root in the leaves and the log-weights, times ``grad``.

    What reaches a sum is divided among its products by shares that sum to 1 whatever the rounding of the values was.

    :param Tensor grad: factor of each member of the batch, ``[batch]``; with ones, the derivatives in
        the leaves are the posterior probabilities that they are on the induced tree.
    :param Tensor rows: the first, and
    :param sums: the second of what :func:`upward` returned.
    :param bool weights: whether the derivatives in the log-weights are wanted.
    :return: ``[batch, leaf]``, and for each of the factors of all layers a tensor of its shape or None.
    """
    flow = torch.zeros_like(rows)
    flow[-1] = grad
    remaining = list(sums)
    weight_grads: list[list[Tensor | None]] = []
    for layer, own in zip(reversed(layers), reversed(factors), strict=True):
        above = flow[layer.start : layer.stop].view(layer.num_regions, layer.num_sums, -1)
        if isinstance(layer, FactoredLayer):
            weight_grads.append(factored.downward(flow, above, rows, layer, own, weights))
        elif layer.exact:
            weight_grads.append([_exact_downward(flow, above, rows, layer, own[0], weights)])
        else:
            weight_grads.append([_scaled_downward(flow, above, rows, remaining.pop(), layer, own[0], weights)])
    num_leaves = layers[0].start if layers else rows.shape[0]
    return flow[:num_leaves].t(), [grad for grads in reversed(weight_grads) for grad in grads]


def flows(rows: Tensor, sums: Sequence[Tensor], layers: Sequence[SumLayer], factors: Factors) -> list[Tensor]:
    """Derivatives of the root in each log-weight, one for each member of the batch where :func:`downward` adds them up.

    :param Tensor rows: the first, and
    :param sums: the second of what :func:`upward` returned.
    :return: for each layer ``[R, O, C, batch]``.
    """
    flow = torch.zeros_like(rows)
    flow[-1] = 1
    remaining = list(sums)
    shares = []
    for layer, own in zip(reversed(layers), reversed(factors), strict=True):
        above = flow[layer.start : layer.stop].view(layer.num_regions, layer.num_sums, -1)
        if isinstance(layer, FactoredLayer):
            shares.append(factored.product_shares(above, rows, layer, own))
        elif layer.exact:
            shares.append(_exact_shares(above, rows, layer, own[0]))
        else:
            shares.append(_scaled_shares(above, rows, remaining.pop(), layer, own[0]))
        _add_to_children(flow, shares[-1].sum(dim=1), layer)
    return shares[::-1]


def log_products(rows: Tensor, layer: SumLayer) -> Tensor:
    """Log-values of the products of a layer, ``[R, C, batch]``."""
    products = rows.index_select(0, layer.left)
    if layer.right is not None:
        products += rows.index_select(0, layer.right)
    return products.view(layer.num_regions, layer.num_products, -1)


def _by_layer(layers: Sequence[SumLayer], factors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The factors of each layer, from one list of all."""
    remaining = iter(factors)
    return [[next(remaining) for _ in range(layer.num_factors)] for layer in layers]


def _differentiable_downward(
    grad: Tensor, leaf: Tensor, layers: Sequence[SumLayer], factors: Factors
) -> tuple[Tensor | None, ...]:
    """The derivatives as :class:`_Evaluate` returns them, from autograd and so with a graph of their own, at its
    cost."""
    root = _differentiable_upward(leaf, layers, factors)
    tensors = (leaf, *(factor for own in factors for factor in own))
    inputs = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(root, inputs, grad, create_graph=True))
    leaf_grad, *weight_grads = (next(found) if tensor.requires_grad else None for tensor in tensors)
    return leaf_grad, None, *weight_grads


def _differentiable_upward(leaf: Tensor, layers: Sequence[SumLayer], factors: Factors) -> Tensor:
    """The root of :func:`upward` in operations that autograd follows, ``[batch]``."""
    rows = leaf.t()
    for layer, own in zip(layers, factors, strict=True):
        if isinstance(layer, FactoredLayer):
            out = factored.upward(rows, layer, own, exact=True)
        else:
            out = torch.logsumexp(_exact_terms(rows, layer, own[0]), dim=2)
        rows = torch.cat([rows, out.flatten(0, 1)])
    return rows[-1]


def _table(leaf: Tensor, layers: Sequence[SumLayer]) -> Tensor:
    batch, num_leaves = leaf.shape
    rows = leaf.new_empty(layers[-1].stop if layers else num_leaves, batch)
    rows[:num_leaves] = leaf.t()
    return rows


def _exact_terms(rows: Tensor, layer: SumLayer, log_weight: Tensor) -> Tensor:
    return log_products(rows, layer).unsqueeze(1) + log_weight.unsqueeze(-1)  # [R, O, C, B]


def _exact_downward(
    flow: Tensor, above: Tensor, rows: Tensor, layer: SumLayer, log_weight: Tensor, weights: bool
) -> Tensor | None:
    terms = _exact_shares(above, rows, layer, log_weight)  # [R, O, C, B]
    _add_to_children(flow, terms.sum(dim=1), layer)
    return terms.sum(dim=-1) if weights else None


def _exact_shares(above: Tensor, rows: Tensor, layer: SumLayer, log_weight: Tensor) -> Tensor:
    """What reaches each sum, divided among its products, ``[R, O, C, B]``."""
    # a sum of value -inf has no child to credit; relative to 0 its terms of -inf get none, where -inf - -inf is NaN
    out = rows[layer.start : layer.stop].view_as(above)
    out = out.masked_fill(out == -math.inf, 0.0).unsqueeze(2)
    terms = (_exact_terms(rows, layer, log_weight) - out).exp_()
    # they sum to 1 up to the rounding of `out`, or to 0, whence the bound
    terms *= (above / terms.sum(dim=2).clamp_(min=1e-20)).unsqueeze(2)
    return terms


def _scaled_shares(above: Tensor, rows: Tensor, sums: Tensor, layer: SumLayer, log_weight: Tensor) -> Tensor:
    """The same for a layer that is not exact."""
    products, _ = _scaled_products(rows, layer)  # [R, C, B]
    ratio = (above / sums).masked_fill(sums == 0, 0.0)  # [R, O, B]; a sum of value -inf has no child to credit
    return floored(log_weight).exp().unsqueeze(-1) * products.unsqueeze(1) * ratio.unsqueeze(2)


def _add_to_children(flow: Tensor, products: Tensor, layer: SumLayer) -> None:
    """Passes what reaches products, ``[R, C, B]``, to the rows of their factors."""
    products = products.flatten(0, 1)
    flow.index_add_(0, layer.left, products)
    if layer.right is not None:
        flow.index_add_(0, layer.right, products)


def _scaled_downward(
    flow: Tensor,
    above: Tensor,
    rows: Tensor,
    sums: Tensor,
    layer: SumLayer,
    log_weight: Tensor,
    weights: bool,
) -> Tensor | None:
    products, _ = _scaled_products(rows, layer)  # [R, C, B]
    weight = floored(log_weight).exp()
    ratio = (above / sums).masked_fill(sums == 0, 0.0)  # [R, O, B]; a sum of value -inf has no child to credit
    weight_grad = torch.bmm(ratio, products.transpose(1, 2)).mul_(weight) if weights else None
    grad = torch.bmm(weight.transpose(1, 2), ratio).mul_(products)  # [R, C, B]
    first = 0
    for place, block in enumerate(layer.blocks):
        own = grad[:, first : first + block.products].unflatten(1, tuple(block))  # [R, P, left, right, B]
        left, right = layer.block_rows(place)
        flow.index_add_(0, left, own.sum(dim=3).flatten(0, 2))
        flow.index_add_(0, right, own.sum(dim=2).flatten(0, 2))
        first += block.products
    return weight_grad


def _scaled_products(rows: Tensor, layer: SumLayer) -> tuple[Tensor, Tensor]:
    """Products relative to the largest of each region, ``[R, C, B]``, and the log of that one, ``[R, 1, B]``."""
    scaled, tops = [], []
    for place, block in enumerate(layer.blocks):
        left, right = (
            rows.index_select(0, index).view(layer.num_regions, block.partitions, units, -1)  # [R, P, K, B]
            for index, units in zip(layer.block_rows(place), block[1:], strict=True)
        )
        left_top, right_top = largest(left, dim=2), largest(right, dim=2)
        scaled.append((left.sub_(left_top).exp_(), right.sub_(right_top)))
        tops.append(left_top + right_top)  # [R, P, 1, B]
    top = torch.cat(tops, dim=1).amax(dim=1)  # [R, 1, B]
    blocks = []
    for (left, right), own_top in zip(scaled, tops, strict=True):
        right = right.add_(own_top - top.unsqueeze(1)).exp_()
        blocks.append((left.unsqueeze(3) * right.unsqueeze(2)).flatten(1, 3))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1), top
