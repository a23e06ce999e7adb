# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that many modules share, each with its one sentence. Importing this does not import torch."""

from __future__ import annotations

import enum
import math
import types
from collections.abc import Collection, Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin

from typing_extensions import TypeIs


def is_integer(value: object) -> TypeIs[int]:
    """Whether a value is an integer, of Python or of NumPy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_positive(value: object) -> TypeIs[int]:
    """Whether a value is a positive integer, of Python or of NumPy."""
    return is_integer(value) and value > 0


def positive_integer(name: str, value: Any) -> int:
    """
    :raises ValueError: if the argument ``name`` is no positive integer.
    """
    if not is_positive(value):
        raise ValueError(f"{name} is {value!r}; a positive integer is needed")
    return int(value)


def is_real(value: object) -> bool:
    """Whether a value is a real number, of Python or of NumPy; it may be NaN or infinite."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a finite number, of Python or of NumPy."""
    try:
        return is_real(value) and math.isfinite(float(value))  # type: ignore[arg-type]
    except OverflowError:  # of integers that are larger than any float
        return False


def plain(value: Any) -> Any:
    """
    A value with NumPy's numbers in it, and in lists, tuples and dicts of it, as Python's own, which JSON and
    checkpoints hold; any other value itself.
    """
    if isinstance(value, (int, enum.Enum)):
        return value
    if isinstance(value, Real):
        return int(value) if isinstance(value, Integral) else float(value)
    if type(value) is dict:
        entries = [plain(entry) for entry in value.values()]
        changed = any(new is not old for new, old in zip(entries, value.values(), strict=True))
        return dict(zip(value, entries, strict=True)) if changed else value
    if type(value) in (list, tuple):
        entries = [plain(entry) for entry in value]
        return type(value)(entries) if any(new is not old for new, old in zip(entries, value, strict=True)) else value
    return value


def number_of_at_least(name: str, value: Any, least: float = 0) -> float:
    """
    :raises ValueError: if the argument ``name`` is no finite number of at least ``least``.
    """
    if not is_number(value) or value < least:
        raise ValueError(f"{name} is {value!r}; a number of at least {least:g} is needed")
    return float(value)


def seed(value: Any) -> int:
    """
    :raises ValueError: if the argument ``seed`` is none that torch's generators take.
    """
    if not is_integer(value) or not 0 <= value < 2**63:
        raise ValueError(f"seed is {value!r}; an integer from 0 to 2^63 - 1 is needed")
    return int(value)


def one_of(name: str, value: Any, known: Sequence[str]) -> str:
    """
    :raises ValueError: if the argument ``name`` is none of the known words.
    """
    if value not in known:
        raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")
    return str(value)


