# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of discretised logistics: PixelCNN++'s masses, which sum to 1, and what is drawn by them."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from torch.distributions import constraints
from torch.testing import assert_close

from pyro_spvae.distributions import LeafDiscretizedLogistic, LeafDiscretizedLogisticMixture
from pyro_spvae.distributions import discretized_logistic_mixture as module
from pyro_spvae.distributions.autoregressive import pixel_means
from tests.distributions.leaf_cases import SIZE, LeafDistributionTests, MaskedLeafDistributionTests
from tests.distributions.test_discretized_logistic import EXTREME, Bins

LEVELS, COMPONENTS = 4, 3


def combinations(levels, entries):
    """All values of some entries, ``[levels ** entries, entry]``."""
    return torch.tensor(list(itertools.product(range(levels), repeat=entries))).double()


def parameters_of(*batch, positions=2, channels=1, components=COMPONENTS, coupled=False):
    pixels, pairs = channels * positions, channels * (channels - 1) // 2
    found = {
        "logits": torch.randn(*batch, positions, components),
        "loc": 1.6 * torch.rand(*batch, pixels, components) - 0.3,
        "log_scale": -3.0 + 2.0 * torch.rand(*batch, pixels, components),
    }
    if coupled:
        found["coefficients"] = 2.0 * torch.rand(*batch, positions, pairs, components) - 1.0
    return found


def pixelcnn_log_mass(x, logits, loc, log_scale, coefficients=None, levels=LEVELS):
    """
    As Salimans et al. write it: values and means in [-1, 1], half a bin to either side, edges that take in the tails.
    Log-masses of values ``[.., channel]`` of one position, parameters being ``[.., channel, component]``.
    """
    half, channels = 1 / (levels - 1), x.size(-1)
    x = (2 * x / (levels - 1) - 1).unsqueeze(-1)
    # [0, 1] is cut in bins of equal width, whose middles are the levels on [-1, 1]
    means = (loc - 0.5) * 2 * levels / (levels - 1)
    scales = log_scale.exp() * 2 * levels / (levels - 1)
    total = logits.log_softmax(-1)
    for c in range(channels):
        mean = means[..., c, :]
        for b in range(c if coefficients is not None else 0):
            mean = mean + coefficients[..., c * (c - 1) // 2 + b, :] * x[..., b, :]
        upper = torch.sigmoid((x[..., c, :] + half - mean) / scales[..., c, :])
        lower = torch.sigmoid((x[..., c, :] - half - mean) / scales[..., c, :])
        first, last = x[..., c, :] < -0.999, x[..., c, :] > 0.999
        total = total + torch.where(first, upper, torch.where(last, 1 - lower, upper - lower)).log()
    return total.logsumexp(-1)


class Joint(dist.TorchDistribution):
    """Tables of all values of each position's channels, by the formula above."""

    arg_constraints = {}
    has_rsample = False
    channels = 2

    def __init__(self, parameters):
        self.parameters = parameters
        positions = parameters["logits"].size(-2)
        values = combinations(LEVELS, self.channels)  # [V^C, C]
        loc, log_scale = (
            parameters[name].unflatten(-2, (-1, positions)).transpose(-2, -3) for name in ("loc", "log_scale")
        )  # [.., N, C, K]
        table = [
            pixelcnn_log_mass(value, parameters["logits"], loc, log_scale, parameters.get("coefficients"))
            for value in values
        ]
        self.values, self.table = values, torch.stack(table, -1)  # [.., N, V^C]
        super().__init__(self.table.shape[:-2], torch.Size((self.channels * positions,)), validate_args=False)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self):
        return constraints.independent(constraints.integer_interval(0, LEVELS - 1), 1)

    def expand(self, batch_shape, _instance=None):
        dims = {name: 3 if name == "coefficients" else 2 for name in self.parameters}
        return type(self)({
            name: value.expand(*batch_shape, *value.shape[value.dim() - dims[name] :])
            for name, value in self.parameters.items()
        })  # fmt: skip

    def log_prob(self, value):
        place = LEVELS ** torch.arange(self.channels).flip(0)
        index = (value.unflatten(-1, (self.channels, -1)) * place.unsqueeze(-1)).sum(-2).long()  # [.., N]
        shape = torch.broadcast_shapes(index.shape, self.table.shape[:-1])
        chosen = self.table.expand(*shape, -1).gather(-1, index.expand(shape).unsqueeze(-1))
        return chosen.squeeze(-1).sum(-1)

    def sample(self, sample_shape=()):
        index = dist.Categorical(logits=self.table).sample(torch.Size(sample_shape))
        return self.values[index].transpose(-1, -2).flatten(-2)

    @property
    def mean(self):
        return (self.table.exp() @ self.values).transpose(-1, -2).flatten(-2)

    @property
    def variance(self):
        return (self.table.exp() @ self.values.square()).transpose(-1, -2).flatten(-2) - self.mean.square()


