# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The command line, as its users see it: files, figures, messages and exit codes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import evaluate_rows
from pyro_spvae.training.objective import build_objective
from pyro_spvae.training.run import open_run
from tests.cli_cases import FILES, QUICK, invoke, python, train, write_files
from tests.training.test_resume import assert_same, outcome

ALWAYS = {"learning_curve.png", "log_likelihoods.png"}
PICTURES = ALWAYS | {"samples.png", "means.png", "reconstructions.png"}
METRICS = {
    "epoch": int,
    "step": int,
    "elbo": float,
    "val_elbo": float,
    "val_leaf_elbo": float,
    "val_reconstruction": float,
    "val_latent_kl": float,
    "val_tree_kl": float,
    "lr": float,
    "seconds": float,
    "images_per_second": float,
}
TIMINGS = ("seconds", "images_per_second")


def read(run):
    """Configuration, metrics and results of a run folder."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return (
        json.loads((run / "config.json").read_text()),
        [json.loads(line) for line in lines],
        json.loads((run / "results.json").read_text()),
    )


def reevaluated(run):
    """Figures of the best checkpoint in a model made anew from what the folder holds."""
    opened = open_run(run)
    config = opened.config
    found = evaluate_rows(
        opened.spvae,
        opened.data().test,
        elbo=build_objective(config),
        samples=config.samples,
        chunk_size=config.chunk_size,
        seed=config.seed,
    )
    return found.results


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on the bundled digits with leaf ELBOs, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "digits"
    return run, train("digits", "--out", run, *QUICK, "--epochs", 3, "--objective", "elbo", "--seed", 5)


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path / "data")


class TestTrain:
    def test_the_folder_holds_what_is_promised_and_nothing_else(self, digits):
        run, _ = digits
        assert {path.name for path in run.iterdir()} == FILES
        assert {path.name for path in (run / "figures").iterdir()} == PICTURES
        for name in PICTURES:
            assert (run / "figures" / name).read_bytes().startswith(b"\x89PNG")

    def test_the_configuration_has_the_options_and_what_was_chosen(self, digits):
        config, _, _ = read(digits[0])
        assert config.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
        given = {
            "data": "digits",
            "epochs": 3,
            "objective": "elbo",
            "samples": 10,
            "hidden": [8],
            "units": 2,
            "latent_dim": 3,
            "seed": 5,
        }
        assert config | given == config
        assert (config["structure"], config["leaves"], config["alpha"]) == ("poon-domingos", 2, None)
        assert config["delta"] and config["likelihood"] != "auto" and config["preprocess"] == "integers"

    def test_the_data_are_recorded(self, digits):
        record = json.loads((digits[0] / "data.json").read_text())
        assert record["rows"] == {"train": 1297, "validation": 250, "test": 250} and record["split_seed"] == 5
        assert record["values"]["levels"] == 17 and record["event_shape"] == [1, 8, 8]

    def test_metrics_have_the_schema(self, digits):
        _, metrics, _ = read(digits[0])
        assert [line["epoch"] for line in metrics] == [1, 2, 3]
        assert [line["step"] for line in metrics] == [11, 22, 33]  # 1,297 rows in batches of at most 128
        for line in metrics:
            assert {key: type(value) for key, value in line.items()} == METRICS
            assert all(math.isfinite(value) for value in line.values())
            assert line["val_tree_kl"] >= 0 and line["images_per_second"] > 0 and line["lr"] == TrainConfig().lr
        assert metrics[-1]["val_elbo"] > metrics[0]["val_elbo"]
        assert 0 < metrics[0]["seconds"] < metrics[1]["seconds"] < metrics[2]["seconds"]

    def test_the_elbo_is_reconstruction_less_divergences(self, digits):
        for line in read(digits[0])[1]:
            parts = line["val_reconstruction"] - line["val_latent_kl"] - line["val_tree_kl"]
            assert line["val_elbo"] == pytest.approx(parts, abs=1e-3)

    def test_results_are_those_of_the_best_checkpoint(self, digits):
        _, metrics, results = read(digits[0])
        again = reevaluated(digits[0])
        assert again["log_likelihood"] == results["log_likelihood"]
        assert again == {key: results[key] for key in again}
        assert results["best_epoch"] == max(metrics, key=lambda line: line["val_elbo"])["epoch"]
        assert (results["rows"], results["samples"], results["seed"]) == (250, 10, 5)
        assert results["bits_per_dim"] == pytest.approx(-results["log_likelihood"] / (64 * math.log(2)))
        assert results["versions"]["torch"] == torch.__version__

    def test_what_is_printed(self, digits):
        run, printed = digits
        _, metrics, results = read(run)
        lines = printed.stdout.splitlines()
        assert printed.stderr == ""
        assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1", "2", "3"]
        error = f"{results['log_likelihood']:.2f} +- {results['standard_error']:.2f} nats (250 rows, 10 samples)"
        assert f"log-likelihood {error}, {results['bits_per_dim']:.3f} bits/dim" in lines[-2]
        assert str(run) in lines[-1]
        assert lines[-3] == (
            f"latent z    KL {results['kl']['z']:.2f} = cross-entropy {results['cross_entropy']['z']:.2f} - entropy "
            f"{results['entropy']['z']:.2f} nats, {results['active_units']['z']} active unit"
        ) + ("" if results["active_units"]["z"] == 1 else "s")
        (pictures,) = (line for line in lines if line.startswith("pictures"))
        assert all(name in pictures for name in PICTURES) and pictures.endswith(str(run / "figures"))
        text = printed.stdout
        assert f"{results['parameters']:,} parameters" in text and "likelihood  " in text and "leaf_regions" in text

    @pytest.mark.parametrize(
        ("name", "structure", "bits", "dimensions"),
        [
            ("grey.npy", "poon-domingos", None, 30),
            ("colour.npz", "poon-domingos", 8, 90),
            ("table.npy", "random-binary-tree", None, 5),
            ("column.npy", "whole", None, 1),
            ("pair.npy", "poon-domingos", None, 32),
        ],
    )
    def test_files_of_every_kind(self, files, tmp_path, name, structure, bits, dimensions):
        run = tmp_path / "run"
        train(files / name, "--out", run, *QUICK)
        config, metrics, results = read(run)
        assert {path.name for path in run.iterdir()} == FILES
        images = name not in ("table.npy", "column.npy")
        assert {path.name for path in (run / "figures").iterdir()} == (PICTURES if images else ALWAYS)
        assert (config["structure"], config["likelihood"], len(metrics)) == (structure, "normal", 2)
        assert reevaluated(run)["log_likelihood"] == results["log_likelihood"]
        if bits is None:
            assert results["bits_per_dim"] is None
        else:
            expected = -results["log_likelihood"] / (dimensions * math.log(2)) + bits
            assert results["bits_per_dim"] == pytest.approx(expected)

    @pytest.mark.parametrize("likelihood", ["binomial", "categorical", "normal"])
    def test_likelihoods_of_grey_levels(self, tmp_path, likelihood):
        train("--out", tmp_path / "run", *QUICK, "--likelihood", likelihood, "--epochs", 1)
        config, _, results = read(tmp_path / "run")
        bits = -results["log_likelihood"] / (64 * math.log(2)) + (math.log2(17) if likelihood == "normal" else 0)
        assert config["likelihood"] == likelihood and results["bits_per_dim"] == pytest.approx(bits)

    def test_options_reach_the_run(self, files, tmp_path):
        options = [
            "--objective",
            "vr-max",
            "--networks",
            "shared",
            "--structure",
            "quad-tree",
            "--delta",
            3,
            "--leaves",
            3,
        ]
        options += ["--hidden", "", "--activation", "tanh", "--lr", 0.01, "--patience", 3, "--particles", 4]
        train(files / "grey.npy", "--out", tmp_path / "run", *QUICK, "--epochs", 1, *options)
        config, metrics, _ = read(tmp_path / "run")
        expected = {"objective": "vr-max", "networks": "shared", "structure": "quad-tree", "delta": 3, "leaves": 3}
        expected |= {"hidden": [], "activation": "tanh", "lr": 0.01, "patience": 3, "particles": 4}
        assert config | expected == config
        assert metrics[0]["lr"] == 0.01

    def test_the_same_seed_gives_the_same_run_and_another_another(self, tmp_path):
        seen = []
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            run = tmp_path / name
            train("--out", run, *QUICK, "--likelihood", "normal", "--seed", seed)
            _, metrics, results = read(run)
            for line in metrics:
                for key in TIMINGS:
                    del line[key]
            checkpoints = [torch.load(run / f"{which}.pt", weights_only=True)["model"] for which in ("last", "best")]
            seen.append((metrics, results["log_likelihood"], checkpoints))
        (metrics, value, checkpoints), (same_metrics, same_value, same_checkpoints), (other, other_value, others) = seen
        assert (metrics, value) == (same_metrics, same_value)
        assert metrics != other and value != other_value
        for state, same, different in zip(checkpoints, same_checkpoints, others, strict=True):
            assert all(torch.equal(state[key], same[key]) for key in state)
            assert any(not torch.equal(state[key], different[key]) for key in state)


def test_defaults_arrive_in_the_configuration(monkeypatch):
    seen = []
    monkeypatch.setattr("pyro_spvae.training.train.train", lambda config, out, **options: seen.append((config, out)))
    assert invoke("train", "--out", "runs/x").exit_code == 0
    assert seen == [(TrainConfig(), Path("runs/x"))]


def test_demo_hands_its_options_on(monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr("pyro_spvae.training.demo.demo", lambda out, **options: seen.update(options, out=out))
    assert invoke("demo", "--out", tmp_path / "x", "--seed", 3).exit_code == 0
    assert (seen["out"], seen["seed"]) == (tmp_path / "x", 3)


class TestConfiguration:
    def test_a_runs_configuration_makes_the_same_run(self, digits, tmp_path):
        train("--config", digits[0] / "config.json", "--out", tmp_path / "again")
        (config, metrics, results), (other_config, other_metrics, other_results) = (
            read(digits[0]),
            read(tmp_path / "again"),
        )
        assert config == other_config and results["log_likelihood"] == other_results["log_likelihood"]
        assert [line["elbo"] for line in metrics] == [line["elbo"] for line in other_metrics]

    def test_flags_win_over_the_file_and_the_file_over_defaults(self, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr("pyro_spvae.training.train.train", lambda config, out, **options: seen.append(config))
        (tmp_path / "c.json").write_text('{"lr": 0.5, "epochs": 7, "hidden": [3]}')
        assert invoke("train", "--config", tmp_path / "c.json", "--lr", 0.25, "--out", "x").exit_code == 0
        assert seen == [TrainConfig(lr=0.25, epochs=7, hidden=(3,))]

    def test_a_dry_run_prints_what_would_be_done_and_makes_nothing(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = invoke("train", "digits", "--dry-run", "--units", 2, "--out", "run")
        assert result.exit_code == 0 and not list(tmp_path.iterdir())
        text, _, rest = result.stdout.partition("\n}\n")
        config = TrainConfig.from_dict(json.loads(text + "}"))
        assert (config.units, config.leaves, config.likelihood, config.structure) == (2, 2, "binomial", "poon-domingos")
        (total,) = [line for line in rest.splitlines() if line.startswith("model ")]
        parts = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in rest.splitlines()[-3:]}
        assert parts.keys() == {"circuit", "leaves", "guides"}
        assert f"{sum(parts.values()):,} parameters" in total

    def test_a_users_own_parts_by_name(self, tmp_path, monkeypatch):
        (tmp_path / "my_parts.py").write_text(
            "import torch\nimport pyro.distributions as dist\nfrom pyro_spvae.priors import Prior\n\n"
            "class Wide(Prior):\n"
            "    def __init__(self, scale=2.0):\n        super().__init__()\n        self.scale = scale\n"
            "    def build(self, leaves, event_shape):\n"
            "        self.loc = torch.nn.Parameter(torch.zeros(leaves, *event_shape))\n"
            "    def forward(self):\n        return dist.Normal(self.loc, self.scale).to_event(1)\n"
        )
        done = python(
            *("-m", "pyro_spvae", "train", "--out", "run", *QUICK, "--prior", "my_parts:Wide(scale=3.0)"), cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        config, _, results = read(tmp_path / "run")
        assert config["prior"] == "my_parts:Wide(scale=3.0)" and math.isfinite(results["log_likelihood"])
        code = "from pyro_spvae.models import SPVAE; p = SPVAE.load('run').leaf.prior; print(type(p).__name__, p.scale)"
        assert python("-c", code, cwd=tmp_path).stdout == "Wide 3.0\n"

    def test_quiet_says_nothing_and_the_log_has_it_all(self, tmp_path):
        loud = train("--out", tmp_path / "a", *QUICK)
        quiet = train("--out", tmp_path / "b", *QUICK, "--quiet")
        assert quiet.output == ""
        kept = (tmp_path / "a" / "log.txt").read_text().splitlines()
        assert kept == loud.stdout.splitlines()[: len(kept)] and len(kept) > 5

    def test_overwriting_is_asked_for(self, tmp_path):
        train("--out", tmp_path / "run", *QUICK, "--epochs", 1)
        result = invoke("train", "--out", tmp_path / "run", *QUICK)
        assert result.exit_code == 2 and "exists already; choose another folder, or overwrite it" in result.stderr
        train("--out", tmp_path / "run", *QUICK, "--overwrite")
        assert len(read(tmp_path / "run")[1]) == 2

    def test_tensorboard_gets_metrics_and_pictures(self, tmp_path):
        train("--out", tmp_path / "run", *QUICK, "--tensorboard")
        (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
        content = path.read_bytes()
        assert all(name in content for name in (b"val_elbo", b"images_per_second", b"samples", b"reconstructions"))


class TestResume:
    def test_an_interruption_says_how_to_go_on_and_the_run_ends_alike(self, tmp_path):
        options = (*QUICK, "--epochs", "40", "--patience", "40", "--quiet")
        train("digits", "--out", tmp_path / "whole", *options)
        arguments = [sys.executable, "-m", "pyro_spvae", "train", "digits", "--out", str(tmp_path / "run"), *options]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        running = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
        while not (tmp_path / "run" / "best.pt").exists() and running.poll() is None:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate()
        assert running.returncode == 130, errors
        (line,) = errors.splitlines()
        assert re.fullmatch(
            r"stopped after step \d+, everything is saved; continue with: (pyro-spvae train --resume .*)", line
        )
        assert line.endswith(f"--resume {tmp_path / 'run'}")
        assert invoke("train", "--resume", tmp_path / "run", "--quiet").exit_code == 0
        assert_same(outcome(tmp_path / "run"), outcome(tmp_path / "whole"))
