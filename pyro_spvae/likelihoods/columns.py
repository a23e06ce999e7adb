# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The likelihood of tables, whose columns are of several kinds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.data.column import Column, numbered
from pyro_spvae.data.kinds import describe_columns
from pyro_spvae.data.learned import learned_from
from pyro_spvae.data.mixed_texts import text_notes
from pyro_spvae.data.table_sets import read_tables
from pyro_spvae.data.tables import is_frame
from pyro_spvae.distributions import LeafColumns
from pyro_spvae.distributions.columns import ColumnGroup
from pyro_spvae.likelihoods.families.family import LEAST
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.normal_places import NormalPlaces
from pyro_spvae.likelihoods.places import Layout, Places, Scopes, Units, family_of, outputs, width


class Columns(Likelihood):
    r"""
    The columns of a table, each of a kind of its own: real (Normal, Student-t), positive (log-normal, Gamma),
    proportion (Beta), count (negative binomial, Poisson), binary, categorical or ordinal.

    Values are those of the table, in its own units, with numbers 0, 1, .. of categories. Of a real column the
    log-likelihood is a density in its unit, of a discrete one a probability. Whatever the unit, the decoder's outputs
    are about 0: there a column has the distribution of its training rows, see :class:`pyro_spvae.data.column.Column`,
    and scales have floors of a thousandth of theirs. Networks see standardised values, or logarithms, and a feature for
    each category.

    A leaf sees the columns of its region, so that its outputs and features are as many as these need.

    :param columns: a :class:`~pyro_spvae.data.column.Column`, or what its ``to_dict`` returns, for each entry of a row.
    :raises ValueError: if there are none, two have one name or one is no column; when bound, if rows have another
        number of entries.

    Example::

        >>> from pyro_spvae.data import Column
        >>> age = Column("age", "count", location=38.6, scale=13.6)
        >>> sex = Column("sex", "binary", categories=("f", "m"))
        >>> spvae = SPVAE(whole(2), units=1, likelihood=Columns([age, sex]))
        >>> rows = spvae.sample(4)  # years, and 0 for f, 1 for m
        >>> rows.shape, bool(torch.isin(rows[:, 1], torch.tensor([0.0, 1.0])).all())
        (torch.Size([4, 2]), True)
    """

    of = "columns"
    by_pixel = False
    feature_range = (-20.0, 20.0)  # they are standardised
    accepts = "what the kinds of its columns take"

    columns: tuple[Column, ...]
    real: Tensor | None
    index_of_feature: Tensor | None
    real_features: Tensor | None

    def __init__(self, columns: Sequence[Column | Mapping[str, Any]]) -> None:
        super().__init__()
        if not isinstance(columns, (list, tuple)) or not columns:
            raise ValueError(f"columns is {columns!r}; a Column for each entry of a row is needed")
        self.columns = tuple(own if isinstance(own, Column) else Column.from_dict(own) for own in columns)
        names = [column.name for column in self.columns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"columns has {names.count(name)} of the name {name!r}; one of each name is needed")

    @classmethod
    def from_rows(cls, x: Any, kinds: Mapping[str, str] | None = None, names: Sequence[str] | None = None) -> Columns:
        """
        The columns of training rows: kinds that are given, or chosen as by
        :func:`pyro_spvae.data.kinds.describe_columns`, and the units of the rows.

        :param x: a pandas DataFrame, or a tensor or array ``[N, D]``; NaN is missing.
        :param kinds: by name, kinds or families, as in ``{"age": "count", "income": "gamma"}``.
        :param names: of the columns of a tensor or array; ``column 1``, .. by default.
        :raises ValueError: if a kind is contradicted by the values, or a column is all missing.

        Example::

            >>> import pandas
            >>> frame = pandas.DataFrame({"age": [31, 45, 27, 60], "sex": ["f", "m", "f", "m"]})
            >>> columns = Columns.from_rows(frame, kinds={"age": "count"})
            >>> [(column.name, column.kind, column.categories) for column in columns.columns]
            [('age', 'count', ()), ('sex', 'binary', ('f', 'm'))]
            >>> SPVAE(whole(2), units=1, likelihood=columns).sample(3).shape
            torch.Size([3, 2])
        """
        if is_frame(x):
            if names is not None:
                raise ValueError(f"names is {list(names)}, but a DataFrame has names of its own; leave them out")
            tables, columns, _ = read_tables({"train": x}, kinds)
            for note in text_notes(columns, [tables["train"]], kinds or ()):
                warnings.warn(note, stacklevel=2)
            return cls(learned_from(columns, torch.stack(list(tables["train"]), 1)))
        values = torch.as_tensor(x).double()
        if values.dim() != 2 or not values.numel():
            raise ValueError(f"x has shape {list(values.shape)}; a table [N, D] is needed")
        named = [numbered(place) for place in range(values.shape[1])] if names is None else list(names)
        return cls(describe_columns(values, named, kinds))

    def options(self) -> dict[str, Any]:
        """The columns, as plain values."""
        return super().options() | {"columns": tuple(column.to_dict() for column in self.columns)}

    def build(self, leaves: int, pixels: int, scopes: Scopes | None = None) -> None:
        """
        Finds the columns that each leaf sees.

        :param scopes: for each leaf the columns that its pixels are, ``None`` for padding; by default all of them, in
            order.
        """
        self.scopes = self._scopes(pixels, scopes) * (leaves if scopes is None else 1)
        layout = Layout(self.columns, self.scopes)
        self.groups: Any = nn.ModuleList()
        self.units: Units | None = None
        for name in ("index_of_feature", "real_features"):
            self.register_buffer(name, None, persistent=False)
        first = layout.found[0][2]
        if layout.alike:  # slices, where padding is like the first column
            self.family, self.head = family_of(first), outputs(first) * pixels
            every = [
                first if variable is None else self.columns[variable] for scope in self.scopes for variable in scope
            ]
            self.units = Units(every, (leaves, pixels))
            real = torch.tensor([[variable is not None for variable in scope] for scope in self.scopes])
            self.register_buffer("real", None if bool(real.all()) else real, persistent=False)
        else:
            self.groups, self.head = nn.ModuleList(layout.groups()), layout.outputs
        if not layout.alike or width(first) > 1:
            index, counted = layout.feature_places()
            self.register_buffer("index_of_feature", index, persistent=False)
            self.register_buffer("real_features", counted, persistent=False)

    def _scopes(self, pixels: int, scopes: Scopes | None) -> tuple[tuple[int | None, ...], ...]:
        """
        The columns of each leaf; of one, where all leaves see all.

        :raises ValueError: unless the columns are those of the data.
        """
        number = len(self.columns)
        if scopes is None:
            if pixels != number:
                raise ValueError(
                    f"columns are {number}, but leaves see {pixels} entries, and nobody says which; pass scopes on to "
                    "the block of the pixels, or bind with scopes=..."
                )
            return (tuple(range(number)),)
        seen = {variable for scope in scopes for variable in scope if variable is not None}
        if seen != set(range(number)):
            raise ValueError(f"columns are {number}, but rows have {max(seen) + 1} entries; one for each is needed")
        return tuple(map(tuple, scopes))

    @property
    def heads(self) -> tuple[int, ...]:
        """One output: first parameters of the columns of a leaf, then second ones, ..; of the leaf that has most."""
        self.sizes  # noqa: B018, says so if there are none
        return (self.head,)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        head = at_least_single(outputs[0])  # units are not known to half precision
        leaves, pixels = len(self.scopes), self.sizes["pixels"]
        if self.units is not None:
            counted = mask if self.real is None else self.real if mask is None else mask & self.real
            return self.family.law(head.unflatten(-1, (-1, pixels)).unbind(-2), self.units.of(head), counted)
        groups = []
        for places in self.groups:
            law = places.family.law(_own(head, places), places.units.of(head))
            groups.append(ColumnGroup(law, places.index, places.leaf))
        return LeafColumns(groups, leaves, pixels, mask)

    def normal_places(self) -> NormalPlaces | None:
        """The columns that are Normal or log-normal, and a likelihood of the others."""
        families = [family_of(column).normal for column in self.columns]
        normal = {number for number, kind in enumerate(families) if kind is not None}
        if not normal:
            return None
        rest = [number for number in range(len(self.columns)) if number not in normal]
        at = {number: place for place, number in enumerate(rest)}
        others = None
        if rest:
            scopes = tuple(tuple(at.get(-1 if v is None else v) for v in scope) for scope in self.scopes)
            others = Columns([self.columns[number] for number in rest]), scopes
        column = [[self.columns[0 if v is None else v] for v in scope] for scope in self.scopes]
        options: dict[str, Any] = {"device": "cpu"}
        return NormalPlaces(
            torch.tensor([[own.location for own in scope] for scope in column], dtype=torch.float64, **options),
            torch.tensor([[own.scale for own in scope] for scope in column], dtype=torch.float64, **options),
            torch.tensor([[v is not None and families[v] == "logarithms" for v in s] for s in self.scopes], **options),
            torch.tensor([[v in normal for v in scope] for scope in self.scopes], **options),
            LEAST,
            others,
        )

    def statistics_given(self, x: Tensor, weight: Tensor, outputs: tuple[Tensor, ...]) -> Tensor:
        """Those of each column's family, and 0 where another column has more."""
        x, head = x.to(weight), outputs[0].to(weight)
        if self.units is not None:
            heads = head.unflatten(-1, (-1, x.size(-1))).unbind(-2)
            own = self.family.statistics(x, self.units.of(weight), heads)
            found = torch.einsum("blp,blps->lps", weight, own)
            return nn.functional.pad(found, (0, self._most_statistics - own.size(-1)))
        flat, weights = x.flatten(1), weight.flatten(1)
        found = weight.new_zeros(weights.size(1), self._most_statistics)
        for places in self.groups:
            values = flat.index_select(-1, places.index)
            own = places.family.statistics(values, places.units.of(weight), _own(head, places))
            own = torch.einsum("bp,bps->ps", weights.index_select(-1, places.index), own)
            found = found.index_copy(0, places.index, nn.functional.pad(own, (0, found.size(-1) - own.size(-1))))
        return found.unflatten(0, weight.shape[1:])

    @property
    def _most_statistics(self) -> int:
        return max(family_of(column).count_statistics(len(column.categories)) for column in self.columns)

    def uniform_statistics(self) -> Tensor:
        """Of categories; NaN for other columns."""
        found = torch.full((len(self.scopes), self.sizes["pixels"], self._most_statistics), torch.nan, device="cpu")
        for leaf, scope in enumerate(self.scopes):
            for pixel, variable in enumerate(scope):
                number = 0 if variable is None else len(self.columns[variable].categories)
                if number:
                    found[leaf, pixel] = 0.0
                    found[leaf, pixel, :number] = 1 / number
        return found

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        if self.units is not None:
            return (torch.cat(self.family.outputs_of(means, self.units.of(means)), -1),)
        flat, head = means.flatten(0, 1), means.new_zeros(means.size(0) * self.head)
        for places in self.groups:
            unit = places.units.of(means)
            own = flat.index_select(0, places.index)
            own = own[:, : unit.frequencies.size(-1)] if unit.frequencies.size(-1) else own
            head = head.index_copy(0, places.heads, torch.cat(places.family.outputs_of(own, unit)))
        return (head.unflatten(0, (means.size(0), -1)),)

    def by_output(self, values: Tensor) -> tuple[Tensor, ...]:
        if self.units is not None:
            return (values.repeat(1, self.head // values.size(-1)),)
        flat, head = values.flatten(), values.new_zeros(values.size(0) * self.head)
        for places in self.groups:
            own = flat.index_select(0, places.index)
            head = head.index_copy(0, places.heads, own.repeat(len(places.heads) // len(own)))
        return (head.unflatten(0, (values.size(0), -1)),)

    def count_features(self, pixels: int, scopes: Scopes | None = None) -> int:
        """As many as the columns of the leaf have that has most."""
        return Layout(self.columns, self._scopes(pixels, scopes)).features

    def feature_mask(self, mask: Tensor | None) -> Tensor | None:
        """Those of values that count, without padding."""
        if self.index_of_feature is None or mask is None:
            return mask if mask is not None else self.real_features
        size = (*mask.shape[:-2], len(self.scopes), self.sizes["pixels"])
        whole = mask.expand(size)
        found = whole.gather(-1, self.index_of_feature.expand(*size[:-1], -1))
        return found if self.real_features is None else found & self.real_features

    def features(self, x: Tensor) -> Tensor:
        """Standardised values or logarithms, a number for each category, and 0 for padding."""
        if self.units is not None:
            return self.family.features(x, self.units.of(x)).flatten(-2)
        assert self.index_of_feature is not None
        found = x.new_zeros(*x.shape[:-2], self.index_of_feature.numel())
        flat = x.flatten(-2)
        for places in self.groups:
            own = places.family.features(flat.index_select(-1, places.index), places.units.of(x))
            found = found.index_copy(-1, places.features, own.flatten(-2))
        return found.unflatten(-1, self.index_of_feature.shape)

    def supports(self, x: Tensor) -> Tensor:
        if self.units is not None:
            return self.family.supports(x, self.units.of(x))
        flat = x.flatten(-2)
        found = torch.ones_like(flat, dtype=torch.bool)
        for places in self.groups:
            own = places.family.supports(flat.index_select(-1, places.index), places.units.of(x))
            found = found.index_copy(-1, places.index, own)
        return found.unflatten(-1, x.shape[-2:])

    def check(self, x: Tensor, mask: Tensor) -> None:
        """
        :raises ValueError: if a value of ``x`` with ``mask`` set is not of its column's kind, naming the column.
        """
        wrong = mask & ~self.supports(x)
        if not bool(wrong.any()):
            return
        row, leaf, pixel = (int(number) for number in wrong.nonzero()[0])
        rows = int(wrong.flatten(1).any(1).sum())  # leaves may share entries, so that those are not counted here
        variable = self.scopes[leaf][pixel]
        assert variable is not None
        column = self.columns[variable]
        more = f" ({rows} such rows)" if rows > 1 else ""
        known = ", ".join(f"{number} for {name!r}" for number, name in enumerate(column.categories))
        raise ValueError(
            f"x holds the value {x[row, leaf, pixel].item():g} in row {row}{more}, column {column.name!r}; "
            f"{family_of(column).takes}{f' ({known})' if known else ''}"
        )


def _own(head: Tensor, places: Places) -> tuple[Tensor, ...]:
    """The outputs ``[.., leaf, head]`` of some places: ``[.., place]`` for each that the family needs."""
    own = head.flatten(-2).index_select(-1, places.heads).unflatten(-1, (-1, len(places.index)))
    return own.unbind(-2)
