# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Active units, planted: dimensions that follow the data, the noise of another layer, or nothing."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_spvae import poon_domingos, whole
from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE, SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.training import evaluation as module
from pyro_spvae.training.evaluation import active_units, mean_variances


class Planted(LeafGuide):
    """
    ``first ~ N(a x_0, s)``, ``second ~ N(b x_0 + c first, 0.1)``: of each layer, the gains of its dimensions.

    :param names: which layer is drawn first.
    """

    def __init__(self, a, b, c, s=1.0, names=("z2", "z1")):
        super().__init__()
        self.gains, self.s, self.names = (a, b, c), s, names

    def build(self, leaves, pixels, latents):
        a, b, c = map(torch.tensor, self.gains)
        self.a, self.b, self.c = nn.Parameter(a), nn.Parameter(b), nn.Parameter(c)
        self.live = nn.Parameter(torch.ones(leaves, 1))

    def forward(self, x):
        pixel = self.live * x[..., :1]
        first = pyro.sample(self.names[0], LeafNormal(self.a * pixel, torch.full_like(self.a, self.s)))
        loc = self.b * pixel + first @ self.c
        pyro.sample(self.names[1], LeafNormal(loc, torch.full_like(self.b, 0.1)))


def planted(a, b, c, regions=None, **options):
    leaf = HVAE(Normal(), latent_dim=len(b), top_dim=len(a), hidden_dims=(2,))
    guide = Planted(a, b, c, **options)
    return SPVAE(whole((1, 2)) if regions is None else regions, units=1, leaf=leaf, guide=guide)


def exact(x, gains):
    """Variance of ``gains * x_0`` over the rows."""
    return torch.tensor(gains).square() * x[:, 0, 0, 0].var()


A, B, C = (0.0, 0.3, 2.0), (0.0, 0.2, 0.0), ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 0.0))


class TestTwoLayers:
    def test_both_layers_are_what_was_planted(self):
        """z1's first dimension follows the noise of z2 alone, its second the data through z2 too, its third nothing."""
        spvae, x = planted(A, B, C), torch.randn(400, 1, 1, 2)
        assert active_units(spvae, x) == {"z2": 2, "z1": 1}
        found = mean_variances(spvae, x)
        torch.testing.assert_close(found["z2"][0], exact(x, A))
        wanted = exact(x, (0.0, 0.2 + 0.3, 0.0))
        # a 32nd of the noise of z2 is left in means over draws, and subtracted: what remains is the error of that
        torch.testing.assert_close(found["z1"][0], wanted, atol=0.01, rtol=0.05)
        assert found["z1"][0, 2].item() == pytest.approx(0, abs=1e-12)

    def test_one_draw_would_find_more(self, monkeypatch):
        """The noise of z2 has variance 1, a hundred times the threshold; averaging alone leaves a 32nd."""
        spvae, x = planted(A, B, C), torch.randn(4000, 1, 1, 2)
        estimates = torch.stack([mean_variances(spvae, x[i::10], seed=i)["z1"][0, 0] for i in range(10)])
        assert abs(estimates.mean().item()) < 4 * estimates.std().item() / math.sqrt(10) + 1e-3
        assert estimates.abs().max() < 0.01 < 1 / 32
        assert (estimates < 0).any(), "unbiased around 0"

    def test_the_layer_that_is_drawn_first_may_be_the_lower_one(self):
        spvae, x = planted(A, B, C, names=("z1", "z2")), torch.randn(400, 1, 1, 2)
        assert active_units(spvae, x) == {"z1": 2, "z2": 1}

    def test_units_of_all_leaves_are_counted(self):
        spvae, x = planted(A, B, C, regions=poon_domingos((1, 4), delta=1)), torch.randn(300, 1, 1, 4)
        assert active_units(spvae, x) == {"z2": 8, "z1": 4}
        with torch.no_grad():
            spvae.leaf_guide.live[1:3] = 0
        assert active_units(spvae, x) == {"z2": 4, "z1": 2}
        assert (mean_variances(spvae, x)["z2"] > 0.01).any(1).tolist() == [True, False, False, True]

    def test_what_is_not_seen_is_not_followed(self):
        spvae, x = planted(A, B, C, regions=poon_domingos((1, 2), delta=1)), torch.randn(300, 1, 1, 2)
        observed = torch.tensor([True, False]).expand(1, 1, 2)
        assert active_units(spvae, x, observed) == {"z2": 2, "z1": 1}

    def test_the_seed_decides_and_other_noise_is_left_alone(self):
        spvae, x = planted(A, B, C), torch.randn(50, 1, 1, 2)
        state = torch.get_rng_state()
        first = mean_variances(spvae, x)["z1"]
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        assert torch.equal(mean_variances(spvae, x)["z1"], first)
        assert not torch.equal(mean_variances(spvae, x, seed=1)["z1"], first)


