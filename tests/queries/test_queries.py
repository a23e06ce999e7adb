# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Embeddings, interpolations, and the way to training. Samples and imputations: test_spvae.py."""

from __future__ import annotations

import copy
import sys
import types

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.poutine import trace

from pyro_spvae import poon_domingos, whole
from pyro_spvae.guides import HierarchicalGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, DiscretizedLogistic, Normal
from pyro_spvae.models import HVAE, SPVAE, VAE, Embedding
from pyro_spvae.queries import queries
from pyro_spvae.queries.posterior import LeafDraws
from pyro_spvae.queries.programs import prior_sites
from tests.circuits.oracle import enumerate_induced_trees
from tests.helpers import small_spvae
from tests.linear_gaussian import LinearGaussian
from tests.models import own_parts
from tests.models.own_leaves import Coin, Stating

GRID, ZERO = poon_domingos((4, 4), delta=2), torch.zeros((), dtype=torch.float64)


class TestEmbed:
    def test_shapes(self):
        spvae = small_spvae(GRID)
        embedding = spvae.embed(torch.randn(5, 1, 4, 4), num_particles=3)
        assert isinstance(embedding, Embedding)
        assert {name: value.shape for name, value in embedding.latents.items()} == {"z": (5, 8, 2)}
        assert embedding.leaf_posterior.shape == (5, 8)
        assert [one.shape for one in embedding.sum_posterior] == [(5, *w.shape) for w in spvae.circuit.log_weights()]
        tensors = [embedding.latents["z"], embedding.leaf_posterior, *embedding.sum_posterior]
        assert not any(tensor.requires_grad for tensor in tensors)
        assert spvae.embed(torch.randn(5, 1, 4, 4), num_particles=3, sums=False).sum_posterior is None
        alone = small_spvae(whole((4, 4)), units=1).embed(torch.randn(5, 1, 4, 4))
        assert alone.sum_posterior == [] and torch.equal(alone.leaf_posterior, torch.ones(5, 1))
        assert len(pyro.get_param_store()) == 0

    def test_posteriors_are_those_that_the_tree_is_drawn_from(self):
        spvae = small_spvae(GRID)
        x = torch.randn(5, 1, 4, 4)
        pyro.set_rng_seed(2)
        tree = spvae.posterior(x, num_particles=20).tree
        pyro.set_rng_seed(2)
        embedding = spvae.embed(x, num_particles=20)
        assert torch.equal(embedding.leaf_posterior, tree.mean.squeeze(-2))
        for one, other in zip(
            embedding.sum_posterior, spvae.circuit.sum_posterior(tree.leaf_values.squeeze(-2)), strict=True
        ):
            assert torch.equal(one, other)
        torch.testing.assert_close(embedding.sum_posterior[-1].sum((-1, -2, -3)), torch.ones(5))

    @pytest.mark.parametrize("masked", [False, True])
    def test_is_exact_in_the_limit(self, masked):
        model = LinearGaussian()
        x = torch.randn(4, 1, 2, 4)
        observed = torch.rand(4, 1, 2, 4) < 0.5 if masked else None
        leaf = model.leaf_log_prob(x, observed)
        embedding = model.spvae.embed(x, observed, num_particles=20_000)
        posterior = model.spvae.circuit.posterior(leaf)
        torch.testing.assert_close(embedding.leaf_posterior, posterior, atol=0.03, rtol=0)
        assert float((posterior - model.spvae.circuit.posterior(torch.zeros(4, 4))).abs().max()) > 0.2
        for one, other in zip(embedding.sum_posterior, model.spvae.circuit.sum_posterior(leaf), strict=True):
            torch.testing.assert_close(one, other, atol=0.03, rtol=0)

    def test_missing_pixels(self):
        """Values at missing entries do not matter; a leaf that sees nothing has its prior's mean and no say."""
        leaf = VAE(Normal(), 2, (3,), prior=own_parts.Mixture(3))
        spvae = SPVAE(GRID, leaf=leaf, guide=NormalGuide((3,)))
        x = torch.randn(2, 1, 4, 4)
        observed = torch.ones(2, 1, 4, 4, dtype=torch.bool)
        observed[0, :, :2, :2] = False  # cell 0 of datum 0
        observed[1, :, 0, 0] = False
        results = []
        for filler in (0.0, torch.nan):
            pyro.set_rng_seed(2)
            results.append(spvae.embed(torch.where(observed, x, filler), observed, num_particles=5))
        assert torch.equal(results[0].latents["z"], results[1].latents["z"])
        assert torch.equal(results[0].leaf_posterior, results[1].leaf_posterior)
        z = results[0].latents["z"]
        torch.testing.assert_close(z[0, :2], leaf.prior().mean[:2].detach())
        encoded = spvae.leaf_guide.encode(spvae.view(torch.where(observed, x, 0.0))).loc
        assert torch.equal(z[0, 2:], encoded[0, 2:]) and torch.equal(z[1], encoded[1])
        nothing = spvae.embed(x, torch.zeros(4, 4, dtype=torch.bool), num_particles=5)
        prior = spvae.circuit.posterior(torch.zeros(spvae.num_leaves))
        torch.testing.assert_close(nothing.leaf_posterior, prior.expand(2, -1))

    def test_means_that_depend_on_other_latents_are_averaged(self):
        spvae = SPVAE(poon_domingos((1, 2), delta=1), leaf=own_parts.TwoLayer(), guide=own_parts.TwoLayerGuide())
        x = torch.randn(3, 1, 1, 2)
        latents = spvae.embed(x, num_particles=40_000).latents
        encoding = spvae.leaf_guide.encode(spvae.view(x)).detach()
        assert torch.equal(latents["z2"], encoding)
        torch.testing.assert_close(latents["z1"], encoding * (1 + spvae.leaf_guide.d.detach()), atol=0.05, rtol=0)

    def test_few_data_at_a_time(self, monkeypatch):
        spvae = small_spvae(GRID)
        x, observed = torch.randn(5, 1, 4, 4), torch.rand(5, 1, 4, 4) < 0.7
        whole_batch = spvae.embed(x, observed, num_particles=3)
        rows = []
        make = LeafDraws.make
        monkeypatch.setattr(queries, "_BLOCK", 6)
        monkeypatch.setattr(LeafDraws, "make", lambda *args: (rows.append(args[1].rows), make(*args))[1])
        blocks = spvae.embed(x, observed, num_particles=3)
        assert rows == [2, 2, 1]
        torch.testing.assert_close(blocks.latents["z"], whole_batch.latents["z"])
        assert [one.shape for one in blocks.sum_posterior] == [one.shape for one in whole_batch.sum_posterior]

    def test_draws_of_a_site_without_mean_are_averaged(self):
        law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.SigmoidTransform()])
        spvae = SPVAE(GRID, leaf=Coin(), guide=Stating(p=law))
        found = spvae.embed(spvae.sample(2), num_particles=4000).latents["p"]
        assert ((found - 0.5).abs() < 5 * 0.21 / 4000**0.5).all() and len(found.unique()) == found.numel()


