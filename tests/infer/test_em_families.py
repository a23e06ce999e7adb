# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""EM of columns of every family: steps that never lower the likelihood, the most likely parameters, and edges."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch
from torch.testing import assert_close

from pyro_spvae import SPN, random_binary_tree, whole
from pyro_spvae.data import Column
from pyro_spvae.likelihoods import (
    Beta,
    BetaBinomial,
    Columns,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    Gamma,
    LogNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from pyro_spvae.likelihoods.families import COLUMN_FAMILIES, Unit
from pyro_spvae.likelihoods.families.most_likely import beta_shapes, gamma_shape
from pyro_spvae.models import FactorizedLeaf, GaussianLeaf
from tests.likelihoods.column_cases import BY_FAMILY

UNITS = {"student-t": (-4.0, 2.0), "gamma": (3.0, 2.0), "beta": (0.4, 0.2), "negative-binomial": (4.0, 4.0)}
OWN = {"student-t": StudentT, "gamma": Gamma, "beta": Beta, "negative-binomial": NegativeBinomial}
KINDS = {"student-t": "real", "gamma": "positive", "beta": "proportion", "negative-binomial": "count"}
NEW = tuple(UNITS)


def drawn(column, rows):
    """Of two components, far from the distribution of the column's unit, some rows far out."""
    first = torch.rand(rows) < 0.4
    name = str(column.family)
    location, scale = column.location, column.scale
    if column.is_coded:
        number = len(column.categories)
        return torch.where(first, torch.randint(number, (rows,)), number - 1).double()
    if name in ("normal", "student-t", "log-normal"):
        z = torch.where(first, -1.0, 0.7) + 0.3 * torch.distributions.StudentT(1.5).sample((rows,)).clamp(-40, 40)
        x = location + scale * (z.clamp(-3, 3) if name == "log-normal" else z)
        return x.exp() if name == "log-normal" else x
    if name == "gamma":
        shape = torch.where(first, 0.7, 30.0)
        return location * torch.distributions.Gamma(shape, shape / torch.where(first, 0.5, 1.4)).sample()
    if name == "beta":
        return torch.distributions.Beta(torch.where(first, 0.6, 30.0), torch.where(first, 2.0, 9.0)).sample()
    rate = location * torch.distributions.Gamma(torch.where(first, 1.5, 8.0), torch.where(first, 4.0, 5.0)).sample()
    return torch.poisson(rate)


def columns_of(name, number=2):
    column = BY_FAMILY[name]
    return tuple(Column.from_dict(column.to_dict() | {"name": f"c{place}"}) for place in range(number))


def rising(spn, x, observed=None, steps=12, **options):
    found = [spn.em_step(x, observed, smoothing=0, **options) for _ in range(steps)]
    found.append(spn.log_prob(x, observed).mean().item())
    falls = np.diff(found)
    assert falls.min() > -1e-9, found
    assert found[-1] > found[0] + 0.01
    return found


class TestNeverFalls:
    @pytest.mark.parametrize("components", [2, 3])
    @pytest.mark.parametrize("name", BY_FAMILY)
    def test_of_one_family(self, name, components):
        torch.manual_seed(components)
        columns = columns_of(name)
        x = torch.stack([drawn(column, 150) for column in columns], -1)
        spn = SPN(whole((2,)), units=components, likelihood=Columns(columns))
        rising(spn, x, torch.rand(x.shape) < 0.8)

    @pytest.mark.parametrize("leaf", [FactorizedLeaf, GaussianLeaf])
    def test_of_all_families(self, leaf):
        torch.manual_seed(1)
        columns = tuple(BY_FAMILY.values())
        x = torch.stack([drawn(column, 150) for column in columns], -1)
        graph = whole((len(columns),)) if leaf is GaussianLeaf else random_binary_tree((len(columns),), 1, 2, seed=3)
        spn = SPN(graph, 1 if leaf is GaussianLeaf else 2, 3, leaf=leaf(likelihood=Columns(columns)))
        if spn.wanted_rows:
            spn.start(x)
        options = {"ridge": 0} if leaf is GaussianLeaf else {}
        rising(spn, x, torch.rand(x.shape) < 0.9, **options)

    @pytest.mark.parametrize("name", NEW)
    def test_of_one_likelihood(self, name):
        location, scale = UNITS[name]
        column = Column("c", KINDS[name], name, location=location, scale=scale)
        x = torch.stack([drawn(column, 120) for _ in range(2)], -1)
        spn = SPN(whole((2,)), units=2, likelihood=OWN[name](location, scale))
        rising(spn, x)


def objective(name, x):
    """Minus the mean log-density, of unconstrained parameters, by scipy."""
    laws = {
        "gamma": lambda p: scipy.stats.gamma(math.exp(p[0]), scale=math.exp(p[1])).logpdf,
        "beta": lambda p: scipy.stats.beta(math.exp(p[0]), math.exp(p[1])).logpdf,
        "log-normal": lambda p: scipy.stats.lognorm(math.exp(p[1]), scale=math.exp(p[0])).logpdf,
        "student-t": lambda p: scipy.stats.t(2.1 + math.exp(p[2]), p[0], math.exp(p[1])).logpdf,
        "negative-binomial": lambda p: scipy.stats.nbinom(math.exp(p[0]), 1 / (1 + math.exp(p[1] - p[0]))).logpmf,
        "poisson": lambda p: scipy.stats.poisson(math.exp(p[0])).logpmf,
    }
    return lambda p: -laws[name](p)(x).mean()


def parameters(law):
    return torch.stack([getattr(law, name).detach().flatten() for name in law.arg_constraints])


#: what to draw, where scipy starts, and how scipy's unconstrained parameters are those of the leaf
BEST = {
    "gamma": (lambda: scipy.stats.gamma(0.6, scale=5.0), [0, 0], lambda p: np.exp([p[0], -p[1]])),
    "beta": (lambda: scipy.stats.beta(0.5, 2.5), [0, 0], np.exp),
    "log-normal": (lambda: scipy.stats.lognorm(0.4, scale=3.0), [0, 0], lambda p: [p[0], math.exp(p[1])]),
    "poisson": (lambda: scipy.stats.poisson(3.3), [0], np.exp),
    "student-t": (
        lambda: scipy.stats.t(3.0, -3.0, 1.5),
        [-3, 0, 0],
        lambda p: [2.1 + math.exp(p[2]), p[0], math.exp(p[1])],
    ),
    "negative-binomial": (lambda: scipy.stats.nbinom(1.7, 0.2), [0, 1], lambda p: [math.exp(p[0]), p[1] - p[0]]),
}
MADE = OWN | {"log-normal": LogNormal, "poisson": Poisson}


@pytest.mark.parametrize("smoothing", [0.0, 7.0])
@pytest.mark.parametrize("name", BEST)
def test_of_one_leaf_is_the_most_likely_distribution(name, smoothing):
    """In one step, or where something is hidden in many; further data are like all, and change nothing."""
    make, start, to_law = BEST[name]
    x = make().rvs(size=400, random_state=3).astype(float)
    options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 10_000, "maxfev": 10_000}
    best = scipy.optimize.minimize(objective(name, x), start, method="Nelder-Mead", options=options)
    likelihood = MADE[name](*UNITS[name]) if name in UNITS else MADE[name]()
    spn = SPN(whole((1,)), units=1, likelihood=likelihood)
    rows = torch.from_numpy(x).unsqueeze(-1)
    for _ in range(300 if name in ("student-t", "negative-binomial") else 1):
        spn.em_step(rows, smoothing=smoothing)
    assert_close(spn.log_prob(rows).mean().item(), -best.fun, rtol=1e-9, atol=1e-9)
    assert_close(parameters(spn.leaf.law())[:, 0], torch.tensor(to_law(best.x)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gamma", "beta"])
def test_of_a_column_in_one_step_with_weights(name):
    """The most likely distribution of weighted rows is that of rows repeated as often."""
    column = BY_FAMILY[name]
    x = drawn(column, 30).reshape(-1, 1, 1)
    pixels = SPN(whole((1,)), units=1, likelihood=Columns([column])).leaf.pixels
    other = copy.deepcopy(pixels)
    times = torch.arange(30) % 4
    pixels.maximise(iter(pixels.expected(x, times.double().unsqueeze(-1))))
    repeated = x.repeat_interleave(times, 0)
    other.maximise(iter(other.expected(repeated, torch.ones(len(repeated), 1))))
    assert_close(pixels.outputs[0], other.outputs[0])


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [2.0], [0.0, 0.0], [0.0, 3.0], [900.0, 900.0]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NEW)
def test_of_values_that_do_not_vary_everything_stays_finite(name, dtype, smoothing, values):
    location, scale = UNITS[name]
    x = torch.tensor(values, dtype=torch.float64)
    if name == "beta":
        x = (x / 1000).clamp(1e-7, 1 - 1e-6)
    if name == "gamma":
        x = x.clamp(min=1e-12)
    x = x.unsqueeze(-1).to(dtype)
    columns = Columns([Column("c", KINDS[name], name, location=location, scale=scale)])
    spn = SPN(whole((1,)), units=2, likelihood=columns).to(dtype)
    before = spn.log_prob(x).mean().item()
    for _ in range(25):
        spn.em_step(x, smoothing=smoothing)
        assert all(bool(parameter.isfinite().all()) for parameter in spn.parameters())
    after = spn.log_prob(x).mean().item()
    assert math.isfinite(after) and after > before and after > -8
    assert bool(spn.leaf.law().mean.isfinite().all()) and bool(spn.leaf.law().variance.isfinite().all())
    if len(set(values)) == 1 and name != "negative-binomial":
        nearest = min(spn.leaf.law().mean.flatten().tolist(), key=lambda mean: abs(mean - x[0].item()))
        assert nearest == pytest.approx(x[0].item(), rel=2e-3, abs=1e-5)  # the other may have no data


@pytest.mark.parametrize("name", NEW)
def test_by_batches(name):
    """Step statistics of parameters that move are averaged, and reach about what steps on all rows do."""
    torch.manual_seed(0)
    columns = columns_of(name)
    x = torch.stack([drawn(column, 400) for column in columns], -1)
    spn = SPN(whole((2,)), units=2, likelihood=Columns(columns))
    twin = copy.deepcopy(spn)
    start = spn.log_prob(x).mean().item()
    found = spn.fit_em(x, 40, step_rows=50, smoothing=0.1, tolerance=-math.inf)
    wanted = twin.fit_em(x, 40, smoothing=0.1, tolerance=-math.inf)
    assert found[-1] > start + 0.2 and found[-1] > wanted[-1] - 0.05


def expectation(name, x, outputs):
    """Of the hidden variable and its logarithm given a value, by quadrature."""
    law = COLUMN_FAMILIES[name].law(outputs, UNIT_OF(name))
    if name == "student-t":
        df, loc, scale = (float(getattr(law, key)) for key in ("df", "loc", "scale"))
        prior = scipy.stats.gamma(df / 2, scale=2 / df)
        given = lambda u: scipy.stats.norm(loc, scale / np.sqrt(u)).pdf(x)  # noqa: E731
    else:
        number, logit = float(law.total_count), float(law.logits)
        prior = scipy.stats.gamma(number, scale=math.exp(logit))
        given = lambda u: scipy.stats.poisson(u).pmf(x)  # noqa: E731
    t = np.linspace(-30, 7, 200_001)  # logarithms, in which the integrand vanishes at both ends
    weight = prior.pdf(np.exp(t)) * given(np.exp(t)) * np.exp(t)
    parts = [np.trapezoid(f * weight, t) for f in (1.0, np.exp(t), t)]
    return parts[1] / parts[0], parts[2] / parts[0]


def UNIT_OF(name):  # noqa: N802
    location, scale = UNITS[name]
    return Unit(torch.tensor([location]), torch.tensor([scale]), torch.zeros(1, 0))


@pytest.mark.parametrize("x", [0.0, 3.0, 17.0])
@pytest.mark.parametrize("name", ["student-t", "negative-binomial"])
def test_what_is_hidden_is_expected_given_the_value(name, x):
    family, unit = COLUMN_FAMILIES[name], UNIT_OF(name)
    outputs = tuple(torch.tensor([value]) for value in (0.3, -0.4, 0.8)[: family.outputs(0)])
    found = family.statistics(torch.tensor([x]), unit, outputs)[0]
    assert len(found) == family.count_statistics(0)
    mean, log = expectation(name, x, outputs)
    if name == "student-t":
        z = (x + 4.0) / 2.0
        wanted = [mean, mean * z, mean * z * z, log]
    else:
        wanted = [x / 4.0, mean / 4.0, log - math.log(4.0)]
    assert_close(found, torch.tensor(wanted), rtol=1e-6, atol=1e-8)


def student_t_of(means):
    outputs = COLUMN_FAMILIES["student-t"].outputs_of(torch.tensor([means]), UNIT_OF("student-t"))
    law = COLUMN_FAMILIES["student-t"].law(outputs, UNIT_OF("student-t"))
    return [(law.loc.item() + 4) / 2, law.scale.item() / 2, law.df.item()]


def test_a_step_of_student_t_by_hand():
    """Of a u whose scale is free; and at the smallest scale of values, of a u of mean 1."""

    def df(gap):
        return 2 * scipy.optimize.brentq(lambda k: math.log(k) - scipy.special.digamma(k) - gap, 0.1, 1e3)

    found = student_t_of([0.8, 0.4, 1.4, -0.5])
    assert found == pytest.approx([0.5, math.sqrt((1.4 - 0.8 * 0.25) / 0.8), df(math.log(0.8) + 0.5)], rel=1e-9)
    least = math.sqrt(2 / 3) * 1e-3
    found = student_t_of([0.8, 0.4, 0.8 * 0.25 + 1e-9, -0.5])
    nearest = least + math.sqrt(2 / 3) * 0.999e-6  # that finite outputs say
    assert found == pytest.approx([0.5, nearest, df(0.8 - 1 + 0.5)], rel=1e-5)
    found = student_t_of([2.0, 1.0, 2.0 * 0.25 + 1.6 * least**2, 0.6])
    assert found == pytest.approx([0.5, math.sqrt(1.6) * least, df(2 - 1 - 0.6)], rel=1e-5)


def test_the_mean_of_a_negative_binomial_is_that_of_its_values_from_the_first_step():
    x = drawn(BY_FAMILY["negative-binomial"], 50).unsqueeze(-1)
    spn = SPN(whole((1,)), units=1, likelihood=NegativeBinomial(4.0, 4.0))
    spn.em_step(x, smoothing=0)
    assert spn.leaf.law().mean.item() == pytest.approx(x.mean().item(), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-4, 0.1])
