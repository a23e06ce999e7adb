# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Fitting a model that exists to rows that exist; what :meth:`pyro_spvae.models.SPVAE.fit` calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from pyro_spvae import distributed
from pyro_spvae.checks import NotFinite
from pyro_spvae.data import DataSet, Rows, Values
from pyro_spvae.data.column import own_names
from pyro_spvae.data.rows import select
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.queries import Queries
from pyro_spvae.training.batches import BATCH_SIZE
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.going_on import GOES_ON, check_goes_on, is_over, last_state
from pyro_spvae.training.graphs import check_graphs
from pyro_spvae.training.objective import check_objective
from pyro_spvae.training.optimiser_options import check_taken
from pyro_spvae.training.optimisers import of_model
from pyro_spvae.training.own_objects import OwnObjects
from pyro_spvae.training.run_folder import RunFolder, versions
from pyro_spvae.training.run_lock import trained_by_one
from pyro_spvae.training.status import FINISHED, read_status
from pyro_spvae.training.trainer import Trainer

_HELD_OUT = 10  # one row in ten is watched
_BLOCK = 4096  # rows that are looked at together


def fit(
    spvae: Queries,
    x: Any,
    validation: Any = None,
    *,
    observed: Any = None,
    validation_observed: Any = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = False,
    report: Callable[[str], None] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """
    Trains a model until the bound on validation rows stops rising, and leaves the best parameters in it. Other threads
    may ask models meanwhile, this one too: they are answered between two steps.

    :param spvae: the model.
    :param x: training rows ``[data, *event_shape]``, a tensor, a NumPy array or a pandas DataFrame; or a data set,
        whose own validation rows are watched then. In a table NaN is a missing entry.
    :param validation: rows to watch; a tenth of ``x``, drawn by the seed, is held out if there are none. Where
        preprocessing draws anew, training rows have new noise in every batch, and rows to watch always the same.
    :param Tensor observed: ``bool``, broadcastable to ``x``, True = seen; other entries of ``x`` may hold anything.
        Entries that are missing from a data set are not seen in any case.
    :param Tensor validation_observed: the same for ``validation``; only together with it.
    :param out: folder to make for checkpoints and metrics, which ``SPVAE.load`` and ``resume`` take.
    :param bool resume: go on from the checkpoint in ``out`` where there is one. The rows and options must be those of
        the run that was stopped; it then ends with the same parameters, bit for bit, as if it had not been. A run that
        came to its end is trained on by more ``epochs``, or by more ``patience`` where that had stopped it; where these
        are not given they stay what they were.
    :param bool progress: show a progress bar.
    :param callable report: takes lines of text about what happens.
    :param options: fields of :class:`~pyro_spvae.training.fit_config.FitConfig`, for instance ``epochs=20, lr=1e-2``.
        The ``objective`` may also be an object, ``CircuitELBO(5)`` or, for circuits of one leaf, Pyro's ``Trace_ELBO``,
        ``TraceEnum_ELBO``, ``TraceMeanField_ELBO`` or ``RenyiELBO``; the ``optimiser`` a torch optimiser of the model's
        parameters, or a function that makes one of them; ``beta`` a dict of weights by latent site.
    :returns: a dict of metrics for each validation: ``epoch``, ``step``, ``elbo``, ``val_elbo`` and so on, in nats.
    :raises ValueError: for options or rows that do not fit, or when a bound is not finite.
    :raises TypeError: for rows or masks of another type.
    """
    x, observed = _taken(spvae, x, observed)
    validation, validation_observed = _taken(spvae, validation, validation_observed)
    for name, value in (("x", x), ("validation", validation)):
        if name == "validation" and isinstance(value, DataSet):
            raise TypeError("validation is a DataSet; rows are needed: give its .validation, or x as a DataSet")
        if value is not None and not isinstance(value, (Tensor, Rows, DataSet)):
            raise TypeError(
                f"{name} is a {type(value).__name__}; a tensor [data, *event_shape], an array, a DataFrame, Rows or a "
                "DataSet is needed"
            )
    for name, mask in (("observed", observed), ("validation_observed", validation_observed)):
        if mask is not None and not isinstance(mask, Tensor):
            raise TypeError(f"{name} is a {type(mask).__name__}; a bool tensor is needed, True = seen")
    values: Values | None = None
    own, options = OwnObjects.split(options)
    config = FitConfig.from_dict(options, "fit")
    check_taken(config, {name for name, value in vars(config).items() if value != getattr(FitConfig, name)})
    config = replace(config, batch_size=config.batch_size or BATCH_SIZE)
    if isinstance(x, DataSet):
        if validation is not None:
            raise ValueError("validation is given, but x is a data set, which has validation rows; give x.train")
        data = x
        _check_columns(spvae, data)
        x, validation, values = data.train, data.validation, data.values
    if resume and out is None:
        raise ValueError("resume is given without out; give the folder of the run")
    if validation_observed is not None and validation is None:
        raise ValueError("validation_observed is given without validation; give both or neither")
    for rows, mask in ((x, observed), (validation, validation_observed)):
        if rows is not None:
            _check(spvae, rows, mask)
    own = own.of_model(spvae)
    if out is not None and _goes_on(RunFolder(out), resume):
        config = _of_run(RunFolder.open(out), config, options.keys())
    check_graphs(config, next(spvae.parameters()).device, own.optimiser)
    check_objective(config, spvae, x, own.objective, observed=observed, beta=own.beta)
    if isinstance(x, Rows) and x.preprocessing is not None:
        values = x.preprocessing.values
    parts = partial(_seen, x, observed)
    values = spvae.trained_on(values, parts, stacklevel=3)  # where a user calls SPVAE.fit
    if observed is not None:
        observed = observed.expand(x.shape)
    if validation_observed is not None and validation is not None:
        validation_observed = validation_observed.expand(validation.shape)
    record = {
        "name": None,
        "rows": len(x),
        "event_shape": list(x.shape[1:]),
        "values": values.to_dict(),
        **({} if spvae.columns is None else {"columns": [column.to_dict() for column in spvae.columns]}),
        **own.described(),
    }
    if validation is None:
        x, validation, observed, validation_observed = _hold_out(x, observed, config.seed)
    identity: dict[str, Any] = {"config": config.to_dict(), "data": record}
    folder = None
    if out is not None:
        folder, identity["architecture"] = RunFolder(out), spvae.architecture()
    rates = [] if own.optimiser is None else [(group, group["lr"]) for group in of_model(own.optimiser)]
    try:
        with _prepared(folder, identity, resume) as started:
            trainer = Trainer(
                spvae,
                x,
                validation,
                config,
                folder,
                identity,
                observed=observed,
                validation_observed=validation_observed,
                progress=progress,
                report=report or (lambda line: None),
                how_to_resume="fit(..., out={path!s}, resume=True)",
                objective=own.objective,
                optimiser=own.optimiser,
                beta=own.beta,
            )
            state = last_state(folder) if folder is not None and started else None
            if folder is not None and state is not None:
                trainer.load_state(state, folder.read_metrics())
            metrics = trainer.run()
            if folder is not None and distributed.is_main():
                folder.write_json("results.json", _results(trainer))
                if read_status(folder.path):  # of a run that was trained on
                    folder.write_json("status.json", {"status": FINISHED})
    finally:
        for group, rate in rates:  # of a user's own optimiser, which schedules have brought down
            group["lr"] = rate
    return metrics


def _taken(spvae: Queries, x: Any, observed: Any) -> tuple[Any, Any]:
    """Rows and their mask from what stands in their place; NaN in rows of a table is missing."""
    if isinstance(x, Rows) and len(x.shape) == 2 and not x.missing:
        holes = any(bool(block.isnan().any()) for block in x.blocks(_BLOCK))
        return (x.changed(missing=True) if holes else x), observed
    if x is None or isinstance(x, (Rows, DataSet)):
        return x, observed
    x, observed = spvae.taken(x, observed)
    return x.detach() if isinstance(x, Tensor) else x, observed


def _check_columns(spvae: Queries, data: DataSet) -> None:
    """
    :raises ValueError: if the columns of a data set are others than the model's.
    """
    if spvae.columns is None or data.columns is None:
        return
    wanted, given = (
        [(column.name, column.kind, column.categories) for column in columns]
        for columns in (spvae.columns, data.columns)
    )
    for own, other in zip(wanted, given, strict=False):
        if own != other:
            raise ValueError(
                f"x has the column {other[0]!r}, {other[1]}, where the model has {own[0]!r}, {own[1]}; give a "
                "likelihood that is made of the data set's columns"
            )


def _results(trainer: Trainer) -> dict[str, Any]:
    """What a finished run says of itself; test rows it has not seen."""
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.parameters.values()),
        "val_elbo": trainer.best,
        "best_epoch": trainer.best_epoch,
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 3),
        "versions": versions(),
    }


