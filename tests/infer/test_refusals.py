# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What objectives refuse, in one sentence that names the site or the option."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyro_spvae import CircuitELBO, InducedTree, log_likelihood, whole
from pyro_spvae.guides import HierarchicalGuide
from pyro_spvae.infer import SingleLeafELBO, anneal, sample_tree
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE
from tests.helpers import small_spvae
from tests.infer.cases import TwoBits, annealed, two_layer
from tests.infer.test_enumerated import kinds

X = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def then(program, more):
    """A program that goes on, in the plate of data, with what is given the value of its site ``z``."""

    def run(x):
        with poutine.trace() as tracer:
            program(x)
        with pyro.plate("data", dim=-2):
            more(tracer.trace.nodes["z"]["value"])

    return run


def first(program, everywhere):
    """A program with a latent variable in front, of all data or of each datum."""

    def run(x):
        if everywhere:
            pyro.sample("s", dist.Normal(0.0, 1.0))
        else:
            with pyro.plate("data", dim=-2):
                pyro.sample("s", dist.Normal(torch.zeros(3, 1), 1.0))
        program(x)

    return run


def label(z):
    pyro.sample("y", dist.Normal(z.sum((-1, -2)).unsqueeze(-1), 1.0), obs=torch.zeros(3, 1))


def without_tree(x):
    with pyro.plate("data", 3, dim=-2), pyro.plate("leaf", 8, dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))


CIRCUIT = small_spvae().circuit


def turned():
    """Plates of data and leaves the other way round."""
    with pyro.plate("data", 8, dim=-1):
        pyro.sample("tree", InducedTree(CIRCUIT))
        with pyro.plate("leaf", 8, dim=-2):
            pyro.sample("x", dist.Normal(torch.zeros(8, 1), 1.0), obs=torch.zeros(8, 8))


def bottom_up():
    return small_spvae(
        leaf=HVAE(Normal(), 2, hidden_dims=(3,), skip=False), guide=HierarchicalGuide((3,), order="bottom-up")
    )


def loss(program, elbo=None, x=X):
    return (CircuitELBO() if elbo is None else elbo).differentiable_loss(program.model, program.guide, x)


def pair(model=lambda s: s.model, guide=lambda s: s.guide, elbo=None):
    """The loss of a changed model and guide."""

    def act():
        spvae = small_spvae()
        return (elbo or CircuitELBO()).loss(model(spvae), guide(spvae), X)

    return act


