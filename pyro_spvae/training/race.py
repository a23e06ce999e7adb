# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A short race of candidates, where nobody says how data are to be modelled."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch

from pyro_spvae.data import DataSet
from pyro_spvae.data.seeds import start_seed
from pyro_spvae.models import SPVAE
from pyro_spvae.training.build import build_model
from pyro_spvae.training.candidates import Candidate, candidates, rows_to_train
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.interruption import Interrupted
from pyro_spvae.training.pace import Pace
from pyro_spvae.training.reading import CACHE, modelled
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.trainer import Trainer

Report = Callable[[str], None]

_SHARE = 10  # of the epochs, one in so many
_OF_TABLES, _OF_IMAGES = (400, 1000), (200, 400)  # steps of a candidate, at least and at most
_SAME = "without EM the same as {}"


@dataclass(frozen=True, eq=False)
class _Entry:
    """
    :ivar TrainConfig config: not yet resolved.
    :ivar TrainConfig resolved: as it is trained.
    :ivar DataSet data: as they are modelled.
    :ivar SPVAE spvae: a new model.
    """

    config: TrainConfig
    resolved: TrainConfig
    data: DataSet
    spvae: SPVAE

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.spvae.parameters())


def race(
    config: TrainConfig, raw: DataSet, device: torch.device, report: Report = lambda line: None
) -> tuple[TrainConfig, list[dict[str, Any]]]:
    """
    Trains each of the candidates a little, and gives the configuration of the best by validation rows. Those of more
    parameters than a table's training rows have entries are left out, unless no other is left: then the smallest is
    taken.

    :param TrainConfig config: open, see :func:`~pyro_spvae.training.candidates.is_open`.
    :param DataSet raw: the data as recorded.
    :param device: where models are trained.
    :param callable report: takes a line for each candidate, and one now and then while one takes long.
    :returns: the best one's configuration, not yet resolved; for each candidate ``candidate``, ``bound`` of validation
        rows in nats, ``parameters``, ``epochs`` and ``seconds``, or ``refused`` with what it was refused for.
    :raises ValueError: if all are refused.
    :raises Interrupted: after SIGINT or SIGTERM; nothing was written.
    """
    found = candidates(config, raw)
    entries = _entries(config, raw)
    pace = Pace(report)
    lines: list[dict[str, Any]] = []
    ran: dict[TrainConfig, str] = {}
    best: tuple[float, str, TrainConfig] | None = None
    smallest: tuple[int, str, TrainConfig] | None = None
    held_back = [f"race        of {len(found)} candidates, judged by {_validation(config, raw)}"]  # until one fits

    def tell(line: str | None = None) -> None:
        while held_back:
            report(held_back.pop(0))
        if line is not None:
            report(line)
            pace.said()

    for candidate in found:
        start = time.perf_counter()
        line: dict[str, Any] = {"candidate": candidate.name}
        lines.append(line)
        try:
            entry = _entered(candidate, config, raw)
            tell()
            number = entry.parameters
            same = ran.setdefault(entry.config, candidate.name)
            if same != candidate.name:
                line["refused"] = _SAME.format(same)
            elif number > entries:
                line["refused"] = _too_large(number, entries)
                if smallest is None or number < smallest[0]:
                    smallest = number, candidate.name, entry.config
            else:
                line.update(_trained(entry, candidate, device, pace), parameters=number)
                line["seconds"] = round(time.perf_counter() - start, 3)
                if best is None or line["bound"] > best[0]:
                    best = line["bound"], candidate.name, entry.config
        except ValueError as error:
            line.update(refused=str(error))
        if held_back:
            held_back.append(f"  {_in_words(line)}")
        else:
            tell(f"  {_in_words(line)}")
    if best is not None:
        report(f"best        {best[1]}")
        return best[2], lines
    if smallest is not None:
        report(f"smallest    {smallest[1]}, of more parameters than the data have entries: no other is left")
        return smallest[2], lines
    reasons = {line["refused"] for line in lines}
    if len(reasons) == 1:  # what is given is at fault
        raise ValueError(reasons.pop())
    raise ValueError(f"no candidate takes these data: {lines[0]['refused']}; name a structure and leaves")


