# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixture and stick-breaking leaves inside circuits: bounds, estimates and training, by listing everything there is."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch.distributions import Beta, Normal
from torch.nn.functional import logsigmoid

from pyro_spvae import CircuitELBO, whole
from pyro_spvae.guides import MixtureGuide
from pyro_spvae.infer.enumerated import enumerate_guide
from pyro_spvae.models import SPVAE
from tests.helpers import assert_same_gradients, gradients, particles
from tests.models.mixture_cases import (
    IMAGES,
    KINDS,
    MEANS,
    Exact,
    assert_expectation,
    assert_trace_enum_of_each_tree,
    dlgmm,
    make,
    numbers,
    over_trees,
)

REPEATS = 100
SOME = IMAGES[[0, 19, 37, 63]]


@pytest.mark.parametrize("kind", KINDS)
class TestEvidence:
    def test_probabilities_sum_to_one(self, kind):
        exact = Exact(make(kind))
        torch.testing.assert_close(exact.log_prob(IMAGES).exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-9)
        assert float(exact.log_prob(IMAGES).exp().std()) > 0.005  # no uniform distribution

    def test_bounds_are_below_it_and_the_estimate_is_unbiased(self, kind):
        r"""
        Of independent leaves :math:`\hat p = \sum_T p(T) \prod_l \hat p_l` has the expectation p(x) for any number of
        particles, so that its logarithm has a smaller one, and that of ``alpha=1`` a still smaller one.
        """
        spvae = make(kind)
        log_prob = Exact(spvae).log_prob(IMAGES)
        rows, bounds = IMAGES.repeat(REPEATS, 1, 1, 1), []
        for alpha in (0.0, 1.0):
            found = CircuitELBO(4, alpha).bound(spvae.model, spvae.guide, rows).reshape(REPEATS, -1)
            bounds.append(found)
        assert_expectation(bounds[0].exp(), log_prob.exp(), 0.1)
        for low, high in ((bounds[1], bounds[0]), (bounds[0], log_prob.expand(REPEATS, -1))):
            gap = (high - low).mean(1)  # over images
            assert float(gap.mean()) > 5 * float(gap.std()) / REPEATS**0.5

    def test_log_likelihood_finds_it(self, kind):
        spvae = make(kind)
        found = spvae.log_likelihood(SOME.repeat(25, 1, 1, 1), num_samples=300).reshape(25, -1)
        log_prob = Exact(spvae).log_prob(SOME)
        assert_expectation(found.exp(), log_prob.exp(), 0.1)
        torch.testing.assert_close(found.mean(0), log_prob, rtol=0, atol=0.05)

    def test_of_what_is_seen(self, kind):
        """A region that is seen, one of which a half is, and one that is missing: the marginal of four images each."""
        spvae = make(kind)
        exact = Exact(spvae)
        observed = torch.tensor([1, 1, 0, 1, 0, 0], dtype=torch.bool)
        for row in SOME:
            same = (IMAGES == row)[..., observed].flatten(1).all(-1)
            total = exact.log_prob(IMAGES[same]).logsumexp(0)
            torch.testing.assert_close(exact.log_prob(row.unsqueeze(0), observed)[0], total)
        rows = torch.where(observed, SOME, torch.nan).repeat(300, 1, 1, 1)
        found = CircuitELBO(5).bound(spvae.model, spvae.guide, rows, observed).reshape(300, -1)
        assert_expectation(found.exp(), exact.log_prob(SOME, observed).exp(), 0.1)


