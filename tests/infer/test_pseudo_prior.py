# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Trees that are sampled: only leaves on the tree count, under masks and scales of the leaf programs' own, too."""

from __future__ import annotations

from contextlib import ExitStack

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_spvae import CircuitELBO, InducedTree, poon_domingos
from pyro_spvae.blocks import Latent
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DLGMM, HVAE, SBVAE, DiscreteVAE, LeafModel, MixedLeaf
from tests.helpers import assert_same_gradients, gradients, leaf_log_weights, small_spvae
from tests.models.own_leaves import Bare

ROWS, LEAVES = 3, 4


class Masking:
    """
    Handlers of a program's own by site: of a mask of each leaf ``[leaf]``, or of each datum and leaf
    ``[data, leaf]``, and of a scale.
    """

    def __init__(self, **handlers):
        super().__init__()
        self.handlers = handlers

    def own(self, site):
        stack = ExitStack()
        for handler in self.handlers.get(site, ()):
            stack.enter_context(handler())
        return stack


class MaskingLeaf(Masking, LeafModel):
    latents = {"a": Latent(2), "b": Latent(2)}

    def build(self, leaves, pixels):
        self.loadings = nn.Parameter(torch.randn(leaves, 2, pixels))
        self.slope = nn.Parameter(torch.randn(leaves, 1))

    def forward(self, x=None, mask=None):
        with self.own("a"):
            a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with self.own("b"):
            b = pyro.sample("b", dist.Normal(self.slope * a, 0.8).to_event(1))
        pixels = dist.Normal(torch.einsum("...ld,ldp->...lp", b, self.loadings), 0.5)
        with self.own("x"):
            return pyro.sample("x", (pixels if mask is None else pixels.mask(mask)).to_event(1), obs=x)


class MaskingGuide(Masking, LeafGuide):
    def build(self, leaves, pixels, latents):
        self.weight = nn.Parameter(torch.randn(leaves, pixels, 2))
        self.slope = nn.Parameter(torch.randn(leaves, 1))

    def encode(self, x):
        return torch.einsum("...lp,lpd->...ld", x, self.weight)

    def forward(self, encoding):
        with self.own("a"):
            a = pyro.sample("a", dist.Normal(encoding, 0.7).to_event(1))
        with self.own("b"):
            pyro.sample("b", dist.Normal(encoding + self.slope * a, 0.6).to_event(1))


def mask(*shape):
    keep = torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape))) < 0.5
    assert keep.any() and not keep.all()
    return lambda: poutine.mask(mask=keep)


def scale(value):
    return lambda: poutine.scale(scale=value)


OF_LEAVES, OF_DATA = mask(LEAVES), mask(ROWS, LEAVES)
CASES = {
    "no mask": ({}, {}),
    "observation, of leaves": ({"x": [OF_LEAVES]}, {}),
    "observation, of data": ({"x": [OF_DATA]}, {}),
    "observation, of both": ({"x": [OF_LEAVES, OF_DATA]}, {}),
    "a variable in both programs": ({"a": [OF_DATA]}, {"a": [OF_DATA]}),
    "a variable in the model": ({"a": [OF_DATA]}, {}),
    "a variable in the guide": ({}, {"b": [OF_DATA]}),
    "a variable by other masks": ({"a": [OF_LEAVES]}, {"a": [OF_DATA]}),
    "a variable by a number": ({"a": [lambda: poutine.mask(mask=False)]}, {}),
    "everything": ({"a": [OF_LEAVES], "b": [OF_DATA], "x": [OF_DATA]}, {"a": [OF_DATA], "b": [OF_LEAVES]}),
}

EACH_LEAF = torch.tensor([0.3, 0.5, 0.7, 0.9])
SCALED = {  # by numbers that differ, which Pyro's enumeration refuses
    "observation scaled": ({"x": [OF_DATA, scale(0.3)]}, {}),
    "a variable scaled alike": ({"b": [scale(0.3)]}, {"b": [scale(0.3)]}),
    "scaled by leaf": ({"a": [scale(EACH_LEAF)], "x": [scale(EACH_LEAF), OF_DATA]}, {}),
    "a variable scaled in one program": ({"b": [scale(0.3)]}, {"a": [scale(0.6), OF_LEAVES]}),
}


def make(case):
    model, guide = (CASES | SCALED)[case]
    return small_spvae(poon_domingos((1, 4), delta=2), leaf=MaskingLeaf(**model), guide=MaskingGuide(**guide))


@pytest.fixture(params=[False, True], ids=["whole", "missing"])
def data(request):
    observed = torch.tensor([[True, False, False, False], [True, True, True, False], [True, True, True, True]])
    return torch.randn(ROWS, 1, 1, 4), *([observed.reshape(ROWS, 1, 1, 4)] if request.param else [])


