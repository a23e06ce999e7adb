# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every prior under the checks that all inherit, and what is particular to the simple ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

from pyro_spvae.blocks import Latent
from pyro_spvae.guides import NormalGuide
from pyro_spvae.priors import MixtureOfGaussians, Prior, StandardNormal, VampPrior
from pyro_spvae.testing.block_tests import LATENT, LEAVES, PIXELS, ROWS
from tests.distributions.test_normal_mixture import reference
from tests.priors.cases import PriorTests, check_slope

COMPONENTS = 4


class TestStandardNormal(PriorTests):
    reparameterised = True
    keeps = False

    def make(self):
        return StandardNormal()

    def reference(self, prior):
        return Independent(Normal(torch.zeros(LEAVES, LATENT), 1.0), 1)

    def test_needs_no_pixels_guide_or_data(self):
        prior = self.make().bind(leaves=1, event_shape=(5,))
        assert prior().event_shape == (5,) and not list(prior.parameters()) and prior.wanted_rows == 0
        prior.start(torch.zeros(1, 1, 1))


class TestMixtureOfGaussians(PriorTests):
    learned = {"loc", "raw_scale", "logits"}

    def make(self):
        return MixtureOfGaussians(COMPONENTS, spread=0.6, min_scale=0.2)

    def bound(self, leaves=LEAVES):
        prior = self.make().bind(leaves=leaves, event_shape=(LATENT,), pixels=PIXELS)
        with torch.no_grad():
            prior.loc.mul_(2)
            prior.raw_scale.add_(0.5 * torch.randn_like(prior.raw_scale))
            prior.logits.normal_()
        return prior

    def reference(self, prior):
        scale = 0.2 + nn.functional.softplus(prior.raw_scale)
        return reference(prior.loc, scale, prior.logits)

    def test_weights_sum_to_one_and_are_those_of_the_density(self, part):
        assert part.weights.shape == (COMPONENTS, LEAVES)
        torch.testing.assert_close(part.weights.sum(0), torch.ones(LEAVES))
        torch.testing.assert_close(part.weights, part().log_weight.exp())

    def test_starts_with_the_variance_of_the_standard_normal(self):
        prior = MixtureOfGaussians(4000, spread=0.8).bind(leaves=2, event_shape=(3,))
        distribution = prior()
        torch.testing.assert_close(prior.loc.std(0), torch.full((2, 3), 0.8), rtol=0.05, atol=0)
        torch.testing.assert_close(distribution.scale, torch.full((4000, 2, 3), 0.6))
        torch.testing.assert_close(distribution.variance, torch.ones(2, 3), rtol=0.05, atol=0)
        assert torch.equal(prior.weights, torch.full((4000, 2), 1 / 4000))

    def test_default_is_the_papers_number(self):
        assert MixtureOfGaussians().options() == {"components": 500, "spread": 0.5, "min_scale": 1e-3}

    def test_scales_have_a_floor(self, part):
        with torch.no_grad():
            part.raw_scale.fill_(-1e3)
        assert torch.equal(part().scale, torch.full((COMPONENTS, LEAVES, LATENT), 0.2))

    def test_a_floor_above_what_the_spread_leaves_is_finite(self):
        prior = MixtureOfGaussians(3, spread=0.999, min_scale=0.5).bind(leaves=1, event_shape=(1,))
        assert prior().log_prob(torch.zeros(1, 1)).isfinite().all()


REFUSED = [
    ("components", (0, 2.0, True), "a positive integer is needed"),
    ("spread", (0.0, 1.0, math.nan, "0.5"), "a number above 0 and below 1 is needed"),
    ("min_scale", (-0.1, 1, True), "a number of at least 0 and below 1 is needed"),
]


@pytest.mark.parametrize(("option", "values", "needed"), REFUSED)
def test_refused_options_of_a_mixture(option, values, needed):
    for value in values:
        with pytest.raises(ValueError, match=f"^{option} is {value!r}; {needed}$"):
            MixtureOfGaussians(**{option: value})


