# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two latent layers as a leaf: against hand-written algebra, and in circuits."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from pyro_spvae import CircuitELBO, whole
from pyro_spvae.guides import HierarchicalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, SPVAE
from tests.helpers import assert_same_gradients, gradients
from tests.models.hvae_cases import GRID, LATENT, ORDERS, TOP, bits, by_hand, hvae


class TestProgram:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("skip", [True, False])
    @pytest.mark.parametrize(("regions", "num"), [(GRID, 1), (GRID, 3), (whole((2, 2)), 3)])
    def test_bound_equals_hand_written_algebra_under_one_seed(self, order, skip, regions, num):
        spvae = hvae(regions, order=order, skip=skip)
        x = bits(spvae)
        pyro.set_rng_seed(1)
        leaf = by_hand(spvae, x, num, order, skip=skip).logsumexp(0) - math.log(num)
        expected = -spvae.circuit(leaf).sum()
        pyro.set_rng_seed(1)
        loss = CircuitELBO(num)(spvae.model, spvae.guide)(x)
        torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

    def test_scales_are_parameterised_as_asked(self):
        leaf = HVAE(Bernoulli(), LATENT, TOP, (4,), scale="logvar", min_scale=0.2)
        guide = HierarchicalGuide((4,), scale="exp", min_scale=0.3)
        spvae = SPVAE(whole((2, 2)), units=1, leaf=leaf, guide=guide)
        with torch.no_grad():
            for network in (leaf.z1.network, guide.first.network, guide.second.network.trunk):
                network.stacks[0].weights[-1].mul_(100)
        trace = poutine.trace(spvae.guide).get_trace(bits(spvae, 50))
        x = spvae.view(bits(spvae, 50))
        q = guide.posterior(x)
        loc, raw = guide.first.network(x)
        assert torch.equal(q.loc, loc) and q.event_shape == (TOP,)
        torch.testing.assert_close(q.scale, raw.exp().clamp(min=0.3))
        for name in ("z2", "z1"):
            scale = trace.nodes[name]["fn"].scale
            assert scale.min() >= 0.3 and scale.max() > 3
        model = poutine.trace(spvae.model).get_trace(num=200)
        scale = model.nodes["z1"]["fn"].scale
        raw = leaf.z1.network(model.nodes["z2"]["value"])[1]
        torch.testing.assert_close(scale, (raw.clamp(-6, 2) / 2).exp().clamp(min=0.2))

    @pytest.mark.parametrize("order", ORDERS)
    def test_the_data_are_encoded_once_for_all_particles(self, order):
        spvae = hvae(order=order)
        rows = []
        guide = spvae.leaf_guide
        first = guide.second.network.branches[0] if order == "top-down" else guide.first.network
        for network in (guide.first.network, first):
            network.register_forward_hook(lambda module, args, result: rows.append(args[0].shape[:-2]))
        CircuitELBO(7)(spvae.model, spvae.guide)(bits(spvae))
        assert rows == [(5,), (5,)]
        rows.clear()
        spvae.log_likelihood(bits(spvae), num_samples=200, chunk_size=70)
        assert rows == 10 * [(1,)], "in an evaluation once for all samples"


class TestCircuit:
    @pytest.mark.parametrize("elbo", [Trace_ELBO, TraceEnum_ELBO])
    def test_sampled_trees_are_refused_from_the_bottom_up(self, elbo):
        spvae = hvae(order="bottom-up")
        message = (
            "^the leaf guide draws 'z1' before 'z2', the leaf model after it; with a tree that is sampled both need "
            "one order: use CircuitELBO, which sums the tree out, or another guide"
        )
        with pytest.raises(ValueError, match=message):
            elbo(max_plate_nesting=2).loss(spvae.model, spvae.guide, bits(spvae))
        assert math.isfinite(CircuitELBO().loss(spvae.model, spvae.guide, bits(spvae)))

    def test_dreg_has_the_mean_of_the_plain_gradient_from_the_bottom_up(self):
        """In the model's order: tests/infer/test_dreg.py."""
        spvae = hvae(whole((1, 2)), 1, "bottom-up", noise=0.3)
        x = bits(spvae, 1).expand(100, 1, 1, 2)
        draws = {"iwae": [], "dreg": []}
        for seed in range(40):
            for gradient, kept in draws.items():
                pyro.set_rng_seed(seed)
                found = gradients(spvae, CircuitELBO(4, gradient=gradient)(spvae.model, spvae.guide)(x) / 100)
                kept.append(torch.cat([grad.flatten() for grad in found.values()]))
        iwae, dreg = (torch.stack(kept) for kept in draws.values())
        error = ((iwae.var(0) + dreg.var(0)) / 40).sqrt()
        assert ((iwae.mean(0) - dreg.mean(0)).abs() <= 4.8 * error + 1e-12).all()
        assert (iwae.mean(0).abs() > 10 * error).sum() > 20

    def test_a_leaf_that_sees_nothing_has_the_models_latents(self):
        """Of a datum without any entry the latent variables are drawn from the prior, both layers together."""
        spvae = hvae(whole((1, 2)), 1, noise=1.0)
        x, nothing = torch.zeros(4000, 1, 1, 2), torch.zeros(1, 1, 2, dtype=torch.bool)
        drawn = poutine.trace(spvae.posterior(x, nothing, num_particles=20)).get_trace()
        model = poutine.trace(spvae.model).get_trace(num=4000)
        for statistic in (
            lambda z2, z1: z2.mean(-1),
            lambda z2, z1: z1.mean(-1),
            lambda z2, z1: z1[..., 0].square(),
            lambda z2, z1: z2[..., 0] * z1[..., 0],
            lambda z2, z1: z2[..., 1] * z1[..., 1],
        ):
            one, other = (statistic(t.nodes["z2"]["value"], t.nodes["z1"]["value"]).flatten() for t in (drawn, model))
            # values of a datum are drawn out of 20, so that they are independent between data
            assert abs(one.mean() - other.mean()) < 4.5 * ((one.var() + other.var()) / 4000).sqrt()
