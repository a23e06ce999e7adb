# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One of two distributions for each element of a batch, by a mask."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.kept import chosen


class Chosen(dist.MaskedMixture):
    """
    The second of two distributions where a mask holds, elsewhere the first, whose values the second takes too.

    Unlike :class:`pyro.distributions.MaskedMixture` it asks both about the value itself and not about an expanded one,
    of which nothing is known of what rounding has lost, and keeps that of what it draws; and its support is that of the
    second.

    :param Tensor mask: ``bool``, broadcastable to the batch shapes.
    :param first: a distribution.
    :param second: another of the same event shape.

    Example::

        >>> import pyro.distributions as dist
        >>> from pyro_spvae.distributions.chosen import Chosen
        >>> law = Chosen(torch.tensor([True, False]), dist.Normal(0.0, 1.0), dist.Normal(5.0, 2.0))
        >>> law.mean
        tensor([5., 0.])
    """

    mask: Any

    @constraints.dependent_property
    def support(self) -> Any:
        """That of the second."""
        return self.component1.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Chosen:
        """The same of a larger batch."""
        parts = (part.expand(batch_shape) for part in (self.component0, self.component1))
        return type(self)(self.mask.expand(batch_shape), *parts)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A draw, without gradient."""
        with torch.no_grad():
            return self._chosen(*(part.sample(sample_shape) for part in self._parts))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw whose gradient is that of the distribution that it is from."""
        return self._chosen(*(part.rsample(sample_shape) for part in self._parts))

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density of the distribution that the mask says."""
        if self._validate_args:
            self._validate_sample(value)
        second, first = (part.log_prob(value) for part in self._parts)
        return torch.where(self.mask, second, first)

    @property
    def _parts(self) -> tuple[Any, Any]:
        return self.component1, self.component0

    def _chosen(self, second: Tensor, first: Tensor) -> Tensor:
        mask = self.mask.reshape(self.mask.shape + (1,) * self.event_dim)
        return chosen(mask, second, first)
