# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""DVAE++ leaves with their guides, by what every pair is tested by: global and local variables of all kinds."""

from __future__ import annotations

import torch

from pyro_spvae.distributions import SpikeAndExponential
from pyro_spvae.guides import DVAEppGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial
from pyro_spvae.models import DVAEpp
from pyro_spvae.priors import BoltzmannMachine, IndependentBits, StandardNormal
from pyro_spvae.testing import LeafPairTests

SMALL = {"groups": 2, "local_shape": (2, 1, 1), "channels": 3}
GUIDE = {"levels": 1, "channels": (3,), "hidden_dims": (4,)}


class OfLevels(LeafPairTests):
    levels = 2
    samples = 3000

    def data(self, rows):
        return torch.randint(self.levels, (rows, 1, 2, 4)).to(torch.get_default_dtype())


class TestBoltzmannAndNormal(OfLevels):
    def make(self):
        leaf = DVAEpp(Bernoulli(), 4, BoltzmannMachine(chains=6, sweeps=2), **SMALL)
        return leaf, DVAEppGuide(2, **GUIDE)


class TestBoltzmannAndNormalByRolfe(OfLevels):
    trained_by = {"alpha": 1.0, "kl": "analytic"}

    def make(self):
        leaf = DVAEpp(Bernoulli(), 4, BoltzmannMachine(chains=6, sweeps=2), SpikeAndExponential(), **SMALL)
        return leaf, DVAEppGuide(1, **GUIDE)


class TestBoltzmannAndBits(OfLevels):
    levels = 4

    def make(self):
        leaf = DVAEpp(Binomial(3), 4, BoltzmannMachine(chains=6, sweeps=2), local="bernoulli", norm="none", **SMALL)
        return leaf, DVAEppGuide(norm="none", **GUIDE)


class TestIndependentBitsAndBits(OfLevels):
    def make(self):
        leaf = DVAEpp(Bernoulli(), 3, IndependentBits(), local="bernoulli", **{**SMALL, "groups": 1})
        return leaf, DVAEppGuide(3, **GUIDE)


class TestNormalAndNormal(OfLevels):
    def make(self):
        leaf = DVAEpp(Bernoulli(), 2, StandardNormal(), checkpoint=True, **{**SMALL, "groups": 3})
        return leaf, DVAEppGuide(checkpoint=True, **GUIDE)
