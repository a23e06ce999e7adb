# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``evaluate``: the figures of training again, marginals, and the same from several processes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from pyro_spvae.commands.evaluation import evaluate, table
from pyro_spvae.training.evaluation import active_units, evaluate_rows
from pyro_spvae.training.objective import build_objective
from pyro_spvae.training.run import open_run
from pyro_spvae.training.train import latent_lines
from tests.cli_cases import QUICK, Forked, command, python, train
from tests.commands.cases import assert_picture, load, names, rows

FIGURES = {
    *("rows", "log_likelihood", "standard_error", "samples", "elbo", "leaf_elbo", "reconstruction", "latent_kl"),
    *("tree_kl", "active_units", "seed", "bits_per_dim", "kl", "entropy", "cross_entropy"),
}


@pytest.fixture(scope="module")
def plain(digits, tmp_path_factory):
    """The evaluation with the run's own options: where it is, what was returned and reported."""
    out, lines = tmp_path_factory.mktemp("evaluate"), []
    return out, evaluate(digits, out=out, report=lines.append), lines


def test_the_runs_own_options_give_the_figures_of_training(digits, plain):
    trained = json.loads((digits / "results.json").read_text())
    _, results, _ = plain
    assert FIGURES <= results.keys()
    assert {key: results[key] for key in FIGURES} == {key: trained[key] for key in FIGURES}


def test_files(plain):
    out, results, lines = plain
    assert names(out) == ["test.json", "test.npz", "test.png"]
    assert json.loads((out / "test.json").read_text()) == results
    values = load(out / "test.npz")["log_likelihood"]
    assert values.dtype == np.float64 and values.shape == (250,)
    assert results["log_likelihood"] == pytest.approx(values.mean(), abs=1e-9)
    assert results["standard_error"] == pytest.approx(values.std(ddof=1) / 250**0.5, abs=1e-9)
    assert results["bits_per_dim"] == pytest.approx(-values.mean() / (64 * math.log(2)))
    assert_picture(out / "test.png")
    for end in (".npz", ".json", ".png"):
        assert f"written to  {out / 'test'}{end}" in lines
    assert results["versions"]["torch"] == torch.__version__ and results["processes"] == 1


def test_divergences_that_round_to_nothing_have_no_sign(plain):
    """They are sampled; with training and by the command."""
    nothing = {"latent_kl": -0.004, "tree_kl": -0.0049, "kl": {"z": -0.001}}
    lines = table(plain[1] | nothing) + latent_lines(plain[1] | nothing)
    assert not [line for line in lines if "-0.00" in line] and sum(" 0.00" in line for line in lines) >= 3
    assert "KL -0.01 " in latent_lines(plain[1] | {"kl": {"z": -0.006}})[0]


def test_the_table_is_aligned_and_has_units(plain):
    _, results, lines = plain
    head, *figures = table(results)
    assert lines[: 1 + len(figures)] == [head, *figures]
    assert head == "test of digits: 250 rows, 10 samples"
    cross_entropy, entropy = results["cross_entropy"]["z"], results["entropy"]["z"]
    assert figures[5].startswith("latent KL")
    assert figures[5].endswith(f"  nats, cross-entropy {cross_entropy:.2f} less entropy {entropy:.2f}")
    error = results["standard_error"]
    assert figures[0].endswith(f"{results['log_likelihood']:.2f}  nats, standard error {error:.2f}")
    assert f"{results['bits_per_dim']:.3f}  bits" in figures[1]
    ends = {line.index("  nats") for line in figures if "  nats" in line}
    assert len(ends) == 1 and len(figures) == 8


def test_options_and_names(digits, tmp_path):
    results = evaluate(digits, split="validation", samples=3, particles=2, seed=1, chunk_size=100, out=tmp_path)
    assert names(tmp_path)[0] == "validation-samples-3-particles-2-seed-1.json"
    run = open_run(digits)
    figures, values, dimensions = evaluate_rows(
        run.spvae,
        rows(digits, "validation"),
        elbo=build_objective(type(run.config)(**{**run.config.to_dict(), "particles": 2})),
        samples=3,
        chunk_size=100,
        seed=1,
    )
    assert {key: results[key] for key in figures} == figures
    written = load(tmp_path / "validation-samples-3-particles-2-seed-1.npz")
    assert written.keys() == {"log_likelihood", "mean_variance_z", "dimension_kl_z"}
    assert np.array_equal(written["log_likelihood"], values)
    assert all(np.array_equal(written[name], found) for name, found in dimensions.items())


def test_other_samples_stand_beside_those_of_the_run(digits, tmp_path):
    """In what is shown and in what is written; each is a lower bound in expectation, tighter with more samples."""
    trained, lines = json.loads((digits / "results.json").read_text()), []
    results = evaluate(digits, samples=60, out=tmp_path, report=lines.append)
    kept = json.loads((tmp_path / "test-samples-60.json").read_text())
    assert kept == results and kept["samples"] == 60
    assert kept["of_run"] == {name: trained[name] for name in ("rows", "samples", "log_likelihood", "standard_error")}
    assert kept["log_likelihood"] > trained["log_likelihood"] and kept["of_run"]["samples"] == 10
    assert lines[0].endswith("250 rows, 60 samples")
    assert lines[1].split()[1] == f"{kept['log_likelihood']:.2f}" and lines[2].startswith("  of the run ")
    error = f"standard error {trained['standard_error']:.2f}"
    assert lines[2].endswith(f"{trained['log_likelihood']:.2f}  nats, with 10 samples when it was trained, {error}")
    assert json.loads((digits / "results.json").read_text()) == trained


