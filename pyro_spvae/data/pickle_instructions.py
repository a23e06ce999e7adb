# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The instructions of a pickle, one after the other; none is carried out."""

from __future__ import annotations

import codecs
import io
import pickletools
import warnings
from collections.abc import Iterator
from typing import Any

_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


def instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """
    Names and arguments of a pickle's instructions, up to the last.

    As :func:`pickletools.genops`, which takes the text of Python 2 in protocol 0 for ASCII; the bytes of arrays, which
    are written so there, are not.

    :param bytes content: a pickle of any protocol, by Python 2 or 3.
    :raises ValueError: if it is none, or ends before its last instruction.
    """
    stream = io.BytesIO(content)
    while code := stream.read(1):
        opcode = _OPCODES.get(code.decode("latin1"))
        if opcode is None:
            raise ValueError(f"the unknown instruction {code!r}")
        if opcode.name == "STRING":
            yield opcode.name, _unquoted(stream.readline())
        else:
            yield opcode.name, None if opcode.arg is None else opcode.arg.reader(stream)
        if opcode.name == "STOP":
            return
    raise ValueError("no last instruction")


def _unquoted(line: bytes) -> str:
    """The text of a quoted line, each of its bytes one character."""
    text = line.rstrip(b"\r\n")
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
        raise ValueError("text without quotes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that mean nothing
        return str(codecs.escape_decode(text[1:-1])[0], "latin1")
