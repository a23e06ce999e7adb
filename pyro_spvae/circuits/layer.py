# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The sum and product nodes of equally shaped regions, to be evaluated at one go."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .region_graph import Partition, RegionGraph
from .tying import shape_classes

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
        children: list[tuple[Tensor, Tensor | None]],
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
        self._draw_weights()
        # rows of the two factors of each product, [R * C]
        pairs = [_pairs(block, *rows) for block, rows in zip(blocks, children, strict=True)]
        self.register_buffer("left", torch.cat([pair[0] for pair in pairs], dim=1).flatten(), persistent=False)
        right = None if self.mixture else torch.cat([pair[1] for pair in pairs], dim=1).flatten()
        self.register_buffer("right", right, persistent=False)
        if not self.exact or self.factored:
            for place, (one, other) in enumerate(children):
                assert other is not None  # a mixture is exact and not factored
                self.register_buffer(f"left_{place}", one.flatten(), persistent=False)
                self.register_buffer(f"right_{place}", other.flatten(), persistent=False)

    @property
    def factored(self) -> bool:
        """Whether the weights are products of factors."""
        return False

    @property
    def reference(self) -> Tensor:
        """A parameter, whose type and device are those of all."""
        return self.logits

    def log_factors(self) -> list[Tensor]:
        """What the layer is evaluated from: here :meth:`log_weights` alone."""
        return [self.log_weights()]

    @property
    def num_factors(self) -> int:
        """How many tensors :meth:`log_factors` returns."""
        return 1

    def log_weights(self) -> Tensor:
        """Normalised log-weights in nats, ``[region, sum, product]``."""
        return self._of_regions(torch.log_softmax(self.logits, dim=-1))

    def block_rows(self, place: int) -> tuple[Tensor, Tensor]:
        """Rows of the left and right parts of one block, ``[R * P * left]`` and ``[R * P * right]``."""
        return getattr(self, f"left_{place}"), getattr(self, f"right_{place}")

    def _draw_weights(self) -> None:
        # one softmax over all products of all partitions of a region; N(0, 1) as in the SPVAE paper
        self.logits = nn.Parameter(torch.randn(self.num_classes, self.num_sums, self.num_products))

    def _of_regions(self, weights: Tensor) -> Tensor:
        """The weights of each region, ``[region, ..]``, from those of each class."""
        return weights if self.classes is None else weights.index_select(0, self.classes)

    def extra_repr(self) -> str:
        tied = "" if self.classes is None else f", classes={self.num_classes}"
        return f"regions={self.num_regions}{tied}, sums={self.num_sums}, products={self.num_products}"


class FactoredLayer(SumLayer):
    r"""A layer whose weights are products of three factors ("CP", the canonical polyadic decomposition).

    For each sum the pair of unit i of the left and unit j of the right part of partition p has the weight

    .. math:: w_{pij} = m_p\, a_{pi}\, b_{pj}

    with one softmax over the partitions for m, and one over the units of a part for each a and b.

    :ivar Tensor partition_logits: those of m, ``[class, partition, sum]``, partitions in the order of the blocks.
    :ivar ParameterList unit_logits: for each block those of a and b, ``[class, partition, sum, left]`` and
        ``[class, partition, sum, right]``.
    """

    @property
    def factored(self) -> bool:
        return True

    @property
    def reference(self) -> Tensor:
        return self.partition_logits

    def log_factors(self) -> list[Tensor]:
        """Logarithms of the factors in nats: m, ``[region, partition, sum]``, and for each block a and b,
        ``[region, partition, sum, unit]``."""
        partition = torch.log_softmax(self.partition_logits, dim=1)
        units = [torch.log_softmax(logits, dim=-1) for logits in self.unit_logits]
        return [self._of_regions(factor) for factor in (partition, *units)]

    @property
    def num_factors(self) -> int:
        return 1 + 2 * len(self.blocks)

    def log_weights(self) -> Tensor:
        """Logarithms of the products of the factors in nats, ``[region, sum, product]``."""
        partition, *units = self.log_factors()
        weights, first = [], 0
        for block, left, right in zip(self.blocks, units[::2], units[1::2], strict=True):
            own = partition[:, first : first + block.partitions, :, None, None]
            pairs = own + left.unsqueeze(4) + right.unsqueeze(3)  # [R, P, O, left, right]
            weights.append(pairs.transpose(1, 2).flatten(2))
            first += block.partitions
        return torch.cat(weights, dim=-1)

    def _draw_weights(self) -> None:
        partitions = sum(block.partitions for block in self.blocks)
        self.partition_logits = nn.Parameter(torch.randn(self.num_classes, partitions, self.num_sums))
        shapes = [(block.partitions, self.num_sums, units) for block in self.blocks for units in block[1:]]
        self.unit_logits = nn.ParameterList(torch.randn(self.num_classes, *shape) for shape in shapes)


