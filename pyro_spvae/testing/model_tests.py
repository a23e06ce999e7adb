# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the tests of whole models share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyro_spvae.models import SPVAE
from pyro_spvae.testing.block_tests import SeededTests


class ModelTests(SeededTests):
    """
    A model and rows of data for it. Subclasses define :meth:`model` and :meth:`data`.
    """

    #: rows of :meth:`x`
    rows = 3

    def model(self) -> SPVAE:
        """A model, away from its start."""
        raise NotImplementedError

    def data(self, rows: int) -> Tensor:
        """Rows in the support of the model's likelihood, ``[rows, *event]``."""
        raise NotImplementedError

    @pytest.fixture
    def spvae(self) -> SPVAE:
        """The model that most tests look at."""
        return self.model()

    @pytest.fixture
    def x(self) -> Tensor:
        """Some rows."""
        torch.manual_seed(5)
        return self.data(self.rows)
