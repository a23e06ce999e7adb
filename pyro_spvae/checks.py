# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that many modules share, each with its one sentence. Importing this does not import torch."""

from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin


def is_positive(value: object) -> bool:
    """Whether a value is a positive integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def positive_integer(name: str, value: Any) -> int:
    """
    :raises ValueError: if the argument ``name`` is no positive integer.
    """
    if not is_positive(value):
        raise ValueError(f"{name} is {value!r}; a positive integer is needed")
    return int(value)


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def number_of_at_least(name: str, value: Any, least: float = 0) -> float:
    """
    :raises ValueError: if the argument ``name`` is no finite number of at least ``least``.
    """
    if not is_number(value) or value < least:
        raise ValueError(f"{name} is {value!r}; a number of at least {least:g} is needed")
    return float(value)


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
    optional = get_origin(kind) in (Union, types.UnionType)
    if optional:
        if value is None:
            return None
        *kinds, kind = (part for part in get_args(kind) if part is not type(None))
        if kinds and not isinstance(value, (list, tuple)):  # a number or several of them
            (kind,) = kinds
    known = choices(kind)
    if known is not None:
        return one_of(name, value, known)
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(map(is_positive, value)):
            raise ValueError(f"{name} is {value!r}; positive integers are needed, such as [32, 32]")
        return value[0] if optional and len(value) == 1 else tuple(value)
    fits, wanted = {
        bool: (type(value) is bool, "true or false"),
        str: (type(value) is str, "a text"),
        int: (isinstance(value, int) and type(value) is not bool, "an integer"),
        float: (is_number(value), "a positive number" if above == 0 else "a finite number"),
    }[kind]
    if least is not None:
        wanted = "a positive integer" if least == 1 else f"{wanted.replace('finite ', '')} of at least {least:g}"
    if not fits or (least is not None and value < least) or (above is not None and value <= above):
        raise ValueError(f"{name} is {value!r}; {wanted} is needed")
    return kind(value)
