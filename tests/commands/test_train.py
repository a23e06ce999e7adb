# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The command line, as its users see it: files, figures, messages and exit codes."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_spvae.models import SPVAE
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.trainer import Trainer
from tests.cli_cases import FILES, QUICK, Forked, command, invoke, refused, train, write_files
from tests.training.cases import assert_same_outcome, likelihood_again

ALWAYS = {"learning_curve.png", "log_likelihoods.png"}
PICTURES = ALWAYS | {"samples.png", "means.png", "reconstructions.png"}
METRICS = dict.fromkeys(
    ("elbo val_elbo val_leaf_elbo val_reconstruction val_latent_kl val_tree_kl lr seconds step_seconds ".split())
    + ["images_per_second"],
    float,
) | {"epoch": int, "step": int}
OWN_PART = """
import torch, pyro.distributions as dist
from pyro_spvae.priors import Prior

class Wide(Prior):
    def __init__(self, scale=2.0):
        super().__init__()
        self.scale = scale
    def build(self, leaves, event_shape):
        self.loc = torch.nn.Parameter(torch.zeros(leaves, *event_shape))
    def forward(self):
        return dist.Normal(self.loc, self.scale).to_event(1)
"""


def read(run):
    """Configuration, metrics and results of a run folder."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    config, results = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "results"))
    return config, [json.loads(line) for line in lines], results


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path / "data")


class TestTrain:
    def test_the_folder_holds_what_is_promised_and_nothing_else(self, trained):
        run, _, files = trained
        assert files == FILES - {"figures"} | {f"figures/{name}" for name in PICTURES}
        for name in PICTURES:
            assert (run / "figures" / name).read_bytes().startswith(b"\x89PNG")

    def test_the_configuration_has_the_options_and_what_was_chosen(self, digits):
        config, _, _ = read(digits)
        assert config.keys() == {field.name for field in dataclasses.fields(TrainConfig)}
        given = {"data": "digits", "epochs": 2, "samples": 10, "hidden": [8], "units": 2, "latent_dim": 3, "seed": 5}
        assert config | given == config
        assert (config["structure"], config["leaves"], config["alpha"]) == ("poon-domingos", 2, None)
        assert config["delta"] and config["likelihood"] != "auto" and config["preprocess"] == "integers"

    def test_the_data_are_recorded(self, digits):
        record = json.loads((digits / "data.json").read_text())
        assert record["rows"] == {"train": 1297, "validation": 250, "test": 250} and record["split_seed"] == 5
        assert record["values"]["levels"] == 17 and record["event_shape"] == [1, 8, 8]

    def test_metrics_have_the_schema(self, digits):
        _, metrics, _ = read(digits)
        assert [line["epoch"] for line in metrics] == [1, 2]
        assert [line["step"] for line in metrics] == [11, 22]  # 1,297 rows in batches of at most 128
        for line in metrics:
            assert {key: type(value) for key, value in line.items()} == METRICS
            assert all(math.isfinite(value) for value in line.values())
            assert line["val_tree_kl"] >= 0 and line["images_per_second"] > 0 and line["lr"] == 0.005
            parts = line["val_reconstruction"] - line["val_latent_kl"] - line["val_tree_kl"]
            assert line["val_leaf_elbo"] == pytest.approx(parts, abs=1e-3)
        assert metrics[-1]["val_elbo"] > metrics[0]["val_elbo"]
        assert 0 < metrics[0]["seconds"] < metrics[1]["seconds"]

    def test_results_are_those_of_the_best_checkpoint(self, digits):
        _, metrics, results = read(digits)
        assert likelihood_again(digits) == results["log_likelihood"]
        assert results["best_epoch"] == max(metrics, key=lambda line: line["val_elbo"])["epoch"]
        assert (results["rows"], results["samples"], results["seed"]) == (250, 10, 5)
        assert results["bits_per_dim"] == pytest.approx(-results["log_likelihood"] / (64 * math.log(2)))
        assert results["versions"]["torch"] == torch.__version__

    def test_what_is_printed(self, trained):
        run, printed, _ = trained
        _, metrics, results = read(run)
        text, lines = printed.stdout, printed.stdout.splitlines()
        assert printed.stderr == ""
        assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["1", "2"]
        error = f"{results['log_likelihood']:.2f} +- {results['standard_error']:.2f} nats (250 rows, 10 samples)"
        assert f"log-likelihood {error}, {results['bits_per_dim']:.3f} bits/dim" in lines[-2]
        assert str(run) in lines[-1]
        assert lines[-3] == (
            f"latent z    KL {results['kl']['z']:.2f} = cross-entropy {results['cross_entropy']['z']:.2f} - entropy "
            f"{results['entropy']['z']:.2f} nats, {results['active_units']['z']} active unit"
        ) + ("" if results["active_units"]["z"] == 1 else "s")
        first, announced, last = (line for line in lines if line.startswith(("pictures", "evaluating")))
        assert all(name in first for name in PICTURES - {"log_likelihoods.png"})
        assert first.endswith(str(run / "figures"))
        assert last == f"pictures    log_likelihoods.png in {run / 'figures'}"
        assert re.fullmatch(r"evaluating  250 rows with 10 samples, about \d+ s", announced)
        assert not any(line.startswith("note") for line in lines), "the number was given"
        assert f"{results['parameters']:,} parameters" in text and "likelihood  " in text and "leaf_regions" in text
        kept = (run / "log.txt").read_text().splitlines()
        assert kept == lines[: len(kept)] and len(kept) > 5

    @pytest.mark.parametrize(
        ("name", "structure", "bits", "dimensions"),
        [
            ("grey.npy", "poon-domingos", None, 30),
            ("colour.npz", "poon-domingos", 0, 90),
            ("table.npy", "random-binary-tree", None, 5),
            ("column.npy", "whole", None, 1),
            ("pair.npy", "poon-domingos", None, 32),
            ("mixed.csv", "random-binary-tree", None, 3),
        ],
    )
    def test_files_of_every_kind(self, files, tmp_path, name, structure, bits, dimensions):
        run = tmp_path / "run"
        train(files / name, "--out", run, *QUICK)
        config, metrics, results = read(run)
        assert {path.name for path in run.iterdir()} == FILES
        images = name not in ("table.npy", "column.npy", "mixed.csv")
        assert {path.name for path in (run / "figures").iterdir()} == (PICTURES if images else ALWAYS)
        likelihood = "columns" if not images else "normal" if bits is None else "low-rank-categorical"
        assert (config["structure"], config["likelihood"], len(metrics)) == (structure, likelihood, 2)
        assert likelihood_again(run) == results["log_likelihood"]
        expected = None if bits is None else -results["log_likelihood"] / (dimensions * math.log(2)) + bits
        assert results["bits_per_dim"] == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("likelihood", "bits"),
        [
            ("categorical", 0),
            ("discretized-logistic-mixture(levels=17,components=3)", 0),
            ("normal", math.log2(17)),
        ],
    )
    def test_likelihoods_of_grey_levels(self, tmp_path, likelihood, bits):
        train("--out", tmp_path / "run", *QUICK, "--likelihood", likelihood, "--epochs", 1)
        config, _, results = read(tmp_path / "run")
        bits -= results["log_likelihood"] / (64 * math.log(2))
        assert config["likelihood"] == likelihood and results["bits_per_dim"] == pytest.approx(bits)

    def test_options_reach_the_run_quietly(self, files, tmp_path):
        options = "--objective vr-max --networks shared --structure quad-tree --delta 3 --leaves 3 --activation tanh"
        options = [*options.split(), "--hidden", "", *"--lr 0.01 --patience 3 --particles 4 --epochs 1".split()]
        printed = train(files / "grey.npy", "--out", tmp_path / "run", *QUICK, *options, "--tensorboard", "--quiet")
        config, metrics, _ = read(tmp_path / "run")
        expected = {"objective": "vr-max", "networks": "shared", "structure": "quad-tree", "delta": 3, "leaves": 3}
        expected |= {"hidden": [], "activation": "tanh", "lr": 0.01, "patience": 3, "particles": 4}
        assert config | expected == config and metrics[0]["lr"] == 0.01 and printed.output == ""
        (path,) = (tmp_path / "run").glob("events.out.tfevents.*")
        content = path.read_bytes()
        assert all(name in content for name in (b"val_elbo", b"images_per_second", b"samples", b"reconstructions"))

    def test_a_chow_liu_tree_of_a_table(self, files, tmp_path):
        arguments = ("--structure", "chow-liu", "--block", 2, "--epochs", 1)
        train(files / "mixed.csv", "--out", tmp_path / "run", *QUICK, *arguments)
        config, _, results = read(tmp_path / "run")
        assert (config["structure"], config["block"], config["weights"]) == ("chow-liu", 2, "cp")
        assert likelihood_again(tmp_path / "run") == results["log_likelihood"]
        told = invoke("info", tmp_path / "run").output
        assert re.search(r"^structure +chow-liu, block 2$", told, flags=re.MULTILINE)
        assert re.search(r"^weights +cp$", told, flags=re.MULTILINE)
        told = refused("train", files / "mixed.csv", "--out", tmp_path / "other", *QUICK, *arguments[:2], "--block", 0)
        assert "block" in told and not (tmp_path / "other").exists()

    def test_overwriting_is_asked_for(self, files, tmp_path):
        arguments = (files / "table.npy", "--out", tmp_path / "run", *QUICK)
        train(*arguments, "--epochs", 1)
        assert "exists already; choose another folder, or overwrite it" in refused("train", *arguments)
        train(*arguments, "--overwrite")
        assert len(read(tmp_path / "run")[1]) == 2


class TestConfiguration:
    @pytest.fixture
    def asked(self, monkeypatch):
        """What the functions behind the commands are called with, instead of being run."""
        seen = []
        for name in ("train.train", "demo.demo"):
            monkeypatch.setattr(f"pyro_spvae.training.{name}", lambda *args, **options: seen.append((args, options)))
        return seen

    def test_defaults_arrive(self, asked):
        assert invoke("train", "--out", "runs/x").exit_code == 0
        assert asked[0][0] == (TrainConfig(), Path("runs/x"))

    def test_flags_win_over_the_file_and_the_file_over_defaults(self, asked, tmp_path):
        (tmp_path / "c.json").write_text('{"lr": 0.5, "epochs": 7, "hidden": [3]}')
        assert invoke("train", "--config", tmp_path / "c.json", "--lr", 0.25, "--out", "x").exit_code == 0
        assert asked[0][0][0] == TrainConfig(lr=0.25, epochs=7, hidden=(3,))

    def test_demo_hands_its_options_on(self, asked, tmp_path):
        assert invoke("demo", "--out", tmp_path / "x", "--seed", 3).exit_code == 0
        ((out,), options) = asked[0]
        assert (out, options["seed"]) == (tmp_path / "x", 3)

    def test_a_runs_configuration_makes_the_same_run(self, digits, tmp_path):
        train("--config", digits / "config.json", "--out", tmp_path / "again")
        assert_same_outcome(tmp_path / "again", digits)
        assert read(tmp_path / "again")[0] == read(digits)[0]

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


class TestDiscrete:
    """Discrete VAEs, and estimators of gradients through their bits."""

    SMALL = ("--epochs", 1, "--samples", 10, "--structure", "whole", "--units", 1, "--particles", 1)

    @pytest.mark.parametrize("estimator", ["nvil(hidden_dims=(4,))", "muprop", "rebar", "concrete", "straight-through"])
    def test_is_trained(self, tmp_path, estimator):
        bits = ("--leaf", "discrete-vae(latent_dim=6,smoothing=none)", "--objective", "elbo")
        printed = train("digits", "--out", tmp_path / "run", *self.SMALL, *bits, "--estimator", estimator).stdout
        config, _, results = read(tmp_path / "run")
        assert (config["estimator"], config["prior"], config["guide"]) == (estimator, "independent-bits", "discrete")
        assert (config["latent_dim"], math.isfinite(results["log_likelihood"])) == (6, True)
        again = train("digits", "--out", tmp_path / "again", *self.SMALL, *bits, "--estimator", estimator).stdout
        assert_same_outcome(tmp_path / "run", tmp_path / "again")
        assert "log-likelihood" in printed and again

    def test_of_a_machine_figures_state_the_normaliser(self, tmp_path):
        leaf = (
            "discrete-vae(latent_dim=6,prior=boltzmann-machine(chains=10,sweeps=1),smoothing=exponential(beta=(5,12)))"
        )
        bits = ("--leaf", leaf, "--guide", "discrete(groups=2)", "--objective", "elbo", "--kl", "analytic")
        printed = train("digits", "--out", tmp_path / "run", *self.SMALL, *bits).stdout
        assert re.search(r"^log Z +\d+\.\d\d exact$", printed, re.MULTILINE)
        spvae = SPVAE.load(tmp_path / "run")
        assert spvae.leaf_guide.z.groups == 2 and float(spvae.leaf.smoothing.beta) > 5
        (stated,) = read(tmp_path / "run")[2]["stated"].values()
        assert stated["log_z"] == pytest.approx(float(spvae.leaf.prior.log_z.mean()), abs=1e-5)

    def test_hidden_layers_are_those_of_all_groups(self, tmp_path):
        bits = ("--leaf", "discrete-vae(latent_dim=6)", "--guide", "discrete(groups=3)", "--hidden", "7,5")
        train("digits", "--out", tmp_path / "run", *self.SMALL, *bits, "--activation", "relu")
        bits = SPVAE.load(tmp_path / "run").leaf_guide.z
        networks = [bits.network, *bits.further]
        assert [(one.hidden_dims, one.activation) for one in networks] == [((7, 5), "relu")] * 3

    def test_a_leafs_and_a_guides_own_options_describe_their_networks(self, tmp_path):
        bits = ("--leaf", "discrete-vae(normalise=True)", "--guide", "discrete(normalise=True)", "--hidden", "7")
        train("digits", "--out", tmp_path / "run", *self.SMALL, *bits)
        spvae = SPVAE.load(tmp_path / "run")
        for network in (spvae.leaf.pixels.decoder, spvae.leaf_guide.z.network):
            assert (network.normalise, network.hidden_dims, network.activation) == (True, (32, 32), "tanh")
        assert spvae.latents["z"].event_shape == (16,)


class TestProcesses:
    """What the program does in a process of its own."""

    def test_a_users_own_parts_by_name_lie_in_the_current_folder(self, files, tmp_path):
        (tmp_path / "my_parts.py").write_text(OWN_PART)
        prior = "my_parts:Wide(scale=3.0)"
        arguments = ("train", files / "table.npy", "--out", "run", *QUICK, "--prior", prior)
        assert Forked(command, *arguments, cwd=tmp_path).succeed().stderr == ""
        config, _, results = read(tmp_path / "run")
        assert config["prior"] == prior and math.isfinite(results["log_likelihood"])
        assert Forked(describe_prior, "run", cwd=tmp_path).succeed().stdout == "Wide 3.0\n"

    def test_an_interruption_says_how_to_go_on_and_the_run_ends_alike(self, digits, tmp_path):
        run = tmp_path / "run"
        ended = Forked(interrupted, "train", "--config", digits / "config.json", "--out", run, "--quiet")
        assert (ended.codes, ended.stdout) == ([130], "")
        message = rf"stopped after step 16, everything is saved; continue with: pyro-spvae train --resume {run}\n"
        assert re.fullmatch(message, ended.stderr)
        assert invoke("train", "--resume", run, "--quiet").exit_code == 0
        assert_same_outcome(run, digits)

    def test_a_refusal(self, files, tmp_path):
        ended = Forked(command, "train", files / "nan.npy", "--out", tmp_path / "run")
        assert (ended.codes, ended.stdout) == ([2], "")
        assert ended.stderr.startswith("Error: ") and ended.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()


def describe_prior(run):
    sys.path.append("")
    prior = SPVAE.load(run).leaf.prior
    print(type(prior).__name__, prior.scale)


def interrupted(*args):
    """The program, to which Ctrl-C is sent in the middle of the second epoch."""
    advance = Trainer._advance

    def signalled(trainer, *rest):
        if trainer.step == 15:
            signal.raise_signal(signal.SIGINT)
        return advance(trainer, *rest)

    Trainer._advance = signalled
    command(*args)


def test_quiet_training_prints_no_notes(tmp_path):
    """Such as those of a column that holds one value."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "table.npy", np.column_stack([random.normal(size=(40, 2)), np.ones(40)]))
    options = ("--structure", "chow-liu", "--epochs", "1", "--out")
    spoken = Forked(command, "train", tmp_path / "table.npy", *options, tmp_path / "again")
    silent = Forked(command, "train", tmp_path / "table.npy", *options, tmp_path / "still", "--quiet")
    assert "note  " in spoken.stdout + spoken.stderr and not silent.stdout + silent.stderr