def _check(spvae: Queries, rows: Tensor | Rows, observed: Tensor | None) -> None:
    """Every value is looked at once, since training does not."""
    parameter = next(spvae.parameters())
    if isinstance(rows, Tensor):
        seen = None if observed is None else observed.to(parameter.device)
        spvae.check(rows.to(parameter.device), seen, as_trained=False)
        return
    broken = NotFinite()
    for number, (x, seen) in enumerate(_blocks(rows, observed)):
        broken.look(~x.isfinite() if seen is None else ~x.isfinite() & seen.to(x.device), number * _BLOCK)
        if broken.row is None:
            seen = None if seen is None else seen.to(parameter.device)
            spvae.check(x.to(parameter.device, parameter.dtype), seen, as_trained=False)
    if broken.row is not None:
        raise ValueError(
            f"x holds {broken.text(names=own_names(spvae.columns))}; finite values are needed (a DataSet(.., "
            "missing='nan') takes NaN as missing)"
        )


def _seen(rows: Tensor | Rows, observed: Tensor | None) -> Iterator[Tensor]:
    """Values that are seen, a part at a time."""
    return (block if mask is None else block[mask] for block, mask in _blocks(rows, observed))


def _blocks(rows: Tensor | Rows, observed: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows and their masks, few at a time."""
    return (select(rows, observed, slice(start, start + _BLOCK)) for start in range(0, len(rows), _BLOCK))


def _hold_out(
    x: Tensor | Rows, observed: Tensor | None, seed: int
) -> tuple[Tensor | Rows, Tensor | Rows, Tensor | None, Tensor | None]:
    """Rows to train by and rows to watch, which stay what they are: those that draw anew go on doing so in training."""
    if len(x) < 2:
        raise ValueError(f"x has {len(x)} row; at least 2 are needed, or rows to watch as validation")
    held_out = max(1, len(x) // _HELD_OUT)
    split = shuffled_split(len(x), [len(x) - held_out, held_out], seed)
    train, watched = (x[index] if isinstance(x, Tensor) else x.part(index) for index in split)
    seen, watched_seen = (None if observed is None else observed[index] for index in split)
    return train, watched, seen, watched_seen


def _goes_on(folder: RunFolder, resume: bool) -> bool:
    """Whether there is a run to go on with."""
    return resume and folder.path.exists()


def _check_alike(folder: RunFolder, kept: Any, given: dict[str, Any]) -> None:
    """
    :param kept: what the run's folder says of it.
    :raises ValueError: if the run was started with anything else than what is given.
    """
    kept = kept if isinstance(kept, dict) else {}
    for key in given | kept:  # objects that were given are named in the record, and others are not
        value, was = given.get(key), kept.get(key)
        if was != value:
            raise ValueError(f"{key} is {value!r}, but the run {folder.path} was started with {was!r}")


def _of_run(folder: RunFolder, config: FitConfig, given: Set[str]) -> FitConfig:
    """
    The options by which a run goes on: its own, of which those may be changed that a finished one is trained on by.

    :param given: names of the options that are given.
    :raises ValueError: if others are changed, or there is nothing left to train.
    """
    kept = folder.read_json("config.json")
    kept = FitConfig().to_dict() | (kept if isinstance(kept, dict) else {})
    config = replace(config, **{name: kept[name] for name in GOES_ON if name not in given})
    values = config.to_dict()
    changed = {name for name in GOES_ON if values[name] != kept[name]}
    state = last_state(folder) if changed else None
    before = FitConfig.from_dict({name: value for name, value in kept.items() if name in values}, "config.json")
    free = changed if state is not None and is_over(before, state) else set()
    _check_alike(folder, kept, values | {name: kept[name] for name in (*free, "graphs")})  # how, and not what
    if state is not None and free:
        check_goes_on(config, free, folder, state)
    return config


@contextmanager
def _prepared(folder: RunFolder | None, identity: dict[str, Any], resume: bool) -> Iterator[bool]:
    """
    Within the block nobody else trains in the folder, and there is a checkpoint in it if that is what is told. One that
    was made goes again if training fails before its first checkpoint.
    """
    if folder is None:
        yield False
        return
    new = distributed.on_main(lambda: not _goes_on(folder, resume))
    if new:
        distributed.on_main(lambda: _prepare(folder, identity, resume))
    with trained_by_one(folder.path):
        started = not new and distributed.on_main(lambda: _prepare(folder, identity, resume))
        try:
            yield started
        except ConnectionError:  # as of a run that was killed
            raise
        except Exception:
            if new and distributed.is_main():
                folder.discard_unless_trained()
            raise


def _prepare(folder: RunFolder, identity: dict[str, Any], resume: bool) -> bool:
    """Makes the folder, or checks and rewinds the one to go on in; whether there is a checkpoint in it."""
    if not _goes_on(folder, resume):
        RunFolder.create(folder.path, identity["config"], identity["data"])
        return False
    RunFolder.open(folder.path)
    _check_alike(folder, folder.read_json("data.json"), identity["data"])
    state = last_state(folder)
    if state is None:
        folder.rewind(0)
        return False
    if state.get("architecture") != identity["architecture"]:
        raise ValueError(f"the run {folder.path} was started with a model of another architecture")
    folder.rewind(state["validations"])
    if any(folder.read_json("config.json").get(name) != identity["config"][name] for name in GOES_ON):
        folder.reconfigure(identity["config"])
    return True
