# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The parts of examples/own_parts.py inherit the checks that ours do, and the script runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import VAE
from pyro_spvae.testing import LeafPairTests, LikelihoodTests, PriorTests

PATH = Path(__file__).parents[2] / "examples" / "own_parts.py"
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
        return own_parts.FactorAnalyser(2), NormalGuide((4,))


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
        if line.startswith(("class ", "def ")):
            name = line.split()[1].partition("(")[0]
        if line.strip():
            lengths[name] = lengths.get(name, 0) + 1
    assert max(lengths[part] for part in ("FactorAnalyser", "FlowPrior", "StudentT")) <= 15


def test_the_script_runs(monkeypatch):
    torch.set_default_dtype(torch.float32)
    few = own_parts.load_data("digits", seed=0).thinned(0.1)
    monkeypatch.setattr(own_parts, "load_data", lambda name, seed: few)
    found = own_parts.main(epochs=1)
    assert len(found) == 4 and all(torch.tensor(value).isfinite() for value in found.values())
