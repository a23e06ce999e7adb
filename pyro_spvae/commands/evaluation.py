# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``evaluate``: log-likelihoods, bounds and their parts, and active units of a split."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pyro_spvae.commands.app import option
from pyro_spvae.commands.options import HOW, MASK, WHAT, RowOptions, RunOptions, RunPath, query
from pyro_spvae.training.stated import kind_lines, nats, stated_lines, unit_of

if TYPE_CHECKING:
    from pyro_spvae.commands.query import Query, Selection
    from pyro_spvae.queries import Calibration
    from pyro_spvae.training.config import TrainConfig
    from pyro_spvae.training.evaluation import Evaluation

_FEW = 3  # least likely rows that are named


@query
def evaluate(
    path: RunPath,
    *,
    rows: RowOptions,
    samples: Annotated[
        int | None,
        option("Importance samples of each leaf for log-likelihoods.", WHAT, min=1, show_default="the run's"),
    ] = None,
    particles: Annotated[
        int | None,
        option("Importance samples of each leaf in the bounds.", WHAT, min=1, show_default="the run's"),
    ] = None,
    observed: Annotated[
        str | None,
        option(
            f"Marginals of the seen entries. {MASK} Then nats of the seen entries are given, in all and for each; no "
            "bits/dim, which stand for a code of every entry of a row.",
            WHAT,
            metavar="MASK",
            show_default="everything that is not missing",
        ),
    ] = None,
    holdout: Annotated[
        float | None,
        option(
            "Part of the seen entries to hide and to impute, such as 0.1: are imputations right, and as uncertain as "
            "they say?",
            WHAT,
            show_default="none",
        ),
    ] = None,
    draws: Annotated[int, option("Completions of each row by which hidden entries are imputed.", WHAT, min=2)] = 100,
    chunk_size: Annotated[
        int | None,
        option("Pairs of row and sample decoded at a time; bounds memory.", HOW, min=1, show_default="the run's"),
    ] = None,
    how: RunOptions,
    progress: bool = False,
) -> dict[str, Any]:
    """
    Log-likelihood of every row, its mean and standard error, bounds, KL terms and active units.

    All in nats per row, higher is better for log-likelihood and elbo; bits/dim,
    lower is better, for images of grey levels. With the run's own options the
    figures are those of its results.json, unless it was trained with --test-rows:
    all rows are asked about here. Writes .json, .npz (a value for each
    row, and for each latent dimension how much it varies with the data) and a
    histogram; for tables log_likelihoods.csv, a line for each row with its number
    in the file, from 0 (all rows of several files are numbered one file after the
    other); its name says if it is of other rows than the test rows, or by other
    options. More samples give a higher bound of the log-likelihood; those of the
    run are shown and written beside it. Several processes share the rows:
    torchrun --nproc-per-node 2 -m pyro_spvae evaluate RUN

    With --holdout 0.1 a tenth of the seen entries is hidden, imputed by draws
    given the others, and compared with what it was: errors, log-likelihoods,
    and how often the central 50 % and 90 % intervals hold the truth (ties of
    discrete values are broken at random), by column in calibration*.csv, beside
    what the columns of the training rows alone would tell.

    :returns: what was written as JSON: ``log_likelihood`` and its ``standard_error`` (nats per row, mean over the
        rows), the terms of :func:`pyro_spvae.training.evaluation.mean_bounds`, by latent site ``kl``, ``entropy``,
        ``cross_entropy`` and ``active_units``, what parts of the model state that figures rest on (``stated``, such as
        log Z of a Boltzmann machine), ``bits_per_dim`` or ``nats_per_seen_entry``, ``of_run`` (what ``results.json``
        says of the same rows with another number of samples), ``least_likely`` (rows of a table),
        ``calibration`` (with ``holdout``, see
        :class:`pyro_spvae.queries.Calibration`), sizes, seed, seconds, versions. The ``.npz`` file has
        ``log_likelihood [row]``, ``mean_variance_<site> [leaf, latent]`` and ``dimension_kl_<site> [leaf, latent]``,
        see :class:`pyro_spvae.training.evaluation.Evaluation`. Pictures are a histogram and, for images and a
        VampPrior, pseudo-inputs and what is generated from them.
    :raises ValueError: if it is no run, an option is unfit, or a figure is not finite.
    """
    from pyro_spvae import distributed, joining
    from pyro_spvae.commands.calibrating import training_rows
    from pyro_spvae.commands.observed import parse_observed
    from pyro_spvae.commands.query import Query
    from pyro_spvae.queries.calibration import calibrate, check_draws, check_hidden, check_holdout, hidden_entries
    from pyro_spvae.training.evaluation import evaluate_rows, per_dimension
    from pyro_spvae.training.objective import as_bound, build_objective
    from pyro_spvae.training.pace import Pace
    from pyro_spvae.training.run_folder import versions

    start = time.perf_counter()
    holdout = None if holdout is None else check_holdout(holdout)
    draws = check_draws(draws)
    asked = Query.open("evaluate", path, how, several_processes=True)
    drawn = asked.run.samples if samples is None else samples
    given = {"samples": drawn, "chunk_size": chunk_size, "particles": particles}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(asked.run.config, **changes)
    with joining.processes(asked.device):
        distributed.agree(f"the run {asked.run.path}", asked.run.folder.digest)
        if rows.download:  # by one process
            distributed.on_main(lambda: asked.select(rows) and None)
        selection = asked.select(dataclasses.replace(rows, download=False))
        distributed.agree(f"the data {selection.data.name}", selection.data.fingerprint)
        mask = None
        if observed is not None:
            mask = parse_observed(observed, asked.run.event_shape, len(selection.rows), asked.seed)
        calibration = None
        if holdout is not None:  # so that what hides nothing, or too much, is refused first
            hidden = hidden_entries(selection.rows, mask, holdout, asked.seed, channels=asked.run.is_image)
            check_hidden(asked.spvae, selection.rows, mask, hidden)
        pace = Pace((lambda line: None) if progress else asked.report)
        evaluation = evaluate_rows(
            asked.spvae,
            selection.rows,
            elbo=as_bound(build_objective(config)),
            samples=int(drawn),
            chunk_size=config.chunk_size,
            seed=asked.seed,
            observed=mask,
            progress=progress,
            pace=pace,
        )
        if holdout is not None:
            calibration = calibrate(
                asked.spvae,
                selection.rows,
                mask,
                holdout=holdout,
                draws=draws,
                seed=asked.seed,
                training=training_rows(asked, selection),
                tick=pace.counting("imputing"),
            )
        figures = evaluation.results
        results = {
            "run": str(asked.run.path),
            "data": selection.data.name,
            "split": selection.split,
            "observed": observed,
            "missing": selection.data.missing,
            **figures,
            **per_dimension(figures, asked.run.bits_per_dim),
            "of_run": _of_run(asked, selection, observed, figures["samples"]),
            **({} if asked.run.columns is None else {"least_likely": _least_likely(selection, evaluation)}),
            **({} if calibration is None else {"calibration": calibration.options | calibration.overall}),
            "particles": config.particles,
            "chunk_size": config.chunk_size,
            "seconds": round(time.perf_counter() - start, 3),
            "processes": distributed.world(),
            "device": str(asked.device),
            "versions": versions(),
        }
        distributed.on_main(lambda: _write(asked, selection, config, results, evaluation, calibration))
    return results


