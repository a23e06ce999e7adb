# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Multilayer perceptrons equal their formula, leaf by leaf, and start as they say."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch import nn

from pyro_spvae.nn import MLP
from pyro_spvae.nn.mlp import ACTIVATIONS
from tests.nn.cases import assert_same, by_hand, redrawn

LEAVES, INPUTS = 3, 4


def bound(hidden, outputs=(2, 3), leaves=LEAVES, inputs=INPUTS, **options):
    return MLP(hidden, **options).bind(leaves=leaves, inputs=inputs, outputs=outputs)


@pytest.mark.parametrize(
    "options", [{}, {"activation": "gated"}, {"skip": True}, {"activation": "gated", "skip": True}]
)
@pytest.mark.parametrize("networks", ["separate", "shared"])
@pytest.mark.parametrize("hidden", [(), (5,), (5, 20)])  # narrow and wide products
@pytest.mark.parametrize("outputs", [(2, 3), (17, 3)])
def test_equals_the_formula(hidden, networks, outputs, options):
    mlp = redrawn(bound(hidden, outputs, networks=networks, **options))
    x = torch.randn(2, 7, LEAVES, INPUTS, requires_grad=True)
    activation = options.get("activation", "softplus")
    expected = [out for stack in mlp.stacks for out in by_hand(stack, x, activation)]
    assert_same(mlp(x), expected, [x, *mlp.parameters()])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name):
    mlp = bound((5,), (2,), activation=name)
    x = torch.randn(6, LEAVES, INPUTS)
    torch.testing.assert_close(list(mlp(x)), by_hand(mlp.stacks[0], x, name))


@pytest.mark.parametrize(("activation", "each"), [("softplus", 1), ("gated", 2)])
@pytest.mark.parametrize("networks", ["separate", "shared"])
def test_separate_outputs_share_nothing_and_shared_ones_a_trunk(networks, activation, each):
    """Each layer, gate and head has a weight of its own."""
    mlp = bound((5, 6), activation=activation, networks=networks, skip=True)
    trunk, heads = [*[(4, 5)] * each, *[(5, 6)] * each], [(6, 2), (6, 3)]
    expected = [[*trunk, *heads]] if networks == "shared" else [[*trunk, head] for head in heads]
    assert [[tuple(w.shape[1:]) for w in stack.weights] for stack in mlp.stacks] == expected
    for stack in mlp.stacks:
        assert [bias.shape for bias in stack.biases] == [(LEAVES, 1, weight.size(-1)) for weight in stack.weights]
    assert [tuple(skip.shape) for stack in mlp.stacks for skip in stack.skips] == [(LEAVES, 4, 2), (LEAVES, 4, 3)]
    once = [p for stack in mlp.stacks for p in (*stack.weights, *stack.biases, *stack.skips)]
    assert sum(p.numel() for p in mlp.parameters()) == sum(p.numel() for p in once)


@pytest.mark.parametrize("activation", ["softplus", "gated"])
@pytest.mark.parametrize("init", ["truncated", "he", "glorot"])
def test_initial_parameters(init, activation):
    """Each layer, gate and head by its own fans; those of outputs, and the maps of the input, scaled by the gain."""
    gain = 0.5
    options = {"activation": activation, "networks": "shared", "init": init, "output_gain": gain, "skip": True}
    (stack,) = bound((200,), (100, 300), leaves=8, inputs=50, **options).stacks
    hidden = [(50, 200, 1.0)] * (1 + (activation == "gated"))
    fans = [*hidden, (200, 100, gain), (200, 300, gain), (50, 100, gain), (50, 300, gain)]
    for weight, (before, after, factor) in zip([*stack.weights, *stack.skips], fans, strict=True):
        std = factor * math.sqrt(2 / (before + after if init == "glorot" else before))
        assert weight.shape == (8, before, after) and weight.std().item() == pytest.approx(std, rel=0.02)
        if init == "he":
            assert weight.abs().max() > 3.3 * std, "normal, not truncated"
            assert ((weight**4).mean() / weight.var() ** 2).item() == pytest.approx(3, rel=0.1)
        else:
            limit = std * (math.sqrt(3) if init == "glorot" else 2 * math.sqrt(1.3))
            assert 0.98 * limit < weight.abs().max() <= limit * (1 + 1e-12)
    for bias, (before, _, factor) in zip(stack.biases, fans[: len(stack.biases)], strict=True):
        limit = factor / math.sqrt(before)
        if init == "he":
            assert 0.97 * limit < bias.abs().max() <= limit
            assert bias.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.06)
        else:
            assert not bias.any()
    assert not torch.equal(stack.weights[0], stack.weights[1])


