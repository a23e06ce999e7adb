# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""NumPy's numbers are taken wherever Python's are, mean the same, and are kept as Python's."""

from __future__ import annotations

import json

import numpy as np
import pyro
import pytest
import torch

from pyro_spvae import CircuitELBO, checks, chow_liu, learn_regions, poon_domingos, quad_tree, random_binary_tree, whole
from pyro_spvae.blocks import Latent
from pyro_spvae.circuits import Circuit
from pyro_spvae.data import Values, load_data
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.distributions import LeafBinomial, LeafDiscretizedLogistic
from pyro_spvae.guides import LeafGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial
from pyro_spvae.models import SPN, SPVAE, FactorizedLeaf
from pyro_spvae.priors import VampPrior
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.own_objects import OwnObjects

X = torch.arange(12, dtype=torch.float64).remainder(4).reshape(6, 2)  # levels 0 to 3
OF_PYTHON, OF_NUMPY = (int, float), (np.int64, np.float32)  # halves and quarters are exact in both


def model(i, f):
    prior = VampPrior(i(3), mean=f(0.5), std=f(0.25), range=(f(0), i(1)))
    options = {"latent_dim": i(2), "hidden_dims": (i(3),), "likelihood": Binomial(i(3)), "channels": None}
    return SPVAE(poon_domingos((i(2),), delta=i(1)), i(2), i(3), prior=prior, **options)


def fitted(i, f, tmp_path):
    spvae = model(i, f)
    metrics = spvae.fit(X, epochs=i(2), batch_size=i(3), lr=f(0.25), particles=i(2), beta={"z": f(0.5)}, seed=i(5))
    spvae.save(tmp_path)
    again = SPVAE.load(tmp_path)
    assert again.architecture() == spvae.architecture()
    return [line["val_elbo"] for line in metrics], spvae.architecture(), again.log_likelihood(X, num_samples=i(3))


def em(i, f, tmp_path):
    spn = SPN(whole(2), i(2), leaf=FactorizedLeaf(Bernoulli()), guide=LeafGuide())
    return spn.fit_em(X.gt(1).double(), i(3), smoothing=f(0.5), tolerance=f(0), batch_size=i(4))


def asked(i, f, tmp_path):
    spvae = model(i, f)
    embedding = spvae.embed(X, num_particles=i(4))
    return [
        spvae.log_likelihood(X, num_samples=i(3), chunk_size=i(4)),
        spvae.sample(i(3)),
        spvae.impute(X, X > 1, i(2), num_particles=i(3)),
        spvae.interpolate(X[:2], X[2:4], i(3), i(4)),
        embedding.leaf_posterior,
        CircuitELBO(i(2), alpha=f(0.5)).loss(spvae.model, spvae.guide, X),
        spvae.model(num=i(3)),
    ]


def described(i, f, tmp_path):
    spvae = model(i, f)
    sgd = torch.optim.SGD(spvae.parameters(), lr=f(0.25), momentum=f(0.5))
    return OwnObjects(CircuitELBO(i(2)), sgd).described()


MEANT = {
    "config": lambda i, f, _: TrainConfig(
        units=i(3), delta=i(2), hidden=[i(4), i(5)], depth=None, lr=f(0.25), clip=f(2), fraction=f(0.5), seed=i(7)
    ).to_dict(),
    "fit, save and load": fitted,
    "fit_em": em,
    "queries": asked,
    "own optimisers": described,
    "counts": lambda i, f, _: poon_domingos((4, 4), 2).counts(i(3), i(2)),
    "circuit": lambda i, f, _: [Circuit(whole(4), i(3)).leaves, Circuit(whole(4), i(3), i(2)).leaves],
    "builders": lambda i, f, _: [
        graph.to_json()
        for graph in (
            poon_domingos((i(4), i(4)), [i(2), i(1)]),
            quad_tree(i(4), i(2)),
            random_binary_tree(i(8), i(2), i(3), i(4)),
            learn_regions(torch.arange(24.0).reshape(6, 4), i(2), repetitions=i(2), max_rows=i(4), seed=i(3)),
            chow_liu(torch.arange(24.0).reshape(6, 4), i(2), arity=i(2), bins=i(3)),
        )
    ],
    "latent": lambda i, f, _: [Latent(i(3)).event_shape, Latent((i(3), i(2))).event_shape],
    "binomial": lambda i, f, _: LeafBinomial(i(3), X).log_prob(X),
    "logistic": lambda i, f, _: LeafDiscretizedLogistic(X / 4, X - 3, levels=i(4)).log_prob(X),
    "values": lambda i, f, _: [vars(Values.grey_levels(i(17))), vars(Values(f(0), i(1), scaled_from=i(256)))],
    "seeds": lambda i, f, _: [noise_seed(i(2**40 + 3), i(2**31), i(9)), *shuffled_split(i(6), [i(2), i(4)], i(3))],
    "data": lambda i, f, _: load_data("digits", seed=i(3)).thinned(f(0.5), i(2)).train[:4],
}


def flat(value):
    """Plain values and tensors, in order, with their types."""
    if isinstance(value, dict):
        return [entry for key, own in value.items() for entry in (key, *flat(own))]
    if isinstance(value, (list, tuple)):
        return [entry for own in value for entry in flat(own)]
    return [(type(value), value.tolist() if isinstance(value, torch.Tensor) else value)]


@pytest.mark.parametrize("name", MEANT)
def test_mean_the_same_and_become_pythons(name, tmp_path):
    results = []
    for number, kinds in enumerate((OF_PYTHON, OF_NUMPY)):
        pyro.set_rng_seed(0)
        results.append(flat(MEANT[name](*kinds, tmp_path / str(number))))
    assert results[0] == results[1] and results[0]
    json.dumps([value for _, value in filter(lambda entry: isinstance(entry, tuple), results[1])])


@pytest.mark.parametrize("value", [True, np.bool_(True), np.array(3), np.array([3]), "3", None, 3 + 0j])
def test_what_is_no_number(value):
    assert not any(test(value) for test in (checks.is_integer, checks.is_positive, checks.is_real, checks.is_number))
    assert checks.plain(value) is value


@pytest.mark.parametrize("kind", [np.int8, np.uint64, np.float16, np.float32, np.float64, np.longdouble])
def test_what_is_one(kind):
    whole = issubclass(kind, np.integer)
    assert checks.is_number(kind(3)) and checks.is_integer(kind(3)) == checks.is_positive(kind(3)) == whole
    kept = checks.plain({"a": [kind(3), (kind(1), "b")]})
    assert kept == {"a": [3, (1, "b")]} and type(kept["a"][0]) is type(kept["a"][1][0]) is (int if whole else float)
    if not whole:
        assert checks.is_real(kind("nan")) and not checks.is_number(kind("nan")) and not checks.is_number(kind("inf"))


def test_numbers_that_are_too_large_for_floats_are_none():
    assert checks.is_integer(10**400) and not checks.is_number(10**400)


def test_values_without_numbers_of_numpy_stay_themselves():
    given = {"a": [1, (2.5, "b")], "c": {"d": None}}
    assert checks.plain(given) is given
