# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pseudo-inputs: where they start, their range, padding, data."""

from __future__ import annotations

import copy
import re
import warnings

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Binomial, Normal
from pyro_spvae.models import SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from tests.helpers import small_spvae
from tests.priors.cases import GRID, vamp


class TestPseudoInputs:
    def test_start_as_normals_of_the_papers_mean_and_deviation(self):
        prior = VampPrior().bind(leaves=2, event_shape=(1,), pixels=50)
        assert prior.components == 500 and prior.pseudo_inputs.shape == (2, 500, 50)
        assert prior.pseudo_inputs.mean().item() == pytest.approx(0.05, abs=3e-4)
        assert prior.pseudo_inputs.std().item() == pytest.approx(0.01, rel=0.02)
        other = VampPrior(400, mean=0.5, std=0.02).bind(leaves=1, event_shape=(1,), pixels=50)
        assert other.pseudo_inputs.mean().item() == pytest.approx(0.5, abs=1e-3)
        assert other.pseudo_inputs.std().item() == pytest.approx(0.02, rel=0.03)
        assert (VampPrior(2, mean=0.3, std=0).bind(leaves=1, event_shape=(1,), pixels=3).pseudo_inputs == 0.3).all()

    @pytest.mark.parametrize("limits", [(0.0, 1.0), (-0.5, 0.25), [0.2, 0.9]])
    def test_are_held_in_their_range(self, limits):
        spvae = vamp(range=limits)
        prior = spvae.leaf.prior
        with torch.no_grad():
            prior.pseudo_inputs.normal_()
        expected = prior.pseudo_inputs.clamp(*limits).movedim(0, 1)
        assert prior.inputs.shape == (3, spvae.num_leaves, spvae.view.pixels)
        assert torch.equal(prior.inputs, expected)
        assert prior.inputs.min() == limits[0] and prior.inputs.max() == limits[1]
        q = spvae.leaf_guide.posterior(expected)
        assert torch.equal(prior().loc, q.loc) and torch.equal(prior().scale, q.scale)
        (grad,) = torch.autograd.grad(prior.inputs.sum(), prior.pseudo_inputs)
        inside = (prior.pseudo_inputs > limits[0]) & (prior.pseudo_inputs < limits[1])
        assert torch.equal(grad, inside.double()) and not inside.all() and inside.any()

    def test_go_through_the_encoder_as_they_are(self):
        """The encoder sees features; pseudo-inputs are features already and are not turned into them again."""
        spvae = vamp(likelihood=Binomial(255))
        prior = spvae.leaf.prior
        q = spvae.leaf_guide.posterior(prior.pseudo_inputs.movedim(0, 1))
        assert torch.equal(prior().loc, q.loc)

    def test_padding_of_ragged_regions_does_not_matter(self):
        spvae = vamp(regions=poon_domingos((3, 2), delta=2), units=2)
        prior, mask = spvae.leaf.prior, spvae.view.mask
        assert mask is not None and not mask.all()
        z = torch.randn(4, spvae.num_leaves, 2)
        expected = prior().log_prob(z)
        (grad,) = torch.autograd.grad(expected.sum(), prior.pseudo_inputs)
        outside = ~mask.unsqueeze(1).expand_as(grad)
        assert (grad[outside] == 0).all() and (grad[~outside] != 0).all()
        assert (prior.inputs.movedim(0, 1)[outside] == 0).all()
        with torch.no_grad():
            prior.pseudo_inputs[outside] = 0.77
        assert torch.equal(prior().log_prob(z), expected)
        # a range without 0 would fill the padding with something that data have not
        q = vamp(regions=poon_domingos((3, 2), delta=2), range=(0.5, 1.0)).leaf.prior
        assert (q.inputs.movedim(0, 1)[outside] == 0).all()


