# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Data and models on the CPU whatever torch's default device is: here the meta device, on which tensors have no values, so
that a tensor made on it where another was meant ends in an error.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from pyro.infer import Predictive, TraceEnum_ELBO
from torch import Tensor

from pyro_spvae import (
    Circuit,
    CircuitELBO,
    chow_liu,
    learn_regions,
    poon_domingos,
    quad_tree,
    random_binary_tree,
    whole,
)
from pyro_spvae.commands.observed import parse_observed
from pyro_spvae.data import DataSet, Rows, Values, dequantize, load_data
from pyro_spvae.data.preprocessing import PREPROCESSING
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.evaluating import lean
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    LowRankCategorical,
    Normal,
)
from pyro_spvae.models import HVAE, SPN, SPVAE, VAE, FactorizedLeaf, GaussianLeaf, MixedLeaf
from pyro_spvae.nn import Conv, GatedConv, MultiScale, PixelCNN
from pyro_spvae.plots import region_graph
from pyro_spvae.plots.latent_planes import component_grid, principal_components, prior_grid
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from pyro_spvae.reproduce.sizes import size_table
from pyro_spvae.training.batches import Batches
from pyro_spvae.training.evaluation import evaluate_rows
from pyro_spvae.training.train import resume, train
from tests.training.cases import TIMINGS, TINY, assert_same_outcome, stopped_after


def compared(value):
    """What a result says: tensors with their device and bytes, numbers, and containers of these."""
    if isinstance(value, Tensor):
        return str(value.device), str(value.dtype), value.shape, value.detach().numpy().tobytes()
    if isinstance(value, dict):
        return {key: compared(of) for key, of in value.items() if key not in TIMINGS}
    if isinstance(value, (tuple, list)):
        return [compared(of) for of in value]
    return value


def assert_same_everywhere(make, act):
    """``act(*make())`` is the same, on the CPU, whether or not the default device is another one in ``act``."""
    results = []
    for device in ("cpu", "meta"):
        torch.manual_seed(0)
        given = make()
        with torch.device(device):
            results.append(compared(act(*given)))
    assert results[0] == results[1] and results[0] not in (None, [], {})


def grey(levels: int = 17, channels: int = 1) -> DataSet:
    """Images in three parts of one source, in any order."""
    x = torch.randint(levels, (40, channels, 4, 4))
    train, validation, test = (Rows(x, index) for index in torch.randperm(40).split([20, 12, 8]))
    return DataSet("grey", train, validation, test, Values.grey_levels(levels))


def splits(data: DataSet) -> list[Tensor]:
    return [data.train[:], data.validation[torch.tensor([1, 0], device="cpu")], data.test[1:5], data.train[0]]


def drawn(rows: Rows) -> list[Tensor]:
    batches = Batches(rows, None, 6, seed=1)
    return [batches(epoch, batch)[0] for epoch in range(2) for batch in range(len(batches))]


DATA = {
    "digits": (tuple, lambda: splits(load_data("digits"))),
    "shuffled split": (tuple, lambda: shuffled_split(20, [12, 5, 3], seed=1)),
    "dequantize": (lambda: (torch.arange(17.0),), lambda x: dequantize(x, 17)),
    "dequantize by a generator": (
        lambda: (torch.arange(17.0), torch.Generator().manual_seed(1)),
        lambda x, generator: dequantize(x, 17, generator),
    ),
    **{
        name: (lambda: (grey(),), lambda data, name=name: splits(data.preprocessed(name, 1)) + drawn(data.train))
        for name in PREPROCESSING
    },
    "new data set": (lambda: (torch.rand(6, 4),), lambda x: splits(DataSet("x", x, x, x, Values(low=0, high=1)))),
    "drawn anew": (lambda: (grey(),), lambda data: drawn(data.preprocessed("binarize", 1).train)),
    "thinned": (lambda: (grey(),), lambda data: splits(data.thinned(0.5).preprocessed("paper").thinned(0.5))),
    "cached": (lambda: (grey(),), lambda data: splits(data.preprocessed("paper").cached(10**6).thinned(0.5))),
    "in grey": (lambda: (grey(256, 3),), lambda data: [*splits(data.in_grey()), data.fingerprint()]),
    "grid of a prior": (tuple, lambda: [prior_grid(1, 2, 3), prior_grid(2, 2, 3)]),
    "grids of components": (
        lambda: (torch.randn(9, 2, 1), torch.randn(9, 2, 3)),
        lambda *means: [component_grid(principal_components(of), 3) for of in means],
    ),
    "half seen": (lambda: (torch.Size((1, 4, 4)),), lambda event: parse_observed("left", event, 5, 1)),
    "every other seen": (lambda: (torch.Size((3, 4, 4)),), lambda event: parse_observed("checkerboard", event, 5, 1)),
    "seen at random": (lambda: (torch.Size((1, 4, 4)),), lambda event: parse_observed("random:0.5", event, 5, 1)),
}