@pytest.mark.parametrize("case", CASES)
def test_equals_enumeration(case, data):
    spvae = make(case)
    results = []
    for elbo in (TraceEnum_ELBO(max_plate_nesting=2), CircuitELBO()):
        pyro.set_rng_seed(1)
        loss = elbo.differentiable_loss(spvae.model, spvae.guide, *data)
        results.append((loss.detach(), gradients(spvae, loss)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-9)
    assert_same_gradients(results[1][1], results[0][1])


@pytest.mark.parametrize("case", CASES | SCALED)
def test_leaves_off_the_tree_count_for_nothing(case, data):
    """Of a tree that is drawn: log p(T) and the importance weights of its leaves."""
    spvae = make(case)
    options = {} if len(data) == 1 else {"observed": data[1]}
    log_weight = leaf_log_weights(spvae, data[0], 1, **options)[0]
    pyro.set_rng_seed(1)
    guide = poutine.trace(pyro.plate("particles", 1, dim=-3)(spvae.guide)).get_trace(*data)
    values = {name: guide.nodes[name]["value"][0] for name in ("a", "b")}
    guide = poutine.trace(poutine.replay(spvae.guide, trace=delta(values))).get_trace(*data)
    model = poutine.trace(poutine.replay(spvae.model, trace=guide)).get_trace(*data)
    tree = model.nodes["tree"]["value"].squeeze(-2)
    expected = InducedTree(spvae.circuit).log_prob(tree).sum() + log_weight[tree].sum()
    found = model.log_prob_sum() - guide.log_prob_sum()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("case", CASES | SCALED)
def test_parts_of_a_mixed_leaf_count_as_they_do_alone(case):
    """The leaves of a part have masks of their own, ``[.., n]`` of n leaves, and others are not reached by them."""
    programs = (CASES | SCALED)[case]
    alone = make(case)
    parts, guides = [MaskingLeaf(**programs[0]), Bare()], [MaskingGuide(**programs[1]), LeafGuide()]
    spvae = small_spvae(
        poon_domingos((1, 4), delta=2), 4, leaf=MixedLeaf(parts, (2, 2)), guide=MixedGuide(guides, (2, 2))
    )
    parts[0].load_state_dict(alone.leaf.state_dict())
    guides[0].load_state_dict(alone.leaf_guide.state_dict())
    x = (torch.randn(ROWS, 1, 1, 4) > 0).double()
    index, others = (subset.index for subset in spvae.leaf.subsets)
    pyro.set_rng_seed(1)
    wanted = CircuitELBO(1).terms(alone.model, alone.guide, (x,), {}).log_weight[0]
    pyro.set_rng_seed(1)  # the same noise
    found = CircuitELBO(1).terms(spvae.model, spvae.guide, (x,), {}).log_weight[0]
    torch.testing.assert_close(found[:, index], wanted)
    torch.testing.assert_close(found[:, others], parts[1].evidence(spvae.view(x)[:, others]))
    if case in CASES:
        losses = []
        for elbo in (TraceEnum_ELBO(max_plate_nesting=2), CircuitELBO()):
            pyro.set_rng_seed(1)
            losses.append(elbo.loss(spvae.model, spvae.guide, x))
        assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sticks_are_scored_as_they_were_drawn(dtype):
    """Though weights underflow: what is known of them beside their rounded values is known of leaves off the tree."""
    spvae = small_spvae(poon_domingos((2, 2), delta=1), leaf=SBVAE(Bernoulli(), 40, alpha0=0.3)).to(dtype)
    x = (torch.rand(30, 1, 2, 2) < 0.3).to(dtype)
    losses = []
    for elbo in (TraceEnum_ELBO(max_plate_nesting=2, strict_enumeration_warning=False), CircuitELBO()):
        pyro.set_rng_seed(1)
        losses.append(elbo.loss(spvae.model, spvae.guide, x))
    precision = 1e-5 if dtype == torch.float32 else 1e-12
    assert losses[0] == pytest.approx(losses[1], rel=precision)


TWO_SITES = {
    "hvae": lambda: (HVAE(Bernoulli(), 2, 2), HierarchicalGuide()),
    "dlgmm": lambda: (DLGMM(Bernoulli(), 2, 3), None),
}


@pytest.mark.parametrize("kind", TWO_SITES)
def test_values_may_come_from_outside(kind):
    """From handlers around the model, which make latent sites observed: also of a site on which another one depends."""
    leaf, guide = TWO_SITES[kind]()
    spvae = small_spvae(poon_domingos((1, 4), delta=2), leaf=leaf, **({} if guide is None else {"guide": guide}))
    x = (torch.rand(3, 1, 1, 4) < 0.5).double()
    first = next(iter(leaf.latents))
    drawn = poutine.trace(spvae.model).get_trace(x)
    values = {name: drawn.nodes[name]["value"] for name in ("tree", *leaf.latents)}
    found = []
    for model in (poutine.condition(spvae.model, data=values), poutine.replay(spvae.model, trace=drawn)):
        trace = poutine.trace(model).get_trace(x)
        trace.compute_log_prob()
        found.append({name: trace.nodes[name]["log_prob"] for name in (*values, "x")})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], msg=name)
    pyro.set_rng_seed(0)
    drawn = Predictive(spvae.model, guide=spvae.guide, num_samples=2)(x)
    assert set(drawn) == {"tree", *leaf.latents, "x"} and drawn[first].shape[0] == 2


def test_guides_of_pyro_find_the_supports_of_smoothed_bits():
    spvae = small_spvae(poon_domingos((1, 4), delta=2), leaf=DiscreteVAE(Bernoulli(), 3))
    x = (torch.rand(3, 1, 1, 4) < 0.5).double()
    guide = AutoNormal(poutine.block(spvae.model, hide=["tree"]))
    z = guide(x)["z"]
    assert z.shape == (3, LEAVES, 3) and ((z > 0) & (z < 1)).all()


def delta(values):
    """A trace that replays values."""

    def program():
        for name, value in values.items():
            pyro.sample(name, dist.Delta(value, event_dim=1).to_event(value.dim() - 1))

    return poutine.trace(program).get_trace()
