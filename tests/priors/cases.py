# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks of the priors of this package, beside those that a user's own inherits; small models with a VampPrior."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch import nn
from torch.distributions import Distribution
from torch.func import functional_call

from pyro_spvae import poon_domingos, testing
from pyro_spvae.blocks import held
from pyro_spvae.priors import VampPrior
from pyro_spvae.testing.block_tests import LATENT, LEAVES, ROWS
from tests.helpers import small_spvae

GRID = poon_domingos((2, 2), delta=1)


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


def vamp(components=3, regions=GRID, units=2, **options):
    """A small model whose pseudo-inputs are where the hardtanh has a derivative."""
    names = ("likelihood", "latent_dim", "hidden_dims", "channels")
    model = {name: options.pop(name) for name in names if name in options}
    spvae = small_spvae(regions, units, prior=VampPrior(components, **options), **model)
    if isinstance(spvae.leaf.prior.pseudo_inputs, nn.Parameter):
        with torch.no_grad():
            spvae.leaf.prior.pseudo_inputs.uniform_(0.1, 0.9)
    return spvae


def data(spvae, rows=5):
    return torch.rand(rows, *spvae.event_shape)


def count(network):
    """A list that grows with every call of a network, by the number of its rows."""
    calls: list[int] = []
    network.register_forward_hook(lambda module, args, result: calls.append(len(args[0])))
    return calls


def check_slope(parameters, gradients, value):
    """The derivative in a random direction of some parameters, by name, against a finite difference."""
    direction = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    found = []
    for step in (1e-6, -2e-6, 1e-6):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.add_(step * direction[name])
        found.append(value().item())
    slope = sum(float((gradients[name] * direction[name]).sum()) for name in parameters)
    assert abs(slope) > 1e-3
    assert (found[0] - found[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)
