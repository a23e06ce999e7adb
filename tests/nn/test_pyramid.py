# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Feature pyramids and upsampling networks equal residual blocks of torch, leaf by leaf, and keep to their sides."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from pyro_spvae.nn.pyramid import FeaturePyramid, ResidualNetwork, level_of
from pyro_spvae.nn.upscale import Upscale
from tests.nn.cases import assert_same
from tests.nn.residual_twins import assert_moved, pyramid_by_hand, scattered, upscale_by_hand

# of a pyramid: leaves, patch, options, shapes of its maps
PYRAMIDS = {
    "one leaf": (1, (1, 7, 6), {"channels": 3}, ((3, 4, 3), (6, 2, 2))),
    "leaves": (3, (2, 5, 4), {"channels": (4, 3), "blocks": 2, "activation": "silu"}, ((4, 3, 2), (3, 2, 1))),
    "more levels than channels": (2, (1, 5, 1), {"channels": [2], "levels": 3}, ((2, 3, 1), (2, 2, 1), (2, 1, 1))),
    "no norm": (2, (1, 4, 4), {"channels": 2, "levels": 1, "norm": "none"}, ((2, 2, 2),)),
}
# of an upsampling network: leaves, input, goal, options, sides from the smallest
UPSCALES = {
    "up, one leaf": (1, 5, (3, 7, 6), {"channels": 2}, [(2, 2), (4, 3), (7, 6)]),
    "up, leaves": (3, 4, (2, 5, 4), {"channels": (4, 3), "blocks": 2, "activation": "silu"}, [(2, 1), (3, 2), (5, 4)]),
    "up, no norm": (2, 4, (3, 4, 4), {"channels": 2, "levels": 1, "norm": "none"}, [(2, 2), (4, 4)]),
    "up from a map": (2, (3, 2, 2), (2, 7, 6), {"channels": 2}, [(2, 2), (4, 3), (7, 6)]),
    "up from a map of other sides": (
        3,
        (1, 3, 2),
        (2, 7, 6),
        {"channels": 2, "norm": "none"},
        [(3, 2), (4, 3), (7, 6)],
    ),
    "up from an oblong": (2, (1, 2, 4), (2, 7, 7), {"channels": 2}, [(2, 4), (4, 4), (7, 7)]),
    "up from a map of the same sides": (2, (4, 3, 2), (2, 3, 2), {"channels": 3, "blocks": 2}, [(3, 2)]),
}


def pyramid(leaves, shape, **options):
    return FeaturePyramid(**options).bind(leaves=leaves, inputs=math.prod(shape), input_shape=shape)


def upscale(leaves, given, goal, **options):
    vector = isinstance(given, int)
    inputs, map_shape = (given, None) if vector else (math.prod(given), given)
    return Upscale(**options).bind(leaves=leaves, inputs=inputs, output_shape=goal, map_shape=map_shape)


class Case:
    """A network away from its start, its input, and what it makes of it by torch, as a list of maps of each leaf."""

    def __init__(self, name):
        if name in PYRAMIDS:
            leaves, shape, options, shapes = PYRAMIDS[name]
            self.network, self.shapes = pyramid(leaves, shape, **options), list(shapes)
        else:
            leaves, given, goal, options, self.sides = UPSCALES[name]
            self.network, self.shapes = upscale(leaves, given, goal, **options), [goal]
        scattered(self.network)
        self.x = torch.randn(4, leaves, self.network.sizes["inputs"], requires_grad=True)

    def found(self, x):
        maps = self.network(x)
        return list(maps) if isinstance(maps, tuple) else [maps]

    def by_hand(self, moved):
        if isinstance(self.network, FeaturePyramid):
            each = [pyramid_by_hand(self.network, leaf, x, moved) for leaf, x in enumerate(self.x.unbind(1))]
        else:
            parts = enumerate(self.x.unbind(1))
            each = [[upscale_by_hand(self.network, leaf, x, self.sides, moved)] for leaf, x in parts]
        return [torch.stack(maps, 1) for maps in zip(*each, strict=True)]


@pytest.fixture(params=[*PYRAMIDS, *UPSCALES])
def case(request):
    return Case(request.param)


@pytest.mark.parametrize("training", [True, False])
def test_equals_torch_blocks_leaf_by_leaf(case, training):
    case.network.train(training)
    moved = {}
    expected = case.by_hand(moved)
    assert [maps.shape[2:] for maps in expected] == case.shapes
    assert_same(case.found(case.x), expected, [case.x, *case.network.parameters()])
    assert_moved(case.network, moved)


