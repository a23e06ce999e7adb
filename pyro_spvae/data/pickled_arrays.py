# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
NumPy arrays out of a pickle, without unpickling.

A pickle is a program, and running it can run anything. Here its instructions are only looked at: those that a dict of
arrays consists of are understood, all others are refused. Nothing that a file names is ever imported or called.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_spvae.data.pickle_instructions import instructions

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_FROM_BUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
_DTYPE, _NDARRAY, _ENCODE, _BYTES = "numpy dtype", "numpy ndarray", "_codecs encode", "__builtin__ bytes"
_KNOWN = _RECONSTRUCT | _FROM_BUFFER | {_DTYPE, _NDARRAY, _ENCODE, _BYTES, "builtins bytes"}
_TYPES = re.compile(r"[<>=|]?(\?|b1|[iu][1248]|f[248])")  # type codes of numbers, and no other text

_MARK = object()


@dataclass(frozen=True)
class _Name:
    """A name that the pickle mentions; never looked up."""

    text: str


@dataclass
class _Type:
    """An array type as it is being described."""

    code: str
    order: str = "|"

    def numpy(self) -> np.dtype[Any]:
        if not _TYPES.fullmatch(self.code):
            raise _Unknown(f"an array of type {self.code[:20]!r}")
        kind = np.dtype(self.code)
        return np.dtype(self.order + kind.str[1:]) if self.order in "<>" else kind


@dataclass
class _Array:
    """An array as it is being described."""

    value: np.ndarray[Any, Any] | None = None


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
        result = _Reader().read(content)
        if not isinstance(result, dict):
            raise _Unknown(f"a value of type {_type_name(result)}")
        return {_text(name): _whole(value, len(content)) for name, value in result.items()}
    except _Unknown as error:
        raise ValueError(f"{where} holds {error}, but only a dict of arrays of numbers is read from it.") from None
    except Exception as error:  # what a damaged file leads to
        raise ValueError(f"{where} is damaged, or no pickle of a dict of arrays.") from error


def _text(name: Any) -> str:
    if not isinstance(name, (str, bytes)):
        raise _Unknown("something without a name")
    return name.decode("latin1") if isinstance(name, bytes) else name


def _whole(value: Any, limit: int) -> np.ndarray[Any, Any]:
    """An array of its own, in this machine's byte order."""
    if isinstance(value, list) and value:
        parts = [part.value for part in value if isinstance(part, _Array) and part.value is not None]
        if len(parts) < len(value) or len({(part.dtype, part.shape) for part in parts}) > 1:
            raise _Unknown("a list of something other than arrays of one shape and type")
        if sum(part.nbytes for part in parts) > limit:  # one array many times over
            raise _Unknown("a list that is larger than the file")
        array = np.stack(parts)
    elif isinstance(value, _Array) and value.value is not None:
        array = value.value
    else:
        raise _Unknown(f"a value of type {_type_name(value)} in place of an array")
    return array.astype(array.dtype.newbyteorder("="))


def _type_name(value: Any) -> str:
    return type(value).__name__.strip("_").lower()


class _Reader:
    """Follows the instructions of a pickle on a stack of plain values and descriptions."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        for name, argument in instructions(content):
            if name == "STOP":
                return self.stack.pop()
            if name in _SKIPPED:
                continue
            if name in _PUSHED:
                self.stack.append(argument)
            elif name in _MADE:
                self.stack.append(_MADE[name]())
            else:
                step = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise _Unknown(f"the instruction {name}")
                step(argument)
        raise _Unknown("no content")

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:  # from above: below may lie much
            place -= 1
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self._take(1)

    def _tuple2(self, _: Any) -> None:
        self._take(2)

    def _tuple3(self, _: Any) -> None:
        self._take(3)

    def _take(self, number: int) -> None:
        if len(self.stack) < number:
            raise _Unknown("too few values")
        values = tuple(self.stack[-number:])
        del self.stack[-number:]
        self.stack.append(values)

    def _dict(self, _: Any) -> None:
        values = self._since_mark()
        self.stack.append({})
        self._set(values)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise _Unknown(f"items of a value of type {_type_name(self.stack[-1])}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, bytes)):
                raise _Unknown("something without a name")
            self.stack[-1][key] = value

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _Unknown(f"items of a value of type {_type_name(self.stack[-1])}")
        self.stack[-1].extend(values)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _memoize(self, _: Any) -> None:
        self.memory[len(self.memory)] = self.stack[-1]

    def _put(self, argument: Any) -> None:
        self.memory[int(argument)] = self.stack[-1]

    _binput = _long_binput = _put

    def _get(self, argument: Any) -> None:
        self.stack.append(self.memory[int(argument)])

    _binget = _long_binget = _get

    def _global(self, argument: str) -> None:
        if argument not in _KNOWN:
            raise _Unknown(f"the name {argument.replace(' ', '.')[:80]!r}")
        self.stack.append(_Name(argument))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _Unknown("a name that is no text")
        self._global(f"{module} {name}")

    def _reduce(self, _: Any) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise _Unknown("a call")
        self.stack.append(self._described(name.text, arguments))

    def _described(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What a call of one of the known names would describe."""
        if name in _RECONSTRUCT and arguments[:1] == (_Name(_NDARRAY),):
            return _Array()
        if name in _FROM_BUFFER and len(arguments) == 4:
            buffer, kind, shape, order = arguments
            return _Array(self._array(buffer, kind, shape, order == "F"))
        if name == _DTYPE and arguments and isinstance(arguments[0], (str, bytes)):
            code = arguments[0].decode("ascii") if isinstance(arguments[0], bytes) else arguments[0]
            return _Type(code)
        if name == _ENCODE and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
            return arguments[0].encode("latin1")
        if name.endswith(" bytes") and arguments == ():
            return b""
        raise _Unknown(f"a call of {name.replace(' ', '.')}")

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        described = self.stack[-1]
        if isinstance(described, _Type) and isinstance(state, tuple) and len(state) >= 8:
            order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
            if state[2:5] != (None, None, None) or order not in ("<", ">", "|", "="):
                raise _Unknown("an array of records")
            described.order = order
        elif isinstance(described, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, kind, fortran, content = state
            if isinstance(content, str):  # bytes of Python 2
                content = content.encode("latin1")
            described.value = self._array(content, kind, shape, bool(fortran))
        else:
            raise _Unknown(f"the state of a value of type {_type_name(described)}")

    @staticmethod
    def _array(content: Any, kind: Any, shape: Any, fortran: bool) -> np.ndarray[Any, Any]:
        if not isinstance(kind, _Type) or not isinstance(content, (bytes, bytearray)) or not isinstance(shape, tuple):
            raise _Unknown("an array of objects")
        return np.frombuffer(content, dtype=kind.numpy()).reshape(shape, order="F" if fortran else "C")


_SKIPPED = {"PROTO", "FRAME"}
_PUSHED = {
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("BINSTRING", "SHORT_BINSTRING", "STRING"),
    *("BINFLOAT", "FLOAT"),
}
_MADE: dict[str, Any] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
}
