# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a run needs before its first step: a resolved configuration, its data, a new model."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import ELBO

from pyro_spvae import distributed
from pyro_spvae.data import DATA_SETS, DataSet, Rows
from pyro_spvae.data.columns_table import columns_table
from pyro_spvae.data.hints import grey_hint, header_hint
from pyro_spvae.data.rows import select
from pyro_spvae.data.seeds import start_seed
from pyro_spvae.evaluating import block
from pyro_spvae.models import SPN, SPVAE
from pyro_spvae.training import cost
from pyro_spvae.training.build import build_model
from pyro_spvae.training.candidates import is_raced
from pyro_spvae.training.column_texts import parse_kinds
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.graphs import check_graphs
from pyro_spvae.training.logger import check_tensorboard
from pyro_spvae.training.objective import check_objective
from pyro_spvae.training.optimisers import OPTIMISERS
from pyro_spvae.training.own_objects import OwnObjects
from pyro_spvae.training.race import race
from pyro_spvae.training.reading import CACHE, evaluated, modelled, recorded
from pyro_spvae.training.resolve import resolve

_LARGE = 10.0  # networks start with outputs near 0 and steps of the learning rate


@dataclass(frozen=True, eq=False)
class Job:
    """
    :ivar TrainConfig config: resolved.
    :ivar DataSet raw: the data as recorded.
    :ivar DataSet data: the data as they are modelled.
    :ivar SPVAE spvae: a new model, on its device.
    :ivar dict record: content of ``data.json``.
    :ivar ELBO objective: in the place of the one that the configuration names, or ``None``.
    """

    config: TrainConfig
    raw: DataSet
    data: DataSet
    spvae: SPVAE
    record: dict[str, Any]
    objective: ELBO | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.spvae.parameters())

    @property
    def test(self) -> Rows:
        """The test rows that are evaluated, see :func:`~pyro_spvae.training.reading.evaluated`."""
        return evaluated(self.config, self.data)

    @property
    def identity(self) -> dict[str, Any]:
        """What checkpoints hold besides the state of training."""
        return {"architecture": self.spvae.architecture(), "config": self.config.to_dict(), "data": self.record}


def set_up(
    config: TrainConfig,
    device: torch.device,
    download: bool,
    objective: ELBO | None = None,
    report: Callable[[str], None] | None = None,
) -> Job:
    """
    Reads the data and makes a new model.

    :param TrainConfig config: what to do.
    :param device: where the model goes.
    :param bool download: whether the first process may fetch missing files.
    :param ELBO objective: in the place of the one that the configuration names; leaves are VAEs then, unless
        others are named.
    :param callable report: takes lines about a race of candidates, which is held if it is given and the configuration
        leaves the model open.
    :raises ValueError: if the configuration does not fit the data.
    """
    if config.data not in DATA_SETS and Path(config.data).expanduser().exists():  # a run can be opened from anywhere
        config = dataclasses.replace(config, data=str(Path(config.data).expanduser().absolute()))
    paths = {name: getattr(config, name) for name in ("data_dir", "validation_data", "test_data")}
    where: dict[str, Any] = {
        name: str(Path(path).expanduser().absolute()) for name, path in paths.items() if path is not None
    }
    config = dataclasses.replace(config, **where)
    if download:  # by one process
        distributed.on_main(lambda: recorded(config, download=True) and None)
    raw = recorded(config)
    distributed.agree(f"the data {config.data}", raw.fingerprint)
    if objective is not None and config.leaf == "auto":  # which is of latent variables, as those by name are
        config = dataclasses.replace(config, leaf="vae")
    check_graphs(config, device)
    if config.tensorboard:
        check_tensorboard()
    left = round(config.fraction * len(raw.train))
    if config.fraction < 1 and left < 2:
        raise ValueError(
            f"fraction is {config.fraction:g}, which leaves {left} of {len(raw.train):,} training rows; at least 2 are "
            "needed"
        )
    raced: list[dict[str, Any]] = []
    if report is not None and is_raced(config, raw):
        config, raced = race(config, raw, device, report)
    config = resolve(config, raw)
    data = modelled(config, raw).cached(CACHE)
    pyro.set_rng_seed(start_seed(config.seed))
    with pyro.settings.context(module_local_params=True):
        spvae = build_model(config, data)
    spvae.values = data.values
    dtype = getattr(torch, config.precision)
    for rows in (data.train, data.validation, data.test):
        x, seen = select(rows, None, slice(0, 1024))
        try:
            spvae.check(x.to(dtype), seen)  # the values themselves were checked when they were read
        except ValueError as error:
            raise ValueError(_numbered(str(error), data, rows)) from None
    check_objective(config, spvae, data.train, objective)
    record = {
        "name": raw.name,
        "rows": {"train": len(data.train), "validation": len(data.validation), "test": len(raw.test)},
        "split_seed": config.seed,
        "event_shape": list(raw.event_shape),
        "raw_values": raw.values.to_dict(),
        "values": data.values.to_dict(),
        **({} if data.columns is None else {"columns": [column.to_dict() for column in data.columns]}),
        "fingerprint": raw.fingerprint(),
        **({"race": raced} if raced else {}),
        **OwnObjects(objective).described(),
    }
    return Job(config, raw, data, spvae.to(device), record, objective)


