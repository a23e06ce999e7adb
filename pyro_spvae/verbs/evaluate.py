# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``evaluate``: log-likelihoods, bounds and their parts, and active units of a split."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from pyro_spvae import distributed, plots
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import Evaluation, evaluate_rows
from pyro_spvae.training.objective import build_objective
from pyro_spvae.training.pseudo_inputs import pseudo_input_pictures
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
        rows), the terms of :func:`pyro_spvae.training.evaluation.mean_bounds`, by latent site ``kl``, ``entropy``,
        ``cross_entropy`` and ``active_units``, ``bits_per_dim`` or ``nats_per_seen_entry``, sizes, seed, seconds,
        versions. The ``.npz`` file has ``log_likelihood [row]``, ``mean_variance_<site> [leaf, latent]`` and
        ``dimension_kl_<site> [leaf, latent]``, see :class:`pyro_spvae.training.evaluation.Evaluation`. Pictures are a
        histogram and, for images and a VampPrior, pseudo-inputs and what is generated from them.
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
        evaluation = evaluate_rows(
            query.spvae,
            selection.rows,
            elbo=build_objective(config),
            samples=config.samples,
            chunk_size=config.chunk_size,
            seed=query.seed,
            observed=mask,
            progress=progress,
        )
        figures = evaluation.results
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
        distributed.on_main(lambda: _write(query, selection, config, results, evaluation))
    return results


def _per_entry(query: Query, mean: float, rows: int, mask: Tensor | None) -> dict[str, Any]:
    """The mean log-likelihood for each dimension, or for each entry that is seen."""
    if mask is None:
        return {"bits_per_dim": query.run.bits_per_dim(mean)}
    seen = float(mask.expand(rows, *query.run.event_shape).sum()) / rows
    return {"bits_per_dim": None, "seen_entries": seen, "nats_per_seen_entry": mean / seen}


def _write(
    query: Query, selection: Selection, config: TrainConfig, results: dict[str, Any], evaluation: Evaluation
) -> None:
    own = query.run.config
    name = query.name(
        selection.label,
        None if results["observed"] is None else observed_name(results["observed"]),
        samples=(config.samples, own.samples),
        particles=(config.particles, own.particles),
    )
    for line in table(results):
        query.report(line)
    values = to_array(evaluation.log_likelihood)
    figure = plots.histogram(values, "log-likelihood (nats)", "rows", results["standard_error"])
    arrays = {"log_likelihood": values}
    arrays |= {key: to_array(dimensions) for key, dimensions in evaluation.dimensions.items()}
    query.write(name, arrays, results, figure)
    for key, picture in pseudo_input_pictures(query.spvae, query.run.values).items():
        query.write(key, figure=picture)


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
        *_latent_lines(results),
        ("tree KL", f"{results['tree_kl']:.2f}", "nats"),
        *_active_lines(results["active_units"]),
    ]
    lines = [line for line in lines if line[1]]
    width = max(len(value) for _, value, _ in lines)
    exactness = f"{results['samples']:,} samples" if results["samples"] else "exact"
    head = f"{results['split']} of {results['data']}{seen}: {results['rows']:,} rows, {exactness}"
    rows = [f"{name:<15} {value:>{width}}  {unit}" for name, value, unit in lines]
    if results["standard_error"] is not None:
        rows[0] += f", standard error {results['standard_error']:.2f}"
    return [head, *rows]


def _latent_lines(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The latent KL, and those of sites where there are several, as cross-entropies less entropies."""
    of_sites = results["kl"]

    def line(name: str, kl: float, sites: Iterable[str]) -> tuple[str, str, str]:
        cross, entropy = (sum(results[term][site] for site in sites) for term in ("cross_entropy", "entropy"))
        split = f", cross-entropy {cross:.2f} less entropy {entropy:.2f}" if of_sites else ""
        return name, f"{kl:.2f}", f"nats{split}"

    several = of_sites.items() if len(of_sites) > 1 else ()
    return [
        line("latent KL", results["latent_kl"], of_sites),
        *(line(f"  of {site}", kl, [site]) for site, kl in several),
    ]


def _active_lines(active: dict[str, int | None]) -> list[tuple[str, str, str]]:
    """How many latent dimensions are active, of all sites and of each where there are several."""
    known = {site: number for site, number in active.items() if number is not None}
    if len(known) < len(active):
        return []
    split = f" ({', '.join(f'{number} of {site}' for site, number in known.items())})" if len(known) > 1 else ""
    return [("active units", str(sum(known.values())), f"latent dimensions that vary with the data{split}")]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
