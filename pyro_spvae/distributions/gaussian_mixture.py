# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of diagonal normals given data, with draws that are differentiable in all parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Categorical, TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.leaf import at_least_single

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class LeafGaussianMixture(TorchDistribution):
    r"""
    :math:`p(z) = \sum_k \pi_k \prod_d N(z_d; \mu_{kd}, \sigma_{kd}^2)` with parameters of each datum, one event
    ``[value]``; of few components, all of which are looked at by differences.

    Draws have gradients by implicit reparameterisation (Figurnov, Mohamed and Mnih 2018): the conditional distribution
    functions :math:`S_d(z_d \mid z_{<d})` of a draw are uniform noise that does not depend on the parameters, so that

    .. math:: \frac{dz}{d\phi} = - \Big(\frac{\partial S}{\partial z}\Big)^{-1} \frac{\partial S}{\partial \phi}

    with a triangular matrix. The component of a draw is not known to it: draws are those of the mixture.

    :param Tensor loc: means, ``[.., component, value]``.
    :param Tensor scale: standard deviations, broadcastable with it.
    :param Tensor log_weight: logarithms of weights that sum to one, ``[.., component]``.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises ValueError: if shapes do not fit.

    Example::

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
        batch = broadcast_shape(loc.shape[:-2], scale.shape[:-2], log_weight.shape[:-1])
        super().__init__(torch.Size(batch), loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> LeafGaussianMixture:
        """A larger batch shape is recorded; parameters are shared."""
        new: Any = self.__new__(type(self)) if _instance is None else _instance
        new.__dict__.update(self.__dict__)
        new._batch_shape = torch.Size(broadcast_shape(self.batch_shape, tuple(batch_shape)))
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
        joint = self.log_weight + self._log_densities(at_least_single(value)).sum(-1)
        return joint.logsumexp(-1)

    def log_responsibilities(self, value: Tensor) -> Tensor:
        r""":math:`\log p(c = k \mid z)`, ``[.., component]``."""
        return (self.log_weight + self._log_densities(at_least_single(value)).sum(-1)).log_softmax(-1)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws ``[*sample_shape, *batch, value]`` with implicit gradients."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            weight = self.log_weight.expand(*self.batch_shape, self.log_weight.size(-1))
            which = Categorical(logits=weight).sample(torch.Size(sample_shape))
            index = which[..., None, None].expand(*shape, 1, self.event_shape[0])
            loc, scale = (value.expand(*shape, *value.shape[-2:]) for value in (self.loc, self.scale))
            chosen = (values.gather(-2, index).squeeze(-2) for values in (loc, scale))
            value = torch.addcmul(
                next(chosen), next(chosen), torch.randn(shape + self.event_shape, dtype=loc.dtype, device=loc.device)
            )
        if torch.is_grad_enabled() and any(p.requires_grad for p in (self.loc, self.scale, self.log_weight)):
            value = _Implicit.apply(value, *self._distribution_functions(value))
        return value.to(self._dtype)

    @property
    def mean(self) -> Tensor:
        found = (self.log_weight.exp().unsqueeze(-1) * self.loc).sum(-2)
        return found.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        second = (self.log_weight.exp().unsqueeze(-1) * (self.scale.square() + self.loc.square())).sum(-2)
        return (second - self.mean.square()).expand(self.batch_shape + self.event_shape)

    def _log_densities(self, value: Tensor) -> Tensor:
        """Of all components and dimensions, ``[.., component, value]``."""
        standard = (value.unsqueeze(-2) - self.loc) / self.scale
        return -0.5 * standard.square() - self.scale.log() - _HALF_LOG_TWO_PI

    def _distribution_functions(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """
        The conditional distribution functions of a value, ``[.., value]``, differentiable in the parameters; and their
        derivatives in the value, a lower triangular matrix ``[.., value, value]``.
        """
        log_density = self._log_densities(value)  # [.., K, D]
        before = log_density.cumsum(-1) - log_density
        weight = (self.log_weight.unsqueeze(-1) + before).softmax(-2)  # of each component given the dimensions before
        below = torch.special.ndtr((value.unsqueeze(-2) - self.loc) / self.scale)
        function = (weight * below).sum(-2)
        with torch.no_grad():
            slope = (self.loc - value.unsqueeze(-2)) / self.scale.square()  # of the log-densities, [.., K, D]
            rows = weight.mT  # [.., D, K]
            inner = (rows * below.mT) @ slope - function.unsqueeze(-1) * (rows @ slope)
            density = (weight * log_density.exp()).sum(-2)
            jacobian = inner.tril(-1) + torch.diag_embed(density)
        return function, jacobian


class _Implicit(torch.autograd.Function):
    """The value itself, whose gradient goes to the distribution functions by the implicit function theorem."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, function: Tensor, jacobian: Tensor) -> Tensor:
        ctx.save_for_backward(jacobian)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (jacobian,) = ctx.saved_tensors
        return None, -torch.linalg.solve_triangular(jacobian.mT, grad.unsqueeze(-1), upper=True).squeeze(-1), None
