# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Density estimation of tables as scikit-learn has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import DensityMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.evaluating import by_blocks
from pyro_spvae.sklearn.base import SPVAEEstimator
from pyro_spvae.sklearn.tables import as_frame

_EXACT_ROWS = 256  # at a time, where nothing is drawn


class SPVAEDensity(DensityMixin, SPVAEEstimator):
    r"""
    Density of a table's rows by a sum-product network or VAE, as an estimator of scikit-learn.

    Numbers are in nats and in the table's own units: densities where a column is real, probabilities where it is
    discrete, see :class:`~pyro_spvae.likelihoods.Columns`. NaN is a missing entry, in fitting too; a row counts by what
    is seen of it.

    Where nothing is said of the model, a few are trained a little, and the best by the rows that are held out for all:
    hidden Chow-Liu trees, mixtures of Gaussians, blocks of columns with VAEs, see
    :func:`pyro_spvae.training.candidates.candidates`. One of ``structure``, ``units``, ``latent_dim`` and ``hidden``
    ends that: then it is a sum-product VAE of these. ``race="none"`` takes the first candidate.

    The log-likelihood of a row is exact where the model has no latent variables, else estimated by importance samples,
    from below in expectation. Its noise is a function of the fit and of the row's own values, so that a row has the
    same number in any company.

    Example::

        >>> import numpy as np
        >>> from pyro_spvae.sklearn import SPVAEDensity
        >>> X = np.random.default_rng(0).normal([5.0, 100.0], [1.0, 20.0], (60, 2))
        >>> density = SPVAEDensity(epochs=3, samples=10, random_state=0).fit(X)
        >>> density.score_samples(X[:4]).shape, density.sample(3).shape
        ((4,), (3, 2))
        >>> bool(density.score(X) > density.score(X + [1.5, 30.0]))
        True

    :param kinds: kinds of columns, or families of distributions, by name, such as ``{"age": "count"}``; the others are
        chosen from the data. Columns of an array are called x0, x1 and so on. Categories that the fit has not seen are
        refused: give ``kinds`` to cross-validation, and columns of pandas' ``Categorical`` type, which state theirs.
    :param structure: region graph: ``auto``, ``random-binary-tree``, ``learned``, ``chow-liu`` or ``whole``.
    :param units: sum nodes of every inner region; by default 4, of a Chow-Liu tree as many as rows allow.
    :param latent_dim: latent size of a leaf.
    :param hidden: hidden layers of the leaf networks; by default (32, 32).
    :param race: ``auto``, or ``none`` for the first candidate.
    :param epochs: most epochs; a tenth of them for each candidate of the race.
    :param patience: validations without a better bound before training stops.
    :param lr: learning rate; by default 0.005, of models without latent variables 0.03.
    :param batch_size: rows of a step; by default 128, of few rows 32 for models without latent variables.
    :param samples: importance samples of each leaf for log-likelihoods.
    :param random_state: an integer, a ``RandomState`` or ``None``. Torch's and Pyro's generators are left as they were.
    :param device: auto, cpu, cuda, cuda:N or mps.
    :param model: a function that makes the model of the columns, instead of the options from structure to race, such
        as ``lambda columns: SPVAE(whole((len(columns),)), 1, likelihood=Columns(columns))``; a function of a module if
        the estimator is to be pickled. Initial parameters follow from ``random_state``.
    :param verbose: show progress bars, and print the race.
    :ivar SPVAE model\_: the model.
    :ivar tuple columns\_: a :class:`~pyro_spvae.data.Column` for each column.
    :ivar list history\_: a dict of metrics for each validation.
    :ivar list race\_: a dict for each candidate, see :func:`pyro_spvae.training.race.race`; empty without a race.
    :ivar int n_features_in\_: number of columns.
    :ivar feature_names_in\_: their names, if it was fitted to a DataFrame whose columns are called by texts.
    """

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """
        The log-likelihood of each row.

        :param X: rows ``[N, D]``; columns of a DataFrame as in the fit.
        :returns: nats, ``[N]``, higher is better; 0 for a row of which nothing is seen.
        :raises ValueError: if columns or values do not fit.
        """
        check_is_fitted(self)
        samples = checks.positive_integer("samples", self.samples)
        x, seen = self._rows(self._validated(X, reset=False))
        values = torch.where(seen, x, 0.0)

        def compute(x: Tensor, seen: Tensor | None, seed: int) -> Tensor:
            assert seen is not None
            torch.manual_seed(self._seed_of(x, seen))
            return self.model_.log_likelihood(x, seen, num_samples=samples).unsqueeze(1)

        rows = 1 if self.model_.latents else _EXACT_ROWS  # each has noise of its own
        found = by_blocks(self.model_, values, seen, compute, 1, rows, self._seed, progress=bool(self.verbose))
        return found[:, 0].numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """
        The mean of :meth:`score_samples`, as ``GaussianMixture`` has it (``KernelDensity`` has the sum).

        :param X: rows ``[N, D]``.
        :param y: ignored.
        :returns: nats per row, higher is better.
        """
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Any:
        """
        Draws rows.

        :param n_samples: how many.
        :param random_state: an integer or a ``RandomState``; by default the estimator's.
        :returns: ``[n_samples, D]``, in the table's own units; a DataFrame if it was fitted to one.
        """
        check_is_fitted(self)
        with self._seeded(self._drawn_seed(random_state)):
            x = self.model_.sample(checks.positive_integer("n_samples", n_samples))
        found = x.cpu().double().numpy()
        return as_frame(found, self.columns_, self._entries) if self._of_frame else found
