# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Discretised logistic leaf distribution: independent grey levels, each the bin that a logistic variable falls in."""

from __future__ import annotations

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter, type_of_levels
from pyro_spvae.distributions.logistic_bins import (
    EDGES,
    checked_levels,
    level_variance,
    log_mass,
    mean_level,
    sample_bins,
)


class LeafDiscretizedLogistic(LeafDistribution):
    r"""
    Independent pixels on the integers :math:`0..V-1`, one event ``[pixel]``. Level :math:`v` stands for the bin
    :math:`[v/V, (v+1)/V)` of a logistic variable with mean :math:`\mu` and scale :math:`s`, both in units of [0, 1].
    With :math:`a_v = (v/V - \mu)/s` and :math:`d = 1/(Vs)` the mass of a bin is

    .. math::
        \operatorname{sigmoid}(a_v + d) - \operatorname{sigmoid}(a_v)
        = \operatorname{sigmoid}(a_v + d) \operatorname{sigmoid}(-a_v) (1 - e^{-d}),

    of which the right-hand side keeps its relative accuracy however far out the bin lies.

    - ``edges="tails"``: the first bin reaches down to :math:`-\infty` and the last one up to :math:`\infty`, so that
      the masses sum to 1 (Kingma et al. 2016; Salimans et al. 2017).
    - ``edges="truncated"``: the form of the VampPrior paper's code (Tomczak and Welling 2018), the logarithm of the
      mass above plus 1e-7, in all bins alike. What the logistic has outside of [0, 1] belongs to no bin, so that the
      masses sum to less than 1 (to 0.54 at :math:`\mu = 1/512`, :math:`s = e^{-4.5}`, to 0.24 at :math:`\mu = 1/2`,
      :math:`s = 1`), and log-likelihoods are lower bounds of those of the normalised masses (but for the 1e-7, which
      adds up to 2.6e-5 nats a pixel of 256 levels where nothing lies outside).

    The two differ in ``log_prob`` and :attr:`mode` alone. Draws, and their :attr:`mean` and :attr:`variance`, are in
    both those of a logistic variable, moved to the nearest bin where it lies outside of [0, 1): the masses of
    ``"tails"``, to which ``"truncated"`` gives no law of its own.

    :param torch.Tensor loc: mean :math:`\mu`, ``[.., pixel]``.
    :param torch.Tensor log_scale: :math:`\log s`, any shape that broadcasts against ``loc``.
    :param int levels: number of levels :math:`V`, at least 2.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param str edges: ``"tails"`` or ``"truncated"``.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, ``levels`` no int, or ``mask`` no bool tensor.
    :raises ValueError: if ``levels`` is below 2, ``edges`` is unknown, shapes do not broadcast, or, under validation,
        a parameter is NaN.

    Example::

        >>> from pyro_spvae.distributions import LeafDiscretizedLogistic
        >>> law = LeafDiscretizedLogistic(torch.tensor([0.5]), torch.tensor([-2.0]), levels=16)
        >>> round(law.log_prob(torch.arange(16.0).unsqueeze(-1)).exp().sum().item(), 4)
        1.0
    """

    arg_constraints = {
        "loc": ParameterConstraint(constraints.real, 1),
        "log_scale": ParameterConstraint(constraints.real, 1),
    }

    def __init__(
        self,
        loc: Tensor,
        log_scale: Tensor,
        levels: int = 256,
        mask: Tensor | None = None,
        edges: str = "tails",
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.levels = checked_levels("LeafDiscretizedLogistic", levels)
        if edges not in EDGES:
            raise ValueError(
                f"edges of LeafDiscretizedLogistic must be one of {', '.join(EDGES)}, but {edges!r} was given."
            )
        self.loc = checked_parameter("LeafDiscretizedLogistic", "loc", loc, 1)
        self.log_scale = checked_parameter("LeafDiscretizedLogistic", "log_scale", log_scale, 0)
        self._dtype = type_of_levels(loc.dtype, self.levels)
        try:
            *batch_shape, event_size = broadcast_shape(loc.shape, log_scale.shape)
        except ValueError:
            raise ValueError(
                f"log_scale of LeafDiscretizedLogistic must broadcast against loc of shape {tuple(loc.shape)}, "
                f"but its shape is {tuple(log_scale.shape)}."
            ) from None
        self.edges = edges
        super().__init__(batch_shape, event_size, mask, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are integers from 0 to ``levels - 1``."""
        pixel = constraints.integer_interval(0, self.levels - 1)
        return self._support(pixel, constraints.independent(pixel, 1))

    @property
    def mean(self) -> Tensor:
        r"""Mean of draws, :math:`\sum_{v \ge 1} P(x \ge v)`, ``batch_shape + event_shape``."""
        return self._full(mean_level(self.loc, self.log_scale, self.levels))

    @property
    def variance(self) -> Tensor:
        """Variance of draws, ``batch_shape + event_shape``."""
        return self._full(level_variance(self.loc, self.log_scale, self.levels))

    @property
    def mode(self) -> Tensor:
        """
        The most probable level, ``batch_shape + event_shape``: the bin of the mean, or an edge bin whose tail weighs
        more.
        """
        with torch.no_grad():
            last = self.levels - 1
            loc, log_scale = torch.broadcast_tensors(self.loc, self.log_scale)
            own = (loc * self.levels).floor().clamp(0, last)
            if self.edges == "truncated":
                return self._full(own)
            inner = own.clamp(min(1, last), max(1, last - 1))
            level = torch.stack([inner, torch.zeros_like(inner), torch.full_like(inner, last)])
            mass = log_mass(level, loc, log_scale, None, self.levels, self.edges, summed=False)
            return self._full(level.gather(0, mass.argmax(0, keepdim=True)).squeeze(0))

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draw levels, in the dtype of the parameters: the bins of logistic variables, the first or the last for those
        outside of [0, 1).

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            return sample_bins(self.loc, self.log_scale, self.levels, shape).to(self._dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        value = self._fill(value.to(self.loc.dtype))
        weight = None if self.pixel_mask is None else self.pixel_mask.to(self.loc.dtype)
        return log_mass(value, self.loc, self.log_scale, weight, self.levels, self.edges)
