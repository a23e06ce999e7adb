# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Categorical leaf distribution: independent pixels over a few unordered levels."""

from __future__ import annotations

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.leaf import (
    LeafDistribution,
    ParameterConstraint,
    checked_parameter,
    full_precision,
    type_of_levels,
)


class LeafCategorical(LeafDistribution):
    r"""
    Independent Categorical pixels, one event ``[pixel]`` of integers :math:`0..V-1`,

    .. math:: \log p(x) = \sum_j m_j \left[\ell_{j, x_j} - \log \sum_v \exp \ell_{j, v}\right].

    :param torch.Tensor logits: unnormalised log-probabilities :math:`\ell`, ``[.., pixel, level]``.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if ``logits`` is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if ``logits`` has fewer than 2 dimensions, if shapes do not broadcast, or, under validation,
        if a logit is NaN.

    Example::

        >>> from pyro_spvae.distributions import LeafCategorical
        >>> law = LeafCategorical(torch.zeros(2, 4))  # two pixels of four levels
        >>> law.log_prob(torch.tensor([0.0, 3.0])).exp().round(decimals=4)
        tensor(0.0625)
    """

    arg_constraints = {"logits": ParameterConstraint(constraints.real, 2)}

    def __init__(self, logits: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None) -> None:
        self.logits = checked_parameter("LeafCategorical", "logits", logits, 2)
        self._dtype = type_of_levels(logits.dtype, self.num_levels)
        super().__init__(logits.shape[:-2], logits.shape[-2], mask, validate_args)

    @property
    def num_levels(self) -> int:
        """Number of levels a pixel can take."""
        return self.logits.shape[-1]

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are integers from 0 to ``num_levels - 1``."""
        pixel = constraints.integer_interval(0, self.num_levels - 1)
        return self._support(pixel, constraints.independent(pixel, 1))

    @property
    def probs(self) -> Tensor:
        """Probability of each level, un-expanded ``[.., pixel, level]``."""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        """Mean of the level's number, ``batch_shape + event_shape``."""
        with full_precision(self.logits):
            return self._full(self.probs @ self._levels())

    @property
    def mode(self) -> Tensor:
        """The most probable level, ``batch_shape + event_shape``."""
        return self._full(self.logits.argmax(-1).to(self.logits.dtype))

    @property
    def variance(self) -> Tensor:
        """Variance of the level's number, ``batch_shape + event_shape``."""
        probs, levels = self.probs, self._levels()
        with full_precision(probs):
            mean = probs @ levels
        return self._full((probs * (levels - mean.unsqueeze(-1)).square()).sum(-1))

    def _levels(self) -> Tensor:
        return torch.arange(self.num_levels, dtype=self.logits.dtype, device=self.logits.device)

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draw levels, as numbers in the dtype of the logits (images are floating-point tensors throughout): the first at
        which the cumulative probability exceeds a uniform number, so that draws of the same parameters share a table.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            own = self.logits.shape[:-1]
            shared = shape[len(shape) - len(own) :] == own
            table = self._cumulative(self.probs if shared else self._expanded(self.probs))  # [E, level]
            places = self._places(table[:, -1:], shape.numel() // max(1, len(table)))
            draws = torch.searchsorted(table, places, right=True)  # [E, draw]
            return draws.t().reshape(shape).to(self._dtype)

    def sample_selected(self, selected: Tensor) -> Tensor:
        own = self.logits.shape[:-1]
        batch = self.batch_shape + self.event_shape
        if batch[len(batch) - len(own) :] != own:
            return self.sample()
        with torch.no_grad():
            table = self._cumulative(self.probs)  # [E, level]
            entry = selected.unsqueeze(-1).expand(batch).reshape(-1).nonzero().squeeze(-1)  # [draw]
            row = entry % len(table)
            places = self._places(table[row, -1:], 1).squeeze(-1)
            level, first = torch.zeros_like(row), row * self.num_levels
            size = 1 << (self.num_levels.bit_length() - 1)
            while size:  # so many of a row's numbers as are not above the place, bit by bit
                more = level + size
                above = table.view(-1)[first + more.clamp(max=self.num_levels) - 1] > places  # as the last always is
                level = torch.where(above, level, more)
                size //= 2
            draws = table.new_zeros(batch.numel(), dtype=self._dtype)
            return draws.index_copy_(0, entry, level.to(draws.dtype)).view(batch)

    def _cumulative(self, probs: Tensor) -> Tensor:
        """
        :returns: cumulative probabilities of each pixel with parameters of its own, ``[E, level]``.
        :raises ValueError: if there are none.
        """
        table = probs.flatten(0, -2).cumsum(-1)
        if not table.is_meta and not bool(table[:, -1].isfinite().all()):
            raise ValueError("logits of LeafCategorical must be finite or -inf, but from some follow no probabilities.")
        return table

    @staticmethod
    def _places(total: Tensor, number: int) -> Tensor:
        """Uniform numbers from 0 to below the total also after rounding, so that no level of probability 0 is met."""
        places = torch.rand(len(total), number, dtype=total.dtype, device=total.device) * total
        return torch.minimum(places, total * (1 - torch.finfo(total.dtype).eps))

    def _expanded(self, parameter: Tensor) -> Tensor:
        return parameter.expand(*self.batch_shape, *self.event_shape, self.num_levels)

    def by_pixel(self, value: Tensor) -> Tensor:
        own = self.logits.shape[:-1]
        if value.dim() > len(own) and value.shape[-len(own) :] == own:
            return self._looked_up(value.long())
        index = value.long().unsqueeze(-1)  # [.., pixel, 1]
        # Below a vector register's width, torch is 3 to 6 times faster along a leading dimension.
        few = self.num_levels < 16
        log_probs = self.logits.movedim(-1, 0).log_softmax(0).movedim(0, -1) if few else self.logits.log_softmax(-1)
        # gather() needs equal batch shapes; expand() makes views, so neither side is copied.
        shape = broadcast_shape(index.shape[:-1], log_probs.shape[:-1])
        chosen = log_probs.expand(*shape, self.num_levels).gather(-1, index.expand(*shape, 1))
        return chosen.squeeze(-1)

    def _looked_up(self, value: Tensor) -> Tensor:
        """Of many values for each of the parameters: one table of log-probabilities, whose gradient is a table too."""
        table = self.logits.log_softmax(-1).flatten(0, -2)  # [E, level]
        return table.gather(1, value.reshape(-1, len(table)).t()).t().reshape(value.shape)

    def _log_prob(self, value: Tensor) -> Tensor:
        # Filled rather than weighed: an impossible level at a masked-out pixel is -inf.
        log_probs = self._fill(self.by_pixel(self._fill(value)))
        return log_probs.squeeze(-1) if log_probs.size(-1) == 1 else log_probs.sum(-1)

    def entropy(self) -> Tensor:
        """:returns: entropy over the pixels that count, ``batch_shape``, nats."""
        log_probs = self.logits.log_softmax(-1)
        # A level of probability 0 has log-probability -inf, whose product with 0 must be 0.
        finite = log_probs.clamp(min=torch.finfo(log_probs.dtype).min)
        return self._sum_event(-(log_probs.exp() * finite).sum(-1)).expand(self.batch_shape)


class LeafNominal(LeafCategorical):
    """
    Categories without an order: numbers of names, whose mean says nothing. Where an answer is no draw, such as an
    imputation by means, the most probable category stands in its place, see
    :func:`pyro_spvae.distributions.autoregressive.pixel_summaries`.

    :param torch.Tensor logits: and the others as of :class:`LeafCategorical`.

    Example::

        >>> from pyro_spvae.distributions import LeafNominal
        >>> LeafNominal(torch.tensor([[0.0, 2.0, 1.0]])).mode  # the most probable category
        tensor([1.])
    """

    def summary(self, value: Tensor) -> Tensor:
        """The most probable category, ``batch_shape + event_shape``, whatever was drawn."""
        return self.mode
