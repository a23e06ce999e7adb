# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Circuits: constructed cases with known answers, numerical extremes, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from pyro_spvae.circuits import Circuit, poon_domingos, whole

from .options import OPTIONS
from .oracle import recursive_log_prob


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("units", [2, 6])
def test_binary_grid_is_a_distribution(units, options):
    """Bernoulli leaves on a 2x2 grid: the probabilities of the 16 images sum to 1."""
    circuit = Circuit(poon_domingos((2, 2), 1), units, **options)
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)  # [16, cell]
    logits = torch.randn(4, units)
    leaf = torch.distributions.Bernoulli(logits=logits).log_prob(images.unsqueeze(-1)).flatten(1)
    log_prob = circuit(leaf)
    torch.testing.assert_close(log_prob.exp().sum(), torch.ones(()), rtol=0, atol=1e-12)
    # missing cells are integrated out
    seen = torch.tensor([True, False, True, False])
    marginal = circuit(leaf, seen)
    for image, value in zip(images, marginal, strict=True):
        same = (images[:, seen] == image[seen]).all(-1)
        torch.testing.assert_close(torch.logsumexp(log_prob[same], 0), value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weights", ["full", "cp"])
@pytest.mark.parametrize("units", [2, 6])
def test_dense_units_of_tiny_weight(units, weights):
    """The densest unit, or that of either part, has weight e^-150, and every other lies 300 nats lower."""
    circuit = Circuit(poon_domingos(2, 1), units, weights=weights)
    with torch.no_grad():
        for logits in circuit.layers[0].unit_logits if weights == "cp" else [circuit.layers[0].logits]:
            logits.zero_()
            logits[..., 0] = -150.0
    leaf = torch.full((2, units), -300.0)
    leaf[:, 0] = 0.0
    leaf = leaf.flatten().requires_grad_()
    value, expected = circuit(leaf), recursive_log_prob(circuit, leaf)
    factors, others = (2, units - 1) if weights == "cp" else (1, units**2 - 1)
    assert abs(float(expected.detach()) + factors * (150 + math.log(others))) < 1e-6
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    expected_grads = torch.autograd.grad(expected, [leaf, *circuit.parameters()])
    grads = torch.autograd.grad(value, [leaf, *circuit.parameters()])
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-12)
    # in single precision: exact with few units, finite and with the right derivatives above
    single, low = copy.deepcopy(circuit).float(), leaf.detach().float().requires_grad_()
    value = single(low)
    if units <= 4:
        torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-6, atol=0)
    else:  # each weight at the floor of single precision
        assert -100 * factors < value < -60 * factors
    for one, other in zip(torch.autograd.grad(value, [low, *single.parameters()]), expected_grads, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)  # sums of -300 nats are known to 3e-5


def test_numbers_of_trees():
    # one tree for each way to cut a row of three into two and one, times the units of each cell
    assert Circuit(poon_domingos(3, 1), units=2).num_trees() == 2 * 2 * 2**3
    # 4x4 with one unit: full binary partitions of a rectangle by guillotine cuts, counted with their order
    assert Circuit(poon_domingos((2, 2), 1), units=1).num_trees() == 2
    assert Circuit(poon_domingos((28, 28), 4), units=2).num_trees() > 10**30
    assert Circuit(whole(4), units=1, leaves=5).num_trees() == 5


def test_selections_of_a_grid_are_one_leaf_per_cell():
    selections = Circuit(poon_domingos((4, 4), 1), units=2).leaf_selections()
    assert selections.shape == (65536, 32) and (selections.unflatten(-1, (16, 2)).sum(-1) == 1).all()
    assert len((selections[:, ::2].long() @ 2 ** torch.arange(16)).unique()) == 65536
    assert selections[0].nonzero().flatten().tolist() == list(range(0, 32, 2))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_weights_are_one_softmax_per_sum(options):
    circuit = Circuit(poon_domingos((3, 3), 1), units=2, **options)
    root = 1 if circuit.weights == "full" else 2
    assert circuit.log_weights()[-root].shape == (1, root, 4 * 4)
    for weights in circuit.log_weights():
        torch.testing.assert_close(weights.exp().sum(-1), torch.ones(weights.shape[:-1]))
    large = Circuit(poon_domingos(15, 1), 4, **options)
    logits = torch.cat([parameter.detach().flatten() for parameter in large.parameters()])
    assert abs(float(logits.mean())) < 0.1 and abs(float(logits.std()) - 1) < 0.1