def test_the_figure_of_a_few_rows_stands_beside_that_of_all(tmp_path):
    """Of a run whose training ended with the evaluation of some of its test rows."""
    train("digits", *QUICK, "--test-rows", "40", "--out", tmp_path / "run")
    trained, lines = json.loads((tmp_path / "run" / "results.json").read_text()), []
    kept = evaluate(tmp_path / "run", report=lines.append)
    assert trained["rows"] == 40 and kept["rows"] == 250
    assert kept["of_run"] == {name: trained[name] for name in ("rows", "samples", "log_likelihood", "standard_error")}
    wanted = (
        f"{trained['log_likelihood']:.2f}  nats, of the first 40 rows with 10 samples when it was trained, standard"
    )
    assert lines[2].startswith("  of the run ") and wanted in lines[2]


@pytest.mark.parametrize("options", [{"split": "validation"}, {"observed": "left"}, {"samples": 10}])
def test_figures_of_other_rows_are_not_set_beside(digits, tmp_path, options):
    results = evaluate(digits, **{"samples": 3, **options}, out=tmp_path)
    assert results["of_run"] is None and not any("of the run" in line for line in table(results))


class TestMarginals:
    def test_everything_seen_is_the_plain_log_likelihood(self, digits, plain, tmp_path):
        results = evaluate(digits, observed="random:1", out=tmp_path)
        wanted = load(plain[0] / "test.npz")["log_likelihood"]
        assert np.allclose(load(tmp_path / "test-random-1.npz")["log_likelihood"], wanted, rtol=1e-5)
        assert results["elbo"] == pytest.approx(plain[1]["elbo"], rel=1e-5)
        assert results["bits_per_dim"] is None and results["seen_entries"] == 64
        assert results["nats_per_seen_entry"] == pytest.approx(results["log_likelihood"] / 64)

    def test_everything_seen_in_float64(self, table, tmp_path):
        evaluate(table, out=tmp_path)
        evaluate(table, observed="random:1", out=tmp_path)
        wanted, found = (load(tmp_path / f"{name}.npz")["log_likelihood"] for name in ("test", "test-random-1"))
        assert np.allclose(found, wanted, rtol=1e-12)

    def test_what_is_not_seen_does_not_matter(self, digits, plain, tmp_path):
        left = evaluate(digits, observed="left", out=tmp_path)
        run, x = open_run(digits), rows(digits)
        x[..., 4:] = 16 - x[..., 4:]
        mask = torch.zeros(8, 8, dtype=torch.bool)
        mask[:, :4] = True
        figures, values, dimensions = evaluate_rows(
            run.spvae,
            x,
            elbo=build_objective(run.config),
            samples=10,
            chunk_size=run.config.chunk_size,
            seed=5,
            observed=mask,
        )
        assert np.allclose(load(tmp_path / "test-left.npz")["log_likelihood"], values, rtol=1e-5)
        assert left["elbo"] == pytest.approx(figures["elbo"], rel=1e-5)
        assert left["seen_entries"] == 32
        assert left["active_units"] == figures["active_units"] == active_units(run.spvae, x, mask)
        variances = [
            load(tmp_path / "test-left.npz")["mean_variance_z"],
            load(plain[0] / "test.npz")["mean_variance_z"],
        ]
        assert np.allclose(variances[0], dimensions["mean_variance_z"], rtol=1e-4)
        assert not np.allclose(variances[0], variances[1], rtol=1e-2)

    def test_masks_of_rows(self, table, tmp_path):
        results = evaluate(table, observed="random:0.5", out=tmp_path)
        line = next(line for line in table_of(results) if line.startswith("per seen entry"))
        assert f"{results['nats_per_seen_entry']:.4f}  nats" in line
        assert not any(line.startswith("bits") for line in table_of(results))
        total = load(tmp_path / "test-random-0.5.npz")["log_likelihood"].sum()
        assert results["nats_per_seen_entry"] == pytest.approx(total / (results["seen_entries"] * 8))
        assert 0 < results["seen_entries"] < 5 and results["observed"] == "random:0.5"


table_of = table  # the fixture of a run on a table has its name


def test_two_processes_find_what_one_finds(digits, plain, tmp_path):
    """As torchrun starts them."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "pyro_spvae")
    result = python(*launcher, "evaluate", digits, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert names(tmp_path) == ["test.json", "test.npz", "test.png"]
    assert result.stdout.splitlines() == [*table(plain[1]), *(f"written to  {tmp_path / 'test'}{end}" for end in ENDS)]
    found, wanted = (load(out / "test.npz") for out in (tmp_path, plain[0]))
    assert np.array_equal(found["log_likelihood"], wanted["log_likelihood"])
    assert found.keys() == wanted.keys() and all(np.allclose(found[name], wanted[name]) for name in wanted)
    found = json.loads((tmp_path / "test.json").read_text())
    assert found.pop("processes") == 2 and found.pop("seconds") > 0
    assert found == {key: value for key, value in plain[1].items() if key not in ("processes", "seconds")}


def test_two_processes_refuse_as_one(digits, tmp_path):
    ended = Forked(command, "evaluate", digits, "--out", tmp_path / "out", "--observed", "up", number=2)
    assert ended.codes == [2, 2] and not (tmp_path / "out").exists()
    assert ended.stderr == (
        "Error: observed is 'up'; accepted are left, right, top, bottom, checkerboard, random:P with 0 < P <= 1, or a "
        ".npy file\n"
    )


ENDS = (".npz", ".json", ".png")