BITS, ONE_LEAF = torch.ones(1, 2, dtype=torch.float64), (whole((2, 2)), 1)
ANALYTIC, DREG, TWO = CircuitELBO(alpha=1.0, kl="analytic"), CircuitELBO(2, gradient="dreg"), CircuitELBO(2)
REFUSED = [
    (lambda: CircuitELBO(0), "num_particles is 0"),
    (lambda: CircuitELBO(2.5), "num_particles is 2.5"),
    (lambda: CircuitELBO(alpha=math.nan), "alpha is nan"),
    (lambda: CircuitELBO(alpha="1"), "^alpha is '1'; a finite number or -inf is needed"),
    (lambda: CircuitELBO(vectorize_particles="no"), "^vectorize_particles is 'no'"),
    (lambda: CircuitELBO(max_plate_nesting=2.5), "^max_plate_nesting is 2.5; at least 2 is needed"),
    (
        pair(guide=lambda s: poutine.scale(s.guide, scale=torch.ones(3, 1))),
        r"poutine.scale gives the site 'z' a scale of the shape \[3, 1\]; one number for all of it is needed",
    ),
    (
        lambda: CircuitELBO().loss(turned, lambda: None),
        "^CircuitELBO: the plate 'data' of the site 'x' is the dimension -1; -2 is needed",
    ),
    (lambda: small_spvae().model(X, size=0), "^size is 0; a positive integer is needed"),
    (lambda: small_spvae().model(X, size=60.0), "^size is 60.0; a positive integer is needed"),
    (lambda: small_spvae().guide(X, size=2), "^size is 2, but 3 rows are given; as many as all data have are needed"),
    (lambda: CircuitELBO(gradient="stl"), "gradient is 'stl'; known are iwae, dreg"),
    (lambda: CircuitELBO(reduce="sum"), "reduce is 'sum'; known are leaf, root"),
    (lambda: CircuitELBO(gradient="dreg", alpha=1.0), "gradient='dreg' needs alpha=0"),
    (lambda: CircuitELBO(kl="analytic"), r"^kl='analytic' needs alpha=1 \(leaf ELBOs\); alpha is 0.0"),
    (lambda: CircuitELBO(alpha=1.0, kl="of z"), "^kl is 'of z'; sample, analytic, or names of latent sites are needed"),
    (
        lambda: loss(bottom_up(), ANALYTIC),
        "^kl='analytic' cannot train a guide that draws z1, z2 in this order, where the model draws z2, z1",
    ),
    (
        pair(lambda s: then(s.model, lambda z: sample_tree("second", InducedTree(s.circuit)))),
        "exactly one InducedTree site in the model; found 'tree', 'second'",
    ),
    (pair(lambda s: without_tree), "exactly one InducedTree site in the model; found none"),
    (
        pair(guide=lambda s: then(s.guide, lambda z: pyro.sample("tree", InducedTree(s.circuit).expand([3, 1])))),
        "sums the tree site 'tree' out itself",
    ),
    (pair(guide=lambda s: lambda x: None), "latent site 'z' is not in the guide"),
    (
        pair(lambda s: first(s.model, False), lambda s: first(s.guide, False), TWO),
        "'s' lies outside the plate 'leaf'",
    ),
    (
        pair(lambda s: first(s.model, True), lambda s: first(s.guide, True), TWO),
        "'s' lies outside the plate 'data'",
    ),
    (pair(lambda s: then(s.model, label), elbo=TWO), "depends on latent variables inside it; pass reduce='root'"),
    (pair(lambda s: poutine.scale(s.model, 0.5)), "a poutine.scale reaches the tree site 'tree'"),
    (lambda: loss(TwoBits(), CircuitELBO(1), BITS), "num_particles of at least 2"),
    (lambda: loss(TwoBits(), DREG, BITS), "'z' has not; use gradient='iwae'"),
    (lambda: loss(kinds(*ONE_LEAF), DREG), "^gradient='dreg' needs a guide whose"),
    (
        lambda: DREG.differentiable_loss(*annealed(two_layer(), {"z2": 0.25}), X[:, :, :1]),
        "^gradient='dreg' needs one poutine.scale for all sites of the guide",
    ),
    (lambda: anneal(print, {"z2": -1}), "^beta of 'z2' is -1; a number of at least 0 is needed"),
    (
        lambda: (lambda s: SingleLeafELBO(s.model, s.guide, Trace_ELBO())(X))(kinds(*ONE_LEAF)),
        "site 'c' is enumerated; CircuitE",
    ),
    (lambda: small_spvae().log_likelihood(X, num_samples=0), "num_samples is 0; a positive integer"),
    (lambda: small_spvae().log_likelihood(X, chunk_size=-1), "chunk_size is -1; a positive integer"),
    (lambda: (lambda s: log_likelihood(s.model, s.guide, X[:0]))(small_spvae()), "x holds no data"),
]


@pytest.mark.parametrize(("act", "message"), REFUSED, ids=[message[:60] for _, message in REFUSED])
def test_refused(act, message):
    with pytest.raises(ValueError, match=message), pyro.validation_enabled(False):
        act()


@pytest.mark.parametrize(
    "act",
    [
        pair(lambda s: first(s.model, False), lambda s: first(s.guide, False), CircuitELBO(2, reduce="root")),
        pair(lambda s: then(s.model, label), elbo=CircuitELBO(2, reduce="root")),
        lambda: CircuitELBO(1).loss(*annealed(TwoBits(), 1.0), BITS),  # without gradient there is no baseline
    ],
    ids=["a latent variable of each datum", "an observation given leaves", "one particle without rsample"],
)
def test_what_is_taken_instead(act):
    with pyro.validation_enabled(False):
        assert math.isfinite(act())