def dependent(rows: int = 60) -> Tensor:
    x = torch.randn(rows, 2).repeat(1, 4) + 0.2 * torch.randn(rows, 8)
    x[0, 3] = torch.nan
    return x


STRUCTURES = {
    "poon-domingos": (tuple, lambda: poon_domingos((4, 4), delta=2).to_json()),
    "several deltas": (tuple, lambda: poon_domingos((4, 4), delta=[2, 1]).to_json()),
    "quad-tree": (tuple, lambda: quad_tree((4, 4)).to_json()),
    "random binary tree": (tuple, lambda: random_binary_tree(8, 2, 3, seed=1).to_json()),
    "whole": (tuple, lambda: whole((4, 4)).to_json()),
    "learned": (lambda: (dependent(),), lambda x: learn_regions(x, 2, repetitions=3, max_rows=50).to_json()),
    "learned of independent variables": (lambda: (torch.randn(40, 8),), lambda x: learn_regions(x, 2).to_json()),
    "learned of one block": (lambda: (dependent()[:, ::2],), lambda x: learn_regions(x, 1, repetitions=3).to_json()),
    "Chow-Liu tree": (lambda: (dependent(),), lambda x: chow_liu(x, 2).to_json()),
    "Chow-Liu tree of names": (lambda: (dependent() > 0,), lambda x: chow_liu(x, categorical=[True] * 8).to_json()),
    "sizes": (tuple, lambda: list(size_table("mnist"))),
}


@pytest.mark.parametrize("case", [*DATA, *STRUCTURES])
def test_data_and_structures(case):
    assert_same_everywhere(*(DATA | STRUCTURES)[case])


def test_files(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 4)))
    np.savez(tmp_path / "x.npz", np.random.default_rng(0).integers(0, 9, (20, 4)))
    torch.save(torch.rand(20, 4), tmp_path / "x.pt")
    for name in ("x.npy", "x.npz", "x.pt"):
        assert_same_everywhere(tuple, lambda name=name: splits(load_data(tmp_path / name)))


def test_rows_go_where_their_source_is():
    """Numbers of rows and noise come from the CPU."""
    step = grey().preprocessed("dequantize").train.preprocessing
    rows = Rows(torch.zeros(6, 1, 4, 4, device="meta"), torch.tensor([3, 1, 5]), step)
    index, generator = torch.tensor([0, 2]), torch.Generator().manual_seed(0)
    for x in (rows[:], rows[index], rows.part(index)[:], rows.draw(index, generator), rows.cached(10**6)[:1]):
        assert x.device.type == "meta" and x.shape[1:] == (1, 4, 4)