class TestInterpolate:
    def most_probable(self, spvae, x, num_particles):
        """By hand: the best tree for the weights that TreePosterior draws, decoded at the encoder's means."""
        leaf = spvae.posterior(x, num_particles=num_particles).tree.leaf_values.squeeze(-2)
        tree, _ = spvae.circuit.mpe(leaf)
        z = spvae.leaf_guide.encode(spvae.leaf.features(spvae.view(x))).loc
        return spvae.view.assemble(tree, spvae.leaf.pixels(z).mean).detach()

    @pytest.mark.parametrize("likelihood", [Normal, Bernoulli])
    def test_ends_are_the_most_probable_reconstructions(self, likelihood):
        spvae = small_spvae(GRID, likelihood=likelihood())
        start, end = spvae.sample(4), spvae.sample(4)
        pyro.set_rng_seed(3)
        path = spvae.interpolate(start, end, steps=5, num_particles=10)
        assert path.shape == (5, 4, 1, 4, 4) and not path.requires_grad
        for place, x in ((0, start), (-1, end)):  # both with the noise of the first
            pyro.set_rng_seed(3)
            torch.testing.assert_close(path[place], self.most_probable(spvae, x, 10))

    def test_both_ends_see_the_same_noise(self):
        spvae = small_spvae(GRID)
        start, end = torch.randn(4, 1, 4, 4), torch.randn(4, 1, 4, 4)
        still = spvae.interpolate(start, start, steps=4, num_particles=2)
        assert all(torch.equal(one, still[0]) for one in still)
        pyro.set_rng_seed(3)
        forth = spvae.interpolate(start, end, steps=5, num_particles=2)
        pyro.set_rng_seed(3)
        back = spvae.interpolate(end, start, steps=5, num_particles=2)
        torch.testing.assert_close(back.flip(0), forth)
        assert len(pyro.get_param_store()) == 0

    def test_latent_variables_go_straight(self):
        """One leaf with an affine decoder: the picture goes straight, too."""
        spvae = small_spvae(whole((4, 4)), units=1, hidden_dims=())
        path = spvae.interpolate(torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4), steps=5)
        t = torch.linspace(0, 1, 5).reshape(5, 1, 1, 1, 1)
        torch.testing.assert_close(path, (1 - t) * path[0] + t * path[-1])
        assert float((path[0] - path[-1]).abs().max()) > 0.01

    def test_trees_are_the_most_probable_on_the_geometric_path(self):
        """Enumerated: the tree of largest p(T | start)^(1 - t) p(T | end)^t."""
        spvae = small_spvae(poon_domingos((2, 2), delta=1), likelihood=Normal(min_scale=0.05))
        with torch.no_grad():
            for parameter in spvae.parameters():
                parameter.mul_(2)
        start, end = spvae.sample(12), spvae.sample(12)
        trees = enumerate_induced_trees(spvae.circuit)
        chosen = []
        decode = spvae.decode
        spvae.__dict__["decode"] = lambda tree, latents: (chosen.append(tree), decode(tree, latents))[1]
        pyro.set_rng_seed(3)
        spvae.interpolate(start, end, steps=5, num_particles=5)
        values = []
        for x in (start, end):
            pyro.set_rng_seed(3)
            leaf = spvae.posterior(x, num_particles=5).tree.leaf_values.squeeze(-2)
            values.append(torch.stack([weight + leaf[:, list(leaves)].sum(-1) for weight, leaves in trees]).detach())
        different = 0
        for t, tree in zip(torch.linspace(0, 1, 5).tolist(), chosen, strict=True):
            best = ((1 - t) * values[0] + t * values[1]).argmax(0)
            for row, place in zip(tree, best.tolist(), strict=True):
                assert set(row.nonzero().flatten().tolist()) == trees[place][1]
            different += int((tree != chosen[0]).any(-1).sum())
        assert different > 5

    def test_few_data_at_a_time(self, monkeypatch):
        spvae = small_spvae(whole((4, 4)), units=1)  # one tree, so that the noise does not matter
        start, end = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
        expected = spvae.interpolate(start, end, 3, 4)
        monkeypatch.setattr(queries, "_BLOCK", 8)
        torch.testing.assert_close(spvae.interpolate(start, end, 3, 4), expected)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"steps": 1}, "steps is 1; an integer of at least 2 is needed"),
            ({"steps": 2.0}, "steps is 2.0; an integer of at least 2 is needed"),
            ({"steps": True}, "steps is True; an integer of at least 2 is needed"),
            ({"num_particles": 0}, "num_particles is 0; a positive integer is needed"),
            (
                {"end": ZERO.expand(3, 1, 4, 4)},
                r"end has shape \[3, 1, 4, 4\]; that of start, \[2, 1, 4, 4\], .*",
            ),
            ({"end": ZERO.expand(2, 4, 4)}, r"end: x has shape \[2, 4, 4\]; .*"),
            (
                {"start": torch.nan + ZERO.expand(2, 1, 4, 4)},
                r"start: x holds \d+ NaN or infinite values, the first in row 0 .*",
            ),
        ],
    )
    def test_refused(self, arguments, message):
        x = ZERO.expand(2, 1, 4, 4)
        with pytest.raises(ValueError, match=f"^{message}$"):
            small_spvae(GRID).interpolate(**({"start": x, "end": x} | arguments))


