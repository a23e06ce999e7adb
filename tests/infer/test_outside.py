# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sites in the data plate outside the leaf plate: added once a datum, and said what is wrong with them."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.poutine.subsample_messenger import _Subsample

from pyro_spvae import CircuitELBO, InducedTree, log_likelihood, poon_domingos
from pyro_spvae.infer import bound_terms, sample_tree
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import FactorizedLeaf
from tests.helpers import leaf_log_weights, small_spvae

ROWS = 7


def labelled(spvae, scale=1.0, per_leaf=False):
    """The model with a label of each datum, which may depend on the leaves' latent variables."""

    def model(x, **kwargs):
        with poutine.trace() as tracer:
            spvae.model(x, **kwargs)
        loc = x.flatten(1).sum(1, keepdim=True)
        if per_leaf:
            loc = loc + tracer.trace.nodes["z"]["value"].sum((-1, -2)).unsqueeze(-1)
        with pyro.plate("data", dim=-2):
            pyro.sample("y", dist.Normal(loc, scale, validate_args=False), obs=x.flatten(1)[:, :1].exp())

    return model


def density(x):
    """Of the labels."""
    return dist.Normal(x.flatten(1).sum(1), 1.0).log_prob(x.flatten(1)[:, 0].exp())


@pytest.fixture
def x():
    return torch.randn(ROWS, 1, 2, 2)


class TestLogLikelihood:
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize(("num_samples", "chunk_size"), [(1, 2048), (6, 2048), (6, 4), (6, 1), (2, 6), (3, 1)])
    def test_labels_count_once_whatever_the_chunks(self, x, num_samples, chunk_size, masked):
        spvae = small_spvae()
        options = {"num_samples": num_samples, "chunk_size": chunk_size}
        if masked:
            options["observed"] = torch.rand(x.shape) < 0.6
        found = []
        for model in (spvae.model, labelled(spvae)):
            pyro.set_rng_seed(1)
            found.append(log_likelihood(model, spvae.guide, x, **options))
        torch.testing.assert_close(found[1], found[0] + density(x), rtol=0, atol=1e-10)

    def test_where_nothing_is_latent(self, x):
        spvae = small_spvae(poon_domingos((2, 2), 1), leaf=FactorizedLeaf(Normal()))
        found = log_likelihood(labelled(spvae), spvae.guide, x, num_samples=5, chunk_size=10)
        exact = log_likelihood(spvae.model, spvae.guide, x)
        torch.testing.assert_close(found, exact + density(x), rtol=0, atol=1e-10)

    @pytest.mark.parametrize("chunk_size", [1, 3, 1000])
    def test_labels_that_depend_on_latent_variables_are_refused(self, x, chunk_size):
        """However few samples are in a chunk."""
        spvae = small_spvae()
        with pytest.raises(ValueError, match="^CircuitELBO: a site outside the plate 'leaf' depends on latent"):
            log_likelihood(labelled(spvae, per_leaf=True), spvae.guide, x[:1], num_samples=5, chunk_size=chunk_size)

    def test_of_one_sample_may_depend_on_it(self, x):
        spvae = small_spvae()
        pyro.set_rng_seed(1)
        found = log_likelihood(labelled(spvae, per_leaf=True), spvae.guide, x[:1], num_samples=1)
        leaf = leaf_log_weights(spvae, x[:1], 1)[0]
        pyro.set_rng_seed(1)
        z = poutine.trace(spvae.guide).get_trace(x[:1]).nodes["z"]["value"]
        label = dist.Normal(x[0].sum() + z.sum(), 1.0).log_prob(x[0, 0, 0, 0].exp())
        torch.testing.assert_close(found, spvae.circuit(leaf) + label, rtol=0, atol=1e-10)

    @pytest.mark.parametrize("chunk_size", [1, 1000])
    def test_latent_variables_outside_are_refused(self, x, chunk_size):
        spvae = small_spvae()

        def first(program):
            def run(x):
                with pyro.plate("data", dim=-2):
                    pyro.sample("s", dist.Normal(torch.zeros(len(x), 1), 1.0))
                program(x)

            return run

        with pytest.raises(ValueError, match="^CircuitELBO: the latent site 's' lies outside the plate 'leaf'"):
            log_likelihood(first(spvae.model), first(spvae.guide), x[:1], num_samples=5, chunk_size=chunk_size)


