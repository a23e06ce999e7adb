# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Pyro program: handlers, generation, posterior, missing data, refusals."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from scipy import stats

from pyro_spvae import Circuit, CircuitELBO, InducedTree, poon_domingos, random_binary_tree, whole
from pyro_spvae.guides import HierarchicalGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial, Categorical, Normal
from pyro_spvae.models import HVAE, SPVAE, VAE
from pyro_spvae.priors import StandardNormal
from tests.helpers import small_spvae
from tests.linear_gaussian import LinearGaussian

GRID = poon_domingos((2, 2), delta=1)


class TestProgram:
    def test_joint_density_is_tree_times_selected_leaves(self):
        spvae = small_spvae()
        trace = poutine.trace(spvae.model).get_trace(num=5)
        trace.compute_log_prob()
        tree = trace.nodes["tree"]["value"].squeeze(-2)
        z, patches = trace.nodes["z"]["value"], trace.nodes["x"]["value"]
        expected = InducedTree(spvae.circuit).log_prob(tree)
        leaf = spvae.leaf.prior().log_prob(z) + spvae.leaf.pixels.likelihood(spvae.leaf.pixels.decoder(z)).log_prob(
            patches
        )
        expected = expected + torch.where(tree, leaf, 0.0).sum(-1)
        assert trace.log_prob_sum().item() == pytest.approx(expected.sum().item(), abs=1e-9)

    def test_image_is_made_of_the_selected_patches(self):
        spvae = small_spvae(poon_domingos((4, 6), delta=2))
        trace = poutine.trace(spvae.model).get_trace(num=3)
        image = trace.nodes["image"]["value"]
        tree = trace.nodes["tree"]["value"].squeeze(-2)
        patches = trace.nodes["x"]["value"]
        assert image.shape == (3, 1, 1, 4, 6)
        for n in range(3):
            for cell, leaf in enumerate(tree[n].nonzero().squeeze(-1)):
                assert leaf // 2 == cell
                row, column = divmod(cell, 3)
                block = image[n, 0, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                assert torch.equal(block.reshape(-1), patches[n, leaf])
        assert torch.equal(trace.nodes["_RETURN"]["value"], image.squeeze(1))

    @pytest.mark.parametrize("keep", [False, True])
    def test_both_programs_take_a_prepared_batch(self, keep):
        spvae = small_spvae()
        x, observed = torch.randn(4, 1, 2, 2), torch.rand(4, 1, 2, 2) < 0.7
        calls = []
        spvae.leaf_guide.z.network.register_forward_hook(lambda *args: calls.append(1))
        batch = spvae.prepare(x, observed, keep)
        pyro.set_rng_seed(1)
        expected = CircuitELBO(2).bound(spvae.model, spvae.guide, x, observed)
        pyro.set_rng_seed(1)
        assert torch.equal(CircuitELBO(2).bound(spvae.model, spvae.guide, batch), expected)
        calls.clear()
        pyro.set_rng_seed(1)
        guide = poutine.trace(spvae.guide).get_trace(batch)
        poutine.replay(spvae.model, trace=guide)(batch)
        spvae.guide(batch)
        assert len(calls) == (0 if keep else 3), "the model's pseudo-prior sees the data too"
        with pytest.raises(ValueError, match="^observed is given beside a prepared batch, which has its own; give"):
            spvae.model(batch, observed)

    def test_condition_on_each_site(self):
        spvae = small_spvae()
        trace = poutine.trace(spvae.model).get_trace(num=4)
        for name in ("tree", "z", "x"):
            value = trace.nodes[name]["value"]
            conditioned = poutine.condition(spvae.model, data={name: value})
            site = poutine.trace(conditioned).get_trace(num=4).nodes[name]
            assert site["is_observed"] and torch.equal(site["value"], value)
        again = poutine.replay(spvae.model, trace=trace)(num=4)
        assert torch.equal(again, trace.nodes["_RETURN"]["value"])

    def test_block_and_autoguide(self):
        pyro.clear_param_store()
        spvae = small_spvae()
        x = torch.randn(6, 1, 2, 2)
        guide = AutoNormal(poutine.block(spvae.model, hide=["tree"]))
        elbo = CircuitELBO(num_particles=2)
        svi = SVI(spvae.model, guide, pyro.optim.Adam({"lr": 0.1}), elbo)
        losses = [svi.step(x) for _ in range(30)]
        assert sum(losses[-10:]) < sum(losses[:10]) - 10
        dreg = CircuitELBO(num_particles=2, gradient="dreg")
        assert torch.isfinite(dreg(spvae.model, guide)(x))

    def test_stock_objectives_are_looser_never_above(self):
        model = LinearGaussian()
        x = torch.randn(1, 1, 2, 4)
        exact = float(model.log_prob(x))
        rows = x.expand(4000, -1, -1, -1)
        spvae = model.spvae
        circuit = CircuitELBO(3).bound(spvae.model, spvae.guide, rows)
        with pytest.warns(UserWarning, match="Found vars in model but not guide"):
            trace = -Trace_ELBO(max_plate_nesting=2).loss(spvae.model, spvae.guide, rows) / 4000
        with pytest.warns(UserWarning, match="Found vars in model but not guide"):
            renyi = -RenyiELBO(0.0, 3, max_plate_nesting=2, vectorize_particles=True).loss(
                spvae.model, spvae.guide, rows
            )
        enum = -TraceEnum_ELBO(max_plate_nesting=2).loss(spvae.model, spvae.guide, rows) / 4000
        assert trace < enum - 0.05 and enum < float(circuit.mean()) - 0.05
        assert float(circuit.mean()) < exact and trace < exact
        assert renyi / 4000 < exact

    def test_second_model_does_not_train_the_first_ones_parameters(self):
        x = torch.randn(4, 1, 2, 2)
        first = small_spvae()
        SVI(first.model, first.guide, pyro.optim.Adam({"lr": 0.1}), CircuitELBO()).step(x)
        second = small_spvae()
        with pytest.raises(ValueError, match="pyro.clear_param_store"):
            SVI(second.model, second.guide, pyro.optim.Adam({"lr": 0.1}), CircuitELBO()).step(x)
        pyro.clear_param_store()
        before = [p.clone() for p in second.parameters()]
        SVI(second.model, second.guide, pyro.optim.Adam({"lr": 0.1}), CircuitELBO()).step(x)
        assert all(not torch.equal(a, b) for a, b in zip(before, second.parameters(), strict=True))


class TestPredictive:
    @pytest.mark.parametrize("parallel", [False, True])
    @pytest.mark.parametrize("given", [False, True])
    def test_draws(self, given, parallel):
        spvae = small_spvae()
        guide = spvae.posterior(torch.randn(3, 1, 2, 2)) if given else None
        draws = Predictive(spvae.model, guide=guide, num_samples=5, parallel=parallel)(num=3)
        assert draws["image"].shape == (5, 3, 1, 1, 2, 2)
        if not given:
            assert draws["tree"].shape == (5, 3, 1, 8) and (draws["tree"].sum(-1) == 4).all()

    @pytest.mark.parametrize("parallel", [False, True])
    def test_latent_variables_are_drawn_anew_for_every_sample(self, parallel):
        """By the particles' weights, the same particle for all sites of a leaf."""
        torch.manual_seed(0)
        spvae = SPVAE(poon_domingos((2, 2), 1), units=2, leaf=HVAE(Normal(), 2), guide=HierarchicalGuide())
        guide = spvae.posterior(torch.randn(3, 1, 2, 2), num_particles=4)
        draws = Predictive(guide, num_samples=4000, parallel=parallel)()
        assert draws["tree"].shape == (4000, 3, 1, 8) and draws["z1"].shape == (4000, 3, 8, 2)
        shares = guide.log_weight.softmax(0)  # [particle, data, leaf]
        index = []
        for name, (values, _) in guide.values.items():
            found = (draws[name].unsqueeze(1) == values).all(-1)  # [sample, particle, data, leaf]
            assert bool((found.sum(1) == 1).all())
            index.append(found.double())
        assert torch.equal(index[0], index[1])
        error = (shares * (1 - shares) / 4000).sqrt()
        assert bool(((index[0].mean(0) - shares).abs() < 5 * error + 1e-9).all())

    def test_samples_have_the_models_moments(self):
        model = LinearGaussian()
        draws = model.spvae.sample(200_000)[:, 0].flatten(1)
        # mixture of linear-Gaussian leaves: moments by the exact marginal of leaves
        weight = InducedTree(model.spvae.circuit).mean.reshape(2, 2)
        mean = model.bias.detach()
        variance = model.weight.square().sum(1) + model.sigma.square()
        for cell in range(2):
            leaves = [2 * cell, 2 * cell + 1]
            mixed = (weight[cell].unsqueeze(-1) * mean[leaves]).sum(0)
            second = (weight[cell].unsqueeze(-1) * (variance[leaves] + mean[leaves] ** 2)).sum(0)
            pixels = model.spvae.view.index[cell]
            sample = draws[:, pixels]
            error = (second - mixed**2).sqrt() / 200_000**0.5
            assert ((sample.mean(0) - mixed).abs() < 5 * error).all()
            torch.testing.assert_close(sample.var(0), second - mixed**2, rtol=0.03, atol=0)
        means = model.spvae.sample(200_000, means=True)[:, 0].flatten(1)
        assert (means.var(0) < draws.var(0)).all()


class TestConditional:
    def test_posterior_latents_are_exact_in_the_limit(self):
        """Of trees: tests/queries/test_queries.py."""
        model = LinearGaussian()
        spvae = model.spvae
        x = torch.randn(1, 1, 2, 4)
        rows = x.expand(1000, -1, -1, -1)
        z = poutine.trace(spvae.posterior(rows, num_particles=500)).get_trace().nodes["z"]["value"]  # [S, L, d]
        for leaf in range(4):
            weight, sigma = model.weight[leaf], model.sigma[leaf]
            precision = torch.eye(2) + (weight / sigma.square()) @ weight.T
            residual = spvae.view(x)[0, leaf] - model.bias[leaf]
            mean = torch.linalg.solve(precision, (weight / sigma.square()) @ residual)
            spread = torch.linalg.inv(precision).diag().sqrt()
            assert ((z[:, leaf].mean(0) - mean).abs() < 6 * spread / 1000**0.5 + 0.1 * spread).all()

    def test_imputed_entries_follow_the_conditional(self):
        """Given the left cell, the right one follows the mixture of its leaves under the tree's posterior."""
        model = LinearGaussian()
        model.bias[3] += 2.0  # in place, so that it matters which leaf is drawn
        spvae = model.spvae
        x = 2 * torch.randn(1, 1, 2, 4)
        observed = torch.zeros(1, 2, 4, dtype=torch.bool)
        observed[..., :2] = True
        spoilt = torch.where(observed, x, torch.nan)
        rows = spoilt.expand(1_000, -1, -1, -1)
        draws, others = spvae.impute(rows, observed, num_samples=2, num_particles=200)
        assert torch.equal(draws[:, observed], rows[:, observed])
        assert (draws != others)[:, ~observed].all()
        leaf = model.leaf_log_prob(x, observed)
        r = spvae.circuit.posterior(leaf)[0, 2:]
        pixels = spvae.view.index[1]
        sample = draws.flatten(1)[:, pixels[0]]
        mean, variance = model.bias[2:, 0], model.weight[2:, :, 0].square().sum(1) + model.sigma[2:, 0].square()

        def cdf(v):
            v = torch.as_tensor(v)
            return (r.unsqueeze(-1) * torch.distributions.Normal(mean, variance.sqrt()).cdf(v.unsqueeze(-1)).T).sum(0)

        assert stats.kstest(sample.numpy(), lambda v: cdf(v).numpy()).pvalue > 1e-3


LIKELIHOODS = {
    "bernoulli": (Bernoulli, lambda shape: torch.randint(2, shape).double()),
    "binomial": (lambda: Binomial(7), lambda shape: torch.randint(8, shape).double()),
    "categorical": (lambda: Categorical(5), lambda shape: torch.randint(5, shape).double()),
    "normal": (Normal, torch.rand),
    "normal, paper": (lambda: Normal(mean="sigmoid", scale="precision"), torch.rand),
}
SHAPES = {
    "image": (lambda: poon_domingos((4, 4), delta=2), (1, 4, 4), {}),
    "ragged image": (lambda: poon_domingos((5, 4), delta=3), (1, 5, 4), {}),
    "colour": (lambda: poon_domingos((4, 4), delta=2), (3, 4, 4), {"channels": 3}),
    "table": (lambda: random_binary_tree(7, depth=2, repetitions=3, seed=0), (7,), {}),
    "volume": (lambda: poon_domingos((2, 2, 2), delta=1), (2, 2, 2), {}),
    "one VAE": (lambda: whole((3, 3)), (1, 3, 3), {}),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_likelihood_on_every_shape(likelihood, shape):
    make_likelihood, draw = LIKELIHOODS[likelihood]
    make_regions, event, options = SHAPES[shape]
    spvae = small_spvae(make_regions(), likelihood=make_likelihood(), **options)
    x = draw((6, *event))
    loss = CircuitELBO(3)(spvae.model, spvae.guide)(x)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in spvae.parameters())
    assert spvae.log_likelihood(x, num_samples=20).isfinite().all()
    sample = spvae.sample(4)
    assert sample.shape == (4, *event)
    spvae.check(sample)
    observed = torch.rand(event) < 0.5
    filled = spvae.impute(x, observed, num_samples=2)
    assert filled.shape == (2, 6, *event) and torch.equal(filled[:, :, observed], x[:, observed].expand(2, -1, -1))
    spvae.check(filled[0])


class TestParts:
    def test_paper_sizes(self):
        """413,352 parameters (Table 2: 413 thousand), 310,024 for the discrete model."""
        torch.set_default_dtype(torch.float32)
        regions = poon_domingos((28, 28), delta=7)
        sizes = {"latent_dim": 25, "hidden_dims": (30, 30)}
        continuous = SPVAE(regions, units=2, likelihood=Normal(), **sizes)
        assert sum(p.numel() for p in continuous.parameters()) == 413_352
        discrete = SPVAE(regions, units=2, likelihood=Binomial(255), **sizes)
        assert sum(p.numel() for p in discrete.parameters()) == 310_024
        plain = SPVAE(whole((28, 28)), units=1, likelihood=Normal(), latent_dim=200, hidden_dims=(300, 300))
        assert sum(p.numel() for p in plain.parameters()) == 1_545_168

    def test_a_standard_normal_has_events_of_any_shape(self):
        for shape in ((), (2,), (2, 3)):
            law = StandardNormal().bind(leaves=1, event_shape=shape)()
            assert law.event_shape == shape
            z = torch.randn(4, 1, *shape)
            expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).reshape(4, 1, -1).sum(-1)
            torch.testing.assert_close(law.log_prob(z), expected)


