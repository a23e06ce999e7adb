# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Where in the leaves the columns of a table are, and where their outputs and features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from pyro_spvae.data.column import Column
from pyro_spvae.likelihoods.families import COLUMN_FAMILIES, ColumnFamily, Unit

Scopes = Sequence[Sequence[int | None]]


def family_of(column: Column) -> ColumnFamily:
    """The family of a column."""
    return COLUMN_FAMILIES[str(column.family)]


def width(column: Column) -> int:
    """How many features a value of a column has."""
    return family_of(column).width(len(column.categories))


def outputs(column: Column) -> int:
    """How many outputs of a decoder a column needs."""
    return family_of(column).outputs(len(column.categories))


class Units(nn.Module):
    """
    What is known of the training rows at some places; in double precision whatever type the model is moved to, so that
    a model that is loaded is the one that was saved.

    :param columns: of each place.
    :param tuple shape: of the places.
    """

    location: Tensor
    scale: Tensor
    frequencies: Tensor

    def __init__(self, columns: Sequence[Column], shape: tuple[int, ...]) -> None:
        super().__init__()
        unit = Unit.of(columns)
        # they follow from the columns, so they are not part of the state_dict
        self.most = unit.most
        self.register_buffer("location", unit.location.reshape(shape), persistent=False)
        self.register_buffer("scale", unit.scale.reshape(shape), persistent=False)
        self.register_buffer("frequencies", unit.frequencies.reshape(*shape, -1), persistent=False)

    def of(self, like: Tensor) -> Unit:
        """In the type of a tensor."""
        return Unit(self.location.to(like), self.scale.to(like), self.frequencies.to(like), self.most)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, value in before.items():
            now = self._buffers[name]
            if value is not None and now is not None and now.dtype != value.dtype:
                self._buffers[name] = value.to(now.device)
        return self


class Places(nn.Module):
    """
    The places of all leaves whose columns are of one family and number of categories.

    :param ColumnFamily family: the family.
    :param found: of each place leaf, pixel and column, in order.
    :param Layout layout: of all places.
    """

    index: Tensor
    heads: Tensor
    features: Tensor
    leaf: Tensor | None

    def __init__(self, family: ColumnFamily, found: Sequence[tuple[int, int, Column]], layout: Layout) -> None:
        super().__init__()
        self.family = family
        column = found[0][2]
        index = [leaf * layout.pixels + pixel for leaf, pixel, _ in found]
        heads = [
            leaf * layout.outputs + layout.output_at[leaf][pixel, number]
            for number in range(outputs(column))
            for leaf, pixel, _ in found
        ]
        features = [
            leaf * layout.features + layout.feature_at[leaf][pixel] + number
            for leaf, pixel, _ in found
            for number in range(width(column))
        ]
        leaves = [leaf for leaf, _, _ in found]
        counts = {leaves.count(leaf) for leaf in set(leaves)}
        even = len(counts) == 1 and len(set(leaves)) == layout.leaves
        for name, value in (("index", index), ("heads", heads), ("features", features)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        self.register_buffer("leaf", None if even else torch.tensor(leaves), persistent=False)
        self.units = Units([own for _, _, own in found], (len(found),))


class Layout:
    """
    How outputs and features of the columns lie in those of their leaves.

    Outputs of a leaf are the first of every column, then the second of all that have one, and so on; features are those
    of one column after the other.

    :param columns: of the table.
    :param scopes: for each leaf the columns that its pixels are, ``None`` for padding.
    """

    def __init__(self, columns: Sequence[Column], scopes: Scopes) -> None:
        self.leaves, self.pixels = len(scopes), len(scopes[0])
        self.found = [
            (leaf, pixel, columns[variable])
            for leaf, scope in enumerate(scopes)
            for pixel, variable in enumerate(scope)
            if variable is not None
        ]
        self.output_at: list[dict[tuple[int, int], int]] = []
        self.feature_at: list[dict[int, int]] = []
        self.of_feature: list[list[int]] = []
        for scope in scopes:
            own = {pixel: columns[variable] for pixel, variable in enumerate(scope) if variable is not None}
            order = sorted((number, pixel) for pixel, column in own.items() for number in range(outputs(column)))
            self.output_at.append({(pixel, number): place for place, (number, pixel) in enumerate(order)})
            starts = accumulate((width(column) for column in own.values()), initial=0)
            self.feature_at.append(dict(zip(own, starts, strict=False)))
            self.of_feature.append([pixel for pixel, column in own.items() for _ in range(width(column))])
        self.outputs = max(map(len, self.output_at))
        self.features = max(map(len, self.of_feature))
        #: whether all are of one family and number of categories, and outputs and features slices of equal parts
        self.alike = len({(column.family, len(column.categories)) for _, _, column in self.found}) == 1
        if self.alike:  # also of padding
            each = width(self.found[0][2])
            self.features = self.pixels * each
            self.of_feature = [[pixel for pixel in range(self.pixels) for _ in range(each)] for _ in scopes]

    def groups(self) -> list[Places]:
        """The places of each family and number of categories."""
        by_family: dict[Any, list[tuple[int, int, Column]]] = {}
        for place in self.found:
            by_family.setdefault((place[2].family, len(place[2].categories)), []).append(place)
        return [Places(family_of(places[0][2]), places, self) for places in by_family.values()]

    def feature_places(self) -> tuple[Tensor, Tensor | None]:
        """
        The pixel that each feature is of, int64 ``[leaf, feature]``, and which features are no padding of leaves that
        have fewer, ``bool`` of the same shape, or ``None`` if all are.
        """
        more = [self.features - len(own) for own in self.of_feature]
        pixel = [own + [0] * rest for own, rest in zip(self.of_feature, more, strict=True)]
        real = [[True] * len(own) + [False] * rest for own, rest in zip(self.of_feature, more, strict=True)]
        return torch.tensor(pixel), torch.tensor(real) if any(more) else None
