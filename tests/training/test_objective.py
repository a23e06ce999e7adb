# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objectives by name: what is trained, what validation says, and what is refused before training."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyro_spvae.circuits import whole
from pyro_spvae.data import DATA_SETS
from pyro_spvae.infer import CircuitELBO, SingleLeafELBO
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import VAE
from pyro_spvae.training import job as job_module
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.job import set_up
from pyro_spvae.training.objective import as_bound, build_loss, build_objective, check_objective
from tests.helpers import small_spvae
from tests.infer.test_single_leaf import Scored
from tests.training.cases import TINY, built, images, trainer_of

STOCK = {
    "trace-elbo": Trace_ELBO,
    "trace-enum-elbo": TraceEnum_ELBO,
    "trace-mean-field-elbo": TraceMeanField_ELBO,
    "pyro-renyi-elbo": RenyiELBO,
}


def trainer(objective, **options):
    return trainer_of(*built(images(levels=2), objective=objective, structure="whole", units=1, **options))


@pytest.mark.parametrize(
    ("objective", "alpha", "order"),
    [*((name, None, 1.0) for name in list(STOCK)[:3]), ("pyro-renyi-elbo", None, 0.0), ("pyro-renyi-elbo", 0.5, 0.5)],
)
def test_names(objective, alpha, order):
    elbo = build_objective(FitConfig(objective=objective, alpha=alpha, particles=3))
    assert type(elbo) is STOCK[objective] and getattr(elbo, "alpha", 1.0) == order
    spvae = small_spvae(whole((2, 2)), units=1)
    assert isinstance(build_loss(elbo, spvae.model, spvae.guide), SingleLeafELBO)
    watched = as_bound(elbo)
    assert type(watched) is CircuitELBO and (watched.num_particles, watched.alpha) == (3, order)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("objective", "ours"),
    [
        ("trace-elbo", {"objective": "elbo"}),
        ("trace-enum-elbo", {"objective": "elbo"}),
        ("trace-mean-field-elbo", {"objective": "elbo", "kl": "analytic"}),
        ("pyro-renyi-elbo", {"objective": "iwae"}),
    ],
)
def test_training_is_that_of_our_objective(objective, ours, warmup):
    options = {"warmup": warmup, "epochs": 3, "precision": "float64"}
    one, other = trainer(objective, **options), trainer(**ours, **options)
    lines = [made.run() for made in (one, other)]
    for name, value in one.spvae.state_dict().items():
        torch.testing.assert_close(value, other.spvae.state_dict()[name], rtol=1e-7, atol=1e-8)
    assert len(lines[0]) == 3
    for a, b in zip(*lines, strict=True):
        for name in ("elbo", "val_elbo", "val_leaf_elbo", "val_latent_kl"):
            assert a[name] == pytest.approx(b[name], rel=1e-7, abs=1e-8), name


@pytest.mark.parametrize("objective", STOCK)
def test_a_circuit_of_several_leaves_is_refused_before_training(objective, monkeypatch):
    data = images(levels=2)
    monkeypatch.setattr(job_module, "recorded", lambda config: data)
    assert TINY.data in DATA_SETS
    with pytest.raises(ValueError, match=f"^objective is '{objective}', but the circuit has 12 leaves, whose tree the"):
        set_up(
            dataclasses.replace(TINY, objective=objective, structure="poon-domingos", delta=2, leaves=3), "cpu", False
        )
    spvae = small_spvae()
    with pytest.raises(ValueError, match=f"^objective is '{objective}', but the circuit has 8 leaves, "):
        spvae.fit(torch.randn(20, 1, 2, 2), objective=objective)
    one = dataclasses.replace(TINY, objective=objective, structure="whole", units=1)
    assert set_up(one, torch.device("cpu"), False).spvae.num_leaves == 1


@pytest.mark.parametrize("objective", ["trace-mean-field-elbo", "pyro-renyi-elbo"])
def test_a_guide_without_rsample_is_refused_before_training(objective, tmp_path):
    spvae = small_spvae(whole((2, 2)), units=1, leaf=VAE(Bernoulli(), 2, (3,)), guide=Scored())
    x = (torch.randn(20, 1, 2, 2) > 0).double()
    state = torch.get_rng_state()
    message = f"^objective is '{objective}'; {STOCK[objective].__name__} cannot train a guide whose site 'z' has no rs"
    with pytest.raises(ValueError, match=message):
        spvae.fit(x, objective=objective, out=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state) and not (tmp_path / "run").exists()
    for taken in ("iwae", "trace-elbo", "trace-enum-elbo"):  # which have a gradient for it
        check_objective(FitConfig(objective=taken), spvae, x)


@pytest.mark.parametrize("options", [{"objective": "elbo", "kl": "z, y"}, {"objective": CircuitELBO(alpha=1, kl="y")}])
def test_a_site_that_is_not_latent_is_refused_before_training(options, tmp_path):
    spvae = small_spvae(whole((2, 2)), units=1, leaf=VAE(Bernoulli(), 2, (3,)))
    x = (torch.randn(20, 1, 2, 2) > 0).double()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="^kl names the site 'y', but the latent sites are z$"):
        spvae.fit(x, out=tmp_path / "run", **options)
    assert torch.equal(torch.get_rng_state(), state) and not (tmp_path / "run").exists()
    check_objective(FitConfig(objective="elbo", kl="z"), spvae, x)
    with pytest.raises(ValueError, match="^kl names the site 'z', but no site is latent$"):
        trainer("elbo", leaf="factorized", latent_dim=None, kl="z").run()


def test_leaves_without_latent_variables():
    made = trainer("trace-elbo", leaf="factorized", latent_dim=None)
    assert all(math.isfinite(line["val_elbo"]) for line in made.run())
    same = trainer("elbo", leaf="factorized", latent_dim=None)
    assert made.run()[-1]["elbo"] == pytest.approx(same.run()[-1]["elbo"], rel=1e-4)
