# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What leaf distributions of correlated Normal values share, and the patterns of a mask."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.circuits.numerics import at_least_single, is_recorded
from pyro_spvae.distributions.leaf import LeafDistribution

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class LeafCorrelatedNormal(LeafDistribution):
    r"""
    Base class of Normal distributions :math:`N(\mu, \Sigma)` of an event ``[pixel]`` whose values depend on each other.

    With a mask the density is that of the values that count, whose distribution is :math:`N(\mu_s, \Sigma_{ss})`: the
    exact marginal, of a mask of each datum too.

    Subclasses define :meth:`given_seen`, :meth:`covariance_times`, ``variance``, ``rsample`` and ``_log_prob``.
    """

    support = constraints.real_vector
    has_rsample = True
    loc: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``."""
        return self._full(self.loc)

    @property
    def mode(self) -> Tensor:
        """The mean, ``batch_shape + event_shape``."""
        return self.mean

    def given_seen(self, value: Tensor, seen: Tensor) -> Self:
        """
        The Normal distribution of the values that are not seen given those that are. Seen values count no longer, and
        what is drawn in their place means nothing.

        :param torch.Tensor value: ``[.., pixel]``; hidden values may be anything.
        :param torch.Tensor seen: ``bool``, broadcastable to it, True = seen.
        """
        raise NotImplementedError(f"{type(self).__name__} must define given_seen")

    def covariance_times(self, vector: Tensor) -> Tensor:
        r"""The product :math:`\Sigma v` with vectors ``[.., pixel]``."""
        raise NotImplementedError(f"{type(self).__name__} must define covariance_times")

    def _difference(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """Values less their mean, 0 where they do not count, whatever stands there."""
        if mask is None:
            return value - self.loc
        return (torch.where(mask, value, 0.0) - self.loc) * mask

    def _wide(self, mask: Tensor) -> Tensor:
        """A mask of every value, where it may be one for all values of an event."""
        return mask.expand(*mask.shape[:-1], self._event_shape[0])

    def _hiding(self, seen: Tensor, value: Tensor) -> Any:
        """A copy whose batch is that of the seen values too, and in which these count no longer."""
        new: Any = self.expand(broadcast_shape(self._batch_shape, value.shape[:-1], seen.shape[:-1]))
        new.pixel_mask = ~seen if self.pixel_mask is None else self.pixel_mask & ~seen
        return new

    def _seen_value(self, value: Tensor, seen: Tensor) -> Tensor:
        """Finite values, in the type of densities."""
        return torch.where(seen, at_least_single(value), 0.0).to(self.loc.dtype)

    def _log_normalizer(self, mask: Tensor | None) -> Tensor | float:
        r"""Of a standard Normal distribution of the values that count, :math:`\tfrac{n}{2} \log 2 \pi`."""
        if mask is None:
            return self._event_shape[0] * HALF_LOG_TWO_PI
        return mask.sum(-1).to(self.loc.dtype) * HALF_LOG_TWO_PI


class Patterns:
    """
    Which pairs of parameters and mask there are in a batch, so that what follows from them is computed once for each.

    :param Tensor mask: ``bool [.., pixel]``.
    :param Size batch_shape: of the parameters.
    :ivar Tensor parameter: of each pair the number of the parameters in their flattened batch, int64 ``[pair]``.
    :ivar Tensor mask: of each pair, ``[pair, pixel]``.
    """

    def __init__(self, mask: Tensor, batch_shape: torch.Size) -> None:
        shape = torch.Size(broadcast_shape(mask.shape[:-1], batch_shape))
        number = torch.arange(batch_shape.numel(), device=mask.device).reshape(batch_shape).expand(shape).reshape(-1)
        flat = mask.expand(*shape, mask.size(-1)).reshape(len(number), -1)
        self._shape, self._pair = shape, None
        # what occurs is known by looking at values, which a tracer may not, and of the meta device there are none
        if len(number) > batch_shape.numel() and not (mask.is_meta or is_recorded()):
            bits = torch.cat([number.unsqueeze(-1), flat.long()], -1)
            pairs, self._pair = bits.unique(dim=0, return_inverse=True)
            number, flat = pairs[:, 0], pairs[:, 1:].bool()
        self.parameter, self.mask = number, flat

    def of_parameters(self, values: Tensor, event_dim: int) -> Tensor:
        """Parameters ``[*batch_shape, *event]`` as those of each pair, ``[pair, *event]``."""
        return values.reshape(-1, *values.shape[values.dim() - event_dim :]).index_select(0, self.parameter)

    def spread(self, values: Tensor) -> Tensor:
        """What was found for each pair, ``[pair, *event]``, for the whole batch, ``[.., *event]``."""
        values = values if self._pair is None else values.index_select(0, self._pair)
        return values.reshape(*self._shape, *values.shape[1:])

    def total(self, weights: Tensor) -> Tensor:
        """Weights ``[..]`` of the whole batch, added up to those of each pair, ``[pair]``."""
        weights = weights.expand(self._shape).reshape(-1)
        if self._pair is None:
            return weights
        return weights.new_zeros(len(self.parameter)).index_add(0, self._pair, weights)
