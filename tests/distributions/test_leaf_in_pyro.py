# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distributions inside Pyro programs give what stock ones give: divergences, mixtures, plates and ELBOs."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch.distributions import kl_divergence
from torch.testing import assert_close

from pyro_spvae.distributions.bernoulli import LeafBernoulli
from pyro_spvae.distributions.normal import LeafNormal, LeafStandardNormal

DATA, LEAF, LATENT, PIXEL = 3, 2, 4, 5
VECTORISED = {"num_particles": 4, "vectorize_particles": True, "max_plate_nesting": 2}


def normals(*batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(*batch, LATENT).requires_grad_(), (0.3 + torch.rand(*batch, LATENT)).requires_grad_()


class TestKL:
    @pytest.mark.parametrize("p_batch, q_batch", [((3, 2), (3, 2)), ((5, 3, 2), (2,)), ((1, 2), (3, 1)), ((), (2,))])
    @pytest.mark.parametrize("standard", [False, True])
    def test_equals_torch_in_value_and_gradients(self, p_batch, q_batch, standard):
        p, q = normals(*p_batch), () if standard else normals(*q_batch)
        ours = kl_divergence(LeafNormal(*p), LeafNormal(*q) if q else LeafStandardNormal(LATENT))
        theirs = kl_divergence(dist.Normal(*p), dist.Normal(*(q or (0.0, 1.0)))).sum(-1)
        assert_close(ours, theirs)
        weight = torch.randn(ours.shape)
        assert_close(*(torch.autograd.grad((weight * value).sum(), (*p, *q)) for value in (ours, theirs)))

    def test_recorded_batch_shapes(self):
        p, q = LeafNormal(*normals(1, LEAF)).expand((5, DATA, LEAF)), LeafNormal(*normals(LEAF))
        assert kl_divergence(p, q).shape == kl_divergence(p, LeafStandardNormal(LATENT)).shape == (5, DATA, LEAF)
        assert kl_divergence(q, LeafStandardNormal(LATENT, (DATA, 1))).shape == (DATA, LEAF)

    def test_shared_mask(self):
        mask = torch.tensor([True, False, True, False])
        p, q = normals(LEAF), normals(LEAF)
        ours = kl_divergence(LeafNormal(*p, mask=mask), LeafNormal(*q, mask=mask))
        assert_close(ours, kl_divergence(dist.Normal(*p), dist.Normal(*q))[..., mask].sum(-1))

    def test_what_has_no_closed_form_is_refused(self):
        mask = torch.tensor([True, False, True, False])
        p, q = normals(LEAF), normals(LEAF)
        with pytest.raises(NotImplementedError, match="mask"):
            kl_divergence(LeafNormal(*p, mask=mask), LeafNormal(*q))
        with pytest.raises(NotImplementedError, match="mask"):
            kl_divergence(LeafNormal(*p, mask=mask), LeafStandardNormal(LATENT))
        with pytest.raises(ValueError, match="events"):
            kl_divergence(LeafNormal(*p), LeafStandardNormal(LATENT + 1))


class TestMaskedMixture:
    """The pseudo-prior: leaves off the tree take the guide's q, the others the prior."""

    @pytest.fixture(params=["standard", "normal"])
    def parts(self, request):
        q = normals(DATA, LEAF)
        prior = (torch.zeros(LATENT), torch.ones(LATENT)) if request.param == "standard" else normals(LEAF)
        ours = LeafStandardNormal(LATENT) if request.param == "standard" else LeafNormal(*prior)
        tree = torch.tensor([[True, False], [False, True], [True, True]])
        return tree, LeafNormal(*q), ours, dist.Normal(*q).to_event(1), dist.Normal(*prior).to_event(1)

    def test_log_prob_and_moments(self, parts):
        tree, q, p, stock_q, stock_p = parts
        ours, theirs = dist.MaskedMixture(tree, q, p), dist.MaskedMixture(tree, stock_q, stock_p.expand((LEAF,)))
        assert ours.batch_shape == (DATA, LEAF) and ours.event_shape == (LATENT,) and ours.has_rsample
        for shape in [(LATENT,), (DATA, LEAF, LATENT), (6, DATA, LEAF, LATENT)]:
            z = torch.randn(shape)
            assert_close(ours.log_prob(z), torch.where(tree, stock_p.log_prob(z), stock_q.log_prob(z)))
        assert_close(ours.mean, theirs.mean)
        assert_close(ours.variance, theirs.variance)
        assert ours.support is dist.constraints.real_vector

    def test_expand_by_plates(self, parts):
        tree, q, p, stock_q, stock_p = parts
        z = torch.randn(5, DATA, LEAF, LATENT)
        with pyro.plate("particle", 5, dim=-3), pyro.plate("data", DATA, dim=-2), pyro.plate("leaf", LEAF, dim=-1):
            trace = poutine.trace(lambda: pyro.sample("z", dist.MaskedMixture(tree, q, p))).get_trace()
        site: Any = trace.nodes["z"]
        assert site["value"].shape == z.shape and site["fn"].batch_shape == z.shape[:-1]
        assert len(torch.unique(site["value"][:, 0, 0, 0])) == 5
        assert_close(site["fn"].log_prob(z), torch.where(tree, stock_p.log_prob(z), stock_q.log_prob(z)))


class TestELBOs:
    """The same VAE of two leaves, written with ours and with stock distributions, under one seed."""

    @pytest.fixture
    def net(self):
        x = torch.bernoulli(torch.full((DATA, LEAF, PIXEL), 0.5))
        loc, scale = normals(DATA, LEAF)
        return x, loc, scale, torch.randn(LATENT, PIXEL).requires_grad_(), torch.rand(DATA, LEAF, PIXEL) < 0.7

    def programs(self, net, lean):
        x, loc, scale, weight, observed = net

        def model():
            with pyro.plate("data", DATA, dim=-2), pyro.plate("leaf", LEAF, dim=-1):
                prior = LeafStandardNormal(LATENT) if lean else dist.Normal(torch.zeros(LATENT), 1.0).to_event(1)
                with poutine.scale(scale=0.7):
                    z = pyro.sample("z", prior)
                logits = z @ weight
                seen = LeafBernoulli(logits, observed) if lean else dist.Bernoulli(logits=logits).mask(observed)
                pyro.sample("x", seen if lean else seen.to_event(1), obs=x)

        def guide():
            with pyro.plate("data", DATA, dim=-2), pyro.plate("leaf", LEAF, dim=-1), poutine.scale(scale=0.7):
                pyro.sample("z", LeafNormal(loc, scale) if lean else dist.Normal(loc, scale).to_event(1))

        return model, guide

    @pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites")
    @pytest.mark.parametrize(
        ("elbo", "options"),
        [
            (Trace_ELBO, {}),
            (Trace_ELBO, VECTORISED),
            (TraceMeanField_ELBO, VECTORISED),
            (TraceEnum_ELBO, VECTORISED),
            (RenyiELBO, VECTORISED | {"alpha": 0}),
            (RenyiELBO, {"num_particles": 4, "alpha": 0.5}),
        ],
    )
    def test_loss_and_gradients_equal_stock(self, net, elbo, options):
        _, loc, scale, weight, _ = net
        results = []
        for lean in [True, False]:
            model, guide = self.programs(net, lean)
            torch.manual_seed(5)
            loss = elbo(**options).loss_and_grads(model, guide)
            results.append([torch.tensor(loss), *(p.grad for p in (loc, scale, weight))])
            for p in (loc, scale, weight):
                p.grad = None
        assert_close(results[0], results[1])
