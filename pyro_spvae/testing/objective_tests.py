# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every objective is tested by."""

from __future__ import annotations

from typing import Any

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from torch import Tensor

from pyro_spvae.circuits import poon_domingos
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE
from pyro_spvae.testing.block_tests import check_gradients, moved_from_start
from pyro_spvae.testing.model_tests import ModelTests, check_step_on_meta


class ObjectiveTests(ModelTests):
    """
    An objective gives the negative bound in nats, summed over data, as a loss of ``SVI`` and as a module for torch
    optimisers, the same by both.

    Subclasses define :meth:`make`.

    Example::

        >>> from pyro_spvae.testing import ObjectiveTests
        >>> class TestIWAE(ObjectiveTests):
        ...     def make(self):
        ...         return CircuitELBO(num_particles=3)
        >>> issubclass(TestIWAE, ObjectiveTests)
        True
    """

    rows = 4
    #: whether the expectation of the bound is below the evidence
    is_lower_bound = True

    def make(self) -> Any:
        """A new objective."""
        raise NotImplementedError("define make(self), which returns a new objective")

    def model(self) -> SPVAE:
        """A model that it is tried with, away from its start."""
        torch.manual_seed(0)
        spvae = SPVAE(poon_domingos((2, 2), 1), units=2, latent_dim=2, hidden_dims=(3,), likelihood=Normal())
        moved_from_start(spvae)
        return spvae

    def data(self, rows: int) -> Tensor:
        """Rows ``[rows, 1, 2, 2]``."""
        return torch.randn(rows, 1, 2, 2)

    def test_a_training_step_looks_at_no_value(self, spvae: SPVAE, x: Tensor) -> None:
        """Tensors of the meta device have no content: every look at a value, for which a GPU is waited for, fails."""
        check_step_on_meta(spvae.train(), self.make(), x)

    def test_one_loss_by_all_ways(self, spvae: SPVAE, x: Tensor) -> None:
        elbo, found = self.make(), []
        for compute in (
            lambda: elbo.loss(spvae.model, spvae.guide, x),
            lambda: elbo.differentiable_loss(spvae.model, spvae.guide, x).item(),
            lambda: elbo(spvae.model, spvae.guide)(x).item(),
            lambda: elbo.loss_and_grads(spvae.model, spvae.guide, x),
            lambda: -float(elbo.bound(spvae.model, spvae.guide, x).sum()),
        ):
            torch.manual_seed(1)
            found.append(compute())
        pyro.clear_param_store()
        assert found == pytest.approx([found[0]] * len(found), rel=1e-6)

    def test_gradients_reach_every_parameter(self, spvae: SPVAE, x: Tensor) -> None:
        loss = self.make()(spvae.model, spvae.guide)
        assert {id(p) for p in loss.parameters()} == {id(p) for p in spvae.parameters()}
        check_gradients(dict(spvae.named_parameters()), loss(x))

    def test_is_below_the_evidence(self, spvae: SPVAE, x: Tensor) -> None:
        if not self.is_lower_bound:
            pytest.skip("no lower bound")
        evidence = spvae.log_likelihood(x, num_samples=20_000)
        bounds = torch.stack([self.make().bound(spvae.model, spvae.guide, x) for _ in range(100)])
        error = bounds.std(0) / len(bounds) ** 0.5
        assert bool((bounds.mean(0) < evidence + 4.5 * error + 0.05).all())

    def test_data_add_up(self, spvae: SPVAE, x: Tensor) -> None:
        """The loss is the sum over data, times the size of the data over that of the batch, outside of logarithms."""
        torch.manual_seed(1)
        bounds = self.make().bound(spvae.model, spvae.guide, x, size=7 * self.rows)
        assert bounds.shape == (self.rows,)
        torch.manual_seed(1)
        loss = self.make().loss(spvae.model, spvae.guide, x, size=7 * self.rows)
        assert loss == pytest.approx(-7 * float(bounds.sum()), rel=1e-6)

    def test_missing_entries_count_for_nothing(self, spvae: SPVAE, x: Tensor) -> None:
        nothing = torch.zeros(1, 2, 2, dtype=torch.bool)
        bound = self.make().bound(spvae.model, spvae.guide, torch.full_like(x, torch.nan), nothing)
        torch.testing.assert_close(bound, torch.zeros(self.rows), rtol=0, atol=1e-6)

    def test_trains(self, spvae: SPVAE, x: Tensor) -> None:
        pyro.clear_param_store()
        svi = SVI(spvae.model, spvae.guide, ClippedAdam({"lr": 0.02}), self.make())
        torch.manual_seed(1)
        before = sum(svi.evaluate_loss(x) for _ in range(20))
        for _ in range(60):
            svi.step(x)
        after = sum(svi.evaluate_loss(x) for _ in range(20))
        pyro.clear_param_store()
        assert after < before

    def test_runs_on_the_meta_device(self, spvae: SPVAE, x: Tensor) -> None:
        spvae.to("meta")
        with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
            loss = self.make()(spvae.model, spvae.guide)(x.to("meta"))
            loss.backward()
        assert loss.is_meta