def by_hand(spvae, x, num, **arguments):
    """
    Weights :math:`q(c)` and log-importance weights of a DLGMM, ``[component, particle, data, leaf]`` each, by formulas
    of the densities; draws are those of the guide.
    """
    pyro.set_rng_seed(1)
    guide = enumerate_guide(particles(spvae.guide, num), 3)
    sites = poutine.trace(guide).get_trace(x, **arguments).nodes
    shape = (num, len(x), spvae.num_leaves)
    v = sites["v"]["value"].reshape(*shape, 2)
    z = sites["z"]["value"].reshape(3, *shape)
    law, (loc, scale) = spvae.leaf_guide.encode(spvae.leaf.features(spvae.view(x)))
    a, b = law.base_dist.concentration1, law.base_dist.concentration0
    log_q = (a.log() + b.log() + (a - 1) * v.log() + (b - 1) * torch.log1p(-(v**a))).sum(-1)
    log_p = Beta(torch.tensor([1.2, 1.2]), torch.tensor([2.4, 1.2])).log_prob(v).sum(-1)
    share = torch.stack([v[..., 0], (1 - v[..., 0]) * v[..., 1], (1 - v[..., 0]) * (1 - v[..., 1])])
    weights = []
    for c, mean in enumerate(MEANS):  # p(c | v) = q(c | v)
        own = Normal(loc[..., c, 0], scale[..., c, 0])
        logits = spvae.leaf.pixels.decoder(z[c].unsqueeze(-1))[0]
        fit = logsigmoid((2 * spvae.view(x) - 1) * logits).sum(-1)
        weights.append(log_p - log_q + Normal(mean, 1.0).log_prob(z[c]) - own.log_prob(z[c]) + fit)
    return share, torch.stack(weights)


class TestByHand:
    @pytest.mark.parametrize("num", [1, 3])
    @pytest.mark.parametrize(("alpha", "reduce"), [(0.0, "leaf"), (1.0, "leaf"), (0.0, "root"), (1.0, "root")])
    @pytest.mark.parametrize("factor", [1, 7])
    def test_value_and_gradients(self, alpha, reduce, num, factor):
        """Also of a batch of a larger data set, whose scale acts outside of the logarithm."""
        arguments = {} if factor == 1 else {"size": factor * len(SOME)}
        spvae = make()
        pyro.set_rng_seed(1)
        loss = CircuitELBO(num, alpha, reduce=reduce).differentiable_loss(spvae.model, spvae.guide, SOME, **arguments)
        share, weight = by_hand(spvae, SOME, num, **arguments)
        mean = {0.0: lambda w: w.exp().mean(0).log(), 1.0: lambda w: w.mean(0)}[alpha]
        particle = (share * weight).sum(0) if alpha else (share * weight.exp()).sum(0).log()
        bound = over_trees(spvae, mean(particle)) if reduce == "leaf" else mean(over_trees(spvae, particle))
        expected = -factor * bound.sum()
        torch.testing.assert_close(loss, expected)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected), atol=1e-7)

    @pytest.mark.parametrize("kind", ["enumerated", "drawn", "mixed"])
    def test_a_region_that_is_not_seen_is_not_there(self, kind):
        """The bound of the seen regions with what the others' leaves may say set to 1, by hand."""
        spvae = make(kind)
        observed = torch.tensor([True, True, True, True, False, False])
        terms = []
        for arguments in ((), (observed,)):
            pyro.set_rng_seed(1)
            terms.append(CircuitELBO(2).terms(spvae.model, spvae.guide, (SOME, *arguments), {}))
        full, part = (term.log_weight.exp().mean(0).log() for term in terms)
        seen = spvae.view(observed.expand(1, 1, 1, 6))[0].any(-1)
        torch.testing.assert_close(part, torch.where(seen, full, 0.0))
        assert int(seen.sum()) == 4 and bool((full[:, ~seen].abs() > 1e-3).all())


