# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pixels given latent vectors under autoregressive decoders: normalised, and drawn as the density says."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine
from scipy.stats import chi2
from torch import nn

import pyro_spvae.distributions as dist
from pyro_spvae.conditionals import Pixels
from pyro_spvae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogisticMixture,
    Likelihood,
    Normal,
    StudentT,
)
from pyro_spvae.nn import MLP, MultiScale, PixelCNN
from pyro_spvae.queries.decoding import DrawMessenger
from pyro_spvae.testing.block_tests import moved_from_start


class Tinted(Likelihood):
    """Bernoulli pixels whose log-odds are shifted by a parameter of each pixel."""

    accepts = "0 and 1"

    def build(self, leaves, pixels):
        self.shift = nn.Parameter(torch.randn(leaves, pixels))

    def forward(self, outputs, mask=None):
        return dist.LeafBernoulli(outputs[0] + self.shift, mask=mask)

    def supports(self, x):
        return (x == 0) | (x == 1)


def scattered(module):
    """Running statistics and parameters away from where they start, in evaluation mode."""
    moved_from_start(module)
    for name, buffer in module.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return module.eval()


# kinds of decoders, with their small sizes
PIXEL_BY_PIXEL = (PixelCNN, {"filters": 5, "layers": 2})
BY_SCALES = (MultiScale, {"smallest": 1, "filters": 4, "blocks": 1, "padding": "bottom-right"})
KINDS = {"pixelcnn": PIXEL_BY_PIXEL, "multi-scale": BY_SCALES}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def autoregressive(likelihood, shape, leaves=2, kind=PIXEL_BY_PIXEL, **options):
    make, small = kind
    decoder = make(**(small | options))
    pixels = Pixels(likelihood, decoder).bind(leaves=leaves, pixels=math.prod(shape), inputs=2, patch=shape)
    return scattered(pixels)


def naive_sample(block, z, shape):
    """A full evaluation for every step; the law of the step's pixels is drawn from alone, with their channels."""
    decoder, likelihood = block.decoder, block.likelihood
    context, entries = decoder.context(z), math.prod(shape)
    x = torch.zeros(*z.shape[:-1], entries)
    for place in decoder.steps(context):
        sizes = {"leaves": z.size(-2), "pixels": len(place), "channels": shape[0]}
        alone = type(likelihood)(**likelihood.options()).bind(**sizes)
        outputs = decoder(context, likelihood.features(x))
        x[..., place] = alone(
            tuple(out.unflatten(-1, (entries, -1))[..., place, :].flatten(-2) for out in outputs)
        ).sample()
    return x


def at_mean(likelihood, decoder, data=None, **options):
    """Pixels of two leaves of four, that have seen the mean of data or not."""
    block = Pixels(likelihood, decoder, **options).bind(leaves=2, pixels=4, inputs=2, patch=(1, 2, 2))
    if data is not None:
        block.start_at(data, None)
    return block


def test_outputs_start_at_the_mean_of_the_data():
    """Of a decoder that says nothing yet the pixels' means are those of the data, within 0.001 of 0 and 1."""
    data, z = (torch.rand(50, 2, 4) < torch.rand(2, 4)).double(), torch.randn(5, 2, 2)
    data[..., 0] = 1.0
    block = at_mean(Bernoulli(), MLP((3,), output_gain=1e-12), from_mean=True)
    assert block.data.wanted_rows > 0
    torch.testing.assert_close(block(z).mean, torch.full((5, 2, 4), 0.5))
    block.start_at(data, None)
    torch.testing.assert_close(block(z).mean, data.mean(0).clamp(1e-3, 1 - 1e-3).expand(5, 2, 4))
    mask = torch.tensor([[True, False, True, True]])
    assert torch.equal(block(z, mask=mask).logits, block(z).logits) and block(z, mask=mask).pixel_mask is mask


def test_what_a_decoder_says_is_added_to_the_start():
    data, z = (torch.rand(50, 2, 4) < 0.3).double(), torch.randn(5, 2, 2)
    block = at_mean(Bernoulli(), MLP((3,)), data, from_mean=True)
    mean = data.mean(0)
    torch.testing.assert_close(block(z).logits, block.decoder(z)[0] + (mean / (1 - mean)).log())


