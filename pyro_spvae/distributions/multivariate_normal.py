# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The multivariate Normal leaf distribution of a full covariance."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.correlated import LeafCorrelatedNormal, Patterns
from pyro_spvae.distributions.leaf import ParameterConstraint, checked_parameter, double, full_precision


class LeafMultivariateNormal(LeafCorrelatedNormal):
    r"""
    Normal values with any covariance, one event ``[pixel]``, by a triangular root of the precision,
    :math:`\Sigma^{-1} = R^\top R`:

    .. math:: \log p(x) = \sum_j \log R_{jj} - \tfrac12 \lVert R (x - \mu) \rVert^2 - \tfrac{P}{2} \log 2\pi.

    Row j of R says how value j depends on those before it: its deviation given them is :math:`1 / R_{jj}` (the modified
    Cholesky decomposition, Pourahmadi 1999). A density of complete data is one product of matrices for all of them.
    Under a mask :math:`\Sigma_{ss}` is decomposed anew, once for each pattern of the mask that occurs, in double
    precision.

    :param torch.Tensor loc: mean :math:`\mu`, ``[.., pixel]``.
    :param torch.Tensor root: :math:`R`, lower triangular with a positive diagonal, ``[.., pixel, pixel]``, of the same
        batch as ``loc``.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the value counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not fit, or, under validation, a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafMultivariateNormal
        >>> covariance = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> root = torch.linalg.inv(torch.linalg.cholesky(covariance))
        >>> law, x = LeafMultivariateNormal(torch.zeros(2), root), torch.tensor([1.0, 0.0])
        >>> law.variance.round(decimals=3)
        tensor([2., 2.])
        >>> seen = torch.tensor([True, False])
        >>> law.given_seen(x, seen).mean.round(decimals=3)  # the other one given the first
        tensor([1.0000, 0.5000])
    """

    arg_constraints = {
        "loc": ParameterConstraint(constraints.real, 1),
        "root": constraints.lower_cholesky,
    }

    def __init__(
        self, loc: Tensor, root: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        name = type(self).__name__
        self._dtype = loc.dtype if isinstance(loc, Tensor) else None
        self.loc = checked_parameter(name, "loc", loc, 1)
        self.root = checked_parameter(name, "root", root, 2)
        if self.root.shape != (*self.loc.shape, self.loc.size(-1)):
            raise ValueError(
                f"{name} needs loc [.., pixel] and root [.., pixel, pixel] of one batch, but their shapes are "
                f"{tuple(loc.shape)} and {tuple(root.shape)}."
            )
        super().__init__(self.loc.shape[:-1], self.loc.size(-1), mask, validate_args)

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        return self._full(_inverse(self.root).square().sum(-1))

    @property
    def covariance(self) -> Tensor:
        """Covariance of the parameters' own batch, ``[.., pixel, pixel]``."""
        with full_precision(self.root):
            inverse = _inverse(self.root)
            return inverse @ inverse.mT

    def covariance_times(self, vector: Tensor) -> Tensor:
        with full_precision(vector):
            return _times(self.covariance, vector)

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        r"""
        Draw :math:`\mu + R^{-1} \epsilon` with standard Normal noise; differentiable in the parameters.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return (self.loc + _times(_inverse(self.root), noise)).to(self._dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        mask, root = self.pixel_mask, self.root
        if mask is not None:
            mask = self._wide(mask)
            root = self._root_of(mask)
        u = _times(root, self._difference(value, mask))
        log_root = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_root - 0.5 * u.square().sum(-1) - self._log_normalizer(mask)

    def _root_of(self, mask: Tensor) -> Tensor:
        """The root of what counts, ``[.., pixel, pixel]``; that of independent standard values for the others."""
        patterns = Patterns(mask, self.loc.shape[:-1])
        inverse = _inverse(double(self.root))
        kept = _block(patterns.of_parameters(inverse @ inverse.mT, 2), patterns.mask)
        return patterns.spread(_inverse(torch.linalg.cholesky_ex(kept).L).to(self.loc.dtype))

    def given_seen(self, value: Tensor, seen: Tensor) -> LeafMultivariateNormal:
        seen = self._wide(seen)
        new: LeafMultivariateNormal = self._hiding(seen, value)
        conditional = Conditional(self, value, seen)
        new.loc = conditional.mean.to(self.loc.dtype)
        new.root = conditional.patterns.spread(conditional.roots.to(self.loc.dtype)).expand(
            *new.loc.shape, new.loc.size(-1)
        )
        return new


class Conditional:
    r"""
    What is not seen given what is, of a Normal distribution with precision :math:`\Lambda`, in double precision where
    the device has it:

    .. math:: N(\mu_h - \Lambda_{hh}^{-1} \Lambda_{hs} (x_s - \mu_s),\; \Lambda_{hh}^{-1}).

    :param LeafMultivariateNormal law: the distribution.
    :param Tensor value: ``[.., pixel]``, of which what is seen is looked at.
    :param Tensor seen: ``bool``, broadcastable to it.
    :ivar Tensor mean: of what is not seen, and the values that are, ``[.., pixel]``.
    :ivar Patterns patterns: which values are not seen.
    :ivar Tensor roots: of the precision of what is not seen, lower triangular, for each pattern; 1 on the diagonal
        where values are seen.
    """

    def __init__(self, law: LeafMultivariateNormal, value: Tensor, seen: Tensor) -> None:
        self.patterns = Patterns(~seen, law.loc.shape[:-1])
        hidden = self.patterns.mask
        root = self.patterns.of_parameters(double(law.root), 2)
        precision = root.mT @ root
        # the lower triangular root R of R^T R is the Cholesky factor of the matrix in reverse order
        self.roots = torch.linalg.cholesky_ex(_block(precision, hidden).flip(-1, -2)).L.flip(-1, -2).mT
        between = precision * (hidden.unsqueeze(-1) & ~hidden.unsqueeze(-2))
        gain = _inverse(self.roots) @ (_inverse(self.roots).mT @ between)
        difference = torch.where(seen, value.to(root) - law.loc.to(root), 0.0)
        moved = law.loc.to(root) - _times(self.patterns.spread(gain), difference)
        self.mean = torch.where(seen, value.to(root), moved)

    @property
    def covariances(self) -> Tensor:
        """Of what is not seen, for each pattern ``[pair, pixel, pixel]``; 0 where values are seen."""
        inverse, hidden = _inverse(self.roots), self.patterns.mask
        return (inverse @ inverse.mT) * (hidden.unsqueeze(-1) & hidden.unsqueeze(-2))


def _block(matrix: Tensor, mask: Tensor) -> Tensor:
    """Of a matrix the rows and columns of a mask; those of the identity for the others."""
    eye = torch.eye(matrix.size(-1), dtype=matrix.dtype, device=matrix.device)
    return torch.where(mask.unsqueeze(-1) & mask.unsqueeze(-2), matrix, eye)


def _inverse(root: Tensor) -> Tensor:
    """Of lower triangular matrices."""
    eye = torch.eye(root.size(-1), dtype=root.dtype, device=root.device)
    return torch.linalg.solve_triangular(root, eye.expand_as(root), upper=False)


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices ``[.., pixel, pixel]`` times vectors ``[.., pixel]``; one product for all vectors of a matrix."""
    return torch.einsum("...ij,...j->...i", matrix, vector)
