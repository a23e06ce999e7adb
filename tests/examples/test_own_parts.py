# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The parts of examples/own_parts.py inherit the checks that ours do, and the script runs."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from pyro_spvae import data
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import VAE
from pyro_spvae.testing import LeafPairTests, LikelihoodTests, PriorTests
from tests.examples.scripts import FOLDER, Run

PATH = FOLDER / "own_parts.py"
spec = importlib.util.spec_from_file_location("own_parts", PATH)
own_parts = importlib.util.module_from_spec(spec)
sys.modules["own_parts"] = own_parts  # so that parts are found again when they are loaded
spec.loader.exec_module(own_parts)


class TestFlowPrior(PriorTests):
    by_leaf = False  # one flow for all leaves

    def make(self):
        return own_parts.FlowPrior()


class TestStudentT(LikelihoodTests):
    reach = (-200.0, 200.0)

    def make(self):
        return own_parts.StudentT()


class TestFactorAnalyser(LeafPairTests):
    def make(self):
        return own_parts.FactorAnalyser(), NormalGuide((4,))


class TestFlowPriorInALeaf(LeafPairTests):
    def make(self):
        return VAE(Normal(), 2, (4,), prior=own_parts.FlowPrior()), NormalGuide((4,))


class TestStudentTInALeaf(LeafPairTests):
    def make(self):
        return VAE(own_parts.StudentT(), 2, (4,)), NormalGuide((4,))


def test_each_is_short():
    """Fifteen lines at most, as a user would write them."""
    lines, name, lengths = PATH.read_text().splitlines(), "", {}
    for line in lines:
        if line.startswith(("class ", "if ")):
            name = line.split()[1].partition("(")[0]
        if line.strip():
            lengths[name] = lengths.get(name, 0) + 1
    assert max(lengths[part] for part in ("FactorAnalyser", "FlowPrior", "StudentT")) <= 15


def test_the_script_runs(monkeypatch, single):
    few = data.load_data("digits", seed=0).thinned(0.1)
    monkeypatch.setattr(data, "load_data", lambda name, seed: few)
    run = Run("own_parts", "--epochs", 2)
    assert [line.split(" nats ")[1] for line in run.lines] == ["the usual parts", "leaf", "prior", "likelihood"]
    x = few.preprocessed("dequantize", 0).test[:]
    for line, spvae in zip(run.lines, run.models, strict=True):
        again = float(spvae.log_likelihood(x, num_samples=100).mean())
        assert float(line.split()[0]) == pytest.approx(again, abs=2)
