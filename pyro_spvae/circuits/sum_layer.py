# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The sum and product nodes of equally shaped regions with one free weight for each product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .layer import MAX_EXACT_UNITS, FreeWeights, Group, Layer
from .numerics import at_least_single, exp_, floored, largest, log_sum_exp
from .sampling import drawn, parts_of

Rows = list[tuple[Tensor, Tensor | None]]


class Block(NamedTuple):
    """Partitions of each region of a layer whose parts are of one kind, ``left x right`` units."""

    partitions: int
    left: int
    right: int

    @property
    def products(self) -> int:
        """Product nodes of one region."""
        return self.partitions * self.left * self.right


class SumLayer(Layer):
    r"""Regions of one level with equally many partitions of each kind, so with as many sums ``O`` and products ``C``.

    For each member of the batch it computes

    .. math:: \mathrm{out}_{ro} = \log \sum_c \exp(\log w_{roc} + \mathrm{left}_{rc} + \mathrm{right}_{rc})

    With few units exactly as written. With more, the exponentials are taken of the children (``K`` values) instead of
    their products (``K^2``), each child relative to its largest unit, and the sum is a matrix product
    ("log-einsum-exp", Peharz et al. 2020, "Einsum networks"). Then weights below a floor far under the precision of the
    type count as the floor, so that the largest product of a region always counts and the sum is never 0.

    :param list regions: numbers of its regions in the graph.
    :param int start: first row of the layer.
    :param int sums: sum nodes of a region, ``O``.
    :param list blocks: partitions by kind.
    :param children: for each block the rows of the units of its parts, ``[R, P, left]`` and ``[R, P, right]``; the
        right rows are None for a root that mixes its own leaves.
    :param list classes: a number for each region, equal for those that share their weights; all differ by default.
    :ivar Tensor logits: ``[class, sum, product]``, one softmax over all products of all partitions for each sum.
        Classes are in the order of their first regions.
    """

    left: Tensor
    right: Tensor | None
    classes: Tensor | None

    def __init__(
        self,
        regions: list[int],
        start: int,
        sums: int,
        blocks: list[Block],
        children: Rows,
        classes: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.regions = tuple(regions)
        self.num_regions = len(regions)
        self.num_sums = sums
        self.num_products = sum(block.products for block in blocks)
        self.start, self.stop = start, start + self.num_regions * sums
        self.blocks = tuple(blocks)
        self.mixture = children[0][1] is None
        self.exact = self.mixture or max(sums, *(max(block.left, block.right) for block in blocks)) <= MAX_EXACT_UNITS
        places: dict[int, int] = {}
        own_class = [places.setdefault(number, len(places)) for number in classes or range(len(regions))]
        self.num_classes = len(places)
        tied = self.num_classes < self.num_regions
        self.register_buffer("classes", torch.tensor(own_class) if tied else None, persistent=False)
        # one softmax over all products of all partitions of a region; N(0, 1) as in the SPVAE paper
        self.logits = nn.Parameter(torch.randn(self.num_classes, sums, self.num_products))
        # rows of the two factors of each product, [R * C]
        pairs = [_pairs(block, *rows) for block, rows in zip(blocks, children, strict=True)]
        self.register_buffer("left", torch.cat([pair[0] for pair in pairs], dim=1).flatten(), persistent=False)
        right = None if self.mixture else torch.cat([pair[1] for pair in pairs], dim=1).flatten()
        self.register_buffer("right", right, persistent=False)
        if not self.exact:
            for place, (one, other) in enumerate(children):
                assert other is not None  # a mixture is exact
                self.register_buffer(f"left_{place}", one.flatten(), persistent=False)
                self.register_buffer(f"right_{place}", other.flatten(), persistent=False)

    @property
    def reference(self) -> Tensor:
        return self.logits

    @property
    def num_factors(self) -> int:
        return 1

    def log_factors(self) -> list[Tensor]:
        """The normalised log-weights, ``[region, sum, product]``."""
        weights = torch.log_softmax(at_least_single(self.logits), dim=-1)
        return [weights if self.classes is None else weights.index_select(0, self.classes)]

    def free_weights(self) -> list[FreeWeights]:
        return [FreeWeights(self.logits, -1, self.logits.new_tensor(1 / self.num_products))]

    def of_classes(self, counts: Sequence[Tensor]) -> list[Tensor]:
        return [added_up(counts[0], self.classes, self.num_classes)]

    def own_rows(self) -> list[tuple[int, int, int]]:
        return [
            (region, self.start + place * self.num_sums, self.num_sums) for place, region in enumerate(self.regions)
        ]

    def assigned_counts(self, chosen: Tensor) -> list[Tensor]:
        products = chosen[self.left] if self.right is None else chosen[self.left] & chosen[self.right]
        products = products.view(self.num_regions, self.num_products, -1).to(self.logits.dtype)
        return [torch.bmm(self._own(chosen).to(self.logits.dtype), products.transpose(1, 2))]

    def groups(self) -> list[Group]:
        factors = [self.left] if self.right is None else [self.left, self.right]
        children = torch.stack(factors, dim=-1).view(self.num_regions, self.num_products, -1)
        return [Group(self.regions, self.start, self.num_sums, children)]

    def log_weights(self) -> list[Tensor]:
        return self.log_factors()

    def upward(self, rows: Tensor, factors: Sequence[Tensor]) -> list[Tensor]:
        """Writes its rows; returns the sums relative to the largest product of the region, ``[R, O, batch]``, unless
        exact."""
        if self.exact:
            rows[self.start : self.stop] = self.values(rows, factors)
            return []
        products, top = self._scaled_products(rows)  # [R, C, B], [R, 1, B]
        sums = torch.bmm(floored(factors[0]).exp(), products)
        rows[self.start : self.stop] = (sums.log() + top).flatten(0, 1)
        return [sums]

    def values(self, rows: Tensor, factors: Sequence[Tensor]) -> Tensor:
        return log_sum_exp(self._terms(rows, factors[0]), 2).flatten(0, 1)

    def downward(
        self, flow: Tensor, rows: Tensor, saved: Sequence[Tensor], factors: Sequence[Tensor], weights: bool
    ) -> list[Tensor | None]:
        above = self._own(flow)
        if self.exact:
            terms = self._exact_shares(above, rows, factors[0])  # [R, O, C, B]
            self._add_to_children(flow, terms.sum(dim=1))
            return [terms.sum(dim=-1) if weights else None]
        products, _ = self._scaled_products(rows)  # [R, C, B]
        weight = floored(factors[0]).exp()
        ratio = self._ratio(above, saved[0])
        weight_grad = torch.bmm(ratio, products.transpose(1, 2)).mul_(weight) if weights else None
        grad = torch.bmm(weight.transpose(1, 2), ratio).mul_(products)  # [R, C, B]
        first = 0
        for place, block in enumerate(self.blocks):
            own = grad[:, first : first + block.products].unflatten(1, tuple(block))  # [R, P, left, right, B]
            left, right = self._block_rows(place)
            flow.index_add_(0, left, own.sum(dim=3).flatten(0, 2))
            flow.index_add_(0, right, own.sum(dim=2).flatten(0, 2))
            first += block.products
        return [weight_grad]

    def product_flows(
        self, flow: Tensor, rows: Tensor, saved: Sequence[Tensor], factors: Sequence[Tensor]
    ) -> list[Tensor]:
        above = self._own(flow)
        if self.exact:
            shares = self._exact_shares(above, rows, factors[0])
        else:
            products, _ = self._scaled_products(rows)  # [R, C, B]
            ratio = self._ratio(above, saved[0])
            shares = floored(factors[0]).exp().unsqueeze(-1) * products.unsqueeze(1) * ratio.unsqueeze(2)
        self._add_to_children(flow, shares.sum(dim=1))
        return [shares]

    def upward_max(self, rows: Tensor, factors: Sequence[Tensor]) -> None:
        products = self._log_products(rows)  # [R, C, B]
        out = self._own(rows)
        for unit in range(self.num_sums):  # one unit at a time, to keep no [R, O, C, B]
            out[:, unit] = (products + factors[0][:, unit, :, None]).amax(dim=1)

    def choose(
        self, nodes: Tensor, trees: Tensor, factors: Sequence[Tensor], rows: Tensor | None, noise: bool
    ) -> tuple[Tensor, Tensor]:
        chosen = []
        for own_nodes, own_trees in parts_of(self.num_products, nodes - self.start, trees):
            region = own_nodes // self.num_sums
            scores = factors[0].flatten(0, 1)[own_nodes]  # [V, C]
            if rows is not None:
                member = (own_trees % rows.shape[1]).unsqueeze(-1)
                scores = scores + rows[self.left.view(self.num_regions, -1)[region], member]
                if self.right is not None:
                    scores = scores + rows[self.right.view(self.num_regions, -1)[region], member]
            chosen.append(region * self.num_products + drawn(scores, noise))
        place = torch.cat(chosen)
        children = [self.left[place]] if self.right is None else [self.left[place], self.right[place]]
        return torch.cat(children), torch.cat([trees] * len(children))

    def _own(self, table: Tensor) -> Tensor:
        """Its rows of a table, ``[R, O, B]``."""
        return table[self.start : self.stop].view(self.num_regions, self.num_sums, -1)

    def _block_rows(self, place: int) -> tuple[Tensor, Tensor]:
        """Rows of the left and right parts of one block, ``[R * P * left]`` and ``[R * P * right]``."""
        return getattr(self, f"left_{place}"), getattr(self, f"right_{place}")

    def _log_products(self, rows: Tensor) -> Tensor:
        """Log-values of the products, ``[R, C, batch]``."""
        products = rows.index_select(0, self.left)
        if self.right is not None:
            products += rows.index_select(0, self.right)
        return products.view(self.num_regions, self.num_products, -1)

    def _terms(self, rows: Tensor, log_weight: Tensor) -> Tensor:
        return self._log_products(rows).unsqueeze(1) + log_weight.unsqueeze(-1)  # [R, O, C, B]

    def _exact_shares(self, above: Tensor, rows: Tensor, log_weight: Tensor) -> Tensor:
        """What reaches each sum, divided among its products, ``[R, O, C, B]``."""
        # a sum of value -inf has no child to credit; relative to 0 its terms of -inf get none, where -inf - -inf is NaN
        out = self._own(rows)
        out = out.masked_fill(out == -math.inf, 0.0).unsqueeze(2)
        terms = exp_(self._terms(rows, log_weight) - out)
        # they sum to 1 up to the rounding of `out`, or to 0, whence the bound
        terms *= (above / terms.sum(dim=2).clamp_(min=1e-20)).unsqueeze(2)
        return terms

    def _ratio(self, above: Tensor, sums: Tensor) -> Tensor:
        return (above / sums).masked_fill(sums == 0, 0.0)  # [R, O, B]; a sum of value -inf has no child to credit

    def _add_to_children(self, flow: Tensor, products: Tensor) -> None:
        """Passes what reaches products, ``[R, C, B]``, to the rows of their factors."""
        products = products.flatten(0, 1)
        flow.index_add_(0, self.left, products)
        if self.right is not None:
            flow.index_add_(0, self.right, products)

    def _scaled_products(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Products relative to the largest of each region, ``[R, C, B]``, and the log of that one, ``[R, 1, B]``."""
        scaled, tops = [], []
        for place, block in enumerate(self.blocks):
            left, right = (
                rows.index_select(0, index).view(self.num_regions, block.partitions, units, -1)  # [R, P, K, B]
                for index, units in zip(self._block_rows(place), block[1:], strict=True)
            )
            left_top, right_top = largest(left, dim=2), largest(right, dim=2)
            scaled.append((exp_(left.sub_(left_top)), right.sub_(right_top)))
            tops.append(left_top + right_top)  # [R, P, 1, B]
        top = torch.cat(tops, dim=1).amax(dim=1)  # [R, 1, B]
        blocks = []
        for (left, right), own_top in zip(scaled, tops, strict=True):
            right = exp_(right.add_(own_top - top.unsqueeze(1)))
            blocks.append((left.unsqueeze(3) * right.unsqueeze(2)).flatten(1, 3))
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1), top

    def extra_repr(self) -> str:
        tied = "" if self.classes is None else f", classes={self.num_classes}"
        return f"regions={self.num_regions}{tied}, sums={self.num_sums}, products={self.num_products}"


def mixture(region: int, start: int, units: int, first: int) -> SumLayer:
    """The root that mixes so many units of its region, whose rows start at ``first``."""
    children = (torch.arange(first, first + units).view(1, 1, -1), None)
    return SumLayer([region], start, 1, [Block(1, units, 1)], [children])


def added_up(counts: Tensor, classes: Tensor | None, number: int) -> Tensor:
    """Sums over the members of each class, along the first axis."""
    if classes is None:
        return counts
    return counts.new_zeros(number, *counts.shape[1:]).index_add_(0, classes, counts)


def _pairs(block: Block, left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows of both factors of each product, ``[R, P * left * right]``."""
    if right is None:
        return left.flatten(1), left.flatten(1)
    shape = (left.shape[0], block.partitions, block.left, block.right)
    return left.unsqueeze(3).expand(shape).flatten(1), right.unsqueeze(2).expand(shape).flatten(1)
