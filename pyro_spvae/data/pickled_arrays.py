# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
NumPy arrays of numbers out of a pickle, by an unpickler that finds NumPy's array constructors and nothing else.

A pickle is a program, and running it can run anything. Here what it names stands for a description of ours, or is
refused; nothing that a file names is imported or called.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

_NUMBERS = re.compile(r"[<>=|]?(\?|b1|[iu][1248]|f[248])")  # type codes of numbers, and no other text
# What dicts of arrays are written with, and no more: the codes of extensions find classes in other ways.
_INSTRUCTIONS = """
    PROTO FRAME STOP MARK POP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 INT LONG LONG1 LONG4 BINFLOAT FLOAT
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 STRING BINSTRING SHORT_BINSTRING
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
""".split()
_STEPS: dict[int, Callable[..., None]] = pickle._Unpickler.dispatch


class _Unknown(Exception):
    """Something that is no part of a dict of arrays."""


def read_pickled_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """
    The arrays of numbers in a pickled dict, read from a file; see :func:`pickled_arrays`.

    :param pathlib.Path path: a pickle of any protocol, by Python 2 or 3.
    :raises ValueError: if the file cannot be read, or holds anything but a dict of arrays of numbers.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror or error}.") from None
    return pickled_arrays(content, f"the file {path}")


def pickled_arrays(content: bytes, where: str) -> dict[str, np.ndarray[Any, Any]]:
    """
    The arrays of numbers in a pickled dict. A list of arrays of one shape and type is one array, its items the rows.

    :param bytes content: a pickle of any protocol, by Python 2 or 3.
    :param str where: what messages call it.
    :returns: the arrays by their names, each with memory of its own.
    :raises ValueError: if it holds anything but a dict of arrays of numbers.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that mean nothing, in the text of Python 2
            result = _Unpickler(io.BytesIO(content), encoding="latin1").load()
        if not isinstance(result, dict):
            raise _Unknown(f"a value of type {_type_name(result)}")
        if sum(map(_size, result.values())) > len(content):  # one array many times
            raise _Unknown("a list or dict that is larger than the file")
        return {_text(name): _whole(value) for name, value in result.items()}
    except _Unknown as error:
        raise ValueError(f"{where} holds {error}, but only a dict of arrays of numbers is read from it.") from None
    except Exception as error:  # what a damaged file leads to
        raise ValueError(f"{where} is damaged, or no pickle of a dict of arrays.") from error


def _text(name: str | bytes) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else name


def _size(value: Any) -> int:
    """Bytes of an array or of a list of arrays of one shape and type, which everything in the dict must be."""
    parts = value if isinstance(value, list) and value else [value]
    if not all(isinstance(part, _Array) for part in parts):
        raise _Unknown(f"a value of type {_type_name(value)} in place of an array")
    if len({(part.kind, part.shape) for part in parts}) > 1:
        raise _Unknown("a list of arrays of several shapes or types")
    return len(parts) * math.prod(parts[0].shape) * int(parts[0].kind.itemsize)


def _whole(value: Any) -> np.ndarray[Any, Any]:
    """An array of its own, in this machine's byte order."""
    array = np.stack([part.view() for part in value]) if isinstance(value, list) else value.view()
    return array.astype(array.dtype.newbyteorder("="))


def _type_name(value: Any) -> str:
    return type(value).__name__.strip("_").lower()


class _Type:
    """In place of a ``numpy.dtype``: a type of numbers."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise _Unknown(f"an array of type {code[:20]!r}" if isinstance(code, str) else "an array of records")
        self.kind = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise _Unknown("an array of an unknown byte order")
        self.kind = self.kind.newbyteorder(state[1])


class _Array:
    """In place of a ``numpy.ndarray``: what it is made of. No memory is taken for what a file only claims."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        self.describe(content, kind, shape, "F" if fortran else "C")

    def describe(self, content: Any, kind: Any, shape: Any, order: Any) -> _Array:
        if not isinstance(kind, _Type) or not isinstance(content, (bytes, str)):
            raise _Unknown("an array of objects")
        if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
            raise _Unknown("an array without a shape")
        self.content, self.kind, self.shape, self.fortran = content, kind.kind, shape, order == "F"
        return self

    def view(self) -> np.ndarray[Any, Any]:
        content = self.content.encode("latin1") if isinstance(self.content, str) else self.content
        return np.frombuffer(content, dtype=self.kind).reshape(self.shape, order="F" if self.fortran else "C")


def _bytes(text: Any = "", encoding: Any = "latin1") -> str:
    """In place of ``codecs.encode`` and ``bytes``, which write bytes before protocol 3: they stay text until used."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _Unknown("a call of _codecs.encode")
    return text


_FOUND: dict[str, Any] = {
    "numpy.dtype": _Type,
    "numpy.ndarray": None,  # an argument of what makes arrays, not to be called
    **dict.fromkeys(("_codecs.encode", "builtins.bytes", "__builtin__.bytes"), _bytes),
    **{f"numpy.{core}.multiarray._reconstruct": lambda *_: _Array() for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": lambda *given: _Array().describe(*given) for core in ("core", "_core")},
}


class _Unpickler(pickle._Unpickler):
    """
    The standard library's unpickler in Python. The compiled one takes gigabytes for nine bytes that number its memory
    high, and both hash whatever a file makes a key.
    """

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: _STEPS[code] for code in (getattr(pickle, name)[0] for name in _INSTRUCTIONS)
    }

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in _FOUND:
            raise _Unknown(f"the name {f'{module}.{name}'[:80]!r}")
        return _FOUND[f"{module}.{name}"]

    def _build(self) -> None:
        state, described = self.stack.pop(), self.stack[-1]
        if not isinstance(described, (_Type, _Array)) or not isinstance(state, tuple):
            raise _Unknown(f"the state of a value of type {_type_name(described)}")
        described.__setstate__(state)

    def _set(self, items: list[Any]) -> None:
        names = items[::2]
        if not isinstance(self.stack[-1], dict) or not all(isinstance(name, (str, bytes)) for name in names):
            raise _Unknown("something without a name")
        self.stack[-1].update(zip(names, items[1::2], strict=True))

    def _set_item(self) -> None:
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def _set_items(self) -> None:
        self._set(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.SETITEM[0]] = _set_item
    dispatch[pickle.SETITEMS[0]] = _set_items
    dispatch[pickle.DICT[0]] = _dict
    dispatch[pickle.BYTEARRAY8[0]] = _STEPS[pickle.BINBYTES8[0]]  # else made in the size that a file claims
