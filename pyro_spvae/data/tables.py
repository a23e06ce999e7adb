# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""NumPy arrays and pandas DataFrames in the place of tensors, and NaN in the place of a mask."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypeIs

from pyro_spvae.data.column import Column
from pyro_spvae.data.frames import encoded
from pyro_spvae.data.kinds import listed


def is_frame(x: object) -> bool:
    """Whether it is a pandas DataFrame; pandas is not loaded to tell."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(x, pandas.DataFrame)


def is_array(x: object) -> TypeIs[np.ndarray[Any, Any]]:
    """Whether it is an array of NumPy's."""
    return isinstance(x, np.ndarray)


def as_tensor(x: Any, columns: Sequence[Column] | None, like: Tensor, name: str = "x") -> Any:
    """
    Arrays and DataFrames as tensors of a model's type, on its device; everything else as it is.

    The columns of a DataFrame are found by name, in any order, and its categories by theirs; of a model without columns
    it is taken for an array. An array holds the numbers 0, 1, .. of categories, as a tensor does.

    :param columns: those of the model, if it is one of a table with columns.
    :param Tensor like: of the type and on the device that is wanted.
    :param str name: what the data are called in messages.
    :raises ValueError: if a column is missing or unknown, or a category is.
    :raises TypeError: for arrays of something else than real numbers.
    """
    if is_frame(x) and columns is not None:
        return encoded(x, columns, name).to(like.device, like.dtype)
    if is_frame(x):
        others = [str(column) for column, kind in x.dtypes.items() if getattr(kind, "kind", "O") not in "biuf"]
        if others:
            raise ValueError(
                f"{name} is a DataFrame with the column {others[0]!r}, which holds other things than numbers, but the "
                "model has no columns with names; give numbers"
            )
        x = x.to_numpy(dtype=np.float64, na_value=np.nan)
    if not is_array(x):
        return x
    if x.dtype.kind not in "biuf":
        raise TypeError(f"{name} is an array of type {x.dtype}; booleans, integers or floats are needed")
    return torch.from_numpy(np.array(x, dtype=x.dtype.newbyteorder("="))).to(like.device, like.dtype)


def as_mask(observed: Any, columns: Sequence[Column] | None, like: Tensor, name: str = "observed") -> Any:
    """
    As :func:`as_tensor` for masks, whose type is bool.

    :raises ValueError: if a DataFrame has other columns than the model.
    """
    if is_frame(observed):
        if columns is not None:
            wanted = [column.name for column in columns]
            given = [str(own) for own in observed.columns]
            if sorted(given) != sorted(wanted):
                raise ValueError(f"{name} has other columns than the model, {listed(wanted)}")
            observed = observed.iloc[:, [given.index(own) for own in wanted]]
        truths = all(getattr(kind, "kind", "O") == "b" for kind in observed.dtypes)  # pandas' own among them
        observed = observed.to_numpy(dtype=bool if truths and not observed.isna().any(axis=None) else None)
    if not is_array(observed) or observed.dtype.kind != "b":
        return observed
    return torch.from_numpy(np.array(observed)).to(like.device)


def without_holes(x: Tensor, observed: Any) -> Any:
    """
    The mask of rows of a table: entries that are NaN are not seen, whatever else is; as it is if there are none, or it
    is no mask that fits.
    """
    missing = x.isnan()
    if not bool(missing.any()):
        return observed
    if observed is None:
        return ~missing
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool or observed.device != x.device:
        return observed
    try:
        fits = torch.broadcast_shapes(observed.shape, x.shape) == x.shape
    except RuntimeError:
        return observed
    return observed & ~missing if fits else observed