@pytest.mark.parametrize(
    ("likelihood", "decoder"),
    [
        (StudentT(), MLP((3,), networks="shared")),  # which does not say
        (Bernoulli(), PixelCNN(2, 2)),
        (Bernoulli(), None),
    ],
)
def test_others_start_as_they_are(likelihood, decoder):
    data, z = torch.rand(50, 2, 4), torch.randn(5, 2, 2)
    block = at_mean(likelihood, decoder, data, from_mean=True).eval()
    assert block.data is None and Pixels(likelihood, decoder).data is None
    x = (torch.rand(5, 2, 4) < 0.5).double()
    if decoder is None:
        outputs = tuple(block.outputs)
    elif decoder.autoregressive:
        outputs = decoder(decoder.context(z), x)
    else:
        outputs = decoder(z)
    torch.testing.assert_close(block(z).log_prob(x), likelihood(outputs).log_prob(x))


def test_the_likelihood_says_it_where_nobody_does():
    """And a missing pixel says nothing of the mean."""
    data, z = torch.tensor([[[0.0, 2.0, 7.0, 3.0]], [[7.0, 2.0, 7.0, 3.0]]]).expand(2, 2, 4), torch.randn(5, 2, 2)
    for given, own, starts in ((None, True, True), (None, False, False), (False, True, False), (True, False, True)):
        block = at_mean(Binomial(7, from_mean=own), MLP((3,), output_gain=1e-12), from_mean=given)
        block.start_at(data, torch.tensor([[True, True, True, False], [False, True, True, False]]).unsqueeze(1))
        mean = torch.tensor([1.75, 2.5, 35 / 6, 3.5]) if starts else torch.full((4,), 3.5)
        torch.testing.assert_close(block(z).mean, mean.expand(5, 2, 4))
        assert block.from_mean == starts == (block.data is not None)


def test_starts_once():
    block = at_mean(Bernoulli(), MLP((3,)), torch.ones(3, 2, 4), from_mean=True)
    z = torch.randn(5, 2, 2)
    before = block(z).logits
    block.start_at(torch.zeros(3, 2, 4), None)
    assert torch.equal(block(z).logits, before) and block.data.wanted_rows == 0


class TestStates:
    """What is known of the data is kept, also what models knew that were saved before."""

    def block(self, likelihood=None):
        return at_mean(likelihood or Bernoulli(), MLP((3,)), from_mean=True)

    @pytest.mark.parametrize("starts", [False, True])
    def test_round_trip(self, starts):
        block, again, z = self.block(), self.block(), torch.randn(5, 2, 2)
        if starts:
            block.start_at((torch.rand(9, 2, 4) < 0.3).double(), None)
        again.start_at(torch.ones(3, 2, 4), None)
        again.load_state_dict(block.state_dict())
        torch.testing.assert_close(again(z).logits, block(z).logits, rtol=0, atol=0)
        assert again.data.wanted_rows == block.data.wanted_rows

    @pytest.mark.parametrize("mean", [None, torch.nan, 0.25])
    def test_of_models_before(self, mean):
        """They kept the mean of features, NaN where they waited; those of other likelihoods had none."""
        likelihood = Binomial(3) if mean is None else Bernoulli()
        block, z = self.block(likelihood), torch.randn(5, 2, 2)
        block.start_at(torch.ones(3, 2, 4), None)
        state = {name: value for name, value in block.state_dict().items() if not name.startswith("data.")}
        if mean is not None:
            state["mean.values"] = torch.full((2, 4), mean)
        block.load_state_dict(state)
        start = -math.log(3) if mean == 0.25 else 0.0
        torch.testing.assert_close(block(z).logits, block.decoder(z)[0] + start)
        assert (block.data.wanted_rows > 0) == (mean is torch.nan)

    def test_of_a_part_on_the_meta_device(self):
        block = self.block().to("meta")
        block.load_state_dict({name: value.to("meta") for name, value in self.block().state_dict().items()})
        assert block.data.wanted_rows == 0
        with pyro.validation_enabled(False):
            assert block(torch.randn(5, 2, 2, device="meta")).logits.is_meta


def test_from_mean_is_true_or_false():
    with pytest.raises(ValueError, match=r"^from_mean is 1; True or False is needed$"):
        Pixels(Bernoulli(), MLP(), from_mean=1)


@pytest.mark.parametrize("masked", [False, True])
def test_pixels_are_the_likelihood_of_the_decoders_outputs(masked):
    mask = torch.tensor([[True, True, False, True]]) if masked else None
    block = Pixels(Bernoulli(), MLP((3,))).bind(leaves=2, pixels=4, inputs=2)
    z = torch.randn(5, 2, 2)
    law = block(z, mask=mask)
    assert isinstance(law, dist.LeafBernoulli) and law.pixel_mask is mask
    torch.testing.assert_close(law.logits, block.decoder(z)[0])
    free = Pixels(Normal()).bind(leaves=2, pixels=4)
    law = free(mask=mask)
    torch.testing.assert_close(law.loc, free.outputs[0])
    assert [output.shape for output in free.outputs] == [(2, 4), (2, 4)] and law.pixel_mask is mask


