# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Normalisers of Boltzmann machines by annealed importance sampling."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_spvae.checks import is_integer
from pyro_spvae.distributions.boltzmann.gibbs import Gibbs, RestrictedGibbs
from pyro_spvae.distributions.boltzmann.machine import Machine

_FACTORS = 100  # numbers from 1/2 to 2 whose product single precision holds


class LogNormaliser(NamedTuple):
    r"""
    An estimate of :math:`\log Z`.

    :ivar Tensor log_z: nats, ``[leaf]``, float64. Z is estimated without bias, its logarithm is too low in expectation,
        by about half of the squared standard error.
    :ivar Tensor standard_error: of it, nats, ``[leaf]``; 0 where it is exact.
    :ivar Tensor effective_samples: :math:`(\sum w)^2 / \sum w^2` of the chains' weights, ``[leaf]``; a small number
        says that the standard error is not to be trusted either.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import RestrictedMachine, annealed_importance_sampling
        >>> machine = RestrictedMachine(torch.zeros(1, 4), torch.zeros(1, 2, 2))
        >>> found = annealed_importance_sampling(machine, chains=16, temperatures=10)
        >>> found.log_z.round(decimals=3), found.effective_samples.round(decimals=3)  # nothing to learn: 4 log 2
        (tensor([2.7730], dtype=torch.float64), tensor([16.], dtype=torch.float64))
    """

    log_z: Tensor
    standard_error: Tensor
    effective_samples: Tensor


def annealed_importance_sampling(
    machine: Machine, chains: int = 1024, temperatures: int = 1000, base: Tensor | None = None
) -> LogNormaliser:
    r"""
    Annealed importance sampling (Neal 2001; of restricted machines Salakhutdinov and Murray 2008).

    Chains start from independent units with biases b, of which :math:`\log Z_0 = \sum_j \log(1 + e^{b_j})`, and go
    through the laws :math:`p_\beta(z) \propto e^{(b + \beta (a - b))^T z + \frac12 \beta z^T J z}` for :math:`\beta`
    from 0 to 1 at equal distances, by one sweep of Gibbs sampling at each. A restricted machine's right side is summed
    out of the weights, which lowers their variance.

    By default :math:`b = a + \frac12 J 1`, the log-odds of a unit whose neighbours are on as often as off: what biases
    do that balance couplings is then no part of the start.

    :param Machine machine: any number of leaves.
    :param int chains: number of chains of each leaf.
    :param int temperatures: number of inverse temperatures, 0 and 1 among them.
    :param Tensor base: b, ``[leaf, D]``.
    :raises ValueError: if there is one temperature or one chain.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import RestrictedMachine, annealed_importance_sampling
        >>> from pyro_spvae.distributions.boltzmann import log_normaliser
        >>> machine = RestrictedMachine(torch.zeros(1, 4), torch.ones(1, 2, 2))
        >>> found = annealed_importance_sampling(machine, chains=500, temperatures=100)
        >>> bool((found.log_z - log_normaliser(machine)).abs() < 6 * found.standard_error)
        True
    """
    for name, value in (("chains", chains), ("temperatures", temperatures)):
        if not is_integer(value) or value < 2:
            raise ValueError(f"{name} of annealed importance sampling is {value!r}; an integer of at least 2 is needed")
    machine = machine.detach().precise()
    sampler = Gibbs.of(machine, chains)
    betas = torch.linspace(0, 1, temperatures, dtype=torch.float64, device="cpu").tolist()
    with torch.no_grad():
        start = machine.field(torch.full_like(machine.bias, 0.5)) if base is None else base.to(machine.bias)
        if isinstance(sampler, RestrictedGibbs):
            log_weights = _restricted(sampler, start, betas)
        else:
            log_weights = _general(sampler, start, betas)
        log_z = softplus(start.double()).sum(-1) + log_weights.logsumexp(-1) - math.log(chains)
        weights = log_weights.softmax(-1)
        effective = 1 / weights.square().sum(-1)
        error = ((chains / effective - 1).clamp(min=0) / (chains - 1)).sqrt()
    return LogNormaliser(log_z, error, effective)


def _restricted(sampler: RestrictedGibbs, start: Tensor, betas: list[float]) -> Tensor:
    """Log-weights ``[leaf, chain]``, in float64."""
    left = sampler.independent(start)[..., : sampler.machine.left].contiguous()
    total = left.new_zeros(left.shape[:2], dtype=torch.float64)
    memory = [left.new_empty(*left.shape[:2], sampler.machine.size - left.size(-1)) for _ in range(4)]
    moved = sampler.machine.bias - start
    left_bias, right_bias = sampler.halves(start)
    for place, beta in enumerate(betas[1:], start=1):
        field = torch.bmm(left, sampler.to_right, out=memory[0])
        before = torch.add(right_bias, field, alpha=betas[place - 1], out=memory[1])
        left_bias, right_bias = sampler.halves(start + beta * moved)
        after = torch.add(right_bias, field, alpha=beta, out=field)
        along = torch.bmm(left, sampler.halves(moved)[0].mT).squeeze(-1)
        total += (beta - betas[place - 1]) * along.double() + _softplus_difference(after, before, *memory[2:])
        if place < len(betas) - 1:
            right = sampler.throw_right(after.sigmoid_())
            left = sampler.draw_left(right, beta, left_bias)
    return total


def _softplus_difference(after: Tensor, before: Tensor, one: Tensor, other: Tensor) -> Tensor:
    r"""
    :math:`\sum_j \log(1 + e^{x_j}) - \log(1 + e^{y_j})` of the last axis, in float64: the difference of
    :math:`\max(x, 0)` and the logarithm of a product of :math:`(1 + e^{-|x|}) / (1 + e^{-|y|})`, between 1/2 and 2,
    at a third of the cost of two logarithms.

    :param Tensor before: y; overwritten.
    :param Tensor one: memory of the same shape.
    :param Tensor other: likewise.
    """
    torch.abs(after, out=one).neg_().exp_().add_(1)
    torch.abs(before, out=other).neg_().exp_().add_(1)
    ratio = one.div_(other)
    linear = torch.clamp(after, min=0, out=other).sub_(before.clamp_(min=0)).sum(-1).double()
    for some in ratio.split(_FACTORS, -1):
        linear += some.prod(-1).double().log()
    return linear


def _general(sampler: Gibbs, start: Tensor, betas: list[float]) -> Tensor:
    """Log-weights ``[leaf, chain]``, in float64."""
    states = sampler.independent(start)
    total = states.new_zeros(states.shape[:2], dtype=torch.float64)
    moved = sampler.machine.bias - start
    for place, beta in enumerate(betas[1:], start=1):
        along = sampler.machine.interaction(states.transpose(0, 1)).T + (states * moved.unsqueeze(1)).sum(-1)
        total += (beta - betas[place - 1]) * along.double()
        if place < len(betas) - 1:
            states = sampler.sweep(states, 1, beta, start + beta * moved)
    return total
