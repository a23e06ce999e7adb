# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The most likely Gamma and Beta distributions given means of their sufficient statistics, by Newton's method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LEAST_SHAPE = 1e-3  # of what an M-step writes

_SHAPE_STEPS = 8
_BETA_STEPS = 30
_NEAR = 0.1  # relative step from which on Newton's steps are taken whole
_SHARES = (1.0, 0.5, 0.25, 0.06, 0.01, 0.0)  # of longer ones, of which the best is taken
_LONGEST = 4.0  # of a step, in logarithms
_HALVINGS = 60
_WIDEST = 25.0  # log-odds


def gamma_shape(gap: Tensor, most: Tensor | float) -> Tensor:
    r"""
    The concentration k with :math:`\log k - \psi(k) = g`, the most likely one of Gamma variables whose mean is
    :math:`\mu` and whose :math:`g = E[x] / \mu - 1 - E[\log (x / \mu)]`, by Newton's method on :math:`1 / k` (Minka
    2002, "Estimating a Gamma distribution").

    :param Tensor gap: g; 0 or, by rounding, less of values that do not vary.
    :param most: the largest concentration, which there is the most likely one.
    :returns: concentrations from 0.001 to the largest.
    """
    most = torch.as_tensor(most, dtype=gap.dtype, device=gap.device)
    gap = torch.maximum(gap, 0.5 / most)
    shape = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
    for _ in range(_SHAPE_STEPS):
        off = shape.log() - torch.digamma(shape) - gap
        factor = 1 + off / (1 - shape * torch.polygamma(1, shape))
        shape = shape / factor.clamp(0.1, 10.0)
    return torch.minimum(shape, most).clamp(min=LEAST_SHAPE)


def beta_shapes(mean: Tensor, most: Tensor, least: float, nearest: float) -> Tensor:
    r"""
    The most likely concentrations of a Beta distribution given :math:`s_1 = E[\log x], s_0 = E[\log(1 - x)]`, those
    that maximise :math:`\alpha s_1 + \beta s_0 - \log B(\alpha, \beta)`, a concave function; by Newton's method in
    both, from :math:`\alpha \approx \tfrac12 + \tfrac12 e^{s_1} / (1 - e^{s_1} - e^{s_0})` (Johnson, Kotz and
    Balakrishnan 1995, chapter 25), which is near them unless they are small.

    They are sought among :math:`l + c w` and :math:`l + c (1 - w)` with c up to a largest one and w from e to 1 - e,
    and found on the edge of these where it binds.

    :param Tensor mean: :math:`s_1, s_0`, ``[2, ..]``.
    :param Tensor most: the largest c, ``[..]``.
    :param float least: l, above 0.
    :param float nearest: e, above 0.
    :returns: :math:`\alpha, \beta`, ``[2, ..]``.
    """
    rest = torch.maximum(1 - mean.exp().sum(0), 0.5 / most)
    shapes = 0.5 + 0.5 * mean.exp() / rest
    for _ in range(_BETA_STEPS):
        step = _newton(shapes, mean)
        tried = shapes * (step.unsqueeze(0) * step.new_tensor(_SHARES).reshape(-1, *[1] * step.dim())).exp()
        best = _objective(tried, mean).argmax(0)
        best = torch.where(step.abs().amax(0) < _NEAR, 0, best)
        shapes = tried.gather(0, best.expand(1, *step.shape)).squeeze(0)
        shapes = torch.minimum(shapes.clamp(min=LEAST_SHAPE), 10 * most)
    count = shapes.sum(0) - 2 * least
    inside = (count <= most) & (count >= LEAST_SHAPE) & (shapes.amin(0) - least >= nearest * count)
    return shapes if bool(inside.all()) else torch.where(inside, shapes, _on_edge(mean, most, least, nearest))


def _on_edge(mean: Tensor, most: Tensor, least: float, nearest: float) -> Tensor:
    """The most likely ones of the largest sum, or of the smallest or largest mean."""

    def of_sum(at: Tensor) -> Tensor:
        share = torch.stack([torch.sigmoid(at), torch.sigmoid(-at)])
        return least + most * (nearest + (1 - 2 * nearest) * share)

    def of_mean(along: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda at: least + _each(along, at) * at.exp()

    along = mean.new_tensor([1.0, -1.0])
    found = [_along(of_sum, along, torch.full_like(most, -_WIDEST), torch.full_like(most, _WIDEST), mean)]
    for along in (mean.new_tensor([nearest, 1 - nearest]), mean.new_tensor([1 - nearest, nearest])):
        low, high = torch.full_like(most, LEAST_SHAPE).log(), most.log()
        found.append(_along(of_mean(along), along, low, high, mean))
    every = torch.stack(found)
    best = _objective(every, mean).argmax(0)
    return every.gather(0, best.expand(1, *mean.shape)).squeeze(0)


def _each(pair: Tensor, like: Tensor) -> Tensor:
    return pair.reshape(2, *[1] * like.dim())


def _along(path: Callable[[Tensor], Tensor], along: Tensor, low: Tensor, high: Tensor, mean: Tensor) -> Tensor:
    """Where the objective is largest on a straight line, between two places on it, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rises = (_each(along, middle) * _gradient(path(middle), mean)).sum(0) > 0
        low, high = torch.where(rises, middle, low), torch.where(rises, high, middle)
    return path((low + high) / 2)


def _gradient(shapes: Tensor, mean: Tensor) -> Tensor:
    return mean - torch.digamma(shapes) + torch.digamma(shapes.sum(0))


def _newton(shapes: Tensor, mean: Tensor) -> Tensor:
    """Newton's step over both concentrations, relative to them."""
    total = shapes.sum(0)
    gradient = _gradient(shapes, mean)
    own, shared = torch.polygamma(1, shapes), torch.polygamma(1, total)
    determinant = (own[0] * own[1] - shared * own.sum(0)).clamp(min=torch.finfo(own.dtype).tiny)
    step = (own.flip(0) * gradient + shared * (gradient.flip(0) - gradient)) / determinant
    return (step / shapes).clamp(-_LONGEST, _LONGEST)


def _objective(shapes: Tensor, mean: Tensor) -> Tensor:
    """Means of log-densities up to a constant, of concentrations ``[place on a line, 2, ..]``."""
    return (shapes * mean - torch.lgamma(shapes)).sum(1) + torch.lgamma(shapes.sum(1))
