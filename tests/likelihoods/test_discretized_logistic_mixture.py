# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The mixture of discretised logistics as a likelihood: of grey levels, of colours, and inside of models."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from scipy.stats import chi2

from pyro_spvae import CircuitELBO, poon_domingos, random_binary_tree, whole
from pyro_spvae.distributions import LeafDiscretizedLogisticMixture
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import DiscretizedLogisticMixture
from pyro_spvae.models import SPN, SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.nn import Conv, PixelCNN
from pyro_spvae.testing.block_tests import LEAVES, PIXELS, ROWS, moved_from_start
from pyro_spvae.training.build import build_likelihood, build_model
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.distributions.test_discretized_logistic_mixture import combinations, pixelcnn_log_mass
from tests.likelihoods.test_likelihoods import LikelihoodTests
from tests.training.cases import TINY, images, table


class TestGrey(LikelihoodTests):
    levels = 4
    heads = (PIXELS * 3,) * 3
    outside = (4.0, -1.0, 0.5, math.nan, math.inf)
    accepts = "the integers 0 to 3"

    def make(self):
        return DiscretizedLogisticMixture(4, components=3)

    def outputs(self, part, rows=ROWS):
        logits, loc, raw, *coupling = super().outputs(part, rows)
        return logits, loc, raw - 1, *coupling  # narrow ones, so that components differ

    def test_features_lie_in_the_unit_interval_and_keep_order(self, part):
        torch.testing.assert_close(part.features(self.values), torch.tensor([0.125, 0.375, 0.625, 0.875]))

    def test_outputs_are_the_numbers_of_pixelcnn(self, part):
        """Means and scales in units of [-1, 1], and the numbers of a position's pixels one after the other."""
        outputs, channels = self.outputs(part), part.channels or 1
        x = self.draw(ROWS, LEAVES, PIXELS)
        positions, total = PIXELS // channels, 0.0

        def numbers(output, n, count):
            each = output.size(-1) // PIXELS
            places = [(c * positions + n) * each + number for c in range(channels) for number in range(each)]
            return output[..., places[:count]]

        for n in range(positions):
            logits, means, raw = (
                numbers(output, n, 3 if place == 0 else None) for place, output in enumerate(outputs[:3])
            )
            means, raw = (value.unflatten(-1, (channels, 3)) for value in (means, raw))
            pairs = channels * (channels - 1) // 2
            coefficients = numbers(outputs[3], n, 3 * pairs).unflatten(-1, (pairs, 3)).tanh() if part.coupled else None
            # to units of [0, 1], from which the formula goes back
            loc, log_scale = (means * 3 + 4) / 8, raw + math.log(3 / 8)
            total = total + pixelcnn_log_mass(x[..., n::positions], logits, loc, log_scale, coefficients)
        torch.testing.assert_close(part(outputs).log_prob(x), total)

    def test_scales_have_a_floor(self, part):
        outputs = [torch.full((LEAVES, size), -1e3) for size in part.heads]
        log_scale = part(tuple(outputs)).log_scale
        torch.testing.assert_close(log_scale.exp(), torch.full_like(log_scale, math.exp(-7) * 3 / 8))

    def test_half_precision_is_that_of_the_outputs_alone(self, part):
        outputs = tuple(output.half() for output in self.outputs(part))
        low, single = part(outputs), part(tuple(output.float() for output in outputs))
        x = low.sample()
        assert x.dtype == torch.float16 and torch.equal(low.log_prob(x), single.log_prob(x.float()))


class TestColour(TestGrey):
    """Two channels, of which a position has one component."""

    channels = 2
    sizes = LikelihoodTests.sizes | {"channels": 2}
    heads = (PIXELS * 2, PIXELS * 3, PIXELS * 3)  # four numbers a position hold three logits

    def make(self):
        return DiscretizedLogisticMixture(4, components=3, channels=2)

    def test_density_is_normalised_over_the_support(self):
        likelihood = self.make().bind(leaves=LEAVES, pixels=2)
        law = likelihood(self.outputs(likelihood, 1))
        mass = law.log_prob(combinations(4, 2).unsqueeze(1)).exp()
        torch.testing.assert_close(mass.sum(0), torch.ones(LEAVES), atol=1e-9, rtol=0)

    def test_channels_of_a_position_are_related(self, part):
        outputs = self.outputs(part)
        x = part(outputs).sample()
        first = torch.arange(PIXELS) < PIXELS // 2
        law, seen = part(outputs), part(outputs, first).log_prob(x)
        hidden = law.given_seen(x, first)
        torch.testing.assert_close(seen + hidden.log_prob(x), law.log_prob(x))
        others = law.given_seen((x + 1) % 4, first).log_prob(x)  # given other values of the first channel
        assert (hidden.log_prob(x) - others).abs().max() > 1e-2


