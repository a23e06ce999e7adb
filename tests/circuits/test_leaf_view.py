# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Cutting arrays into the leaves' patches, and putting patches together again."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae import Circuit, RegionGraph, poon_domingos, random_binary_tree, whole
from pyro_spvae.circuits.leaf_view import LeafView

REGIONS = {
    "even": poon_domingos((4, 6), 2),
    "ragged": poon_domingos((5, 7), 3),
    "table": poon_domingos((7,), 3),
    "volume": poon_domingos((2, 3, 5), 2),
    "overlapping trees": random_binary_tree((3, 5), 2, 3, seed=1),
    "overlapping trees of a table": random_binary_tree(7, 2, 4, seed=2),
    "whole": whole((3, 4)),
}


@pytest.fixture(params=[(name, channels) for name in REGIONS for channels in (None, 1, 3)], ids=str)
def case(request):
    name, channels = request.param
    regions = REGIONS[name]
    view = LeafView(regions, 2, channels)
    return regions, view, channels


def test_patches_are_the_entries_of_the_scopes_in_each_channel(case):
    regions, view, channels = case
    event = (*regions.shape,) if channels is None else (channels, *regions.shape)
    assert view.event_shape == event
    x = torch.randn(2, 3, *event)
    patches = view(x)
    assert patches.shape == (2, 3, 2 * len(regions.leaf_scopes), view.pixels)
    flat = x.reshape(2, 3, channels or 1, -1)
    for cell, scope in enumerate(regions.leaf_scopes):
        expected = flat[..., list(scope)]  # [2, 3, channel, position]
        for leaf in (2 * cell, 2 * cell + 1):
            by_channel = patches[:, :, leaf].unflatten(-1, (channels or 1, -1))
            torch.testing.assert_close(by_channel[..., : len(scope)], expected, rtol=0, atol=0)
            assert torch.equal(
                by_channel[..., len(scope) :], x.flatten(2)[..., :1, None].expand_as(by_channel[..., len(scope) :])
            )


def test_the_mask_marks_padding(case):
    regions, view, channels = case
    sizes = torch.tensor([len(scope) for scope in regions.leaf_scopes]).repeat_interleave(2)
    positions = view.pixels // (channels or 1)
    assert view.pixels == sizes.max() * (channels or 1)
    if view.mask is None:
        assert (sizes == positions).all()
    else:
        real = (torch.arange(positions) < sizes[:, None]).unsqueeze(1).expand(-1, channels or 1, -1)
        assert torch.equal(view.mask, real.flatten(1)) and not view.mask.all()


def test_patches_of_any_induced_tree_make_up_the_array_again(case):
    regions, view, _ = case
    tree = Circuit(regions, 2).sample((25,))
    assert tree.dtype == torch.bool and len(tree.unique(dim=0)) > 1
    x = torch.randn(25, *view.event_shape)
    patches = torch.where(tree.unsqueeze(-1), view(x), torch.full((), torch.nan))  # others must not matter
    torch.testing.assert_close(view.assemble(tree, patches), x, rtol=0, atol=0)


def test_assembling_broadcasts_over_batches_of_trees(case):
    regions, view, _ = case
    tree = Circuit(regions, 2).sample((4,))
    x = torch.randn(3, 1, *view.event_shape)
    images = view.assemble(tree, view(x))
    assert images.shape == (3, 4, *view.event_shape)
    torch.testing.assert_close(images, x.expand_as(images), rtol=0, atol=0)


def test_gradients_reach_each_entry_once_for_each_leaf_that_sees_it(case):
    regions, view, _ = case
    x = torch.randn(2, *view.event_shape, requires_grad=True)
    patches = view(x)
    (patches if view.mask is None else patches * view.mask).sum().backward()
    counts = torch.zeros(regions.num_variables)
    for scope in regions.leaf_scopes:
        counts[list(scope)] += 2
    assert x.grad is not None
    torch.testing.assert_close(x.grad, counts.reshape(regions.shape).expand_as(x.grad))


def test_nothing_is_saved_and_everything_moves():
    view = LeafView(REGIONS["ragged"], 2, 1)
    assert not view.state_dict()
    assert {name for name, _ in view.named_buffers()} == {"index", "mask"}


@pytest.mark.parametrize(
    ("regions", "patch"),
    [
        (poon_domingos((4, 6), 2), (2, 2)),
        (poon_domingos((2, 9), 3), (2, 3)),
        (poon_domingos((9, 2), 3), (3, 2)),
        (whole((3, 4)), (3, 4)),
        (REGIONS["ragged"], None),
        (REGIONS["table"], None),
        (REGIONS["volume"], None),
        (REGIONS["overlapping trees"], None),
        (poon_domingos((3, 1), 2), None),
        # two rectangles of equal area, and two regions of equal extent and area that are no rectangles
        (RegionGraph((2, 3), [[0, 1], [3, 4], [2, 5]], [(3, 0, 1), (4, 3, 2)]), None),
        (RegionGraph((2, 4), [[0, 1, 2, 4], [3, 5, 6, 7]], [(2, 0, 1)]), None),
        # columns side by side in the numbering, in different rows of the array
        (RegionGraph((2, 3), [[0, 1], [2, 3], [4, 5]], [(3, 0, 1), (4, 3, 2)]), None),
    ],
)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_equal_rectangles_have_a_shape(regions, patch, channels):
    view = LeafView(regions, 2, channels)
    assert view.patch == (None if patch is None else (channels or 1, *patch))
    if patch is not None:
        x = torch.arange(float(view.event_shape.numel())).reshape(view.event_shape)
        first = x[..., : patch[0], : patch[1]].reshape(view.patch)
        assert torch.equal(view(x)[0].unflatten(-1, view.patch), first)


def test_patches_of_unchecked_data_have_zeros_for_padding_and_the_models_shape():
    view = LeafView(poon_domingos((3, 2), delta=2), leaves=2, channels=1)
    x = 1 + torch.rand(5, 1, 3, 2)
    patches = view.patches(x)
    assert torch.equal(patches[:, view.mask], view(x)[:, view.mask]) and (patches[:, ~view.mask] == 0).all()
    for shape in ((1, 3, 2), (5, 3, 2), (5, 1, 2, 3), (5, 1, 1, 3, 2), (5, 6)):
        message = (
            rf"^data have shape \[{', '.join(map(str, shape))}\]; the model's region graph and channels need \[data, 1,"
        )
        with pytest.raises(ValueError, match=message):
            view.patches(torch.zeros(shape))


def test_scopes_are_the_entries_that_patches_hold(case):
    """Gathered by hand they are the patches, with None for padding."""
    _, view, _ = case
    x = torch.randn(3, *view.event_shape)
    patches, flat = view(x), x.flatten(1)
    assert len(view.scopes) == patches.size(1) and {len(scope) for scope in view.scopes} == {view.pixels}
    for leaf, scope in enumerate(view.scopes):
        for pixel, entry in enumerate(scope):
            assert (entry is None) == (view.mask is not None and not view.mask[leaf, pixel])
            assert entry is None or torch.equal(patches[:, leaf, pixel], flat[:, entry])