GRID = poon_domingos((4, 4), delta=2)
SIZES = {"latent_dim": 2, "hidden_dims": (3,)}
# models of images of 4 x 4 binary pixels, two leaves a region but for the last
MODELS = {
    "vae": lambda: SPVAE(GRID, 2, **SIZES, likelihood=Bernoulli()),
    "binomial": lambda: SPVAE(GRID, 2, **SIZES, likelihood=Binomial(1)),
    "categorical": lambda: SPVAE(GRID, 2, **SIZES, likelihood=Categorical(2)),
    "low rank": lambda: SPVAE(GRID, 2, **SIZES, likelihood=LowRankCategorical(2, 2)),
    "logistic": lambda: SPVAE(GRID, 2, **SIZES, likelihood=DiscretizedLogistic(levels=2)),
    "logistic mixture": lambda: SPVAE(GRID, 2, **SIZES, likelihood=DiscretizedLogisticMixture(2, components=2)),
    "mixture": lambda: SPVAE(GRID, 2, **SIZES, prior=MixtureOfGaussians(3)),
    "vamp": lambda: SPVAE(GRID, 2, **SIZES, prior=VampPrior(3, init="data")),
    "hvae": lambda: SPVAE(GRID, 2, leaf=HVAE(Normal(), 2, hidden_dims=(3,)), guide=HierarchicalGuide()),
    "mixed": lambda: SPVAE(
        GRID,
        2,
        leaf=MixedLeaf([VAE(Bernoulli(), 2, (3,)), FactorizedLeaf(Bernoulli())]),
        guide=MixedGuide([NormalGuide((3,)), LeafGuide()]),
    ),
    "conv": lambda: SPVAE(GRID, 2, leaf=VAE(Normal(), 2, decoder=Conv((2,))), guide=NormalGuide(encoder=Conv((2,)))),
    "pixelcnn": lambda: SPVAE(
        GRID,
        2,
        leaf=VAE(Bernoulli(), 2, decoder=PixelCNN(2, 1)),
        guide=NormalGuide(encoder=GatedConv(((2, 3, 1, 1),))),
    ),
    "multi-scale": lambda: SPVAE(
        GRID,
        2,
        leaf=VAE(Bernoulli(), 2, decoder=MultiScale(1, 2, 1, "bottom-right")),
        guide=NormalGuide(encoder=GatedConv(((2, 3, 1, 1),))),
    ),
    "spn": lambda: SPN(GRID, units=2, likelihood=Bernoulli()),
    "gaussian": lambda: SPN(GRID, units=2, leaf=GaussianLeaf()),
    "gaussian of low rank": lambda: SPN(GRID, units=2, leaf=GaussianLeaf(2)),
    "cp": lambda: SPVAE(Circuit(GRID, 5, tie="shape", weights="cp"), **SIZES),
    "single leaf": lambda: SPVAE(whole((4, 4)), 1, **SIZES, likelihood=Bernoulli()),
}


def binary(rows: int = 12) -> Tensor:
    return (torch.rand(rows, 1, 4, 4) < 0.4).double()


def given(name):
    """A model with what it asks of training data, data, and which entries are seen."""
    spvae, x = MODELS[name](), binary()
    if spvae.wanted_rows:
        spvae.start(x)
    seen = torch.rand(x.shape) < 0.7
    if name in ("pixelcnn", "multi-scale"):  # whole leaf regions
        seen = seen[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2)
    return spvae, x, seen


def asked(spvae, x, observed):
    """Answers to all queries."""
    answers = {}
    for seen in (None, observed):
        posterior = Predictive(spvae.model, guide=spvae.posterior(x, seen, num_particles=3), num_samples=2)
        answers |= {
            f"posterior {seen is None}": posterior(num=len(x)),
            f"log-likelihood {seen is None}": spvae.log_likelihood(x, seen, num_samples=4),
            f"reconstruct {seen is None}": spvae.reconstruct(x, seen, num_particles=3),
            f"embed {seen is None}": list(spvae.embed(x, seen, num_particles=3)),
        }
    answers["impute"] = spvae.impute(x, observed, num_particles=3)
    answers["sample"] = [spvae.sample(3), spvae.sample(3, means=True)]
    answers["latents"] = [spvae.draw_latents(x, seen, 2) for seen in (None, observed)]
    for name, values in answers["latents"][0].items():
        answers[f"given {name}"] = [spvae.sample(3, {name: value}) for value in (values[0, :3], float(values.min()))]
    answers["circuit"] = [spvae.circuit.sample((3,)), spvae.circuit.leaf_selections()[:4]]
    if spvae.latents:
        answers["interpolate"] = spvae.interpolate(x[:1], x[1:2], steps=3, num_particles=3)
    if isinstance(spvae, SPN):
        answers["mpe"] = [*spvae.mpe(x, observed), *spvae.mpe()]
        answers["em"] = [spvae.fit_em(x, 2, observed), *spvae.state_dict().values()]
    answers["figures"] = list(evaluate_rows(spvae, x, elbo=CircuitELBO(2), samples=4, chunk_size=8, seed=1))
    return answers


@pytest.mark.parametrize("name", MODELS)
def test_queries(name):
    assert_same_everywhere(lambda: given(name), asked)