def _write(
    asked: Query,
    selection: Selection,
    config: TrainConfig,
    results: dict[str, Any],
    evaluation: Evaluation,
    calibration: Calibration | None,
) -> None:
    import pandas

    from pyro_spvae import plots
    from pyro_spvae.commands.calibrating import write_calibration
    from pyro_spvae.commands.observed import observed_name
    from pyro_spvae.commands.query import to_array

    own = asked.run.config
    name = asked.name(
        selection.label,
        None if results["observed"] is None else observed_name(results["observed"]),
        samples=(config.samples, asked.run.samples),
        particles=(config.particles, own.particles),
    )
    for line in table(results):
        asked.report(line)
    if "least_likely" in results:
        rows = ", ".join(f"row {found['row']} ({found['log_likelihood']:.2f})" for found in results["least_likely"])
        asked.report(f"least likely    {rows} nats")
    values = to_array(evaluation.log_likelihood)
    figure = plots.histogram(values, "log-likelihood (nats)", "rows", results["standard_error"])
    arrays = {"log_likelihood": values}
    arrays |= {key: to_array(dimensions) for key, dimensions in evaluation.dimensions.items()}
    asked.write(name, arrays, results, figure)
    if asked.run.columns is not None:
        found = {"row": to_array(selection.rows.numbers), "log_likelihood": values}
        asked.write_table(asked.table_name("log_likelihoods", name, "test"), pandas.DataFrame(found))
    if calibration is not None:
        write_calibration(asked, name, calibration)
    for key, picture in plots.pseudo_input_pictures(asked.spvae, asked.run.values).items():
        asked.write(key, figure=picture)


