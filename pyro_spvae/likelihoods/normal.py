# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Normal likelihood of real-valued pixels."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae.blocks.scale import check_scale, positive_scale, raw_scale
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions import LeafNormal
from pyro_spvae.likelihoods.likelihood import LEAST, Likelihood
from pyro_spvae.likelihoods.normal_places import NormalPlaces


class Normal(Likelihood):
    r"""
    Real-valued pixels with a learned mean and standard deviation each.

    :param str mean: ``"identity"``, or ``"sigmoid"`` for data in [0, 1] (the paper's form).
    :param str scale: ``"softplus"``: :math:`\sigma = \mathrm{min\_scale} + \log(1 + e^s)`; ``"precision"``:
        :math:`\sigma = (1 + s^2)^{-1/2}`, the paper's form, which has no floor.
    :param float min_scale: smallest standard deviation, in units of ``x``; 1e-3 by default, none for ``"precision"``. A
        density is unbounded without it: constant pixels can be hit with any precision.

    Example::

        >>> likelihood = Normal(mean="sigmoid", scale="precision").bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2), torch.zeros(1, 2)))
        >>> law.mean.round(decimals=3), law.variance.round(decimals=3)
        (tensor([[0.5000, 0.5000]]), tensor([[1., 1.]]))
    """

    of = "real"
    same_at_all_pixels = True
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
            loc = torch.sigmoid(at_least_single(loc))
        law = LeafNormal(loc, positive_scale(raw, self.scale, self.min_scale), mask=mask)
        law._dtype = outputs[0].dtype
        return law

    def initial_outputs(self, leaves: int) -> tuple[Tensor, ...]:
        """
        Standard normal means of standard deviation 0.7, for data in units of their own deviations; of 0.3 where a
        sigmoid brings means into [0, 1].
        """
        loc, raw = super().initial_outputs(leaves)
        deviation = torch.full_like(raw, 0.3 if self.mean == "sigmoid" else 0.7)
        return loc, raw_scale(deviation, self.scale, self.min_scale)

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Means and deviations of the values, of which there may be none: 0 and the smallest then."""
        count = weight.sum(0).clamp(min=1)
        mean = (x * weight).sum(0) / count
        return self._outputs(mean, ((x - mean).square() * weight).sum(0) / count)

    def normal_places(self) -> NormalPlaces:
        """All, as they are."""
        places = torch.zeros(self.sizes["leaves"], self.sizes["pixels"], dtype=torch.float64, device="cpu")
        none = torch.zeros_like(places, dtype=torch.bool)
        return NormalPlaces(places, torch.ones_like(places), none, ~none, self.min_scale)

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
        return self._outputs(first, second - first.square())

    def _outputs(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, ...]:
        loc, shift = mean, torch.zeros_like(mean)
        if self.mean == "sigmoid":
            loc = torch.logit(mean, eps=LEAST)
            shift = mean - mean.clamp(LEAST, 1 - LEAST)
        deviation = (variance.clamp(min=0) + shift.square()).sqrt()
        return loc, raw_scale(deviation, self.scale, self.min_scale)