class TestData:
    @pytest.mark.parametrize("likelihood", [Normal, lambda: Binomial(255)])
    @pytest.mark.parametrize("given", [True, False])
    def test_pseudo_inputs_are_features_of_patches_of_the_data(self, likelihood, given):
        x = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8)
        prior = VampPrior(data=x) if given else VampPrior(6, init="data", frozen=True)
        spvae = small_spvae(poon_domingos((4, 4), delta=2), prior=prior, likelihood=likelihood())
        spvae.start(x.double())
        assert prior.components == 6 and prior.frozen and prior.wanted_rows == 0
        features = spvae.leaf.features(spvae.view(x.double()))  # [6, L, P]
        order = [int((features == one).all(-1).all(-1).nonzero()) for one in prior.inputs]
        assert sorted(order) == list(range(6)), "whole data, each of them once"
        assert order != sorted(order), "in random order"

    def test_some_of_the_data_are_drawn_at_random_without_repetition(self):
        x = torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, 1, 2, 2).double() / 10
        chosen = set()
        for _ in range(20):
            values = small_spvae(prior=VampPrior(3, data=x)).leaf.prior.inputs[:, 0, 0].tolist()
            assert len(set(values)) == 3
            chosen |= set(values)
        assert len(chosen) == 10

    def test_frozen_ones_are_not_clipped_and_not_trained(self):
        x = 3 * torch.randn(4, 1, 2, 2)
        spvae = small_spvae(prior=VampPrior(data=x))
        prior = spvae.leaf.prior
        assert prior.inputs.abs().max() > 1
        before = prior.pseudo_inputs.clone()
        mixture = prior().loc.detach().clone()
        svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.05}), CircuitELBO(2))
        for _ in range(5):
            svi.step(x)
        assert torch.equal(prior.pseudo_inputs, before)
        assert not torch.equal(prior().loc, mixture), "the encoder is trained"

    def test_learned_ones_start_with_noise_and_are_trained(self):
        x = torch.full((400, 1, 2, 2), 0.5, dtype=torch.float64)
        spvae = SPVAE(GRID, prior=VampPrior(data=x, frozen=False, std=0.03))
        noise = spvae.leaf.prior.pseudo_inputs - 0.5
        assert noise.std().item() == pytest.approx(0.03, rel=0.05) and abs(noise.mean().item()) < 0.003
        before = spvae.leaf.prior.pseudo_inputs.clone()
        SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.05}), CircuitELBO(2)).step(x[:5])
        assert (spvae.leaf.prior.pseudo_inputs != before).all()
        frozen = small_spvae(prior=VampPrior(data=x)).leaf.prior
        assert torch.equal(frozen.inputs, torch.full_like(frozen.inputs, 0.5)), "frozen ones have no noise"

    def test_the_data_are_not_kept(self):
        prior = VampPrior(data=torch.rand(4, 1, 2, 2))
        small_spvae(prior=prior)
        assert not any(isinstance(value, torch.Tensor) for value in (prior._given, *prior._arguments.values()))
        assert prior.options()["data"] is None


class TestStart:
    def make(self, components=4, **options):
        return SPVAE(GRID, likelihood=Normal(), prior=VampPrior(components, init="data", **options))

    def test_is_asked_for_before_use(self):
        spvae = self.make()
        message = r"^the pseudo-inputs of this VampPrior start from data, which it has not seen; call spvae.start\(x\)"
        for use in (
            lambda: spvae.sample(),
            lambda: spvae.log_likelihood(torch.rand(2, 1, 2, 2), num_samples=2),
            lambda: CircuitELBO()(spvae.model, spvae.guide)(torch.rand(2, 1, 2, 2)),
            lambda: spvae.leaf.prior.inputs,
            lambda: spvae.leaf.prior(),
        ):
            with pytest.raises(ValueError, match=message):
                use()

    @pytest.mark.parametrize("frozen", [False, True])
    def test_what_is_missing_is_no_value_of_the_data(self, frozen):
        """Holes are filled with 0, which no datum is, and which is outside of the range."""
        x = 2 + torch.rand(4, 1, 2, 2)
        observed = torch.rand(4, 1, 2, 2) < 0.7
        spvae = self.make(range=(1.5, 3.5), std=0.0, frozen=frozen)
        spvae.start(torch.where(observed, x, torch.nan), observed)
        expected = spvae.view.patches(torch.where(observed, x, 0.0 if frozen else 1.5)).movedim(0, -2).sort(-2).values
        torch.testing.assert_close(spvae.leaf.prior.pseudo_inputs.sort(-2).values.to(x), expected)
        nothing = self.make(range=(1.5, 3.5), frozen=frozen)
        nothing.start(x, torch.zeros_like(observed))
        assert nothing.sample(2).isfinite().all()
        if not frozen:
            x[0, 0, 1, 1], observed[0, 0, 1, 1] = 4.0, True
            with pytest.raises(ValueError, match=r"^range is \(1.5, 3.5\), but the data from .* go from 2\.\S+ to 4; "):
                self.make(range=(1.5, 3.5)).start(x, observed)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_takes_rows_once(self, frozen):
        spvae = self.make(frozen=frozen, std=1e-9)
        assert spvae.wanted_rows == 4
        x = torch.rand(9, 1, 2, 2)
        spvae.start(x)
        prior = spvae.leaf.prior
        features = spvae.view(x)
        distance = (prior.inputs.unsqueeze(1) - features).abs().amax((-1, -2))  # [4, 9]
        assert (distance.min(-1).values < 1e-7).all() and len(distance.argmin(-1).unique()) == 4
        assert spvae.wanted_rows == 0 and isinstance(prior.pseudo_inputs, nn.Parameter) != frozen
        before = prior.pseudo_inputs.clone()
        spvae.start(torch.rand(9, 1, 2, 2))
        assert torch.equal(prior.pseudo_inputs, before), "a second call changes nothing"
        assert spvae.log_likelihood(x, num_samples=3).isfinite().all()

    def test_entries_that_are_not_seen_are_zero(self):
        spvae = self.make(frozen=True)
        x = torch.full((4, 1, 2, 2), torch.nan)
        x[..., 0, :] = 0.5
        observed = torch.zeros(1, 2, 2, dtype=torch.bool)
        observed[..., 0, :] = True
        spvae.start(x, observed)
        inputs = spvae.leaf.prior.inputs[..., 0]  # leaves 0 to 3 are the upper pixels
        assert (inputs[:, :4] == 0.5).all() and (inputs[:, 4:] == 0).all()

    def test_too_few_rows_are_refused(self):
        spvae = self.make()
        with pytest.raises(ValueError, match="^components is 4, but there are 3 data; at most as many as data are"):
            spvae.start(torch.rand(3, 1, 2, 2))
        assert spvae.wanted_rows == 4

    def test_models_that_start_from_nothing_want_none(self):
        for prior in (None, MixtureOfGaussians(2), VampPrior(3), VampPrior(data=torch.rand(3, 1, 2, 2))):
            spvae = SPVAE(GRID, prior=prior)
            assert spvae.wanted_rows == 0
            state = {name: value.clone() for name, value in spvae.state_dict().items()}
            spvae.start(torch.rand(1, 1, 2, 2))
            assert all(torch.equal(value, state[name]) for name, value in spvae.state_dict().items())

    def test_a_copy_starts_for_itself(self):
        spvae = self.make()
        other = copy.deepcopy(spvae)
        spvae.start(torch.rand(9, 1, 2, 2))
        assert spvae.wanted_rows == 0 and other.wanted_rows == 4


