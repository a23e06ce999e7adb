# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What expectation maximisation of jointly Normal values has to know of data, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pyro_spvae.distributions.multivariate_normal import Conditional

_NOTHING = 1e-12  # expected count below which there is nothing to learn from
_UNIQUE, _LITTLE = 0.5, 0.05  # parts of standardised variances that factors leave at the start
_DEPENDENT = 1e-12  # part of a variance that is left given others, below which it is 0 but for rounding

Prior = tuple[Tensor, Tensor]


class Moments(Protocol):
    """Expected moments of values given some of them, and the parameters that are most likely given these."""

    #: of tensors
    number: int

    def expected(self, law: Any, z: Tensor, weight: Tensor, seen: Tensor | None) -> list[Tensor]:
        """
        :param law: their present distribution.
        :param Tensor z: values ``[data, leaf, pixel]``, finite.
        :param Tensor weight: ``[data, leaf]``.
        :param Tensor seen: ``bool`` like ``z``, ``None`` if all are.
        """

    def maximise(
        self, law: Any, sums: Sequence[Tensor], prior: Prior, smoothing: float, ridge: float, least: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """
        :param law: the present distribution.
        :param sums: those of :meth:`expected`.
        :param prior: mean and variance of each column in all data, ``[leaf, pixel]``.
        :param float least: smallest deviation.
        :returns: parameters, and which leaves there are data of.
        """

    def of(self, loc: Tensor, covariance: Tensor, least: float) -> dict[str, Tensor]:
        """Parameters of means and covariances, as near as may be."""


class FullMoments:
    r"""
    Of full covariances: :math:`\sum_n w_n`, :math:`\sum_n w_n E[z]` and :math:`\sum_n w_n E[z z^\top]`, missing values
    by their conditional expectations. A datum of which a leaf sees nothing says nothing of it.
    """

    number = 3

    def expected(self, law: Any, z: Tensor, weight: Tensor, seen: Tensor | None) -> list[Tensor]:
        more = 0.0
        if seen is not None:
            weight = weight * seen.any(-1)
            conditional = Conditional(law, z, seen)
            z = conditional.mean
            patterns = conditional.patterns
            of_pair = patterns.total(weight)[:, None, None] * conditional.covariances
            more = law.root.new_zeros(law.root.shape).index_add(0, patterns.parameter, of_pair)
        weighted = (weight.unsqueeze(-1) * z).movedim(0, -1)  # [L, P, B]
        return [weight.sum(0), weighted.sum(-1), weighted @ z.movedim(0, 1) + more]

    def maximise(
        self, law: Any, sums: Sequence[Tensor], prior: Prior, smoothing: float, ridge: float, least: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        count, first, second = sums
        mean, variance = prior
        total = count + smoothing
        learnt = total > _NOTHING
        total = torch.where(learnt, total, 1.0).unsqueeze(-1)
        loc = (first + smoothing * mean) / total
        further = smoothing * (variance.diag_embed() + mean.unsqueeze(-1) * mean.unsqueeze(-2))
        covariance = (second + further) / total.unsqueeze(-1) - loc.unsqueeze(-1) * loc.unsqueeze(-2)
        covariance = covariance + ridge * variance.diag_embed()
        return self.of(loc, covariance, least), learnt

    def of(self, loc: Tensor, covariance: Tensor, least: float) -> dict[str, Tensor]:
        unit, variance = regressions(covariance)
        return {"loc": loc, "unit": unit, "scale": variance.sqrt().clamp(min=least)}


class FactorMoments:
    r"""
    Of low rank plus diagonal, by EM of factor analysis (Rubin and Thayer 1982) within a mixture (Ghahramani and Hinton
    1996): with :math:`\tilde y = (y, 1)`, of each column over the data that it is seen in :math:`\sum_n w_n`,
    :math:`\sum_n w_n z E[\tilde y]`, :math:`\sum_n w_n E[\tilde y \tilde y^\top]` and :math:`\sum_n w_n z^2`. A column
    that is missing is no part of the complete data, so that nothing is expected of it.

    :param int rank: size of y.
    """

    number = 4

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def expected(self, law: Any, z: Tensor, weight: Tensor, seen: Tensor | None) -> list[Tensor]:
        difference = z - law.loc if seen is None else (z - law.loc) * seen
        y, chol = law.posterior(difference, seen)
        eye = torch.eye(self.rank, dtype=y.dtype, device=y.device)
        inverse = torch.linalg.solve_triangular(chol, eye.expand_as(chol), upper=False)
        spread = torch.nn.functional.pad(inverse.mT @ inverse, (0, 1, 0, 1))  # [.., r + 1, r + 1]
        y = torch.cat([y, y.new_ones(*y.shape[:-1], 1)], -1)
        products = (y.unsqueeze(-1) * y.unsqueeze(-2) + spread).flatten(-2)  # [B, L, (r + 1)^2]
        weights = weight.unsqueeze(-1).expand(z.shape) if seen is None else weight.unsqueeze(-1) * seen
        by_leaf = weights.movedim(0, -1)  # [L, P, B]
        count = by_leaf.sum(-1)
        return [
            count,
            (by_leaf * z.movedim(0, -1)) @ y.movedim(0, 1),
            (by_leaf @ products.movedim(0, 1)).unflatten(-1, (self.rank + 1,) * 2),
            (weights * z.square()).sum(0),
        ]

    def maximise(
        self, law: Any, sums: Sequence[Tensor], prior: Prior, smoothing: float, ridge: float, least: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        count, cross, products, squares = sums
        mean, variance = prior
        learnt = count.amax(-1) + smoothing > _NOTHING
        total = count + smoothing
        seen = total > _NOTHING
        eye = torch.eye(self.rank + 1, dtype=cross.dtype, device=cross.device)
        cross = cross + smoothing * mean.unsqueeze(-1) * eye[-1]
        products = products + smoothing * eye
        squares = squares + smoothing * (variance + mean.square())
        safe = torch.where(seen[..., None, None], products, eye)
        weights = torch.linalg.solve(safe, cross.unsqueeze(-1)).squeeze(-1)  # [L, P, r + 1]
        rest = (squares - (weights * cross).sum(-1)) / torch.where(seen, total, 1.0)
        deviation = (rest.clamp(min=0) + ridge * variance).sqrt().clamp(min=least)
        return {
            "loc": torch.where(seen, weights[..., -1], law.loc),
            "factor": torch.where(seen.unsqueeze(-1), weights[..., :-1], law.factor),
            "scale": torch.where(seen, deviation, law.scale),
        }, learnt

    def of(self, loc: Tensor, covariance: Tensor, least: float) -> dict[str, Tensor]:
        """The largest principal axes of correlations, and the variances that they leave."""
        deviation = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-30).sqrt()
        values, axes = torch.linalg.eigh(covariance / (deviation.unsqueeze(-1) * deviation.unsqueeze(-2)))
        values, axes = values.flip(-1)[..., : self.rank], axes.flip(-1)[..., : self.rank]
        axes = axes * (values - _UNIQUE).clamp(min=_LITTLE).sqrt().unsqueeze(-2)
        left = (1 - axes.square().sum(-1)).clamp(min=_LITTLE)
        return {
            "loc": loc,
            "factor": axes * deviation.unsqueeze(-1),
            "scale": (left.sqrt() * deviation).clamp(min=least),
        }


def regressions(covariance: Tensor) -> tuple[Tensor, Tensor]:
    r"""
    The modified Cholesky decomposition :math:`T \Sigma T^\top = D` with T lower triangular with ones on the diagonal:
    minus the coefficients of each variable's regression on those before it, and the variance that it leaves.

    A variable that is determined by those before it, up to rounding, has a variance of 0 and counts in no regression.

    :param Tensor covariance: positive semidefinite, ``[.., P, P]``.
    :returns: T, ``[.., P, P]``, and the diagonal of D, ``[.., P]``, at least 0.
    """
    size = covariance.size(-1)
    lower = torch.zeros_like(covariance)  # of Sigma = lower D lower^T
    variances = torch.zeros_like(covariance[..., 0])
    for j in range(size):
        past = lower[..., :j] * variances[..., None, :j]  # [.., P, j]
        column = covariance[..., j] - (past * lower[..., j : j + 1, :j]).sum(-1)
        whole, own = covariance[..., j, j], column[..., j]
        free = own > _DEPENDENT * whole
        variances[..., j] = torch.where(free, own, 0.0)
        lower[..., j + 1 :, j] = torch.where(
            free.unsqueeze(-1), column[..., j + 1 :] / torch.where(free, own, 1.0).unsqueeze(-1), 0.0
        )
        lower[..., j, j] = 1.0
    eye = torch.eye(size, dtype=covariance.dtype, device=covariance.device).expand_as(covariance)
    return torch.linalg.solve_triangular(lower, eye, upper=False, unitriangular=True), variances
