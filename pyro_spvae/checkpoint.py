# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Files of tensors and plain values: written whole or not at all, read without running code that may be in them."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

FORMAT = 3  # programs of blocks; files of format 2 were written before there were any


def atomic_write(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """
    Writes a file under another name in the same folder and renames it when everything is on the disk.

    :param path: the file; one that is there is replaced.
    :param callable write: puts the content into the open file it is given.
    :raises ValueError: if it cannot be written; what was there before is intact then.
    """
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ValueError(f"the file {path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """
    Writes a checkpoint, see :func:`atomic_write`.

    :param dict state: tensors, None, bool, int, float, str, and lists, tuples and dicts of these.
    :raises TypeError: if ``state`` holds anything else, which could not be read back.
    :raises ValueError: if it cannot be written.
    """
    _check_plain("state", state)
    # torch's own writer turns the error of a full disk into one that does not say so, hence the detour over memory
    buffer = io.BytesIO()
    torch.save(state | {"format": FORMAT}, buffer)
    atomic_write(path, lambda file: file.write(buffer.getbuffer()))


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """
    Reads a checkpoint to the CPU; pickled objects in it are refused and never made.

    :raises ValueError: in one sentence, if the file is missing, damaged, holds anything but tensors and plain values,
        or has another format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        content = io.BytesIO(path.read_bytes())
        with zipfile.ZipFile(content) as archive:  # torch itself does not look at the sums, and reads other formats
            broken = archive.testzip()
        if broken is not None:
            raise ValueError(f"the sum of {broken} differs")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of a kind that is refused anyway
            state = torch.load(content, weights_only=True, map_location="cpu")
    except OSError as error:
        raise ValueError(f"the checkpoint {path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # damaged bytes surface as almost any error of zipfile, pickle or torch
        code = "weights_only" in str(error).lower() or "unsupported" in str(error).lower()
        reason = "it holds something other than tensors and plain values" if code else "it is damaged, or no checkpoint"
        raise ValueError(f"the checkpoint {path} cannot be read: {reason}") from None
    if not isinstance(state, dict) or type(state.get("format")) is not int:
        raise ValueError(f"the file {path} is no checkpoint of this package")
    if state["format"] != FORMAT:
        newer = state["format"] > FORMAT
        raise ValueError(
            f"the checkpoint {path} was written by {'a newer' if newer else 'an older'} version of pyro-spvae (format "
            f"{state['format']}, this one reads {FORMAT}); {'update the package' if newer else 'train the model again'}"
        )
    return state


def _check_plain(where: str, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        return
    if type(value) in (dict, OrderedDict):
        for key, entry in value.items():
            if type(key) not in (str, int):
                raise TypeError(f"{where} has the key {key!r}; keys are texts or integers")
            _check_plain(f"{where}[{key!r}]", entry)
    elif type(value) in (list, tuple):
        for place, entry in enumerate(value):
            _check_plain(f"{where}[{place}]", entry)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise TypeError(
            f"{where} is a {type(value).__name__}; a checkpoint holds tensors and plain values only, since pickled "
            "objects are not read back"
        )
