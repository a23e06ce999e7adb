# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every leaf pair of this package inherits the checks that one of a user's own does."""

from __future__ import annotations

import torch

from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, MixtureGuide, NormalGuide, StickGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial, Categorical, DiscretizedLogistic, Normal
from pyro_spvae.models import DLDPMM, DLGMM, HVAE, SBVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.nn import Conv, GatedConv, Joint, PixelCNN
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from pyro_spvae.testing import LeafPairTests
from tests.infer.test_enumerated import KindsGuide, KindsLeaf

SMALL = ((2, 3, 1, 1),)  # one gated convolution of two channels


class OfLevels(LeafPairTests):
    levels = 2

    def data(self, rows):
        return torch.randint(self.levels, (rows, 1, 2, 4)).to(torch.get_default_dtype())


class TestVAE(LeafPairTests):
    def make(self):
        return VAE(Normal(), 2, (4,)), NormalGuide((4,))


class TestVAEOfMixture(OfLevels):
    def make(self):
        return VAE(Bernoulli(), 2, (4,), prior=MixtureOfGaussians(3)), NormalGuide((4,), networks="shared")


class TestVAEOfVamp(OfLevels):
    levels = 5

    def make(self):
        prior = VampPrior(3, range=(-9.0, 9.0), weights="learned")
        return VAE(Binomial(4), 2, (4,), prior=prior), NormalGuide((4,), scale="exp")


class TestVAEOfVampFromData(OfLevels):
    levels = 3

    def make(self):
        return VAE(Categorical(3), 2, (4,), prior=VampPrior(3, init="data", frozen=True)), NormalGuide((4,))


class TestConvVAE(OfLevels):
    levels = 4

    def make(self):
        net = {"filters": (3,), "stride": 1, "dense": 4}
        leaf = VAE(DiscretizedLogistic(4, scale="softplus"), 2, decoder=Conv(**net))
        return leaf, NormalGuide(encoder=Conv(**net))


class TestGatedConvVAE(OfLevels):
    def make(self):
        return VAE(Bernoulli(), 2, decoder=GatedConv(SMALL)), NormalGuide(encoder=GatedConv(SMALL))


class TestPixelCNN(OfLevels):
    partial_masks = False
    smooth = False  # ReLU

    def make(self):
        second = Joint((4,), first=GatedConv(SMALL, heads=False))
        guide = HierarchicalGuide(encoder=GatedConv(SMALL), second=second)
        return HVAE(Bernoulli(), 3, 2, decoder=PixelCNN(filters=3, layers=2)), guide


class TestHVAE(LeafPairTests):
    def make(self):
        return HVAE(Normal(), 3, 2, (4,)), HierarchicalGuide((4,))


class TestHVAEOfVamp(OfLevels):
    def make(self):
        return HVAE(Bernoulli(), 3, 2, (4,), prior=VampPrior(3)), HierarchicalGuide((4,))


class TestHVAEBottomUp(LeafPairTests):
    same_order = False

    def make(self):
        prior = MixtureOfGaussians(3)
        return HVAE(Normal(), 3, 2, (4,), prior, skip=False), HierarchicalGuide((4,), order="bottom-up")


class TestFactorized(LeafPairTests):
    def make(self):
        return FactorizedLeaf(Normal(mean="sigmoid", scale="precision")), LeafGuide()


class TestMixed(LeafPairTests):
    def make(self):
        leaf = MixedLeaf([VAE(Normal(), 2, (4,)), FactorizedLeaf(Normal())])
        return leaf, MixedGuide([NormalGuide((4,)), LeafGuide()])


class TestMixedOfTwoSizes(LeafPairTests):
    def make(self):
        leaf = MixedLeaf([HVAE(Normal(), 3, 2, (4,)), VAE(Normal(), 1, (4,), prior=VampPrior(2))])
        return leaf, MixedGuide([HierarchicalGuide((4,)), NormalGuide((4,))])


class TestEnumerated(LeafPairTests):
    def make(self):
        return KindsLeaf(), KindsGuide()


class TestSBVAE(OfLevels):
    def make(self):
        return SBVAE(Bernoulli(), 4, 5.0, (4,)), StickGuide((4,))


class TestDLGMM(LeafPairTests):
    def make(self):
        return DLGMM(Normal(), 2, 3, 0.7, (-1.0, 0.0, 1.5), hidden_dims=(4,)), MixtureGuide((4,))


class TestDLGMMOfDraws(LeafPairTests):
    def make(self):
        return DLGMM(Normal(), 2, 3, hidden_dims=(4,)), MixtureGuide((4,), enumerate=False)


class TestDLGMMOfTheMixture(OfLevels):
    def make(self):
        leaf = DLGMM(Bernoulli(), 2, 3, means=(-1.0, 0.0, 1.5), summed=True, hidden_dims=(4,))
        return leaf, MixtureGuide((4,), scale="exp")


class TestDLDPMM(OfLevels):
    def make(self):
        return DLDPMM(Bernoulli(), 2, 4, 2.0, hidden_dims=(4,)), MixtureGuide((4,))
