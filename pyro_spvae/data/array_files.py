# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Arrays of a user's own ``.npy``, ``.npz`` or ``.pt`` file, by split, with the labels of rows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_spvae.data.dataset import SPLITS
from pyro_spvae.data.rows import check_labels

SPLIT_NAMES = {
    "train": ("train", "x_train"),
    "validation": ("validation", "valid", "val", "x_validation", "x_valid", "x_val"),
    "test": ("test", "x_test"),
}
"""The names under which a split may be stored."""

_LABELS = "labels"  # of a single array
_SPLIT_LABELS = {split: f"{split}_labels" for split in SPLITS}

_ZIP = b"PK"  # the first bytes of .npz and .pt files


def read_arrays(path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """
    The arrays of a file that are data, ``[N, C, H, W]`` or ``[N, D]``, and labels, by split; a lone array is ``train``.

    :raises ValueError: if it cannot be read, or holds nothing that fits.
    """
    arrays = _read(path)
    names = _label_names(list(arrays))
    found = _named_splits(path, {name: array for name, array in arrays.items() if name not in names.values()})
    return found, _checked_labels(path, found, arrays, names)


def _read(path: Path) -> dict[str, Tensor]:
    """All arrays of the file; that of a ``.npy`` file or a lone tensor is called ``x``."""
    if not path.is_file():
        raise ValueError(f"there is no data file {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers and arrays that are refused or copied anyway
            return _read_torch(path) if path.suffix.lower() == ".pt" else _read_numpy(path)
    except _Refused as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # damaged bytes surface as almost any error of numpy, zipfile, zlib, pickle or torch
        kind = "tensors" if path.suffix.lower() == ".pt" else "NumPy arrays of numbers"
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise ValueError(f"the data file {path} cannot be read as {kind} ({reason}).") from error


class _Refused(ValueError):
    """A sentence that needs no more explanation."""


def _read_numpy(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        zipped = file.read(2) == _ZIP
    if not zipped:
        # read only: systems refuse to map, to be written to, what is larger than their memory
        return {"x": _tensor(path, "x", np.load(path, mmap_mode="r", allow_pickle=False))}
    # opened here, because NumPy leaves a damaged archive open
    with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
        names = _read_names(list(content.files))
        arrays = {name: content[name] for name in names}
        others = {name: np.zeros(0) for name in content.files if name not in names}  # not read
    labels = _label_names(list(arrays)).values()
    return {name: _tensor(path, name, array, name in labels) for name, array in arrays.items()} | {
        name: torch.from_numpy(array) for name, array in others.items()
    }


def _read_names(names: list[str]) -> list[str]:
    """Those that may be data or are their labels, so that what else is beside them is not read."""
    known = _known_names(names)
    return [*known, *_label_names(names).values()] if known else names


def _known_names(names: list[str]) -> list[str]:
    return [name for name in names if name == "x" or any(name in stored for stored in SPLIT_NAMES.values())]


def _label_names(names: list[str]) -> dict[str, str]:
    """The arrays that are labels, by the split whose rows they are of."""
    known = _known_names(names)
    others = [name for name in names if name not in (_LABELS, *_SPLIT_LABELS.values())]
    if _LABELS in names and (known == ["x"] or (len(others) == 1 and len(names) == 2)):
        return {"train": _LABELS}
    stored = [split for split, own in SPLIT_NAMES.items() if "x" not in known and any(name in known for name in own)]
    found = {split: _SPLIT_LABELS[split] for split in stored if _SPLIT_LABELS[split] in names}
    if found and len(names) == 2:  # an array by itself is cut into splits, whatever its name
        return dict.fromkeys(["train"], *found.values())
    return found


def _checked_labels(
    path: Path, found: dict[str, Tensor], arrays: dict[str, Tensor], names: dict[str, str]
) -> dict[str, Tensor]:
    """Labels by split, after a check that there is one for each row."""
    for split, name in names.items():
        what = f"the data file {path} holds the arrays {', '.join(sorted(arrays))}, of which {name}"
        check_labels(what, arrays[name], len(found[split]))
    return {split: arrays[name] for split, name in names.items()}


def _tensor(path: Path, name: str, array: np.ndarray[Any, Any], labels: bool = False) -> Tensor:
    where = f"the array {name} in the data file {path}"
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        needed = "integers" if labels else "booleans, integers or floats"
        raise _Refused(f"{where} is of type {array.dtype}, but {needed} are needed.")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 or stride % array.dtype.itemsize for stride in array.strides):
        array = np.ascontiguousarray(array)
    return torch.from_numpy(np.asarray(array))


def _read_torch(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        zipped = file.read(2) == _ZIP
    # the older format cannot be mapped
    content = torch.load(path, weights_only=True, map_location="cpu", mmap=zipped)
    if isinstance(content, Tensor):
        content = {"x": content}
    if not isinstance(content, dict) or not content:
        raise _Refused(f"the data file {path} holds a {type(content).__name__}; a tensor or a dict of them is needed.")
    tensors = {str(name): value.detach() for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise _Refused(f"the data file {path} holds no tensor.")
    for name in _read_names(list(tensors)):
        value = tensors[name]
        dense = value.layout == torch.strided and not value.is_quantized and not value.is_complex()
        if not dense or value.is_meta:
            raise _Refused(f"the tensor {name} in the data file {path} is no plain array of real numbers.")
    return tensors


def _named_splits(path: Path, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arrays that are data, by split, in canonical shape; a lone array is ``train``."""
    if len(arrays) == 1:
        [(name, array)] = arrays.items()
        return {"train": _canonical(path, name, array)}
    found: dict[str, Tensor] = {}
    for split, names in SPLIT_NAMES.items():
        present = [name for name in names if name in arrays]
        if len(present) > 1:
            raise ValueError(
                f"the data file {path} holds both {present[0]} and {present[1]}, but there can be only one "
                f"{split} split."
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
        given = ", ".join(f"{split} {type_name(array)} {list(array.shape)}" for split, array in found.items())
        raise ValueError(f"the splits in the data file {path} must share type and row shape, but they are {given}.")
    return found


def type_name(array: Tensor) -> str:
    """Name of the type of an array's entries, such as ``float32``."""
    return str(array.dtype).removeprefix("torch.")


def _canonical(path: Path, name: str, array: Tensor) -> Tensor:
    """The array as `[N, C, H, W]` or `[N, D]`, after a check of its shape."""
    where = f"the array {name} in the data file {path}"
    if array.dim() not in (2, 3, 4):
        raise ValueError(f"{where} has the shape {list(array.shape)}, but [N, H, W], [N, C, H, W] or [N, D] is needed.")
    if array.numel() == 0:
        raise ValueError(f"{where} has the shape {list(array.shape)}, but it must not be empty.")
    if array.dim() == 4 and array.shape[3] in (1, 3, 4) and array.shape[1] > 4:
        raise ValueError(
            f"{where} has the shape {list(array.shape)}, which is channels-last, but [N, C, H, W] is needed."
        )
    return array.unsqueeze(1) if array.dim() == 3 else array
