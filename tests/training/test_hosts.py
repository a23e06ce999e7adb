# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two hosts against one; one of them is lost."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyro_spvae.training.run_folder import RunFolder
from tests.cli_cases import FILES, Forked, command
from tests.training.cases import assert_same_outcome
from tests.training.hosts import ADDRESSES, INTERFACE, NAMES, Hosts
from tests.training.killer import CONFIG, STEPS, act


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with Hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The configuration of a run, and that run by two processes on one host."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(0, 100, (120, 4, 4), dtype=np.uint8))
    config = CONFIG.to_dict() | {"data": str(folder / "data.npy")}
    (folder / "config.json").write_text(json.dumps(config))
    Forked(act, None, *train(folder, "whole"), number=2).succeed()
    return folder


def train(folder, name):
    return command, "train", "--config", folder / "config.json", "--out", folder / name


def results_of(path):
    """What an evaluation wrote, without what depends on where it was."""
    results = json.loads((path / "test.json").read_text())
    with np.load(path / "test.npz") as arrays:
        return results.pop("processes"), results.pop("seconds"), results, dict(arrays)


def test_two_hosts_train_as_one(hosts, folder):
    ended = hosts.torchrun("pyro_spvae", *train(folder, "run")[1:])
    assert [code for code, _ in ended.values()] == [0, 0], ended
    assert_same_outcome(folder / "run", folder / "whole")
    assert {path.name for path in (folder / "run").iterdir()} == FILES
    told, silent = (output for _, output in ended.values())
    assert told.count("written to ") == 1 and "log-likelihood" in told
    assert not any(word in silent for word in ("data ", "epoch", "log-likelihood", "written to"))


def test_a_host_that_is_lost_ends_the_run_which_goes_on(hosts, folder):
    """First one of them, then, after it was resumed, the other one, where the hosts met."""
    run = folder / "lost"
    how = (train(folder, "lost")[1:], ("train", "--resume", run))
    for lost, other, command_line in zip(reversed(NAMES), NAMES, how, strict=True):
        ended = hosts.torchrun("tests.training.lost_host", lost, STEPS + 3, *command_line)
        code, output = ended[other]
        assert ended[lost][0] == -9 and code == 1, ended
        line = next(line for line in output.splitlines() if line.startswith("Error: "))
        assert f"lost the others (Read error [{ADDRESSES[lost]}]" in line or "Connection closed" in line
        assert line.endswith(f"start all of them again with: pyro-spvae train --resume {run}")
        assert "[rank" not in output, "no traceback of ours"
        assert not RunFolder(run).is_finished
    before = [line["epoch"] for line in RunFolder(run).read_metrics()]
    ended = hosts.torchrun("pyro_spvae", *how[1])
    assert [code for code, _ in ended.values()] == [0, 0], ended
    assert before == [1, 2] and f"resuming    {run} after step {2 * STEPS}" in ended[NAMES[0]][1]
    assert_same_outcome(run, folder / "whole")
    assert {path.name for path in run.iterdir()} == FILES


def test_evaluation_is_that_of_one_process(hosts, folder):
    """By hosts that find themselves under loopback addresses, so that they must be told of their interface."""
    evaluate = ("evaluate", folder / "whole", "--out")
    ended = hosts.torchrun("pyro_spvae", *evaluate, folder / "two", names="loopback", GLOO_SOCKET_IFNAME=INTERFACE)
    assert [code for code, _ in ended.values()] == [0, 0], ended
    Forked(command, *evaluate, folder / "one").succeed()
    processes, _, *found = results_of(folder / "two")
    alone, _, *wanted = results_of(folder / "one")
    assert (processes, alone) == (2, 1) and found[0] == wanted[0]
    assert found[1].keys() == wanted[1].keys()
    assert np.array_equal(found[1]["log_likelihood"], wanted[1]["log_likelihood"])
    assert all(np.allclose(found[1][name], wanted[1][name]) for name in wanted[1])
