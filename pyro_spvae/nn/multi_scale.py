# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Multi-scale autoregressive decoders with a leaf axis (Reed et al. 2017), those of DVAE++ (Vahdat et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks import in_mode
from pyro_spvae.nn.leaf_conv import NORMS, LeafConv, by_pixel, head_channels, images, side_by_side
from pyro_spvae.nn.network import Network, patch_of_decoder, rows_within
from pyro_spvae.nn.residual import PreActivation, ResidualStack
from pyro_spvae.nn.scales import PADDINGS, Grid, scales
from pyro_spvae.nn.upscale import Upscale

_KERNEL = 3
_HELD = 8  # maps of a patch that a block and the features together hold at a time


class MultiScale(Network):
    r"""
    Independent multi-scale decoders: the outputs for a pixel depend on the latent vectors and on the pixels of coarser
    scales (Reed et al. 2017; Vahdat et al. 2018, section 6.1),

    .. math:: p(x \mid z) = p(x_0 \mid z) \prod_i p(x_i \mid x_{<i}, z).

    :math:`x_0` are the pixels of a grid of ``smallest`` x ``smallest``, :math:`x_i` those of the grid of twice the
    density that are in no grid before; the last grid has all of them. Within a scale positions are independent, so that
    a patch is drawn in as many steps as there are scales. The channels of a pixel are of one scale.

    Latent vectors become maps of the patch by residual blocks that go up, one for each doubling
    (:class:`~pyro_spvae.nn.upscale.Upscale`). Each scale has a network of its own: a convolution of the maps, brought
    to its grid by their means, and of the pixels of coarser scales, with a mark at the positions that they are known
    at; residual blocks; and a 1 x 1 convolution for each output. A decoder that is bound with a ``map_shape`` starts
    from that map instead of vectors.

    Batch normalisation uses the statistics of the batch in training, over particles, data and positions, and the
    running ones in evaluation (``eval()``) and always when pixels are drawn; in training mode a log-density therefore
    depends on the rest of the batch. Processes that share a batch keep statistics of their own.

    :param int smallest: sides of the coarsest grid.
    :param int filters: channels of the maps and of the networks of the scales.
    :param int blocks: residual blocks of each scale.
    :param str padding: ``"none"``: the sides of patches must be ``smallest`` times a power of 2; ``"bottom-right"``:
        they are brought up to the next such number, 28 to 32, by rows and columns that are never observed nor drawn and
        count nothing.
    :param str norm: ``"batch"``, of each channel of each leaf; ``"none"``: biases instead.
    :param bool checkpoint: gradient checkpointing, see :class:`~pyro_spvae.nn.residual.ResidualStack`.
    :raises ValueError: for options out of range, and when bound for leaves that are no rectangles of one shape, or have
        sides that do not fit.

    Example::

        >>> from pyro_spvae import SPVAE, whole
        >>> from pyro_spvae.likelihoods import Bernoulli
        >>> from pyro_spvae.models import VAE
        >>> from pyro_spvae.nn import MultiScale
        >>> decoder = MultiScale(smallest=2, filters=8, blocks=1)
        >>> spvae = SPVAE(whole((8, 8)), 1, leaf=VAE(Bernoulli(), latent_dim=2, decoder=decoder))
        >>> spvae.sample(3).shape  # in three steps
        torch.Size([3, 1, 8, 8])
    """

    several_inputs = True
    autoregressive = True

    places: Tensor

    def __init__(
        self,
        smallest: int = 4,
        filters: int = 32,
        blocks: int = 2,
        padding: str = "none",
        norm: str = "batch",
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.smallest = checks.positive_integer("smallest", smallest)
        self.filters = checks.positive_integer("filters", filters)
        self.blocks = checks.positive_integer("blocks", blocks)
        self.padding = checks.one_of("padding", padding, PADDINGS)
        self.norm = checks.one_of("norm", norm, NORMS)
        self.checkpoint = checks.boolean("checkpoint", checkpoint)

    def build(
        self,
        leaves: int,
        inputs: int | tuple[int, ...],
        outputs: tuple[int, ...],
        input_shape: Any = False,
        output_shape: tuple[int, ...] | None = None,
        map_shape: tuple[int, ...] | None = None,
    ) -> None:
        """
        Makes the parameters.

        :param inputs: size of the latent vector, or a tuple of sizes of several.
        :param outputs: sizes, multiples of the pixels.
        :param input_shape: of an encoder, which this network cannot be.
        :param tuple output_shape: ``(channels, height, width)`` of the patches.
        :param tuple map_shape: of the one input, if it is a map.
        """
        self.shape = patch_of_decoder("multi-scale", input_shape, output_shape)
        sides = self.shape[1:]
        self.head_channels = head_channels("multi-scale", self.shape, outputs)
        grids = scales(sides, self.smallest, self.padding)
        latent = inputs if isinstance(inputs, int) else sum(inputs)
        self.map_shape = (latent, 1, 1) if map_shape is None else map_shape
        options: dict[str, Any] = {"norm": self.norm, "checkpoint": self.checkpoint}
        self.upscale = Upscale((self.filters,), max(1, len(grids) - 1), **options).bind(
            leaves=leaves,
            inputs=latent,
            output_shape=(self.filters, *sides),
            map_shape=self.map_shape if max(sides) == 1 else map_shape,  # nothing goes up to a single pixel
        )
        self.last = PreActivation(leaves, self.filters, self.norm)
        self.scales = nn.ModuleList(
            _Scale(leaves, grid, self.shape, self.filters, self.blocks, self.head_channels, **options) for grid in grids
        )
        self.coarser = [
            tuple(more // less for more, less in zip(coarse.spacing, fine.spacing, strict=True))
            for coarse, fine in pairwise(grids)
        ]
        places = dict[int, int]()  # of a pixel, in what the scales make of their grids side by side
        before = 0
        for grid in grids:
            places.update((pixel, before + place) for pixel, place in zip(grid.pixels, grid.new, strict=True))
            before += math.prod(grid.sides)
        self.register_buffer("places", torch.tensor([places[pixel] for pixel in sorted(places)]), persistent=False)

    def context(self, *latents: Tensor) -> Tensor:
        """
        The latent vectors side by side, as one map; larger ones are made where they are used, so that little is kept of
        many rows that are drawn.

        :param Tensor latents: ``[.., leaf, latent]`` each; batch dimensions broadcast.
        :returns: ``[.., leaf, n, height, width]``, of vectors with sides of 1.
        """
        shape = torch.broadcast_shapes(*(z.shape[:-1] for z in latents))
        return torch.cat([z.expand(*shape, -1) for z in latents], -1).unflatten(-1, self.map_shape)

    def forward(self, context: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """
        The outputs for every pixel given those of coarser scales, all at once.

        :param Tensor context: what :meth:`context` returned.
        :param Tensor x: features of the pixels, ``[.., leaf, pixel]``, which broadcast against the context.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        x = x.expand(*x.shape[:-2], context.size(-4), x.size(-1))  # one patch for all leaves is fine too
        leads = context.shape[:-4], x.shape[:-2]
        pixels = images(x, self.shape)
        parts = [scale(maps, pixels, leads) for scale, maps in zip(self.scales, self.features(context), strict=True)]
        lead = torch.broadcast_shapes(*leads)  # nothing of the pixels is known at the coarsest scale
        whole = torch.cat([part.expand(*lead, *part.shape[-3:]) for part in parts], -1)
        return self.heads(whole.index_select(-1, self.places))

    def features(self, context: Tensor) -> list[Tensor]:
        """
        What each scale sees of the latent vectors.

        :param Tensor context: what :meth:`context` returned.
        :returns: ``[N, leaf * filter, H, W]`` with the sides of each grid, the coarsest first.
        """
        h = self.last(side_by_side(self.upscale(context.flatten(-3))))
        found = [h]
        for by in reversed(self.coarser):
            h = F.avg_pool2d(h, by, ceil_mode=True)
            found.append(h)
        return found[::-1]

    def heads(self, h: Tensor) -> tuple[Tensor, ...]:
        """Outputs ``[.., leaf, out]`` of channels side by side, ``[.., leaf, channel, position]``."""
        return tuple(by_pixel(head.unsqueeze(-1), self.shape[0]) for head in h.split(self.head_channels, -2))

    def steps(self, context: Tensor) -> _ScaleSteps:
        """
        The outputs of one scale after the other, without a graph and with the running statistics.

        :param Tensor context: ``[row, leaf, n, height, width]``.
        """
        return _ScaleSteps(self, context)

    def rows_at_once(self, context: Tensor) -> int:
        """How many rows of a context :meth:`steps` takes in bounded memory."""
        values = max(_HELD * self.filters, 3 * sum(self.head_channels))
        return rows_within(context.size(1) * values * math.prod(self.shape[1:]), context.device)

    def extra_repr(self) -> str:
        return f"smallest={self.smallest}, filters={self.filters}, blocks={self.blocks}, padding={self.padding}"


class _Scale(nn.Module):
    """The network of one scale, for the outputs at the pixels of a grid that are in no coarser one."""

    known: Tensor
    new: Tensor
    place: Tensor

    def __init__(
        self,
        leaves: int,
        grid: Grid,
        shape: tuple[int, ...],
        filters: int,
        blocks: int,
        outputs: Sequence[int],
        norm: str,
        checkpoint: bool,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.leaves, self.grid = leaves, grid
        convolution = partial(LeafConv, leaves, after=[filters], kernel=_KERNEL, padding=_KERNEL // 2)
        fan_in = (filters + (channels + 1) * any(grid.known)) * _KERNEL**2  # of the one convolution that these are
        self.of_maps = convolution(before=filters, fan_in=fan_in, bias=norm == "none")
        if any(grid.known):
            self.of_pixels = convolution(before=channels, fan_in=fan_in, bias=False)
            self.of_known = convolution(before=1, fan_in=fan_in, bias=False)
        self.blocks = ResidualStack(leaves, filters, filters, blocks, norm=norm, checkpoint=checkpoint)
        self.last = PreActivation(leaves, filters, norm)
        self.heads = LeafConv(leaves, filters, outputs, 1)
        known = torch.tensor([float(seen) for seen in grid.known]).reshape(grid.sides)
        entries = [channel * height * width + pixel for channel in range(channels) for pixel in grid.pixels]
        for name, value in (("known", known), ("new", torch.tensor(grid.new)), ("place", torch.tensor(entries))):
            self.register_buffer(name, value, persistent=False)

    def forward(self, maps: Tensor, pixels: Tensor, leads: tuple[torch.Size, torch.Size]) -> Tensor:
        """
        :param Tensor maps: of the latent vectors, ``[N, leaf * filter, H, W]`` with the sides of the grid.
        :param Tensor pixels: features of a patch, ``[M, leaf * channel, height, width]``; those at pixels that no
            coarser grid has do not matter.
        :param tuple leads: batch dimensions that ``N`` and ``M`` stand for, which broadcast.
        :returns: ``[.., leaf, out, H * W]``, at all pixels of the grid; those of coarser ones have no use for theirs.
        """
        h = _rows(self.of_maps(maps), leads[0])
        if any(self.grid.known):
            down, across = self.grid.spacing
            known = self.known.expand(1, self.leaves, *self.grid.sides)
            # the two meet after the convolutions, so pixels are not repeated for particles
            seen = self.of_pixels(pixels[..., ::down, ::across] * self.known) + self.of_known(known)
            h = h + _rows(seen, leads[1])
        lead = h.shape[:-3]
        h = self.heads(self.last(self.blocks(h.reshape(math.prod(lead), *h.shape[-3:]))))
        return h.reshape(*lead, self.leaves, h.size(1) // self.leaves, math.prod(self.grid.sides))


class _ScaleSteps:
    """
    Outputs of a multi-scale decoder, at each step those of all pixels of a scale given those of coarser ones.

    :param Tensor context: ``[row, leaf, n, height, width]``.
    """

    @torch.no_grad()
    def __init__(self, network: MultiScale, context: Tensor) -> None:
        self.network = network
        self.x = context.new_zeros(*context.shape[:2], math.prod(network.shape))
        with in_mode(network, training=False):
            self.maps = network.features(context)

    def __iter__(self) -> Iterator[Tensor]:
        """At each step, where the channels of its pixels are in a patch, ``[channel * pixel]``."""
        scale: Any
        for scale, maps in zip(self.network.scales, self.maps, strict=True):
            self.now = scale, maps
            yield scale.place

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, ...]:
        """
        :returns: ``[row, leaf, channel * pixel * values]`` for each output.
        """
        scale, maps = self.now
        lead = self.x.shape[:1]
        with in_mode(self.network, training=False):
            h = scale(maps, images(self.x, self.network.shape), (lead, lead))
        return self.network.heads(h.index_select(-1, scale.new))

    def put(self, features: Tensor) -> None:
        """
        :param Tensor features: of the pixels, ``[row, leaf, channel * pixel]``.
        """
        self.x[..., self.now[0].place] = features


def _rows(h: Tensor, lead: torch.Size) -> Tensor:
    """``[N, ..]`` with the batch dimensions that ``N`` stands for."""
    return h.reshape(*lead, *h.shape[1:])
