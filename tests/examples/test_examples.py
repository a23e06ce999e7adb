# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every script of examples/ is short and runs, and its numbers are right."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pyro
import pytest
import torch
from pyro import poutine

from pyro_spvae import CircuitELBO, collapse_tree, data
from tests.examples.scripts import FOLDER, SCRIPTS, Run
from tests.group_threads import TORCHRUN

pytestmark = pytest.mark.usefixtures("single")
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture
def few(monkeypatch, single):
    """A fifth of the digits."""
    thinned = data.load_data("digits", seed=0).thinned(0.2)
    monkeypatch.setattr(data, "load_data", lambda name, seed: thinned)
    return thinned.preprocessed("dequantize", 0)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_at_most_sixty_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def test_svi(few):
    run = Run("svi", "--epochs", 8, "--test-frequency", 1, "--num-samples", 50)
    (spvae,) = run.models
    assert run.lines[0] == f"16 VAEs, {sum(parameter.numel() for parameter in spvae.parameters()):,} parameters"
    bounds = [tuple(map(float, NUMBER.findall(line))) for line in run.lines[1:-1]]
    assert len(bounds) == 8 and bounds[-1][0] > bounds[0][0] + 30 and bounds[-1][1] > bounds[0][1] + 30
    value, error = map(float, NUMBER.findall(run.lines[-1]))
    again = spvae.log_likelihood(few.test[:], num_samples=50)
    assert value == pytest.approx(float(again.mean()), abs=0.3)
    assert error == pytest.approx(float(again.std() / len(again) ** 0.5), rel=0.1)
    assert value > -CircuitELBO().loss(spvae.model, spvae.guide, few.test[:]) / len(again) + 1  # that of one sample


def test_nuts(few):
    """Means of the chain and of the weighted draws are those of quadrature, and so is the posterior over leaves."""
    run = Run("nuts", "--epochs", 10, "--num-samples", 100, "--num-particles", 20_000)
    (spvae,) = run.models
    table = torch.tensor([[float(number) for number in NUMBER.findall(line)[:5]] for line in run.lines[1:]])
    assert table.shape == (spvae.num_leaves, 5)

    points = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(points, points).reshape(-1, 1, 1, 2).expand(-1, 1, spvae.num_leaves, 2)
    model = pyro.plate("points", len(grid), dim=-3)(poutine.condition(spvae.model, {"z": grid}))
    trace = poutine.trace(collapse_tree(model)).get_trace(few.test[:1])
    trace.compute_log_prob()
    log_joint = (trace.nodes["x"]["log_prob"] + trace.nodes["z"]["log_prob"])[:, 0]  # [point, leaf]
    weight = log_joint.softmax(0)
    mean = torch.einsum("gl,gld->ld", weight, grid[:, 0])
    deviation = (torch.einsum("gl,gld->ld", weight, grid[:, 0].square()) - mean.square()).sqrt()
    evidence = log_joint.logsumexp(0) + 2 * (points[1] - points[0]).log()
    on_tree = spvae.circuit.posterior(evidence.unsqueeze(0))[0]

    assert ((mean.abs() / deviation) > 2).any()  # the prior's mean, 0, would not pass
    torch.testing.assert_close(table[:, 0], on_tree, atol=0.02, rtol=0)
    assert ((table[:, 1:3] - mean) / deviation).abs().max() < 0.5
    assert ((table[:, 3:5] - mean) / deviation).abs().max() < 0.2


WATCHED = """
import runpy
from tests.group_threads import left
runpy.run_path({script!r}, run_name="__main__")
assert not left(), left()
"""


def test_ddp(tmp_path):
    """Two processes end with the same parameters, and train as one does; the group's threads end with it."""
    script = tmp_path / "watched.py"
    script.write_text(WATCHED.format(script=str(FOLDER / "ddp.py")))
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *TORCHRUN, str(script), "--epochs", "2"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    two = done.stdout.splitlines()
    one = Run("ddp", "--epochs", 2).lines
    assert two[-1].endswith("world size 2, parameters apart by 0")
    assert one[-1].endswith("world size 1, parameters apart by 0")
    assert len(one) == len(two) == 3
    for ours, theirs in zip(one, two, strict=True):
        assert float(NUMBER.findall(theirs)[0]) == pytest.approx(float(NUMBER.findall(ours)[0]), abs=2)