def test_batch_dimensions_are_rows(case):
    case.network.eval()
    flat, leaves = case.found(case.x), case.x.size(1)
    torch.testing.assert_close(case.found(case.x.unflatten(0, (2, 2))), [maps.unflatten(0, (2, 2)) for maps in flat])
    torch.testing.assert_close(case.found(case.x[0]), [maps[0] for maps in flat])
    assert [maps.shape for maps in case.found(case.x[:0])] == [(0, leaves, *shape) for shape in case.shapes]


def test_checkpoints_change_nothing(case):
    plain, again = copy.deepcopy(case.network), case.network
    for stack in again.stacks:
        stack.checkpoint = True
    results = []
    for case.network in (plain, again):
        maps = case.found(case.x)
        grads = torch.autograd.grad(sum(each.square().sum() for each in maps), [case.x, *case.network.parameters()])
        results.append([*maps, *grads, *case.network.buffers()])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_the_option_reaches_every_stack():
    for network in (
        pyramid(1, (1, 4, 4), checkpoint=True, blocks=3),
        upscale(1, 2, (1, 4, 4), checkpoint=True, blocks=3),
    ):
        assert all(stack.checkpoint and len(stack.blocks) == 3 for stack in network.stacks)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("name", [*PYRAMIDS, *UPSCALES])
def test_on_the_meta_device(name, checkpoint):
    with torch.device("meta"):
        case = Case(name)
        for stack in case.network.stacks:
            stack.checkpoint = checkpoint
        sum(maps.sum() for maps in case.found(case.x)).backward()
    assert all(parameter.grad.is_meta for parameter in case.network.parameters())


def test_sides_of_a_digit_and_back():
    down = pyramid(1, (1, 28, 28), channels=2, levels=3)
    assert down.shapes == ((2, 14, 14), (4, 7, 7), (8, 4, 4))
    up = upscale(1, 3, (2, 28, 28), channels=2, levels=3)
    assert up.shapes == (*down.shapes[::-1], (2, 28, 28))
    assert up(torch.randn(2, 1, 3)).shape == (2, 1, 2, 28, 28)


@pytest.mark.parametrize(
    ("sides", "through"),
    [
        ((7, 7), [(7, 7), (14, 14), (28, 28)]),
        ((8, 8), [(8, 8), (14, 14), (28, 28)]),
        ((1, 1), [(1, 1), (2, 2), (4, 4), (7, 7), (14, 14), (28, 28)]),
        ((5, 14), [(5, 14), (14, 14), (28, 28)]),
        ((28, 28), [(28, 28)]),
    ],
)
def test_sides_from_a_map(sides, through):
    shapes = upscale(1, (3, *sides), (5, 28, 28), channels=(4, 6)).shapes
    assert [shape[1:] for shape in shapes] == through
    assert [shape[0] for shape in shapes] == [5, 4, *[6] * len(through)][: len(through)][::-1]


@pytest.mark.parametrize(("grid", "level"), [((32, 14, 7), 0), ((1, 7, 4), 1), ((9, 4, 2), 2)])
def test_the_level_on_a_grid_is_that_of_its_sides(grid, level):
    """Whatever the channels are."""
    shapes = pyramid(1, (1, 28, 14), channels=2, levels=3).shapes
    assert level_of(shapes, grid) == level


def test_of_levels_with_the_same_sides_the_finest():
    assert level_of(((2, 1, 1), (3, 1, 1)), (5, 1, 1)) == 0


def test_a_grid_of_no_level_is_refused():
    message = (
        "local variables lie on a grid of 7 x 14, but the maps of the guide's pyramid have the sides 14 x 7, 7 x 4; "
        "give the leaf a local_shape of one of these"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        level_of(((2, 14, 7), (4, 7, 4)), (2, 7, 14))


@pytest.mark.parametrize(("network", "least"), [(ResidualNetwork, 1), (FeaturePyramid, 1), (Upscale, 0)])
def test_the_least_number_of_levels(network, least):
    assert network(levels=least).levels == least
    needed = "a positive integer" if least else "an integer of at least 0"
    for levels in (least - 1, 1.5):
        with pytest.raises(ValueError, match=f"^levels is {levels}; {needed} is needed$"):
            network(levels=levels)


def test_without_levels_an_upsampling_network_stays_at_its_sides():
    up = upscale(2, 5, (3, 2, 4), channels=4, levels=0)
    assert up.shapes == ((3, 2, 4),) and up(torch.randn(6, 2, 5)).shape == (6, 2, 3, 2, 4)
