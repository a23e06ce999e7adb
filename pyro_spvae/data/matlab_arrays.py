# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Arrays of numbers out of MATLAB files, of the formats of version 4 and of versions 5 to 7.

Read here because SciPy's reader is compiled, and a damaged file can end the whole process in it. The formats are
described in MathWorks, "MAT-File Format" (chapters "Level 5" and "Level 4").
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_HEADER = 128  # bytes of text, version and byte order before the elements of a version 5 file
_MATRIX, _COMPRESSED = 14, 15
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}  # as stored
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}  # as meant
_TYPES_4 = ("f8", "f4", "i4", "i2", "u2", "u1")
_COMPLEX = 0x800
_LARGEST = 2**30  # bytes that an element may unfold to


def read_matlab_arrays(path: Path, names: tuple[str, ...]) -> dict[str, Array]:
    """
    Arrays of real numbers in a file, in this machine's byte order.

    :param pathlib.Path path: a file of MATLAB, version 4 to 7 (those of version 7.3 are HDF5 files, and refused).
    :param names: names of the arrays to read; others, and what is no array of real numbers, are passed over.
    :returns: those of the arrays that are there.
    :raises ValueError: if the file cannot be read or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror or error}.") from None
    try:
        arrays = _version_4(content) if 0 in content[:4] else _version_5(content)
        return {name: array for name, array in arrays if name in names}
    except Exception as error:  # damaged bytes surface as almost any error
        raise ValueError(f"the file {path} is damaged, or no MATLAB file of version 4 to 7.") from error


def _version_5(content: bytes) -> Iterator[tuple[str, Array]]:
    order = {b"IM": "<", b"MI": ">"}[content[_HEADER - 2 : _HEADER]]
    if content[_HEADER - 4 : _HEADER - 2] != struct.pack(f"{order}H", 0x100):
        raise ValueError("of another version")
    for kind, element in _elements(memoryview(content)[_HEADER:], order):
        if kind == _COMPRESSED:
            unfolded = _unfolded(element)
            kind, element = next(_elements(memoryview(unfolded), order))
        if kind == _MATRIX:
            matrix = _matrix(element, order)
            if matrix is not None:
                yield matrix


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and contents of the elements that follow one another."""
    place = 0
    while place < len(content):
        kind, size = struct.unpack_from(f"{order}2I", content, place)
        if kind >> 16:  # up to four bytes lie in the tag itself
            kind, size, start, end = kind & 0xFFFF, kind >> 16, place + 4, place + 8
        else:
            start = place + 8
            end = start + size if kind == _COMPRESSED else start + (size + 7) // 8 * 8
        if start + size > len(content) or size > end - start:
            raise ValueError("an element ends beyond the file")
        yield kind, content[start : start + size]
        place = end


def _unfolded(element: memoryview) -> bytes:
    unfolding = zlib.decompressobj()
    content = unfolding.decompress(element, _LARGEST)
    if not unfolding.eof:
        raise ValueError("a compressed element that is cut or too large")
    return content


def _matrix(element: memoryview, order: str) -> tuple[str, Array] | None:
    """Name and values of a matrix, or nothing if it is none of real numbers."""
    parts = _elements(element, order)
    flags = struct.unpack_from(f"{order}I", next(parts, _END)[1])[0]
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX:
        return None
    shape = _numbers(*next(parts, _END), order).tolist()
    name = bytes(next(parts, _END)[1]).decode("latin1")
    values = _numbers(*next(parts, _END), order)
    if values.size != math.prod(shape) or min(shape) < 0:
        raise ValueError("an array of another size than stated")
    with np.errstate(invalid="ignore", over="ignore"):  # what a damaged file states as numbers of another kind
        return name, values.astype(_CLASSES[flags & 0xFF]).reshape(shape, order="F")


_END = (0, memoryview(b""))


def _numbers(kind: int, content: memoryview, order: str) -> Array:
    return np.frombuffer(content, dtype=order + _TYPES[kind])


def _version_4(content: bytes) -> Iterator[tuple[str, Array]]:
    place = 0
    while place < len(content):
        order = "<" if struct.unpack_from("<i", content, place)[0] in range(5000) else ">"
        kind, rows, columns, imaginary, length = struct.unpack_from(f"{order}5i", content, place)
        machine, reserved, precision, matrix = kind // 1000, kind // 100 % 10, kind // 10 % 10, kind % 10
        if machine != (order == ">") or reserved or matrix > 2 or min(rows, columns, length) < 0:
            raise ValueError("an unknown kind of array")
        dtype = np.dtype(order + _TYPES_4[precision])
        name = content[place + 20 : place + 20 + length].rstrip(b"\0").decode("latin1")
        start = place + 20 + length
        size = rows * columns * dtype.itemsize
        place = start + size * (2 if imaginary else 1)
        if place > len(content):
            raise ValueError("an array ends beyond the file")
        if matrix == 0 and not imaginary:
            values = np.frombuffer(content, dtype, rows * columns, start).reshape((rows, columns), order="F")
            yield name, values.astype(dtype.newbyteorder("="))