class Mixed(Bins):
    """Masses of one channel: averages of the components' by differences of sigmoids."""

    def __init__(self, logits, loc, log_scale):
        self.own = (logits, loc, log_scale)
        probs = (logits.softmax(-1).unsqueeze(-1) * Bins(loc, log_scale).probs).sum(-2)
        dist.Categorical.__init__(self, probs=probs)

    def expand(self, batch_shape, _instance=None):
        return type(self)(*(value.expand(*batch_shape, value.size(-1)) for value in self.own))


class TestOneChannel(MaskedLeafDistributionTests):
    has_entropy = False
    pixel_dim = -2
    bad_values = (0.5, -1.0, 4.0, float("nan"))

    def parameters(self, *batch):
        return parameters_of(*batch, positions=SIZE)

    def build(self, parameters, mask=None):
        return LeafDiscretizedLogisticMixture(**parameters, levels=LEVELS, mask=mask)

    def reference(self, parameters):
        return Mixed(**parameters)

    @pytest.mark.parametrize("held", [1, 2, 3, 2**22])
    def test_the_mode_is_the_largest_of_all_masses(self, held, monkeypatch):
        d = self.build(self.parameters(300))
        monkeypatch.setattr(module, "_BLOCK", held * 300 * SIZE * COMPONENTS)
        probs = self.reference(self.parameters_of_law(d)).probs
        assert_close(d.mode, probs.argmax(-1).double())
        assert len(d.mode.unique()) == LEVELS

    def parameters_of_law(self, d):
        return {name: getattr(d, name) for name in d.arg_constraints}


class TestTwoChannels(LeafDistributionTests):
    """Two positions; channels of one depend on each other by the component alone."""

    has_entropy = False
    pixel_dim = -2
    bad_values = (0.5, -1.0, 4.0, float("nan"))
    coupled = False
    test_pixels_are_independent = test_no_value_is_more_probable_than_the_mode = None

    def parameters(self, *batch):
        return parameters_of(*batch, positions=2, channels=2, coupled=self.coupled)

    def build(self, parameters, mask=None):
        return LeafDiscretizedLogisticMixture(**parameters, levels=LEVELS, mask=mask)

    def stock(self, parameters):
        return Joint(parameters)

    def test_positions_are_independent_and_channels_are_not(self):
        d = self.build(self.parameters(2))
        n = 40_000
        centred = d.sample((n,)) - self.stock({name: getattr(d, name) for name in d.arg_constraints}).mean
        for pair, related in (((0, 1), False), ((0, 3), False), ((0, 2), True), ((1, 3), True)):
            products = centred[..., pair[0]] * centred[..., pair[1]]
            far = products.mean(0).abs() > 5 * products.std(0) / n**0.5
            assert far.any() if related else not far.any()

    def test_no_mode(self):
        with pytest.raises(NotImplementedError, match="of several channels has no mode"):
            self.build(self.parameters(2)).mode  # noqa: B018


