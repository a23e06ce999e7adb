# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From latent vectors, a decoder and a likelihood to the distribution of a leaf's pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pyro.distributions import TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_spvae.distributions import LeafAutoregressive
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Network

if TYPE_CHECKING:
    from pyro_spvae.nn import PixelCNN


def decode(
    decoder: Network, likelihood: Likelihood, latents: tuple[Tensor, ...], mask: Tensor | None = None
) -> TorchDistribution:
    """
    The distribution of the pixels ``x`` given latent vectors.

    :param Network decoder: bound. If it is ``autoregressive``, each pixel also depends on those before it.
    :param Likelihood likelihood: bound.
    :param latents: one tensor ``[.., leaf, latent]`` for each input of the decoder.
    :param Tensor mask: ``bool``, broadcastable to ``[.., leaf, pixel]``: pixels that count.
    :returns: batch ``[.., leaf]``, event ``[pixel]``; a :class:`~pyro_spvae.distributions.LeafAutoregressive` for an
        autoregressive decoder.
    :raises ValueError: if the decoder is autoregressive and the mask shows a part of a patch.
    """
    if not decoder.autoregressive:
        return likelihood(decoder(*latents), mask)
    network: Any = decoder
    context = network.context(*latents)  # [.., L, n, H, W]
    heads = tuple(context.new_zeros(context.size(-4), size) for size in likelihood.heads)

    def conditionals(context: Tensor, value: Tensor) -> TorchDistribution:
        return likelihood(network(context, likelihood.features(value)), mask)

    def ancestral(rows: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        return draws(network, likelihood, rows)

    return LeafAutoregressive(
        context, likelihood.sizes["pixels"], conditionals, ancestral, likelihood(heads, mask).support, mask
    )


def draws(decoder: PixelCNN, likelihood: Likelihood, context: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """
    Draws patches, all channels of one pixel after the other; every layer is computed once at every pixel.

    :param Tensor context: ``[row, leaf, n, height, width]``; few rows are drawn at a time, which bounds memory.
    :returns: an iterator over slices of rows, indices of the drawn entries of a patch ``[channel]``, and their values
        ``[row, leaf, channel]``.
    """
    size = decoder.rows_at_once(context)
    for start in range(0, len(context), size):
        rows = slice(start, min(start + size, len(context)))
        steps = decoder.steps(context[rows])
        pixel = _Pixel(likelihood, rows.stop - rows.start, context)
        for place in steps:
            values, features = pixel.draw(steps.outputs(), place)
            steps.put(features)
            yield rows, place, values


class _Pixel:
    """
    Draws values of single pixels of ``rows`` patches.

    A likelihood of this package without parameters of its own is the same at all pixels: one of the pixel alone is
    made. Any other may depend on the place, and is asked for whole patches of which the pixel is used.
    """

    def __init__(self, likelihood: Likelihood, rows: int, context: Tensor) -> None:
        self.likelihood = likelihood
        self.leaves = context.size(1)
        alike = type(likelihood).__module__.startswith("pyro_spvae.") and not likelihood.state_dict()
        self.alone: Likelihood | None = type(likelihood)(**likelihood.options()) if alike else None
        self.values = context.new_zeros(rows, self.leaves, likelihood.sizes["pixels"])

    def draw(self, outputs: tuple[Tensor, ...], place: Tensor) -> tuple[Tensor, Tensor]:
        """Values and their features at the entries ``place [channel]``, both ``[row, leaf, channel]``."""
        if self.alone is not None:
            if self.alone._sizes is None:
                self.alone.bind(leaves=self.leaves, pixels=len(place))
            values = self.alone(outputs).sample()
            return values, self.alone.features(values)
        heads = []
        for output, size in zip(outputs, self.likelihood.heads, strict=True):
            whole = output.new_zeros(*output.shape[:2], self.values.size(-1), size // self.values.size(-1))
            whole[:, :, place] = output.unflatten(-1, (len(place), -1))
            heads.append(whole.flatten(-2))
        values = self.likelihood(tuple(heads)).sample()[..., place]
        self.values[..., place] = values
        return values, self.likelihood.features(self.values)[..., place]


class DrawMessenger(Messenger):
    """
    Says how values of autoregressive distributions are drawn; all others are left alone.

    :param bool progress: with a progress bar.
    :param bool skip: not at all, where nobody looks at them: zeros are put in their place.
    """

    def __init__(self, progress: bool = False, skip: bool = False) -> None:
        super().__init__()
        self.progress = progress
        self.skip = skip

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["value"] is not None or not isinstance(msg["fn"], LeafAutoregressive):
            return
        msg["value"] = msg["fn"].undrawn() if self.skip else msg["fn"].sample(progress=self.progress)
