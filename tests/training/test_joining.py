# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Processes that do not join, are not the same, or are waited for in vain; two hosts are in test_hosts."""

from __future__ import annotations

import os
import signal
from datetime import timedelta

import numpy as np
import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from pyro_spvae import joining
from tests.cli_cases import Forked, command, invoke, python
from tests.group_threads import TORCHRUN
from tests.pages import ROOT

RUN = ("--epochs", "1", "--samples", "2", "--hidden", "2", "--units", "1", "--latent-dim", "2", "--quiet")


@pytest.fixture
def alone(monkeypatch):
    """The first of two processes, of which the other does not come."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(joining, "_met", None)
    return monkeypatch


def own_command(*of_each):
    """One that is another in every process."""
    command(*of_each[int(os.environ["RANK"])])


def test_who_does_not_join_tells_the_others_why(tmp_path):
    """And does not leave them waiting."""
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((40, 3)))
    train = ("train", tmp_path / "data.npy", "--out", tmp_path / "run", *RUN)
    ended = Forked(own_command, train, ("train", "--resume", tmp_path / "nowhere"), number=2)
    assert ended.codes == [1, 2] and not (tmp_path / "run").exists()
    assert ended.stderr == (
        f"Error: process 1 ended before it joined the others: there is no run folder {tmp_path / 'nowhere'}\n"
    )


def test_processes_that_read_other_data_are_refused(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "data.npy", np.random.default_rng(ord(name)).random((40, 3)))
    commands = [("train", tmp_path / name / "data.npy", "--out", tmp_path / "run", *RUN) for name in "ab"]
    ended = Forked(own_command, *commands, number=2)
    assert ended.codes == [2, 2] and not (tmp_path / "run").exists()
    assert ended.stderr.startswith(f"Error: the data {tmp_path / 'a' / 'data.npy'} of process 1 (on ")
    assert "all of them must see the same files" in ended.stderr and ended.stderr.count("\n") == 1


def test_processes_that_see_other_runs_are_refused(tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((40, 3)))
    for name, seed in (("a", 0), ("b", 1)):
        options = ("--seed", seed, "--out", tmp_path / name)
        Forked(command, "train", tmp_path / "data.npy", *RUN, *options).succeed()
    for asked in (("evaluate",), ("train", "--epochs", "2", "--quiet", "--resume")):
        ended = Forked(own_command, *((*asked, tmp_path / name) for name in "ab"), number=2)
        assert ended.codes == [2, 2] and ended.stderr.startswith(f"Error: the run {tmp_path / 'a'} of process 1 (on ")
    assert not (tmp_path / "a" / "evaluate").exists()


def test_waiting_has_an_end(alone):
    alone.setenv("PYRO_SPVAE_TIMEOUT", "0.001")
    with pytest.raises(joining.Lost, match=r"^process 0 did not meet all of the 2 processes .*0\.001 minutes"):
        with joining.processes(torch.device("cpu")):
            pass


def test_what_processes_said_before_a_restart_is_not_heard(alone):
    """By torchrun, whose store may be the same after it."""
    store = torch.distributed.HashStore()
    store.set_timeout(timedelta(milliseconds=20))
    alone.setattr(torch.distributed, "rendezvous", lambda *args, **options: iter([(store, 0, 2)]))
    alone.setenv("RANK", "1")
    joining.decline("no file")
    alone.setenv("RANK", "0")
    for attempt, heard in (("0", "process 1 ended before it joined the others: no file"), ("1", "process 0 did not")):
        alone.setattr(joining, "_met", None)
        alone.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        with pytest.raises(joining.Lost, match=f"^{heard}"), joining.processes(torch.device("cpu")):
            pass


def test_hosts_without_a_way_are_told_of_interfaces(alone):
    def refused(*args, **options):
        raise RuntimeError(
            "Gloo connectFullMesh failed with [pair.cc:1] Connection refused, remote=[127.0.1.1]:5. GLHF"
        )

    alone.setattr(torch.distributed, "init_process_group", refused)
    alone.setattr(joining, "_meet", lambda timeout: joining._Meeting(torch.distributed.HashStore(), 0, 2, 0))
    with pytest.raises(joining.Lost, match=r"^process 0 cannot reach .*\[127.0.1.1\]:5\); .* GLOO_SOCKET_IFNAME"):
        with joining.processes(torch.device("cpu")):
            pass


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "two", "1e99"])
def test_minutes_that_are_none_are_refused(alone, minutes):
    alone.setenv("PYRO_SPVAE_TIMEOUT", minutes)
    with pytest.raises(ValueError, match=f"PYRO_SPVAE_TIMEOUT is '{minutes}'; a positive number of minutes"):
        with joining.processes(torch.device("cpu")):
            pass


class TestTogether:
    @pytest.fixture(autouse=True)
    def of_two(self, alone):
        alone.setattr(joining, "world", lambda: 2)
        before = signal.getsignal(signal.SIGTERM)
        yield
        signal.signal(signal.SIGTERM, before)

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("[/build/gloo/transport/tcp/pair.cc:5] Reset [10.0.0.2]:7. This is typical."),
            torch.distributed.DistNetworkError("Reset [10.0.0.2]:7. This is\ntypical."),
        ],
    )
    def test_names_what_is_lost_and_what_to_do(self, error):
        with pytest.raises(joining.Lost) as raised, joining.together("begin anew"):
            raise error
        assert str(raised.value) == (
            "process 0 lost the others (Reset [10.0.0.2]:7): one of the 2 processes or its machine "
            "has ended, or the network between them failed; begin anew"
        )
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, "it is told before torchrun ends the rest"

    def test_leaves_other_errors_alone(self, alone):
        with pytest.raises(RuntimeError, match="^shapes"), joining.together("begin anew"):
            raise RuntimeError("shapes do not fit")
        alone.setattr(joining, "world", lambda: 1)
        with pytest.raises(RuntimeError, match="^gloo"), joining.together("begin anew"):
            raise RuntimeError("gloo")
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN


ALIVE = """
import torch
from pyro_spvae import distributed, joining
from tests.group_threads import TASKS, left

def train():
    distributed.share(torch.nn.Linear(3, 2))(torch.ones(4, 3)).sum().backward()

with joining.processes(torch.device("cpu")):
    train()
    assert left() or not TASKS.exists()
assert not left(), left()
"""


def test_no_thread_of_the_group_outlives_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "alive.py").write_text(ALIVE)
    ended = python(*TORCHRUN, tmp_path / "alive.py")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("local_rank", ["0", "1"])
def test_torchrun_is_left_what_any_process_says(tmp_path, monkeypatch, local_rank):
    """And shows it; the first process of a machine alone prints."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    ended = invoke("train", "--lr", "0")
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=str(tmp_path / "error.json"))
    shown = ChildFailedError("pyro_spvae", {1: failure}).format_msg()
    line = next(line for line in shown.splitlines() if line.startswith("  traceback : "))
    assert ended.exit_code == 2 and line.startswith("  traceback : lr is 0")
    printed = line.replace("  traceback : ", "Error: ") + "\n"
    assert ended.stderr == (printed if local_rank == "0" else "")
