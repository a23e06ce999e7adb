# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Denormal numbers count as 0 where models are trained and asked, nowhere else, and change no figure."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from pyro_spvae.commands import app
from pyro_spvae.denormals import are_flushed, flushed
from pyro_spvae.evaluating import lean
from tests.training.cases import built, images, trainer_of

pytestmark = pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor cannot flush denormals")
DENORMAL = 1e-39  # in single precision


def half() -> float:
    return float(torch.tensor(DENORMAL, dtype=torch.float32) * 0.5)


@pytest.fixture(autouse=True)
def _as_before():
    yield
    torch.set_flush_denormal(False)


class TestFlushed:
    def test_within_the_block_alone(self):
        assert half() > 0
        with flushed():
            assert half() == 0
        assert half() > 0

    def test_blocks_lie_within_each_other(self):
        with flushed():
            with flushed():
                assert half() == 0
            assert half() == 0
        assert half() > 0

    def test_what_a_user_has_set_stays(self):
        torch.set_flush_denormal(True)
        with flushed():
            assert half() == 0
        assert half() == 0

    def test_after_an_error(self):
        with pytest.raises(ZeroDivisionError), flushed():
            1 / 0  # noqa: B018
        assert half() > 0

    def test_is_known(self):
        assert not are_flushed()
        with flushed():
            assert are_flushed()
        assert not are_flushed()

    def test_numbers_that_are_not_denormal_stay(self):
        x = torch.tensor([1.2e-38, 1.0, -3e-38, 3e38], dtype=torch.float32)
        with flushed():
            y = x * 1.0
        assert torch.equal(y, x)


class TestTraining:
    """Of images whose samples' weights are far apart, so that many gradients are denormal."""

    STEPS = 4  # of two epochs

    def trained(self) -> tuple[int, dict[str, torch.Tensor]]:
        """How many entries of gradients were denormal, and the parameters after some steps, in single precision."""
        options = {"structure": "whole", "units": 16, "likelihood": "normal(mean=identity)", "lr": 0.001}
        spvae, data, config = built(images(None, side=8), **options)
        (means,) = (value for name, value in spvae.named_parameters() if name.endswith("decoder.stacks.0.biases.1"))
        with torch.no_grad():
            means += torch.cat([torch.zeros(1), torch.linspace(1, 2.5, 15)])[:, None, None]  # others are far behind
        trainer = trainer_of(spvae.float(), data, config)
        found = 0
        move = trainer.update.move

        def look(last: bool) -> None:
            nonlocal found
            for parameter in trainer.parameters.values():
                if parameter.grad is not None:
                    size = parameter.grad.double().abs()
                    found += int(((size > 0) & (size < torch.finfo(torch.float32).tiny)).sum())
            move(last)

        trainer.update.move = look
        trainer.run(self.STEPS)
        assert trainer.step == self.STEPS
        return found, {name: value.detach().clone() for name, value in trainer.parameters.items()}

    def test_is_the_same_but_for_them(self, monkeypatch):
        found, parameters = self.trained()
        assert half() > 0  # again
        with monkeypatch.context() as patched:
            patched.setattr("pyro_spvae.evaluating.flushed", contextlib.nullcontext)
            found_otherwise, otherwise = self.trained()
        assert found == 0 and found_otherwise > 0
        for name, value in otherwise.items():
            torch.testing.assert_close(parameters[name], value, rtol=1e-6, atol=1e-7, msg=name)

    def test_lean_flushes(self):
        with lean():
            assert half() == 0
        assert half() > 0


THREADS = """
import torch
from pyro_spvae.denormals import flush_in_threads, flushed
torch.set_num_threads(2)
{first}
with flushed():
    x = torch.full((2**22,), 1e-39)
    print(int((x * 1.0).count_nonzero()))
print(float(torch.tensor(1e-39) * 0.5) > 0)
"""


@pytest.mark.parametrize("first", ["flush_in_threads()", "flush_in_threads(); torch.zeros(2**22).exp_()"])
def test_all_threads_flush_if_they_were_made_so(first):
    done = subprocess.run(
        [sys.executable, "-c", THREADS.format(first=first)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "True"]


def test_a_command_makes_its_threads_so(monkeypatch):
    made = []
    monkeypatch.setattr("pyro_spvae.denormals.flush_in_threads", lambda: made.append(True))
    assert CliRunner().invoke(app, ["info", "no such run"]).exit_code == 2
    assert made == []  # it computes nothing
    assert CliRunner().invoke(app, ["evaluate", "no such run"]).exit_code == 2
    assert made == [True]