class VampPriorTests(PriorTests):
    learned = {"pseudo_inputs"}

    def bound(self, leaves=LEAVES):
        prior = self.make().bind(leaves=leaves, event_shape=(LATENT,), pixels=PIXELS)
        self.guide = NormalGuide((5,), scale="precision", min_scale=0.3)
        self.guide.bind(leaves=leaves, latents={"z": Latent(LATENT)}, pixels=PIXELS)
        with torch.no_grad():
            for parameter in self.guide.parameters():
                parameter.normal_(0, 0.7)
        prior.connect(self.guide.posterior, lambda x: x.reshape(-1, 1, PIXELS).expand(-1, leaves, -1), None)
        with torch.no_grad():
            if not prior.frozen:  # where the hardtanh has a derivative
                prior.pseudo_inputs.uniform_(0.05, 0.95)
            elif leaves > 1:  # leaves of their own, as patches are
                prior.pseudo_inputs.copy_(torch.randn_like(prior.pseudo_inputs))
            if prior.weights == "learned":
                prior.logits.normal_()
        return prior

    def alone(self, prior, leaf):
        together = self.guide
        one = super().alone(prior, leaf)
        self.guide.load_state_dict({name: value.narrow(0, leaf, 1) for name, value in together.state_dict().items()})
        self.guide = together
        return one

    def test_state_dict_round_trip(self, part):
        guide = self.guide
        z = torch.randn(ROWS, LEAVES, LATENT)
        one = self.bound()
        one.load_state_dict(part.state_dict())
        assert set(part.state_dict()) == self.learned  # not the encoder, which is the guide's
        assert not torch.equal(one().log_prob(z), part().log_prob(z))
        self.guide.load_state_dict(guide.state_dict())
        assert torch.equal(one().log_prob(z), part().log_prob(z))

    def test_follows_dtype(self, part):
        z = torch.ones(LEAVES, LATENT)
        expected = part().log_prob(z)
        self.guide.float()
        law = part.float()()
        assert law.sample().dtype == law.mean.dtype == law.log_prob(z.float()).dtype == torch.float32
        torch.testing.assert_close(law.log_prob(z.float()).double(), expected, rtol=1e-5, atol=1e-5)

    def reference(self, prior):
        """The encoder asked about one pseudo-input of one leaf after the other, by hand."""
        loc = torch.empty(COMPONENTS, LEAVES, LATENT)
        scale = torch.empty_like(loc)
        mean, raw = self.guide.z.network.stacks
        for k in range(COMPONENTS):
            for leaf in range(LEAVES):
                u = prior.pseudo_inputs[leaf, k].detach()
                u = u if prior.frozen else u.clamp(0, 1)
                hidden = [nn.functional.softplus(u @ s.weights[0][leaf] + s.biases[0][leaf, 0]) for s in (mean, raw)]
                loc[k, leaf] = hidden[0] @ mean.weights[1][leaf] + mean.biases[1][leaf, 0]
                value = hidden[1] @ raw.weights[1][leaf] + raw.biases[1][leaf, 0]
                scale[k, leaf] = (1 + value.square()).rsqrt().clamp(min=0.3)
        logits = prior.logits.t().detach() if prior.weights == "learned" else None
        return reference(loc.detach(), scale.detach(), logits)

    def test_gradients_of_the_encoder(self, part):
        """Along a random direction, all parameters of the guide together."""
        z, named = torch.randn(ROWS, LEAVES, LATENT), dict(self.guide.named_parameters())
        grads = dict(zip(named, torch.autograd.grad(part().log_prob(z).sum(), list(named.values())), strict=True))
        check_slope(named, grads, lambda: part().log_prob(z).sum())


class TestVampPrior(VampPriorTests):
    def make(self):
        return VampPrior(COMPONENTS)


class TestVampPriorOfData(VampPriorTests):
    def make(self):
        return VampPrior(data=torch.randn(COMPONENTS, PIXELS))

    def test_options_make_the_same_part(self):
        """The data are no option: a prior that waits for its pseudo-inputs comes back."""
        prior = self.make()
        again = VampPrior(**prior.options())
        assert again.options() == prior.options()
        assert again.frozen and again.components == COMPONENTS and again.wanted_rows == COMPONENTS


class TestVampPriorOfTrainedData(VampPriorTests):
    def make(self):
        return VampPrior(data=torch.rand(COMPONENTS + 3, PIXELS), components=COMPONENTS, frozen=False)


class TestVampPriorOfLearnedWeights(VampPriorTests):
    learned = {"pseudo_inputs", "logits"}

    def make(self):
        return VampPrior(COMPONENTS, weights="learned")


def test_a_prior_must_say_what_it_is():
    with pytest.raises(NotImplementedError, match=r"^Prior must define forward\(self\)$"):
        Prior()()
