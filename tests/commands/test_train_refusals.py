# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Bad input on the command line: exit code 2, one sentence on stderr, nothing made."""

from __future__ import annotations

import math
import re

import pytest
import torch

from pyro_spvae.training.trainer import Trainer
from tests.cli_cases import FILES, QUICK, invoke, python, write_files


@pytest.fixture
def files(tmp_path):
    return write_files(tmp_path / "data")


class TestRefusals:
    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["nosuch"], "'nosuch' is no known data set; give one of "),
            (["digits", "--delta", 0], "delta is 0; a positive integer is needed"),
            (["digits", "--delta", 9], "delta .* 8.* 9"),
            (["digits", "--particles", 0], "particles is 0; a positive integer is needed"),
            (["digits", "--hidden", "8,x"], "hidden is '8,x'; positive integers separated by commas"),
            (["digits", "--hidden", "8,,8"], "hidden is '8,,8'; positive integers separated by commas"),
            (["digits", "--hidden", "8,0"], r"hidden is \[8, 0\]; positive integers"),
            (
                ["digits", "--likelihood", "bernoulli"],
                "likelihood is 'bernoulli', but the values of digits are not only 0 and 1",
            ),
            (
                ["digits", "--likelihood", "gauss"],
                "likelihood is 'gauss'; known are bernoulli, binomial, categorical, discretized-logistic, normal, or "
                "package.module:Class",
            ),
            (["digits", "--structure", "whole", "--delta", 2], "delta is 2, but the structure whole has no cells"),
            (["digits", "--seed", "-1"], "seed is -1; an integer of at least 0"),
            (["digits", "--lr", "nan"], "lr is nan; a positive number"),
            (["digits", "--alpha", "nan"], "alpha is nan; a finite number"),
            (["digits", "--alpha", "1"], "alpha is the order of the objective 'renyi'"),
            (["digits", "--gradient", "dreg", "--objective", "elbo"], "gradient is 'dreg', which needs the objective"),
            (
                ["digits", "--device", "cuda"],
                "device is 'cuda', but torch finds no CUDA devices here; give --device cpu",
            ),
            (["digits", "--device", "gpu"], "device is 'gpu'; accepted are auto, cpu, cuda"),
            (["digits", "--prior", "norm"], "prior is 'norm'; "),
            (["digits", "--prior", "nosuch_module:Prior"], "prior is 'nosuch_module:Prior', which cannot be imported"),
            (["digits", "--prior", "os:system"], "prior is 'os:system'; a subclass of .*Prior is needed"),
            (["digits", "--guide", "normal(width=3)"], "guide normal has no option width; its options are hidden_dims"),
            (["digits", "--preprocess", "paper", "--likelihood", "binomial"], "likelihood is 'binomial', but"),
            (["{files}/grey.npy", "--preprocess", "dequantize"], "preprocess is 'dequantize'"),
            (["digits", "--config", "{files}/none.json"], "the file .*none.json cannot be read: No such file"),
            (
                ["digits", "--config", "{files}/key.json"],
                "the configuration .*key.json has the unknown key 'latentdim'; did",
            ),
            (
                ["digits", "--config", "{files}/type.json"],
                "the configuration .*type.json: units is 'four'; a positive int",
            ),
            (["digits", "--config", "{files}/grey.npy"], "the file .*grey.npy is no valid JSON"),
            (["--resume", "{files}"], "--out is given, but --resume continues a run with its own folder"),
            (["digits", "--epochs", "two"], "Invalid value for '--epochs'.*integer"),
            (["digits", "--epochs", "1.5"], "Invalid value for '--epochs'.*integer"),
            (["digits", "--nosuch"], "No such option.* --nosuch"),
            (["digits", "surplus"], ".*unexpected extra argument.*surplus"),
            (["mnist"], "data_dir is not given, but mnist needs it"),
            (["mnist", "--data-dir", "{files}"], "mnist needs the file train-images-idx3-ubyte"),
            (
                ["{files}/grey.npy", "--likelihood", "binomial"],
                "likelihood is 'binomial', but the values of grey.npy are continuous",
            ),
            (["{files}/nan.npy"], ".*nan.npy.* 1 NaN or infinite"),
            (["{files}/none.npy"], ".*none.npy has the shape .*must not be empty"),
            (["{files}/empty.npy"], ".*empty.npy cannot be read"),
            (["{files}/pickle.npy"], ".*pickle.npy cannot be read as NumPy arrays of numbers .*objects"),
            (["{files}/absent.npy"], "there is no data file .*absent.npy"),
            (["{files}/table.npy", "--depth", 9], "depth .*5.* 9"),
            (["{files}/huge.npy"], "the bound became (nan|-inf) at step 1.*; nothing was kept; .* data scaled to"),
            (
                ["digits", "--lr", "1e30"],
                "the .* became nan at step [0-9]+ .*; nothing was kept; try a smaller lr than 1e",
            ),
        ],
    )
    def test_one_sentence_and_nothing_else(self, files, tmp_path, args, message):
        before = sorted(tmp_path.rglob("*"))
        args = [str(arg).replace("{files}", str(files)) for arg in args]
        result = invoke("train", "--out", tmp_path / "run", *QUICK, *args)
        assert (result.exit_code, result.stdout.count("Error")) == (2, 0)
        (line,) = result.stderr.splitlines()
        assert re.match(f"Error: {message}", line), line
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_existing_folder_is_left_alone(self, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine").write_text("kept")
        result = invoke("train", "--out", tmp_path / "run", *QUICK)
        assert result.exit_code == 2 and result.stdout == ""
        assert re.fullmatch(
            "Error: out is .*run, which exists already; choose another folder, or overwrite it\n", result.stderr
        )
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        result = invoke("train", "--out", tmp_path / "file" / "run", *QUICK)
        assert result.exit_code == 2
        assert re.fullmatch(
            "Error: the run folder .*run cannot be made: (Not a directory|File exists)\n", result.stderr
        )

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (["train"], "--out is missing; give the folder to make for the run"),
            (["trian"], "No such command 'trian'."),
            (["--nosuch"], "No such option: --nosuch"),
            (["demo", "--seed", "x"], "Invalid value for '--seed'"),
            (["demo", "--seed", "-1"], "seed is -1; an integer of at least 0"),
        ],
    )
    def test_wrong_usage(self, args, message):
        result = invoke(*args)
        assert result.exit_code == 2 and result.stdout == ""
        assert result.stderr.startswith(f"Error: {message}") and result.stderr.count("\n") == 1

    def test_divergence_keeps_the_checkpoints_and_says_where(self, files, tmp_path, monkeypatch):
        advance = Trainer._advance

        def diverging(trainer, *args):
            if trainer.epoch == 1:
                torch.nn.init.constant_(trainer.spvae.leaf.pixels.decoder.stacks[0].biases[0], math.nan)
            return advance(trainer, *args)

        monkeypatch.setattr(Trainer, "_advance", diverging)
        result = invoke("train", files / "table.npy", "--out", tmp_path / "run", *QUICK)
        assert result.exit_code == 2
        place = "leaf.pixels.decoder.stacks.0.biases.0"
        assert re.fullmatch(
            rf"Error: the bound became nan at step 2 \(values of {place} are not finite\); "
            rf"the last good parameters are in {tmp_path}/run/last.pt; try .*\n",
            result.stderr,
        )
        assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"results.json"}
        assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["epoch"] == 1

    def test_in_a_process_of_its_own(self, files, tmp_path):
        result = python("-m", "pyro_spvae", "train", str(files / "nan.npy"), "--out", str(tmp_path / "run"))
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
        assert not (tmp_path / "run").exists()