def _least_likely(selection: Selection, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The rows of least log-likelihood, in nats, with their numbers in the file."""
    values = evaluation.log_likelihood
    least = values.argsort()[:_FEW].tolist()
    numbers = selection.rows.numbers
    return [{"row": int(numbers[place]), "log_likelihood": float(values[place])} for place in least]


def _of_run(asked: Query, selection: Selection, observed: str | None, samples: int) -> dict[str, Any] | None:
    """What ``results.json`` says with another number of samples, or of some of these rows alone, if it does."""
    run, kept = asked.run, asked.run.results
    if selection.label != "test" or observed is not None or selection.data.missing != run.config.missing:
        return None
    names = ("rows", "samples", "log_likelihood", "standard_error")
    same = (len(selection.rows), samples)
    if not all(name in kept for name in names) or (kept["rows"], kept["samples"]) == same:
        return None
    return {name: kept[name] for name in names}


def table(results: dict[str, Any]) -> list[str]:
    """The figures that :func:`evaluate` returns, in aligned lines with their units."""
    seen = "" if results["observed"] is None else f", {results['observed']} seen"
    if results.get("seen_entries") is not None and results["missing"] != "none":
        seen += ", NaN missing"
    lines = [
        ("log-likelihood", f"{results['log_likelihood']:.2f}", unit_of(results)),
        *((name, f"{value:.2f}", unit) for name, value, unit in kind_lines(results)),
        *_lines_of_run(results.get("of_run"), results["rows"]),
        ("bits/dim", _number(results["bits_per_dim"], 3), "bits"),
        ("per seen entry", _number(results.get("nats_per_seen_entry"), 4), "nats"),
        *(_bound_lines(results) if results["samples"] else ()),
        *stated_lines(results),
    ]
    lines = [line for line in lines if line[1]]
    width = max(len(value) for _, value, _ in lines)
    exactness = f"{results['samples']:,} samples" if results["samples"] else "exact"
    head = f"{results['split']} of {results['data']}{seen}: {results['rows']:,} rows, {exactness}"
    rows = [f"{name:<15} {value:>{width}}  {unit}".rstrip() for name, value, unit in lines]
    if results["standard_error"] is not None:
        rows[0] += f", standard error {results['standard_error']:.2f}"
    return [head, *rows]


def _bound_lines(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The bound of training and its parts; of a model without latent variables it is the log-likelihood."""
    return [
        ("bound (elbo)", f"{results['elbo']:.2f}", f"nats, {results['particles']} particles as in training"),
        ("leaf elbo", f"{results['leaf_elbo']:.2f}", "nats, reconstruction less both KL"),
        ("reconstruction", f"{results['reconstruction']:.2f}", "nats"),
        *_latent_lines(results),
        ("tree KL", nats(results["tree_kl"]), "nats"),
        *_active_lines(results["active_units"]),
    ]


def _latent_lines(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The latent KL, and those of sites where there are several, as cross-entropies less entropies."""
    of_sites = results["kl"]

    def line(name: str, kl: float, sites: Iterable[str]) -> tuple[str, str, str]:
        cross, entropy = (sum(results[term][site] for site in sites) for term in ("cross_entropy", "entropy"))
        split = f", cross-entropy {cross:.2f} less entropy {entropy:.2f}" if of_sites else ""
        return name, nats(kl), f"nats{split}"

    several = of_sites.items() if len(of_sites) > 1 else ()
    return [
        line("latent KL", results["latent_kl"], of_sites),
        *(line(f"  of {site}", kl, [site]) for site, kl in several),
    ]


def _lines_of_run(of_run: dict[str, Any] | None, rows: int) -> list[tuple[str, str, str]]:
    if of_run is None:
        return []
    error = of_run["standard_error"]
    of_rows = "" if of_run["rows"] == rows else f" of the first {of_run['rows']:,} rows"
    by = f" with {of_run['samples']:,} samples" if of_run["samples"] else ""
    remark = f"nats,{of_rows}{by} when it was trained"
    return [
        (
            "  of the run",
            f"{of_run['log_likelihood']:.2f}",
            remark if error is None else f"{remark}, standard error {error:.2f}",
        )
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