def test_decoding_draws_what_is_not_given():
    leaf = HVAE(Normal(), latent_dim=2, hidden_dims=(3,))
    spvae = small_spvae(leaf=leaf, guide=HierarchicalGuide(hidden_dims=(3,)))
    tree = spvae.circuit.sample((5,))
    z2, z1 = torch.randn(2, 5, spvae.num_leaves, 2)
    means = leaf.pixels(z1, z2).mean
    assert torch.allclose(spvae.decode(tree, {"z2": z2, "z1": z1}), spvae.view.assemble(tree, means))
    first, second = (spvae.decode(tree, {"z2": z2}) for _ in range(2))
    assert first.shape == (5, *spvae.event_shape) and not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"Z": ZERO}, ValueError, "latents holds the site 'Z', but the latent sites are z"),
        ({"z": [1.0]}, TypeError, r"latents\['z'\] is a list; .*"),
        ({"z": torch.zeros(3, 2, 2)}, ValueError, r"latents\['z'\] has shape \[3, 2, 2\]; \[data, leaf, \*event\], .*"),
        (
            {"tree": torch.zeros(2, 8)},
            ValueError,
            r"tree is of type torch.float32 and shape \[2, 8\]; bool .*",
        ),
        (
            {"tree": torch.zeros(2, 7, dtype=torch.bool)},
            ValueError,
            r"tree is of type torch.bool and shape \[2, 7\]; .*",
        ),
        ({"tree": None}, TypeError, "tree is a NoneType; .*"),
    ],
)
def test_what_is_decoded_is_checked(change, error, message):
    spvae = small_spvae(GRID)
    assert spvae.num_leaves == 8
    tree = change.get("tree", spvae.circuit.sample((2,)))
    with pytest.raises(error, match=f"^{message}$"):
        spvae.decode(tree, {name: value for name, value in change.items() if name != "tree"})