def _numbered(message: str, data: DataSet, rows: Rows) -> str:
    """A message about a row, with its number in what the rows are some of."""

    def named(found: re.Match[str]) -> str:
        number = data.numbered(rows, int(found[1]))
        return f"{found[0]} ({number})" if number else found[0]

    return re.sub(r"\bin row (\d+)", named, message, count=1)


def describe(job: Job, report: Callable[[str], None], kept: bool = True) -> None:
    """
    Reports data, likelihood, structure and size.

    :param bool kept: whether there is a ``data.json`` that tells more.
    """
    config, values = job.config, job.data.values
    report(f"data        {job.raw!r}")
    if config.fraction < 1:
        report(f"training    on {len(job.data.train):,} of {len(job.raw.train):,} rows")
    changed = "" if config.preprocess in ("none", "integers") else f", preprocessed by {config.preprocess}"
    of = "the leaf's own," if config.likelihood == "auto" else config.likelihood
    for hint in (grey_hint(job.raw.train), header_hint(job.raw.name, job.raw.columns)):
        if hint is not None:
            report(f"note        {hint}")
    if job.data.columns is not None and values.levels != 2:
        for line in columns_table(job.data, parse_kinds(config.kinds), kept):
            report(line)
    ranges = [
        (f"the column {own.name!r}", own.low, own.high)
        for own in job.data.columns or ()
        if own.low is not None and own.high is not None
    ]
    if job.data.columns is None or values.bounded:  # else each column has a range of its own
        ranges = [("values", values.low, values.high)]
        of += f" of values from {values.low:g} to {values.high:g}"
    report(f"likelihood  {of}{changed}")
    what, low, high = max(ranges, key=lambda own: max(abs(own[1]), abs(own[2])), default=("values", 0.0, 0.0))
    if config.likelihood == "normal" and max(abs(low), abs(high)) > _LARGE:
        runs = "run" if what == "values" else "runs"
        report(f"note        {what} {runs} from {low:.4g} to {high:.4g}; scale to about [-1, 1] for a good fit")
    report(f"structure   {job.spvae.circuit.regions!r}")
    number = job.spvae.num_leaves
    leaf = ("leaf VAE", "leaf VAEs") if job.spvae.latents else ("leaf", "leaves")
    without = "" if job.spvae.latents else " without latent variables"
    report(f"model       {number} {leaf[number > 1]}{without}, {job.parameters:,} parameters")
    if (note := _of_channels(job)) is not None:
        report(f"note        {note}")
    entries = len(job.data.train) * job.data.event_shape.numel()
    if not job.data.is_image and job.parameters > entries:
        report(f"note        the model has more parameters than the training rows have entries, {entries:,}")


def _of_channels(job: Job) -> str | None:
    """What a tree over the positions of colour images makes of their channels, and how long training takes."""
    config, spvae, shape = job.config, job.spvae, job.data.event_shape
    if not job.data.is_image or shape[0] == 1 or config.structure != "chow-liu" or not isinstance(spvae, SPN):
        return None
    note = (
        f"{shape.numel():,} variables, {shape[0]} channels of {shape[1:].numel():,} positions; those of a position "
        "depend on each other by its leaf alone"
    )
    if config.optimiser not in OPTIMISERS or config.batch_size is None:
        return note
    seconds = cost.step_seconds(spvae, *block(spvae, job.data.train, None, 0, config.batch_size))
    steps = math.ceil(len(job.data.train) / config.batch_size)
    return f"{note}; about {cost.in_words(seconds * steps / distributed.world())} an epoch, at most {config.epochs:,}"
