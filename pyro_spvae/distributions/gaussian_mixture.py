# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of diagonal normals given data, with draws that are differentiable in all parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints

from pyro_spvae.circuits.numerics import at_least_single, by_hand, log_sum_exp
from pyro_spvae.distributions.known import Known
from pyro_spvae.distributions.leaf import checked_growth, full_precision, summed_to

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_ROOT_HALF = math.sqrt(0.5)
_PEAK = math.sqrt(2 / math.pi)  # of the derivative of erf(u / sqrt(2))


class LeafGaussianMixture(TorchDistribution):
    r"""
    :math:`p(z) = \sum_k \pi_k \prod_d N(z_d; \mu_{kd}, \sigma_{kd}^2)` with parameters of each datum, one event
    ``[value]``; of few components, all of which are looked at by differences.

    Draws have gradients by implicit reparameterisation (Figurnov, Mohamed and Mnih 2018): the conditional distribution
    functions :math:`S_d(z_d \mid z_{<d})` of a draw are uniform noise that does not depend on the parameters, so that

    .. math:: \frac{dz}{d\phi} = - \Big(\frac{\partial S}{\partial z}\Big)^{-1} \frac{\partial S}{\partial \phi}

    with a triangular matrix. The component of a draw is not known to it: draws are those of the mixture. A draw keeps
    what it is in the units of components, for its own density and gradient; derivatives are written by hand.

    :param Tensor loc: means, ``[.., component, value]``.
    :param Tensor scale: standard deviations, broadcastable with it.
    :param Tensor log_weight: logarithms of weights that sum to one, ``[.., component]``.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises ValueError: if shapes do not fit.

    Example::

        >>> from pyro_spvae.distributions import LeafGaussianMixture
        >>> loc, log_weight = torch.randn(5, 2, 3, 8), torch.zeros(5, 2, 3).log_softmax(-1)
        >>> LeafGaussianMixture(loc, torch.ones_like(loc), log_weight).rsample().shape
        torch.Size([5, 2, 8])
    """

    arg_constraints = {
        "loc": constraints.independent(constraints.real, 2),
        "scale": constraints.independent(constraints.positive, 2),
        "log_weight": constraints.real_vector,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, log_weight: Tensor, validate_args: bool | None = None) -> None:
        if loc.dim() < 2 or scale.shape[-2:] != loc.shape[-2:] or log_weight.shape[-1:] != loc.shape[-2:-1]:
            raise ValueError(
                f"loc, scale and log_weight have the shapes {list(loc.shape)}, {list(scale.shape)} and "
                f"{list(log_weight.shape)}; [.., component, value] twice and [.., component] are needed"
            )
        self._dtype = loc.dtype
        self.loc, self.scale = at_least_single(loc), at_least_single(scale)
        self.log_weight = at_least_single(log_weight)
        self._draw = Known[_Units]()
        batch = broadcast_shape(loc.shape[:-2], scale.shape[:-2], log_weight.shape[:-1])
        super().__init__(torch.Size(batch), loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> LeafGaussianMixture:
        """A larger batch shape is recorded; parameters are shared."""
        shape = checked_growth(type(self).__name__, self.batch_shape, batch_shape)
        new: Any = self.__new__(type(self)) if _instance is None else _instance
        new.__dict__.update(self.__dict__)
        new._batch_shape = shape
        return new

    def detach(self) -> LeafGaussianMixture:
        """The same distribution with its parameters cut from the graph."""
        new = self.expand(self.batch_shape)
        new.loc, new.scale, new.log_weight = self.loc.detach(), self.scale.detach(), self.log_weight.detach()
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """
        :param Tensor value: ``[.., value]``.
        :returns: nats, ``[..]``.
        """
        if self._validate_args:
            self._validate_sample(value)
        units = self._draw.of(value)
        if units is None:
            value = at_least_single(value)
            units = _Units.of(value, self.loc, self.scale)
        if by_hand(value, *self._parameters):
            log_prob: Tensor = _MixtureLogDensity.apply(units, value, *self._parameters)
        else:
            log_prob = log_sum_exp(_joint(value, *self._parameters))
        log_prob = log_prob - self.event_shape[0] * _HALF_LOG_TWO_PI
        return log_prob.expand(broadcast_shape(value.shape[:-1], self.batch_shape))

    def log_responsibilities(self, value: Tensor) -> Tensor:
        r""":math:`\log p(c = k \mid z)`, ``[.., component]``."""
        return _joint(at_least_single(value), *self._parameters).log_softmax(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws ``[*sample_shape, *batch, value]`` with implicit gradients."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            shares = self.log_weight.softmax(-1).expand(*self.batch_shape, -1).reshape(-1, self.log_weight.size(-1))
            which = shares.multinomial(math.prod(sample_shape), replacement=True).T.reshape(shape)
            index = which[..., None, None].expand(*shape, 1, *self.event_shape)
            loc, scale = (
                values.expand(*shape, *values.shape[-2:]).gather(-2, index).squeeze(-2)
                for values in (self.loc, self.scale)
            )
            value = torch.addcmul(loc, scale, torch.randn_like(loc))
            units = _Units.of(value, self.loc, self.scale)
        if torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self._parameters):
            if by_hand(*self._parameters):
                value = _Implicit.apply(units, value, *self._parameters)
            else:
                value = _implicit(value, *self._parameters)
        drawn = value.to(self._dtype)
        self._draw = Known(drawn, units) if drawn is value else Known()
        return drawn

    @property
    def mean(self) -> Tensor:
        found = (self.log_weight.exp().unsqueeze(-1) * self.loc).sum(-2)
        return found.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        apart = self.loc - (self.log_weight.exp().unsqueeze(-1) * self.loc).sum(-2, keepdim=True)
        found = (self.log_weight.exp().unsqueeze(-1) * (self.scale.square() + apart.square())).sum(-2)
        return found.expand(self.batch_shape + self.event_shape)

    @property
    def _parameters(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.loc, self.scale, self.log_weight


@dataclass
class _Units:
    r"""
    A value in the units of all components, constants as far as autograd is concerned, ``[.., component, value]``.

    :ivar Tensor standard: :math:`u = (z - \mu) / \sigma`.
    :ivar Tensor cost: :math:`u^2 / 2 + \log \sigma`, negative log-densities less a constant.
    """

    standard: Tensor
    cost: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, value: Tensor, loc: Tensor, scale: Tensor) -> _Units:
        """Those of a value ``[.., value]``."""
        standard = (value.unsqueeze(-2) - loc) / scale
        return cls(standard, scale.log().add(standard.square(), alpha=0.5))


def _joint(value: Tensor, loc: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
    """Log-densities of a value and each component, less a constant, in operations that autograd follows."""
    squares = ((value.unsqueeze(-2) - loc) / scale).square().sum(-1)
    return log_weight - scale.log().sum(-1) - 0.5 * squares


class _MixtureLogDensity(torch.autograd.Function):
    r"""
    :math:`\log \sum_k \pi_k N(z; \mu_k, \sigma_k)`, less a constant, whose gradients are components' by their
    responsibilities.

    Where a derivative is to be differentiated again, backward is computed from the inputs by operations autograd
    follows.
    """

    @staticmethod
    def forward(ctx: Any, units: _Units, value: Tensor, loc: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
        joint = log_weight - units.cost.sum(-1)
        total = log_sum_exp(joint)
        ctx.save_for_backward(value, loc, scale, log_weight, units.standard, joint, total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, loc, scale, log_weight, standard, joint, total = ctx.saved_tensors
        if torch.is_grad_enabled():
            standard = (value.unsqueeze(-2) - loc) / scale
            joint = _joint(value, loc, scale, log_weight)
            total = log_sum_exp(joint)
        # a value too far from all components for a density has responsibilities of 0, not NaN
        finite = total.clamp(min=torch.finfo(total.dtype).min).unsqueeze(-1)
        by_weight = grad.unsqueeze(-1) * (joint - finite).exp()
        ratio = by_weight.unsqueeze(-1) / scale
        by_loc = standard * ratio
        _, needs_value, needs_loc, needs_scale, needs_weight = ctx.needs_input_grad
        return (
            None,
            summed_to(-by_loc.sum(-2), value) if needs_value else None,
            summed_to(by_loc, loc) if needs_loc else None,
            summed_to(by_loc * standard - ratio, scale) if needs_scale else None,
            summed_to(by_weight, log_weight) if needs_weight else None,
        )


@dataclass
class _Conditionals:
    r"""
    The conditional distribution functions of a mixture, twice of them less 1,

    .. math:: T_d(z_d \mid z_{<d}) = 2 S_d - 1 = \sum_k w_{kd}\, \mathrm{erf}(u_{kd} / \sqrt 2),

    whose weights are probabilities of components given the dimensions before, and what their derivatives are made of.

    :ivar Tensor function: :math:`T`, ``[.., 1, value]``.
    :ivar Tensor excess: :math:`w (\mathrm{erf} - T)`, derivatives in logarithms of weights, ``[.., component, value]``.
    :ivar Tensor density: :math:`w \exp(-u^2 / 2) / \sigma`, likewise; :math:`2 / \sqrt{2 \pi}` times their sums are
        derivatives in a dimension's own value.
    :ivar Tensor pull: :math:`u / \sigma`, derivatives of components' log-densities in the means, likewise.
    """

    function: Tensor
    excess: Tensor
    density: Tensor
    pull: Tensor

    @classmethod
    def of(cls, standard: Tensor, cost: Tensor, scale: Tensor, log_weight: Tensor) -> _Conditionals:
        """Those of a value in the units of components, see :class:`_Units`."""
        before = cost - cost.cumsum(-1)
        weight = (before + log_weight.unsqueeze(-1)).softmax(-2)
        mass = weight * torch.erf(standard * _ROOT_HALF)
        function = mass.sum(-2, keepdim=True)
        excess = torch.addcmul(mass, weight, function, value=-1)
        return cls(function, excess, weight * (-cost).exp(), standard / scale)

    def matrix(self) -> Tensor:
        r""":math:`-(\partial T / \partial z)^T`, of which the upper triangle holds, ``[.., value, value]``."""
        matrix = self.pull.mT @ self.excess
        matrix.diagonal(dim1=-2, dim2=-1).copy_(self.density.sum(-2) * -_PEAK)
        return matrix


def _implicit(value: Tensor, loc: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
    """
    A value with the gradients of a draw, in operations that autograd follows: with the solution of a linear system
    whose right side is zero, but has the derivatives of the distribution functions.
    """
    standard = (value.unsqueeze(-2) - loc) / scale
    with full_precision(scale):
        law = _Conditionals.of(standard, 0.5 * standard.square() + scale.log(), scale, log_weight)
        zero = (law.function - law.function.detach()).mT
        return value + torch.linalg.solve_triangular(law.matrix().detach().mT, zero, upper=False).squeeze(-1)


class _Implicit(torch.autograd.Function):
    """The value itself, with the gradients of a draw; they cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, units: _Units, value: Tensor, loc: Tensor, scale: Tensor, log_weight: Tensor) -> Tensor:
        ctx.save_for_backward(loc, scale, log_weight, units.standard, units.cost)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        loc, scale, log_weight, standard, cost = ctx.saved_tensors
        with full_precision(scale):
            law = _Conditionals.of(standard, cost, scale, log_weight)
            # by the distribution functions, [.., 1, value]
            rate = torch.linalg.solve_triangular(law.matrix(), grad.unsqueeze(-1), upper=True).mT
        by_logit = law.excess * rate
        by_weight = by_logit.sum(-1)
        by_density = by_weight.unsqueeze(-1) - by_logit.cumsum(-1)  # a dimension counts in the weights of those after
        by_loc = (by_density * law.pull).addcmul_(law.density, rate, value=-_PEAK)
        by_scale = (standard * by_loc).addcdiv_(by_density, scale, value=-1)
        return None, None, summed_to(by_loc, loc), summed_to(by_scale, scale), summed_to(by_weight, log_weight)
