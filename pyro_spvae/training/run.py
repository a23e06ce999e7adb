# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A trained run, opened to be used."""

from __future__ import annotations

import dataclasses
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyro_spvae.checks import is_positive
from pyro_spvae.data import Column, DataSet, Values
from pyro_spvae.models import SPVAE
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.cost import MOST
from pyro_spvae.training.reading import modelled, recorded
from pyro_spvae.training.run_folder import RunFolder


@dataclass(frozen=True, eq=False)
class Run:
    """
    :ivar RunFolder folder: where it is.
    :ivar TrainConfig config: its resolved configuration.
    :ivar SPVAE spvae: the model with its best parameters.
    :ivar dict record: what it was trained on (``data.json``).
    """

    folder: RunFolder
    config: TrainConfig
    spvae: SPVAE
    record: dict[str, Any]

    @property
    def path(self) -> Path:
        """The run folder."""
        return self.folder.path

    @property
    def values(self) -> Values:
        """What kind of values the model is a density of."""
        return Values.from_dict(self.record["values"])

    @property
    def columns(self) -> tuple[Column, ...] | None:
        """
        What the columns of the table are that it was trained on; ``None`` of images, and where they are not known.

        :raises ValueError: if ``data.json`` is damaged.
        """
        kept = self.record.get("columns")
        return None if kept is None else tuple(map(Column.from_dict, kept))

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one row."""
        return self.spvae.event_shape

    @property
    def is_image(self) -> bool:
        """Whether a row is an image ``[C, H, W]``."""
        return len(self.event_shape) == 3

    @property
    def samples(self) -> int:
        """
        Importance samples that it is evaluated with: those of its configuration, or those that were chosen when it was;
        5000 where it was not.
        """
        chosen = self.results.get("samples")
        return self.config.samples or (chosen if is_positive(chosen) else None) or MOST

    @property
    def results(self) -> dict[str, Any]:
        """What ``results.json`` holds; empty where there is none."""
        values = self.folder.read_json("results.json") if (self.path / "results.json").exists() else {}
        return values if isinstance(values, dict) else {}

    def bits_per_dim(self, log_likelihood: float) -> float | None:
        """See :meth:`pyro_spvae.data.Values.bits_per_dim`."""
        return self.values.bits_per_dim(log_likelihood, self.event_shape)

    def data(
        self,
        name_or_path: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        download: bool = False,
        missing: str | None = None,
        undivided: bool = False,
    ) -> DataSet:
        """
        The run's data, or others that its model can be asked about, preprocessed as in training. Columns of a table are
        found by the names that they had in training.

        :param name_or_path: another data set; the run's own by default, with the same splits.
        :param data_dir: folder of data sets that are not bundled; that of the run by default.
        :param bool download: whether missing files may be fetched.
        :param str missing: ``"nan"`` to take NaN as missing, ``"none"`` to refuse it; as in training by default.
        :param bool undivided: take all rows for each split, in the order of the file; those that ``fraction`` left out
            of training too.
        :raises ValueError: if rows or values are of another kind than the model's, or the run's own data have changed.
        """
        if name_or_path is None and self.record["name"] is None:
            raise ValueError(f"the run {self.path} was fitted from Python and does not know its data; give --data")
        own = self.record["name"] is not None and name_or_path in (None, self.config.data)
        name = self.config.data if name_or_path is None else name_or_path
        raw = recorded(self.config, name, data_dir, download, missing, self.columns, undivided and not own)
        if raw.event_shape != self.event_shape:
            raise ValueError(
                f"data is {raw.name}, whose rows have shape {list(raw.event_shape)}; the model of {self.path} needs "
                f"{list(self.event_shape)}"
            )
        if own and raw.fingerprint() != self.record.get("fingerprint"):
            raise ValueError(f"the data {name} are not those that {self.path} was trained on: their content changed")
        config, raw = self._prepared_for(raw.undivided() if own and undivided else raw)
        if undivided or not own:
            config = dataclasses.replace(config, fraction=1.0)
        found = modelled(config, raw)
        return found if self.columns is None else found.described(self.columns)

    def _prepared_for(self, data: DataSet) -> tuple[TrainConfig, DataSet]:
        """
        The configuration with the preprocessing that raw data need, and these as what they are. Rows need not hold the
        largest of their whole numbers, and where these count for values like others, any will do; but images of 0 and 1
        alone may be white at 1, and are none of more levels. A run
        that was fitted from Python also takes data of the kind that it was fitted to, as they are.
        """
        levels, raw = data.values.levels, self.values.raw
        if self.record["name"] is not None:
            config, trained = self.config, self.record["raw_values"]["levels"]
        elif raw is None or (levels != raw.levels and levels == self.values.levels):
            return dataclasses.replace(self.config, preprocess="none"), data
        else:
            config = TrainConfig.from_dict(self.config.to_dict() | {"preprocess": self.values.preprocess}, "data.json")
            trained = raw.levels
        if levels != trained:
            if not data.is_image and self.values.levels is None and config.preprocess == "none":
                return config, data.as_measured()
            fewest = 2 if data.is_image else 1
            if levels is not None and trained is not None and fewest < levels < trained:
                return config, data.stated_as(Values.grey_levels(trained))
        if levels != trained:
            raise ValueError(
                f"data is {data.name}, with {_kind(levels, data.is_image)}; the model of {self.path} was trained on "
                f"{_kind(trained, data.is_image)}" + (" (store whole numbers as integers)" if levels is None else "")
            )
        return config, data


def open_run(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Run:
    """
    Opens a run with its best parameters.

    :raises ValueError: if it is no run, has no parameters yet, or a file in it is damaged.
    """
    folder = RunFolder.open(path)
    where = f"the configuration {folder.path / 'config.json'}"
    config = TrainConfig.from_dict(folder.read_json("config.json"), where)
    record = folder.read_json("data.json")
    if not isinstance(record, dict) or not {"name", "values"} <= record.keys():
        raise ValueError(f"the file {folder.path / 'data.json'} does not say what the run was trained on")
    if not (folder.path / "best.pt").exists():
        again = f"train --resume {shlex.quote(str(folder.path))}"
        raise ValueError(f"the run {folder.path} has no parameters yet; continue it by {again}")
    run = Run(folder, config, SPVAE.load(folder.path / "best.pt", device=device), record)
    if run.spvae.values is None:
        run.spvae.values = run.values
    return run


def _kind(levels: int | None, is_image: bool) -> str:
    if levels is None:
        return "continuous values"
    return f"{levels} grey levels" if is_image else f"whole numbers 0 to {levels - 1}"