def test_blocks_do_not_matter(monkeypatch):
    spvae, x = SPVAE(poon_domingos((2, 2), delta=1), latent_dim=2), 5 + torch.randn(37, 1, 2, 2)
    whole_split = mean_variances(spvae, x)["z"]
    means = spvae.leaf_guide.encode(spvae.prepare(x).features).mean
    torch.testing.assert_close(whole_split, means.detach().var(0))
    monkeypatch.setattr(module, "_PAIRS", 8)
    torch.testing.assert_close(mean_variances(spvae, x)["z"], whole_split)


@pytest.mark.parametrize("per_row", [False, True])
def test_blocks_see_what_is_observed_of_their_rows(per_row, monkeypatch):
    """A mask of all rows, and one of each: the variance over rows of what is expected of seen entries alone."""
    spvae, x = SPVAE(poon_domingos((2, 2), delta=1), latent_dim=2), 5 + torch.randn(37, 1, 2, 2)
    observed = torch.rand(37, 1, 2, 2) < 0.6 if per_row else torch.tensor([[True, False], [False, True]])
    with torch.no_grad():
        wanted = spvae.leaf_guide.encode(spvae.view(torch.where(observed, x, 0.0))).mean.var(0)
    counts = {"z": int((wanted > 0.01).sum())}
    assert 0 < counts["z"] < wanted.numel()
    for pairs in (512, 8):
        monkeypatch.setattr(module, "_PAIRS", pairs)
        torch.testing.assert_close(mean_variances(spvae, x, observed)["z"], wanted, rtol=1e-9, atol=1e-12)
        assert active_units(spvae, x, observed) == counts
    assert not torch.allclose(mean_variances(spvae, x)["z"], wanted, rtol=0.01)


def test_one_layer_needs_one_draw(monkeypatch):
    spvae, x = SPVAE(whole((1, 2)), units=1, latent_dim=2), torch.randn(20, 1, 1, 2)
    draws, original = [], module.draw_means
    monkeypatch.setattr(module, "draw_means", lambda *args: draws.append(args[-1]) or original(*args))
    mean_variances(spvae, x)
    assert set(draws[1:]) == {1}


def test_one_row_has_no_variance():
    assert active_units(planted(A, B, C), torch.randn(1, 1, 1, 2)) == {"z2": None, "z1": None}


class Cauchy(LeafGuide):
    def build(self, leaves, pixels, latents):
        self.loc = nn.Parameter(torch.zeros(leaves, *self.shape_of(latents, "z")))

    def forward(self, x):
        pyro.sample("z", dist.Cauchy(self.loc.expand(len(x), -1, -1), 1.0).to_event(1))


def test_no_mean():
    leaf = VAE(Normal(), latent_dim=2, hidden_dims=())
    spvae = SPVAE(whole((1, 2)), units=1, leaf=leaf, guide=Cauchy())
    assert active_units(spvae, torch.randn(5, 1, 1, 2)) == {"z": None}


def test_leaves_of_several_kinds_and_none_with_latents():
    regions, x = poon_domingos((1, 2), delta=1), torch.randn(50, 1, 1, 2)
    parts = [VAE(Normal(), latent_dim=2), FactorizedLeaf(Normal())]
    mixed = SPVAE(regions, units=2, leaf=MixedLeaf(parts), guide=MixedGuide([NormalGuide(), LeafGuide()]))
    with torch.no_grad():
        for parameter in mixed.leaf_guide.parameters():
            parameter.add_(torch.randn_like(parameter))
    variances = mean_variances(mixed, x)["z"]
    assert variances.shape == (4, 2) and (variances[::2] > 0).all() and not variances[1::2].any()
    assert active_units(SPVAE(regions, units=2, leaf=FactorizedLeaf(Normal())), x) == {}