def test_checks_values_and_whole_patches():
    x = torch.tensor([[[0.0, 1, 0, 1]], [[1, 1, 0, 0.5]]])
    mask = torch.ones_like(x, dtype=torch.bool)
    some = mask.clone()
    some[1, 0, 3] = False
    plain = Pixels(Bernoulli(), MLP((3,))).bind(leaves=1, pixels=4, inputs=2)
    plain.check(x, some)
    cnn = autoregressive(Bernoulli(), (1, 2, 2), leaves=1)
    for block in (plain, cnn):
        with pytest.raises(ValueError, match="^x holds the value 0.5 "):
            block.check(x, mask)
    with pytest.raises(ValueError, match="^mask shows a part of a patch, "):
        cnn.check(x, some)
    assert torch.equal(Pixels(Binomial(5)).bind(leaves=1, pixels=4).features(x), x / 5)


def test_refused():
    with pytest.raises(TypeError, match="^likelihood is the class Bernoulli; an instance of Likelihood is needed$"):
        Pixels(Bernoulli)
    with pytest.raises(TypeError, match="^decoder is a Linear; an instance of Network is needed$"):
        Pixels(Bernoulli(), nn.Linear(2, 2))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"latents": "masked"},
        {"norm": "none", "layers": 3},
        {"kind": BY_SCALES},
        {"kind": BY_SCALES, "smallest": 2, "norm": "none"},
    ],
)
@pytest.mark.parametrize("likelihood", [Bernoulli, Tinted])
def test_density_sums_to_one_and_draws_follow_it(options, likelihood):
    torch.manual_seed(5)
    law = autoregressive(likelihood(), (1, 3, 2), **options)(torch.randn(2, 2))
    images = torch.cartesian_prod(*6 * [torch.tensor([0.0, 1.0])]).unsqueeze(1)  # [64, 1, P]
    probability = law.log_prob(images).exp().detach()
    torch.testing.assert_close(probability.sum(0), torch.ones(2))
    number = 10_000
    index = (law.sample((number,)) @ 2.0 ** torch.arange(5, -1, -1)).long()
    for leaf in range(2):
        share = torch.bincount(index[:, leaf], minlength=64) / number
        expected = probability[:, leaf]
        assert number * ((share - expected).square() / expected).sum() < 130  # chi-square of 63 degrees, p < 1e-6


