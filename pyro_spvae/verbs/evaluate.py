# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``evaluate``: log-likelihoods, bounds and active units of a split."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

from torch import Tensor

from pyro_spvae import distributed, plots
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import evaluate_rows
from pyro_spvae.training.objective import build_objective
from pyro_spvae.training.versions import versions
from pyro_spvae.verbs.observed import observed_name, parse_observed
from pyro_spvae.verbs.query import Query, Report, Selection, silent, to_array


def evaluate(
    path: str | os.PathLike[str],
    *,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    split: str = "test",
    samples: int | None = None,
    chunk_size: int | None = None,
    particles: int | None = None,
    observed: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    out: str | os.PathLike[str] | None = None,
    report: Report = silent,
    progress: bool = False,
) -> dict[str, Any]:
    """
    Evaluates every row of a split; with the run's own options on its test split, the figures of ``results.json``.

    Where ``torchrun`` launched several processes they share the rows, and the first writes.

    :param path: the run folder.
    :param str data: other data than the run's, a name or a file.
    :param data_dir: folder of data sets that are not bundled; the run's by default.
    :param bool download: whether missing files may be fetched.
    :param str split: ``test``, ``validation`` or ``train``.
    :param int samples: importance samples of each leaf for log-likelihoods; the run's by default.
    :param int chunk_size: pairs of row and sample decoded at a time; the run's by default.
    :param int particles: importance samples of each leaf in the bounds; the run's by default.
    :param str observed: what is seen, see :func:`pyro_spvae.verbs.observed.parse_observed`. All figures are then
        marginal, of the seen entries; bits/dim are left out, since rows may have different numbers of dimensions, and
        a marginal of some is not the share that they have in a code for all.
    :param int seed: the run's by default.
    :param str device: the run's by default.
    :param out: folder for the files; ``RUN/evaluate`` by default.
    :param callable report: takes lines of text.
    :param bool progress: show a progress bar.
    :returns: what was written as JSON: ``log_likelihood`` and its ``standard_error`` (nats per row, mean over the
        rows), the terms of :func:`pyro_spvae.training.evaluation.mean_bounds`, ``active_units``, ``bits_per_dim`` or
        ``nats_per_seen_entry``, sizes, seed, seconds, versions. The ``.npz`` file has ``log_likelihood [row]``.
    :raises ValueError: if it is no run, an option is unfit, or a figure is not finite.
    """
    start = time.perf_counter()
    query = Query.open("evaluate", path, seed=seed, device=device, out=out, report=report, several_processes=True)
    given = {"samples": samples, "chunk_size": chunk_size, "particles": particles}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(query.run.config, **changes)
    with distributed.processes(query.device):
        if download:  # by one process
            distributed.on_main(lambda: query.select(data, data_dir, True, split) and None)
        selection = query.select(data, data_dir, False, split)
        mask = None
        if observed is not None:
            mask = parse_observed(observed, query.run.event_shape, len(selection.rows), query.seed)
        figures, per_row = evaluate_rows(
            query.spvae,
            selection.rows,
            elbo=build_objective(config),
            samples=config.samples,
            chunk_size=config.chunk_size,
            seed=query.seed,
            observed=mask,
            progress=progress,
        )
        results = {
            "run": str(query.run.path),
            "data": selection.data.name,
            "split": split,
            "observed": observed,
            **figures,
            **_per_entry(query, figures["log_likelihood"], len(selection.rows), mask),
            "particles": config.particles,
            "chunk_size": config.chunk_size,
            "seconds": round(time.perf_counter() - start, 3),
            "processes": distributed.world(),
            "device": str(query.device),
            "versions": versions(),
        }
        distributed.on_main(lambda: _write(query, selection, config, results, per_row))
    return results


def _per_entry(query: Query, mean: float, rows: int, mask: Tensor | None) -> dict[str, Any]:
    """The mean log-likelihood for each dimension, or for each entry that is seen."""
    if mask is None:
        return {"bits_per_dim": query.run.bits_per_dim(mean)}
    seen = float(mask.expand(rows, *query.run.event_shape).sum()) / rows
    return {"bits_per_dim": None, "seen_entries": seen, "nats_per_seen_entry": mean / seen}


def _write(query: Query, selection: Selection, config: TrainConfig, results: dict[str, Any], per_row: Tensor) -> None:
    own = query.run.config
    name = query.name(
        selection.label,
        None if results["observed"] is None else observed_name(results["observed"]),
        samples=(config.samples, own.samples),
        particles=(config.particles, own.particles),
    )
    for line in table(results):
        query.report(line)
    values = to_array(per_row)
    figure = plots.histogram(values, "log-likelihood (nats)", "rows", results["standard_error"])
    query.write(name, {"log_likelihood": values}, results, figure)


def table(results: dict[str, Any]) -> list[str]:
    """The figures that :func:`evaluate` returns, in aligned lines with their units."""
    seen = "" if results["observed"] is None else f", {results['observed']} seen"
    lines = [
        ("log-likelihood", f"{results['log_likelihood']:.2f}", "nats"),
        ("bits/dim", _number(results["bits_per_dim"], 3), "bits"),
        ("per seen entry", _number(results.get("nats_per_seen_entry"), 4), "nats"),
        ("bound (elbo)", f"{results['elbo']:.2f}", f"nats, {results['particles']} particles as in training"),
        ("leaf elbo", f"{results['leaf_elbo']:.2f}", "nats, reconstruction less both KL"),
        ("reconstruction", f"{results['reconstruction']:.2f}", "nats"),
        ("latent KL", f"{results['latent_kl']:.2f}", "nats"),
        ("tree KL", f"{results['tree_kl']:.2f}", "nats"),
        ("active units", _number(results["active_units"], 0), "latent dimensions that vary with the data"),
    ]
    lines = [line for line in lines if line[1]]
    width = max(len(value) for _, value, _ in lines)
    exactness = f"{results['samples']:,} samples" if results["samples"] else "exact"
    head = f"{results['split']} of {results['data']}{seen}: {results['rows']:,} rows, {exactness}"
    rows = [f"{name:<15} {value:>{width}}  {unit}" for name, value, unit in lines]
    if results["standard_error"] is not None:
        rows[0] += f", standard error {results['standard_error']:.2f}"
    return [head, *rows]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