def test_tree_memory_is_bounded(monkeypatch):
    """Scores are computed in parts, which changes no choice."""
    circuit = Circuit(poon_domingos((3, 3), 1), units=2)
    leaf = torch.randn(20, circuit.num_leaves)
    tree, _ = circuit.mpe(leaf)
    monkeypatch.setattr("pyro_spvae.circuits.sampling.MAX_SCORES", 7)
    assert torch.equal(circuit.mpe(leaf)[0], tree)


_TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


@pytest.mark.skipif(_TORCH < (2, 13), reason="torch.compile of older releases fails on this autograd.Function")
# raised inside torch.compile itself when it meets any autograd.Function
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize(
    ("units", "leaves", "options"), [(2, 2, "tied"), (2, 2, "cp"), (6, 3, "plain"), (6, 3, "tied-cp")]
)
def test_compiles_without_graph_breaks(units, leaves, options):
    circuit = Circuit(poon_domingos(3, 1), units, leaves, **OPTIONS[options])
    leaf = torch.randn(4, circuit.num_leaves, requires_grad=True)
    compiled = torch.compile(circuit, fullgraph=True, backend="aot_eager")
    inputs = [leaf, *circuit.parameters()]
    ours, theirs = circuit(leaf), compiled(leaf)
    torch.testing.assert_close(theirs, ours, rtol=1e-13, atol=1e-13)
    grads = torch.autograd.grad(theirs.sum(), inputs)
    torch.testing.assert_close(grads, torch.autograd.grad(ours.sum(), inputs), rtol=1e-12, atol=1e-13)


def test_repr_gives_the_sizes():
    text = repr(Circuit(poon_domingos((28, 28), 7), units=2))
    assert text == (
        "Circuit(RegionGraph(shape=(28, 28), regions=100, leaf_regions=16, partitions=200), "
        "units=2, leaves=2, sums=167, products=800, weights=1576)"
    )
    text = repr(Circuit(poon_domingos((28, 28), 7), units=2, tie="shape", weights="cp"))
    assert text.endswith("leaves=2, tie='shape', weights='cp', sums=169, products=800, num_weights=478)")


REFUSED = [
    (ValueError, "units must be a positive integer", lambda c: Circuit(c.regions, 0)),
    (ValueError, "units must be a positive integer", lambda c: Circuit(c.regions, 1.5)),
    (ValueError, "leaves must be a positive integer", lambda c: Circuit(c.regions, 2, -1)),
    (ValueError, r"tie must be one of \('none', 'shape'\), but is True", lambda c: Circuit(c.regions, 2, 2, True)),
    (ValueError, "tie must be one of", lambda c: Circuit(c.regions, 2, None, "cp")),
    (
        ValueError,
        r"weights must be one of \('full', 'cp'\), but is 'CP'",
        lambda c: Circuit(c.regions, 2, weights="CP"),
    ),
    (TypeError, "regions must be a RegionGraph", lambda c: Circuit((2, 2), 2)),
    (ValueError, r"leaf must have shape \[.., 8\], but has \[3, 4\]", lambda c: c(torch.zeros(3, 4))),
    (ValueError, r"leaf must have shape", lambda c: c(torch.zeros(()))),
    (TypeError, "leaf must be a floating-point tensor", lambda c: c(torch.zeros(8, dtype=torch.long))),
    (TypeError, "leaf must be a floating-point tensor", lambda c: c.posterior([0.0] * 8)),
    (TypeError, "mask must be a bool tensor", lambda c: c(torch.zeros(8), torch.ones(8))),
    (ValueError, "mask must have shape", lambda c: c(torch.zeros(8), torch.ones(3, dtype=torch.bool))),
    (ValueError, "mask must broadcast", lambda c: c(torch.zeros(2, 8), torch.ones(3, 8, dtype=torch.bool))),
    (ValueError, "mask is given without leaf", lambda c: c.sample(mask=torch.ones(8, dtype=torch.bool))),
]


@pytest.mark.parametrize(("error", "message", "act"), REFUSED)
def test_bad_input_is_refused(error, message, act):
    circuit = Circuit(poon_domingos((2, 2), 1), 2)
    with pytest.raises(error, match=message) as caught:
        act(circuit)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
