# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Residual blocks with a leaf axis equal one block of torch per leaf, checkpointed or not."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from pyro_spvae.nn import residual
from pyro_spvae.nn.leaf_conv import LeafBatchNorm, StatisticsUnmoved
from pyro_spvae.nn.mlp import ACTIVATIONS
from pyro_spvae.nn.residual import PreActivation, ResidualBlock, ResidualStack, SqueezeExcitation
from tests.nn.cases import assert_same
from tests.nn.residual_twins import assert_moved, block_by_hand, scattered, stack_by_hand

# leaves, channels before and after, options, sides before, size that is asked for
CASES = {
    "one leaf": (1, 3, 3, {}, (5, 4), None),
    "leaves": (3, 4, 4, {"activation": "silu"}, (4, 3), None),
    "more channels, no norm": (2, 3, 5, {"norm": "none"}, (3, 3), None),
    "leaves that share groups": (6, 2, 3, {"ratio": 1}, (3, 2), None),
    "wide": (2, 17, 20, {"activation": "relu", "ratio": 2}, (3, 3), None),
    "down": (3, 3, 5, {"resample": "down"}, (7, 4), None),
    "down, as many channels": (2, 3, 3, {"resample": "down", "norm": "none"}, (5, 6), None),
    "up": (2, 5, 3, {"resample": "up"}, (2, 3), None),
    "up to odd sides": (3, 3, 3, {"resample": "up", "activation": "silu"}, (4, 2), (7, 3)),
    "up to other sides": (1, 3, 4, {"resample": "up", "norm": "none", "activation": "tanh"}, (3, 5), (8, 5)),
}


@pytest.fixture(params=CASES)
def case(request):
    """A block, maps of its leaves, and the size that is asked for."""
    leaves, before, after, options, sides, size = CASES[request.param]
    block = scattered(ResidualBlock(leaves, before, after, **options))
    return block, torch.randn(4, leaves * before, *sides, requires_grad=True), size


@pytest.mark.parametrize("training", [True, False])
def test_equals_one_torch_block_per_leaf(case, training):
    block, h, size = case
    block.train(training)
    leaves, moved = block.excite.leaves, {}
    each = [block_by_hand(block, leaf, part, size, moved) for leaf, part in enumerate(h.chunk(leaves, 1))]
    assert_same([block(h, size)], [torch.cat(each, 1)], [h, *block.parameters()])
    assert_moved(block, moved)


def test_nothing_that_is_given_is_written_over(case):
    block, h, size = case
    given = h.detach().clone()
    with torch.no_grad():
        for training in (True, False):
            block.train(training)(given, size)
    assert torch.equal(given, h)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_pre_activations(norm, activation):
    layer = scattered(PreActivation(2, 3, norm, activation)).eval()
    h = torch.randn(4, 6, 2, 2)
    normed = h if norm == "none" else layer.norm(h)
    expected = ACTIVATIONS[activation](normed)
    torch.testing.assert_close(layer(h), expected)
    with torch.no_grad():
        torch.testing.assert_close(layer(h), expected)


@pytest.mark.parametrize(("channels", "ratio", "hidden"), [(64, 16, 4), (80, 16, 5), (8, 16, 4), (12, 2, 6), (2, 1, 4)])
def test_squeeze_and_excitation(channels, ratio, hidden):
    layer = scattered(SqueezeExcitation(2, channels, ratio))
    first, second = layer.gates.weights
    assert first.shape == (2, channels, hidden) and second.shape == (2, hidden, channels)
    h = 4 * torch.randn(3, 2 * channels, 5, 4)
    for leaf, (maps, found) in enumerate(zip(h.chunk(2, 1), layer(h).chunk(2, 1), strict=True)):
        means = maps.sum((2, 3)) / 20
        inner = F.relu(means @ first[leaf] + layer.gates.biases[0][leaf])
        gates = 1 / (1 + torch.exp(-(inner @ second[leaf] + layer.gates.biases[1][leaf])))
        torch.testing.assert_close(found, maps * gates[..., None, None])
    torch.testing.assert_close(layer(h, h.flip(0)), layer(h) + h.flip(0))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("resample", ["same", "down", "up"])