@pytest.mark.parametrize("prior", [{"components": 4, "init": "data"}, {"data": None, "frozen": False}])
def test_data_outside_of_the_range_are_refused_unless_frozen(prior):
    x = 2 * torch.rand(6, 1, 2, 2) - 1
    options = prior | ({"data": x} if "data" in prior else {})

    def start(**more):
        spvae = SPVAE(whole((2, 2)), units=1, likelihood=Normal(), prior=VampPrior(**options | more)).double()
        spvae.start(x)
        return spvae.leaf.prior.inputs.detach()

    with pytest.raises(
        ValueError, match=r"^range is \(0.0, 1.0\), but the data from which pseudo-inputs start go from -"
    ):
        start()
    assert float(start(range=(-1.5, 1.5), std=1e-6).min()) < 0
    assert float(start(frozen=True).min()) < 0


class TestRangeOfPaddedRegions:
    """Leaf regions of unequal sizes are padded by zeros, which are no values of the data."""

    REGIONS = {
        "grid": lambda: poon_domingos((3, 2), delta=2),
        "tree": lambda: poon_domingos((5,), delta=2),
        "mixed": lambda: poon_domingos((3, 2), delta=2),
    }

    def start(self, kind, x, given, **options):
        prior = VampPrior(
            frozen=False, std=1e-6, **options, **({"data": x} if given else {"components": 4, "init": "data"})
        )
        regions, leaf = self.REGIONS[kind](), VAE(Normal(), 2, (3,), prior)
        guide = None
        if kind == "mixed":
            leaf = MixedLeaf([FactorizedLeaf(Normal()), leaf])
            guide = MixedGuide([LeafGuide(), NormalGuide((3,))])
        spvae = SPVAE(regions, units=2, leaf=leaf, guide=guide)
        spvae.start(x)
        assert spvae.view.mask is not None and not spvae.view.mask.all()
        return spvae, prior

    def data(self, kind):
        return 0.5 + torch.rand(4, *((5,) if kind == "tree" else (1, 3, 2)))

    @pytest.mark.parametrize("given", [False, True])
    @pytest.mark.parametrize("kind", REGIONS)
    def test_padding_is_not_checked(self, kind, given):
        x = self.data(kind)
        _, prior = self.start(kind, x, given, range=(0.4, 1.6))
        counted = prior.mask.unsqueeze(1).expand_as(prior.pseudo_inputs)
        found = prior.inputs.movedim(0, 1)
        assert (found[counted] > 0.49).all() and (found[~counted] == 0).all() and not counted.all()

    @pytest.mark.parametrize("given", [False, True])
    @pytest.mark.parametrize("kind", REGIONS)
    def test_every_value_of_the_data_is(self, kind, given):
        """Also that of the smallest region, and bounds that are named are those of the data."""
        x = self.data(kind)
        for place in range(x[0].numel()):
            wrong = x.clone()
            wrong.flatten(1)[2, place] = 7.0
            for values, limits in ((wrong, (0.4, 1.6)), (-wrong, (-1.6, -0.4))):
                message = "^range is .*, but the data from which pseudo-inputs start go from (-7 to|0.* to 7;)"
                with pytest.raises(ValueError, match=message) as error:
                    self.start(kind, values, given, range=limits)
                assert not re.search("from 0 to|to 0;", str(error.value)), "padding is no value of the data"


