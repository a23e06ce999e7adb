# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One process at a time trains in a run folder."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import torch

from pyro_spvae import SPVAE, whole
from pyro_spvae.likelihoods import Normal
from pyro_spvae.training import run_lock
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.run_lock import trained_by_one
from pyro_spvae.training.train import resume, train
from tests.cli_cases import Forked
from tests.training.cases import TINY, stopped_after

pytestmark = pytest.mark.skipif(run_lock.fcntl is None, reason="needs locks of files")
MESSAGE = "^the run .*run is being trained by another process; wait for it, or stop it$"


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", {}, {})


def names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_a_second_one_is_refused_and_nothing_is_left(folder):
    before = names(folder)
    with trained_by_one(folder.path):
        assert names(folder) == before
        with pytest.raises(ValueError, match=MESSAGE), trained_by_one(folder.path):
            pass
    with trained_by_one(folder.path):
        assert names(folder) == before


def test_an_error_gives_it_free(folder):
    with pytest.raises(KeyError), trained_by_one(folder.path):
        raise KeyError
    with trained_by_one(folder.path):
        assert folder.path.exists()


def hold(path, ready):
    """Trains for ever."""
    with trained_by_one(path):
        ready.touch()
        time.sleep(600)


def test_one_that_is_killed_gives_it_free(folder, tmp_path):
    assert Forked(hold, folder.path, tmp_path / "ready", after=5).codes == [-9] and (tmp_path / "ready").exists()
    with trained_by_one(folder.path):
        assert folder.path.exists()


def test_a_run_is_neither_resumed_nor_replaced_while_it_is_trained(tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(40, 3)))
    config = dataclasses.replace(TINY, data=str(tmp_path / "data.npy"))
    with stopped_after(2):
        train(config, tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with trained_by_one(tmp_path / "run"):
        with pytest.raises(ValueError, match=MESSAGE):
            resume(tmp_path / "run")
        with pytest.raises(ValueError, match=MESSAGE):
            train(config, tmp_path / "run", overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_training_holds_it(tmp_path, monkeypatch):
    """Of a new run, and of one that goes on."""
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(40, 3)))
    refused = []

    def look(job, *args):
        with pytest.raises(ValueError, match=MESSAGE), trained_by_one(tmp_path / "run"):
            pass
        refused.append(True)

    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", look)
    config = dataclasses.replace(TINY, data=str(tmp_path / "data.npy"))
    with stopped_after(2):
        train(config, tmp_path / "run")
    resume(tmp_path / "run")
    assert refused


def test_fitting_holds_it_and_asks_for_it(tmp_path):
    """Of a new run, of one that goes on, and of one that another process has."""
    x, out, refused = torch.rand(30, 1, 4, 4), tmp_path / "run", []

    def look(line):
        with pytest.raises(ValueError, match=MESSAGE), trained_by_one(out):
            pass
        refused.append(line)

    spvae = SPVAE(whole((4, 4)), units=1, likelihood=Normal(), latent_dim=1, hidden_dims=(3,))
    spvae.fit(x, epochs=1, out=out, report=look)
    spvae.fit(x, epochs=3, out=out, resume=True, report=look)
    assert len(refused) >= 2
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with trained_by_one(out), pytest.raises(ValueError, match=MESSAGE):
        spvae.fit(x, epochs=4, out=out, resume=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_without_locks_there_are_none(folder, monkeypatch):
    monkeypatch.setattr(run_lock, "fcntl", None)
    with trained_by_one(folder.path), trained_by_one(folder.path):
        assert folder.path.exists()
