# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Likelihoods: modules whose call turns a decoder's outputs into a distribution over pixels."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_spvae import distributions as dist
from pyro_spvae.nn import Part, positive_scale
from pyro_spvae.nn.part import is_positive
from pyro_spvae.nn.scale import check_scale

__all__ = ["Bernoulli", "Binomial", "Categorical", "Likelihood", "Normal"]


class Likelihood(Part, nn.Module):
    """
    The distribution of a leaf's pixels given its decoder's outputs.

    The call takes one tensor ``[.., leaf, head]`` per entry of :attr:`heads` and returns a distribution with batch
    ``[.., leaf]`` and event ``[pixel]``; pixels where ``mask`` is False contribute exactly 0.

    Example::

        class Laplace(Likelihood):
            accepts = "finite real numbers"

            def __init__(self, scale=0.1):
                super().__init__()
                self.scale = scale  # under the argument's name, so that a model with this likelihood can be saved

            def forward(self, outputs, mask=None):
                laplace = dist.Laplace(outputs[0], self.scale)
                return (laplace if mask is None else laplace.mask(mask)).to_event(1)
    """

    accepts: str  # what values are accepted, for error messages

    def build(self, leaves: int, pixels: int) -> None:
        """Makes parameters of the likelihood's own; the default has none."""

    @property
    def heads(self) -> tuple[int, ...]:
        """Sizes of the decoder outputs that the likelihood needs."""
        return (self.sizes["pixels"],)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        """The distribution of the pixels."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, outputs, mask=None)")

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
            raise ValueError(
                f"x holds the value {value:g} ({int(wrong.sum())} such entries); "
                f"the likelihood {type(self).__name__} accepts {self.accepts}"
            )


class Bernoulli(Likelihood):
    """Binary pixels, one logit each."""

    accepts = "0 and 1"

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        return dist.LeafBernoulli(logits, mask=mask)

    def supports(self, x: Tensor) -> Tensor:
        return (x == 0) | (x == 1)


class Binomial(Likelihood):
    """
    Grey levels 0..N as a binomial count, one logit each (the discrete model of the SPVAE paper, with N = 255).

    :param int total_count: N, the largest value.
    """

    def __init__(self, total_count: int = 255) -> None:
        super().__init__()
        self.total_count = _positive("total_count", total_count)
        self.accepts = f"the integers 0 to {total_count}"

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        return dist.LeafBinomial(self.total_count, logits, mask=mask)

    def features(self, x: Tensor) -> Tensor:
        return x / self.total_count

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= self.total_count) & (x == x.round())


class Categorical(Likelihood):
    """
    Levels 0..levels-1 with a free probability each, ``levels`` logits a pixel.

    :param int levels: number of levels.
    """

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = _positive("levels", levels)
        self.accepts = f"the integers 0 to {levels - 1}"

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.sizes["pixels"] * self.levels,)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        return dist.LeafCategorical(logits.unflatten(-1, (self.sizes["pixels"], self.levels)), mask=mask)

    def features(self, x: Tensor) -> Tensor:
        return x / max(self.levels - 1, 1)

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.levels) & (x == x.round())


class Normal(Likelihood):
    r"""
    Real-valued pixels with a learned mean and standard deviation each.

    :param str mean: ``"identity"``, or ``"sigmoid"`` for data in [0, 1] (the paper's form).
    :param str scale: ``"softplus"``: :math:`\sigma = \mathrm{min\_scale} + \log(1 + e^s)`; ``"precision"``:
        :math:`\sigma = (1 + s^2)^{-1/2}`, the paper's form, which has no floor.
    :param float min_scale: smallest standard deviation, in units of ``x``; 1e-3 by default, none for ``"precision"``. A
        density is unbounded without it: constant pixels can be hit with any precision.
    """

    accepts = "finite real numbers"

    def __init__(self, mean: str = "identity", scale: str = "softplus", min_scale: float | None = None) -> None:
        super().__init__()
        if mean not in ("identity", "sigmoid"):
            raise ValueError(f"mean is {mean!r}; known are identity, sigmoid")
        self.mean = mean
        self.scale = scale
        self.min_scale = check_scale(scale, min_scale)

    @property
    def heads(self) -> tuple[int, ...]:
        pixels = self.sizes["pixels"]
        return (pixels, pixels)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        loc, raw_scale = outputs
        if self.mean == "sigmoid":
            loc = torch.sigmoid(loc)
        return dist.LeafNormal(loc, positive_scale(raw_scale, self.scale, self.min_scale), mask=mask)


def _positive(name: str, value: int) -> int:
    if not is_positive(value):
        raise ValueError(f"{name} is {value!r}; a positive integer is needed")
    return value
