# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent variables that are drawn given data, and data that are drawn given latent variables."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_spvae import poon_domingos, whole
from pyro_spvae.blocks import Latent
from pyro_spvae.distributions import LeafNormal, stick_weights
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, MixtureGuide, NormalGuide, StickGuide
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import DLGMM, HVAE, SBVAE, SPVAE, VAE, FactorizedLeaf, LeafModel, MixedLeaf
from pyro_spvae.queries import generation, queries
from tests.helpers import small_spvae
from tests.models.own_leaves import Kinds, KindsGuide, Stating, pixels

MEANS = (-2.0, 0.0, 2.5)


def mixture(regions=None, units=2, **options):
    """Leaves that are Gaussian mixtures of three components."""
    leaf = DLGMM(Normal(), 2, 3, 0.7, MEANS, hidden_dims=(3,))
    guide = MixtureGuide(hidden_dims=(3,), **options)
    return small_spvae(poon_domingos((2, 2), delta=1) if regions is None else regions, units, leaf=leaf, guide=guide)


def assert_mean(draws, wanted, deviations=5.0):
    """The mean of independent draws along the first axis is what it should be, within its standard error."""
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - wanted).abs() <= deviations * error + 1e-12).all())


class TestDrawLatents:
    @pytest.mark.parametrize("enumerate", [True, False])
    def test_their_law_is_the_guides(self, enumerate):
        """v by its own law, c by the weights that v makes, z by the component of c."""
        spvae = mixture(enumerate=enumerate)
        x = torch.randn(2, 1, 2, 2)
        draws = spvae.draw_latents(x, num_samples=4000)
        assert {name: tuple(value.shape) for name, value in draws.items()} == {
            "v": (4000, 2, 8, 2),
            "c": (4000, 2, 8),
            "z": (4000, 2, 8, 2),
        }
        law, (loc, scale) = spvae.leaf_guide.encode(spvae.view(x))
        assert_mean(draws["v"], law.mean.detach())
        one_hot = torch.nn.functional.one_hot(draws["c"], 3)
        assert_mean(one_hot - stick_weights(draws["v"]), 0.0)
        own = one_hot.unsqueeze(-1)  # [draw, data, leaf, component, 1]
        residuals = own * (draws["z"].unsqueeze(-2) - loc.detach()) / scale.detach()
        assert_mean(residuals, 0.0)
        assert_mean(residuals.square() - own, 0.0)
        found = spvae.embed(x, num_particles=4000).latents["c"]
        torch.testing.assert_close(one_hot.double().mean(0), found, rtol=0, atol=0.05)

    def test_of_what_is_not_seen_it_is_the_priors_and_of_the_rest_as_ever(self):
        spvae = mixture()
        x, observed = torch.randn(2, 1, 2, 2), torch.ones(2, 1, 2, 2, dtype=torch.bool)
        observed[1, 0, 0, 1] = False  # of leaves 2 and 3
        pyro.set_rng_seed(3)
        every = spvae.draw_latents(x, num_samples=3000)
        pyro.set_rng_seed(3)
        some = spvae.draw_latents(torch.where(observed, x, torch.nan), observed, num_samples=3000)
        seen = spvae.view(observed.double()).bool().any(-1)
        assert not bool(seen[1, 2:4].any()) and int(seen.sum()) == 14
        for name in every:
            assert torch.equal(every[name][:, seen], some[name][:, seen])
        v, c, z = (some[name][:, 1, 2:4] for name in ("v", "c", "z"))
        one_hot = torch.nn.functional.one_hot(c, 3)
        assert_mean(one_hot - stick_weights(v), 0.0)
        assert_mean(stick_weights(v), 1 / 3)  # the symmetric Dirichlet distribution's
        residuals = z - torch.tensor(MEANS)[c].unsqueeze(-1)
        assert_mean(residuals, 0.0)
        assert_mean(residuals.square(), 1.0)

    @pytest.mark.parametrize(("num", "sizes"), [(3, [(3, 2), (3, 2), (3, 1)]), (14, [(6, 1), (6, 1), (2, 1)] * 5)])
    def test_few_at_a_time(self, monkeypatch, num, sizes):
        spvae = mixture()
        x = torch.randn(5, 1, 2, 2)
        asked = []

        def stub(root, batch, size):  # what it is asked about in the place of what it draws
            asked.append((size, batch.rows))
            return dict.fromkeys(root.latents, batch.x.flatten(1).expand(size, -1, -1))

        monkeypatch.setattr(queries, "_BLOCK", 6)
        monkeypatch.setattr(queries, "guide_draws", stub)
        assert torch.equal(spvae.draw_latents(x, num_samples=num)["z"], x.flatten(1).expand(num, -1, -1))
        assert asked == sizes

    def test_leaves_of_several_kinds(self):
        spvae = several()
        x = torch.randn(3, 1, 2, 2)
        draws = spvae.draw_latents(x, torch.tensor([[True, False], [True, True]]), num_samples=50)
        assert draws.keys() == {"z", "v_1", "c_1", "z_1"}
        assert bool((draws["z"][:, :, 1::3] == 0).all()) and bool((draws["z_1"][:, :, ::3] == 0).all())
        assert bool((draws["z"][:, :, ::3] != 0).all()) and bool((draws["z_1"][:, :, 1::3] != 0).all())
        assert set(draws["c_1"][:, :, 1::3].unique().tolist()) == {0, 1, 2}

    def test_nothing_is_latent(self):
        spvae = small_spvae(leaf=FactorizedLeaf(Normal()), guide=LeafGuide())
        assert spvae.draw_latents(torch.randn(3, 1, 2, 2)) == {}

    def test_it_is_asked_in_evaluation_mode_and_left_as_it_was(self):
        spvae = mixture().train()
        modes = []
        spvae.leaf_guide.register_forward_pre_hook(lambda module, args: modes.append(module.training))
        draws = spvae.draw_latents(torch.randn(3, 1, 2, 2))
        assert modes == [False] and spvae.training and not any(value.requires_grad for value in draws.values())
        assert len(pyro.get_param_store()) == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_samples": 0}, "num_samples is 0; a positive integer is needed"),
            ({"x": torch.zeros(2, 2, dtype=torch.float64)}, r"x has shape \[2, 2\]; .*"),
        ],
    )
    def test_refused(self, options, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            mixture().draw_latents(**({"x": torch.zeros(2, 1, 2, 2)} | options))


def several():
    """Leaves by turns: a VAE, a Gaussian mixture, and one of which nothing is latent."""
    parts = [VAE(Normal(), 2, (3,)), DLGMM(Normal(), 2, 3, 0.7, MEANS, hidden_dims=(3,)), FactorizedLeaf(Normal())]
    guides = [NormalGuide((3,)), MixtureGuide((3,)), LeafGuide()]
    return small_spvae(leaf=MixedLeaf(parts), guide=MixedGuide(guides), units=3)


def inputs(pixels):
    """What the decoder is given, of each of its calls."""
    seen = []
    pixels.decoder.register_forward_pre_hook(lambda module, args: seen.append(args))
    return seen


class Fork(LeafModel):
    """c ~ Categorical, then z and, without it, the pixels given c."""

    latents = {"c": Latent((), constraints.integer_interval(0, 2)), "z": Latent(1)}
    logits = (-3.0, 0.0, 3.0)

    def build(self, leaves, pixels):
        self.weights = torch.nn.Parameter(torch.tensor([0.2, 0.3, 0.5]).log())

    def forward(self, x=None, mask=None):
        c = pyro.sample("c", dist.Categorical(logits=self.weights))
        pyro.sample("z", LeafNormal(c.to(self.weights.dtype).unsqueeze(-1), self.weights.new_ones(1)))
        logits = self.weights.new_tensor(self.logits)[c].unsqueeze(-1)
        return pixels(x, mask, dist.Bernoulli(logits=logits.expand(*c.shape, self.sizes["pixels"])))


class TestGiven:
    def test_what_follows_is_drawn_given_it(self):
        """One leaf, so that the pixels' probabilities are those of the kind."""
        spvae = SPVAE(whole((2, 2)), units=1, leaf=Kinds(3), guide=KindsGuide())
        for kind in range(3):
            wanted = spvae.leaf.law(torch.full((1, 1), kind)).mean.detach().reshape(1, 2, 2)
            assert_mean(spvae.sample(2000, given={"c": kind}), wanted)
            found = spvae.sample(7, given={"c": float(kind)}, means=True)
            torch.testing.assert_close(found, wanted.expand(7, 1, 2, 2))

    def test_each_datum_and_leaf_has_its_own(self):
        """In blocks, too."""
        spvae = small_spvae(leaf=Kinds(3), guide=KindsGuide())
        c = torch.randint(3, (11, spvae.num_leaves))
        law = spvae.leaf.law(c).mean.detach()
        for size in (8192, 4):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(generation, "BLOCK", size)
                means = spvae.sample(11, given={"c": c}, means=True)
            for image, leaves in zip(means, law, strict=True):
                assert all(float(pixel) in leaves[2 * i : 2 * i + 2, 0] for i, pixel in enumerate(image.flatten()))
        assert len(law.unique()) == 24

    def test_what_comes_before_is_drawn_given_it(self):
        """By Bayes' rule: p(x | z) = sum_c p(c | z) p(x | c), where the pixels do not depend on z itself."""
        spvae = SPVAE(
            whole((1, 2)),
            units=1,
            leaf=Fork(),
            guide=Stating(c=dist.Categorical(torch.ones(3)), z=dist.Normal(torch.zeros(1), 1.0).to_event(1)),
        )
        for z in (-1.0, 3.0):
            weights = spvae.leaf.weights.detach()
            posterior = (weights - 0.5 * (z - torch.arange(3.0)) ** 2).softmax(-1)
            wanted = float((posterior * torch.tensor(Fork.logits).sigmoid()).sum())
            prior = float((weights.exp() * torch.tensor(Fork.logits).sigmoid()).sum())
            x = spvae.sample(3000, given={"z": z})[..., 0]
            assert abs(wanted - prior) > 0.2
            assert float(x.mean()) == pytest.approx(wanted, abs=5 * 0.5 / 3000**0.5 + 0.01)

    def test_a_layer_above_is_drawn_given_the_one_below(self):
        """Its mean is that of Bayes' rule, by quadrature."""
        spvae = small_spvae(leaf=HVAE(Normal(), 1, 1, (3,)), guide=HierarchicalGuide((3,)))
        seen = inputs(spvae.leaf.pixels)
        spvae.sample(400, given={"z1": 1.5}, num_particles=500)
        z1, z2 = (torch.cat([block[place] for block in seen]) for place in (0, 1))
        assert bool((z1 == 1.5).all()) and z2.shape == (400, 8, 1)
        grid = torch.linspace(-6, 6, 2001).reshape(-1, 1, 1).expand(-1, spvae.num_leaves, 1)
        with torch.no_grad():
            joint = spvae.leaf.z1(grid).log_prob(torch.full_like(grid, 1.5)) - 0.5 * grid[..., 0] ** 2
        wanted = (joint.softmax(0).unsqueeze(-1) * grid).sum(0)
        assert_mean(z2, wanted)
        assert float(wanted.abs().max()) > 0.5, "other than under the prior"

    def test_leaves_of_several_kinds(self):
        """The site of one kind alone is fixed."""
        spvae = several()
        first, second = (inputs(subset.program.pixels) for subset in spvae.leaf.subsets[:2])
        assert spvae.sample(500, given={"c_1": 2, "z": 0.25}).shape == (500, 1, 2, 2)
        z, other = (torch.cat([block[0] for block in seen]) for seen in (first, second))
        assert len(z) == len(other) == 500 and bool((z == 0.25).all())
        assert_mean(other, MEANS[2])

    def test_what_other_kinds_of_leaves_are_given_is_not_looked_at(self):
        """So that draws of ``draw_latents``, 0 there, may be given."""
        leaf = MixedLeaf([SBVAE(Bernoulli(), 3, 1.0, (3,)), FactorizedLeaf(Bernoulli())])
        spvae = small_spvae(leaf=leaf, guide=MixedGuide([StickGuide((3,)), LeafGuide()]))
        pi = spvae.draw_latents(torch.ones(4, 1, 2, 2))["pi"][0]
        seen = inputs(spvae.leaf.subsets[0].program.pixels)
        assert spvae.sample(4, {"pi": pi}).shape == (4, 1, 2, 2) and torch.equal(seen[-1][0], 3 * pi[:, ::2])
        with pytest.raises(ValueError, match=r"^given\['pi'\] holds 0, but values must be from the support Simplex$"):
            spvae.sample(4, {"pi": pi.flip(1)})

    @pytest.mark.parametrize("means", [False, True])
    def test_nothing_given_is_nothing_changed(self, means):
        spvae, found = mixture(), []
        for given in (None, {}):
            pyro.set_rng_seed(4)
            found.append(spvae.sample(5, given, means=means))
        pyro.set_rng_seed(4)
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], spvae.sample(5, means=means))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"y": 1}, "given holds the site 'y', but the latent sites are v, c, z"),
            ({"tree": 1}, "given holds the site 'tree', but the latent sites are v, c, z"),
            ({"c": 3}, r"given\['c'\] holds 3, but values must be from the integers from 0 to 2"),
            ({"c": 0.5}, r"given\['c'\] holds 0.5, but values must be from the integers from 0 to 2"),
            ({"c": torch.tensor([0, 1, 2, 0, 0, 0, 0, -1])}, r"given\['c'\] holds -1, but .*"),
            ({"v": 1.5}, r"given\['v'\] holds 1.5, but values must be from numbers from 0 to 1"),
            ({"z": torch.nan}, r"given\['z'\] holds nan, but values must be from the real numbers"),
            ({"z": torch.inf}, r"given\['z'\] holds inf, but values must be from the real numbers"),
            (
                {"z": torch.zeros(3)},
                r"given\['z'\] has shape \[3\]; it must broadcast to \[num, leaf, \*event\], \[5, 8, 2\]",
            ),
            ({"c": torch.zeros(1, 5, 8)}, r"given\['c'\] has shape \[1, 5, 8\]; it must broadcast to .* \[5, 8\]"),
            ({"c": "2"}, r"given\['c'\] is a str; a number, or a tensor of real numbers, is needed"),
            ({"c": torch.zeros(5, 8, dtype=torch.complex64)}, r"given\['c'\] is torch.complex64; a number, .*"),
            ([("c", 2)], "given is a list; an instance of Mapping is needed"),
        ],
    )
    def test_refused(self, given, message):
        with pytest.raises((ValueError, TypeError), match=f"^{message}$"):
            mixture().sample(5, given)

    def test_refused_where_nothing_is_latent(self):
        spvae = small_spvae(leaf=FactorizedLeaf(Bernoulli()), guide=LeafGuide())
        with pytest.raises(ValueError, match="^given holds the site 'z', but no site is latent$"):
            spvae.sample(given={"z": 0})