class TestCoupled(TestTwoChannels):
    coupled = True
    test_samples_have_the_stated_moments = test_moments_equal_torch = None

    def test_shapes(self):
        d = self.build(self.parameters(3, 2)).expand((5, 3, 2))
        x = d.sample((7,))
        assert x.shape == d.shape((7,)) == (7, 5, 3, 2, SIZE) and d.log_prob(x).shape == (7, 5, 3, 2)
        for name in ("mean", "variance"):
            with pytest.raises(NotImplementedError, match="has no mean or variance in closed form; conditional_mean"):
                getattr(d, name)

    def test_expand_records_the_shape_and_keeps_parameters(self):
        parameters = self.parameters(1, 2)
        e = self.build(parameters).expand((5, 3, 2))
        assert all(getattr(e, name) is parameter for name, parameter in parameters.items())
        for shape in [(SIZE,), (3, 2, SIZE), (7, 5, 3, 2, SIZE)]:
            x = self.values(*shape)
            assert_close(e.log_prob(x), self.stock(parameters).expand((5, 3, 2)).log_prob(x))

    def test_float32_is_near_float64(self):
        parameters, x = self.parameters(40, 2), self.values(40, 2, SIZE)
        small = self.build({name: p.float() for name, p in parameters.items()})
        assert small.log_prob(x.float()).dtype == small.sample().dtype == torch.float32
        assert_close(small.log_prob(x.float()).double(), self.build(parameters).log_prob(x), rtol=2e-6, atol=2e-6)

    @pytest.mark.parametrize("channels", [2, 3])
    def test_conditional_means_are_those_of_the_masses(self, channels):
        """Of each channel given those before it, by enumeration; ``pixel_means`` finds them."""
        d = LeafDiscretizedLogisticMixture(**parameters_of(positions=1, channels=channels, coupled=True), levels=LEVELS)
        x = combinations(LEVELS, channels)
        mass = d.log_prob(x).exp()
        for value in x:
            means = []
            for channel in range(channels):
                same = (x[:, :channel] == value[:channel]).all(-1)
                means.append(mass[same] @ x[same, channel] / mass[same].sum())
            assert_close(pixel_means(d, value), torch.stack(means))
        assert d.expand((5, 2)).conditional_mean(x[:1]).shape == (5, 2, channels)


CASES = [(1, False), (2, False), (2, True), (3, False), (3, True)]


