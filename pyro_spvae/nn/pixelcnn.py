# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""PixelCNN decoders with a leaf axis (van den Oord et al. 2016; the decoder of Tomczak and Welling's convHVAE)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.nn.gated_conv import gated_dense
from pyro_spvae.nn.leaf_conv import NORMS, LeafBatchNorm, LeafConv, PixelHeads, images
from pyro_spvae.nn.mlp import apply
from pyro_spvae.nn.network import Network, patch_of_decoder, rows_within
from pyro_spvae.nn.pixel_steps import PixelSteps

LATENTS = ("all", "masked")


class PixelCNN(Network):
    r"""
    Independent autoregressive decoders: the outputs for a pixel depend on the latent vectors and on the pixels before
    it, in raster order.

    Each latent vector becomes a map of the patch by a gated dense layer. The features of the patch and the maps go
    through a masked convolution of type A, which sees pixels before the present one alone, then ``layers - 1`` of type
    B, which see the present position too, each followed by normalisation and ReLU; a 1 x 1 convolution makes each
    output. Kernels are multiplied by their masks whenever they are used.

    Masks do not distinguish channels: those of one pixel are independent given the pixels before and the latent
    vectors, as in the paper's code, unless the likelihood relates them (``DiscretizedLogisticMixture``). Batch
    normalisation uses the statistics of the batch in training, over particles, data and positions, and the running
    ones in evaluation (``eval()``) and always when pixels are drawn; in training mode a log-density therefore
    depends on the rest of the batch. Processes that share a batch keep statistics of their own.

    :param int filters: channels after each masked convolution.
    :param int layers: number of masked convolutions.
    :param int kernel: side of the masked convolutions, odd.
    :param str norm: ``"batch"``, of each channel of each leaf; ``"none"``: a bias instead.
    :param str latents: ``"all"``: the first convolution sees maps of latent vectors at all positions; ``"masked"``:
        before the present one only, as in the paper's code, whose first pixel knows nothing of the latent vectors.
    :raises ValueError: for options out of range, and when bound for leaves that are no rectangles of one shape.

    Example::

        >>> from pyro_spvae.nn import PixelCNN
        >>> leaf = VAE(Bernoulli(), latent_dim=2, decoder=PixelCNN(filters=4, layers=2))
        >>> spvae = SPVAE(whole((6, 6)), units=1, leaf=leaf)
        >>> spvae.sample(3).shape  # pixel by pixel
        torch.Size([3, 1, 6, 6])
    """

    several_inputs = True
    autoregressive = True

    def __init__(
        self, filters: int = 64, layers: int = 8, kernel: int = 3, norm: str = "batch", latents: str = "all"
    ) -> None:
        super().__init__()
        if not checks.is_positive(kernel) or kernel % 2 == 0 or kernel == 1:
            raise ValueError(f"kernel is {kernel!r}; an odd integer of at least 3 is needed")
        self.filters = checks.positive_integer("filters", filters)
        self.layers = checks.positive_integer("layers", layers)
        self.kernel = kernel
        self.norm = checks.one_of("norm", norm, NORMS)
        self.latents = checks.one_of("latents", latents, LATENTS)

    def build(
        self,
        leaves: int,
        inputs: int | tuple[int, ...],
        outputs: tuple[int, ...],
        input_shape: Any = False,
        output_shape: tuple[int, ...] | None = None,
    ) -> None:
        """
        Makes the parameters.

        :param inputs: size of the latent vector, or a tuple of sizes of several.
        :param outputs: sizes, multiples of the pixels.
        :param input_shape: of an encoder, which this network cannot be.
        :param tuple output_shape: ``(channels, height, width)`` of the patches.
        """
        shape = patch_of_decoder("pixelcnn", input_shape, output_shape)
        sizes = (inputs,) if isinstance(inputs, int) else inputs
        channels, filters, kernel = shape[0], self.filters, self.kernel
        maps = channels * len(sizes)
        no_norm = self.norm == "none"
        options: dict[str, Any] = {"kernel": kernel, "padding": kernel // 2}
        before, present = _mask(kernel, False), _mask(kernel, True)
        fan_in = (channels + maps) * kernel**2  # of the one convolution that the first two are
        self.heads = PixelHeads(leaves, filters, shape, outputs, "pixelcnn")
        self.maps = nn.ModuleList(gated_dense(leaves, size, math.prod(shape)) for size in sizes)
        self.of_pixels = LeafConv(leaves, channels, [filters], **options, bias=no_norm, mask=before, fan_in=fan_in)
        self.of_maps = LeafConv(
            leaves,
            maps,
            [filters],
            **options,
            bias=False,
            mask=before if self.latents == "masked" else None,
            fan_in=fan_in,
        )
        self.convolutions = nn.ModuleList(
            LeafConv(leaves, filters, [filters], **options, bias=no_norm, mask=present) for _ in range(self.layers - 1)
        )
        self.norms = nn.ModuleList(
            nn.Identity() if no_norm else LeafBatchNorm(leaves, filters) for _ in range(self.layers)
        )
        self.shape = shape

    def context(self, *latents: Tensor) -> Tensor:
        """
        Maps of the patch for each latent vector.

        :param Tensor latents: ``[.., leaf, latent]`` each; batch dimensions broadcast.
        :returns: ``[.., leaf, n, height, width]`` with ``n`` maps, the channels times the latent vectors.
        """
        maps = [apply([layer], z)[0].unflatten(-1, self.shape) for layer, z in zip(self.maps, latents, strict=True)]
        shape = torch.broadcast_shapes(*(each.shape for each in maps))
        return torch.cat([each.expand(shape) for each in maps], -3)

    def forward(self, context: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """
        The outputs for every pixel given those before it, all at once.

        :param Tensor context: what :meth:`context` returned.
        :param Tensor x: features of the pixels, ``[.., leaf, pixel]``, which broadcast against the context.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        x = x.expand(*x.shape[:-2], context.size(-4), x.size(-1))  # one patch for all leaves is fine too
        of_pixels = self.of_pixels(images(x, self.shape))
        # the two meet after the first convolution, so pixels are not repeated for particles
        of_maps = self._seen(context)
        h = of_pixels.reshape(*x.shape[:-2], *of_pixels.shape[1:]) + of_maps.reshape(
            *context.shape[:-4], *of_maps.shape[1:]
        )
        lead = h.shape[:-3]
        h = F.relu(self.norms[0](h.reshape(math.prod(lead), *h.shape[-3:])))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            h = F.relu(norm(convolution(h)))
        return tuple(head.reshape(*lead, *head.shape[1:]) for head in self.heads(h))

    def steps(self, context: Tensor) -> PixelSteps:
        """
        The outputs of one pixel after the other, each layer computed once at each position, without a graph and with
        the running statistics.

        :param Tensor context: ``[row, leaf, n, height, width]``.
        """
        with torch.no_grad():
            seen = self._seen(context).unflatten(1, (context.size(1), self.filters))
            return PixelSteps([self.of_pixels, *self.convolutions], self.norms, seen, self.heads)

    def _seen(self, context: Tensor) -> Tensor:
        """What the first convolution makes of maps ``[.., leaf, n, height, width]``."""
        return self.of_maps(images(context.flatten(-3), (context.size(-3), *self.shape[1:])))

    def rows_at_once(self, context: Tensor) -> int:
        """How many rows of a context :meth:`steps` takes in bounded memory."""
        _, height, width = self.shape
        rows_kept = self.layers * (self.kernel // 2 + 1) * (width + self.kernel)
        values = context.size(1) * self.filters * (height * width + rows_kept)
        return rows_within(values, context.device)

    def extra_repr(self) -> str:
        return f"filters={self.filters}, layers={self.layers}, kernel={self.kernel}, norm={self.norm}"


def _mask(kernel: int, present: bool) -> Tensor:
    """1 at positions of a kernel before its centre in raster order, and at the centre if ``present``; else 0."""
    mask = torch.zeros(kernel * kernel)
    mask[: kernel * kernel // 2 + present] = 1
    return mask.reshape(kernel, kernel)
