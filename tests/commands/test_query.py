# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What all commands that ask a run share: runs, rows, and files that are whole or not there."""

from __future__ import annotations

import dataclasses
import errno
import inspect
import os
import shutil

import numpy as np
import pytest
import torch

from pyro_spvae import commands
from pyro_spvae.commands import evaluate, interpolate, reconstruct, sample
from pyro_spvae.data import load_data
from pyro_spvae.training.run import open_run
from pyro_spvae.training.train import train
from tests.commands.cases import load, names, rows
from tests.commands.test_help import VERBS
from tests.helpers import small_spvae
from tests.training.cases import TINY


class TestRows:
    def test_other_data(self, digits, tmp_path):
        images = np.random.default_rng(0).integers(0, 17, (40, 8, 8), dtype=np.uint8)
        images[0, 0] = np.arange(9, 17)
        np.save(tmp_path / "my images.npy", images)
        path = str(tmp_path / "my images.npy")
        arrays = reconstruct(digits, data=path, num=4, out=tmp_path / "out")
        assert np.array_equal(arrays["original"], images[:4, None])
        assert names(tmp_path / "out") == ["my-images-all.npz", "my-images-all.png"]
        arrays = reconstruct(digits, data=path, split="test", num=4, out=tmp_path / "out")
        assert np.array_equal(arrays["original"], load_data(path, seed=5).test[:4].numpy())
        assert {"my-images-test.npz", "my-images-test.png"} < set(names(tmp_path / "out"))

    def test_the_runs_own_data_by_name_or_by_another_way_to_the_file(self, digits, table, tmp_path, monkeypatch):
        own = reconstruct(digits, num=2, out=tmp_path / "a")
        named = reconstruct(digits, num=2, data="digits", out=tmp_path / "b")
        assert np.array_equal(own["original"], named["original"])
        assert names(tmp_path / "a") == names(tmp_path / "b") == ["test.npz", "test.png"]
        monkeypatch.chdir(table.parent)
        reconstruct(table, num=2, data="measured.npy", out=tmp_path / "c")
        assert names(tmp_path / "c") == ["all.npz"]

    def test_rows_are_preprocessed_as_in_training(self, tmp_path):
        train(dataclasses.replace(TINY, epochs=1, likelihood="normal", preprocess="dequantize"), tmp_path / "run")
        arrays = reconstruct(tmp_path / "run", out=tmp_path / "out")
        grey = load_data("digits", seed=0).test[:16]
        assert np.array_equal(np.floor(arrays["original"] * 17), grey.numpy())
        assert len(np.unique(arrays["original"])) > 900, "noise"
        assert (float(arrays["low"]), float(arrays["high"])) == (0.0, 1.0)
        assert np.array_equal(arrays["original"], rows(tmp_path / "run")[:16].numpy())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"split": "half"}, r"^split is 'half'; accepted are test, validation, train, all$"),
            ({"data": "digitz"}, r"^'digitz' is no known data set; did you mean digits"),
            ({"data": "table"}, r"rows have shape \[5\]; the model of .* needs \[1, 8, 8\]"),
            ({"num": 251}, r"^num is 251, but the split test of digits has 250 rows$"),
            ({"seed": -1}, r"^seed is -1; an integer from 0 to 2\^63 - 1 is needed$"),
            ({"seed": 2**63}, r"an integer from 0 to 2\^63 - 1 is needed$"),
            ({"device": "gpu"}, r"^device is 'gpu'; accepted are"),
            ({"device": "cuda:99"}, r"^device is 'cuda:99', but torch finds"),
        ],
    )
    def test_refusals(self, digits, table, tmp_path, options, message):
        if options.get("data") == "table":
            options = {"data": str(table.parent / "measured.npy")}
        with pytest.raises(ValueError, match=message) as caught:
            reconstruct(digits, out=tmp_path / "out", **options)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()

    @pytest.mark.parametrize("verb", VERBS)
    def test_sizes_are_positive_integers(self, digits, tmp_path, verb):
        function, needed = getattr(commands, verb), {"observed": "left"} if verb == "impute" else {}
        sizes = {"num", "samples", "particles", "chunk_size", "completions", "steps", "panels", "grid"}
        for name in sizes & inspect.signature(function).parameters.keys():
            for value in (0, -1, True, 1.5):
                with pytest.raises(ValueError, match=f"^{name} is {value}; a"):
                    function(digits, out=tmp_path / "out", **needed, **{name: value})
        assert not (tmp_path / "out").exists()

    def test_pairs_of_a_single_row(self, digits, tmp_path):
        one = np.zeros((1, 8, 8), dtype=np.uint8)
        one[0, 0, 0] = 16
        many = np.repeat(one, 9, 0)
        np.savez(tmp_path / "one.npz", train=many, validation=many, test=one)
        with pytest.raises(ValueError, match=r"^num is 1 pairs, but the split test of .* has 1 rows$"):
            interpolate(digits, data=str(tmp_path / "one.npz"), split="test", out=tmp_path / "out")
        results = evaluate(digits, data=str(tmp_path / "one.npz"), split="test", out=tmp_path / "out")
        assert results["rows"] == 1 and results["standard_error"] is None


