# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Beta distribution, lean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import Dirichlet, Distribution
from torch.distributions.utils import broadcast_all

from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions.kept import LogFractions, inside, kept
from pyro_spvae.distributions.leaf import checked_growth


class Beta(dist.Beta):
    r"""
    Pyro's Beta distribution, lean: its density

    .. math:: \log p(v) = (\alpha - 1) \log v + (\beta - 1) \log(1 - v) - \log B(\alpha, \beta) \quad \text{nats}

    takes :math:`B` of the concentrations as they were given, not of a copy for each datum, or as it is known, and
    :math:`\log(1 - v)` without rounding :math:`1 - v`; of a draw of a Kumaraswamy distribution without rounding
    :math:`v` either.

    :param Tensor concentration1: :math:`\alpha > 0`.
    :param Tensor concentration0: :math:`\beta > 0`, broadcastable with it.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :param Tensor log_normaliser: :math:`\log B(\alpha, \beta)` where it is known, as that of constants is.
    :param torch.dtype dtype: of draws; by default that of the concentrations.

    Example::

        >>> from pyro_spvae.distributions import Beta
        >>> Beta(torch.ones(4), 5 * torch.ones(4)).expand((100, 4)).log_prob(torch.rand(100, 4)).shape
        torch.Size([100, 4])
    """

    def __init__(
        self,
        concentration1: Tensor | float,
        concentration0: Tensor | float,
        validate_args: bool | None = None,
        *,
        log_normaliser: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        a, b = broadcast_all(concentration1, concentration0)
        self._given = (a, b)
        self._log_normaliser = log_normaliser
        self._dtype = a.dtype if dtype is None else dtype
        Distribution.__init__(self, a.shape, validate_args=validate_args)

    @property
    def _dirichlet(self) -> Dirichlet:  # type: ignore[override]
        """Of which torch takes draws and moments; the density does without it."""
        both = at_least_single(torch.stack(self._given, -1))
        return Dirichlet(both, validate_args=False).expand(self.batch_shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws ``[*sample_shape, *batch_shape]``, differentiable in the concentrations."""
        value = super().rsample(torch.Size(sample_shape))
        return value if value.dtype == self._dtype else inside(value.to(self._dtype))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Beta:
        """A larger batch shape is recorded; parameters are shared."""
        new: Any = self._get_checked_instance(Beta, _instance)
        new.__dict__.update(self.__dict__)
        new._batch_shape = checked_growth(type(self).__name__, self.batch_shape, batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """
        :param Tensor value: between 0 and 1, broadcastable to the batch.
        :returns: nats, the shape of value and batch together.
        """
        if self._validate_args:
            self._validate_sample(value)
        a, b = map(at_least_single, self._given)
        normaliser = log_beta(a, b) if self._log_normaliser is None else self._log_normaliser
        exact = kept(value)
        if isinstance(exact, LogFractions):
            log_prob = (a - 1) * exact.log_value + (b - 1) * exact.log_rest - normaliser
        else:
            value = at_least_single(value)
            log_prob = torch.xlogy(a - 1, value) + torch.special.xlog1py(b - 1, -value) - normaliser
        return log_prob.expand(broadcast_shape(value.shape, self.batch_shape))


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log B(a, b)`, the logarithm of the Beta function; in double precision, as its terms cancel."""
    first, second = a.double(), b.double()
    return (first.lgamma() + second.lgamma() - (first + second).lgamma()).to(a.dtype)
