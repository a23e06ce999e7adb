# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""REBAR: a control variate from relaxed bits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.infer.estimators.estimator import Estimator, ScoredStep, bits_of, slope_of

_EDGE = 1e-6  # of uniform numbers, whose logits are finite


class REBAR(Estimator):
    r"""
    Score function with a control variate of relaxed draws (Tucker et al. 2017). With :math:`s = \ell + \mathrm{logit}
    (u)`, whose sign is the bit, :math:`\tilde s` drawn anew given the bit, and :math:`h(s) = \hat L(\sigma(s / T))`,

    .. math:: (\hat L - \eta\, h(\tilde s))\, \nabla \log q(z) + \eta\, \nabla h(s) - \eta\, \nabla h(\tilde s),

    for each leaf with the others as they were drawn. Unbiased for any scale :math:`\eta` and temperature T, of which
    each leaf has its own; both are learned so as to make the variance of the gradient in the logits small. Two more
    passes of the decoder, forward and back. For guides of one latent site of independent bits.

    :param float temperature: T at the start.
    :param float scale: :math:`\eta` at the start.
    :param bool learn: whether both are learned; the temperature needs second derivatives.
    :raises ValueError: if the temperature is not positive.

    Example::

        >>> from pyro_spvae.distributions import Unsmoothed
        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.infer import REBAR
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed())
        >>> dvae = SPVAE(whole((4, 4)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> objective = CircuitELBO(1, estimator=REBAR())
        >>> objective.differentiable_loss(dvae.model, dvae.guide, dvae.sample(10)).backward()
        >>> all(parameter.grad is not None for parameter in dvae.leaf_guide.parameters())
        True
    """

    lr_factor = 1.0
    log_temperature: Tensor
    eta: Tensor

    def __init__(self, temperature: float = 0.5, scale: float = 1.0, learn: bool = True) -> None:
        super().__init__()
        if not checks.is_number(temperature) or temperature <= 0:
            raise ValueError(f"temperature is {temperature!r}; a positive number is needed")
        if not checks.is_number(scale):
            raise ValueError(f"scale is {scale!r}; a number is needed")
        self.temperature, self.scale, self.learn = float(temperature), float(scale), checks.boolean("learn", learn)

    def build(self, leaves: int) -> None:
        """Makes the logarithm of the temperature and the scale of every leaf, ``[leaf]``."""
        for name, start in (("log_temperature", math.log(self.temperature)), ("eta", self.scale)):
            values = torch.full((leaves,), start)
            if self.learn:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)

    def surrogate(self, step: ScoredStep) -> Tensor:
        name, site = bits_of(step, "REBAR")
        drawn, logits, score = site["value"], site["fn"].logits, step.terms.score
        assert score is not None
        noise = torch.rand(2, *drawn.shape, dtype=logits.dtype, device=logits.device).clamp(_EDGE, 1 - _EDGE)
        with torch.enable_grad():
            temperature, eta = self.log_temperature.exp().unsqueeze(-1), self.eta.unsqueeze(-1)
            free = logits.detach().expand_as(drawn).clone().requires_grad_()
            # s has the noise that made the bit, which a gradient does not see; that of its copy moves with the logits
            noisy = free + (_given_bit(free, drawn, noise[0]) - free).detach()
            again = _given_bit(free, drawn, noise[1])
            slopes, bounds = [], []
            for soft in (noisy, again):
                value = (soft / temperature).sigmoid()
                control = step.weigh(name, value).expand_as(step.terms.log_weight)
                bounds.append(step.bound_with(control))
                slopes.append(slope_of(bounds[-1], soft, self.learn))
            by_noise = slopes[0] - slopes[1] * _slope_given_bit(free, drawn, noise[1]).detach()
            signal = step.learning_signal.unsqueeze(-1) - eta * bounds[1].unsqueeze(-1)
            by_score = drawn - free.detach().sigmoid()
            counts = _counts(site, score)
            gradient = counts * (signal * by_score + eta * by_noise)  # [K, .., B, L, D]
            surrogate = (gradient.detach() * logits).sum()
            if not self.learn:
                return surrogate
            spread = gradient.square().sum()
            towards = torch.autograd.grad(spread, [self.log_temperature, self.eta])
        return surrogate - (towards[0] * self.log_temperature).sum() - (towards[1] * self.eta).sum()


def _given_bit(logits: Tensor, bit: Tensor, uniform: Tensor) -> Tensor:
    """A logistic number about the logits, given that its sign is the bit's, by a uniform number."""
    odds = uniform / (1 - uniform)
    positive = torch.log1p(odds / (-logits).sigmoid())
    negative = -torch.log1p(odds / logits.sigmoid())
    return torch.where(bit > 0.5, positive, negative)


def _slope_given_bit(logits: Tensor, bit: Tensor, uniform: Tensor) -> Tensor:
    """The derivative of :func:`_given_bit` in the logits."""
    odds = uniform / (1 - uniform)
    q, p = logits.sigmoid(), (-logits).sigmoid()
    return torch.where(bit > 0.5, odds * q / (odds + p), odds * p / (odds + q))


def _counts(site: dict[str, object], like: Tensor) -> Tensor:
    """1 where a leaf sees something, else 0, ``[.., data, leaf, 1]``."""
    mask = site["mask"]
    if isinstance(mask, Tensor):
        return mask.to(like.dtype).unsqueeze(-1)
    return like.new_full((1,), 1.0 if mask is None else float(mask))  # type: ignore[arg-type]
