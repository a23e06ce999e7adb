# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objectives by name: what is trained, what validation says, and what is refused before training."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO

from pyro_spvae.circuits import whole
from pyro_spvae.data import DATA_SETS
from pyro_spvae.infer import CircuitELBO, SingleLeafELBO
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import VAE
from pyro_spvae.training import job as job_module
from pyro_spvae.training.build import build_model, modelled, resolve
from pyro_spvae.training.config import FitConfig
from pyro_spvae.training.job import set_up
from pyro_spvae.training.objective import build_loss, build_objective, check_objective
from pyro_spvae.training.trainer import Trainer
from tests.helpers import small_spvae
from tests.infer.test_single_leaf import Discrete
from tests.training.cases import TINY, images

STOCK = {"trace-elbo": Trace_ELBO, "trace-mean-field-elbo": TraceMeanField_ELBO, "pyro-renyi-elbo": RenyiELBO}


def trainer(objective, **options):
    data = images(levels=2)
    config = resolve(dataclasses.replace(TINY, objective=objective, structure="whole", units=1, **options), data)
    data = modelled(config, data)
    pyro.set_rng_seed(0)
    with pyro.settings.context(module_local_params=True):
        spvae = build_model(config, data)
    return Trainer(spvae, data.train, data.validation, config)


@pytest.mark.parametrize(
    ("objective", "alpha", "order"),
    [
        ("trace-elbo", None, 1.0),
        ("trace-mean-field-elbo", None, 1.0),
        ("pyro-renyi-elbo", None, 0.0),
        ("pyro-renyi-elbo", 0.5, 0.5),
    ],
)
def test_names(objective, alpha, order):
    config = FitConfig(objective=objective, alpha=alpha, particles=3)
    spvae = small_spvae(whole((2, 2)), units=1)
    loss = build_loss(config, spvae.model, spvae.guide)
    assert isinstance(loss, SingleLeafELBO) and type(loss.elbo) is STOCK[objective]
    assert (loss.elbo.num_particles, getattr(loss.elbo, "alpha", 1.0)) == (3, order)
    watched = build_objective(config)
    assert type(watched) is CircuitELBO and (watched.num_particles, watched.alpha) == (3, order)


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(("objective", "ours"), [("trace-elbo", "elbo"), ("pyro-renyi-elbo", "iwae")])
def test_training_is_that_of_our_objective(objective, ours, warmup):
    one, other = trainer(objective, warmup=warmup, epochs=3), trainer(ours, warmup=warmup, epochs=3)
    lines = [made.run() for made in (one, other)]
    for name, value in one.spvae.state_dict().items():
        torch.testing.assert_close(value, other.spvae.state_dict()[name], rtol=1e-3, atol=1e-4)  # float32
    assert len(lines[0]) == 3
    for a, b in zip(*lines, strict=True):
        for name in ("elbo", "val_elbo", "val_leaf_elbo", "val_latent_kl"):
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-3), name


def test_mean_field_raises_the_bound():
    made = trainer("trace-mean-field-elbo", epochs=30, patience=30, lr=0.02, warmup=2)
    lines = made.run()
    assert lines[-1]["elbo"] > lines[2]["elbo"] + 0.1, "after warm-up"
    assert lines[-1]["val_elbo"] == pytest.approx(lines[-1]["val_leaf_elbo"]), "the bound that is watched is an ELBO"


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


@pytest.mark.parametrize("objective", STOCK)
def test_a_guide_without_rsample_is_refused_before_training(objective, tmp_path):
    spvae = small_spvae(whole((2, 2)), units=1, leaf=VAE(Bernoulli(), 2, (3,)), guide=Discrete())
    x = (torch.randn(20, 1, 2, 2) > 0).double()
    state = torch.get_rng_state()
    message = f"^objective is '{objective}'; {STOCK[objective].__name__} cannot train a guide whose site 'z' has no rs"
    with pytest.raises(ValueError, match=message):
        spvae.fit(x, objective=objective, out=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state) and not (tmp_path / "run").exists()
    check_objective(FitConfig(objective="iwae"), spvae, x)  # ours has a gradient for it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "pyro-renyi-elbo", "alpha": 1}, "alpha is 1, which the objective 'pyro-renyi-elbo' does not"),
        ({"objective": "trace-elbo", "alpha": 0.5}, "alpha is the order of the objective 'renyi', but objective is"),
        ({"objective": "pyro-renyi-elbo", "gradient": "dreg"}, "gradient is 'dreg', which needs the objective 'iwae'"),
        ({"objective": "trace-elbo", "gradient": "dreg"}, "gradient is 'dreg', which needs the objective 'iwae'"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        FitConfig(**options)


def test_leaves_without_latent_variables():
    made = trainer("trace-elbo", leaf="factorized")
    assert all(math.isfinite(line["val_elbo"]) for line in made.run())
    same = trainer("elbo", leaf="factorized")
    assert made.run()[-1]["elbo"] == pytest.approx(same.run()[-1]["elbo"], rel=1e-4)
