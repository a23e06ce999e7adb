# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Opening runs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from pyro_spvae.training.run import open_run
from pyro_spvae.training.train import train
from tests.training.cases import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on grey levels, and other data files beside it."""
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    np.save(folder / "grey.npy", random.integers(0, 256, (40, 4, 5), dtype=np.uint8))
    np.save(folder / "other.npy", random.integers(0, 256, (60, 4, 5), dtype=np.uint8))
    np.save(folder / "shape.npy", random.integers(0, 256, (60, 4, 4), dtype=np.uint8))
    np.save(folder / "kind.npy", random.random((60, 4, 5)))
    config = dataclasses.replace(TINY, data=str(folder / "grey.npy"), preprocess="dequantize")
    train(config, folder / "run")
    return folder


def test_a_run_knows_its_model_values_and_data(folder):
    run = open_run(folder / "run")
    assert run.config.data == str(folder / "grey.npy") and run.config.preprocess == "dequantize"
    assert (run.values.low, run.values.high, run.values.scaled_from) == (0, 1, 256)
    assert run.is_image and run.event_shape == (1, 4, 5)
    best = torch.load(folder / "run" / "best.pt", weights_only=True)["model"]
    for key, value in run.spvae.state_dict().items():
        assert torch.equal(value, best[key])
    results = json.loads((folder / "run" / "results.json").read_text())
    assert run.bits_per_dim(results["log_likelihood"]) == pytest.approx(results["bits_per_dim"])


def test_the_data_are_those_of_training(folder):
    data = open_run(folder / "run").data()
    assert (len(data.train), len(data.validation), len(data.test)) == (32, 4, 4)
    again = open_run(folder / "run").data(str(folder / "grey.npy"))
    assert torch.equal(again.test[:], data.test[:])


def test_other_data_are_preprocessed_alike(folder):
    data = open_run(folder / "run").data(str(folder / "other.npy"))
    assert data.values == open_run(folder / "run").values and len(data.test) == 6
    assert 0 < float(data.test[:].min()) and float(data.test[:].max()) < 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shape.npy", r"^data is shape.npy, whose rows have shape \[1, 4, 4\]; the model of .* needs \[1, 4, 5\]$"),
        (
            "kind.npy",
            "^data is kind.npy, with continuous values; the model of .* was trained on 256 grey levels \\(store whole",
        ),
    ],
)
def test_data_of_another_kind_are_refused(folder, name, message):
    with pytest.raises(ValueError, match=message):
        open_run(folder / "run").data(str(folder / name))


def rename_data(run):
    """Has other content in the place of the data."""
    path, text = run / "config.json", (run / "config.json").read_text()
    path.write_text(text.replace("grey.npy", "other.npy"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename_data, "^the data .*other.npy are not those that .* was trained on"),
        (lambda run: (run / "best.pt").unlink(), "has no parameters yet; continue it by train --resume"),
        (lambda run: (run / "best.pt").write_bytes(b"nothing"), "best.pt"),
        (lambda run: (run / "data.json").write_text("{}"), "data.json does not say what the run was trained on"),
        (lambda run: (run / "data.json").write_text("[]"), "data.json does not say"),
        (lambda run: (run / "config.json").write_text('{"lr": "x"}'), "config.json: lr is 'x'; a positive number"),
        (lambda run: (run / "config.json").unlink(), "is no run: it has no config.json"),
    ],
)
def test_what_is_damaged_is_told(folder, tmp_path, spoil, message):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    spoil(run)
    with pytest.raises(ValueError, match=message):
        open_run(run).data()
