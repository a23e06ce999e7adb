# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two linear layers, whose evidence is known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.guides import HierarchicalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE, SPVAE
from pyro_spvae.nn import MLP, Joint
from pyro_spvae.priors import StandardNormal, VampPrior
from tests.models.hvae_cases import scale_of


def set_normal(stack, factor, scale):
    """Makes a linear layer for mean and scale change the mean a little and the scale not at all."""
    stack.weights[-2].mul_(factor)
    stack.weights[-1].zero_()
    stack.biases[-2].zero_()
    stack.biases[-1].copy_((scale - 1e-3).expm1().log())


class Linear:
    """
    z2 of a mixture, z1 = A z2 + a + noise, x = W z1 + V z2 + b + noise: log p(x) is known exactly.

    Without a hidden layer an MLP is linear. A joint network has one; with relu it is if it holds z and -z.
    """

    def __init__(self, skip, order, prior, regions=None):
        d = 2
        decoder = Joint((2 * d,), "relu", output_gain=1.0) if skip else MLP((), networks="shared", output_gain=1.0)
        conditional = MLP((), networks="shared", output_gain=1.0)
        leaf = HVAE(Normal(min_scale=1.0), d, d, prior=prior, skip=skip, conditional=conditional, decoder=decoder)
        joint = Joint((2 * d,), "relu", output_gain=1.0)
        linear = MLP((), networks="shared", output_gain=1.0)
        second = joint if order == "top-down" else linear
        guide = HierarchicalGuide(order=order, encoder=MLP((), networks="shared", output_gain=1.0), second=second)
        self.spvae = spvae = SPVAE(regions or whole((1, 2)), units=2, leaf=leaf, guide=guide)
        pixels = spvae.view.pixels
        leaves = spvae.num_leaves
        self.prior = prior
        with torch.no_grad():
            (slope, spread), (offset, raw) = conditional.stacks[0].weights, conditional.stacks[0].biases
            self.a = slope.mul_(0.7).clone()
            spread.zero_()
            self.offset = offset.normal_(0, 0.3).squeeze(1).clone()
            self.between = scale_of(raw.normal_(0.5, 0.3)).squeeze(1).clone()
            if skip:
                both = torch.cat([torch.eye(d), -torch.eye(d)], 1).expand(leaves, d, 2 * d)
                for branch in decoder.branches:
                    branch.stack.weights[0].copy_(both)
                self.w, self.v = 0.5 * torch.randn(leaves, d, pixels), 0.5 * torch.randn(leaves, d, pixels)
                means = torch.cat([self.w, -self.w, self.v, -self.v], 1)
                stack = decoder.trunk.stacks[0]
            else:
                self.w, self.v = 0.7 * torch.randn(leaves, d, pixels), torch.zeros(leaves, d, pixels)
                means, stack = self.w, decoder.stacks[0]
            stack.weights[0].copy_(means)
            stack.weights[1].zero_()
            self.bias, raw = (bias.normal_().squeeze(1).clone() for bias in stack.biases)
            self.sigma = 1.0 + nn.functional.softplus(raw)
            (self.guide_top_down if order == "top-down" else self.guide_bottom_up)(guide, d)

    def guide_top_down(self, guide, d):
        """Close to the prior, which bounds the importance weights: z1 follows z2 as in the model, only wider."""
        set_normal(guide.first.network.stacks[0], 0.03, torch.full((d,), 1.2))
        features, z2 = (branch.stack.weights[0] for branch in guide.second.network.branches)
        features.mul_(0.1)
        z2.copy_(torch.cat([torch.eye(d), -torch.eye(d)], 1))
        trunk = guide.second.network.trunk.stacks[0]
        set_normal(trunk, 0.1, 0.3 + self.between.unsqueeze(1))
        trunk.weights[0][:, 2 * d :] = torch.cat([self.a, -self.a], 1)
        trunk.biases[0].copy_(self.offset.unsqueeze(1))

    def guide_bottom_up(self, guide, d):
        """z1 by its marginal, z2 by regression on it, both wider."""
        precision = self.between.square().reciprocal()
        given = torch.linalg.inv(torch.eye(d) + (self.a * precision.unsqueeze(1)) @ self.a.mT)
        slope = (given @ (self.a * precision.unsqueeze(1))).mT  # from z1 to z2
        marginal = self.a.mT @ self.a + torch.diag_embed(self.between.square())
        widest = torch.linalg.eigvalsh(marginal)[:, -1].sqrt()
        set_normal(guide.first.network.stacks[0], 0.1, 1.1 * widest.reshape(-1, 1, 1).expand(-1, 1, d))
        guide.first.network.stacks[0].biases[0].copy_(self.offset.unsqueeze(1))
        second = guide.second.network.stacks[0]
        widest = torch.linalg.eigvalsh(given)[:, -1].sqrt()
        set_normal(second, 0.0, 1.1 * widest.reshape(-1, 1, 1).expand(-1, 1, d))
        second.weights[0].copy_(slope)
        second.biases[0].copy_(-(self.offset.unsqueeze(1) @ slope))

    def log_prob(self, x):
        patches = self.spvae.view(x)
        mixture = self.prior()
        leaf = torch.empty(len(x), self.spvae.num_leaves)
        for place in range(leaf.size(1)):
            w, v, a = self.w[place], self.v[place], self.a[place]
            through = a @ w + v  # from z2 to the pixels
            own = w.T @ self.between[place].square().diag() @ w + self.sigma[place].square().diag()
            terms = []
            for mean, scale in self.components(mixture, place):
                covariance = through.T @ scale.square().diag() @ through + own
                loc = mean @ through + self.offset[place] @ w + self.bias[place]
                terms.append(MultivariateNormal(loc, covariance).log_prob(patches[:, place]))
            leaf[:, place] = torch.stack(terms).logsumexp(0) - math.log(len(terms))
        return self.spvae.circuit(leaf).detach()

    @staticmethod
    def components(mixture, place):
        if hasattr(mixture, "loc") and mixture.loc.dim() == 3:
            return [(mixture.loc[k, place], mixture.scale[k, place]) for k in range(len(mixture.loc))]
        return [(torch.zeros(2), torch.ones(2))]