@pytest.mark.parametrize("leaves", [[0, 1], [0], [], [0, 2, 4, 6, 7], "all"])
def test_leaves_of_no_induced_tree_are_not_decoded(leaves):
    spvae = small_spvae(GRID)
    tree = spvae.circuit.sample((2,))
    tree[1] = False
    tree[1, slice(None) if leaves == "all" else leaves] = True
    with pytest.raises(
        ValueError, match=r"^tree selects in row 1 the leaves \[.*\], which no induced tree has; leaves th"
    ):
        spvae.decode(tree, {})


def test_what_the_prior_says_is_computed_on_the_models_device():
    nodes = prior_sites(small_spvae(poon_domingos((3, 2), delta=2)).to("meta"), 2, 3)
    assert {nodes[site]["value"].device.type for site in ("tree", "z", "x")} == {"meta"}


@pytest.mark.parametrize("means", [False, True])
def test_a_single_leaf_is_sampled_on_the_models_device(means):
    """Its circuit has no parameters to tell the device."""
    spvae = small_spvae(whole((3, 3)), units=1).to("meta")
    sample = spvae.sample(2, means=means)
    assert sample.device.type == "meta" and sample.shape == (2, 1, 3, 3)


GIVEN = {"observed": ZERO > 0, "out": "folder", "progress": True, "report": print}


