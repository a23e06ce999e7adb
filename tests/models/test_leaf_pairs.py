# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every leaf pair of this package inherits the checks that one of a user's own does."""

from __future__ import annotations

import torch

from pyro_spvae.distributions import OverlappingLogistics, SpikeAndExponential, Unsmoothed
from pyro_spvae.guides import (
    DiscreteGuide,
    HierarchicalGuide,
    LeafGuide,
    MixedGuide,
    MixtureGuide,
    NormalGuide,
    StickGuide,
)
from pyro_spvae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    LowRankCategorical,
    Normal,
)
from pyro_spvae.models import DLDPMM, DLGMM, HVAE, SBVAE, VAE, DiscreteVAE, FactorizedLeaf, GaussianLeaf, MixedLeaf
from pyro_spvae.nn import Conv, GatedConv, Joint, MultiScale, PixelCNN, SEResNet
from pyro_spvae.priors import BitChain, BoltzmannMachine, MixtureOfGaussians, VampPrior
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


class TestConvVAEOfLogisticMixtures(OfLevels):
    levels = 4

    def make(self):
        net = {"filters": (3,), "stride": 1, "dense": 4}
        leaf = VAE(DiscretizedLogisticMixture(4, components=2), 2, decoder=Conv(**net))
        return leaf, NormalGuide(encoder=Conv(**net))


class TestVAEOfLowRank(OfLevels):
    levels = 4

    def make(self):
        return VAE(LowRankCategorical(4, 2), 2, (4,)), NormalGuide((4,))


class TestGatedConvVAE(OfLevels):
    def make(self):
        return VAE(Bernoulli(), 2, decoder=GatedConv(SMALL)), NormalGuide(encoder=GatedConv(SMALL))


class TestSEResNetVAE(OfLevels):
    def make(self):
        return VAE(Bernoulli(), 2, decoder=SEResNet(2, 1, checkpoint=True)), NormalGuide(
            encoder=SEResNet(2, 1, dense=3)
        )


class TestPixelCNN(OfLevels):
    partial_masks = False
    smooth = False  # ReLU

    def make(self):
        second = Joint((4,), first=GatedConv(SMALL, heads=False))
        guide = HierarchicalGuide(encoder=GatedConv(SMALL), second=second)
        return HVAE(Bernoulli(), 3, 2, decoder=PixelCNN(filters=3, layers=2)), guide


class TestMultiScale(OfLevels):
    partial_masks = False
    levels = 3
    samples = 2_000

    def make(self):
        decoder = MultiScale(1, filters=3, blocks=1, padding="bottom-right")
        return VAE(Categorical(3), 2, decoder=decoder), NormalGuide((4,))


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


class TestGaussian(LeafPairTests):
    def make(self):
        return GaussianLeaf(), LeafGuide()


class TestGaussianOfLowRank(LeafPairTests):
    def make(self):
        return GaussianLeaf(2), LeafGuide()


class TestMixedOfGaussian(LeafPairTests):
    def make(self):
        return MixedLeaf([VAE(Normal(), 2, (4,)), GaussianLeaf()]), MixedGuide([NormalGuide((4,)), LeafGuide()])


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


JOINT = {"alpha": 1.0, "kl": "analytic"}  # what draws over a jump need


class OfFewBits(OfLevels):
    samples = 3000


class TestDiscreteVAE(OfFewBits):
    def make(self):
        return DiscreteVAE(Bernoulli(), 3, hidden_dims=(4,)), DiscreteGuide(hidden_dims=(4,))


class TestDiscreteVAEOfTwoLinearGroups(LeafPairTests):
    samples = 3000
    trained_by = JOINT

    def make(self):
        prior = BitChain(2, ())
        return DiscreteVAE(Normal(), 4, prior, SpikeAndExponential(), hidden_dims=()), DiscreteGuide(hidden_dims=())


class TestDiscreteVAEOfBoltzmannMachine(OfFewBits):
    levels = 5

    def make(self):
        leaf = DiscreteVAE(
            Binomial(4), 4, BoltzmannMachine(chains=6, sweeps=2), hidden_dims=(4,), normalise=True, from_mean=False
        )
        return leaf, DiscreteGuide(2, (4,), normalise=True)


class TestDiscreteVAEOfBoltzmannMachineJointly(OfFewBits):
    trained_by = JOINT

    def make(self):
        prior = BoltzmannMachine((1, 3), chains=6, sweeps=2, gradient="chains")
        return DiscreteVAE(Bernoulli(), 4, prior, SpikeAndExponential(), hidden_dims=()), DiscreteGuide(4, ())


class TestDiscreteVAEUnsmoothed(OfFewBits):
    def make(self):
        prior = BoltzmannMachine(restricted=False, chains=6, sweeps=2)
        return DiscreteVAE(Bernoulli(), 3, prior, Unsmoothed()), DiscreteGuide(3, (4,), "relu", centre=False)

    smooth = False  # ReLU


class TestDiscreteVAEOnTheRealLine(OfFewBits):
    levels = 3

    def make(self):
        prior = BitChain(2, (3,), normalise=True)
        return DiscreteVAE(Categorical(3), 4, prior, OverlappingLogistics(beta=(2, 9))), DiscreteGuide(1, (4,))


class TestMixedOfNumbersAndBits(OfFewBits):
    def make(self):
        leaf = MixedLeaf([VAE(Bernoulli(), 2, (4,)), DiscreteVAE(Bernoulli(), 3, BoltzmannMachine(chains=6, sweeps=2))])
        return leaf, MixedGuide([NormalGuide((4,)), DiscreteGuide(hidden_dims=(4,))])
