# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Broken sticks as priors of mixture weights: a Dirichlet process, cut off, or a Dirichlet distribution."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.distributions import Beta, StickWeights
from pyro_spvae.distributions.beta import log_beta
from pyro_spvae.priors.prior import Prior


class Sticks(Prior):
    r"""
    Independent fractions :math:`v_1, .., v_{K-1}` of what is left of a stick, whose K pieces are the weights of a
    mixture, see :func:`pyro_spvae.distributions.log_stick_weights`.

    With ``alpha0``, :math:`v_k \sim \mathrm{Beta}(1, \alpha_0)`: the weights of a Dirichlet process (Sethuraman 1994),
    the last of which takes what is left. With ``alpha``, :math:`v_k \sim \mathrm{Beta}(\alpha, (K - k) \alpha)`: those
    of a symmetric Dirichlet distribution. No parameters.

    :param float alpha0: concentration of the process, 1 by default; the expected number of pieces in use grows with it.
    :param float alpha: concentration of the Dirichlet distribution, in its place.
    :raises ValueError: if one is not positive, or both are given.

    Example::

        >>> from pyro_spvae.priors import Sticks
        >>> fractions = Sticks(alpha=1.0).bind(leaves=2, event_shape=(3,))()
        >>> fractions.mean.round(decimals=4)  # of what is left: pieces of a quarter each
        tensor([0.2500, 0.3333, 0.5000])
    """

    support: Any = constraints.unit_interval
    single_buffers = ("_first", "_second", "_log_normaliser")
    _first: Tensor
    _second: Tensor
    _log_normaliser: Tensor
    _reference: Tensor

    def __init__(self, alpha0: float | None = None, alpha: float | None = None) -> None:
        super().__init__()
        if alpha0 is not None and alpha is not None:
            raise ValueError("alpha0 and alpha are both given; give that of a Dirichlet process or of a distribution")
        for name, value in (("alpha0", alpha0), ("alpha", alpha)):
            if value is not None and (not checks.is_number(value) or value <= 0):
                raise ValueError(f"{name} is {value!r}; a positive number is needed")
        self.alpha0, self.alpha = alpha0, alpha

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        """Both concentrations of each fraction, which follow from the options, and normalisers; ``[K - 1]``."""
        count = self._fractions(event_shape)
        ones = torch.ones(count)
        if self.alpha is None:
            first, second = ones, ones * (1.0 if self.alpha0 is None else self.alpha0)
        else:
            first, second = self.alpha * ones, self.alpha * torch.arange(count, 0, -1).to(ones)  # pieces behind each
        self.register_buffer("_first", first, persistent=False)
        self.register_buffer("_second", second, persistent=False)
        self.register_buffer("_log_normaliser", log_beta(first, second), persistent=False)
        self.register_buffer("_reference", torch.empty(0), persistent=False)  # of the type of draws

    def _fractions(self, event_shape: tuple[int, ...]) -> int:
        """Number of fractions of a value."""
        if len(event_shape) != 1:
            name = type(self).__name__
            raise ValueError(f"{name} is a prior of vectors, but the latent variable has the shape {list(event_shape)}")
        return event_shape[0]

    def forward(self) -> TorchDistribution:
        dtype = self._reference.dtype
        return Beta(self._first, self._second, log_normaliser=self._log_normaliser, dtype=dtype).to_event(1)


class StickBreaking(Sticks):
    """
    The weights themselves as the latent variable, on the simplex: the prior of the stick-breaking VAE (Nalisnick and
    Smith 2017). Options are those of :class:`Sticks`.

    Example::

        >>> from pyro_spvae.priors import StickBreaking
        >>> prior = StickBreaking(alpha0=5.0).bind(leaves=2, event_shape=(4,))
        >>> weights = prior().sample((10,))
        >>> weights.shape, bool(torch.allclose(weights.sum(-1), torch.ones(())))
        (torch.Size([10, 4]), True)
    """

    support = constraints.simplex

    def _fractions(self, event_shape: tuple[int, ...]) -> int:
        count = super()._fractions(event_shape) - 1
        if count < 1:
            raise ValueError("a stick of one piece is given; at least two are needed")
        return count

    def forward(self) -> TorchDistribution:
        return StickWeights(super().forward())
