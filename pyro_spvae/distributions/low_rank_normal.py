# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The multivariate Normal leaf distribution of low rank plus diagonal: a factor analyser, its factors summed out."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.correlated import LeafCorrelatedNormal
from pyro_spvae.distributions.leaf import ParameterConstraint, checked_parameter, full_precision


class LeafLowRankNormal(LeafCorrelatedNormal):
    r"""
    Normal values with covariance :math:`F F^\top + \operatorname{diag}(\sigma^2)`, one event ``[pixel]``: those of
    :math:`x = \mu + F y + \sigma \epsilon` with standard Normal :math:`y` (of size r) and :math:`\epsilon`.

    With :math:`\hat y` the posterior mean of y and :math:`M = I + F^\top \operatorname{diag}(\sigma^{-2}) F`,

    .. math::
        \log p(x) = -\tfrac12 \lVert (x - \mu - F \hat y) / \sigma \rVert^2 - \tfrac12 \lVert \hat y \rVert^2
        - \tfrac12 \log \det M - \sum_j \log \sigma_j - \tfrac{P}{2} \log 2\pi,

    sums of squares, from which nothing is subtracted (Woodbury's formula would). No matrix has more than
    :math:`P r` entries a datum, under masks too.

    :param torch.Tensor loc: mean :math:`\mu`, ``[.., pixel]``.
    :param torch.Tensor factor: :math:`F`, ``[.., pixel, r]``, of the same batch; r may be 0.
    :param torch.Tensor scale: :math:`\sigma > 0`, ``[.., pixel]``, likewise.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the value counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not fit, or, under validation, a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafLowRankNormal
        >>> factor, scale = torch.tensor([[1.0], [1.0], [0.0]]), torch.ones(3)
        >>> law = LeafLowRankNormal(torch.zeros(3), factor, scale)
        >>> law.variance  # the diagonal of F F' + 1
        tensor([2., 2., 1.])
        >>> normal = torch.distributions.LowRankMultivariateNormal(torch.zeros(3), factor, scale)
        >>> bool(torch.allclose(law.log_prob(torch.ones(3)), normal.log_prob(torch.ones(3))))
        True
    """

    arg_constraints = {
        "loc": ParameterConstraint(constraints.real, 1),
        "factor": ParameterConstraint(constraints.real, 2),
        "scale": ParameterConstraint(constraints.positive, 1),
    }

    def __init__(
        self,
        loc: Tensor,
        factor: Tensor,
        scale: Tensor,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        name = type(self).__name__
        self._dtype = loc.dtype if isinstance(loc, Tensor) else None
        self.loc = checked_parameter(name, "loc", loc, 1)
        self.factor = checked_parameter(name, "factor", factor, 2)
        self.scale = checked_parameter(name, "scale", scale, 1)
        if not self.loc.shape == self.scale.shape == self.factor.shape[:-1]:
            raise ValueError(
                f"{name} needs loc and scale [.., pixel] and factor [.., pixel, r] of one batch, but their shapes are "
                f"{tuple(loc.shape)}, {tuple(scale.shape)} and {tuple(factor.shape)}."
            )
        super().__init__(self.loc.shape[:-1], self.loc.size(-1), mask, validate_args)

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        return self._full(self.factor.square().sum(-1) + self.scale.square())

    def covariance_times(self, vector: Tensor) -> Tensor:
        with full_precision(vector):
            inner = torch.einsum("...pr,...p->...r", self.factor, vector)
            return torch.einsum("...pr,...r->...p", self.factor, inner) + self.scale.square() * vector

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        r"""
        Draw :math:`\mu + F y + \sigma \epsilon`; differentiable in the parameters.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        shape = self._extended_shape(sample_shape)
        options: Any = {"dtype": self.loc.dtype, "device": self.loc.device}
        y = torch.randn((*shape[:-1], self.factor.size(-1)), **options)
        drawn = self.loc + torch.einsum("...pr,...r->...p", self.factor, y)
        return torch.addcmul(drawn, self.scale, torch.randn(shape, **options)).to(self._dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        mask = None if self.pixel_mask is None else self._wide(self.pixel_mask)
        difference = self._difference(value, mask)
        y, chol = self.posterior(difference, mask)
        rest = (difference - torch.einsum("...pr,...r->...p", self.factor, y)) / self.scale
        log_scale = self.scale.log()
        if mask is not None:
            rest, log_scale = rest * mask, log_scale * mask
        log_det = log_scale.sum(-1) + chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (rest.square().sum(-1) + y.square().sum(-1)) - log_det - self._log_normalizer(mask)

    def posterior(self, difference: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        r"""
        The Normal distribution of y given some values.

        :param Tensor difference: from the mean, ``[.., pixel]``; 0 where values are not seen.
        :param Tensor mask: which are, ``bool [.., pixel]``; all by default.
        :returns: its mean :math:`\hat y`, ``[.., r]``, and the lower triangular factor of its precision M.
        """
        scaled, rank = self.factor / self.scale.unsqueeze(-1), self.factor.size(-1)  # [.., P, r]
        if mask is None:
            precision = scaled.mT @ scaled
        else:
            products = (scaled.unsqueeze(-1) * scaled.unsqueeze(-2)).flatten(-2)  # [.., P, r * r]
            precision = torch.einsum("...p,...pk->...k", mask.to(scaled.dtype), products)
            precision = precision.reshape(*precision.shape[:-1], rank, rank)
        eye = torch.eye(rank, dtype=scaled.dtype, device=scaled.device)
        chol = torch.linalg.cholesky_ex(precision + eye).L
        inner = torch.einsum("...pr,...p->...r", scaled, difference / self.scale).unsqueeze(-1)
        batch = broadcast_shape(chol.shape[:-2], inner.shape[:-2])
        y = torch.cholesky_solve(inner.expand(*batch, rank, 1), chol.expand(*batch, rank, rank))
        return y.squeeze(-1), chol

    def given_seen(self, value: Tensor, seen: Tensor) -> LeafLowRankNormal:
        with full_precision(value):
            return self._given_seen(value, self._wide(seen))

    def _given_seen(self, value: Tensor, seen: Tensor) -> LeafLowRankNormal:
        new: LeafLowRankNormal = self._hiding(seen, value)
        value = self._seen_value(value, seen)
        y, chol = self.posterior(self._difference(value, seen), seen)
        loc = torch.where(seen, value, self.loc + torch.einsum("...pr,...r->...p", self.factor, y))
        # y = y_hat + C^-T e with the factor C of the precision
        eye = torch.eye(chol.size(-1), dtype=chol.dtype, device=chol.device).expand_as(chol)
        factor = self.factor @ torch.linalg.solve_triangular(chol.mT, eye, upper=True)
        new.loc = loc
        new.factor = factor.expand(*loc.shape, factor.size(-1))
        new.scale = self.scale.expand(loc.shape)
        return new
