# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Imputation of a table's missing entries as scikit-learn has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.data.tables import is_frame
from pyro_spvae.sklearn.base import SPVAEEstimator
from pyro_spvae.sklearn.tables import as_array, filled_frame, in_units


class SPVAEImputer(OneToOneFeatureMixin, TransformerMixin, SPVAEEstimator):
    r"""
    Imputation of missing entries given the seen ones of their row by a sum-product network or VAE, as a transformer of
    scikit-learn.

    NaN is a missing entry, in fitting too; what is seen is left as it is. :meth:`transform` fills in

    .. math:: E[x_j \mid x_{\mathrm{seen}}],

    and the most probable category where a column has categories. :meth:`transform_draws` fills in draws of
    :math:`p(x_{\mathrm{missing}} \mid x_{\mathrm{seen}})` instead, several for each entry, whose spread says how sure
    they are (multiple imputation).

    What is chosen for a table of which nothing is said, see :class:`~pyro_spvae.sklearn.SPVAEDensity`, mostly answers
    exactly. A model with latent variables learns to infer from what is seen where rows that it is fitted to have holes
    as well: fitted to whole rows alone, it needs more ``samples``.

    A DataFrame's categories keep their names. As ever in scikit-learn an array is returned, of objects where there are
    texts, unless ``set_output(transform="pandas")`` asks for a DataFrame.

    Example::

        >>> import numpy as np
        >>> from pyro_spvae.sklearn import SPVAEImputer
        >>> X = np.random.default_rng(0).normal(size=(60, 2))
        >>> X[0, 1] = np.nan
        >>> imputer = SPVAEImputer(epochs=3, samples=10, random_state=0).fit(X)
        >>> bool(np.isnan(imputer.transform(X)).any()), imputer.transform_draws(X, 5).shape
        (False, (5, 60, 2))

    :param samples: particles of the posterior, and draws of it that are averaged by :meth:`transform`.

    The other options, and attributes, are those of :class:`~pyro_spvae.sklearn.SPVAEDensity`.
    """

    def transform(self, X: Any) -> Any:
        """
        Means and most probable categories in the place of missing entries; the same whenever it is asked of the same
        rows.

        :param X: rows ``[N, D]``; columns of a DataFrame as in the fit.
        :returns: ``[N, D]``.
        :raises ValueError: if columns or values do not fit.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        with self._seeded(self._seed):
            (values,) = self._filled(X, checks.positive_integer("samples", self.samples), average=True)
        if not is_frame(X):
            return values
        frame = filled_frame(X, values, self.columns_, self._entries)
        return frame if _get_output_config("transform", self)["dense"] == "pandas" else as_array(frame)

    def transform_draws(self, X: Any, draws: int = 5, random_state: Any = None) -> NDArray[Any]:
        """
        Completed tables, whose missing entries are drawn given the seen ones of their row; which draws these are
        depends on which rows are asked about together.

        :param X: rows ``[N, D]``; columns of a DataFrame as in the fit.
        :param draws: number m of tables.
        :param random_state: an integer or a ``RandomState``; by default the estimator's.
        :returns: ``[m, N, D]``, of objects where there are texts.
        """
        check_is_fitted(self)
        draws = checks.positive_integer("draws", draws)
        X = self._validated(X, reset=False)
        with self._seeded(self._drawn_seed(random_state)):
            values = self._filled(X, draws, average=False)
        if not is_frame(X):
            return values
        return np.stack([as_array(filled_frame(X, own, self.columns_, self._entries)) for own in values])

    def _filled(self, X: Any, draws: int, average: bool) -> NDArray[np.float64]:
        """Numbers ``[m, N, D]`` where all entries are there: those that were seen, and draws, or averages of these."""
        x, seen = self._rows(X)
        found = np.stack([_given(X, x)] * (1 if average else draws))
        (rows,) = (~seen).any(1).nonzero(as_tuple=True)
        if len(rows):
            own, mask, places = x[rows], seen[rows], rows.cpu().numpy()
            filled = self._averages(own, mask, draws) if average else self._draws(own, mask, draws)
            values = filled.cpu().double().numpy()
            values = values if is_frame(X) else in_units(values, self.columns_)
            found[:, places] = np.where(mask.cpu().numpy(), found[:, places], values)
        return found

    @property
    def _particles(self) -> int:
        return checks.positive_integer("samples", self.samples)

    def _draws(self, x: Tensor, seen: Tensor, draws: int) -> Tensor:
        return self.model_.impute(x, seen, draws, num_particles=self._particles)

    def _averages(self, x: Tensor, seen: Tensor, draws: int) -> Tensor:
        """
        Conditional means, and most probable categories, ``[1, N, D]``; where there are latent variables each row by
        draws of its own, so that it does not matter which other rows are asked about.
        """
        if len(x) > 1 and self.model_.latents:
            pairs = zip(x.split(1), seen.split(1), strict=True)
            return torch.cat([self._averages(row, mask, draws) for row, mask in pairs], 1)
        torch.manual_seed(self._seed_of(x, seen))
        found = self.model_.conditional_mean(x, seen, num_particles=self._particles)
        coded = torch.tensor([column.is_coded for column in self.columns_], device=x.device)
        if self.model_.columns is None and bool((~seen & coded).any()):  # a likelihood that knows no categories
            found = torch.where(coded & ~seen, self._draws(x, seen, draws).mode(0).values, found)
        return found.unsqueeze(0)


def _given(X: Any, x: Tensor) -> NDArray[np.float64]:
    """The numbers of the table as they were given, which the model may hold in a shorter type."""
    return x.cpu().double().numpy() if is_frame(X) else X