def test_a_new_block_is_near_its_skip_path(resample, norm):
    block, h = ResidualBlock(3, 16, 16, resample, norm), torch.randn(8, 48, 6, 6)
    skip = h if block.skip is None else block.skip(h)
    if resample == "up":
        skip = skip.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert 0 < (block(h) - skip).std() < 0.1 * skip.std()
    assert (block.skip is None) == (resample == "same")


def test_sides_there_and_back():
    sides, h = [(28, 25)], torch.randn(1, 6, 28, 25)
    for _ in range(3):
        h = ResidualBlock(2, 3, 3, "down")(h)
        sides.append(tuple(h.shape[2:]))
    assert sides == [(28, 25), (14, 13), (7, 7), (4, 4)]
    for size in sides[-2::-1]:
        h = ResidualBlock(2, 3, 3, "up")(h, size)
        assert h.shape[2:] == size


class TestStacks:
    @pytest.fixture(params=["same", "down", "up"])
    def stack(self, request):
        return scattered(ResidualStack(3, 2, 4, 3, request.param, checkpoint=True))

    @pytest.fixture
    def maps(self):
        return torch.randn(4, 6, 4, 3, requires_grad=True)

    def test_equal_torch_blocks_one_after_the_other(self, stack, maps):
        size = (7, 6) if stack.blocks[0].resample == "up" else None
        moved = {}
        each = [stack_by_hand(stack, leaf, part, size, moved) for leaf, part in enumerate(maps.chunk(3, 1))]
        assert_same([stack(maps, size)], [torch.cat(each, 1)], [maps, *stack.parameters()])
        assert_moved(stack, moved)

    def test_checkpoints_change_nothing(self, stack, maps):
        plain = copy.deepcopy(stack)
        plain.checkpoint = False
        found = []
        for each in (stack, plain):
            for _ in range(2):  # steps
                out = each(maps)
                grads = torch.autograd.grad(out.square().sum(), [maps, *each.parameters()])
            found.append([out, *grads, *each.buffers()])
        for one, other in zip(*found, strict=True):
            assert torch.equal(one, other)

    def test_gradients_of_several_outputs(self, stack, maps):
        """Statistics move once however many gradients are taken of one forward pass."""
        out = stack(maps)
        after = [buffer.clone() for buffer in stack.buffers()]
        first, second = (torch.autograd.grad(out[row].sum(), maps, retain_graph=True)[0] for row in (0, 1))
        torch.testing.assert_close(first + second, torch.autograd.grad(out[:2].sum(), maps)[0])
        assert all(torch.equal(*pair) for pair in zip(stack.buffers(), after, strict=True))

    @pytest.mark.parametrize(("training", "recorded", "times"), [(True, True, 2), (False, True, 1), (True, False, 1)])
    def test_are_computed_again_in_training_alone(self, stack, maps, training, recorded, times, monkeypatch):
        if times == 1:
            monkeypatch.setattr(residual, "recomputed", None)  # which is not called
        calls = []
        for block in stack.blocks:  # one that is computed again stops before its own end, once nothing more is needed
            block.first.register_forward_hook(lambda *_: calls.append(1))
        with torch.set_grad_enabled(recorded):
            out = stack.train(training)(maps)
        assert len(calls) == 3
        if recorded:
            out.sum().backward()
        assert len(calls) == 3 * times

    @pytest.mark.parametrize("checkpoint", [True, False])
    def test_on_the_meta_device(self, checkpoint):
        with torch.device("meta"):
            stack = ResidualStack(3, 2, 4, 2, "up", checkpoint=checkpoint)
            stack(torch.empty(4, 6, 4, 3), (7, 6)).sum().backward()
        assert all(parameter.grad.is_meta for parameter in stack.parameters())

    def test_single_precision(self, stack, maps):
        stack.eval()
        expected = stack(maps)
        found = stack.float()(maps.float())
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_batches_that_were_seen_before_move_no_statistics():
    norm, h = scattered(LeafBatchNorm(2, 3)), torch.randn(4, 6, 2, 2)
    start = copy.deepcopy(norm)
    again = StatisticsUnmoved()
    for _ in range(2):
        with again, StatisticsUnmoved():
            norm(h)
        with again:
            seen = norm(h)
    assert all(torch.equal(*pair) for pair in zip(norm.buffers(), start.buffers(), strict=True))
    assert torch.equal(norm(h), seen)
    assert not any(torch.equal(*pair) for pair in zip(norm.buffers(), start.buffers(), strict=True))