@pytest.mark.parametrize("given", [{}, GIVEN | {"epochs": 3, "resume": True}])
def test_fit_only_passes_on(given, monkeypatch):
    """What it calls is tested in tests/training."""
    calls = []
    stub = types.ModuleType("pyro_spvae.training.fit")
    stub.fit = lambda *args, **kwargs: (calls.append((args, kwargs)), [{"epoch": 1}])[1]
    monkeypatch.setitem(sys.modules, "pyro_spvae.training.fit", stub)
    spvae, x = small_spvae(GRID), torch.zeros(2, 1, 4, 4)
    assert spvae.fit(*([x, x] if given else [x]), **given) == [{"epoch": 1}]
    defaults = {"observed": None, "out": None, "progress": False, "report": None}
    assert calls == [((spvae, x, x if given else None), defaults | given)]


class TestAbsurdEntries:
    """A fill value, such as that of netCDF, which no one marked as missing."""

    @pytest.fixture
    def spvae(self):
        return small_spvae(leaf=VAE(Normal(), 2, (3,))).float()

    @pytest.fixture
    def x(self):
        x = torch.randn(600, 1, 2, 2).float()
        x[500, 0, 1, 0] = 9.97e36
        return x

    def test_its_row_is_named_and_other_rows_have_their_density(self, spvae, x):
        observed = torch.tensor([[True, False], [True, False]])
        message = "^row 500 of the data has density 0 under the model"
        for ask in (
            lambda x: spvae.impute(x, observed),
            spvae.reconstruct,
            spvae.embed,
            spvae.posterior,
            lambda x: spvae.interpolate(x, x),
        ):
            with pytest.raises(ValueError, match=message) as error:
                ask(x)
            assert "\n" not in str(error.value)
        found = spvae.log_likelihood(x, num_samples=3).isfinite()
        assert found.sum() == 599 and not found[500]
        assert spvae.impute(x, ~(x > 1e30)).isfinite().all()

    def test_one_nan_is_one_whatever_sees_it(self, spvae, x):
        x = torch.where(x > 1e30, torch.nan, x)
        message = r"^x holds 1 NaN or infinite value, in row 500 at \[0, 1, 0\]; finite values are needed"
        with pytest.raises(ValueError, match=message):
            spvae.log_likelihood(x)

    @pytest.mark.parametrize("value", [torch.nan, torch.inf])
    def test_a_parameter_that_is_no_number_is_not_the_datas_fault(self, spvae, x, value):
        name, parameter = next(iter(spvae.circuit.named_parameters()))
        with torch.no_grad():
            parameter.fill_(value)
        message = f"^the model's parameter 'circuit.{name}' holds values that are not finite, so that no data have a"
        for ask in (spvae.reconstruct, spvae.embed, spvae.posterior):
            with pytest.raises(ValueError, match=message):
                ask(x[:5])

    def test_a_leaf_of_density_zero_is_on_no_tree(self):
        """The others of its region answer for it."""
        spvae = small_spvae(whole((2, 2)), units=2, leaf=VAE(Normal(), 2, (3,)))
        x = torch.randn(3, 1, 2, 2)
        posterior = spvae.posterior(x)
        posterior.log_weight[:, 1, 0] = -torch.inf
        assert trace(posterior).get_trace().nodes["z"]["value"].isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_the_networks_alone(half):
    """Of 64 levels at 64 pixels, densities of which would be off by many nats."""
    regions = poon_domingos((8, 8), delta=4)
    low = small_spvae(regions, leaf=VAE(DiscretizedLogistic(64), 2, (3,))).to(half)
    single = copy.deepcopy(low).float()
    x = torch.randint(64, (5, 1, 8, 8)).float()
    found = {}
    for name, spvae, values in (("low", low, x.to(half)), ("single", single, x)):
        pyro.set_rng_seed(1)
        found[name] = spvae.log_likelihood(values, num_samples=20)
    with torch.autocast("cpu", half):
        pyro.set_rng_seed(1)
        found["autocast"] = single.log_likelihood(x, num_samples=20)
    for name in ("low", "autocast"):
        assert found[name].dtype == torch.float32 and (found[name] - found["single"]).abs().max() < 0.5
    assert found["single"].mean() < -200
    assert low.sample(2).dtype == low.impute(x.to(half), x[:1] > 30).dtype == half
