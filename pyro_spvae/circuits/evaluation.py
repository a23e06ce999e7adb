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
never 0.

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

from .layer import SumLayer


def evaluate(leaf: Tensor, layers: Sequence[SumLayer], log_weights: Sequence[Tensor]) -> Tensor:
    """Log-probability at the root, differentiable in the leaves and the log-weights.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :param layers: the layers of the circuit.
    :param log_weights: normalised log-weights of each layer, ``[R, O, C]``.
    :return: ``[batch]``.
    """
    return _Evaluate.apply(leaf, layers, *log_weights)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, leaf: Tensor, layers: Sequence[SumLayer], *log_weights: Tensor) -> Tensor:
        rows, sums = upward(leaf, layers, log_weights)
        ctx.layers = layers
        ctx.save_for_backward(leaf, rows, *sums, *log_weights)
        return rows[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        leaf, rows, *saved = ctx.saved_tensors
        first = len(saved) - len(ctx.layers)
        sums, log_weights = saved[:first], saved[first:]
        # under create_graph=True the derivative itself is to be differentiable (the compiler traces without it)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _differentiable_downward(grad, leaf, ctx.layers, log_weights)
        need = any(ctx.needs_input_grad[2:])
        leaf_grad, weight_grads = downward(grad, rows, sums, ctx.layers, log_weights, need)
        return leaf_grad, None, *weight_grads


def upward(leaf: Tensor, layers: Sequence[SumLayer], log_weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Values of all leaves and sums.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
    :return: the log-values, ``[row, batch]``, and for each layer that is not exact its sums relative
        to the largest product of the region, ``[R, O, batch]``.
    """
    rows = _table(leaf, layers)
    sums = []
    for layer, log_weight in zip(layers, log_weights, strict=True):
        if layer.exact:
            out = torch.logsumexp(_exact_terms(rows, layer, log_weight), dim=2)
        else:
            products, top = _scaled_products(rows, layer)  # [R, C, B], [R, 1, B]
            sums.append(torch.bmm(_floored(log_weight).exp(), products))
            out = sums[-1].log() + top
        rows[layer.start : layer.stop] = out.flatten(0, 1)
    return rows, sums


def upward_max(leaf: Tensor, layers: Sequence[SumLayer], log_weights: Sequence[Tensor]) -> Tensor:
    """Like :func:`upward` with maxima in the place of sums: the value of the best tree below each sum.

    :param Tensor leaf: leaf log-densities in nats, ``[batch, leaf]``.
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
    log_weights: Sequence[Tensor],
    weights: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Derivatives of the root in the leaves and the log-weights, times ``grad``.

    What reaches a sum is divided among its products by shares that sum to 1 whatever the rounding of the values was.

    :param Tensor grad: factor of each member of the batch, ``[batch]``; with ones, the derivatives in
        the leaves are the posterior probabilities that they are on the induced tree.
    :param Tensor rows: the first, and
    :param sums: the second of what :func:`upward` returned.
    :param bool weights: whether the derivatives in the log-weights are wanted.
    :return: ``[batch, leaf]``, and for each layer ``[R, O, C]`` or None.
    """
    flow = torch.zeros_like(rows)
    flow[-1] = grad
    remaining = list(sums)
    weight_grads: list[Tensor | None] = []
    for layer, log_weight in zip(reversed(layers), reversed(log_weights), strict=True):
        above = flow[layer.start : layer.stop].view(layer.num_regions, layer.num_sums, -1)
        if layer.exact:
            weight_grads.append(_exact_downward(flow, above, rows, layer, log_weight, weights))
        else:
            weight_grads.append(_scaled_downward(flow, above, rows, remaining.pop(), layer, log_weight, weights))
    num_leaves = layers[0].start if layers else rows.shape[0]
    return flow[:num_leaves].t(), weight_grads[::-1]


def flows(
    rows: Tensor, sums: Sequence[Tensor], layers: Sequence[SumLayer], log_weights: Sequence[Tensor]
) -> list[Tensor]:
    """Derivatives of the root in each log-weight, one for each member of the batch where :func:`downward` adds them up.

    :param Tensor rows: the first, and
    :param sums: the second of what :func:`upward` returned.
    :return: for each layer ``[R, O, C, batch]``.
    """
    flow = torch.zeros_like(rows)
    flow[-1] = 1
    remaining = list(sums)
    shares = []
    for layer, log_weight in zip(reversed(layers), reversed(log_weights), strict=True):
        above = flow[layer.start : layer.stop].view(layer.num_regions, layer.num_sums, -1)
        if layer.exact:
            shares.append(_exact_shares(above, rows, layer, log_weight))
        else:
            shares.append(_scaled_shares(above, rows, remaining.pop(), layer, log_weight))
        _add_to_children(flow, shares[-1].sum(dim=1), layer)
    return shares[::-1]


def log_products(rows: Tensor, layer: SumLayer) -> Tensor:
    """Log-values of the products of a layer, ``[R, C, batch]``."""
    products = rows.index_select(0, layer.left)
    if layer.right is not None:
        products += rows.index_select(0, layer.right)
    return products.view(layer.num_regions, layer.num_products, -1)


def _differentiable_downward(
    grad: Tensor, leaf: Tensor, layers: Sequence[SumLayer], log_weights: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The derivatives as :class:`_Evaluate` returns them, from autograd and so with a graph of their own, at its
    cost."""
    rows = leaf.t()
    for layer, log_weight in zip(layers, log_weights, strict=True):
        rows = torch.cat([rows, torch.logsumexp(_exact_terms(rows, layer, log_weight), dim=2).flatten(0, 1)])
    inputs = [tensor for tensor in (leaf, *log_weights) if tensor.requires_grad]
    found = iter(torch.autograd.grad(rows[-1], inputs, grad, create_graph=True))
    leaf_grad, *weight_grads = (next(found) if tensor.requires_grad else None for tensor in (leaf, *log_weights))
    return leaf_grad, None, *weight_grads


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
    return _floored(log_weight).exp().unsqueeze(-1) * products.unsqueeze(1) * ratio.unsqueeze(2)


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
    weight = _floored(log_weight).exp()
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
    # a value of -inf must not become a scale; two of the bound can still be added
    lowest = torch.finfo(rows.dtype).min / 4
    factors, tops = [], []
    for place, block in enumerate(layer.blocks):
        left, right = (
            rows.index_select(0, index).view(layer.num_regions, block.partitions, units, -1)  # [R, P, K, B]
            for index, units in zip(layer.block_rows(place), block[1:], strict=True)
        )
        left_top = left.amax(dim=2, keepdim=True).clamp_(min=lowest)
        right_top = right.amax(dim=2, keepdim=True).clamp_(min=lowest)
        factors.append((left.sub_(left_top).exp_(), right.sub_(right_top)))
        tops.append(left_top + right_top)  # [R, P, 1, B]
    top = torch.cat(tops, dim=1).amax(dim=1)  # [R, 1, B]
    blocks = []
    for (left, right), own_top in zip(factors, tops, strict=True):
        right = right.add_(own_top - top.unsqueeze(1)).exp_()
        blocks.append((left.unsqueeze(3) * right.unsqueeze(2)).flatten(1, 3))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1), top


def _floored(log_weight: Tensor) -> Tensor:
    """Log-weights from a floor upwards (-65 nats for float32, -531 for float64).

    The floor leaves room below the largest finite number for a flow divided by such a weight.
    """
    return log_weight.clamp(min=0.75 * math.log(torch.finfo(log_weight.dtype).tiny))