def _pairs(block: Block, left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows of both factors of each product, ``[R, P * left * right]``."""
    if right is None:
        return left.flatten(1), left.flatten(1)
    shape = (left.shape[0], block.partitions, block.left, block.right)
    return left.unsqueeze(3).expand(shape).flatten(1), right.unsqueeze(2).expand(shape).flatten(1)


def build_layers(
    regions: RegionGraph, units: int, leaves: int, *, tied: bool = False, factored: bool = False
) -> list[SumLayer]:
    """The layers of a circuit, children before parents, the root last.

    :param RegionGraph regions: the structure.
    :param int units: sum nodes of an inner region; the root has one, or where weights are products as many and one more
        that mixes them.
    :param int leaves: leaf distributions of a leaf region.
    :param bool tied: whether regions of one of the :func:`~.tying.shape_classes` share their weights.
    :param bool factored: whether weights are products. A root that mixes its own leaves has but one factor.
    """
    num_rows = regions.num_leaf_regions * leaves
    if not regions.partitions:
        if leaves == 1:
            return []
        return [_mixture(0, num_rows, leaves, 0)]

    kind = FactoredLayer if factored else SumLayer
    classes = shape_classes(regions) if tied else list(range(regions.num_regions))
    first_row = {region: region * leaves for region in range(regions.num_leaf_regions)}
    layers: list[SumLayer] = []
    for level in regions.levels:
        # regions of one level that have equally many partitions of each kind
        groups: defaultdict[tuple[Block, ...], list[tuple[int, list[list[Partition]]]]] = defaultdict(list)
        for region in level:
            kinds = _by_kind(regions, region, units, leaves)
            blocks = tuple(Block(len(partitions), *kind) for kind, partitions in kinds.items())
            groups[blocks].append((region, list(kinds.values())))
        for blocks, members in sorted(groups.items()):
            sums = units if factored or level != regions.levels[-1] else 1
            children: list[tuple[Tensor, Tensor | None]] = []
            for place, block in enumerate(blocks):
                chosen = [parts[place] for _, parts in members]
                children.append(
                    (
                        _rows([[first_row[part.left] for part in some] for some in chosen], block.left),
                        _rows([[first_row[part.right] for part in some] for some in chosen], block.right),
                    )
                )
            # regions of one class are in one group, as they have the same level and the same kinds of parts
            own = [region for region, _ in members]
            layers.append(kind(own, num_rows, sums, list(blocks), children, [classes[region] for region in own]))
            for region in own:
                first_row[region] = num_rows
                num_rows += sums
    if factored and units > 1:  # one sum of products of factors would make the parts of a partition independent
        layers.append(_mixture(own[-1], num_rows, units, num_rows - units))
    return layers


def _mixture(region: int, start: int, units: int, first: int) -> SumLayer:
    """The root that mixes so many units of its region, whose rows start at ``first``."""
    children = (torch.arange(first, first + units).view(1, 1, -1), None)
    return SumLayer([region], start, 1, [Block(1, units, 1)], [children])


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
