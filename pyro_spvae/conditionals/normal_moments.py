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

Regions = Sequence[tuple[int, int]]


class Moments(Protocol):
    r"""
    Expected moments of values given some of them, and the parameters that are most likely given these.

    Smoothing by :math:`a` data is an inverse-Wishart prior of each leaf's covariance at that within the leaves of its
    region, :math:`W`; to the logarithm of the likelihood, in nats, it adds

    .. math:: -\frac a2 \left(\log |\Sigma_k| + \operatorname{tr}(W \Sigma_k^{-1})\right), \qquad
        W = \frac{\sum_j n_j \hat\Sigma_j}{\sum_j n_j}

    where :math:`n_j` is the expected number of data of leaf j and :math:`\hat\Sigma_j` the covariance that the step
    would take without smoothing. Means are as likely as any.
    """

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
        self, law: Any, sums: Sequence[Tensor], regions: Regions, smoothing: float, ridge: Tensor, least: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """
        :param law: the present distribution.
        :param sums: those of :meth:`expected`.
        :param regions: first and last leaf, the latter left out, of each region.
        :param float smoothing: :math:`a`, in data.
        :param Tensor ridge: that is added to variances, ``[leaf, pixel]``.
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
        self, law: Any, sums: Sequence[Tensor], regions: Regions, smoothing: float, ridge: Tensor, least: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        count, first, second = sums
        reached = (count > _NOTHING).unsqueeze(-1)
        mean = first / torch.where(reached, count.unsqueeze(-1), 1.0)
        scatter = second - first.unsqueeze(-1) * mean.unsqueeze(-2)
        within, learnt = torch.zeros_like(scatter), torch.zeros_like(count, dtype=torch.bool)
        for start, stop in regions:
            own = slice(start, stop)
            number = count[own].sum()
            within[own] = scatter[own].sum(0) / number.clamp(min=_NOTHING)
            learnt[own] = (number > _NOTHING) & (count[own] + smoothing > _NOTHING)
        total = torch.where(learnt, count + smoothing, 1.0)[:, None, None]
        covariance = (scatter + smoothing * within) / total + ridge.diag_embed()
        return self.of(torch.where(reached, mean, law.loc), covariance, least), learnt

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
        self, law: Any, sums: Sequence[Tensor], regions: Regions, smoothing: float, ridge: Tensor, least: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        count, cross, products, squares = sums
        new, variance = self._regressed(law, count, count, cross, products, squares)
        reach = count.amax(-1)
        learnt = torch.zeros_like(reach, dtype=torch.bool)
        for start, stop in regions:
            learnt[start:stop] = (reach[start:stop].sum() > _NOTHING) & (reach[start:stop] + smoothing > _NOTHING)
        if smoothing:
            spread, of_factors, of_pairs = self._further(law, new[..., :-1], variance, reach, regions)
            further = torch.nn.functional.pad(of_pairs, (0, 1, 0, 1)).unsqueeze(1)
            cross = cross + smoothing * torch.nn.functional.pad(of_factors, (0, 1))
            sums = cross, products + smoothing * further, squares + smoothing * spread
            new, variance = self._regressed(law, count, count + smoothing, *sums)
        return {
            "loc": new[..., -1],
            "factor": new[..., :-1],
            "scale": (variance + ridge).sqrt().clamp(min=least),
        }, learnt

    def _regressed(
        self, law: Any, count: Tensor, total: Tensor, cross: Tensor, products: Tensor, squares: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        Regression of each column on (y, 1); what nothing is known of stays.

        :returns: coefficients, ``[leaf, pixel, rank + 1]``, and the variances that they leave, ``[leaf, pixel]``.
        """
        eye = torch.eye(self.rank + 1, dtype=cross.dtype, device=cross.device)
        centred = (count <= _NOTHING).to(cross.dtype)  # no data but deviations from the mean: it is where it was
        cross = cross + (centred * law.loc).unsqueeze(-1) * eye[-1]
        products = products + centred[..., None, None] * eye[-1].diag()
        squares = squares + centred * law.loc.square()
        known = total > _NOTHING
        safe = torch.where(known[..., None, None], products, eye)
        found = torch.linalg.solve(safe, cross.unsqueeze(-1)).squeeze(-1)
        rest = (squares - (found * cross).sum(-1)) / torch.where(known, total, 1.0)
        old = torch.cat([law.factor, law.loc.unsqueeze(-1)], -1)
        return (
            torch.where(known.unsqueeze(-1), found, old),
            torch.where(known, rest.clamp(min=0), law.scale.square()),
        )

    def _further(
        self, law: Any, factor: Tensor, variance: Tensor, reach: Tensor, regions: Regions
    ) -> tuple[Tensor, Tensor, Tensor]:
        r"""
        What is expected of a further datum of each leaf, whose deviations d from the leaf's mean have the covariance W
        within the region: :math:`E[d^2]`, :math:`E[d y^\top]` and :math:`E[y y^\top]`.

        :param Tensor factor: of the covariances that W is the mean of, ``[leaf, pixel, rank]``.
        :param Tensor variance: of them, beside factors, ``[leaf, pixel]``.
        :param Tensor reach: expected number of data, ``[leaf]``.
        """
        eye = torch.eye(self.rank, dtype=factor.dtype, device=factor.device)
        scaled = law.factor / law.scale.square().unsqueeze(-1)
        gain = torch.linalg.solve(eye + law.factor.mT @ scaled, scaled.mT).mT  # [L, P, r], of y given d
        spread, of_factors = torch.zeros_like(variance), torch.zeros_like(factor)
        for start, stop in regions:
            own = slice(start, stop)
            share = (reach[own] / reach[own].sum().clamp(min=_NOTHING)).unsqueeze(-1)
            axes = (share.sqrt().unsqueeze(-1) * factor[own]).movedim(0, -1).flatten(1)  # [P, r K]
            left = (share * variance[own]).sum(0)
            spread[own] = left + axes.square().sum(-1)
            of_factors[own] = axes @ (axes.T @ gain[own]) + left.unsqueeze(-1) * gain[own]
        return spread, of_factors, eye - gain.mT @ law.factor + gain.mT @ of_factors

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
