# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The sum and product nodes of equally shaped regions, to be evaluated at one go."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .region_graph import Partition, RegionGraph

# up to so many units the exact log-sum-exp is as fast as the log-einsum-exp
MAX_EXACT_UNITS = 4


class Block(NamedTuple):
    """Partitions of each region of a layer whose parts are of one kind, ``left x right`` units."""

    partitions: int
    left: int
    right: int

    @property
    def products(self) -> int:
        """Product nodes of one region."""
        return self.partitions * self.left * self.right


class SumLayer(nn.Module):
    """Regions of one level with equally many partitions of each kind, hence with as many sums ``O`` and products ``C``.

    All nodes of a circuit that have a value (leaves and sums) are rows of one table. A layer reads the rows of its
    children and writes the rows ``start .. stop - 1``, which are ``[region, sum]`` flattened.

    :param list regions: numbers of its regions in the graph.
    :param int start: first row of the layer.
    :param int sums: sum nodes of a region, ``O``.
    :param list blocks: partitions by kind.
    :param children: for each block the rows of the units of its parts, ``[R, P, left]`` and ``[R, P, right]``; the
        right rows are None for a root that mixes its own leaves.
    """

    left: Tensor
    right: Tensor | None

    def __init__(
        self,
        regions: list[int],
        start: int,
        sums: int,
        blocks: list[Block],
        children: list[tuple[Tensor, Tensor | None]],
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
        # one softmax over all products of all partitions of a region; N(0, 1) as in the SPVAE paper
        self.logits = nn.Parameter(torch.randn(self.num_regions, sums, self.num_products))
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

    def log_weights(self) -> Tensor:
        """Normalised log-weights in nats, ``[region, sum, product]``."""
        return torch.log_softmax(self.logits, dim=-1)

    def block_rows(self, place: int) -> tuple[Tensor, Tensor]:
        """Rows of the left and right parts of one block, ``[R * P * left]`` and ``[R * P * right]``."""
        return getattr(self, f"left_{place}"), getattr(self, f"right_{place}")

    def extra_repr(self) -> str:
        return f"regions={self.num_regions}, sums={self.num_sums}, products={self.num_products}"


def _pairs(block: Block, left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows of both factors of each product, ``[R, P * left * right]``."""
    if right is None:
        return left.flatten(1), left.flatten(1)
    shape = (left.shape[0], block.partitions, block.left, block.right)
    return left.unsqueeze(3).expand(shape).flatten(1), right.unsqueeze(2).expand(shape).flatten(1)


def build_layers(regions: RegionGraph, units: int, leaves: int) -> list[SumLayer]:
    """The layers of a circuit, children before parents, the root last.

    :param RegionGraph regions: the structure.
    :param int units: sum nodes of an inner region; the root has one.
    :param int leaves: leaf distributions of a leaf region.
    """
    num_rows = regions.num_leaf_regions * leaves
    if not regions.partitions:
        if leaves == 1:
            return []
        return [SumLayer([0], num_rows, 1, [Block(1, leaves, 1)], [(torch.arange(leaves).view(1, 1, -1), None)])]

    first_row = {region: region * leaves for region in range(regions.num_leaf_regions)}
    layers = []
    for level in regions.levels:
        # regions of one level that have equally many partitions of each kind
        groups: defaultdict[tuple[Block, ...], list[tuple[int, list[list[Partition]]]]] = defaultdict(list)
        for region in level:
            kinds = _by_kind(regions, region, units, leaves)
            blocks = tuple(Block(len(partitions), *kind) for kind, partitions in kinds.items())
            groups[blocks].append((region, list(kinds.values())))
        for blocks, members in sorted(groups.items()):
            sums = 1 if level == regions.levels[-1] else units
            children: list[tuple[Tensor, Tensor | None]] = []
            for place, block in enumerate(blocks):
                chosen = [kinds[place] for _, kinds in members]
                children.append(
                    (
                        _rows([[first_row[part.left] for part in own] for own in chosen], block.left),
                        _rows([[first_row[part.right] for part in own] for own in chosen], block.right),
                    )
                )
            layers.append(SumLayer([region for region, _ in members], num_rows, sums, list(blocks), children))
            for region, _ in members:
                first_row[region] = num_rows
                num_rows += sums
    return layers


def _by_kind(regions: RegionGraph, region: int, units: int, leaves: int) -> dict[tuple[int, int], list[Partition]]:
    """Partitions of a region by the numbers of units of their parts, smaller number first."""
    kinds: defaultdict[tuple[int, int], list[Partition]] = defaultdict(list)
    for partition in regions.region_partitions[region]:
        left, right = (leaves if regions.is_leaf(part) else units for part in partition[1:])
        if left > right:
            partition = Partition(region, partition.right, partition.left)
        kinds[min(left, right), max(left, right)].append(partition)
    return dict(sorted(kinds.items()))


def _rows(first: list[list[int]], units: int) -> Tensor:
    """Rows ``[R, P, unit]`` of regions whose first rows are ``[R, P]``."""
    return torch.tensor(first).unsqueeze(-1) + torch.arange(units)
