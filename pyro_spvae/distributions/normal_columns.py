# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distribution of the columns of a table of which some are jointly Normal, up to their units or logarithms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.distributions.autoregressive import pixel_summaries
from pyro_spvae.distributions.correlated import LeafCorrelatedNormal
from pyro_spvae.distributions.leaf import LeafDistribution


@dataclass(frozen=True, eq=False)
class Coordinates:
    r"""
    What is jointly Normal of the values of an event: :math:`z_j = (x_j - m_j) / s_j`, or :math:`(\log x_j - m_j) / s_j`
    of positive values.

    :ivar Tensor location: :math:`m`, ``[leaf, pixel]`` or a part of it that broadcasts.
    :ivar Tensor scale: :math:`s`, likewise.
    :ivar Tensor logs: of which values logarithms are taken, ``bool``; ``None`` for none.
    :ivar Tensor joint: which values are, ``bool``; ``None`` for all.

    Example::

        >>> from pyro_spvae.distributions import Coordinates, LeafMultivariateNormal, LeafNormalColumns
        >>> coordinates = Coordinates(location=torch.tensor([170.0, 60.0]), scale=torch.tensor([10.0, 5.0]))  # cm, kg
        >>> law = LeafNormalColumns(LeafMultivariateNormal(torch.zeros(2), torch.eye(2)), coordinates)
        >>> law.mean  # in the values' own units
        tensor([170.,  60.])
    """

    location: Tensor
    scale: Tensor
    logs: Tensor | None = None
    joint: Tensor | None = None

    def inside(self, mask: Tensor | None) -> Tensor | None:
        """Of a mask what has coordinates."""
        return mask if self.joint is None else self.joint if mask is None else mask & self.joint

    def outside(self, mask: Tensor | None) -> Tensor:
        """Of a mask what has none."""
        assert self.joint is not None
        return ~self.joint if mask is None else mask & ~self.joint

    def of(self, x: Tensor) -> Tensor:
        """Coordinates of values ``[.., pixel]``, finite where values are in the support."""
        return (self._logarithm(x) - self.location) / self.scale

    def values(self, z: Tensor) -> Tensor:
        """The values of coordinates."""
        x = torch.addcmul(self.location, self.scale, z)
        return x if self.logs is None else torch.where(self.logs, torch.where(self.logs, x, 0.0).exp(), x)

    def log_slope(self, x: Tensor) -> Tensor:
        r""":math:`\log |dz_j / dx_j|`, ``[.., pixel]``."""
        slope = -self.scale.log()
        return slope if self.logs is None else slope - torch.where(self.logs, self._logarithm(x), 0.0)

    def _logarithm(self, x: Tensor) -> Tensor:
        if self.logs is None:
            return x
        return torch.where(self.logs, torch.where(self.logs & (x > 0), x, 1.0).log(), x)


