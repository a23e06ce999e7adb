# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which entries of the data are seen: masks that are named, random or read from a file."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_spvae.data.masks import random_mask

ACCEPTED = "left, right, top, bottom, checkerboard, random:P with 0 < P <= 1, or a .npy file"

_HALVES = ("left", "right", "top", "bottom")
_STREAM = 11  # of the noise of random masks
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def parse_observed(text: str, event_shape: Sequence[int], rows: int, seed: int, first: int | None = None) -> Tensor:
    """
    The mask that a text names, True = seen.

    - ``left``, ``right``, ``top``, ``bottom``: this half of an image is seen; ``left`` and ``right``: of a table, its
      first and its second half of columns. Of an odd number of columns (or lines) the middle one belongs to ``right``
      (or ``bottom``), so that two opposite halves share nothing.
    - ``checkerboard``: every other pixel (or column), the first one of all included.
    - ``random:P``: each pixel (or column) of each row with probability P. A row's mask depends on the seed and the
      number of the row alone.
    - a ``.npy`` file of bool, or of the integers 0 and 1: ``[H, W]``, ``[C, H, W]`` or ``[D]`` for all rows alike, or
      any of these behind a first axis of the rows.

    Channels of a pixel are seen together, unless a file says otherwise.

    :param str text: what to see.
    :param event_shape: shape of a row: an image ``[C, H, W]``, else a table ``[D]`` (or an array ``[H, W]``).
    :param int rows: number of rows of the split, which a file has if its mask is one of rows.
    :param int seed: of random masks.
    :param int first: how many rows, from the first, a mask is wanted for; all by default.
    :returns: ``bool``, of shape ``event_shape`` for all rows alike, or ``[rows or first, *event_shape]``.
    :raises ValueError: if the text names no mask, the file cannot be read or does not fit, or nothing at all is seen.
    """
    event = tuple(event_shape)
    grid = event[1:] if len(event) == 3 else event
    first = rows if first is None else first
    if text.lower().endswith(".npy"):
        mask = _from_file(text, event, grid, rows, first)
    elif text in _HALVES:
        mask = _over_channels(_half(text, grid), event)
    elif text == "checkerboard":
        sides = (torch.arange(side, device="cpu") for side in grid)
        places = torch.stack(torch.meshgrid(*sides, indexing="ij"))
        mask = _over_channels(places.sum(0) % 2 == 0, event)
    elif text.startswith("random:"):
        mask = _over_channels(_random(text, grid, first, seed), event)
    else:
        raise ValueError(f"observed is {text!r}; accepted are {ACCEPTED}")
    if not bool(mask.any()):
        raise ValueError(f"observed is {text!r}, which leaves nothing seen of rows of shape {list(event)}")
    return mask


def observed_name(text: str) -> str:
    """A text that :func:`parse_observed` accepts as part of a file name: ``left``, ``random-0.5``, ``mask-npy``."""
    name = f"{Path(text).stem}-npy" if text.lower().endswith(".npy") else text.replace(":", "-")
    return re.sub(r"[^\w.+-]+", "-", name)


def _half(text: str, grid: Sequence[int]) -> Tensor:
    if len(grid) == 1 and text in ("top", "bottom"):
        raise ValueError(f"observed is {text!r}, but rows of a table have no {text}; left and right are their halves")
    axis = -1 if text in ("left", "right") else -2
    place = torch.arange(grid[axis], device="cpu").reshape(-1, *[1] * (-axis - 1))
    first = place < grid[axis] // 2
    return (first if text in ("left", "top") else ~first).expand(*grid)


def _random(text: str, grid: Sequence[int], rows: int, seed: int) -> Tensor:
    number = text.removeprefix("random:")
    probability = float(number) if _NUMBER.fullmatch(number) else math.nan
    if not 0 < probability <= 1:
        raise ValueError(f"observed is {text!r}; a probability above 0 and at most 1 is needed, such as random:0.5")
    return random_mask(rows, grid, probability, seed, _STREAM)


def _over_channels(mask: Tensor, event: tuple[int, ...]) -> Tensor:
    """A mask ``[.., *grid]`` with an axis of channels if the event has one; nothing is copied."""
    return mask.unsqueeze(-3).expand(*mask.shape[:-2], *event) if len(event) == 3 else mask


def _from_file(path: str, event: tuple[int, ...], grid: tuple[int, ...], rows: int, first: int) -> Tensor:
    """The mask in a file, ``[(rows), *event]``; a file of shape ``event`` is meant for all rows alike."""
    array = _open(path)
    whole, flat = [event, (rows, *event)], [grid, (rows, *grid)]
    if array.shape not in whole + flat:
        accepted = ", ".join(str(list(shape)) for shape in dict.fromkeys(flat + whole))
        raise ValueError(
            f"observed is the file {path} of shape {list(array.shape)}; accepted are the shapes {accepted}"
        )
    if array.dtype.kind not in "biu":
        raise ValueError(f"observed is the file {path} of type {array.dtype}; bool, or integers 0 and 1, are needed")
    if array.dtype.kind != "b" and not bool(((array == 0) | (array == 1)).all()):
        raise ValueError(f"observed is the file {path}, which holds integers other than 0 and 1; 1 means seen")
    of_rows = array.shape not in (event, grid)
    mask = torch.from_numpy(np.ascontiguousarray((array[:first] if of_rows else array) != 0))
    return mask if array.shape in whole else _over_channels(mask, event)


def _open(path: str) -> np.ndarray[Any, Any]:
    """An array file, mapped and not read, so that neither its size nor what it claims to be can fill the memory."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers in the style of Python 2
            return np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
    except OSError as error:
        raise ValueError(f"observed is the file {path}, which cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged header raises whatever its parser stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"observed is the file {path}, which is no readable array: {reason[:200]}") from None