class TestTraceEnum:
    """Pyro's own enumeration of the unchanged pair."""

    @pytest.mark.parametrize("num", [1, 3])
    def test_of_each_tree(self, num):
        assert_trace_enum_of_each_tree(make(), SOME[1:2], num)

    @pytest.mark.parametrize("num", [1, 3])
    def test_of_drawn_components(self, num):
        """The trees listed; particles are averaged outside of the logarithm."""
        spvae, found = make("drawn"), []
        options = {"vectorize_particles": True, "max_plate_nesting": 2}
        for elbo in (CircuitELBO(num, alpha=1.0, reduce="root"), TraceEnum_ELBO(num, **options)):
            pyro.set_rng_seed(2)
            found.append(elbo.loss(spvae.model, spvae.guide, SOME))
        assert found[0] == pytest.approx(found[1], rel=1e-10)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_vimco_beside_draws_that_are_differentiable(alpha):
    """Two leaves, two particles and two components: the mean over all sixteen choices of c, each with its noise."""
    pair = (dlgmm(means=(-2.0, 2.0)), MixtureGuide((3,), enumerate=False))
    spvae = make(regions=whole(2), pair=pair)
    repeats, batches = 1500, 12
    x = torch.tensor([1.0, 0.0]).expand(repeats, 2)
    law, (loc, scale) = spvae.leaf_guide.encode(spvae.leaf.features(spvae.view(x)))
    prior = Beta(torch.tensor(1.2), torch.tensor(1.2))
    choices = torch.cartesian_prod(*4 * [torch.arange(2)]).reshape(-1, 2, 1, 2)  # [choice, K, B, L]
    found = {"exact": [], "drawn": []}
    for _ in range(batches):
        v = law.rsample((2,)).squeeze(-1)  # [K, B, L]
        z = loc.squeeze(-1) + scale.squeeze(-1) * torch.randn(2, repeats, 2, 2)  # [K, B, L, c]
        share = torch.stack([v, 1 - v], -1)
        fit = torch.stack([spvae.leaf.pixels(z[..., c, None]).log_prob(spvae.view(x)) for c in range(2)], -1)
        weight = Normal(torch.tensor([-2.0, 2.0]), 1.0).log_prob(z) - Normal(
            loc.squeeze(-1), scale.squeeze(-1)
        ).log_prob(z)
        weight = weight + fit + (prior.log_prob(v) - law.base_dist.log_prob(v.unsqueeze(-1)).squeeze(-1)).unsqueeze(-1)
        own, chance = (torch.where(choices == 0, values[..., 0], values[..., 1]) for values in (weight, share))
        leaf = own.mean(1) if alpha else own.exp().mean(1).log()
        loss = -(chance.prod(-1).prod(1) * over_trees(spvae, leaf)).sum() / repeats
        found["exact"].append(gradients(spvae, loss))
        loss = CircuitELBO(2, alpha).differentiable_loss(spvae.model, spvae.guide, x) / repeats
        found["drawn"].append(gradients(spvae, loss))
        law, (loc, scale) = spvae.leaf_guide.encode(spvae.leaf.features(spvae.view(x)))
    for name in found["exact"][0]:
        exact, drawn = (torch.stack([one[name] for one in found[how]]) for how in ("exact", "drawn"))
        error = ((exact.var(0) + drawn.var(0)) / batches).sqrt() + 1e-12
        assert bool(((exact.mean(0) - drawn.mean(0)).abs() < 6 * error).all()), name
        if name.endswith("encoder.stacks.0.biases.1"):  # the score's part of the fractions' gradient would be missed
            assert float(error.max()) < 0.2 * float(exact.mean(0).abs().max())


class TestTraining:
    @pytest.mark.parametrize("kind", KINDS)
    def test_fit_raises_the_bound(self, kind):
        """On images of two sorts, some entries of which are missing, and hold the opposite."""
        x = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).reshape(2, 1, 1, 6).repeat(15, 1, 1, 1)
        observed = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.6
        spvae = make(kind)
        before = Exact(spvae).log_prob(x[:2])
        objective = CircuitELBO(2 if kind == "drawn" else 1)
        rows = torch.where(observed, x, 1 - x)
        spvae.fit(rows, x[:2], observed=observed, epochs=4, batch_size=5, lr=0.1, objective=objective, seed=1)
        assert float((Exact(spvae).log_prob(x[:2]) - before).mean()) > 0.5

    @pytest.mark.parametrize("kind", KINDS)
    def test_saved_and_loaded_it_has_the_same_probabilities(self, kind, tmp_path):
        spvae = make(kind)
        spvae.save(tmp_path / "model")
        again = SPVAE.load(tmp_path / "model")
        assert torch.equal(Exact(again).log_prob(IMAGES), Exact(spvae).log_prob(IMAGES))
        found = []
        for one in (spvae, again):
            pyro.set_rng_seed(1)
            found.append(CircuitELBO(2).bound(one.model, one.guide, IMAGES))
        assert torch.equal(*found)


def test_how_images_are_numbered():
    assert torch.equal(numbers(IMAGES), torch.arange(64)) and math.prod(IMAGES.shape) == 64 * 6
