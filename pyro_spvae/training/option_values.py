# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Values of options: what a type accepts, and what a wrong value is told."""

from __future__ import annotations

import dataclasses
import sys
import types
from typing import Any, Literal, Union, get_args, get_origin


def choices(kind: Any) -> tuple[str, ...] | None:
    """The values of a ``Literal``; ``None`` for other types."""
    return get_args(kind) if get_origin(kind) is Literal else None


def checked(name: str, value: Any, kind: Any, field: dataclasses.Field[Any]) -> Any:
    """
    The value in the field's own type.

    :raises ValueError: in one sentence, if it does not fit.
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
        if value not in known:
            raise ValueError(f"{name} is {value!r}; known are {', '.join(known)}")
        return value
    least, above = field.metadata["least"], field.metadata["above"]
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)) or not all(_is_integer(size) and size >= least for size in value):
            raise ValueError(f"{name} is {value!r}; positive integers are needed, such as [32, 32]")
        return value[0] if optional and len(value) == 1 else tuple(value)
    if kind is int:
        if not _is_integer(value) or (least is not None and value < least):
            wanted = {1: "a positive integer", 0: "an integer of at least 0", None: "an integer"}[least]
            raise ValueError(f"{name} is {value!r}; {wanted} is needed")
        return value
    if kind is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        if not number or (least is not None and value < least) or (above is not None and value <= above):
            wanted = (
                "a positive number" if above == 0 else "a number of at least 0" if least == 0 else "a finite number"
            )
            raise ValueError(f"{name} is {value!r}; {wanted} is needed")
        return float(value)
    wanted = {bool: "true or false", str: "a text"}[kind]
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r}; {wanted} is needed")
    return value


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