def entry_list(config: TrainConfig, raw: DataSet) -> Iterator[str]:
    """
    Lines about the candidates of a race, which is not held.

    :param TrainConfig config: open.
    :param DataSet raw: the data as recorded.
    """
    found = candidates(config, raw)
    entries = _entries(config, raw)
    ran: dict[TrainConfig, str] = {}
    yield f"race        of {len(found)} candidates, to be judged by {_validation(config, raw)}"
    for candidate in found:
        line: dict[str, Any] = {"candidate": candidate.name}
        try:
            entry = _entered(candidate, config, raw)
            line["parameters"] = entry.parameters
            same = ran.setdefault(entry.config, candidate.name)
            if same != candidate.name:
                line["refused"] = _SAME.format(same)
        except ValueError as error:
            line["refused"] = str(error)
        if line.get("parameters", 0) > entries:
            line["refused"] = _too_large(line["parameters"], entries)
        yield f"  {_in_words(line)}"


def _entered(candidate: Candidate, config: TrainConfig, raw: DataSet) -> _Entry:
    """
    :raises ValueError: if it does not fit.
    """
    own = candidate.of(config)
    resolved = resolve(own, raw)
    data = modelled(resolved, raw).cached(CACHE)
    return _Entry(own, resolved, data, _made(resolved, data))


def _trained(entry: _Entry, candidate: Candidate, device: torch.device, pace: Pace) -> dict[str, Any]:
    """Its bound, and after how many epochs."""
    config, data = entry.resolved, entry.data
    assert config.batch_size is not None
    batches = math.ceil(len(data.train) / config.batch_size)
    least, most = _OF_IMAGES if data.is_image else _OF_TABLES
    steps = min(max(config.epochs * batches // _SHARE, least), most)
    per_epoch = 1 if config.optimiser == "em" else batches
    epochs = max(1, round(steps / per_epoch) if data.is_image else math.ceil(steps / per_epoch))
    own = dataclasses.replace(config, epochs=min(epochs, config.epochs))

    def report(line: str) -> None:
        pace.tell(lambda: f"  {candidate.name}: {line}")

    trainer = Trainer(entry.spvae.to(device), data.train, data.validation, own, report=report)
    try:
        trainer.run()
    except Interrupted:
        raise Interrupted(
            f"stopped in the race of candidates, at the {candidate.name}; nothing was written, so start again"
        ) from None
    return {"bound": trainer.best, "epochs": trainer.epoch}


def _made(config: TrainConfig, data: DataSet) -> SPVAE:
    torch.manual_seed(start_seed(config.seed))
    with pyro.settings.context(module_local_params=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "x is constant", UserWarning)  # which the one that is trained says
        spvae = build_model(config, data)
    spvae.values = data.values
    return spvae


def _entries(config: TrainConfig, raw: DataSet) -> float:
    """How many parameters a candidate may have; of images any number, as validation rows tell of what overfits."""
    if raw.is_image:
        return math.inf
    return math.prod(raw.event_shape) * rows_to_train(config, raw)


def _validation(config: TrainConfig, raw: DataSet) -> str:
    return f"{len(raw.thinned(config.fraction, config.seed).validation):,} validation rows"


def _too_large(parameters: int, entries: float) -> str:
    return f"{parameters:,} parameters are more than the {entries:,} entries to train by"


def _in_words(line: dict[str, Any]) -> str:
    if "refused" in line:
        return f"{line['candidate']:<52} left out: {line['refused']}"
    size = f"{line['parameters']:,} parameters"
    if "bound" not in line:
        return f"{line['candidate']:<52} {size:>22}"
    return f"{line['candidate']:<52} {line['bound']:10.3f} nats {size:>22} {line['seconds']:8.1f} s"
