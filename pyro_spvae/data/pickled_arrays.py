# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
NumPy arrays out of a pickle, without unpickling.

A pickle is a program, and running it can run anything. Here its instructions are only looked at: those that a dict of
arrays consists of are understood, all others are refused. Nothing that a file names is ever imported or called.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_RECONSTRUCT = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_FROM_BUFFER = {"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"}
_DTYPE, _NDARRAY, _ENCODE, _BYTES = "numpy dtype", "numpy ndarray", "_codecs encode", "__builtin__ bytes"
_KNOWN = _RECONSTRUCT | _FROM_BUFFER | {_DTYPE, _NDARRAY, _ENCODE, _BYTES, "builtins bytes"}
_KINDS = "biuf"

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
        kind = np.dtype(self.code)
        if kind.kind not in _KINDS:
            raise _Unknown(f"an array of type {kind}")
        return np.dtype(self.order + kind.str[1:]) if self.order in "<>" else kind


@dataclass
class _Array:
    """An array as it is being described."""

    value: np.ndarray[Any, Any] | None = None


class _Unknown(Exception):
    """Something that is no part of a dict of arrays."""


def read_pickled_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """
    The arrays of numbers in a pickled dict.

    :param pathlib.Path path: a pickle of any protocol, by Python 2 or 3.
    :returns: the arrays by their names.
    :raises ValueError: if the file cannot be read, or holds anything but a dict of arrays of numbers.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror or error}.") from None
    try:
        result = _Reader().read(content)
    except _Unknown as error:
        raise ValueError(
            f"the file {path} holds {error}, but only a dict of arrays of numbers is read from it."
        ) from None
    except Exception as error:  # what a damaged file leads to
        raise ValueError(f"the file {path} is damaged, or no pickle of a dict of arrays.") from error
    if not isinstance(result, dict):
        raise ValueError(f"the file {path} holds no dict; a dict of arrays of numbers is needed.")
    arrays = {}
    for name, value in result.items():
        name = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not isinstance(value, _Array) or value.value is None:
            raise ValueError(f"the file {path} holds something other than arrays by their names.")
        arrays[name] = value.value
    return arrays


class _Reader:
    """Follows the instructions of a pickle on a stack of plain values and descriptions."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def read(self, content: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
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
        raise _Unknown("no end")

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _since_mark(self) -> list[Any]:
        place = max(i for i, value in enumerate(self.stack) if value is _MARK)
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
        self.stack.append(dict(zip(values[::2], values[1::2], strict=True)))

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._target()[key] = value

    def _setitems(self, _: Any) -> None:
        values = self._since_mark()
        self._target().update(zip(values[::2], values[1::2], strict=True))

    def _target(self) -> dict[Any, Any]:
        if not isinstance(self.stack[-1], dict):
            raise _Unknown(f"items of a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

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
            raise _Unknown(f"the name {argument.replace(' ', '.')}")
        self.stack.append(_Name(argument))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
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
            return _Array(self._array(bytes(buffer), kind, shape, order == "F"))
        if name == _DTYPE and arguments and isinstance(arguments[0], (str, bytes)):
            code = arguments[0].decode("ascii") if isinstance(arguments[0], bytes) else arguments[0]
            return _Type(code)
        if name == _ENCODE and len(arguments) == 2 and arguments[1] in ("latin1", b"latin1"):
            return str(arguments[0]).encode("latin1")
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
            raise _Unknown(f"the state of a {type(described).__name__}")

    @staticmethod
    def _array(content: Any, kind: Any, shape: Any, fortran: bool) -> np.ndarray[Any, Any]:
        if not isinstance(kind, _Type) or not isinstance(content, bytes) or not isinstance(shape, tuple):
            raise _Unknown("an array of objects")
        array = np.frombuffer(content, dtype=kind.numpy()).reshape(shape, order="F" if fortran else "C")
        return array.astype(array.dtype.newbyteorder("="))  # a copy of its own, in this machine's order


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
}
