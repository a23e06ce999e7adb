# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
r"""
Poisson and negative binomial laws of counts of any size.

Their log-probabilities are differences of terms like :math:`\log x!`, of which nothing is left in double precision
where x is large. There they are computed by Loader's form (2000, "Fast and accurate computation of binomial
probabilities"), in which these terms have been subtracted from each other beforehand.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

_LARGE = 1e5  # below it about 1e-10 nats are lost
_SERIES = 16.0  # from which on the series is exact in double precision
_MOST = 300.0  # logits of means whose squares are numbers


class Poisson(dist.Poisson):
    """``pyro.distributions.Poisson``, whose log-probabilities of large counts are exact."""

    def log_prob(self, value: Tensor) -> Tensor:
        r"""
        Of large :math:`x`, with :math:`d = (x - \lambda) / \lambda`,
        :math:`-\delta(x) - \lambda [(1 + d) \log(1 + d) - d] - \tfrac12 \log 2 \pi x`, see :func:`stirling_error`.
        """
        large = value > _LARGE
        found = super().log_prob(torch.where(large, 1.0, value))
        x = torch.where(large, value, _LARGE)
        d = (x - self.rate) / self.rate
        deviance = self.rate * ((1 + d) * d.log1p() - d)
        return torch.where(large, -stirling_error(x) - deviance - (2 * math.pi * x).log() / 2, found)


class NegativeBinomial(dist.NegativeBinomial):
    """``pyro.distributions.NegativeBinomial``, whose log-probabilities of large counts are exact."""

    def log_prob(self, value: Tensor) -> Tensor:
        r"""
        Of large :math:`x` or :math:`r`, with the mean :math:`m = r e^\ell`, the sum of

        .. math::
            \delta(x + r) - \delta(x) - \delta(r) + \tfrac12 \log \frac{r}{2 \pi x (x + r)}, \quad
            x \Bigl[\log\Bigl(1 + \frac{r}{x}\Bigr) + \log \operatorname{sigmoid}(\ell)\Bigr], \quad
            r \log\Bigl(1 + \frac{x - m}{m + r}\Bigr),

        see :func:`stirling_error`.
        """
        r, logits = self.total_count, self.logits
        value = value.expand(torch.broadcast_shapes(value.shape, self._batch_shape))
        large = (value > 0) & ((value > _LARGE) | (r > _LARGE))
        found = super().log_prob(torch.where(large, 1.0, value))
        x = torch.where(large, value, _LARGE)
        errors = stirling_error(x + r) - stirling_error(x) - stirling_error(r)
        scale = (r / (2 * math.pi * x * (x + r))).log() / 2
        m = r * logits.clamp(-_MOST, _MOST).exp()
        far = x + r < (m + r) / 2
        near = torch.where(far, 0.0, (x - m) / (m + r)).log1p()
        of_r = torch.where(far, (x / r).log1p() - F.softplus(logits), near)
        return torch.where(large, errors + scale + x * ((r / x).log1p() + F.logsigmoid(logits)) + r * of_r, found)


def stirling_error(x: Tensor) -> Tensor:
    r"""
    What Stirling's formula lacks,
    :math:`\delta(x) = \log \Gamma(x + 1) - (x + \tfrac12) \log x + x - \tfrac12 \log 2 \pi`, for :math:`x > 0`.
    """
    large = x > _SERIES
    small = torch.where(large, 1.0, x)
    direct = (small + 1).lgamma() - (small + 0.5) * small.log() + small - math.log(2 * math.pi) / 2
    inverse = 1 / torch.where(large, x, _SERIES)
    square = inverse.square()
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    return torch.where(large, series, direct)
