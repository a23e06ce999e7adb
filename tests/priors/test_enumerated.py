# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A mixture prior is one site; with its component as a discrete site that Pyro enumerates it is the same."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

from pyro_spvae import collapse_tree, poon_domingos, whole
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from tests.helpers import assert_same_gradients, gradients, small_spvae

PRIORS = {
    "vamp": lambda: VampPrior(4),
    "vamp, learned weights": lambda: VampPrior(4, weights="learned"),
    "vamp, data": lambda: VampPrior(data=torch.rand(4, 1, 2, 2)),
    "mixture of Gaussians": lambda: MixtureOfGaussians(4),
}


def component(spvae):
    """States the component of every leaf, and returns the normal that it chooses."""
    mixture = spvae.leaf.prior()
    k, leaves = mixture.num_components, spvae.num_leaves
    log_weight = torch.zeros(k, leaves) if mixture.log_weight is None else mixture.log_weight
    chosen = pyro.sample("component", dist.Categorical(logits=log_weight.t()), infer={"enumerate": "parallel"})
    index = torch.arange(leaves)
    return dist.Normal(mixture.loc[chosen, index], mixture.scale[chosen, index]).to_event(1)


def written_out(spvae):
    """The model of all leaves of an SPVAE of VAEs, in plain Pyro."""

    def model(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("leaf", spvae.num_leaves, dim=-1):
            z = pyro.sample("z", component(spvae))
            (logits,) = spvae.leaf.pixels.decoder(z)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=spvae.view(x))

    return model


@pytest.fixture(params=PRIORS)
def prior(request):
    return PRIORS[request.param]()


@pytest.mark.parametrize("regions", [whole((2, 2)), poon_domingos((2, 2), delta=1)])
def test_the_loss_and_its_gradients_are_the_same(prior, regions):
    spvae = small_spvae(regions, units=2, prior=prior, likelihood=Bernoulli())
    x = (torch.rand(6, 1, 2, 2) < 0.5).double()
    pyro.set_rng_seed(1)
    expected = Trace_ELBO(max_plate_nesting=2).differentiable_loss(collapse_tree(spvae.model), spvae.guide, x)
    pyro.set_rng_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(written_out(spvae), spvae.guide, x)
    torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
    assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))


def test_the_posterior_over_components_is_what_pyro_computes(prior):
    spvae = small_spvae(poon_domingos((2, 2), delta=1), prior=prior, likelihood=Bernoulli())
    x = (torch.rand(6, 1, 2, 2) < 0.5).double()
    pyro.set_rng_seed(1)
    z = poutine.trace(spvae.guide).get_trace(x).nodes["z"]["value"]
    pyro.set_rng_seed(1)
    marginals = TraceEnum_ELBO(max_plate_nesting=2).compute_marginals(written_out(spvae), spvae.guide, x)
    found = spvae.leaf.prior().component_posterior(z)
    torch.testing.assert_close(marginals["component"].probs, found, atol=1e-10, rtol=0)
    assert found.std(-1).median() > 1e-3, "not all alike"
