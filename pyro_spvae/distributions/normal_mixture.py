# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of diagonal normals over the latent vector of a leaf, such as learned priors are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.circuits.numerics import at_least_single, is_recorded, log_sum_exp
from pyro_spvae.distributions.known import State
from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter, full_precision

if TYPE_CHECKING:
    from typing_extensions import Self

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)
_TOLERANCE = 1e-3  # nats; rounding errors of a log-density above this make the arithmetic change
_READABLE = ("cpu", "mps")  # devices where the arithmetic is chosen by a value: it is at hand, or nothing is in double


class LeafNormalMixture(LeafDistribution):
    r"""
    :math:`p(z) = \sum_k w_k \prod_d N(z_d; \mu_{kd}, \sigma_{kd}^2)` for every leaf, one event ``[value]``.

    Densities of all components are two matrix products, :math:`-\tfrac12 v^2 \cdot \sigma_k^{-2} + v \cdot \mu_k
    \sigma_k^{-2}` with :math:`v` and :math:`\mu` relative to the components' average, so that no tensor of all
    differences is made. Expanding the square loses digits where :math:`\mu / \sigma` is large: on the CPU the loss is
    estimated for the components that may be a value's likeliest, and where it may exceed 0.001 nats the same is
    computed in double precision, and where that is not enough, or there is none, by differences, one component at a
    time. Other devices would have to be waited for to read that estimate. They compute in double precision from the
    start (but ``"mps"``, which has none and does as the CPU), which loses less than 0.001 nats while means lie within
    two million standard deviations of their average.

    Components stand in front, so that the batch shape is that of the leaves.

    :param Tensor loc: means, ``[component, .., value]``.
    :param Tensor scale: standard deviations, same shape.
    :param Tensor log_weight: logarithms of weights that sum to one, ``[component, ..]``; ``None``: all alike.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor.
    :raises ValueError: if shapes do not fit, or, under validation, if a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafNormalMixture
        >>> loc = torch.tensor([[-1.0], [1.0]])  # two components, [component, value]
        >>> mixture = LeafNormalMixture(loc, torch.ones(2, 1))
        >>> mixture.mean, mixture.variance
        (tensor([0.]), tensor([2.]))
    """

    arg_constraints = {
        "loc": ParameterConstraint(constraints.real, 1),
        "scale": ParameterConstraint(constraints.positive, 1),
    }
    support = constraints.real_vector

    def __init__(
        self, loc: Tensor, scale: Tensor, log_weight: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        self._dtype = loc.dtype if isinstance(loc, Tensor) else None
        loc = checked_parameter("LeafNormalMixture", "loc", loc, 2)
        scale = checked_parameter("LeafNormalMixture", "scale", scale, 2)
        if loc.shape != scale.shape:
            raise ValueError(
                f"scale of LeafNormalMixture must have the shape of loc, {tuple(loc.shape)}, but its shape is "
                f"{tuple(scale.shape)}."
            )
        if log_weight is not None and log_weight.shape != loc.shape[:-1]:
            raise ValueError(
                f"log_weight of LeafNormalMixture must have the shape {tuple(loc.shape[:-1])}, but its shape is "
                f"{tuple(log_weight.shape)}."
            )
        self.loc, self.scale = loc, scale
        self.log_weight = None if log_weight is None else at_least_single(log_weight)
        self._kept: dict[Any, tuple[list[State], tuple[Tensor, ...]]] = {}  # shared by copies of a larger batch shape
        super().__init__(loc.shape[1:-1], loc.size(-1), None, validate_args)

    @property
    def num_components(self) -> int:
        """Number of components."""
        return self.loc.size(0)

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``."""
        return self._full(self._average(self.loc))

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        mean = self._average(self.loc)
        return self._full(self._average(self.scale.square() + (self.loc - mean).square()))

    def _average(self, value: Tensor) -> Tensor:
        if self.log_weight is None:
            return value.mean(0)
        return (self.log_weight.exp().unsqueeze(-1) * value).sum(0)

    def detach(self) -> Self:
        """The same distribution with its parameters cut from the graph."""
        new = super().detach()
        new.log_weight = None if self.log_weight is None else self.log_weight.detach()
        return new

    def component_log_prob(self, value: Tensor) -> Tensor:
        r"""
        :math:`\log w_k N(z; \mu_k, \sigma_k)`, nats.

        :param Tensor value: ``[.., value]``.
        :returns: ``[.., component]``.
        """
        value = at_least_single(value)
        shape = broadcast_shape(value.shape[:-1], self.loc.shape[1:-1])
        batch = self._own(shape)
        # batch first, as stacked networks leave latent values in memory
        v = value.expand(*shape, value.size(-1)).reshape(-1, math.prod(batch), value.size(-1)).transpose(0, 1)
        with full_precision(value):
            scores = self._score(v, batch)
        return scores.transpose(0, 1).reshape(*shape, self.num_components)

    def component_posterior(self, value: Tensor) -> Tensor:
        """
        Which component a value came from.

        :param Tensor value: ``[.., value]``.
        :returns: probabilities ``[.., component]``.
        """
        return self.component_log_prob(value).softmax(-1)

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws a component by its weight, then a value from it.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)[:-1]
            loc, scale, log_weight = self._flat(self._own(shape))
            component = torch.multinomial(log_weight.exp().t(), shape.numel() // loc.size(1), replacement=True)
            index = component.t().unsqueeze(-1).expand(-1, *loc.shape[1:])  # [N, batch, value]
            return torch.normal(loc.gather(0, index), scale.gather(0, index)).reshape(*shape, -1).to(self._dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        return log_sum_exp(self.component_log_prob(value))

    def _own(self, shape: torch.Size) -> torch.Size:
        """The dimensions of a larger batch shape in which the parameters have any, the innermost ones."""
        return shape[len(shape) - (self.loc.dim() - 2) :]

    def _score(self, v: Tensor, batch: torch.Size) -> Tensor:
        """Log-densities of all components, ``[batch, N, value]`` to ``[batch, N, component]``."""
        if v.device.type not in _READABLE or is_recorded():  # nor may a traced program ask for a value
            result, _ = _by_products(v.double(), *self._matrices(batch, torch.float64)[:-1])
            return result.to(v.dtype)
        for dtype in (v.dtype,) if v.dtype == torch.float64 or v.device.type == "mps" else (v.dtype, torch.float64):
            *matrices, squares = self._matrices(batch, dtype)
            result, quadratic = _by_products(v.to(dtype), *matrices)
            if bool(_rounding(result, quadratic, squares) <= _TOLERANCE):
                return result.to(v.dtype)
        return _by_differences(v, *self._flat(batch))

    def _flat(self, batch: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
        """Means and standard deviations ``[component, batch, value]``, and log-weights ``[component, batch]``."""
        k, size = self.num_components, math.prod(batch)
        loc, scale = (value.expand(k, *batch, value.size(-1)).reshape(k, size, -1) for value in (self.loc, self.scale))
        if self.log_weight is None:
            return loc, scale, loc.new_full((), -math.log(k)).expand(k, size)
        return loc, scale, self.log_weight.expand(k, *batch).reshape(k, size)

    def _matrices(self, batch: torch.Size, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """
        What depends on the components alone, kept where it has no gradient: their average ``[batch, 1, value]``,
        precisions and weighted means ``[batch, value, component]``, constants and the means' squares
        ``[batch, 1, component]``.
        """
        # what has a gradient is made anew: each user may go backward through it once
        keeps = not (torch.is_grad_enabled() and self._requires_grad())
        key = (batch, dtype, torch.is_inference_mode_enabled())
        given = [self.loc, self.scale] if self.log_weight is None else [self.loc, self.scale, self.log_weight]
        if keeps and key in self._kept:
            states, matrices = self._kept[key]
            if all(state.lasts(value) for state, value in zip(states, given, strict=True)):
                return matrices
        loc, scale, log_weight = (value.to(dtype) for value in self._flat(batch))
        centre = loc.mean(0, keepdim=True).detach()  # any centre gives the same density
        precision = scale.square().reciprocal()
        mean = loc - centre
        weighted = mean * precision
        squares = (mean * weighted).sum(-1)  # [K, batch]
        constant = log_weight - 0.5 * squares - scale.log().sum(-1) - loc.size(-1) * _HALF_LOG_TWO_PI
        products = (value.permute(1, 2, 0).contiguous() for value in (precision, weighted))
        matrices = centre.transpose(0, 1), *products, constant.t().unsqueeze(1), squares.detach().t().unsqueeze(1)
        if keeps:
            self._kept[key] = [State(value) for value in given], matrices
        return matrices

    def _requires_grad(self) -> bool:
        weighted = self.log_weight is not None and self.log_weight.requires_grad
        return weighted or self.loc.requires_grad or self.scale.requires_grad


def _by_products(
    v: Tensor, centre: Tensor, precision: Tensor, weighted: Tensor, constant: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-densities of all components, and the squares of the values in their units, ``[batch, N, component]``."""
    v = v - centre
    quadratic = torch.bmm(v.square(), precision)
    return torch.baddbmm(constant, v, weighted).sub(quadratic, alpha=0.5), quadratic


def _rounding(result: Tensor, quadratic: Tensor, squares: Tensor) -> Tensor:
    """How far off the largest log-density of a value may be by rounding, a scalar."""
    with torch.no_grad():
        eps = torch.finfo(result.dtype).eps
        # what each component may be at most: rounding may also hide the likeliest one behind another
        most = torch.add(result + eps * squares, quadratic, alpha=eps)
        return (most.amax(-1) - result.amax(-1)).max()


def _by_differences(v: Tensor, loc: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
    """The same, one component after the other."""
    columns = []
    for mean, deviation, weight in zip(loc, scale, log_weight, strict=True):  # [batch, value]
        whitened = (v - mean.unsqueeze(1)) / deviation.unsqueeze(1)
        constant = weight - deviation.log().sum(-1) - v.size(-1) * _HALF_LOG_TWO_PI
        columns.append(constant.unsqueeze(-1) - 0.5 * whitened.square().sum(-1))
    return torch.stack(columns, -1)