REFUSED = [
    (lambda: small_spvae(latent_dim=0), "latent_dim is 0; a positive integer"),
    (lambda: small_spvae(hidden_dims=(3, 0)), "hidden_dims is .* positive integers"),
    (lambda: small_spvae(channels=0), "channels is 0"),
    (lambda: small_spvae(units=0), "units"),
    (lambda: NormalGuide(activation="gelu2"), "activation is 'gelu2'; known are"),
    (lambda: NormalGuide(networks="both"), "networks is 'both'; known are separate, shared"),
    (lambda: NormalGuide(scale="relu"), "scale is 'relu'; known are softplus, precision, exp, logvar"),
    (lambda: SPVAE(GRID, leaf=VAE(Normal()), latent_dim=2), r".*the options of the default leaf \(latent_dim\)"),
    (lambda: SPVAE(Circuit(GRID, 3), units=2), "units and leaves belong to the circuit that was given"),
    (lambda: SPVAE("grid"), "regions is a str; a RegionGraph or a Circuit is needed"),
    (lambda: small_spvae(likelihood=Bernoulli), "likelihood is the class Bernoulli; an instance of Likelihood"),
    (lambda: small_spvae(prior=NormalGuide()), "prior is a NormalGuide; an instance of Prior is needed"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused(make, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        make()


X, ALL = torch.zeros(3, 1, 2, 2, dtype=torch.float64), torch.ones(1, 2, 2, dtype=torch.bool)


class TestBadData:
    """One sentence that names the argument, what was given and what is accepted."""

    @pytest.fixture
    def spvae(self):
        return small_spvae(likelihood=Bernoulli())

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (X.new_zeros(3, 1, 2, 3), r"x has shape \[3, 1, 2, 3\]; .* need \[data, 1, 2, 2\]"),
            (X.new_zeros(3, 2, 2), r"x has shape \[3, 2, 2\]"),
            (X[:0], "x holds no data"),
            (X + torch.nan, r"x holds 12 NaN or infinite values, the first in row 0 at \[0, 0, 0\]"),
            (X[:1] + torch.inf, "NaN or infinite"),
            (X + 0.5, "x holds the value 0.5 .*; the likelihood Bernoulli accepts 0 and 1"),
            (X.long(), "floating point is needed"),
            ([[0.0]], "a torch.Tensor is needed"),
            (X.float(), "x has dtype torch.float32, the model torch.float64; convert one of them"),
        ],
    )
    def test_values_and_shapes(self, spvae, x, message):
        for use in (
            spvae.check,
            lambda x: spvae.log_likelihood(x, num_samples=1),
            SVI(spvae.model, spvae.guide, pyro.optim.Adam({}), CircuitELBO()).step,
        ):
            if isinstance(x, torch.Tensor) or use == spvae.check:
                with pytest.raises((TypeError, ValueError), match=message):
                    use(x)

    @pytest.mark.parametrize(
        ("ask", "message"),
        [
            (lambda spvae: spvae.check(X, torch.ones(1, 2, 2)), "observed must be a bool tensor"),
            (lambda spvae: spvae.impute(X, torch.ones(3, 3) > 0), r"observed has shape \[3, 3\]"),
            (lambda spvae: spvae.sample(0), "num is 0"),
            (lambda spvae: spvae.impute(X, ALL, num_samples=0), "num_samples is 0"),
            (lambda spvae: spvae.impute(X, None), "observed is a NoneType; an instance of Tensor is needed"),
            (lambda spvae: spvae.reconstruct(X, num_particles=0), "num_particles is 0"),
            (lambda spvae: spvae.embed(X, num_particles=0), "num_particles is 0; a positive integer is needed"),
            (lambda spvae: spvae.log_likelihood(X.to("meta")), "x is on the device meta, the model on cpu; move one"),
            (lambda spvae: spvae.impute(X, ALL.to("meta")), "observed is on the device meta, the model on cpu; move"),
        ],
    )
    def test_arguments_of_queries(self, spvae, ask, message):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            ask(spvae)

    def test_unseen_fillers_are_not_looked_at(self, spvae):
        x = torch.full((2, 1, 2, 2), torch.nan)
        x[..., 0] = 1.0
        observed = torch.zeros(1, 2, 2, dtype=torch.bool)
        observed[..., 0] = True
        loss = CircuitELBO(3)(spvae.model, spvae.guide)(x, observed)
        loss.backward()
        assert loss.isfinite() and all(p.grad.isfinite().all() for p in spvae.parameters())
