# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the first step would refuse is refused when a run is set up: nothing is written, the model stays as it is."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_spvae import CircuitELBO, whole
from pyro_spvae.distributions import OverlappingExponentials, SpikeAndExponential, Unsmoothed
from pyro_spvae.infer import NVIL, Concrete, MuProp, StraightThrough
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DLGMM, HVAE, SPVAE
from pyro_spvae.priors import BitChain, BoltzmannMachine, VampPrior
from pyro_spvae.training import job as job_module
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.objective import check_objective
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import train
from tests.training.cases import TINY, images, same
from tests.training.test_discrete import machine, make, rows

ELBO = {"objective": "elbo"}


def of_leaf(leaf):
    torch.manual_seed(0)
    return SPVAE(whole((2, 4)), 1, leaf=leaf).double()


def large():
    """A machine of 13 units a side, whose smoothed form has no density."""
    return make(BoltzmannMachine(chains=3), size=26)


MANY = (
    "the density of a smoothed Boltzmann machine whose smaller side has 13 units was asked for, which is known for at"
)
USELESS = "estimator is a NVIL, but gradients pass through all that the guide draws; leave it out"
SCORED = "CircuitELBO: the guide has sites without rsample, whose gradient by VIMCO needs num_particles of at least 2; "
RELAXED = " relaxes independent bits (FactorialBernoulli), but the site 'z' is of a BinaryHierarchy; VIMCO, NVIL and Re"
SPIKE = (
    "the gradient of a log-density in a draw smoothed by SpikeAndExponential is biased by the jump at its spike; kl="
)
REFUSED = {
    "a machine without a density": (large, {}, MANY),
    "or of Pyro": (
        lambda: make(BoltzmannMachine(chains=3), None, whole((4,)), size=26),
        {"objective": Trace_ELBO()},
        f"objective is a Trace_ELBO; {MANY}",
    ),
    "an estimator without use": (make, {"estimator": "nvil"}, USELESS),
    "an own one": (make, {"objective": CircuitELBO(2, estimator=NVIL())}, USELESS),
    "too few particles": (lambda: make(None, Unsmoothed()), {"particles": 1}, SCORED),
    "bits that depend on each other": (
        lambda: make(machine(), Unsmoothed(), groups=2),
        {"objective": CircuitELBO(2, estimator=MuProp())},
        "MuProp takes guides of one latent site of independent bits (FactorialBernoulli), but the guide draws z (Bina",
    ),
    "or are relaxed": (lambda: make(BitChain(2), Unsmoothed()), {"estimator": "concrete"}, f"Concrete{RELAXED}"),
    "in the guide": (
        lambda: make(None, Unsmoothed(), groups=2),
        {"objective": CircuitELBO(2, estimator=StraightThrough())},
        f"StraightThrough{RELAXED}",
    ),
    "or in the prior alone": (
        lambda: make(BitChain(2), Unsmoothed(), groups=1),
        {"objective": CircuitELBO(2, estimator=Concrete())},
        f"Concrete{RELAXED}",
    ),
    "a spike": (lambda: make(None, SpikeAndExponential()), {}, SPIKE),
    "drawn bits": (
        lambda: make(None, Unsmoothed()),
        {"gradient": "dreg"},
        "gradient='dreg' needs a guide whose sites all have rsample, which site 'z' has not; use gradient='iwae'",
    ),
    "an enumerated site": (
        lambda: of_leaf(DLGMM(Bernoulli(), 2, 3, hidden_dims=(3,))),
        {"gradient": "dreg"},
        "gradient='dreg' needs a guide whose sites are drawn, but site 'c' is enumerated; use gradient='iwae'",
    ),
    "weights that differ": (
        lambda: of_leaf(HVAE(Bernoulli(), 3, 2, hidden_dims=(3,))),
        {"gradient": "dreg", "beta": {"z2": 0.5}},
        "gradient='dreg' needs one poutine.scale for all sites of the guide; found several",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_written(name, tmp_path):
    build, options, message = REFUSED[name]
    spvae = build()
    state = {key: value.clone() for key, value in spvae.state_dict().items()}
    noise = torch.get_rng_state()
    x = rows() if spvae.event_shape == (1, 2, 4) else rows().flatten(1)[:, :4]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        spvae.fit(x, out=tmp_path / "run", epochs=1, **options)
    assert "\n" not in str(error.value), "no table of shapes"
    assert not (tmp_path / "run").exists() and torch.equal(torch.get_rng_state(), noise)
    assert alike(spvae.state_dict(), state)


def alike(state, other):
    return all(torch.equal(value.nan_to_num(), other[key].nan_to_num()) for key, value in state.items())


@pytest.mark.parametrize(
    "objective", [CircuitELBO(2, alpha=1.0, estimator=NVIL((3,))), CircuitELBO(2, gradient="dreg")]
)
def test_looking_at_a_model_teaches_it_nothing(objective):
    """Running means, persistent chains, an estimator's averages and gradients are as they were; so is the mode."""
    scored = objective.gradient != "dreg"
    spvae = make(machine(), Unsmoothed() if scored else OverlappingExponentials(4.0), normalise=True).eval()
    state, noise = {key: value.clone() for key, value in spvae.state_dict().items()}, torch.get_rng_state()
    check_objective(FitConfig(), spvae, rows(), objective)
    assert alike(spvae.state_dict(), state) and torch.equal(torch.get_rng_state(), noise)
    assert any("running" in key for key in state) and not spvae.training
    assert all(parameter.grad is None for parameter in spvae.parameters())
    assert not scored or float(objective.estimator.average.abs().sum()) == float(objective.estimator.seen) == 0


def test_entries_that_are_not_seen_are_not_looked_at():
    """Of a decoder that takes masks of whole leaf regions only, rows may hold anything there."""
    spvae, x = make(), rows()
    x[..., :2] = torch.nan
    seen, looked = ~x.isnan(), []
    spvae.leaf.pixels.register_forward_hook(lambda module, args, kwargs, law: looked.append(law), with_kwargs=True)
    check_objective(FitConfig(), spvae, x, observed=seen)
    assert len(looked) == 1 and looked[0].pixel_mask is not None


@pytest.mark.parametrize("objective", ["trace-mean-field-elbo", "trace-elbo", "elbo"])
def test_a_prior_that_waits_for_data_is_trained(objective):
    """There is no distribution to look at before training shows it some rows."""
    spvae = SPVAE(whole((2, 4)), 1, likelihood=Bernoulli(), prior=VampPrior(3, init="data"), hidden_dims=(3,)).double()
    lines = spvae.fit(rows(), objective=objective, epochs=1)
    assert len(lines) == 1 and not bool(spvae.leaf.prior.pseudo_inputs.isnan().any())


def test_a_run_is_not_overwritten_by_one_that_is_refused(tmp_path, monkeypatch):
    data = images(levels=2)
    monkeypatch.setattr(job_module, "recorded", lambda config: data)
    train(dataclasses.replace(TINY, epochs=1), tmp_path / "run")
    kept = RunFolder(tmp_path / "run").load("best.pt")["model"]
    with pytest.raises(ValueError, match=f"^{USELESS}"):
        train(dataclasses.replace(TINY, estimator="nvil"), tmp_path / "run", overwrite=True)
    assert same(RunFolder(tmp_path / "run").load("best.pt")["model"], kept)


def test_to_resume_with_other_options_is_what_is_refused(tmp_path):
    """Though the objective would be refused, too."""
    make().fit(rows(), out=tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match="^estimator is 'nvil', but the run .* was started with 'vimco'"):
        make().fit(rows(), out=tmp_path / "run", epochs=1, resume=True, estimator="nvil")
