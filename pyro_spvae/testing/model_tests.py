# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the tests of whole models share."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from torch import Tensor

from pyro_spvae.models import SPVAE
from pyro_spvae.testing.block_tests import SeededTests


def check_step_on_meta(spvae: SPVAE, objective: Any, x: Tensor) -> None:
    """Forward and backward without content, validation off; moves the model to the meta device."""
    parameters = list(spvae.to("meta").parameters())
    with pyro.validation_enabled(False):
        loss = objective.differentiable_loss(spvae.model, spvae.guide, x.to("meta"))
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    assert loss.is_meta and any(grad is not None for grad in grads)
    for parameter, grad in zip(parameters, grads, strict=True):
        assert grad is None or (grad.is_meta and grad.shape == parameter.shape)


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
