# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distributions whose pixels follow one of torch's families, each with parameters of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.leaf import LeafDistribution, checked_parameter


class LeafElementwise(LeafDistribution):
    r"""
    Base class of distributions over one event ``[pixel]`` whose pixels follow one of torch's families,
    :math:`\log p(x) = \sum_j m_j \log p(x_j; \theta_j)`.

    Subclasses name their parameters in ``arg_constraints``, hand them to ``super().__init__`` and define
    :meth:`family`. Where normalisers of large parameters cancel, such as :math:`\log \Gamma`, they say so in
    :attr:`doubled`: these are computed in double precision and rounded once.

    :param dict parameters: by name, floating-point tensors ``[.., pixel]`` that broadcast against each other.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a parameter is invalid.

    Example::

        >>> from torch import distributions as td
        >>> from torch.distributions import constraints
        >>> from pyro_spvae.distributions import LeafElementwise
        >>> class LeafExponential(LeafElementwise):
        ...     arg_constraints = {"rate": constraints.independent(constraints.positive, 1)}
        ...     pixel_support = constraints.nonnegative
        ...
        ...     def __init__(self, rate, mask=None, *, validate_args=None):
        ...         super().__init__({"rate": rate}, mask, validate_args)
        ...
        ...     def family(self, rate):
        ...         return td.Exponential(rate)
        >>> LeafExponential(torch.ones(3)).log_prob(torch.ones(3))
        tensor(-3.)
    """

    #: whether densities, moments and draws are computed in double precision
    doubled: ClassVar[bool] = False
    #: of one pixel
    pixel_support: constraints.Constraint = constraints.real
    #: ends of the range of draws and modes, where 0 or 1 are outside of the support
    open_ends: ClassVar[tuple[float | None, float | None]] = (None, None)

    def __init__(self, parameters: dict[str, Any], mask: Tensor | None, validate_args: bool | None) -> None:
        name, given = type(self).__name__, list(parameters.values())
        self._dtype = given[0].dtype if isinstance(given[0], Tensor) else None
        for key, parameter in parameters.items():
            setattr(self, key, checked_parameter(name, key, parameter, 1))
        try:
            shape = broadcast_shape(*(getattr(self, key).shape for key in parameters))
        except ValueError:
            shapes = ", ".join(f"{key} {tuple(getattr(self, key).shape)}" for key in parameters)
            raise ValueError(f"parameters of {name} must broadcast, but their shapes are {shapes}.") from None
        super().__init__(shape[:-1], shape[-1], mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        """The distribution of single pixels, batch ``[.., pixel]``, of parameters in the order of their names."""
        raise NotImplementedError(f"{type(self).__name__} must define family(self, ...)")

    def _law(self) -> Any:
        found = (getattr(self, name) for name in self.arg_constraints)
        return self.family(*(parameter.double() if self.doubled else parameter for parameter in found))

    @property
    def _type(self) -> torch.dtype:
        """Of parameters, densities and moments."""
        return getattr(self, next(iter(self.arg_constraints))).dtype

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are in the family's support."""
        return self._support(self.pixel_support, constraints.independent(self.pixel_support, 1))

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``; the largest number of its type where it is larger."""
        return self._full(self._finite(self._law().mean))

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``; the largest number of its type where it is larger."""
        return self._full(self._finite(self._law().variance))

    @property
    def mode(self) -> Tensor:
        """
        The most probable value, ``batch_shape + event_shape``; the number next to it in the support where densities
        grow without limit towards an end of it.
        """
        return self._full(self._inside(self._mode(self._law()).to(self._type)))

    def _mode(self, law: Any) -> Tensor:
        found: Tensor = law.mode
        return found

    def _finite(self, moment: Tensor) -> Tensor:
        return moment.clamp(max=torch.finfo(self._type).max).to(self._type)

    def _inside(self, value: Tensor) -> Tensor:
        """Values moved to the nearest inside of an open support, to whose ends they may be rounded."""
        low, high = self.open_ends
        if low is None and high is None:
            return value
        limits = torch.finfo(value.dtype)
        return value.clamp(limits.tiny if low is not None else None, limits.max if high is None else 1 - limits.eps / 2)

    def _drawn(self, value: Tensor) -> Tensor:
        assert self._dtype is not None
        return self._inside(value.to(self._type).to(self._dtype))

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws that are differentiable in the parameters, where :attr:`has_rsample`.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``, in the type of the parameters as they were given.
        """
        law = self._law().expand(self._batch_shape + self._event_shape)
        return self._drawn(law.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """The same without derivatives."""
        with torch.no_grad():
            law = self._law().expand(self._batch_shape + self._event_shape)
            return self._drawn(law.sample(torch.Size(sample_shape)))

    def by_pixel(self, value: Tensor) -> Tensor:
        found: Tensor = self._law().log_prob(value.double() if self.doubled else value.to(self._type))
        return found.to(self._type)

    def _log_prob(self, value: Tensor) -> Tensor:
        if self.pixel_mask is None:
            return self.by_pixel(value).sum(-1)
        terms = self.by_pixel(torch.where(self.pixel_mask, value, self.filler))
        return torch.where(self.pixel_mask, terms, 0.0).sum(-1)

    def entropy(self) -> Tensor:
        """
        :returns: entropy over the pixels that count, ``batch_shape``, nats.
        :raises NotImplementedError: for a family without a closed form.
        """
        terms = self._law().entropy().to(self._type)
        return self._sum_event(terms).expand(self.batch_shape)