class TestMasses:
    @pytest.mark.parametrize(("channels", "coupled"), CASES)
    def test_sum_to_one(self, channels, coupled):
        """Over all combinations of two positions, at means inside and outside, broad and narrow."""
        levels = 3
        parameters = parameters_of(6, positions=2, channels=channels, coupled=coupled)
        parameters["log_scale"] = torch.tensor([-8.0, -3.0, 2.0]).expand_as(parameters["log_scale"])
        parameters["loc"] = 5 * parameters["loc"]
        d = LeafDiscretizedLogisticMixture(**parameters, levels=levels)
        mass = d.log_prob(combinations(levels, 2 * channels).unsqueeze(1)).exp().sum(0)
        assert_close(mass, torch.ones(6), rtol=0, atol=1e-12)

    def test_of_one_channel_sum_to_one_at_all_levels(self):
        d = LeafDiscretizedLogisticMixture(**parameters_of(20, positions=1, components=10))
        mass = d.log_prob(torch.arange(256.0).reshape(-1, 1, 1)).exp().sum(0)
        assert_close(mass, torch.ones(20), rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("channels", "coupled"), CASES)
    def test_equal_those_of_pixelcnn(self, channels, coupled):
        """In values and all gradients."""
        levels, positions = 7, 5
        parameters = parameters_of(4, 2, positions=positions, channels=channels, coupled=coupled)
        parameters = {name: value.requires_grad_() for name, value in parameters.items()}
        x = torch.randint(levels, (4, 2, channels * positions)).double()
        ours = LeafDiscretizedLogisticMixture(**parameters, levels=levels).log_prob(x)
        of_positions = [
            parameters[name].unflatten(-2, (channels, positions)).transpose(-2, -3) for name in ("loc", "log_scale")
        ]
        by_position = x.unflatten(-1, (channels, positions)).transpose(-1, -2)
        theirs = pixelcnn_log_mass(
            by_position, parameters["logits"], *of_positions, parameters.get("coefficients"), levels
        ).sum(-1)
        assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        weight = torch.randn(ours.shape)
        gradients = [torch.autograd.grad((weight * value).sum(), list(parameters.values())) for value in (ours, theirs)]
        assert_close(gradients[0], gradients[1], rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_of_one_component_are_the_discretised_logistic(self, channels):
        parameters = parameters_of(4, 2, positions=5, channels=channels, components=1)
        one = LeafDiscretizedLogistic(parameters["loc"].squeeze(-1), parameters["log_scale"].squeeze(-1), 9)
        mixture = LeafDiscretizedLogisticMixture(**parameters, levels=9)
        x = one.sample((3,))
        assert_close(mixture.log_prob(x), one.log_prob(x), rtol=1e-12, atol=1e-12)
        assert_close((mixture.mean, mixture.variance), (one.mean, one.variance))
        if channels == 1:
            assert_close(mixture.mode, one.mode)

    @pytest.mark.parametrize(("channels", "coupled"), CASES)
    def test_gradients_equal_finite_differences(self, channels, coupled):
        parameters = parameters_of(positions=2, channels=channels, components=2, coupled=coupled)
        x = torch.randint(5, (3, 2 * channels)).double()
        x[0], x[1] = 0.0, 4.0
        mask = torch.tensor([True, False]).repeat(channels)

        def log_prob(*tensors):
            own = dict(zip(parameters, tensors, strict=True))
            return LeafDiscretizedLogisticMixture(**own, levels=5, mask=mask).log_prob(x)

        inputs = [value.requires_grad_() for value in parameters.values()]
        assert torch.autograd.gradcheck(log_prob, inputs, rtol=1e-4)
        assert torch.autograd.gradgradcheck(log_prob, inputs, rtol=1e-4)

    def test_far_out_in_single_precision(self):
        """Where masses are below the smallest number, log-masses and gradients are those of double precision."""
        parameters = {
            "logits": torch.tensor([[0.3, -40.0]]),
            "loc": torch.tensor([[6.0, -5.0]] * 3),
            "log_scale": torch.full((3, 2), -4.5),
            "coefficients": torch.tensor([[[0.9, -0.9]] * 3]),
        }
        x = torch.tensor([[7.0, 130.0, 250.0], [0.0, 255.0, 1.0]])
        found = []
        for dtype in (torch.float32, torch.float64):
            own = {name: value.to(dtype).requires_grad_() for name, value in parameters.items()}
            log_prob = LeafDiscretizedLogisticMixture(**own).log_prob(x.to(dtype))
            found.append([log_prob, *torch.autograd.grad(log_prob.sum(), list(own.values()))])
        assert (found[1][0] < -700).all()
        for small, exact in zip(*found, strict=True):
            assert_close(small.double(), exact, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("coupled", [False, True])
    def test_extreme_parameters_are_finite_in_single_precision(self, coupled):
        extreme = [*EXTREME, (0.5, -60.0), (0.5, 60.0), (-1e8, 0.0)]
        parameters = parameters_of(256, positions=1, channels=2, components=len(extreme), coupled=coupled)
        parameters["loc"], parameters["log_scale"] = (
            torch.tensor(values).expand(256, 2, -1).clone() for values in zip(*extreme, strict=True)
        )
        own = {name: value.float().requires_grad_() for name, value in parameters.items()}
        x = torch.arange(256.0, dtype=torch.float32).unsqueeze(-1).expand(-1, 2)
        log_prob = LeafDiscretizedLogisticMixture(**own).log_prob(x)
        assert log_prob.isfinite().all() and (log_prob <= 0).all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(log_prob.sum(), list(own.values())))

    def test_parameters_may_broadcast(self):
        """Of some the batch is smaller than that of others and of values; gradients have their shapes."""
        parts = parameters_of(positions=2, channels=2, coupled=True)
        parts = {"logits": parts["logits"].expand(3, 1, 2, -1).clone(), **{n: parts[n] for n in parts if n != "logits"}}
        full = {
            name: value.expand(5, 3, 2, *value.shape[-2 - (name == "coefficients") :]) for name, value in parts.items()
        }
        ours = LeafDiscretizedLogisticMixture(**{n: p.requires_grad_() for n, p in parts.items()}, levels=LEVELS)
        theirs = LeafDiscretizedLogisticMixture(**full, levels=LEVELS)
        assert ours.batch_shape == (3, 1)
        x = torch.randint(LEVELS, (5, 3, 2, 4)).double()
        assert_close(ours.log_prob(x), theirs.log_prob(x))
        for name, grad in zip(parts, torch.autograd.grad(ours.log_prob(x).sum(), list(parts.values())), strict=True):
            assert grad.shape == parts[name].shape

    def test_keeps_two_numbers_an_entry_for_the_gradient(self):
        """Of each pixel and component, where autograd would keep a dozen."""
        parameters = parameters_of(8, positions=50, channels=2, components=5)
        own = {name: value.requires_grad_() for name, value in parameters.items()}
        kept: dict[int, int] = {}

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            law = LeafDiscretizedLogisticMixture(**own)
            log_prob = law.log_prob(torch.randint(256, (8, 100)).double())
        given = {value.untyped_storage().data_ptr() for value in own.values()}
        entries = own["loc"].numel()
        assert sum(size for place, size in kept.items() if place not in given) < 3.5 * entries
        assert log_prob.requires_grad


class TestMasks:
    @pytest.mark.parametrize(("channels", "coupled"), CASES)
    def test_are_marginals(self, channels, coupled):
        """What is left of the masses of all combinations when those of hidden pixels are summed."""
        levels, positions = 3, 2
        parameters = parameters_of(4, positions=positions, channels=channels, coupled=coupled)
        whole = LeafDiscretizedLogisticMixture(**parameters, levels=levels)
        every = combinations(levels, channels * positions)
        mass = whole.log_prob(every.unsqueeze(1)).exp()  # [value, 4]
        for shown in itertools.product([False, True], repeat=channels * positions):
            mask = torch.tensor(shown)
            by_channel = mask.unflatten(-1, (channels, positions))
            if coupled and bool((by_channel[1:] & ~by_channel[:-1]).any()):
                with pytest.raises(ValueError, match="^mask hides a channel of a position and shows one behind it"):
                    LeafDiscretizedLogisticMixture(**parameters, levels=levels, mask=mask)
                continue
            d = LeafDiscretizedLogisticMixture(**parameters, levels=levels, mask=mask)
            for value in every[:: max(1, len(every) // 5)]:
                same = (every[:, mask] == value[mask]).all(-1)
                filled = torch.where(mask, value, 1e30)
                assert_close(d.log_prob(filled).exp(), mass[same].sum(0), rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize(("channels", "coupled"), CASES)
    def test_hidden_positions_add_exactly_nothing(self, channels, coupled):
        parameters = parameters_of(4, positions=3, channels=channels, coupled=coupled)
        parameters = {name: value.requires_grad_() for name, value in parameters.items()}
        mask = torch.tensor([True, False, True]).repeat(channels)
        x = torch.randint(LEVELS, (4, 3 * channels)).double()
        results = []
        for filler in (0.0, 1e30, math.inf, math.nan):
            d = LeafDiscretizedLogisticMixture(**parameters, levels=LEVELS, mask=mask)
            log_prob = d.log_prob(torch.where(mask, x, filler))
            gradients = torch.autograd.grad(log_prob.sum(), list(parameters.values()))
            for name, gradient in zip(parameters, gradients, strict=True):
                axis = gradient.dim() - (3 if name == "coefficients" else 2)
                by_position = gradient.unflatten(axis, (-1, 3)).movedim(axis + 1, 0)
                assert (by_position[1] == 0).all() and (by_position[0] != 0).any()
            results.append((log_prob, *gradients))
        for other in results[1:]:
            assert_close(other, results[0], rtol=0, atol=0)
        nothing = LeafDiscretizedLogisticMixture(
            **parameters, levels=LEVELS, mask=torch.zeros(1, dtype=torch.bool)
        ).log_prob(torch.full((4, 3 * channels), math.nan))
        assert torch.equal(nothing, torch.zeros(4))

    def test_coupled_masks_are_looked_at_under_validation_alone(self):
        parameters, mask = parameters_of(positions=1, channels=2, coupled=True), torch.tensor([False, True])
        with pytest.raises(ValueError, match="^mask hides a channel"):
            LeafDiscretizedLogisticMixture(**parameters, mask=mask)
        with pyro.validation_enabled(False):
            LeafDiscretizedLogisticMixture(**parameters, mask=mask)


class TestDraws:
    @pytest.mark.parametrize(("channels", "coupled"), CASES)
    def test_frequencies_are_the_masses(self, channels, coupled):
        """Of all combinations of a position's channels, by chi-square."""
        levels, n = 3, 50_000
        d = LeafDiscretizedLogisticMixture(
            **parameters_of(positions=1, channels=channels, coupled=coupled), levels=levels
        )
        check_frequencies(d.log_prob(combinations(levels, channels)).exp(), d.sample((n,)), levels)

    @pytest.mark.parametrize(("channels", "coupled"), CASES[1:])
    def test_given_what_is_seen(self, channels, coupled):
        """The other channels of a position follow their masses given the seen ones; so do log-density and means."""
        levels = 3
        d = LeafDiscretizedLogisticMixture(
            **parameters_of(positions=1, channels=channels, coupled=coupled), levels=levels
        )
        every = combinations(levels, channels)
        for count in range(1, channels):
            seen = torch.arange(channels) < count
            if not coupled:
                seen = seen.flip(0)
            value = torch.where(seen, torch.tensor([2.0, 0.0, 1.0])[:channels], math.nan)
            law = d.given_seen(value, seen)
            same = (every[:, seen] == value[seen]).all(-1)
            left = every[same]
            mass = d.log_prob(left).softmax(0)
            assert_close(law.log_prob(left).exp(), mass)
            assert_close(law.log_prob(torch.where(seen, math.nan, left)).exp(), mass)
            drawn = torch.where(seen, value, law.sample((50_000,)))
            check_frequencies(mass, drawn[:, ~seen], levels)
            for one in left:
                before = torch.ones(len(left), dtype=torch.bool)
                for channel in (~seen).nonzero().flatten().tolist():
                    if coupled:
                        before = (left[:, :channel] == one[:channel]).all(-1)
                    wanted = mass[before] @ left[before, channel] / mass[before].sum()
                    assert float(pixel_means(law, one)[channel]) == pytest.approx(float(wanted), rel=1e-9)

    def test_given_keeps_mask_batch_and_type(self):
        parameters = {name: value.half() for name, value in parameters_of(3, 2, positions=2, channels=2).items()}
        mask = torch.tensor([True, True, False, True])
        d = LeafDiscretizedLogisticMixture(**parameters, levels=LEVELS, mask=mask).expand((5, 3, 2))
        law = d.given_seen(torch.ones(3, 1, 4).half(), torch.tensor([True, False, False, False]))
        assert law.batch_shape == (5, 3, 2) and law.sample().dtype == torch.float16
        assert law.pixel_mask.tolist() == [False, True, False, True]
        assert d.pixel_mask is mask and d.sample().dtype == torch.float16


def check_frequencies(mass, drawn, levels):
    """Chi-square of draws ``[n, entry]`` against the masses of all combinations, at one in a million."""
    place = levels ** torch.arange(drawn.size(-1)).flip(0)
    counts = torch.bincount((drawn * place).sum(-1).long(), minlength=len(mass))
    expected = len(drawn) * mass
    often = expected > 5
    statistic = ((counts - expected).square() / expected)[often].sum()
    assert float(statistic) < chi2.isf(1e-6, int(often.sum()))
    assert counts[~often].sum() < 5 * (~often).sum() + 30


def wrong_shapes(**changes):
    return {**parameters_of(3, positions=2, channels=2), **changes}


REFUSED = [
    ({"levels": 1}, ValueError, "levels of LeafDiscretizedLogisticMixture must be at least 2, but 1 was given"),
    ({"levels": 2.0}, TypeError, "levels of LeafDiscretizedLogisticMixture must be an int, but 2.0 was given"),
    ({"coefficients": 1.0}, TypeError, "coefficients of LeafDiscretizedLogisticMixture must be a floating-point"),
    ({"loc": torch.zeros(3, 5, 3)}, ValueError, r", but the shapes are logits \(3, 2, 3\), loc \(3, 5, 3\)"),
    ({"loc": torch.zeros(3, 4, 2)}, ValueError, "multiple of the positions as pixels, .* but the shapes are"),
    ({"log_scale": torch.zeros(3, 4, 1)}, ValueError, "multiple of the positions as pixels, .* but the shapes are"),
    ({"logits": torch.zeros(3, 4, 0)}, ValueError, "multiple of the positions as pixels, .* but the shapes are"),
    (
        {"coefficients": torch.zeros(3, 2, 3, 3)},
        ValueError,
        r"if coefficients, of several channels, \[.., position, pair, c",
    ),
    ({"logits": torch.zeros(4, 2, 3)}, ValueError, "the parameters of .* must broadcast, but their shapes are logits"),
]


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED)
def test_refusals(changes, error, message):
    with pytest.raises(error, match=message):
        LeafDiscretizedLogisticMixture(**wrong_shapes(**changes))


def test_one_channel_has_nothing_to_couple():
    with pytest.raises(ValueError, match="if coefficients, of several channels"):
        LeafDiscretizedLogisticMixture(**parameters_of(positions=2), coefficients=torch.zeros(2, 0, 3))
