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
from pyro_spvae.nn.scale import check_scale, raw_scale
from pyro_spvae.nn.simplex import away_from_zero

__all__ = ["Bernoulli", "Binomial", "Categorical", "Likelihood", "Normal"]

_LEAST = 1e-6  # probability that an M-step writes, so that logits stay within 14 of each other


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

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """The number of ones."""
        return torch.einsum("blp,blp->lp", weight, x.to(weight.dtype)).unsqueeze(-1)

    def uniform_statistics(self) -> Tensor:
        return torch.tensor([0.5])

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """Log-odds of probabilities from 1e-6 to 1 - 1e-6."""
        return (torch.logit(means.squeeze(-1), eps=_LEAST),)

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

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """The sum of levels, in units of N."""
        return torch.einsum("blp,blp->lp", weight, x.to(weight.dtype) / self.total_count).unsqueeze(-1)

    def uniform_statistics(self) -> Tensor:
        return torch.tensor([0.5])

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """Log-odds of probabilities from 1e-6 to 1 - 1e-6."""
        return (torch.logit(means.squeeze(-1), eps=_LEAST),)

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

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """The number of times that each level occurs."""
        counts = weight.new_zeros(*x.shape[1:], self.levels)  # [L, P, V]
        return counts.scatter_add_(-1, x.long().movedim(0, -1), weight.movedim(0, -1))

    def uniform_statistics(self) -> Tensor:
        return torch.full((self.levels,), 1 / self.levels)

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """Logarithms of probabilities of at least 1e-6."""
        return (away_from_zero(means, _LEAST).log().flatten(-2),)

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
        loc, raw = outputs
        if self.mean == "sigmoid":
            loc = torch.sigmoid(loc)
        return dist.LeafNormal(loc, positive_scale(raw, self.scale, self.min_scale), mask=mask)

    def initial_outputs(self, leaves: int) -> tuple[Tensor, ...]:
        """
        Standard normal means of standard deviation 0.7, for data in units of their own deviations; of 0.3 where a
        sigmoid brings means into [0, 1].
        """
        loc, raw = super().initial_outputs(leaves)
        deviation = torch.full_like(raw, 0.3 if self.mean == "sigmoid" else 0.7)
        return loc, raw_scale(deviation, self.scale, self.min_scale)

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """Sums of values and of their squares."""
        x = x.to(weight.dtype)
        return torch.stack([torch.einsum("blp,blp->lp", weight, power) for power in (x, x.square())], -1)

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """
        Mean and deviation; a mean within 1e-6 of an end of [0, 1], where that is its range, or a deviation that the
        parameterisation cannot reach is moved to the nearest that it can, which is the most likely one in that range.
        """
        first, second = means.unbind(-1)
        variance = second - first.square()
        loc, shift = first, torch.zeros_like(first)
        if self.mean == "sigmoid":
            loc = torch.logit(first, eps=_LEAST)
            shift = first - first.clamp(_LEAST, 1 - _LEAST)
        deviation = (variance.clamp(min=0) + shift.square()).sqrt()
        return loc, raw_scale(deviation, self.scale, self.min_scale)


def _positive(name: str, value: int) -> int:
    if not is_positive(value):
        raise ValueError(f"{name} is {value!r}; a positive integer is needed")
    return value
