# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One group of convolutional latent variables, given a map that knows of all before it."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks.block import Block
from pyro_spvae.blocks.latent import Latent
from pyro_spvae.conditionals.of_latent import conditional
from pyro_spvae.nn.leaf_conv import LeafConv, side_by_side
from pyro_spvae.nn.readout import Readout
from pyro_spvae.nn.residual import ResidualStack


class LocalGroup(Block):
    r"""
    A factorial group of local variables :math:`h_j`, ``[C, H, W]``, given a map s that knows of the global variables
    and of the groups before, :math:`p(h_j \mid \zeta, h_{<j})` (Vahdat et al. 2018, section 6); normal or bits, as the
    latent variable is declared.

    A program refines the map by residual blocks, states the group given it, and adds the group to it, for the next::

        s = group.refine(s)
        h = pyro.sample("h1", group(s))
        s = group.insert(s, h)

    :param Latent latent: what the leaf declares.
    :param int blocks: residual blocks that refine the map.
    :param bool last: whether nothing depends on the group through the map, which then stays as it is.
    :param str norm: as of :class:`~pyro_spvae.nn.residual.ResidualBlock`, like ``activation``.
    :param bool checkpoint: as of :class:`~pyro_spvae.nn.residual.ResidualStack`.
    :raises ValueError: for options out of range, and when bound for a map of other sides.

    Example::

        >>> from pyro_spvae.conditionals import LocalGroup
        >>> group = LocalGroup(Latent((3, 2, 2))).bind(leaves=1, event_shape=(3, 2, 2), map_shape=(8, 2, 2))
        >>> s = group.refine(torch.randn(5, 1, 8, 2, 2))
        >>> h = group(s).sample()
        >>> h.shape, group.insert(s, h).shape
        (torch.Size([5, 1, 3, 2, 2]), torch.Size([5, 1, 8, 2, 2]))
    """

    def __init__(
        self,
        latent: Latent,
        blocks: int = 1,
        last: bool = False,
        norm: str = "batch",
        activation: str = "elu",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.latent = latent
        self.support = latent.support
        self.last = last
        self.law = conditional(latent, Readout(norm, activation))
        self.of_blocks: dict[str, Any] = {
            "blocks": checks.positive_integer("blocks", blocks),
            "norm": norm,
            "activation": activation,
            "checkpoint": checks.boolean("checkpoint", checkpoint),
        }

    def build(self, leaves: int, event_shape: tuple[int, ...], map_shape: tuple[int, ...]) -> None:
        """
        Makes the networks.

        :param tuple map_shape: channels, height and width of the map.
        """
        size, channels = math.prod(map_shape), map_shape[0]
        self.residual = ResidualStack(leaves, channels, channels, **self.of_blocks)
        shapes = {"map_shape": map_shape, "output_shape": event_shape}
        self.law.bind(leaves=leaves, inputs=size, event_shape=event_shape, **shapes)
        self.inserted = None if self.last else LeafConv(leaves, event_shape[0], [channels], 1)

    def refine(self, state: Tensor) -> Tensor:
        """The map ``[.., leaf, channel, H, W]`` after the residual blocks."""
        return self.residual(side_by_side(state)).reshape(state.shape)

    def forward(self, state: Tensor) -> Any:
        """The distribution of the group given the map."""
        return self.law(state.flatten(-3))

    def insert(self, state: Tensor, value: Tensor) -> Tensor:
        """The map that also knows of the group's value ``[.., leaf, C, H, W]``."""
        if self.inserted is None:
            return state
        found = self.inserted(side_by_side(self.latent.seen(value)))
        return state + found.reshape(*value.shape[:-3], *state.shape[-3:])


def check_grid(grid: tuple[int, ...], patch: Any) -> None:
    """
    :raises ValueError: if local variables lie on more positions than the patches of a leaf have.
    """
    if patch is not None and any(side > most for side, most in zip(grid[1:], patch[1:], strict=True)):
        raise ValueError(
            f"local_shape lies on a grid of {grid[1]} x {grid[2]}, but the leaf's patches have {patch[1]} x {patch[2]} "
            "pixels; give a smaller one, or one region (structure whole)"
        )
