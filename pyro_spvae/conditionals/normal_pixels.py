# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pixels of a leaf that are jointly Normal, with free parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks.scale import positive_scale, raw_scale
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.conditionals.normal_moments import FactorMoments, FullMoments, Moments
from pyro_spvae.conditionals.normal_start import clusters, regions_of
from pyro_spvae.conditionals.observation import Observation
from pyro_spvae.conditionals.pixels import Pixels
from pyro_spvae.distributions import LeafLowRankNormal, LeafMultivariateNormal
from pyro_spvae.distributions.correlated import LeafCorrelatedNormal
from pyro_spvae.distributions.normal_columns import LeafNormalColumns
from pyro_spvae.likelihoods.likelihood import Likelihood

_ROWS = 10_000  # rows that parameters start from
_SHRUNK = 0.1  # part of a pooled covariance that is left to its diagonal at the start


class NormalPixels(Observation):
    r"""
    The pixels of a leaf that are Normal by their likelihood as jointly Normal, :math:`N(\mu, \Sigma)`, and the others
    independent of them, each by its own likelihood; all with free parameters, the same for all data.

    Of full covariances the precision is :math:`R^\top R` with :math:`R = \operatorname{diag}(\sigma)^{-1} T`, T lower
    triangular with ones on the diagonal: each pixel is a linear regression on those before it, with residual deviation
    :math:`\sigma`.

    :param Likelihood likelihood: of the pixels; says which are Normal, in which units.
    :param int rank: of the covariance up to a diagonal; ``None`` for a full one, 0 for independent pixels.
    :ivar Parameter loc: :math:`\mu`, ``[leaf, pixel]``.
    :ivar Parameter scale: unconstrained, of :math:`\sigma` or of the diagonal's deviations, ``[leaf, pixel]``.
    :ivar Parameter below: what T has below its diagonal, row by row, ``[leaf, pixel * (pixel - 1) / 2]``; or
        ``factor`` :math:`F`, ``[leaf, pixel, rank]``.
    :raises ValueError: when bound, for a likelihood without Normal pixels, several channels, or a rank that is not
        smaller than the number of Normal pixels of the leaf that has most.

    Example::

        >>> from pyro_spvae.conditionals import NormalPixels
        >>> pixels = NormalPixels(Normal()).bind(leaves=2, pixels=3)
        >>> x = torch.randn(5, 2, 3)
        >>> seen = torch.tensor([True, True, False])
        >>> pixels().log_prob(x).shape, pixels(mask=seen).log_prob(x).shape  # the second of two columns
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    begun: Tensor
    tril: Tensor
    others: Pixels | None
    waits = False

    def __init__(self, likelihood: Likelihood, rank: int | None = None) -> None:
        super().__init__(likelihood)
        if rank is not None and (isinstance(rank, bool) or not checks.is_integer(rank) or rank < 0):
            raise ValueError(f"rank is {rank!r}; an integer of at least 0, or None for a full covariance, is needed")
        self.rank = None if rank is None else int(rank)
        self._begun = False
        self.register_load_state_dict_post_hook(_loaded)

    def build(
        self,
        leaves: int,
        pixels: int,
        channels: int | None = None,
        scopes: tuple[tuple[int | None, ...], ...] | None = None,
        features: int | None = None,
    ) -> None:
        """
        Binds the likelihood and draws the parameters.

        :param int channels: of the patches; 1 for tables.
        :param tuple scopes: for each leaf the entries of a datum that its pixels are, ``None`` for padding; if known.
        :param int features: how many features of a leaf there are; by default as many as the likelihood has.
        """
        name = type(self.likelihood).__name__
        if channels is not None and channels > 1:
            raise ValueError(
                f"data have {channels} channels, but leaves of jointly Normal pixels take tables and grey images; give "
                "another leaf"
            )
        known: dict[str, Any] = {} if scopes is None else {"scopes": scopes}
        self.likelihood.bind(leaves=leaves, pixels=pixels, channels=1, **known)
        places = self.likelihood.normal_places()
        if places is None:
            raise ValueError(
                f"the likelihood {name} says of no pixel that it is Normal, which leaves of jointly Normal pixels "
                "need; give Normal, LogNormal, or Columns with a real or positive column"
            )
        if self.rank and self.rank >= places.most:
            raise ValueError(
                f"rank is {self.rank}, but the leaf that has most sees {places.most} Normal columns; a smaller one, or "
                "None for a full covariance, is needed"
            )
        self.places = places
        self.keep_features(pixels, scopes, features)
        self.regions = regions_of(scopes, leaves)
        self.loc = nn.Parameter(torch.randn(leaves, pixels))
        self.scale = nn.Parameter(raw_scale(torch.full((leaves, pixels), 0.7), "softplus", places.least))
        if self.rank is None:
            self.below = nn.Parameter(torch.zeros(leaves, pixels * (pixels - 1) // 2))
            self.register_buffer("tril", torch.tril_indices(pixels, pixels, -1), persistent=False)
        else:
            self.factor = nn.Parameter(0.1 * torch.randn(leaves, pixels, self.rank))
        self.others = None
        if places.others is not None:
            likelihood, of_others = places.others
            places.others = None  # whose it is
            self.others = Pixels(likelihood).bind(leaves=leaves, pixels=pixels, scopes=of_others)
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def forward(self, mask: Tensor | None = None) -> TorchDistribution:
        """
        :param Tensor mask: ``bool``, broadcastable to ``[.., leaf, pixel]``: pixels that count.
        :returns: batch ``[.., leaf]``, event ``[pixel]``.
        """
        if self.places.plain and self.places.joint is None:
            return self._normal(mask)
        coordinates = self.places.of(at_least_single(self.loc))
        others = None if self.others is None else self.others(mask=coordinates.outside(mask))
        return LeafNormalColumns(self._normal(coordinates.inside(mask)), coordinates, others, mask)

    def _normal(self, mask: Tensor | None) -> LeafCorrelatedNormal:
        """Of coordinates; what is none is independent of all else."""
        scale, joint = positive_scale(self.scale, "softplus", self.places.least), self.places.joint
        if joint is not None:
            scale = torch.where(joint, scale, 1.0)
        if self.rank is not None:
            factor = self.factor if joint is None else self.factor * joint.unsqueeze(-1)
            return LeafLowRankNormal(self.loc, factor, scale, mask)
        unit = self._unit_lower(self.below)
        if joint is not None:
            unit = unit * (joint.unsqueeze(-1) & joint.unsqueeze(-2))
        eye = torch.eye(unit.size(-1), dtype=unit.dtype, device=unit.device)
        return LeafMultivariateNormal(self.loc, (unit + eye) / scale.unsqueeze(-1), mask)

    def _unit_lower(self, below: Tensor) -> Tensor:
        """What is below the diagonal in its place, ``[leaf, pixel, pixel]``; 0 elsewhere."""
        rows, columns = self.tril
        pixels = self.loc.size(-1)
        flat = below.new_zeros(below.size(0), pixels * pixels).index_copy(1, rows * pixels + columns, below)
        return flat.unflatten(-1, (pixels, pixels))

    @property
    def moments(self) -> Moments:
        """What EM has to know of coordinates."""
        return FullMoments() if self.rank is None else FactorMoments(self.rank)

    def check_closed_form(self) -> None:
        """
        :raises ValueError: if a column that is not Normal has no closed M-step.
        """
        if self.others is not None:
            self.others.check_closed_form()

    def expected(self, patches: Tensor, weight: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """
        What EM has to know of data, see :meth:`pyro_spvae.conditionals.Pixels.expected`: expected moments of the joint
        values, of those that are missing given those that are seen; moments of each column of all data; and what the
        other columns' likelihood has to know.
        """
        coordinates = self.places.of(weight)
        inside = coordinates.inside(mask)
        with torch.no_grad():
            if inside is not None:
                inside = inside.expand(patches.shape)
            z = coordinates.of(patches.to(weight.dtype))
            z = z if inside is None else torch.where(inside, z, 0.0)
            found = self.moments.expected(self._double(weight.dtype), z, weight, inside)
            seen = torch.ones_like(z) if inside is None else inside.to(z.dtype)
            found += [seen.sum(0), (seen * z).sum(0), (seen * z.square()).sum(0)]
        if self.others is not None:
            found += self.others.expected(patches, weight, coordinates.outside(mask))
        return found

    @torch.no_grad()
    def maximise(self, sums: Iterator[Tensor], smoothing: float = 0.0, ridge: float = 0.0) -> None:
        r"""
        The M-step: of each leaf k of a region, by its expected number of data :math:`n_k`, their mean and their scatter
        :math:`S_k` about it,

        .. math:: \mu_k = \text{mean}, \qquad \Sigma_k = \frac{S_k + a W}{n_k + a} + r \operatorname{diag}(v),
            \qquad W = \frac{\sum_j S_j}{\sum_j n_j}

        with a the smoothing, W the covariance within the leaves of the region, r the ridge and v the variance of each
        column in all data; of low rank the step of EM towards such a covariance, see
        :class:`~pyro_spvae.conditionals.normal_moments.Moments`. Leaves and columns without data keep their means,
        regions without data all.

        :param sums: those of :meth:`expected`, of which as many are taken.
        :param float smoothing: a, in data; also of the columns that are not Normal, by their own likelihood.
        :param float ridge: r, in variances.
        """
        own = [next(sums) for _ in range(self.moments.number)]
        count, first, second = (next(sums) for _ in range(3))
        law = self._double(own[0].dtype)
        known = count > 0
        mean = first / count.clamp(min=1)
        variance = torch.where(known, (second / count.clamp(min=1) - mean.square()).clamp(min=0), law.variance)
        new, learnt = self.moments.maximise(law, own, self.regions, smoothing, ridge * variance, self.places.least)
        self._write(new, learnt)
        if self.others is not None:
            self.others.maximise(sums, smoothing)

    def _double(self, dtype: torch.dtype) -> LeafCorrelatedNormal:
        """The distribution of coordinates in the type of statistics."""
        law = self._normal(None)
        new = law.expand(law.batch_shape)
        for name in law.arg_constraints:
            setattr(new, name, getattr(law, name).detach().to(dtype))
        return new

    def _write(self, new: dict[str, Tensor], learnt: Tensor) -> None:
        """Takes over ``loc``, ``scale`` and ``unit`` or ``factor`` of the leaves that learnt something."""
        values = {"loc": new["loc"], "scale": raw_scale(new["scale"], "softplus", self.places.least)}
        if self.rank is None:
            rows, columns = self.tril
            values["below"] = new["unit"][:, rows, columns]
        else:
            values["factor"] = new["factor"]
        for name, value in values.items():
            parameter = getattr(self, name)
            own = learnt.reshape(-1, *[1] * (value.dim() - 1)) & value.isfinite()
            parameter.copy_(torch.where(own, value.to(parameter.dtype), parameter))

    @property
    def wanted_rows(self) -> int:  # type: ignore[override]
        """As many as parameters start from, until they have."""
        return 0 if self._begun else _ROWS

    @torch.no_grad()
    def start_at(self, patches: Tensor, mask: Tensor | None) -> None:
        """
        Starts from training data, once: the leaves of a region at the means of clusters of its rows (k-means++, Arthur
        and Vassilvitskii 2007, drawn from torch's generator), with the covariance within clusters, the same for all and
        shrunk towards its diagonal.

        :raises ValueError: for fewer rows than a region has leaves.
        """
        if self._begun:
            return
        most = max(stop - start for start, stop in self.regions)
        if len(patches) < most:
            raise ValueError(
                f"x holds {len(patches)} rows, but a region has {most} leaves of jointly Normal columns, each of which "
                "starts from rows of its own; give fewer leaves or more rows"
            )
        dtype = torch.float32 if patches.device.type == "mps" else torch.float64
        coordinates = self.places.of(patches.to(dtype))
        inside = coordinates.inside(mask)
        z = coordinates.of(patches.to(dtype))
        seen = torch.ones_like(z, dtype=torch.bool) if inside is None else inside.expand(z.shape)
        loc, covariance = torch.zeros_like(z[0]), torch.zeros(*z.shape[1:], z.size(-1), dtype=dtype, device=z.device)
        for start, stop in self.regions:
            own = clusters(z[:, start], seen[:, start], stop - start, _SHRUNK)
            loc[start:stop], covariance[start:stop] = own.means, own.covariance
        self._write(self.moments.of(loc, covariance, self.places.least), torch.ones_like(loc[:, 0], dtype=torch.bool))
        self.begun.fill_(True)
        self._begun = True


def _loaded(module: nn.Module, _keys: Any) -> None:
    """One that was saved after it began has begun."""
    assert isinstance(module, NormalPixels)
    module._begun = not module.begun.is_meta and bool(module.begun)