class TestRange:
    """Learned pseudo-inputs cannot be where the data are, if these are outside of the range: training says so, once."""

    OPTIONS = {"epochs": 1, "batch_size": 20, "particles": 2}

    def make(self, regions=None, **prior):
        torch.manual_seed(0)
        regions = whole(4) if regions is None else regions
        options = {"likelihood": Normal(), "latent_dim": 2, "hidden_dims": (3,), "channels": None}
        return SPVAE(regions, units=1, prior=VampPrior(3, **prior), **options)

    @pytest.mark.parametrize(
        "prior", [{}, {"weights": "learned"}, {"mean": 2.0, "range": (1, 4)}, {"range": (5, 6)}], ids=str
    )
    def test_standardised_data(self, prior):
        spvae, x = self.make(**prior), torch.randn(40, 4)
        with pytest.warns(UserWarning, match=r"^range of the VampPrior is \(") as caught:
            spvae.fit(x, x, **self.OPTIONS)
        low, high = spvae.leaf.prior.range
        part = 100 * float(((x < low) | (x > high)).double().mean())
        wanted = f"is ({low}, {high}), but {part:.0f} % of the training data's values, which go from {x.min():.4g} to "
        assert len(caught) == 1 and wanted + f"{x.max():.4g}, lie outside" in str(caught[0].message)
        spvae.fit(x, x, **self.OPTIONS)  # says nothing more

    @pytest.mark.parametrize(
        "prior", [{"range": (-5, 5)}, {"range": (-2, 2)}, {"init": "data", "frozen": True}], ids=str
    )
    def test_ranges_that_hold_most_and_frozen_pseudo_inputs(self, prior):
        x = torch.randn(40, 4)
        self.make(**prior).fit(x, x, **self.OPTIONS)

    def test_nothing_depends_on_it(self):
        x = torch.randn(40, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one = self.make().fit(x, x, **self.OPTIONS)
            silent = self.make()
            silent.leaf.prior._looked = True
            other = silent.fit(x, x, **self.OPTIONS)
        assert [line["val_elbo"] for line in one] == [line["val_elbo"] for line in other]

    def test_padding_and_what_is_not_seen_do_not_count(self):
        x, observed = torch.rand(40, 3, 2) + 2, torch.ones(40, 3, 2, dtype=torch.bool)
        observed[:, 0] = False
        x[:, 0] = torch.nan
        spvae = self.make(poon_domingos((3, 2), delta=2), range=(2, 3), mean=2.5)
        assert spvae.view.mask is not None
        spvae.fit(x, x, observed=observed, validation_observed=observed, **self.OPTIONS)
        with pytest.warns(UserWarning, match="go from 2.* to 2.*, lie outside"):
            self.make(poon_domingos((3, 2), delta=2)).look_at(x, observed)

    def test_what_the_encoder_sees_counts(self):
        spvae = SPVAE(whole(4), 1, likelihood=Binomial(255), latent_dim=2, hidden_dims=(3,), prior=VampPrior(3))
        spvae.fit(torch.randint(256, (40, 4)).double(), **self.OPTIONS)

    @pytest.mark.parametrize("limits", [(0, 3), (0, 1)])
    def test_each_part_of_a_mixture_sees_its_own_features(self, limits):
        x = torch.arange(160.0).reshape(40, 4).double() % 4  # grey levels, which the first part's encoder sees over 3
        parts = [VAE(Binomial(3), prior=VampPrior(3)), VAE(Normal(), prior=VampPrior(3, range=limits))]
        spvae = SPVAE(whole(4), units=2, leaf=MixedLeaf(parts), guide=MixedGuide([NormalGuide(), NormalGuide()]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            spvae.look_at(x)
        said = [str(warning.message) for warning in caught]
        assert len(said) == (limits == (0, 1)) and all("but 50 % of the training data's values" in one for one in said)
