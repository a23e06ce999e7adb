# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks of the priors of this package, beside those that a user's own inherits."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch.distributions import Distribution
from torch.func import functional_call

from pyro_spvae import testing
from pyro_spvae.blocks import held
from pyro_spvae.testing.block_tests import LATENT, LEAVES, PIXELS, ROWS

__all__ = ["LATENT", "LEAVES", "PIXELS", "ROWS", "PriorTests"]


class PriorTests(testing.PriorTests):
    """Equal to torch's distributions, in density, moments and gradients."""

    mass_error = 1e-6
    reparameterised = False
    keeps = True  # what parameters alone decide, while they do not change
    learned: set[str] = set()  # names in the state

    def reference(self, prior) -> Distribution:
        """The same by torch's distributions, batch ``[leaf]``."""
        raise NotImplementedError

    def test_has_the_density_of_torchs_distributions(self, part):
        z = 2 * torch.randn(2, ROWS, LEAVES, LATENT, requires_grad=True)
        ours, theirs = part().log_prob(z), self.reference(part).log_prob(z)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        weight = torch.randn_like(ours)
        grads = [torch.autograd.grad((weight * value).sum(), z)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)

    def test_mean_and_variance_are_torchs(self, part):
        law, reference = part().expand((LEAVES,)), self.reference(part)
        torch.testing.assert_close(law.mean, reference.mean.expand(LEAVES, LATENT))
        torch.testing.assert_close(law.variance, reference.variance.expand(LEAVES, LATENT))

    def test_shapes(self, part):
        super().test_shapes(part)
        z = part().expand((ROWS, LEAVES)).sample()[..., :1, :]
        assert part().expand((ROWS, LEAVES)).log_prob(z).shape == (ROWS, LEAVES)
        with pytest.raises((ValueError, RuntimeError)):  # torch's own distributions raise the second
            part().expand((ROWS, LEAVES)).expand((ROWS, LEAVES + 1))

    def test_gradients(self, part):
        z = torch.randn(2, LEAVES, LATENT, requires_grad=True)
        names = [name for name, _ in part.named_parameters()]

        def log_prob(z, *values):
            return functional_call(part, dict(zip(names, values, strict=True)), ()).log_prob(z)

        parameters = [parameter.detach().clone().requires_grad_() for parameter in part.parameters()]
        assert torch.autograd.gradcheck(log_prob, (z, *parameters))

    def test_leaves_differ_and_the_state_is_what_is_learned(self, part):
        z = torch.randn(ROWS, 1, LATENT)
        assert set(part.state_dict()) == self.learned and part().has_rsample == self.reparameterised
        if self.learned:
            assert (part().log_prob(z)[:, 0] - part().log_prob(z)[:, 1]).abs().min() > 1e-6

    def test_has_no_distribution_before_binding(self):
        with pytest.raises(ValueError, match=r"has no sizes yet; pass it to a model, or call bind"):
            self.make()()

    def test_is_one_distribution_while_parameters_do_not_change(self, part):
        pyro.set_rng_seed(1)
        expected = part().expand((LEAVES,)).sample()
        with held(part):
            assert self.keeps == (part() is part())
            pyro.set_rng_seed(1)
            assert torch.equal(part().expand((LEAVES,)).sample(), expected)
            with torch.no_grad():
                without = part()
                assert self.keeps == (without is part())
            assert not self.keeps or not without.scale.requires_grad and part().scale.requires_grad
        assert part() is not part()
