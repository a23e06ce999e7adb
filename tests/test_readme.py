# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the README shows runs as it stands there, and what it links to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pyro
import torch

from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.train import train

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_snippet():
    torch.set_default_dtype(torch.float32)
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    pyro.clear_param_store()
    scope: dict = {}
    exec(compile(snippet, "README.md", "exec"), scope)
    spvae, x, observed = scope["spvae"], scope["x"], scope["observed"]
    counts = {"regions": 100, "leaf_regions": 16, "partitions": 200, "sums": 167, "products": 800, "weights": 1576}
    assert scope["regions"].counts(units=2) == counts | {"leaves": 32}
    result = spvae.log_likelihood(x[:4], num_samples=50)
    assert result.shape == (4,) and result.isfinite().all()
    assert spvae.sample(16).shape == (16, 1, 28, 28)
    filled = spvae.impute(x[:4], observed, num_samples=3)
    assert filled.shape == (3, 4, 1, 28, 28)
    assert torch.equal(filled[:, :, observed], x[:4][:, observed].expand(3, -1, -1))


def test_recipe_that_loads_a_run(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    (recipe,) = re.findall(r"```py\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    results = train(TrainConfig(epochs=2, samples=20, hidden=(8,), latent_dim=2), "runs/digits")
    scope: dict = {}
    exec(compile(recipe, "README.md", "exec"), scope)
    pyro.set_rng_seed(0)
    value = scope["spvae"].log_likelihood(scope["x"], num_samples=20).double().mean()
    assert abs(float(value) - results["log_likelihood"]) < 1e-3


def test_links():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target
        if target.endswith(".png"):
            assert (ROOT / target).stat().st_size < 300_000