def test_a_beta_distribution_is_found_from_its_own_expectations(scale):
    """Also where the sum of its concentrations is nearly the largest."""
    unit = Unit(torch.tensor([0.3]), torch.tensor([scale]), torch.zeros(1, 0))
    outputs = (torch.tensor([0.4]), torch.tensor([-0.3]))
    law = COLUMN_FAMILIES["beta"].law(outputs, unit)
    shapes = torch.stack([law.concentration1, law.concentration0], -1)
    means = torch.digamma(shapes) - torch.digamma(shapes.sum(-1, keepdim=True))
    for one, other in zip(COLUMN_FAMILIES["beta"].outputs_of(means, unit), outputs, strict=True):
        assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_statistics_of_mixed_columns_are_those_of_each_under_its_own_outputs():
    columns = [BY_FAMILY[name] for name in ("negative-binomial", "categorical", "student-t", "beta")]
    mixed = Columns(columns).bind(leaves=2, pixels=4)
    x = torch.stack([drawn(column, 6) for column in columns], -1).unsqueeze(1).expand(-1, 2, -1)
    weight, (head,) = torch.rand(x.shape), mixed.initial_outputs(2)
    found = mixed.statistics_given(x, weight, (head,))
    place = {0: [0, 4], 1: [1, 5, 8, 10], 2: [2, 6, 9], 3: [3, 7]}  # first outputs of all, then second ones, ..
    for number, column in enumerate(columns):
        alone = Columns([column]).bind(leaves=2, pixels=1)
        own = slice(number, number + 1)
        wanted = alone.statistics_given(x[..., own], weight[..., own], (head[:, place[number]],))
        assert_close(found[:, own, : wanted.size(-1)], wanted)