@pytest.mark.parametrize("name", ["vae", "single leaf"])
@pytest.mark.parametrize(
    "objective", [CircuitELBO(1), CircuitELBO(3, gradient="dreg"), TraceEnum_ELBO(max_plate_nesting=2)]
)
def test_objectives(name, objective):
    """With Pyro's checks, but for plates of particles, which Pyro numbers on the default device."""

    def act(spvae, x, observed):
        with lean() if objective.num_particles > 1 else nullcontext():
            loss = objective.differentiable_loss(spvae.model, spvae.guide, x, observed, size=30)
        return [loss, *torch.autograd.grad(loss, list(spvae.parameters()))]

    assert_same_everywhere(lambda: given(name), act)


@pytest.mark.parametrize("name", MODELS)
def test_fit(name):
    def act(spvae, x, observed):
        lines = spvae.fit(x, observed=observed, epochs=2, batch_size=5, particles=2, warmup=1)
        return [lines, *spvae.state_dict().values()]

    assert_same_everywhere(lambda: (MODELS[name](), *given(name)[1:]), act)


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": "adamax", "schedule": "cosine", "clip": 0.1},
        {"optimiser": "adamw", "schedule": "one-cycle", "average": "ema"},
        {"optimiser": "adam-normgrad"},
        {"optimiser": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.5), "beta": {"z": 0.5}},
    ],
    ids=["adamax", "adamw", "adam-normgrad", "own"],
)
def test_optimisers(options):
    """Of rows with noise that is drawn anew; torch counts the steps of some optimisers on the default device."""

    def act(spvae, data):
        rows = data.preprocessed("binarize").train
        return [spvae.fit(rows, epochs=2, batch_size=5, particles=2, **options), *spvae.state_dict().values()]

    assert_same_everywhere(lambda: (MODELS["vae"]().float(), grey()), act)


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [(Bernoulli, {}), (lambda: Categorical(2), {"tie": "shape"}), (lambda: Binomial(1), {"weights": "cp"})],
)
def test_expectation_maximisation(likelihood, options):
    """Of an SPN by itself, and in the training loop."""

    def make():
        circuits = (Circuit(poon_domingos((4, 4), delta=1), 2, **options) for _ in range(2))
        return [*(SPN(circuit, likelihood=likelihood()) for circuit in circuits), binary()]

    def act(one, other, x):
        lines = other.fit(x, x, optimiser="em", epochs=2, batch_size=5)
        return [one.fit_em(x, 2), lines, *one.state_dict().values(), *other.state_dict().values()]

    assert_same_everywhere(make, act)


def test_a_run_and_its_model(tmp_path, monkeypatch):
    """Trained by configuration on a learned structure, with pictures that nobody writes; stopped, resumed, loaded."""
    config = dataclasses.replace(
        TINY, data="digits", structure="learned", leaf_size=16, repetitions=1, preprocess="binarize", fraction=0.05
    )
    monkeypatch.setattr("pyro_spvae.plots.save", lambda figure, path: None)
    found = []
    for device in ("cpu", "meta"):
        run = tmp_path / device
        with torch.device(device):
            with stopped_after(3):
                train(config, run)
            resume(run)
            spvae = SPVAE.load(run)
        assert {parameter.device.type for parameter in spvae.parameters()} == {"cpu"}
        found.append(compared(spvae.state_dict()))
    assert found[0] == found[1]
    assert_same_outcome(tmp_path / "cpu", tmp_path / "meta")


@pytest.mark.parametrize("graph", [GRID, random_binary_tree((2, 2, 3), 2), learn_regions(torch.eye(6), 2)], ids=str)
def test_pictures_of_region_graphs(graph):
    def act():
        return [line.get_xydata().tolist() for line in region_graph(graph).lines]

    assert_same_everywhere(tuple, act)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_made_is_on_the_default_device(name):
    """As any module of torch; what is saved of a model is read to the CPU."""
    with torch.device("meta"):
        spvae = MODELS[name]()
    assert {value.device.type for value in (*spvae.parameters(), *spvae.buffers())} == {"meta"}
    known = MODELS[name]()
    assert spvae.architecture() == known.architecture()
    assert spvae.state_dict().keys() == known.state_dict().keys()


@pytest.mark.parametrize("name", MODELS)
def test_saved_models(name, tmp_path):
    def act(spvae):
        spvae.save(tmp_path)
        return type(spvae).load(tmp_path).state_dict()

    assert_same_everywhere(lambda: (given(name)[0],), act)
