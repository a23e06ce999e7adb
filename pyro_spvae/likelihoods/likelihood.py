# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the likelihood of a leaf is."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae.blocks import Block
from pyro_spvae.data import Column

LEAST = 1e-6  # probability that an M-step writes, so that logits stay within 14 of each other


class Likelihood(Block):
    """
    The distribution of a leaf's pixels given its decoder's outputs.

    The call takes one tensor ``[.., leaf, head]`` per entry of :attr:`heads` and returns a distribution with batch
    ``[.., leaf]`` and event ``[pixel]``; pixels where ``mask`` is False contribute exactly 0. A likelihood that relates
    the channels of a position also names ``channels`` in its ``build``, those of images, in whose patches pixels are in
    the order (channel, position); it is told 1 for tables, and nothing where they are not known.

    Example::

        class Laplace(Likelihood):
            accepts = "finite real numbers"

            def __init__(self, scale=0.1):
                super().__init__()
                self.scale = scale

            def forward(self, outputs, mask=None):
                laplace = dist.Laplace(outputs[0], self.scale)
                return (laplace if mask is None else laplace.mask(mask)).to_event(1)
    """

    accepts: str  # what values are accepted, for error messages

    #: what it is a distribution of: "binary", "levels", "real", "positive" or "counts"; decides preprocessing
    of: str = "real"

    #: what the columns of a table are that it is a distribution of; ``None`` where it does not know them
    columns: tuple[Column, ...] | None = None

    #: whether the distribution of a pixel, with all of its channels, follows from its outputs alone, wherever it is in
    #: the patch; every class says so for itself, a subclass does not inherit it
    same_at_all_pixels: bool = False

    def build(self, leaves: int, pixels: int) -> None:
        """Makes parameters of the likelihood's own; the default has none."""

    @property
    def heads(self) -> tuple[int, ...]:
        """Sizes of the decoder outputs that the likelihood needs."""
        return (self.sizes["pixels"],)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        """The distribution of the pixels."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, outputs, mask=None)")

    def initial_outputs(self, leaves: int) -> tuple[Tensor, ...]:
        """
        What a leaf without a decoder starts from in its place: a tensor ``[leaf, head]`` for each of :attr:`heads`,
        drawn from torch's generator, so that the leaves of a region differ; standard normal by default.
        """
        return tuple(torch.randn(leaves, size) for size in self.heads)

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """
        Sufficient statistics of an exponential family, added up over the data, for the E-step of EM.

        :param Tensor x: values ``[data, leaf, pixel]`` in the support where the weight is not 0.
        :param Tensor weight: of every value, same shape, at least 0.
        :returns: ``[leaf, pixel, statistic]``, in the type of the weights.
        :raises ValueError: if the likelihood does not say; it can be trained by gradient alone.
        """
        raise ValueError(
            f"the likelihood {type(self).__name__} has no sufficient statistics, which EM needs; train by gradient, or "
            "define statistics, uniform_statistics and outputs_of"
        )

    def uniform_statistics(self) -> Tensor | None:
        """Means of the statistics ``[statistic]`` where all values are equally likely; ``None`` if they cannot be."""
        return None

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """
        The most likely outputs given means of the statistics, for the M-step of EM.

        :param Tensor means: ``[leaf, pixel, statistic]``.
        :returns: a finite tensor ``[leaf, head]`` for each of :attr:`heads`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define outputs_of(self, means)")

    def outputs_at(self, mean: Tensor) -> tuple[Tensor, ...] | None:
        """
        The outputs of a distribution whose features have a mean, ``[leaf, pixel]``, that of training data: what the
        outputs of a decoder may be added to. ``None``, the default: the likelihood does not say.

        :returns: a finite tensor ``[leaf, head]`` for each of :attr:`heads`.
        """
        return None

    def features(self, x: Tensor) -> Tensor:
        """Pixel values brought to about [0, 1] for the guide's networks."""
        return x

    def supports(self, x: Tensor) -> Tensor:
        """Elementwise: is the value in the support?"""
        return torch.isfinite(x)

    def check(self, x: Tensor, mask: Tensor) -> None:
        """
        :raises ValueError: if a value of ``x`` with ``mask`` set is outside the support.
        """
        wrong = mask & ~self.supports(x)
        if wrong.any():
            value = x[wrong][0].item()
            rows = wrong.flatten(1).any(1)  # leaves may share entries, so that those are not counted here
            more = f" ({int(rows.sum())} such rows)" if rows.sum() > 1 else ""
            raise ValueError(
                f"x holds the value {value:g} in row {int(rows.nonzero()[0])}{more}; the likelihood "
                f"{type(self).__name__} accepts {self.accepts}"
            )
