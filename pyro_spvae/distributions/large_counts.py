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

#: counts below which torch's form loses about 1e-10 nats
LARGE = 1e5
_MOST = 300.0  # logits of means whose squares are numbers
_HALF_LOG_TWO_PI = math.log(2 * math.pi) / 2


class Poisson(dist.Poisson):
    """``pyro.distributions.Poisson``, whose log-probabilities of large counts are exact."""

    def log_prob(self, value: Tensor) -> Tensor:
        r"""
        Of large :math:`x`, with :math:`d = (x - \lambda) / \lambda`,
        :math:`-\delta(x) - \lambda [(1 + d) \log(1 + d) - d] - \tfrac12 \log 2 \pi x`, see :func:`stirling_error`.
        """
        large = value > LARGE
        found = super().log_prob(torch.where(large, 1.0, value))
        x = value.clamp(min=LARGE)
        d = x / self.rate - 1
        deviance = self.rate * ((1 + d) * d.log1p() - d)
        return torch.where(large, -stirling_error(x) - x.log() / 2 - _HALF_LOG_TWO_PI - deviance, found)


class NegativeBinomial(dist.NegativeBinomial):
    """``pyro.distributions.NegativeBinomial``, whose log-probabilities of large counts are exact."""

    def log_prob(self, value: Tensor) -> Tensor:
        r"""
        Of large :math:`x`, with the mean :math:`m = r e^\ell`, the sum of

        .. math::
            \delta(x + r) - \delta(x) + \bigl[r \log r - r - \log \Gamma(r)\bigr]
            - \tfrac12 \log\bigl(x (x + r)\bigr), \quad
            x \Bigl[\log\Bigl(1 + \frac{r}{x}\Bigr) + \log \operatorname{sigmoid}(\ell)\Bigr], \quad
            r \log\Bigl(1 + \frac{x - m}{m + r}\Bigr),

        see :func:`stirling_error`; the term in brackets is :math:`\tfrac12 \log \tfrac{r}{2 \pi} - \delta(r)`.
        """
        r, logits = self.total_count, self.logits
        large = value > LARGE
        found = super().log_prob(torch.where(large, 1.0, value))
        x = value.clamp(min=LARGE)
        y, m = x + r, r * logits.clamp(-_MOST, _MOST).exp()
        of_r = r * r.log() - r - r.lgamma()
        ratio = y / (m + r)
        far = ratio < 0.5
        near = torch.where(far, 0.0, (x - m) / (m + r)).log1p()
        rest = torch.where(far, (x / r).log1p() - F.softplus(logits), near)
        of_x = stirling_error(y) - stirling_error(x) - (x.log() + y.log()) / 2
        exact = of_x + of_r + x * ((r / x).log1p() + F.logsigmoid(logits)) + r * rest
        return torch.where(large, exact, found)


def stirling_error(x: Tensor) -> Tensor:
    r"""
    What Stirling's formula lacks,
    :math:`\delta(x) = \log \Gamma(x + 1) - (x + \tfrac12) \log x + x - \tfrac12 \log 2 \pi`, of large :math:`x`.
    """
    inverse = 1 / x
    return inverse * (1 / 12 - inverse.square() / 360)