@pytest.mark.parametrize("options", [{}, {"alpha": 1.0}, {"reduce": "root"}, {"vectorize_particles": False}])
def test_under_subsampling_labels_count_with_their_rows_and_what_is_outside_of_all_plates_once(x, options, monkeypatch):
    monkeypatch.setattr(_Subsample, "sample", lambda self: torch.arange(self.subsample_size or self.size))  # no noise
    spvae = small_spvae()
    weight, slope = (torch.nn.Parameter(torch.tensor(value)) for value in (7.0, 0.3))

    def model(x, size=None):
        with pyro.plate("data", size or ROWS, subsample_size=ROWS if size else None, dim=-2):
            sample_tree("tree", InducedTree(spvae.circuit))
            pyro.sample("y", dist.Normal(slope * x.flatten(1)[:, :1], 1.0), obs=torch.ones(ROWS, 1))
            with pyro.plate("leaf", spvae.num_leaves, dim=-1):
                spvae.leaf(spvae.prepare(x).patches)
        pyro.factor("regulariser", -weight)

    results = []
    for size in (None, 5 * ROWS):
        pyro.set_rng_seed(1)
        loss = CircuitELBO(3, **options).differentiable_loss(model, spvae.guide, x, size=size)
        results.append((loss.item(), *(grad.item() for grad in torch.autograd.grad(loss, [weight, slope]))))
    pyro.set_rng_seed(1)
    plain = CircuitELBO(3, **options).loss(spvae.model, spvae.guide, x)
    labels = dist.Normal(0.3 * x.flatten(1)[:, 0], 1.0).log_prob(torch.ones(ROWS)).sum().item()
    (alone, by_weight, by_slope), subsampled = results
    assert alone == pytest.approx(plain - labels + 7, abs=1e-9) and by_weight == pytest.approx(1)
    assert subsampled == pytest.approx((5 * (plain - labels) + 7, 1, 5 * by_slope), abs=1e-8)


class TestNotFinite:
    """NaN differs from itself, but not because it depends on anything."""

    MESSAGE = (
        "^CircuitELBO: the log-density of the site '{}' is nan in row {} of the data, where a number is needed; look"
    )

    @pytest.fixture(autouse=True)
    def no_validation(self):
        with pyro.validation_enabled(False):
            yield

    @pytest.mark.parametrize(
        "elbo", [CircuitELBO(1), CircuitELBO(3), CircuitELBO(3, alpha=0.5), CircuitELBO(3, vectorize_particles=False)]
    )
    def test_the_site_and_its_first_row_are_named(self, x, elbo):
        spvae = small_spvae()
        scale = torch.ones(ROWS, 1)
        scale[4:] = math.nan
        with pytest.raises(ValueError, match=self.MESSAGE.format("y", 4)):
            elbo.differentiable_loss(labelled(spvae, scale), spvae.guide, x)

    def test_also_where_it_depends_on_latent_variables(self, x):
        spvae = small_spvae()
        with pytest.raises(ValueError, match=self.MESSAGE.format("y", 0)):
            CircuitELBO(3).loss(labelled(spvae, math.nan, per_leaf=True), spvae.guide, x)

    def test_figures(self, x):
        spvae = small_spvae()
        model = labelled(spvae, math.nan)
        for ask in (bound_terms, lambda *pair: log_likelihood(*pair, num_samples=4, chunk_size=2)):
            with pytest.raises(ValueError, match=self.MESSAGE.format("y", 0)):
                ask(model, spvae.guide, x)

    def test_a_tree_that_is_conditioned_on_under_weights_that_are_nan(self, x):
        spvae = small_spvae()
        tree = InducedTree(spvae.circuit).sample((ROWS,))
        with torch.no_grad():
            next(spvae.circuit.parameters()).fill_(math.nan)
        model = poutine.condition(spvae.model, data={"tree": tree.unsqueeze(-2)})
        with pytest.raises(ValueError, match=self.MESSAGE.format("tree", 0)):
            CircuitELBO(3).loss(model, spvae.guide, x)

    def test_infinite_ones_that_cancel(self, x):
        spvae = small_spvae()

        def model(x):
            spvae.model(x)
            with pyro.plate("data", dim=-2):
                for name, sign in (("a", 1), ("b", -1)):
                    pyro.factor(name, torch.full((ROWS, 1), sign * math.inf))

        with pytest.raises(
            ValueError, match="^CircuitELBO: the log-density of the site 'a' is inf in row 0 of the data"
        ):
            CircuitELBO(3).loss(model, spvae.guide, x)

    def test_a_label_of_density_zero_is_none(self, x):
        """It makes its datum impossible."""
        spvae = small_spvae()

        def model(x):
            spvae.model(x)
            with pyro.plate("data", dim=-2):
                pyro.factor("impossible", torch.where(torch.arange(ROWS).unsqueeze(-1) == 2, -math.inf, 0.0))

        bound = CircuitELBO(3).bound(model, spvae.guide, x)
        assert bound.isfinite().tolist() == [row != 2 for row in range(ROWS)] and bound[2] == -math.inf