class TestEvidence:
    @pytest.mark.parametrize("skip", [True, False])
    @pytest.mark.parametrize(
        ("order", "prior"),
        [("top-down", StandardNormal), ("bottom-up", StandardNormal), ("top-down", lambda: VampPrior(3))],
    )
    def test_of_a_linear_model_is_exact_in_the_limit(self, skip, order, prior):
        model = Linear(skip, order, prior(), poon_domingos((1, 4), delta=2))
        x = model.spvae.sample(2)
        exact = model.log_prob(x)
        found = model.spvae.log_likelihood(x.repeat(20, 1, 1, 1), num_samples=4000, chunk_size=10**5).reshape(20, 2)
        ratio = (found - exact).exp()  # products of averages of independent leaves: 1 in the mean
        error = ratio.std(0) / 20**0.5
        assert ((ratio.mean(0) - 1).abs() < 5 * error).all() and (error < 0.05).all()
        many = x[:1].expand(2000, *x.shape[1:])
        bounds = [CircuitELBO(k).bound(model.spvae.model, model.spvae.guide, many).mean() for k in (1, 8)]
        assert bounds[0] < bounds[1] < exact[0]

    def test_samples_have_the_models_moments(self):
        model = Linear(True, "top-down", StandardNormal())
        drawn = model.spvae.sample(60_000).reshape(-1, 2)
        through = model.a @ model.w + model.v
        root = model.spvae.circuit.posterior(torch.zeros(model.spvae.num_leaves)).flatten()
        mean = torch.einsum("ld,ldp->lp", model.offset, model.w) + model.bias
        second = (
            torch.einsum("ldp,ldq->lpq", through, through)
            + torch.einsum("ldp,ld,ldq->lpq", model.w, model.between.square(), model.w)
            + torch.diag_embed(model.sigma.square())
            + torch.einsum("lp,lq->lpq", mean, mean)
        )
        expected = (root[:, None] * mean).sum(0), (root[:, None, None] * second).sum(0)
        error = drawn.std(0) / len(drawn) ** 0.5
        assert ((drawn.mean(0) - expected[0]).abs() < 4.5 * error).all()
        products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
        error = products.std(0) / len(drawn) ** 0.5
        assert ((products.mean(0) - expected[1]).abs() < 4.5 * error).all()
