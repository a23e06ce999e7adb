# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU: the whole script runs on a CPU, and says so; without a GPU it is refused in one sentence."""

from __future__ import annotations

import re

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_steps import OURS, TWIN


@pytest.fixture(autouse=True)
def single():
    """As users have it."""
    torch.set_default_dtype(torch.float32)


def test_the_whole_script_on_a_cpu(capsys):
    text = gpu.main(["--device", "cpu", "--tiny"])
    assert capsys.readouterr().out == text + "\n"
    lines = text.splitlines()
    assert re.match(r"Measured on a CPU \(.+\), no GPU, torch ", lines[0])
    assert lines[2:4] == ["| what | result |", "|---|---|"]
    rows = dict(line.strip("| ").split(" | ") for line in lines[4:])
    timed = [what for what in rows if what.endswith((f": {TWIN}", f": {OURS}"))]
    assert len(timed) == 4 and len(rows) == 6, "two contenders of two models, and two trainings"
    for what in timed:
        milliseconds, ratio = map(float, re.fullmatch(r"(.+) ms a step, (.+) of the twin's", rows[what]).groups())
        assert milliseconds > 0 and ratio > 0
        assert ratio == 1 or what.endswith(f": {OURS}")
    spvae, vae = (what for what in rows if what not in timed)
    assert "random images" in spvae and re.fullmatch(r"no validation in \d+ s \(4 steps\)", rows[spvae])
    assert "random images" in vae and re.match(r"best bound -[\d,.]+ nats after .+ s, \d steps ", rows[vae])


def test_without_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="^gpu-check needs a CUDA device, and torch finds none here$"):
        gpu.main([])


def test_failed_tests_fail_the_check(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "check", lambda *_: [("tests that need a CUDA device", "FAILED: 1 failed, 2 passed")])
    with pytest.raises(SystemExit, match="^tests failed$"):
        gpu.main(["--device", "cpu"])
    assert "| tests that need a CUDA device | FAILED: 1 failed, 2 passed |" in capsys.readouterr().out


@pytest.mark.parametrize("target, what", [(-1e9, "reached"), (1e9, "not reached, best bound")])
def test_training_stops_at_a_bound_or_when_time_is_over(target, what):
    config = gpu.TrainConfig(
        data="digits", fraction=0.05, structure="whole", latent_dim=2, hidden=(4,), epochs=3, race="none", units=1
    )
    assert gpu._trained(config, torch.device("cpu"), 600.0, 90, target).startswith(f"{what} -")
    assert re.fullmatch(r"no validation in \d+ s \(0 steps\)", gpu._trained(config, torch.device("cpu"), 0.0, 90))
    assert " s, 1 steps (epoch 1), " in gpu._trained(config, torch.device("cpu"), 600.0, 1)
