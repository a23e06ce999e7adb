# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A user's own data: one array in a ``.npy`` file, or one or several in a ``.npz`` file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_spvae.data.dataset import SPLITS, DataSet, Values
from pyro_spvae.data.preprocessing import MAX_LEVELS, is_grey_levels
from pyro_spvae.data.splits import shuffled_split

Array = NDArray[np.generic]

FILE_SUFFIXES = (".npy", ".npz")

# The names under which a split may be stored in a .npz file.
_SPLIT_NAMES = {
    "train": ("train", "x_train"),
    "validation": ("validation", "valid", "val", "x_validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
_HELD_OUT = 10  # one row in ten makes a held-out split
_FEW_LEVELS = 16  # bytes up to this value are taken for levels of their own, and not for dark 8-bit images


def load_file(path: Path, *, seed: int = 0) -> DataSet:
    """Load a data set from a ``.npy`` or ``.npz`` file.

    **Arrays.** A ``.npz`` file holds a single array of any name; or else one named ``x``; or else the splits ``train``,
    ``validation`` (or ``valid``, ``val``) and ``test``, each also with ``x_`` before it. A split that it lacks is drawn
    from the rows of the array or of ``train`` by ``seed``, a tenth of them each. Other arrays (labels) are left alone.

    **Shapes.** ``[N, H, W]`` and ``[N, C, H, W]`` are images, ``[N, D]`` is a table.

    **Kind of values**, from type and range over all splits:

    - booleans, and numbers of any type that are all 0 or 1: 2 levels;
    - bytes (uint8) with a value above 16: 256 levels, because an 8-bit image need not contain its brightest level;
    - other integers from 0 to at most 65,535: as many levels as the largest value needs;
    - floats in [0, 1]: continuous between 0 and 1;
    - other floats, and integers outside those bounds: continuous between the smallest and the largest that occur.

    :param pathlib.Path path: the file; objects are never unpickled from it.
    :param int seed: seed of the splits that the file lacks.
    :raises ValueError: if the file is missing or cannot be read, holds no array that fits, too few rows to split, or
        values that are not finite numbers.
    """
    splits = _split_rows(path, _named_splits(path, _read(path)), seed)
    with np.errstate(over="ignore"):  # a value too large for float32 becomes infinite, which DataSet refuses
        train, validation, test = (torch.from_numpy(splits[split].astype(np.float32)) for split in SPLITS)
    values = _kind_of_values(splits["train"].dtype, [train, validation, test])
    return DataSet(path.name, train, validation, test, values)


def _read(path: Path) -> dict[str, Array]:
    """All arrays of the file; that of a ``.npy`` file is called ``x``."""
    if not path.is_file():
        raise ValueError(f"there is no data file {path}.")
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            # Members of a .npz file are read when they are asked for, hence before the file is closed.
            return dict(content) if isinstance(content, np.lib.npyio.NpzFile) else {"x": content}
    except Exception as error:  # damaged bytes surface as almost any error of numpy, zipfile, zlib or tokenize
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"the data file {path} cannot be read as NumPy arrays of numbers ({reason}).") from error


def _named_splits(path: Path, arrays: dict[str, Array]) -> dict[str, Array]:
    """The arrays that are data, by split, in canonical shape; a lone array is ``train``."""
    if len(arrays) == 1:
        [(name, array)] = arrays.items()
        return {"train": _canonical(path, name, array)}
    found: dict[str, Array] = {}
    for split, names in _SPLIT_NAMES.items():
        present = [name for name in names if name in arrays]
        if len(present) > 1:
            raise ValueError(
                f"the data file {path} holds {' and '.join(present)}, but one array may be the {split} split."
            )
        if present:
            found[split] = _canonical(path, present[0], arrays[present[0]])
    if not found and "x" in arrays:
        return {"train": _canonical(path, "x", arrays["x"])}
    if "train" not in found or "x" in arrays:
        raise ValueError(
            f"the data file {path} holds the arrays {', '.join(sorted(arrays)) or '(none)'}, but a single array, or "
            "one named x, or train with optional validation and test is needed."
        )
    kinds = {(array.dtype, array.shape[1:]) for array in found.values()}
    if len(kinds) > 1:
        given = ", ".join(f"{split} {array.dtype} {list(array.shape)}" for split, array in found.items())
        raise ValueError(f"the splits in the data file {path} must share type and row shape, but they are {given}.")
    return found


def _canonical(path: Path, name: str, array: Array) -> Array:
    """The array as `[N, C, H, W]` or `[N, D]`, after a check of its type and shape."""
    where = f"the array {name} in the data file {path}"
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} is of type {array.dtype}, but booleans, integers or floats are needed.")
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"{where} has the shape {list(array.shape)}, but [N, H, W], [N, C, H, W] or [N, D] is needed.")
    if array.size == 0:
        raise ValueError(f"{where} has the shape {list(array.shape)}, but it must not be empty.")
    if array.ndim == 4 and array.shape[3] in (1, 3, 4) and array.shape[1] > 4:
        raise ValueError(
            f"{where} has the shape {list(array.shape)}, which is channels-last, but [N, C, H, W] is needed."
        )
    return array[:, np.newaxis] if array.ndim == 3 else array


def _split_rows(path: Path, found: dict[str, Array], seed: int) -> dict[str, Array]:
    """All three splits, those that are missing drawn from ``train``."""
    missing = [split for split in SPLITS if split not in found]
    if not missing:
        return found
    rows = len(found["train"])
    if rows < _HELD_OUT:
        raise ValueError(
            f"the data file {path} has {rows} rows to draw the {' and '.join(missing)} split from, but at least "
            f"{_HELD_OUT} are needed."
        )
    held_out = rows // _HELD_OUT
    sizes = [rows - held_out * len(missing)] + [held_out] * len(missing)
    drawn = dict(zip(["train", *missing], shuffled_split(rows, sizes, seed), strict=True))
    return {split: found["train"][drawn[split].numpy()] if split in drawn else found[split] for split in SPLITS}


def _kind_of_values(dtype: np.dtype[np.generic], splits: list[Tensor]) -> Values:
    """See ``load_file``; ``dtype`` is the type that the values had in the file."""
    # After the conversion to float32, whose rounding may pass the bounds that the file's own type has.
    low, high = min(float(x.min()) for x in splits), max(float(x.max()) for x in splits)
    if all(is_grey_levels(x, 2) for x in splits):
        return Values.grey_levels(2)
    if dtype.kind in "iu" and 0 <= low and high < MAX_LEVELS:
        return Values.grey_levels(256 if dtype == np.uint8 and high > _FEW_LEVELS else int(high) + 1)
    if 0 <= low and high <= 1:
        return Values(low=0, high=1)
    return Values(low=low, high=high)
