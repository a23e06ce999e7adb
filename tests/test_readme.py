# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as it stands there, and what it links to is there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_spvae.commands.app import app
from pyro_spvae.commands.dlgmm_paper import dlgmm
from pyro_spvae.commands.dvae_paper import dvae
from pyro_spvae.commands.dvaepp_paper import dvaepp
from pyro_spvae.commands.reproducing import group
from pyro_spvae.commands.spvae_paper import table_1 as reproduce
from pyro_spvae.commands.training import train
from pyro_spvae.commands.vampprior_paper import vampprior

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```(?:py|python)\n(.*?)```", README, flags=re.DOTALL)
# in one each
SHOWN = (
    "spvae.sample(16)",
    "load_data",
    "SPVAEImputer",
    "class Clusters",
    "learn_regions(table",
    "VampPrior(50)",
    "DLGMM",
    "DiscreteVAE",
    "DVAEpp",
)


@pytest.fixture
def scope(request, monkeypatch, tmp_path):
    """Names that a snippet defines, which runs in an empty folder."""
    (snippet,) = (snippet for snippet in SNIPPETS if request.param in snippet)
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(snippet, "README.md", "exec"), names)
    return names


def shows(text):
    """The test is of the snippet with a text."""
    assert text in SHOWN
    return pytest.mark.parametrize("scope", [text], indirect=True)


def test_every_snippet_is_run():
    assert all(sum(text in snippet for text in SHOWN) == 1 for snippet in SNIPPETS) and len(SNIPPETS) == len(SHOWN)


@shows("spvae.sample(16)")
def test_first_snippet(scope):
    spvae, x, observed = scope["spvae"], scope["x"], scope["observed"]
    counts = {"regions": 100, "leaf_regions": 16, "partitions": 200, "sums": 167, "products": 800, "weights": 1576}
    assert scope["regions"].counts(units=2) == counts | {"leaves": 32}
    result = spvae.log_likelihood(x[:4], num_samples=50)
    assert result.shape == (4,) and result.isfinite().all()
    assert spvae.sample(16).shape == (16, 1, 28, 28)
    filled = spvae.impute(x[:4], observed, num_samples=3)
    assert filled.shape == (3, 4, 1, 28, 28)
    assert torch.equal(filled[:, :, observed], x[:4][:, observed].expand(3, -1, -1))


@shows("load_data")
def test_fitting_saving_and_loading(scope, tmp_path):
    assert scope["x"].shape == (1297, 1, 8, 8)
    assert scope["spvae"].embed(scope["data"].test[:4]).leaf_posterior.shape == (4, 16)
    assert (tmp_path / "runs" / "holes" / "best.pt").is_file()


@shows("SPVAEImputer")
def test_estimators(scope):
    table, filled = scope["table"], scope["filled"]
    assert list(filled.columns) == list(table.columns) and not filled.isna().to_numpy().any()
    assert (filled.loc[::5, "group"] == np.where(scope["adult"], "adult", "child")[::5]).mean() > 0.5
    assert scope["draws"].shape == (5, 200, 3) and set(scope["draws"][:, :, 2].ravel()) == {"adult", "child"}
    assert scope["log_likelihoods"].shape == (200,) and np.isfinite(scope["log_likelihoods"]).all()
    assert scope["density"].columns_[1].family == "poisson" and scope["search"].best_params_["latent_dim"] in (1, 4)


@shows("class Clusters")
def test_parts_of_ones_own(scope):
    posterior = scope["spvae"].embed(scope["x"]).latents["c"]
    assert posterior.shape == (200, 8, 5)
    torch.testing.assert_close(posterior.sum(-1), torch.ones(200, 8))


@shows("learn_regions(table")
def test_other_circuits_and_leaves(scope):
    x, left = scope["x"], scope["left"]
    assert scope["spn"].log_prob(x[:4]).shape == (4,)
    assert torch.equal(scope["spn"].mpe(x[:4], left).x[..., :4], x[:4][..., :4])
    for name in ("mixed", "conv"):
        assert scope[name].log_likelihood(x[:4], num_samples=5).isfinite().all()
    for name in ("learned", "tree", "blocks"):
        assert scope[name].log_likelihood(scope["table"][:4], num_samples=5).isfinite().all()
    assert max(map(len, scope["blocks"].circuit.regions.leaf_scopes)) <= 4


@shows("VampPrior(50)")
def test_priors_hierarchies_and_autoregressive_leaves(scope):
    assert scope["z"].shape == (200, 1, 8)
    for name in ("vae", "mog", "data", "two", "pixel", "scales"):
        assert scope[name].log_likelihood(scope["x"][:3], num_samples=5).isfinite().all()
        assert scope[name].sample(2).shape == (2, 1, 8, 8)


@shows("DLGMM")
def test_mixture_posteriors(scope):
    x = scope["x"]
    probabilities = scope["mixture"].embed(x).latents["c"]
    assert probabilities.shape == (50, 1, 3)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(50, 1))
    for name in ("mixture", "process", "drawn", "one_pass", "sticks"):
        assert scope[name].log_likelihood(x[:3], num_samples=5).isfinite().all()
        assert scope[name].impute(x[:3], x[:3] > 0.5).shape == (1, 3, 1, 8, 8)


def test_experiments_exist():
    names = {command.name for command in group.registered_commands}
    assert set(re.findall(r"pyro-spvae reproduce ([\w-]+)", README)) == names


def test_commands_exist():
    names = {"reproduce"} | {command.name or command.callback.__name__ for command in app.registered_commands}
    shown = set(re.findall(r"pyro[-_]spvae (\w+)", README)) - {"import"}
    assert shown <= names and names - {"reconstruct", "sample", "demo"} <= shown
    options = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", README))
    functions = (train, reproduce, vampprior, dlgmm, dvae, dvaepp)
    known = {option.replace("_", "-") for function in functions for option in inspect.signature(function).parameters}
    verbs = {"observed", "means", "given", "hold", "copies", "split", "holdout", "config-settings"}
    launcher = {"nproc-per-node", "nnodes", "rdzv-backend", "rdzv-endpoint"}
    assert options <= known | verbs | launcher | {"help"}, options - known - verbs - launcher


@shows("DiscreteVAE")
def test_snippet_of_bits(scope):
    spvae, chain, bits, x = (scope[name] for name in ("spvae", "chain", "bits", "x"))
    assert spvae.log_likelihood(x[:4], num_samples=20).isfinite().all()
    probs = spvae.embed(x).latents["z"]
    assert probs.shape == (50, 1, 12) and bool(((probs > 0) & (probs < 1)).all())
    assert chain.log_likelihood(x[:4], num_samples=20).isfinite().all()
    assert bits.embed(x).latents["z"].shape == (50, 1, 16)


@shows("DVAEpp")
def test_snippet_of_global_bits_over_local_variables(scope):
    spvae, scales, quarters, x = (scope[name] for name in ("spvae", "scales", "quarters", "x"))
    assert spvae.log_likelihood(x[:4], num_samples=20).isfinite().all()
    assert spvae.embed(x[:3]).latents["h3"].shape == (3, 1, 4, 4, 4)
    assert quarters.num_leaves == 8 and quarters.log_likelihood(x[:4], num_samples=5).isfinite().all()
    assert scales.latents["h1"].is_discrete and scales.pixels.decoder.autoregressive


def test_links():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target
        if target.endswith(".png"):
            assert (ROOT / target).stat().st_size < 300_000