class TestCoupled(TestColour):
    heads = (PIXELS * 2, PIXELS * 3, PIXELS * 3, PIXELS * 2)

    def make(self):
        return DiscretizedLogisticMixture(4, components=3, coupled=True, channels=2)

    def test_a_mask_shows_channels_from_the_first_on(self, part):
        x, mask = self.draw(ROWS, LEAVES, PIXELS), torch.ones(ROWS, LEAVES, PIXELS, dtype=torch.bool)
        mask[0, 0, 2] = False  # the second channel of the first position
        part.check(x, mask)
        mask[1, 0, 1] = False  # the first channel of the second position
        with pytest.raises(ValueError, match="^mask hides a channel of a position and shows one behind it, whose marg"):
            part.check(x, mask)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("components", [1, 3, 10])
def test_heads_are_multiples_of_the_pixels_and_hold_all_numbers(channels, components):
    """With fewer than ``channels`` left over a position."""
    coupled = channels > 1
    likelihood = DiscretizedLogisticMixture(8, components, coupled).bind(
        leaves=1, pixels=5 * channels, channels=channels
    )
    needed = [components, channels * components, channels * components]
    needed += [components * channels * (channels - 1) // 2] if coupled else []
    for head, count in zip(likelihood.heads, needed, strict=True):
        assert head % (5 * channels) == 0 and count <= head // 5 < count + channels
    law = likelihood(likelihood.initial_outputs(1))
    assert law.log_prob(law.sample()).isfinite().all() and (law.channels, law.num_components) == (channels, components)


REFUSED = [
    ({"levels": 1}, {}, "levels is 1; at least 2 are needed"),
    ({"components": 0}, {}, "components is 0; a positive integer is needed"),
    ({"components": 2.5}, {}, "components is 2.5; a positive integer is needed"),
    ({"coupled": "yes"}, {}, "coupled is 'yes'; True or False is needed"),
    ({"channels": 0}, {}, "channels is 0; a positive integer is needed"),
    ({"min_log_scale": math.nan}, {}, "min_log_scale is nan; a finite number is needed"),
    ({"channels": 2}, {"channels": 3}, "channels of the likelihood is 2, but the data have 3; leave it out"),
    ({"channels": 4}, {}, "channels of the likelihood is 4, which does not divide a leaf's 6 pixels"),
    ({"coupled": True}, {}, "coupled of the likelihood is True, but the data have one channel; leave it out"),
    (
        {"coupled": True},
        {"channels": 1},
        "coupled of the likelihood is True, but the data have one channel; leave it out",
    ),
]


@pytest.mark.parametrize(("options", "sizes", "message"), REFUSED)
def test_refused_options(options, sizes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        DiscretizedLogisticMixture(**options).bind(leaves=1, pixels=6, **sizes)


def colours(rows, levels=5, channels=3, shape=(4, 4)):
    return torch.randint(levels, (rows, channels, *shape)).double()


class TestInModels:
    @pytest.mark.parametrize("coupled", [False, True])
    @pytest.mark.parametrize(
        "decoder", [None, Conv((3,), stride=1, dense=4), PixelCNN(filters=4, layers=2)], ids=["mlp", "conv", "pixelcnn"]
    )
    def test_of_colours_with_every_decoder(self, decoder, coupled):
        decoder = None if decoder is None else type(decoder)(**decoder.options())
        leaf = VAE(DiscretizedLogisticMixture(5, components=4, coupled=coupled), 2, decoder=decoder)
        spvae = SPVAE(poon_domingos((4, 4), 2), 2, leaf=leaf, guide=NormalGuide((4,)), channels=3)
        moved_from_start(spvae)
        assert leaf.pixels.likelihood.sizes["channels"] == 3 and leaf.pixels.likelihood.channels is None
        x = colours(3)
        loss = CircuitELBO(2).differentiable_loss(spvae.model, spvae.guide, x)
        for name, parameter in spvae.named_parameters():
            (grad,) = torch.autograd.grad(loss, parameter, retain_graph=True)
            assert grad.isfinite().all() and (grad != 0).any(), name
        spvae.check(spvae.sample(4))
        for means in (spvae.sample(4, means=True), spvae.reconstruct(x), spvae.interpolate(x[:1], x[1:2], 3)[:, 0]):
            assert means.shape[1:] == (3, 4, 4) and (means >= 0).all() and (means <= 4).all()
        observed = torch.ones(3, 4, 4, dtype=torch.bool)
        observed[:, :2] = False
        spvae.check(spvae.impute(x, observed, num_particles=5)[0])

    @pytest.mark.parametrize("coupled", [False, True])
    def test_channels_of_one_position_meet_in_ragged_leaf_regions(self, coupled):
        """The density of a leaf is the product over the positions of its scope, each with all of its channels."""
        regions = random_binary_tree((3, 5), 2, 1, seed=1)
        spn = SPN(regions, 2, likelihood=DiscretizedLogisticMixture(5, components=2, coupled=coupled), channels=2)
        moved_from_start(spn)
        law, x = spn.leaf.pixels(mask=spn.view.mask), colours(4, channels=2, shape=(3, 5))
        found, by_channel = law.log_prob(spn.view(x)), x.flatten(2)
        assert spn.view.mask is not None and law.channels == 2
        for leaf in range(spn.num_leaves):
            total = 0.0
            for n, variable in enumerate(regions.leaf_scopes[leaf // 2]):
                pixels = [n, law.logits.size(-2) + n]
                coefficients = None if law.coefficients is None else law.coefficients[leaf, n : n + 1]
                alone = LeafDiscretizedLogisticMixture(
                    law.logits[leaf, n : n + 1],
                    law.loc[leaf, pixels],
                    law.log_scale[leaf, pixels],
                    5,
                    coefficients=coefficients,
                )
                total = total + alone.log_prob(by_channel[:, :, variable])
            torch.testing.assert_close(found[:, leaf], total)

    def leaves(self, kind):
        """Without latent variables, so that the evidence is exact."""
        kinds = [
            FactorizedLeaf(DiscretizedLogisticMixture(3, components=3, coupled=coupled)) for coupled in (False, True)
        ]
        if kind == "mixed":
            return MixedLeaf(kinds), MixedGuide([LeafGuide(), LeafGuide()])
        return kinds[kind == "coupled"], LeafGuide()

    @pytest.mark.parametrize("kind", ["plain", "coupled", "mixed"])
    def test_missing_channels_are_imputed_given_those_of_their_position(self, kind):
        """Frequencies and means are those of the evidence of all completions."""
        leaf, guide = self.leaves(kind)
        spvae = SPVAE(whole((1, 2)), 2, leaf=leaf, guide=guide, channels=2)
        moved_from_start(spvae)
        x = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
        observed = torch.tensor([[[True, True]], [[False, True]]])  # the second channel of the first position is not
        every = x.expand(3, 2, 1, 2).clone()
        every[:, 1, 0, 0] = torch.arange(3.0)
        probability = spvae.log_likelihood(every, num_samples=1).softmax(0)
        rows = x.expand(4000, 2, 1, 2)
        filled = spvae.impute(rows, observed)[0]
        assert torch.equal(filled[:, observed], rows[:, observed])
        counts = torch.bincount(filled[:, 1, 0, 0].long(), minlength=3)
        expected = 4000 * probability
        assert chi2.sf(float(((counts - expected).square() / expected).sum()), 2) > 1e-6
        means = spvae.impute(rows, observed, means=True)[0, :, 1, 0, 0]
        wanted = float(probability @ torch.arange(3.0))
        assert abs(float(means.mean()) - wanted) < 5 * float(means.std()) / math.sqrt(4000) + 1e-6


def test_the_most_probable_completion_is_known_of_one_channel():
    spn = SPN(whole((1, 2)), 2, likelihood=DiscretizedLogisticMixture(4, components=3))
    moved_from_start(spn)
    every = combinations(4, 2).reshape(-1, 1, 1, 2)
    explained = spn.mpe()
    joint = spn.circuit.mpe(spn.leaf.pixels(mask=None).log_prob(spn.view(every)))[1]
    torch.testing.assert_close(explained.log_prob, joint.max(0, keepdim=True).values)
    colour = SPN(whole((1, 2)), 2, likelihood=DiscretizedLogisticMixture(4, components=3), channels=2)
    with pytest.raises(
        ValueError, match="^mpe needs the mode of the likelihood DiscretizedLogisticMixture, which is n"
    ):
        colour.mpe()


@pytest.mark.parametrize("channels", [1, 3])
def test_is_made_by_name_with_levels_and_channels_of_the_data(channels):
    data = images(levels=7, channels=channels)
    text = f"discretized-logistic-mixture(components=2, coupled={channels > 1})"
    config = resolve(dataclasses.replace(TINY, likelihood=text), data)
    assert config.preprocess == "integers"
    data = modelled(config, data)
    likelihood = build_likelihood(config, data.values)
    assert isinstance(likelihood, DiscretizedLogisticMixture) and likelihood.levels == 7
    spvae = build_model(config, data)
    assert spvae.leaf.pixels.likelihood.sizes["channels"] == channels
    x = spvae.sample(3)
    assert spvae.log_likelihood(x, num_samples=2).isfinite().all()
    x[0, 0, 0, 0] = 7
    with pytest.raises(ValueError, match="the likelihood DiscretizedLogisticMixture accepts the integers 0 to 6$"):
        spvae.check(x)


@pytest.mark.parametrize(
    ("likelihood", "data", "message"),
    [
        (
            "discretized-logistic-mixture",
            table(),
            "likelihood is 'discretized-logistic-mixture', but the values of table",
        ),
        (
            "discretized-logistic-mixture(coupled=True)",
            images(),
            "coupled of the likelihood is True, but the data have o",
        ),
        (
            "bernoulli",
            images(levels=8, channels=3),
            "likelihood is 'bernoulli', but the values of images are not only 0",
        ),
    ],
)
def test_data_that_do_not_fit(likelihood, data, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        config = resolve(dataclasses.replace(TINY, likelihood=likelihood), data)
        build_model(config, modelled(config, data))