def test_shapes_are_found_over_all_their_range():
    shape = torch.logspace(-2.9, 7.5, 60)
    gap = shape.log() - torch.digamma(shape)
    assert_close(gamma_shape(gap, 1e8), shape, rtol=1e-6, atol=0)
    assert_close(gamma_shape(gap[:40], 1e8), shape[:40], rtol=1e-10, atol=0)
    assert gamma_shape(torch.tensor([0.0, -1e-17, 1e9]), 50.0).tolist() == [50.0, 50.0, 1e-3]
    a, b = torch.meshgrid(torch.logspace(-2, 5, 15), torch.logspace(-2, 5, 15), indexing="ij")
    above, below = (torch.digamma(own) - torch.digamma(a + b) for own in (a, b))
    found = beta_shapes(torch.stack([above, below]), torch.full_like(a, 1e8), 1e-6, 1e-9)
    assert_close(found, torch.stack([a, b]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("most", [5.0, 0.3])
@pytest.mark.parametrize("x", [0.2, 0.5, 0.9, 1e-4])
def test_the_most_likely_shapes_where_edges_bind(x, most):
    """Against all of a fine grid, of values that do not vary, which the sharpest distribution fits best."""
    least, nearest = 1e-2, 0.05
    mean = torch.tensor([[math.log(x)], [math.log1p(-x)]])
    a, b = (float(own) for own in beta_shapes(mean, torch.tensor([most]), least, nearest))
    count, share = a + b - 2 * least, (a - least) / (a + b - 2 * least)
    assert 0 < count <= most * (1 + 1e-9) and nearest - 1e-9 <= share <= 1 - nearest + 1e-9
    c, w = np.meshgrid(np.linspace(1e-3, most, 1500), np.linspace(nearest, 1 - nearest, 1501))
    every = scipy.stats.beta(least + c * w, least + c * (1 - w)).logpdf(x)
    own = scipy.stats.beta(a, b).logpdf(x)
    assert own >= every.max() - 1e-9 and own <= every.max() + 1e-4


REFUSED = [BetaBinomial(5), DiscretizedLogistic(5), DiscretizedLogisticMixture(5)]


@pytest.mark.parametrize("likelihood", REFUSED, ids=lambda likelihood: type(likelihood).__name__)
def test_refused(likelihood):
    spn = SPN(whole((1, 2, 2)), units=2, likelihood=likelihood)
    name = type(likelihood).__name__
    with pytest.raises(ValueError, match=f"^the likelihood {name} has no sufficient statistics, which EM needs; train"):
        spn.fit_em(torch.ones(3, 1, 2, 2))