def test_defaults():
    options = {"hidden_dims": (32, 32), "activation": "softplus", "networks": "separate"}
    assert MLP().options() == options | {
        "output_gain": 0.1, "skip": False, "init": "truncated", "normalise": False,
    }  # fmt: skip


class TestNormalised:
    """Batch normalisation is torch's, of every leaf alone."""

    @pytest.fixture(params=["separate", "shared"])
    def mlp(self, request):
        mlp = redrawn(bound((5, 6), activation="tanh", networks=request.param, skip=True, normalise=True))
        for stack in mlp.stacks:
            for norm in stack.norms:
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 1.5)
        return mlp

    def alone(self, stack, leaf):
        """One leaf's layers with torch's modules, side by side with what torch's normalisation knows."""
        norms = []
        for norm in stack.norms:
            theirs = nn.BatchNorm1d(norm.weight.size(1))
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(theirs, name).data.copy_(getattr(norm, name)[leaf])
            norms.append(theirs.train(norm.training))

        def run(x):
            h = x
            for weight, norm in zip(stack.weights, norms, strict=False):
                h = norm(h @ weight[leaf]).tanh()
            heads = zip(stack.weights[len(norms) :], stack.biases, stack.skips, strict=True)
            return [h @ weight[leaf] + bias[leaf, 0] + x @ skip[leaf] for weight, bias, skip in heads]

        return run, norms

    @pytest.mark.parametrize("training", [True, False])
    def test_is_torchs_of_each_leaf(self, mlp, training):
        mlp.train(training)
        x = torch.randn(2, 7, LEAVES, INPUTS, requires_grad=True)
        found = [self.alone(stack, leaf) for leaf in range(LEAVES) for stack in mlp.stacks]
        expected = [run(x[:, :, place // len(mlp.stacks)].flatten(0, 1)) for place, (run, _) in enumerate(found)]
        outputs = mlp(x)
        by_leaf = [sum(expected[leaf * len(mlp.stacks) : (leaf + 1) * len(mlp.stacks)], []) for leaf in range(LEAVES)]
        for place, output in enumerate(outputs):
            wanted = torch.stack([each[place] for each in by_leaf], 1).unflatten(0, (2, 7))
            torch.testing.assert_close(output, wanted)
        slopes = torch.autograd.grad(sum(output.sin().sum() for output in outputs), [x, *mlp.parameters()])
        again = sum(each.sin().sum() for leaf in by_leaf for each in leaf)
        wanted = torch.autograd.grad(again, [x, *(w for stack in mlp.stacks for w in stack.weights)])
        torch.testing.assert_close(slopes[0], wanted[0])
        weights = {id(p): slope for p, slope in zip(mlp.parameters(), slopes[1:], strict=True)}
        for weight, slope in zip((w for stack in mlp.stacks for w in stack.weights), wanted[1:], strict=True):
            torch.testing.assert_close(weights[id(weight)], slope)
        for place, (_, norms) in enumerate(found):  # what was learned of the batch, or not
            leaf, stack = place // len(mlp.stacks), mlp.stacks[place % len(mlp.stacks)]
            for own, theirs in zip(stack.norms, norms, strict=True):
                torch.testing.assert_close(own.running_mean[leaf], theirs.running_mean)
                torch.testing.assert_close(own.running_var[leaf], theirs.running_var)

    def test_evaluation_without_gradients_is_the_same(self, mlp):
        x = torch.randn(7, LEAVES, INPUTS)
        with torch.no_grad():
            written_over = mlp.eval()(x)
        torch.testing.assert_close(list(written_over), list(mlp(x)))

    def test_a_single_row_has_no_statistics(self, mlp):
        """It is normalised as in evaluation, and nothing is learned of it."""
        x, before = torch.randn(1, LEAVES, INPUTS), {name: value.clone() for name, value in mlp.state_dict().items()}
        found = mlp.train()(x)
        assert all(torch.equal(value, before[name]) for name, value in mlp.state_dict().items())
        torch.testing.assert_close(list(found), list(mlp.eval()(x)))

    def test_normalised_layers_have_no_bias_besides(self, mlp):
        """It would be taken away with the mean, and have no gradient but rounding."""
        assert all(len(stack.biases) == stack.heads for stack in mlp.stacks)
        mlp.train()
        loss = sum(output.square().sum() for output in mlp(torch.randn(7, LEAVES, INPUTS)))
        assert all(float(g.abs().max()) > 1e-6 for g in torch.autograd.grad(loss, list(mlp.parameters())))


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "gated"])
def test_networks_pickle(activation):
    mlp = MLP((4,), activation).bind(leaves=2, inputs=3, outputs=(2,))
    again, x = pickle.loads(pickle.dumps(mlp)), torch.rand(5, 2, 3)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            assert torch.equal(again(x)[0], mlp(x)[0])