def boolean(name: str, value: Any) -> bool:
    """
    :raises ValueError: if the argument ``name`` is neither True nor False.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; True or False is needed")
    return value


def instance(name: str, value: Any, kind: type) -> None:
    """
    :raises TypeError: if the argument ``name`` is no instance of ``kind``.
    """
    if not isinstance(value, kind):
        given = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
        raise TypeError(f"{name} is {given}; an instance of {kind.__name__} is needed")


def instances(name: str, values: Any, kind: type) -> None:
    """
    :raises TypeError: if the argument ``name`` is nothing that holds instances of ``kind``.
    """
    if not isinstance(values, Iterable):
        raise TypeError(f"{name} is {values!r}; a list of instances of {kind.__name__} is needed")
    for value in values:
        instance(f"an entry of {name}", value, kind)


def choices(kind: Any) -> tuple[str, ...] | None:
    """The values of a ``Literal``; ``None`` for other types."""
    return get_args(kind) if get_origin(kind) is Literal else None


def typed(name: str, value: Any, kind: Any, least: float | None = None, above: float | None = None) -> Any:
    """
    The value of an option in the option's own type.

    :param kind: ``bool``, ``str``, ``int``, ``float``, a ``Literal`` or a tuple of integers; or one of these or
        ``None``, or an integer or several of them.
    :param float least: the smallest number that is accepted.
    :param float above: numbers must be larger than this.
    :raises ValueError: if it does not fit.
    """
    one_or_several = False
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        *kinds, kind = (part for part in get_args(kind) if part is not type(None))
        one_or_several = bool(kinds)
        if kinds and not isinstance(value, (list, tuple)):
            (kind,) = kinds
    known = choices(kind)
    if known is not None:
        return one_of(name, value, known)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(map(is_positive, value)):
            raise ValueError(f"{name} is {value!r}; positive integers are needed, such as [32, 32]")
        sizes = tuple(map(int, value))
        return sizes[0] if one_or_several and len(sizes) == 1 else sizes
    fits, wanted = {
        bool: (type(value) is bool, "true or false"),
        str: (type(value) is str, "a text"),
        int: (is_integer(value), "an integer"),
        float: (is_number(value), "a positive number" if above == 0 else "a finite number"),
    }[kind]
    if least is not None:
        wanted = "a positive integer" if least == 1 else f"{wanted.replace('finite ', '')} of at least {least:g}"
    if not fits or (least is not None and value < least) or (above is not None and value <= above):
        raise ValueError(f"{name} is {value!r}; {wanted} is needed")
    return kind(value)


class NotFinite:
    """
    Entries of rows that are NaN or infinite, counted, with the place of the first; its text is both, as in "3 NaN or
    infinite values, the first in row 2 at [0]".
    """

    def __init__(self) -> None:
        self.count = 0
        self.row: int | None = None
        self.place: list[int] = []

    def look(self, wrong: Any, start: int = 0) -> NotFinite:
        """
        Counts a block of rows.

        :param Tensor wrong: ``bool [rows, ..]``, True = NaN or infinite.
        :param int start: number of the first row.
        """
        found = int(wrong.sum())
        if found and self.row is None:
            row, *self.place = wrong.nonzero()[0].tolist()
            self.row = start + row
        self.count += found
        return self

    def text(self, numbered: str = "", names: Sequence[str] | None = None) -> str:
        """
        The text.

        :param str numbered: what the row is called elsewhere.
        :param names: of the columns of a table.
        """
        what = "1 NaN or infinite value," if self.count == 1 else f"{self.count} NaN or infinite values, the first"
        place = f" at {self.place}" if names is None else f", column {names[self.place[0]]!r}"
        return f"{what} in row {self.row}{numbered and f' ({numbered})'}{place}"

    def __str__(self) -> str:
        return self.text()


def latent_site(named: str, name: str, sites: Collection[str]) -> None:
    """
    :param str named: what names the site, such as ``kl names``.
    :param sites: names of the latent sites that there are.
    :raises ValueError: if ``name`` is none of them.
    """
    if name not in sites:
        known = f"the latent sites are {', '.join(sites)}" if sites else "no site is latent"
        raise ValueError(f"{named} the site {name!r}, but {known}")


#: what stands for all latent sites in the place of names
KLS = ("sample", "analytic")


def closed_sites(kl: object) -> tuple[str, ...]:
    """
    The names of latent sites whose divergence is taken in closed form, sorted, or one of :data:`KLS` alone; see
    :class:`pyro_spvae.infer.closed_form.ClosedSites`.

    :raises ValueError: if it is something else.
    """
    names = kl.split(",") if isinstance(kl, str) else kl
    fits = isinstance(names, (list, tuple, set, frozenset)) and all(isinstance(name, str) for name in names)
    found = [name.strip() for name in names] if fits else []  # type: ignore[attr-defined]
    if not found or any(not name or any(letter.isspace() for letter in name) for name in found):
        raise ValueError(f"kl is {kl!r}; {', '.join(KLS)}, or names of latent sites are needed")
    if len(found) > 1 and set(found) & set(KLS):
        raise ValueError(f"kl is {kl!r}; {' and '.join(KLS)} stand alone, or names of latent sites are needed")
    return tuple(sorted(set(found)))
