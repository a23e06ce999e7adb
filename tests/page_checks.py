# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What snippets of the pages must leave behind, by a text that one of them alone has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

CHECKS = {}


def after(text):
    """The function checks the names that the snippet with a text leaves."""

    def keep(check):
        CHECKS[text] = check
        return check

    return keep


@after("regions.counts(units=2)  #")
def first_snippet(scope):
    spvae, x, observed = scope["spvae"], scope["x"], scope["observed"]
    counts = {"regions": 100, "leaf_regions": 16, "partitions": 200, "sums": 167, "products": 800, "weights": 1576}
    assert scope["regions"].counts(units=2) == counts | {"leaves": 32}
    result = spvae.log_likelihood(x[:4], num_samples=50)
    assert result.shape == (4,) and result.isfinite().all()
    assert spvae.sample(16).shape == (16, 1, 28, 28)
    filled = spvae.impute(x[:4], observed, num_samples=3)
    assert filled.shape == (3, 4, 1, 28, 28)
    assert torch.equal(filled[:, :, observed], x[:4][:, observed].expand(3, -1, -1))


@after("print(log_likelihoods.mean())")
def thirty_steps(scope):
    assert scope["log_likelihoods"].shape == (20,) and -160 < scope["log_likelihoods"].mean() < -135


@after("fit(x, observed=seen")
def fitting_saving_and_loading(scope):
    assert scope["x"].shape == (1297, 1, 8, 8)
    assert scope["spvae"].embed(scope["data"].test[:4]).leaf_posterior.shape == (4, 16)
    assert (Path() / "runs" / "holes" / "best.pt").is_file()


@after("SPVAEImputer")
def estimators(scope):
    table, filled = scope["table"], scope["filled"]
    assert list(filled.columns) == list(table.columns) and not filled.isna().to_numpy().any()
    assert (filled.loc[::5, "group"] == np.where(scope["adult"], "adult", "child")[::5]).mean() > 0.5
    assert scope["draws"].shape == (5, 200, 3) and set(scope["draws"][:, :, 2].ravel()) == {"adult", "child"}
    assert scope["log_likelihoods"].shape == (200,) and np.isfinite(scope["log_likelihoods"]).all()
    assert scope["density"].columns_[1].family == "poisson" and scope["search"].best_params_["latent_dim"] in (1, 4)


@after("class Clusters")
def parts_of_ones_own(scope):
    posterior = scope["spvae"].embed(scope["x"]).latents["c"]
    assert posterior.shape == (200, 8, 5)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(200, 8))


@after("learn_regions(table")
def other_circuits_and_leaves(scope):
    x, left = scope["x"], scope["left"]
    assert scope["spn"].log_prob(x[:4]).shape == (4,)
    assert torch.equal(scope["spn"].mpe(x[:4], left).x[..., :4], x[:4][..., :4])
    for name in ("mixed", "conv"):
        assert scope[name].log_likelihood(x[:4], num_samples=5).isfinite().all()
    for name in ("learned", "tree", "blocks"):
        assert scope[name].log_likelihood(scope["table"][:4], num_samples=5).isfinite().all()
    assert max(map(len, scope["blocks"].circuit.regions.leaf_scopes)) <= 4


@after("VampPrior(50)")
def priors_hierarchies_and_autoregressive_leaves(scope):
    assert scope["z"].shape == (200, 1, 8)
    for name in ("vae", "mog", "data", "two", "pixel", "scales"):
        assert scope[name].log_likelihood(scope["x"][:3], num_samples=5).isfinite().all()
        assert scope[name].sample(2).shape == (2, 1, 8, 8)


@after("components=3, means=means))  # c is")
def mixture_posteriors(scope):
    x = scope["x"]
    probabilities = scope["mixture"].embed(x).latents["c"]
    assert probabilities.shape == (50, 1, 3)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(50, 1))
    for name in ("mixture", "process", "drawn", "one_pass", "sticks"):
        assert scope[name].log_likelihood(x[:3], num_samples=5).isfinite().all()
        assert scope[name].impute(x[:3], x[:3] > 0.5).shape == (1, 3, 1, 8, 8)


@after("BoltzmannMachine(chains=100)")
def snippet_of_bits(scope):
    spvae, chain, bits, x = (scope[name] for name in ("spvae", "chain", "bits", "x"))
    assert spvae.log_likelihood(x[:4], num_samples=20).isfinite().all()
    probs = spvae.embed(x).latents["z"]
    assert probs.shape == (50, 1, 12) and bool(((probs > 0) & (probs < 1)).all())
    assert chain.log_likelihood(x[:4], num_samples=20).isfinite().all()
    assert bits.embed(x).latents["z"].shape == (50, 1, 16)


@after("from pyro_spvae.priors import IndependentBits")
def snippet_of_global_bits_over_local_variables(scope):
    spvae, scales, quarters, x = (scope[name] for name in ("spvae", "scales", "quarters", "x"))
    assert spvae.log_likelihood(x[:4], num_samples=20).isfinite().all()
    assert spvae.embed(x[:3]).latents["h3"].shape == (3, 1, 4, 4, 4)
    assert quarters.num_leaves == 8 and quarters.log_likelihood(x[:4], num_samples=5).isfinite().all()
    assert scales.latents["h1"].is_discrete and scales.pixels.decoder.autoregressive