@pytest.mark.parametrize(
    "likelihood",
    [Bernoulli(), Binomial(7), Categorical(3), Normal(), DiscretizedLogisticMixture(5, 4)],
    ids=lambda one: str(one)[:8],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_draws_equal_those_of_full_evaluations(likelihood, channels, kind):
    shape = (channels, 3, 4)
    block = autoregressive(type(likelihood)(**likelihood.options()), shape, kind=kind)
    z = torch.randn(3, 2, 2)
    torch.manual_seed(1)
    drawn = block(z).sample()
    torch.manual_seed(1)
    torch.testing.assert_close(drawn, naive_sample(block, z, shape))
    assert drawn.unique().numel() > 1


class OwnLevels(Likelihood):
    """
    Levels as a user writes them: log-odds of each pixel and level are shifted by a parameter, and features are not
    proportional to levels.
    """

    def __init__(self, levels):
        super().__init__()
        self.levels = levels
        self.accepts = f"the integers 0 to {levels - 1}"

    def build(self, leaves, pixels):
        self.shift = nn.Parameter(torch.randn(leaves, pixels, self.levels))

    @property
    def heads(self):
        return (self.sizes["pixels"] * self.levels,)

    def forward(self, outputs, mask=None):
        return dist.LeafCategorical(outputs[0].unflatten(-1, (-1, self.levels)) + self.shift, mask=mask)

    def features(self, x):
        return 10 * x - 4

    def supports(self, x):
        return (x >= 0) & (x < self.levels) & (x == x.round())


@pytest.mark.parametrize(
    ("likelihood", "channels", "levels", "size", "change"),
    [
        (OwnLevels, 3, 2, (1, 2), 0.1),
        (OwnLevels, 3, 2, (2, 1), 0.1),
        (OwnLevels, 2, 3, (1, 2), 0.1),
        (OwnLevels, 1, 3, (2, 2), 0.1),
        (partial(DiscretizedLogisticMixture, components=2), 2, 3, (1, 2), 0.01),  # features within [0, 1]
        (partial(DiscretizedLogisticMixture, components=2, coupled=True), 3, 2, (1, 2), 0.01),
        (partial(DiscretizedLogisticMixture, components=2, coupled=True), 2, 2, (2, 2), 0.01),
    ],
)
def test_levels_of_several_channels_are_drawn_as_their_density_says(likelihood, channels, levels, size, change, kind):
    """
    All images: probabilities sum to one, and are the frequencies of draws; a user's own likelihood is asked for whole
    patches, others for the step's positions with all of their channels.
    """
    torch.manual_seed(5)
    entries = channels * math.prod(size)
    wide = {"filters": 16} if kind is PIXEL_BY_PIXEL else {}
    law = autoregressive(likelihood(levels), (channels, *size), kind=kind, **wide)(2 * torch.randn(2, 2))
    images = torch.cartesian_prod(*entries * [torch.arange(levels).double()]).unsqueeze(1)
    probability = law.log_prob(images).exp().detach()
    torch.testing.assert_close(probability.sum(0), torch.ones(2))
    number = 10_000
    index = (law.sample((number,)) @ float(levels) ** torch.arange(entries - 1, -1, -1)).long()
    for leaf in range(2):
        found = torch.bincount(index[:, leaf], minlength=len(images)).double()
        expected = number * probability[:, leaf]
        frequent = expected >= 5
        found, expected = (torch.cat([v[frequent], v[~frequent].sum(0, True)]) for v in (found, expected))
        assert chi2.sf(((found - expected).square() / expected.clamp(min=1e-9)).sum(), frequent.sum()) > 1e-6
    # the second pixel depends on the last channel of the first one, and the first one on none of its own
    first = torch.arange(channels) * math.prod(size)
    changed = torch.zeros(1, 2, entries)
    changed[..., first[-1]] = 1.0
    changes = (law.conditional_mean(changed) - law.conditional_mean(torch.zeros(1, 2, entries))).abs().amax((0, 1))
    assert (changes[first] == 0).all() and changes[first + 1].max() > change


def test_few_rows_at_a_time_have_the_same_law(monkeypatch, kind):
    block = autoregressive(Bernoulli(), (1, 2, 2), kind=kind)
    monkeypatch.setattr(block.decoder, "rows_at_once", lambda context: 7)
    law = block(torch.randn(1, 2, 2)).expand((500, 2))
    drawn = law.sample()
    first = law.conditional_mean(drawn)[:, :, 0]
    torch.testing.assert_close(first, first[:1].expand(500, 2))  # nothing is before the first pixel
    assert ((drawn[:, :, 0].mean(0) - first[0]).abs() < 5 * (first[0] * (1 - first[0]) / 500).sqrt()).all()


def test_rows_at_once_bound_what_is_held():
    decoder = autoregressive(Bernoulli(), (1, 4, 4), leaves=3).decoder
    context = decoder.context(torch.randn(1, 3, 2))
    steps = decoder.steps(context)
    held = steps.of_maps.numel() + sum(seen.numel() for seen in steps.seen)
    assert decoder.rows_at_once(context) * held <= 2**25 <= 2 * decoder.rows_at_once(context) * held


def test_conditional_means_and_support():
    law = autoregressive(Normal(), (1, 3, 2))(torch.randn(3, 2, 2))
    x = torch.randn(3, 2, 6)
    later = x.clone()
    later[..., 4] += 1
    torch.testing.assert_close(law.conditional_mean(x)[..., :5], law.conditional_mean(later)[..., :5])
    assert (law.conditional_mean(x)[..., 5] != law.conditional_mean(later)[..., 5]).any()
    assert law.support.check(torch.full((6,), 0.3)) and law.support.event_dim == 1
    bernoulli = autoregressive(Bernoulli(), (1, 3, 2))(torch.randn(2, 2))
    assert not bernoulli.support.check(torch.full((6,), 0.3))


def test_a_draw_messenger_skips_draws_of_the_observation_alone():
    block = autoregressive(Bernoulli(), (1, 2, 2))

    def program():
        pyro.sample("other", dist.LeafBernoulli(torch.full((2, 3), 99.0)).to_event(0))
        return pyro.sample("x", block(torch.randn(3, 2, 2)).expand((3, 2)))

    with DrawMessenger(zero=torch.zeros(())):
        trace = poutine.trace(program).get_trace()
    assert trace.nodes["x"]["value"].shape == (3, 2, 4) and not trace.nodes["x"]["value"].any()
    assert trace.nodes["other"]["value"].all()
