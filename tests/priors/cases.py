# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks that every prior inherits."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from torch import nn
from torch.distributions import Distribution
from torch.func import functional_call

from pyro_spvae.blocks import held

LEAVES, PIXELS, LATENT = 3, 4, 2
ROWS = 5


class PriorTests:
    """A prior is a module whose call returns a distribution over the latent vector of every leaf."""

    reparameterised = False
    keeps = True  # what parameters alone decide, while they do not change
    leaf_dims: dict[str, int] = {}  # where the prior's own parameters and buffers hold the leaves

    def make(self):
        """Not bound yet."""
        raise NotImplementedError

    def bound(self, leaves=LEAVES):
        """Bound, connected, and away from its start."""
        raise NotImplementedError

    def reference(self, prior) -> Distribution:
        """The same by torch's distributions, batch ``[leaf]``."""
        raise NotImplementedError

    def alone(self, prior, leaf):
        """A prior of one leaf with that leaf's parameters."""
        one = self.bound(leaves=1)
        state = prior.state_dict()
        one.load_state_dict({name: state[name].narrow(dim, leaf, 1) for name, dim in self.leaf_dims.items()})
        return one

    @pytest.fixture
    def prior(self):
        return self.bound()

    def test_shapes(self, prior):
        distribution = prior()
        assert distribution.event_shape == (LATENT,)
        assert torch.broadcast_shapes(distribution.batch_shape, (LEAVES,)) == (LEAVES,)
        for shape in ((LEAVES,), (ROWS, LEAVES), (2, ROWS, LEAVES)):
            expanded = distribution.expand(shape)
            z = expanded.sample()
            assert z.shape == (*shape, LATENT) and expanded.batch_shape == shape
            assert expanded.sample((7,)).shape == (7, *shape, LATENT)
            assert distribution.log_prob(z).shape == expanded.log_prob(z).shape == shape
            assert expanded.log_prob(z[..., :1, :]).shape == shape
            torch.testing.assert_close(expanded.log_prob(z), distribution.log_prob(z), rtol=1e-13, atol=1e-13)
        with pytest.raises((ValueError, RuntimeError)):  # torch's own distributions raise the second
            prior().expand((ROWS, LEAVES)).expand((ROWS, LEAVES + 1))

    def test_has_the_density_of_torchs_distributions(self, prior):
        z = 2 * torch.randn(2, ROWS, LEAVES, LATENT, requires_grad=True)
        ours, theirs = prior().log_prob(z), self.reference(prior).log_prob(z)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        weight = torch.randn_like(ours)
        grads = [torch.autograd.grad((weight * value).sum(), z)[0] for value in (ours, theirs)]
        torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)

    def test_mean_and_variance_are_torchs(self, prior):
        distribution, reference = prior().expand((LEAVES,)), self.reference(prior)
        torch.testing.assert_close(distribution.mean, reference.mean.expand(LEAVES, LATENT))
        torch.testing.assert_close(distribution.variance, reference.variance.expand(LEAVES, LATENT))

    def test_samples_have_the_moments_of_the_density(self, prior):
        """Integrals over a grid: the density is normalised, and says what samples do."""
        line = torch.linspace(-9, 9, 361)
        grid = torch.cartesian_prod(line, line)
        with torch.no_grad():
            mass = prior().log_prob(grid.unsqueeze(-2).expand(-1, LEAVES, -1)).exp() * (line[1] - line[0]) ** 2
        torch.testing.assert_close(mass.sum(0), torch.ones(LEAVES), atol=1e-6, rtol=0)
        drawn = prior().expand((40_000, LEAVES)).sample()
        for statistic in (
            lambda z: z[..., 0],
            lambda z: z[..., 1],
            lambda z: z[..., 0].square(),
            lambda z: z[..., 1].square(),
            lambda z: z[..., 0] * z[..., 1],
            lambda z: (z[..., 0] - z[..., 1]).abs(),
            lambda z: z.norm(dim=-1).cos(),
        ):
            expected = (mass * statistic(grid).unsqueeze(-1)).sum(0)
            found = statistic(drawn)
            error = found.std(0) / math.sqrt(len(drawn))
            assert ((found.mean(0) - expected).abs() < 4.5 * error).all() and (error < 0.1).all()

    def test_gradients(self, prior):
        z = torch.randn(2, LEAVES, LATENT, requires_grad=True)
        names = [name for name, _ in prior.named_parameters()]

        def log_prob(z, *values):
            return functional_call(prior, dict(zip(names, values, strict=True)), ()).log_prob(z)

        parameters = [parameter.detach().clone().requires_grad_() for parameter in prior.parameters()]
        assert torch.autograd.gradcheck(log_prob, (z, *parameters))

    def test_each_leaf_is_as_if_alone(self, prior):
        z = torch.randn(ROWS, LEAVES, LATENT)
        together = prior().log_prob(z)
        for leaf in range(LEAVES):
            alone = self.alone(prior, leaf)().log_prob(z[:, leaf : leaf + 1])
            torch.testing.assert_close(alone, together[:, leaf : leaf + 1], rtol=1e-12, atol=1e-12)
        if self.leaf_dims:
            assert (together[:, 0] - prior().log_prob(z[:, [0]])[:, 1]).abs().min() > 1e-6, "leaves differ"

    def test_leaves_and_rows_are_drawn_independently(self, prior):
        z = prior().expand((4000, LEAVES)).sample()
        standard = (z - z.mean(0)) / z.std(0)
        for one, other in ((standard[:, 0], standard[:, 1]), (standard[:-1, 0], standard[1:, 0])):
            assert ((one * other).mean(0).abs() < 4.5 / math.sqrt(len(one))).all()

    def test_samples_carry_no_gradient(self, prior):
        assert prior().has_rsample == self.reparameterised
        assert not prior().expand((LEAVES,)).sample().requires_grad

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_follows_dtype(self, dtype):
        prior = self.bound()
        expected = prior().log_prob(torch.ones(LEAVES, LATENT))
        for one in (prior, getattr(self, "guide", None)):
            if isinstance(one, nn.Module):
                one.to(dtype)
        distribution = prior()
        assert distribution.sample().dtype == distribution.mean.dtype == dtype
        value = distribution.log_prob(torch.ones(LEAVES, LATENT, dtype=dtype))
        assert value.dtype == dtype
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)

    def test_has_no_sizes_before_binding(self):
        with pytest.raises(ValueError, match=r"has no sizes yet; pass it to a model, or call bind"):
            self.make()()

    def test_is_bound_once(self, prior):
        with pytest.raises(ValueError, match="is bound already"):
            prior.bind(leaves=1, event_shape=(1,), pixels=1)

    def test_state_dict_round_trip(self, prior):
        assert set(prior.state_dict()) == set(self.leaf_dims)
        one = self.bound()
        z = torch.randn(ROWS, LEAVES, LATENT)
        if self.leaf_dims:
            assert not torch.equal(one().log_prob(z), prior().log_prob(z))
        one.load_state_dict(prior.state_dict())
        torch.testing.assert_close(one().log_prob(z), prior().log_prob(z), rtol=0, atol=0)

    def test_options_make_the_same_prior(self):
        prior = self.make()
        again = type(prior)(**prior.options())
        assert again.options() == prior.options() and repr(again) == repr(prior)

    def test_is_one_distribution_while_parameters_do_not_change(self, prior):
        pyro.set_rng_seed(1)
        expected = prior().expand((LEAVES,)).sample()
        with held(prior):
            assert self.keeps == (prior() is prior())
            pyro.set_rng_seed(1)
            assert torch.equal(prior().expand((LEAVES,)).sample(), expected)
            with torch.no_grad():
                without = prior()
                assert self.keeps == (without is prior())
            assert not self.keeps or not without.scale.requires_grad and prior().scale.requires_grad
        assert prior() is not prior()
