# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of DVAE++ (Vahdat et al. 2018): global variables first, then groups of convolutional ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import LocalGroup, conditional
from pyro_spvae.leaves import LeafGuide
from pyro_spvae.nn import MLP
from pyro_spvae.nn.leaf_conv import LeafConv, side_by_side
from pyro_spvae.nn.pyramid import FeaturePyramid, level_of
from pyro_spvae.nn.residual import PreActivation
from pyro_spvae.nn.upscale import Upscale


class DVAEppGuide(LeafGuide):
    r"""
    Guide of DVAE++ (Vahdat et al. 2018, Figure 3b), :math:`q(z \mid x) \prod_j q(h_j \mid x, \zeta, h_{<j})`. A feature
    pyramid sees the data; its last map tells of the global variables ``"z"``, which are in groups if they are bits, and
    the map on the grid of the local ones, ``"h1"``, ``"h2"``, .., of these.

    :param int groups: of global bits, each given those before it (1, 2 or 4 in the paper); those of the prior by
        default.
    :param int levels: how often the pyramid halves the sides, 3; ``channels`` are those of its maps, 32.
    :param Sequence[int] hidden_dims: of the networks of global variables, (128,).
    :param int blocks: residual blocks of each level and before each group; ``norm``, ``activation`` and ``checkpoint``
        are those of all residual blocks, see :class:`pyro_spvae.nn.SEResNet`.
    :raises ValueError: for options out of range, and when bound for local variables on another grid than the pyramid's.

    Example::

        >>> from pyro_spvae.guides import DVAEppGuide
        >>> from pyro_spvae.models import DVAEpp
        >>> leaf = DVAEpp(Bernoulli(), latent_dim=4, groups=1, local_shape=(3, 2, 2), channels=4)
        >>> guide = DVAEppGuide(groups=2, levels=2, channels=4, hidden_dims=(8,))
        >>> dvaepp = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=guide)
        >>> x = dvaepp.sample(3)
        >>> {name: values.shape for name, values in dvaepp.embed(x).latents.items()}
        {'z': torch.Size([3, 1, 4]), 'h1': torch.Size([3, 1, 3, 2, 2])}
    """

    def __init__(
        self, groups: int | None = None, levels: int = 3, channels: int | Sequence[int] = (32,),
        hidden_dims: Sequence[int] = (128,), blocks: int = 1, norm: str = "batch", activation: str = "elu",
        checkpoint: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.groups = None if groups is None else checks.positive_integer("groups", groups)
        self.of_all: dict[str, Any] = {"norm": norm, "activation": activation, "checkpoint": checkpoint}
        self.pyramid = FeaturePyramid(channels, levels, blocks, **self.of_all)
        self.encoder = MLP(hidden_dims, activation, "shared", normalise=norm == "batch")
        self.blocks, self.hidden_dims = blocks, self.encoder.hidden_dims

    def build(self, leaves: int, pixels: int, latents: Mapping[str, Latent], patch: Any = None) -> None:
        """Binds the networks."""
        names = [f"h{group + 1}" for group in range(max(1, len(latents) - 1))]
        event, *shapes = self.shape_of(latents, "z", *names)
        self.latents = dict(latents)
        self.pyramid.bind(leaves=leaves, inputs=pixels, input_shape=patch)
        self.level = level_of(self.pyramid.shapes, shapes[0])
        of_top, of_map = self.pyramid.shapes[-1], (self.pyramid.shapes[self.level][0], *shapes[0][1:])
        norm, activation = self.of_all["norm"], self.of_all["activation"]
        self.last = PreActivation(leaves, of_top[0], norm, activation)
        if self.groups is not None and not latents["z"].is_discrete:
            raise ValueError(f"groups is {self.groups}, but the leaf's global variables are no bits; leave it out")
        options = {"groups": self.groups or getattr(latents["z"], "groups", 1), "hidden_dims": self.hidden_dims}
        self.z = conditional(latents["z"], self.encoder, **options, activation=activation, normalise=norm == "batch")
        del self.encoder  # which is held by the block from here on
        self.z.bind(leaves=leaves, inputs=math.prod(of_top), event_shape=event)
        levels = min(2, math.ceil(math.log2(max(of_map[1:]))))
        self.upscale = Upscale(channels=(of_map[0],), levels=levels, blocks=self.blocks, **self.of_all)
        self.upscale.bind(leaves=leaves, inputs=event[0], output_shape=of_map)
        self.of_grid = LeafConv(leaves, of_map[0], [of_map[0]], 1)
        self.local: Any = nn.ModuleDict()
        for name in names:
            group = LocalGroup(latents[name], self.blocks, last=name == names[-1], **self.of_all)
            self.local[name] = group.bind(leaves=leaves, event_shape=latents[name].event_shape, map_shape=of_map)

    def encode(self, x: Tensor) -> Any:
        """What follows from features ``x [.., leaf, pixel]`` alone: of ``z``, and a map on the grid."""
        maps = self.pyramid(x)
        grid, top = maps[self.level], maps[-1]
        of_top = self.last(side_by_side(top)).reshape(*x.shape[:-1], -1)
        return self.z.embed(of_top), self.of_grid(side_by_side(grid)).reshape(grid.shape)

    def forward(self, encoding: Any) -> None:
        """States ``z``, ``h1``, .."""
        of_top, grid = encoding
        z = pyro.sample("z", self.latents["z"].smooth(self.z.join(of_top)))
        state = grid + self.upscale(self.latents["z"].seen(z))
        for name, group in self.local.items():
            state = group.refine(state)
            h = pyro.sample(name, self.latents[name].smooth(group(state)))
            state = group.insert(state, h)
