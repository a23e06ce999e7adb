# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A short race of candidates, where nobody says how a table is to be modelled."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch

from pyro_spvae.data import DataSet
from pyro_spvae.infer.em import ClosedForm
from pyro_spvae.models import SPVAE
from pyro_spvae.training.build import CACHE, build_model, modelled, resolve
from pyro_spvae.training.candidates import Candidate, candidates
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.trainer import Trainer

Report = Callable[[str], None]

_SHARE = 10  # of the epochs, one in so many
_STEPS = (400, 1000)  # of a candidate, at least and at most


def race(
    config: TrainConfig, raw: DataSet, device: torch.device, report: Report = lambda line: None
) -> tuple[TrainConfig, list[dict[str, Any]]]:
    """
    Trains each of the candidates a little, and gives the configuration of the best by validation rows.

    :param TrainConfig config: open, see :func:`~pyro_spvae.training.candidates.is_open`.
    :param DataSet raw: the data as recorded.
    :param device: where models are trained.
    :param callable report: takes a line for each candidate.
    :returns: the best one's configuration, not yet resolved; for each candidate ``candidate``, ``bound`` of validation
        rows in nats, ``parameters``, ``epochs`` and ``seconds``, or ``refused`` with what it was refused for.
    :raises ValueError: if all are refused.
    """
    entries = math.prod(raw.event_shape) * len(raw.train)
    lines: list[dict[str, Any]] = []
    best: TrainConfig | None = None
    found = candidates(config, raw)
    report(f"race        of {len(found)} candidates, judged by {len(raw.validation):,} validation rows")
    for candidate in found:
        line, ran = _run(candidate, config, raw, device, entries)
        lines.append(line)
        bounds = [one["bound"] for one in lines if one.get("bound") is not None]
        if line.get("bound") is not None and line["bound"] == max(bounds):
            best = ran
        report(f"  {_in_words(line)}")
    if best is None:
        raise ValueError(f"no candidate takes these data: {lines[0]['refused']}; name a structure and leaves")
    winner = max((line for line in lines if line.get("bound") is not None), key=lambda line: line["bound"])
    report(f"best        {winner['candidate']}")
    return best, lines


def _run(
    candidate: Candidate, config: TrainConfig, raw: DataSet, device: torch.device, entries: int
) -> tuple[dict[str, Any], TrainConfig]:
    start = time.perf_counter()
    own = candidate.of(config)
    line: dict[str, Any] = {"candidate": candidate.name}
    try:
        resolved = resolve(own, raw)
        data = modelled(resolved, raw).cached(CACHE)
        spvae = _made(resolved, data, device)
        if resolved.optimiser == "em" and not _has_closed_form(spvae):
            own = dataclasses.replace(own, optimiser="adam", particles=1)
            resolved = dataclasses.replace(resolved, optimiser="adam", particles=1)
        parameters = sum(parameter.numel() for parameter in spvae.parameters())
        if parameters > entries:
            return line | {"refused": f"{parameters:,} parameters are more than the table's {entries:,} entries"}, own
        batches = math.ceil(len(data.train) / resolved.batch_size)
        steps = min(max(resolved.epochs * batches // _SHARE, _STEPS[0]), _STEPS[1])
        epochs = max(1, math.ceil(steps / (1 if resolved.optimiser == "em" else batches)))
        epochs = min(epochs, resolved.epochs)
        trainer = Trainer(spvae, data.train, data.validation, dataclasses.replace(resolved, epochs=epochs))
        trainer.run()
    except ValueError as error:
        return line | {"refused": str(error)}, own
    seconds = round(time.perf_counter() - start, 3)
    return line | {"bound": trainer.best, "parameters": parameters, "epochs": trainer.epoch, "seconds": seconds}, own


def _made(config: TrainConfig, data: DataSet, device: torch.device) -> SPVAE:
    pyro.set_rng_seed(config.seed)
    with pyro.settings.context(module_local_params=True):
        spvae = build_model(config, data)
    spvae.values = data.values
    return spvae.to(device)


def _has_closed_form(spvae: SPVAE) -> bool:
    if not isinstance(spvae, ClosedForm):
        return False
    try:
        spvae.check_closed_form()
    except ValueError:
        return False
    return True


def _in_words(line: dict[str, Any]) -> str:
    if "refused" in line:
        return f"{line['candidate']:<52} left out: {line['refused']}"
    size = f"{line['parameters']:,} parameters"
    return f"{line['candidate']:<52} {line['bound']:10.3f} nats {size:>22} {line['seconds']:8.1f} s"
