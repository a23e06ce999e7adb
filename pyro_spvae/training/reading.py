# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The data of a configuration, as they were recorded and as they are modelled."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from pyro_spvae.data import DATA_SETS, Column, DataSet, Rows, load_data
from pyro_spvae.registry import find, parse
from pyro_spvae.training.column_texts import parse_kinds, parse_names
from pyro_spvae.training.config import TrainConfig

CACHE = 2**29  # bytes of preprocessed values that a split may hold in memory

_COLUMNS = "columns"  # the likelihood whose columns are of several kinds
_LEVELS = ("binary", "levels")  # what likelihoods of grey levels are of


def region_shape(data: DataSet) -> tuple[int, ...]:
    """Shape that the region graph divides: height and width of images, columns of tables."""
    return tuple(data.event_shape[1:] if data.is_image else data.event_shape)


def recorded(
    config: TrainConfig,
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    missing: str | None = None,
    columns: Sequence[Column] | None = None,
    undivided: bool = False,
) -> DataSet:
    """
    The data of a configuration as they were recorded, in grey if it says so.

    :param str name: another data set; files of one are read as the configuration reads its own.
    :param data_dir: another folder of data sets.
    :param bool download: whether missing files may be fetched.
    :param str missing: which entries are missing, if not those that the configuration says.
    :param columns: what the columns of a table are, if that is known.
    :param bool undivided: take all rows for each split.
    """
    own = name in (None, config.data)
    name = config.data if name is None else name
    of_files: dict[str, Any] = {}
    if own or name not in DATA_SETS:
        of_files = {
            "drop": parse_names("drop", config.drop),
            "na": parse_names("na", config.na),
            "shape": config.shape,
            "columns": columns,
        }
    if own:
        of_files |= {"validation": config.validation_data, "test": config.test_data}
        of_files |= {"kinds": parse_kinds(config.kinds) or None} if columns is None else {}
    data = load_data(
        name,
        data_dir=config.data_dir if data_dir is None else data_dir,
        seed=config.seed,
        download=download,
        missing=config.missing if missing is None else missing,
        undivided=undivided,
        report=lambda note: None,  # the table of columns says it
        **of_files,
    )
    return data.in_grey() if config.grey else data


def modelled(config: TrainConfig, data: DataSet) -> DataSet:
    """The data as the likelihood of a resolved configuration models them."""
    changed = data.thinned(config.fraction, config.seed).preprocessed(config.preprocess, config.seed)
    return changed.as_measured() if _of_measures(config, data) else changed


def evaluated(config: TrainConfig, data: DataSet) -> Rows:
    """The test rows that a run is evaluated on at its end: all, or the first ``test_rows``."""
    if config.test_rows is None or config.test_rows >= len(data.test):
        return data.test
    return data.test.part(torch.arange(config.test_rows, device="cpu"))


def _of_measures(config: TrainConfig, data: DataSet) -> bool:
    """
    Whether the likelihood takes whole numbers for values like all others, and not for grey levels: a density of them is
    no code.
    """
    as_they_are = ("none", "integers") if data.is_image else ("none",)
    if config.preprocess not in as_they_are or config.likelihood == "auto":
        return False
    name = parse("likelihood", config.likelihood)[0]
    kind: Any = find("likelihood", name)
    if data.is_image:
        return data.values.levels is not None and kind.of in ("real", "positive")
    return name == _COLUMNS or (data.values.levels is not None and kind.of not in _LEVELS)