class LeafNormalColumns(LeafDistribution):
    r"""
    Values of which some are jointly Normal in coordinates of their own, and the others independent of them and of each
    other, one event ``[pixel]``; in the units of the values,

    .. math::
        \log p(x) = \log N(z(x); \mu, \Sigma) + \sum_{j\ \mathrm{joint}} m_j \log |dz_j / dx_j|
        + \sum_{j\ \mathrm{other}} m_j \log p_j(x_j).

    :param LeafCorrelatedNormal normal: of coordinates, whose mask counts joint values alone.
    :param Coordinates coordinates: which those are, and how.
    :param LeafDistribution others: of the others, independent of each other, whose mask counts these alone; ``None`` if
        there are none.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the value counts.
    :param bool validate_args: whether to check values; None follows Pyro's global switch.
    :raises TypeError: if ``mask`` is no bool tensor.
    :raises ValueError: if it does not broadcast.

    Example::

        >>> from pyro_spvae.data import Column
        >>> from pyro_spvae.distributions import LeafNormalColumns
        >>> height = Column("height", "real", location=170.0, scale=10.0)
        >>> sex = Column("sex", "binary", categories=("f", "m"))
        >>> mixture = SPN(whole(2), units=1, leaves=3, leaf=GaussianLeaf(likelihood=Columns([height, sex])))
        >>> law = mixture.leaf.law()
        >>> isinstance(law, LeafNormalColumns), law.batch_shape, law.event_shape
        (True, torch.Size([3]), torch.Size([2]))
    """

    def __init__(
        self,
        normal: LeafCorrelatedNormal,
        coordinates: Coordinates,
        others: LeafDistribution | None = None,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.normal, self.coordinates, self.others = normal, coordinates, others
        batch = normal.batch_shape if others is None else broadcast_shape(normal.batch_shape, others.batch_shape)
        super().__init__(batch, normal.event_shape[0], mask, validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of all values are differentiable in their parameters."""
        return self.others is None or bool(self.others.has_rsample)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """Values that count are in the support of their column's family."""
        return NormalColumnsConstraint(self)

    @property
    def mean(self) -> Tensor:
        r"""Mean, ``batch_shape + event_shape``; of logarithms with mean m and variance v, :math:`e^{m + v / 2}`."""
        return self._beside(self._normal_mean(), lambda law: law.mean)

    def summary(self, value: Tensor) -> Tensor:
        """Means, and of categories without an order the most probable one, ``batch_shape + event_shape``."""
        return self._beside(self._normal_mean(), lambda law: pixel_summaries(law, value))

    @property
    def mode(self) -> Tensor:
        r"""
        The most probable values together, ``batch_shape + event_shape``: of a joint density in the units of the values,
        coordinates :math:`\mu - \Sigma s_{\log}`, since those of logarithms have the slope of the exponential.
        """
        z = self.normal.mean
        if self.coordinates.logs is not None:
            counted = self.normal.pixel_mask
            slope = self.coordinates.scale * self.coordinates.logs
            z = z - self.normal.covariance_times(slope if counted is None else slope * counted)
        return self._beside(self.coordinates.values(z), lambda law: law.mode)

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        scale = self.coordinates.scale
        variance = scale.square() * self.normal.variance
        if self.coordinates.logs is not None:
            logs = self.coordinates.logs
            of_logs = torch.where(logs, variance, 0.0).expm1() * torch.where(logs, self._normal_mean(), 0.0).square()
            variance = torch.where(logs, of_logs, variance)
        return self._beside(variance, lambda law: law.variance)

    def given_seen(self, value: Tensor, seen: Tensor) -> LeafNormalColumns:
        """The same of the values that are not seen, given those that are; which count no longer."""
        new: Any = self.expand(broadcast_shape(self._batch_shape, value.shape[:-1], seen.shape[:-1]))
        new.pixel_mask = ~seen if self.pixel_mask is None else self.pixel_mask & ~seen
        known = self.coordinates.inside(seen)
        assert known is not None
        new.normal = self.normal.given_seen(self.coordinates.of(value), known)
        if self.others is not None:  # which do not depend on each other
            new.others = self.others.expand(new.batch_shape)
            new.others.pixel_mask = self.coordinates.outside(new.pixel_mask)
        return new

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws that are differentiable in the parameters.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        :raises NotImplementedError: unless :attr:`has_rsample`.
        """
        if not self.has_rsample:
            raise NotImplementedError("rsample of LeafNormalColumns needs columns of real values alone.")
        drawn = self.normal.expand(self._batch_shape).rsample(sample_shape)
        return self._beside(self.coordinates.values(drawn), lambda law: law.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """The same of any families, without derivatives."""
        with torch.no_grad():
            drawn = self.coordinates.values(self.normal.expand(self._batch_shape).sample(torch.Size(sample_shape)))
            return self._beside(drawn, lambda law: law.sample(torch.Size(sample_shape)))

    def detach(self) -> Self:
        """The same distribution with its parameters cut from the graph."""
        new = self.expand(self.batch_shape)
        new.normal = self.normal.detach()
        new.others = None if self.others is None else self.others.detach()
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        coordinates, inside = self.coordinates, self.coordinates.inside(self.pixel_mask)
        filled = value if inside is None else torch.where(inside, value, 1.0)
        slope = coordinates.log_slope(filled)
        slope = slope if inside is None else slope * inside
        slope = slope.expand(*slope.shape[:-1], self._event_shape[0])
        total = self.normal.log_prob(coordinates.of(filled)) + slope.sum(-1)
        return total if self.others is None else total + self.others.log_prob(value)

    def _normal_mean(self) -> Tensor:
        coordinates, z = self.coordinates, self.normal.mean
        if coordinates.logs is None:
            return coordinates.values(z)
        half = 0.5 * coordinates.scale * self.normal.variance
        return coordinates.values(z + torch.where(coordinates.logs, half, 0.0))

    def _beside(self, values: Tensor, of_others: Callable[[Any], Tensor]) -> Tensor:
        """Joint values, and what the others' distribution says in their places."""
        shape = broadcast_shape(values.shape, (*self._batch_shape, *self._event_shape))
        if self.others is None:
            joint = self.coordinates.joint
            return (values if joint is None else torch.where(joint, values, 0.0)).expand(shape)
        other = of_others(self.others.expand(self._batch_shape)).to(values.dtype)
        return torch.where(self.coordinates.joint, values, other).expand(shape)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"LeafNormalColumns({self.normal!r}, {self.others!r})"


class NormalColumnsConstraint(constraints.Constraint):
    """
    Each value that counts is in the support of its column's family.

    :param LeafNormalColumns law: the distribution.
    """

    event_dim = 1

    def __init__(self, law: LeafNormalColumns) -> None:
        self.law = law
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """:returns: bool ``[..]``, whether each event of ``value`` ``[.., pixel]`` is valid."""
        logs, inside = self.law.coordinates.logs, self.law.coordinates.inside(self.law.pixel_mask)
        fine = value.isfinite() if logs is None else value.isfinite() & ((value > 0) | ~logs)
        fine = (fine if inside is None else fine | ~inside).all(-1)
        others: Any = self.law.others
        return fine if others is None else fine & others.support.check(value)
