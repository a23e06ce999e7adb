# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What data look like that are stored as something else."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_spvae.data.column import Column, have_names
from pyro_spvae.data.rows import Rows

_LOOKED_AT = 1000  # rows
_IMAGE = 64  # entries of the smallest images
_LEVELS = 256
_FEW = 16  # values up to which are no sign of 8-bit grey levels
_NEAR = 1e-3  # of a level


def grey_hint(rows: Rows) -> str | None:
    """
    A sentence if the first rows look like 8-bit grey levels that are stored as floats, whole numbers or multiples of
    1/255, or rows of a table like flat images; ``None`` if they do not, or are too small for images.

    :param Rows rows: as they were recorded.
    """
    if rows[:1].numel() < _IMAGE or (len(rows.shape) == 4 and not rows.source.is_floating_point()):
        return None
    x = rows[:_LOOKED_AT]
    x = x[~x.isnan()]
    if not len(x) or float(x.min()) < 0:
        return None
    high = float(x.max())
    if len(rows.shape) == 2:
        flat = _FEW < high < _LEVELS and bool((x == x.round()).all())
        return (
            f"rows of {rows.shape[1]} whole numbers up to {high:g} may be flat images; give --shape HEIGHT,WIDTH if so"
            if flat
            else None
        )
    if _FEW < high < _LEVELS and bool((x == x.round()).all()):
        return (
            "values are whole numbers up to 255 in floats; store them as uint8, x.astype('uint8'), to model grey levels"
        )
    scaled = x * (_LEVELS - 1)
    if high <= 1 and len(scaled.round().unique()) > _FEW and bool(((scaled - scaled.round()).abs() < _NEAR).all()):
        how = "(255 * x).round().astype('uint8')"
        return f"values are multiples of 1/255; store them as uint8, {how}, to model grey levels"
    return None


def header_hint(name: str, columns: Sequence[Column] | None) -> str | None:
    """
    A sentence if a file of texts was taken to have no header, which a header of numbers looks like; else ``None``.

    :param str name: of the file.
    :param columns: what was found in it.
    """
    if columns is None or have_names(columns) or not name.lower().endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
        return None
    return "the file has no header, as each field of its first line is a number; columns are called column 1, 2, .."
