# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What one column of a table is: its name, the kind of its values, and the unit they are modelled in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from pyro_spvae.checks import one_of, plain

Kind = Literal["real", "positive", "proportion", "count", "binary", "categorical", "ordinal"]
Family = Literal[
    "normal",
    "student-t",
    "log-normal",
    "gamma",
    "beta",
    "poisson",
    "negative-binomial",
    "bernoulli",
    "categorical",
    "ordinal",
]

#: the distributions of the values of each kind, that which is taken by default first
FAMILIES: dict[Kind, tuple[Family, ...]] = {
    "real": ("normal", "student-t"),
    "positive": ("log-normal", "gamma"),
    "proportion": ("beta",),
    "count": ("negative-binomial", "poisson"),
    "binary": ("bernoulli",),
    "categorical": ("categorical",),
    "ordinal": ("ordinal",),
}
KIND_OF: dict[Family, Kind] = {family: kind for kind, known in FAMILIES.items() for family in known}

#: kinds whose log-likelihoods are densities; those of the others are probabilities
DENSITIES: tuple[Kind, ...] = ("real", "positive", "proportion")
#: kinds whose values are numbers 0, 1, .. of categories
CODED: tuple[Kind, ...] = ("binary", "categorical", "ordinal")


def numbered(place: int) -> str:
    """What a column is called that has no name."""
    return f"column {place + 1}"


def have_names(columns: Sequence[Column]) -> bool:
    """Whether any column of a table has a name of its own."""
    return any(column.name != numbered(place) for place, column in enumerate(columns))


def own_names(columns: Sequence[Column] | None) -> list[str] | None:
    """The names of the columns of a table by which its values are told of; ``None`` where none has one."""
    return [column.name for column in columns] if columns is not None and have_names(columns) else None


@dataclass(frozen=True)
class Column:
    r"""
    One column of a table.

    Values of a column that is ``real`` are standardised by what the training rows are, :math:`(x - m) / s`, where
    networks see them and their distribution's parameters are made; of one that is log-normal, so are their logarithms.
    Densities are those of the values in the table's own unit.

    :ivar str name: its name.
    :ivar str kind: ``real``, ``positive``, ``proportion`` (between 0 and 1), ``count`` (0, 1, ..), ``binary``,
        ``categorical`` or ``ordinal`` (categories that have an order).
    :ivar str family: the distribution of its values, see :data:`FAMILIES`; the kind's first by default.
    :ivar tuple categories: of a binary, categorical or ordinal column, what its values 0, 1, .. are called in the
        table; else empty.
    :ivar float location: :math:`m`, the mean of the training rows; of a log-normal column that of logarithms. Of counts
        and of proportions their mean. 0 for those of ``categories``.
    :ivar float scale: :math:`s`, their standard deviation, likewise. Above 0.
    :ivar tuple frequencies: of each of the categories among the training rows, adding up to 1; empty for the others.
    :ivar float low: the smallest of the values of the training rows; ``None`` for those of ``categories``, and where it
        is not known.
    :ivar float high: the largest, likewise.
    :raises ValueError: if these contradict each other.

    Example::

        >>> from pyro_spvae.data import Column
        >>> age = Column("age", "count", location=38.6, scale=13.6)
        >>> sex = Column("sex", "binary", categories=("f", "m"), frequencies=(0.5, 0.5))
        >>> age.family, age.is_density, sex.is_coded
        ('negative-binomial', False, True)
    """

    name: str
    kind: Kind
    family: Family | None = None
    categories: tuple[str, ...] = ()
    location: float = 0.0
    scale: float = 1.0
    frequencies: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for part in fields(self):
            value = plain(getattr(self, part.name))
            object.__setattr__(self, part.name, tuple(value) if isinstance(value, list) else value)
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"name of a column is {self.name!r}; a text that is not empty is needed")
        one_of(f"kind of the column {self.name!r}", self.kind, get_args(Kind))
        if self.family is None:
            object.__setattr__(self, "family", FAMILIES[self.kind][0])
        one_of(f"family of the {self.kind} column {self.name!r}", self.family, FAMILIES[self.kind])
        least = {"binary": 2, "categorical": 2, "ordinal": 2}.get(self.kind, 0)
        number = len(self.categories)
        if number < least or (self.kind == "binary" and number != 2) or (number and not least):
            needed = "two" if self.kind == "binary" else "at least two" if least else "no"
            raise ValueError(f"the {self.kind} column {self.name!r} has {number} categories; {needed} are needed")
        if len(set(self.categories)) < number:
            raise ValueError(f"categories of the column {self.name!r} are {self.categories}; each once is needed")
        if not (math.isfinite(self.location) and math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(
                f"location and scale of the column {self.name!r} are {self.location} and {self.scale}; a finite number "
                "and one above 0 are needed"
            )
        if (self.low is None) != (self.high is None) or not (self.low or 0) <= (self.high or 0):
            raise ValueError(
                f"low and high of the column {self.name!r} are {self.low} and {self.high}; both in order, or neither, "
                "are needed"
            )
        if self.frequencies and (
            len(self.frequencies) != number
            or min(self.frequencies) < 0
            or not math.isclose(sum(self.frequencies), 1, abs_tol=1e-6)
        ):
            raise ValueError(
                f"frequencies of the column {self.name!r} are {self.frequencies}; one for each of its {number} "
                "categories, adding up to 1, is needed"
            )

    @property
    def is_density(self) -> bool:
        """Whether the log-likelihood of a value is a density, and not a probability."""
        return self.kind in DENSITIES

    @property
    def is_coded(self) -> bool:
        """Whether values are numbers of categories."""
        return self.kind in CODED

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, given: Any) -> Column:
        """
        The inverse of :meth:`to_dict`.

        :raises ValueError: if it is no such dict.
        """
        known = {part.name for part in fields(cls)}
        if not isinstance(given, Mapping) or not {"name", "kind"} <= given.keys() <= known:
            raise ValueError(f"a column is {given!r}; a dict with name, kind and what else a Column has is needed")
        return cls(**given)