class TestRuns:
    def test_a_run_that_was_fitted_from_python(self, tmp_path):
        spvae = small_spvae().float()
        x = torch.rand(40, 1, 2, 2, dtype=torch.float32)
        spvae.fit(x, out=tmp_path / "run", epochs=1, batch_size=16)
        arrays = sample(tmp_path / "run", num=5)
        assert arrays["samples"].shape == (5, 1, 2, 2)
        assert 0 <= float(arrays["low"]) < float(arrays["high"]) <= 1
        with pytest.raises(ValueError, match="does not know its data; give --data"):
            reconstruct(tmp_path / "run")
        np.save(tmp_path / "mine.npy", x[:, 0].numpy())
        found = reconstruct(tmp_path / "run", data=str(tmp_path / "mine.npy"), num=2)
        assert found["original"].shape == (2, 1, 2, 2)
        stems = {path.stem for path in (tmp_path / "run" / "reconstruct").iterdir()}
        assert stems == {"mine-all"}, "never the name that own data would have"
        assert evaluate(tmp_path / "run", data=str(tmp_path / "mine.npy"), samples=5)["rows"] == 40
        assert evaluate(tmp_path / "run", data=str(tmp_path / "mine.npy"), split="test", samples=5)["rows"] == 4

    def test_several_processes_are_for_evaluate(self, digits, tmp_path, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        with pytest.raises(ValueError, match="^sample runs in one process, but several were launched"):
            sample(digits, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_the_device_of_the_run_by_default(self, digits, tmp_path):
        assert open_run(digits).config.device == "cpu"
        run = shutil.copytree(digits, tmp_path / "run", ignore=shutil.ignore_patterns("*.png", "*.npz"))
        text = (run / "config.json").read_text()
        (run / "config.json").write_text(text.replace('"device": "cpu"', '"device": "cuda:99"'))
        with pytest.raises(ValueError, match="device is 'cuda:99', but torch finds"):
            sample(run)
        assert sample(run, device="cpu", num=1)["samples"].shape == (1, 1, 8, 8)


class TestFiles:
    def test_a_file_in_the_way(self, digits, tmp_path):
        (tmp_path / "file").touch()
        for out in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(ValueError, match=r"^out is .*file.*, but .*file is no folder$"):
                sample(digits, out=out)

    def test_a_folder_that_is_not_writable(self, digits, tmp_path, monkeypatch):
        def refuse(*args, **options):
            raise PermissionError

        monkeypatch.setattr(os, "mkdir", refuse)  # whoever asks, and whatever permissions say
        with pytest.raises(ValueError, match=r"^out is .*new, but the folder .* is not writable$"):
            sample(digits, out=tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_a_full_disk_leaves_what_was_there(self, digits, tmp_path, monkeypatch):
        sample(digits, num=3, out=tmp_path)
        before = load(tmp_path / "samples.npz")

        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(ValueError, match=r"samples.npz cannot be written: No space left on device"):
                sample(digits, num=4, out=tmp_path)
        assert names(tmp_path) == ["samples.npz", "samples.png"]
        assert np.array_equal(before["samples"], load(tmp_path / "samples.npz")["samples"])


def test_numbers_of_numpy(digits, tmp_path):
    same, other = (sample(digits, num=np.int64(2), seed=seed, out=tmp_path) for seed in (np.uint8(3), np.int64(4)))
    assert np.array_equal(same["samples"], sample(digits, num=2, seed=3, out=tmp_path)["samples"])
    assert not np.array_equal(same["samples"], other["samples"])
    for seed in (np.int64(-1), np.bool_(True), np.float64(3)):
        with pytest.raises(ValueError, match=r"^seed is .*; an integer from 0 to 2\^63 - 1 is needed$"):
            sample(digits, seed=seed, out=tmp_path)
