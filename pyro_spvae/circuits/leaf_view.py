# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Between arrays and leaf patches: which entries of a datum each leaf sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .region_graph import RegionGraph


class LeafView(nn.Module):
    """
    Gathers the patch of every leaf from a batch of arrays, and puts patches of selected leaves together again.

    A patch holds the entries of its scope in channel after channel. Leaf regions of unequal size are padded to the
    largest one, each channel by itself, so that ``unflatten(-1, (channels, -1))`` has the channels of one position
    side by side in every leaf; the padding is marked by :attr:`mask`.

    :param RegionGraph regions: the structure; its ``shape`` is the array's shape without channels.
    :param int leaves: number of leaves of each leaf region.
    :param int channels: size of a leading channel axis, or ``None`` for arrays without one.
    :ivar tuple scopes: for each leaf the entries of the flattened array that its patch holds, ``None`` for padding.
    :ivar patch: channels (1 for ``None``), height and width of every leaf region, if the array has two axes beside the
        channels and all leaf regions are rectangles of one shape in it, else ``None``. The pixels of a patch are then
        in the order (channel, row, column).
    """

    index: Tensor
    mask: Tensor | None
    patch: tuple[int, int, int] | None

    def __init__(self, regions: RegionGraph, leaves: int, channels: int | None) -> None:
        super().__init__()
        self.leaves = leaves
        rectangle = _rectangle(regions)
        self.patch = None if rectangle is None else (channels or 1, *rectangle)
        self.event_shape = torch.Size(regions.shape if channels is None else (channels, *regions.shape))
        sizes = [len(scope) for scope in regions.leaf_scopes]
        positions = max(sizes)
        scopes = torch.tensor([[*scope] + [0] * (positions - len(scope)) for scope in regions.leaf_scopes])
        real = torch.arange(positions) < torch.tensor(sizes).unsqueeze(-1)  # [cell, position]
        first = torch.arange(channels or 1).unsqueeze(-1) * regions.num_variables  # [channel, 1]
        index = torch.where(real.unsqueeze(1), first + scopes.unsqueeze(1), 0).flatten(1)  # [cell, P]
        self.pixels = index.size(-1)
        entries = [
            tuple(
                None if place is None else channel * regions.num_variables + place
                for channel in range(channels or 1)
                for place in (*scope, *[None] * (positions - len(scope)))
            )
            for scope in regions.leaf_scopes
        ]
        self.scopes = tuple(scope for scope in entries for _ in range(leaves))
        ragged = min(sizes) < positions
        mask = real.repeat(1, channels or 1).repeat_interleave(leaves, 0) if ragged else None  # [L, P]
        # both follow from the region graph, so they are not part of the state_dict
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """
        :param Tensor x: ``[.., *event_shape]``.
        :returns: ``[.., leaf, pixel]``, laid out leaf first; padding repeats the first entry of the array.
        """
        lead = x.shape[: x.dim() - len(self.event_shape)]
        cells, pixels = self.index.shape
        patches = x.reshape(-1, self.event_shape.numel())[:, self.index.reshape(-1)].reshape(-1, cells, pixels)
        patches = patches.transpose(0, 1).unsqueeze(1).expand(-1, self.leaves, -1, -1)  # [cell, leaves, N, P]
        return patches.reshape(cells * self.leaves, *lead, pixels).movedim(0, -2)

    def patches(self, x: Tensor) -> Tensor:
        """
        The same with zeros in the place of padding, of data that nobody has checked.

        :raises ValueError: if their shape is another.
        """
        if x.dim() != len(self.event_shape) + 1 or x.shape[1:] != self.event_shape:
            needed = ", ".join(map(str, ("data", *self.event_shape)))
            raise ValueError(f"data have shape {list(x.shape)}; the model's region graph and channels need [{needed}]")
        patches = self(x)
        return patches if self.mask is None else torch.where(self.mask, patches, 0.0)

    def assemble(self, tree: Tensor, patches: Tensor) -> Tensor:
        """
        The array made of the selected leaves' patches; the leaves of an induced tree tile the array.

        :param Tensor tree: ``bool [.., leaf]``.
        :param Tensor patches: ``[.., leaf, pixel]``.
        :returns: ``[.., *event_shape]``.
        """
        keep = tree.unsqueeze(-1) if self.mask is None else tree.unsqueeze(-1) & self.mask
        keep, patches = torch.broadcast_tensors(keep, patches)
        selected = torch.where(keep, patches, torch.zeros_like(patches)).flatten(-2)  # [.., L * P]
        index = self.index.repeat_interleave(self.leaves, 0).reshape(-1)
        flat = selected.new_zeros(*selected.shape[:-1], self.event_shape.numel())
        return flat.index_add(-1, index, selected).reshape(*selected.shape[:-1], *self.event_shape)


def _rectangle(regions: RegionGraph) -> tuple[int, int] | None:
    """Height and width of every leaf region of an image, if all of them are rectangles of one shape."""
    if len(regions.shape) != 2:
        return None
    shapes = set()
    for scope in regions.leaf_scopes:
        rows, columns = zip(*(divmod(variable, regions.shape[1]) for variable in scope), strict=True)
        height, width = max(rows) - min(rows) + 1, max(columns) - min(columns) + 1
        if height * width != len(scope):  # the variables are distinct, so equal numbers fill the rectangle
            return None
        shapes.add((height, width))
    return shapes.pop() if len(shapes) == 1 else None
