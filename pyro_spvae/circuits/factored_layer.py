# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""All inner regions of a circuit whose weights are products of factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from . import factored
from .factored_structure import Choice, Level, factored_structure
from .layer import MAX_EXACT_UNITS, MAX_PRODUCTS, FreeWeights, Group, Layer
from .numerics import at_least_single, floored, log_sum_exp
from .region_graph import RegionGraph
from .sampling import drawn, parts_of
from .sum_layer import added_up

_EDGES = 64  # whose counts are made together, which bounds memory


class FactoredLayer(Layer):
    r"""The sums of a circuit whose weights are products of factors ("CP", the canonical polyadic decomposition).

    For each sum the units :math:`i_1, i_2, ..` of the parts of partition p have the weight

    .. math:: w_{p i_1 i_2 ..} = m_p \prod_k a^k_{p i_k}

    with one softmax over the partitions for m, and one over the units of a part for each a. A region of one partition
    has no m. Every region has ``units`` sums, the root too.

    :param RegionGraph regions: the structure, with at least one partition.
    :param int units: sum nodes of a region, ``O``.
    :param int leaves: leaves of a leaf region.
    :param classes: a number for each region, equal for those that share their weights.
    :ivar ParameterList unit_logits: those of a, ``[edge, sum, unit]``: of all edges from leaf regions, and of all from
        inner regions if there are any; where regions share weights, of one edge of each class.
    :ivar ParameterList partition_logits: those of m, ``[region, partition, sum]``: of all regions of 2 partitions, of
        3, and so on, as far as there are any.
    """

    def __init__(self, regions: RegionGraph, units: int, leaves: int, classes: Sequence[int]) -> None:
        super().__init__()
        found = factored_structure(regions, units, leaves, classes)
        self.num_sums = units
        self.levels = found.levels
        self.num_partitions = found.num_partitions
        self.inner = tuple(found.regions)
        self.shapes = found.shapes
        self.start, self.stop = found.levels[1].start, found.levels[-1].stop
        self.exact = max(units, leaves) <= MAX_EXACT_UNITS
        self.unit_logits = nn.ParameterList()
        self.partition_logits = nn.ParameterList()
        self.edge_units = [edges.units for edges in found.edges]
        for kind, edges in enumerate(found.edges):
            self._keep("edge_child", kind, edges.child)
            self._keep("edge_first", kind, edges.first)
            self._keep("edge_partition", kind, edges.partition)
            self._keep_classes("edge", kind, edges.classes, torch.tensor(edges.even)[:, None, None])
            self.unit_logits.append(torch.randn(max(edges.classes) + 1, units, edges.units))
        for kind, weights in enumerate(found.weights):
            self._keep_classes("partition", kind, weights.classes, torch.tensor(weights.even)[:, None, :])
            self.partition_logits.append(torch.randn(max(weights.classes) + 1, weights.partitions, units))
        most = max(map(len, found.slots)), max(len(parts) for own in found.slots for parts in own)
        slots = torch.full((len(found.slots), *most), -1)  # edges of [region, partition, part]
        for place, own in enumerate(found.slots):
            for number, parts in enumerate(own):
                slots[place, number, : len(parts)] = torch.tensor(parts)
        self.register_buffer("slots", slots, persistent=False)

    slots: Tensor

    def _keep(self, name: str, kind: int, values: list[int]) -> None:
        self.register_buffer(f"{name}_{kind}", torch.tensor(values), persistent=False)

    def _keep_classes(self, name: str, kind: int, classes: list[int], even: Tensor) -> None:
        """The classes, if any has several members, and what of further data reaches the weights of each."""
        number = max(classes) + 1
        index = torch.tensor(classes)
        first = torch.tensor([classes.index(own) for own in range(number)])
        self.register_buffer(f"{name}_classes_{kind}", index if number < len(classes) else None, persistent=False)
        self.register_buffer(f"{name}_even_{kind}", even[first], persistent=False)

    def _all(self, name: str) -> list[Tensor]:
        """A buffer of each tensor of weights."""
        if name.startswith("edge"):
            return [getattr(self, f"{name}_{kind}") for kind in range(len(self.unit_logits))]
        return [getattr(self, f"{name}_{kind}") for kind in range(len(self.partition_logits))]

    @property
    def num_regions(self) -> int:
        """Number of inner regions."""
        return len(self.inner)

    @property
    def reference(self) -> Tensor:
        return self.unit_logits[0]

    @property
    def num_factors(self) -> int:
        return len(self.unit_logits) + len(self.partition_logits)

    @property
    def _classes(self) -> list[Tensor | None]:
        """For each factor the place of each of its members in the parameter; None if it is each in turn."""
        return [*self._all("edge_classes"), *self._all("partition_classes")]

    def log_factors(self) -> list[Tensor]:
        """Logarithms of the factors in nats: a of all edges, ``[edge, sum, unit]``, and m, ``[region, partition,
        sum]``, in as many tensors as there are parameters."""
        factors = [torch.log_softmax(at_least_single(logits), dim=-1) for logits in self.unit_logits]
        factors += [torch.log_softmax(at_least_single(logits), dim=1) for logits in self.partition_logits]
        pairs = zip(factors, self._classes, strict=True)
        return [factor if classes is None else factor.index_select(0, classes) for factor, classes in pairs]

    def free_weights(self) -> list[FreeWeights]:
        of_units = zip(self.unit_logits, self._all("edge_even"), strict=True)
        of_partitions = zip(self.partition_logits, self._all("partition_even"), strict=True)
        return [
            *(FreeWeights(logits, -1, even) for logits, even in of_units),
            *(FreeWeights(logits, 1, even) for logits, even in of_partitions),
        ]

    def of_classes(self, counts: Sequence[Tensor]) -> list[Tensor]:
        sizes = [len(logits) for logits in (*self.unit_logits, *self.partition_logits)]
        return [added_up(*own) for own in zip(counts, self._classes, sizes, strict=True)]

    def own_rows(self) -> list[tuple[int, int, int]]:
        units = self.num_sums
        return [(region, self.start + place * units, units) for place, region in enumerate(self.inner)]

    def assigned_counts(self, chosen: Tensor) -> list[Tensor]:
        dtype, sums = self.reference.dtype, chosen[self.start : self.stop].view(self.num_regions, self.num_sums, -1)
        place_of = torch.empty(self.num_partitions, dtype=torch.int64, device=chosen.device)
        counts, choices = [], [choice for level in self.levels for choice in level.choices]
        for choice in choices:
            own = torch.arange(choice.region, choice.region + choice.regions, device=chosen.device)
            stop = choice.first + choice.regions * choice.partitions
            place_of[choice.first : stop] = own.repeat_interleave(choice.partitions)
        every = zip(self._all("edge_first"), self._all("edge_partition"), self.edge_units, strict=True)
        for first, partition, units in every:
            index = first.unsqueeze(-1) + torch.arange(units, device=first.device)
            blocks = zip(index.split(_EDGES), place_of[partition].split(_EDGES), strict=True)
            found = [torch.bmm(sums[place].to(dtype), chosen[own].to(dtype).transpose(1, 2)) for own, place in blocks]
            counts.append(torch.cat(found))
        for kind, logits in enumerate(self.partition_logits):
            own_choices = [choice for choice in choices if choice.weights is not None and choice.weights[0] == kind]
            parts = [sums[choice.region : choice.region + choice.regions].sum(-1) for choice in own_choices]
            reached = torch.cat(parts)
            partitions = logits.shape[1]
            counts.append(reached.to(dtype).unsqueeze(1).expand(-1, partitions, -1) / partitions)
        return counts

    # ---------------------------------------------------------------- products, written out

    def _forms(self) -> Iterator[tuple[int, int]]:
        """First and one behind the last of inner regions that have equally many products, made alike, level by
        level."""
        first = 0
        for level in self.levels[1:]:
            stop = first + level.regions
            for _, own in groupby(range(first, stop), key=lambda place: self.shapes[place]):
                places = list(own)
                yield places[0], places[-1] + 1
            first = stop

    def _check_products(self) -> None:
        most = max(sum(math.prod(sizes) for sizes in shapes) for shapes in self.shapes)
        if most > MAX_PRODUCTS:
            raise ValueError(
                f"a region of this circuit has {most:,} products, more than the {MAX_PRODUCTS:,} that are written out "
                "one by one; the weights of a circuit with weights='cp' are known by their factors, "
                "circuit.layers[0].log_factors()."
            )

    def groups(self) -> list[Group]:
        self._check_products()
        rows = torch.cat(self._all("edge_first"))
        groups = []
        for first, stop in self._forms():
            blocks = []
            for place, sizes in enumerate(self.shapes[first]):
                parts = []
                for number, units in enumerate(sizes):
                    own = rows[self.slots[first:stop, place, number]].unsqueeze(-1)
                    parts.append(own + torch.arange(units, device=rows.device))  # [R, K]
                blocks.append(_each_with_each(parts))  # [R, C, n]
            most = max(block.shape[-1] for block in blocks)
            padded = [nn.functional.pad(block, (0, most - block.shape[-1]), value=-1) for block in blocks]
            start = self.start + first * self.num_sums
            groups.append(Group(self.inner[first:stop], start, self.num_sums, torch.cat(padded, dim=1)))
        return groups

    def log_weights(self) -> list[Tensor]:
        self._check_products()
        factors = self.log_factors()
        return [torch.cat(list(self._written_out(form, factors)), dim=-1) for form in self._forms()]

    def _written_out(self, form: tuple[int, int], factors: Sequence[Tensor]) -> Iterator[Tensor]:
        """Log-weights of the products of each partition, ``[R, O, C]``."""
        first, stop = form
        choice = self._choice_of(first)
        for place, sizes in enumerate(self.shapes[first]):
            edges = [self._edge_factors(self.slots[first:stop, place, part], factors) for part in range(len(sizes))]
            weight = _outer(edges)
            if choice.weights is not None:
                kind, start = choice.weights
                own = slice(start + first - choice.region, start + stop - choice.region)
                weight = weight + factors[len(self.unit_logits) + kind][own, place].unsqueeze(-1)
            yield weight

    def _edge_factors(self, edges: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """a of edges of one size, ``[R, O, K]``."""
        leaf_edges = len(self._all("edge_child")[0])
        if len(self.unit_logits) == 1:
            return factors[0][edges]
        if self.edge_units[0] == self.edge_units[1]:
            return torch.cat([factors[0], factors[1]])[edges]
        inner = bool((edges >= leaf_edges).all())
        return factors[int(inner)][edges - leaf_edges * inner]

    def _choice_of(self, region: int) -> Choice:
        choices = [choice for level in self.levels for choice in level.choices]
        return next(one for one in choices if one.region <= region < one.region + one.regions)

    # ---------------------------------------------------------------- evaluation

    def upward(self, rows: Tensor, factors: Sequence[Tensor]) -> list[Tensor]:
        """Writes its rows; returns the products, and for each level unless exact the units and mixtures relative to the
        largest unit."""
        of_units, of_partitions = self._split(factors)
        weights = of_units if self.exact else [floored(own).exp() for own in of_units]
        products = rows.new_zeros(self.num_partitions, self.num_sums, rows.shape[1])
        kept = [products]
        make = factored.Mixtures.exact if self.exact else factored.Mixtures.scaled
        for level, child, partition, weight in self._edges(weights):
            if level.choices:
                rows[level.start : level.stop] = self._from_partitions(level, products, of_partitions)
            mixtures = make(_units(rows, level), child, weight)
            products.index_add_(0, partition, mixtures.value)
            if mixtures.units is not None and mixtures.sums is not None:
                kept += [mixtures.units, mixtures.sums]
        last = self.levels[-1]
        rows[last.start : last.stop] = self._from_partitions(last, products, of_partitions)
        return kept

    def values(self, rows: Tensor, factors: Sequence[Tensor]) -> Tensor:
        of_units, of_partitions = self._split(factors)
        products = torch.zeros_like(rows[:1]).expand(self.num_partitions, self.num_sums, -1)
        found = []
        for level, child, partition, weight in self._edges(of_units):
            own = rows[: level.stop]
            if level.choices:
                found.append(own := self._from_partitions(level, products, of_partitions))
            mixtures = factored.Mixtures.exact(own.view(level.regions, level.units, -1), child, weight)
            products = products.index_add(0, partition, mixtures.value)
        return torch.cat([*found, self._from_partitions(self.levels[-1], products, of_partitions)])

    def downward(
        self, flow: Tensor, rows: Tensor, saved: Sequence[Tensor], factors: Sequence[Tensor], weights: bool
    ) -> list[Tensor | None]:
        return self._downward(flow, rows, saved, factors, weights)[0]

    def product_flows(
        self, flow: Tensor, rows: Tensor, saved: Sequence[Tensor], factors: Sequence[Tensor]
    ) -> list[Tensor]:
        self._check_products()
        _, into = self._downward(flow, rows, saved, factors, False)
        first_rows = torch.cat(self._all("edge_first"))
        flows = []
        for first, stop in self._forms():
            choice, blocks = self._choice_of(first), []
            reached = into[choice.first : choice.first + choice.regions * choice.partitions]
            reached = reached.view(choice.regions, choice.partitions, *reached.shape[1:])
            reached = reached[first - choice.region : stop - choice.region]  # [R, P, O, B]
            for place, sizes in enumerate(self.shapes[first]):
                shares = []
                for part, units in enumerate(sizes):
                    edges = self.slots[first:stop, place, part]
                    index = first_rows[edges].unsqueeze(-1) + torch.arange(units, device=rows.device)
                    terms = self._edge_factors(edges, factors).unsqueeze(-1) + rows[index].unsqueeze(1)
                    shares.append(factored.softmax(terms, dim=2))  # [R, O, K, B]
                blocks.append(_outer(shares, multiply=True) * reached[:, place].unsqueeze(2))
            flows.append(torch.cat(blocks, dim=2))
        return flows

    def upward_max(self, rows: Tensor, factors: Sequence[Tensor]) -> None:
        of_units, of_partitions = self._split(factors)
        products = rows.new_zeros(self.num_partitions, self.num_sums, rows.shape[1])
        for level, child, partition, weight in self._edges(of_units):
            if level.choices:
                rows[level.start : level.stop] = self._from_partitions(level, products, of_partitions, maximum=True)
            products.index_add_(0, partition, factored.best(_units(rows, level), child, weight))
        last = self.levels[-1]
        rows[last.start : last.stop] = self._from_partitions(last, products, of_partitions, maximum=True)

    def _split(self, factors: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        return factors[: len(self.unit_logits)], factors[len(self.unit_logits) :]

    def _edges(self, weights: Sequence[Tensor]) -> list[tuple[Level, Tensor | None, Tensor, Tensor]]:
        """For each level but the last the regions that edges come from, unless it is each in turn, their partitions,
        and weights."""
        children, partitions, found = self._all("edge_child"), self._all("edge_partition"), []
        for level in self.levels[:-1]:
            own, kind = slice(*level.edges), level.kind
            child = None if level.in_turn else children[kind][own]
            found.append((level, child, partitions[kind][own], weights[kind][own]))
        return found

    def _from_partitions(
        self, level: Level, products: Tensor, weights: Sequence[Tensor], maximum: bool = False
    ) -> Tensor:
        """Values of the regions of a level, ``[R * O, B]``, from those of their partitions."""
        values = []
        for choice in level.choices:
            own = products[choice.first : choice.first + choice.regions * choice.partitions]
            if choice.weights is not None:
                terms = factored.partition_terms(own, _weights(choice, weights))
                own = terms.amax(dim=1) if maximum else log_sum_exp(terms, 1)
            values.append(own.flatten(0, 1))
        return values[0] if len(values) == 1 else torch.cat(values)

    def _downward(
        self, flow: Tensor, rows: Tensor, saved: Sequence[Tensor], factors: Sequence[Tensor], weights: bool
    ) -> tuple[list[Tensor | None], Tensor]:
        """What :meth:`downward` returns, and what reaches each partition, ``[P, O, B]``."""
        of_units, of_partitions = self._split(factors)
        unit_weights = of_units if self.exact else [floored(own).exp() for own in of_units]
        grads: list[Tensor | None] = [torch.empty_like(own) if weights else None for own in factors]
        products, *kept = saved
        into = torch.empty_like(products)
        self._divide(self.levels[-1], flow, rows, products, into, of_partitions, grads)
        for level, child, partition, weight in reversed(self._edges(unit_weights)):
            above = into.index_select(0, partition)
            of_kind = grads[level.kind]
            grad = None if of_kind is None else of_kind[slice(*level.edges)]
            if self.exact:
                below = factored.exact_downward(above, _units(rows, level), child, weight, grad)
            else:
                units, sums = kept[-2:]
                del kept[-2:]
                below = factored.scaled_downward(above, units, sums, child, weight, grad)
            own = _units(flow, level)
            if child is None:
                own += below
            else:
                own.index_add_(0, child, below)
            self._divide(level, flow, rows, products, into, of_partitions, grads)
        if weights and not self.exact:
            for of_kind, weight in zip(grads, unit_weights, strict=False):
                assert of_kind is not None
                of_kind.mul_(weight)
        return grads, into

    def _divide(
        self,
        level: Level,
        flow: Tensor,
        rows: Tensor,
        products: Tensor,
        into: Tensor,
        weights: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> None:
        """Divides what reaches the regions of a level among their partitions."""
        for choice in level.choices:
            reached = self._of_choice(flow, level, choice)
            if level is self.levels[-1]:  # others are not reached where they are impossible
                reached = reached.masked_fill(factored.impossible(self._of_choice(rows, level, choice)), 0.0)
            own = slice(choice.first, choice.first + choice.regions * choice.partitions)
            if choice.weights is None:
                into[own] = reached
                continue
            shares = factored.softmax(factored.partition_terms(products[own], _weights(choice, weights)), dim=1)
            shares *= reached.unsqueeze(1)  # [R, P, O, B]
            into[own] = shares.flatten(0, 1)
            kind, first = choice.weights
            grad = grads[len(self.unit_logits) + kind]
            if grad is not None:
                grad[first : first + choice.regions] = shares.sum(dim=-1)

    def _of_choice(self, table: Tensor, level: Level, choice: Choice) -> Tensor:
        """The rows of some of a level's regions, ``[R, O, B]``."""
        first = choice.region - level.choices[0].region
        return _units(table, level)[first : first + choice.regions]

    # ---------------------------------------------------------------- induced trees

    def choose(
        self, nodes: Tensor, trees: Tensor, factors: Sequence[Tensor], rows: Tensor | None, noise: bool
    ) -> tuple[Tensor, Tensor]:
        for level in reversed(self.levels[1:]):
            for choice in level.choices:
                start = self.start + choice.region * self.num_sums
                here = (nodes >= start) & (nodes < start + choice.regions * self.num_sums)
                below = self._descend(choice, nodes[here] - start, trees[here], factors, rows, noise)
                nodes, trees = (torch.cat([own[~here], new]) for own, new in zip((nodes, trees), below, strict=True))
        return nodes, trees

    def _descend(
        self,
        choice: Choice,
        sums: Tensor,
        trees: Tensor,
        factors: Sequence[Tensor],
        rows: Tensor | None,
        noise: bool,
    ) -> tuple[Tensor, Tensor]:
        """From sums of regions to units of the parts of the partition that each takes."""
        slots = self.slots[choice.region : choice.region + choice.regions, : choice.partitions]
        nodes, owners = [trees[:0]], [trees[:0]]
        size = choice.partitions * slots.shape[-1] * max(self.edge_units)
        for own, tree in parts_of(size, sums, trees):
            region, unit = own // self.num_sums, own % self.num_sums
            edges = slots[region]  # [V, P, n]
            taken = torch.zeros_like(region)
            if choice.weights is not None:
                scores = _weights(choice, self._split(factors)[1])[region, :, unit]  # [V, P]
                if rows is not None:
                    scores = scores + self._mixture_values(edges, unit, tree, factors, rows, noise)
                taken = drawn(scores, noise)
            edges = edges.gather(1, taken.view(-1, 1, 1).expand(-1, 1, edges.shape[-1]))  # [V, 1, n]
            for visit, _, first, scores in self._edge_terms(edges, unit, tree, factors, rows):
                nodes.append(first + drawn(scores, noise))
                owners.append(tree[visit])
        return torch.cat(nodes), torch.cat(owners)

    def _mixture_values(
        self, edges: Tensor, unit: Tensor, tree: Tensor, factors: Sequence[Tensor], rows: Tensor, noise: bool
    ) -> Tensor:
        """Log-values of the products of partitions, or of their best, ``[V, P]``."""
        visits, partitions, parts = edges.shape
        found = rows.new_zeros(visits * partitions * parts)
        for _, place, _, scores in self._edge_terms(edges, unit, tree, factors, rows):
            found[place] = log_sum_exp(scores) if noise else scores.amax(dim=-1)
        return found.view(visits, partitions, parts).sum(-1)

    def _edge_terms(
        self, edges: Tensor, unit: Tensor, tree: Tensor, factors: Sequence[Tensor], rows: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of visits of sums, for the edges of each kind among theirs, ``[V, P, n]``: the visit, the place in the
        flattened edges, the row of the part's first unit, and a score for each unit."""
        flat, before = edges.flatten(), 0
        for kind, first_rows in enumerate(self._all("edge_first")):
            place = ((flat >= before) & (flat < before + len(first_rows))).nonzero().flatten()
            own = flat[place] - before
            before += len(first_rows)
            visit = place // math.prod(edges.shape[1:])
            first, scores = first_rows[own], factors[kind][own, unit[visit]]
            if rows is not None:
                index = first.unsqueeze(-1) + torch.arange(scores.shape[-1], device=scores.device)
                scores = scores + rows[index, (tree[visit] % rows.shape[1]).unsqueeze(-1)]
            yield visit, place, first, scores

    def extra_repr(self) -> str:
        edges = sum(map(len, self._all("edge_child")))
        return f"regions={self.num_regions}, partitions={self.num_partitions}, edges={edges}, sums={self.num_sums}"


def _units(table: Tensor, level: Level) -> Tensor:
    """The rows of a level's regions, ``[R, K, B]``."""
    return table[level.start : level.stop].view(level.regions, level.units, -1)


def _weights(choice: Choice, weights: Sequence[Tensor]) -> Tensor:
    """Partition weights of regions, ``[R, P, O]``."""
    assert choice.weights is not None
    kind, first = choice.weights
    return weights[kind][first : first + choice.regions]


def _outer(parts: Sequence[Tensor], multiply: bool = False) -> Tensor:
    """Sums, or products, over all tuples of units, ``[R, O, C, ..]``, from ``[R, O, K, ..]`` of each part."""
    result = parts[0]
    for part in parts[1:]:
        one, other = result.unsqueeze(3), part.unsqueeze(2)
        result = (one * other if multiply else one + other).flatten(2, 3)
    return result


def _each_with_each(parts: Sequence[Tensor]) -> Tensor:
    """All tuples, ``[R, C, n]``, of one of each of ``[R, K]``."""
    result = parts[0].unsqueeze(-1)
    for part in parts[1:]:
        shape = (len(part), result.shape[1], part.shape[1])
        one = result.unsqueeze(2).expand(*shape, result.shape[-1])
        result = torch.cat([one, part[:, None, :, None].expand(*shape, 1)], dim=-1).flatten(1, 2)
    return result
