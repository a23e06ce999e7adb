# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Training of discrete VAEs, and of what belongs to an estimator: what moves, what is kept, what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.circuits import whole
from pyro_spvae.distributions import OverlappingExponentials, SpikeAndExponential, Unsmoothed
from pyro_spvae.guides import DiscreteGuide, NormalGuide
from pyro_spvae.infer import NVIL, REBAR, CircuitELBO, MuProp
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, VAE, DiscreteVAE
from pyro_spvae.nn import MLP
from pyro_spvae.nn.leaf_conv import LeafBatchNorm
from pyro_spvae.priors import BitChain, BoltzmannMachine, IndependentBits
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.objective import check_objective
from pyro_spvae.training.run import open_run
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import same, same_average, stopped_after, untimed

JOINT = {"objective": "elbo", "kl": "analytic", "particles": 1}
OPTIONS = {"epochs": 3, "batch_size": 8, "patience": 9, "lr": 0.02}


def rows(number=25, seed=1):
    """Images of a bar on one side; the last batch of an epoch has one row."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(2, (number, 1, 1, 1), generator=generator)
    noise = torch.rand(number, 1, 2, 4, generator=generator, dtype=torch.float64) < 0.1
    return ((torch.arange(4) < 2) == side.bool()).expand(number, 1, 2, 4).logical_xor(noise).double()


def make(prior=None, smoothing=None, regions=None, normalise=False, groups=None, size=4):
    torch.manual_seed(0)
    leaf = DiscreteVAE(Bernoulli(), size, prior, smoothing, (4,), normalise=normalise)
    guide = DiscreteGuide(groups, (4,), normalise=normalise)
    regions = poon_domingos((2, 4), 2) if regions is None else regions
    return SPVAE(regions, units=1 + (regions.shape != (4,)), leaf=leaf, guide=guide).double()


def machine():
    return BoltzmannMachine(chains=10, sweeps=2)


def fit(spvae, **options):
    lines = spvae.fit(rows(), rows(9, 2), **(OPTIONS | options))
    return spvae.state_dict(), [untimed(line) for line in lines]


@pytest.mark.parametrize(
    ("prior", "smoothing", "options"),
    [
        (machine, lambda: OverlappingExponentials((4.0, 9.0)), JOINT),
        (machine, SpikeAndExponential, JOINT),
        (lambda: BitChain(2, ()), OverlappingExponentials, {"objective": "iwae", "particles": 3}),
        (machine, Unsmoothed, {"objective": "elbo", "kl": "analytic", "particles": 1, "estimator": "nvil"}),
        (IndependentBits, Unsmoothed, {"objective": "iwae", "particles": 3}),
    ],
)
def test_a_circuit_is_trained_saved_and_loaded(prior, smoothing, options, tmp_path):
    spvae = make(prior(), smoothing())
    before = {name: value.clone() for name, value in spvae.named_parameters()}
    _, lines = fit(spvae, epochs=8, lr=0.05, out=tmp_path / "run", **options)
    bounds = [line["val_elbo"] for line in lines]
    assert max(bounds) > bounds[0] + 0.2
    moved = [name for name, value in spvae.named_parameters() if not torch.equal(value, before[name])]
    assert moved == list(before)
    assert bool((spvae.leaf_guide.mean.mean == spvae.view(rows()).mean(0)).all())
    spvae.prepare_evaluation()
    spvae.save(tmp_path / "model")
    again, found = SPVAE.load(tmp_path / "model"), []
    for one in (spvae, again):
        torch.manual_seed(1)
        found.append(one.log_likelihood(rows(5), num_samples=20))
    assert torch.equal(*found)


BROKEN = {
    "machine": (lambda: make(machine(), OverlappingExponentials((4.0, 9.0)), normalise=True), dict, JOINT),
    "chain": (lambda: make(BitChain(2, (3,)), OverlappingExponentials((4.0, 9.0))), dict, {"particles": 2}),
    "nvil": (
        lambda: make(machine(), Unsmoothed(), groups=2),
        lambda: {"estimator": "nvil(hidden_dims=(5,))"},
        {"objective": "elbo", "particles": 1},
    ),
    "own nvil": (
        lambda: make(machine(), Unsmoothed(), groups=2),
        lambda: {"objective": CircuitELBO(1, alpha=1.0, estimator=NVIL((5,)))},
        {},
    ),
    "own muprop": (
        lambda: make(None, Unsmoothed()),
        lambda: {"objective": CircuitELBO(1, alpha=1.0, estimator=MuProp((5,)))},
        {"optimiser": "adam-normgrad"},
    ),
    "rebar": (lambda: make(None, Unsmoothed()), lambda: {"estimator": "rebar"}, {"schedule": "cosine"}),
    "averaged": (
        lambda: make(machine(), Unsmoothed(), normalise=True),
        lambda: {"estimator": "nvil(hidden_dims=(5,))"},
        {"objective": "elbo", "particles": 1, "average": "ema"},
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_goes_on_bit_for_bit(name, tmp_path):
    """Parameters, chains, the inverse temperature, the mean of the data, running means, all that an estimator knows."""
    build, objects, options = BROKEN[name]
    with stopped_after(5):
        fit(build(), out=tmp_path / "run", **options, **objects())
    kept = RunFolder(tmp_path / "run").load("last.pt")
    fit(build(), out=tmp_path / "run", resume=True, **options, **objects())
    _, lines = fit(build(), out=tmp_path / "whole", **options, **objects())
    last, other = (RunFolder(tmp_path / run).load("last.pt") for run in ("run", "whole"))
    assert same(last["model"], other["model"]) and not same(last["model"], kept["model"])
    assert [untimed(line) for line in RunFolder(tmp_path / "run").read_metrics()] == lines
    if "estimator" in objects() or "objective" in objects():
        assert same(last["estimator"], other["estimator"]) and not same(last["estimator"], kept["estimator"])
    assert same_average(last["average"], other["average"])
    assert last["processes"][0].keys() == other["processes"][0].keys()
    for buffer, value in last["processes"][0].items():
        assert torch.equal(value, other["processes"][0][buffer])
    if name == "machine":
        state = last["model"]
        assert {"leaf.prior.states", "leaf_guide.z.network.stacks.0.norms.0.running_mean"} < last["processes"][0].keys()
        assert float(state["leaf.smoothing.inverse_temperature"]) > 8 and bool(state["leaf_guide.mean.values"].any())
        assert not torch.equal(state["leaf.prior.states"], kept["model"]["leaf.prior.states"])
    if "nvil" in name:
        assert {"average", "seen"} <= last["estimator"].keys() and bool(last["estimator"]["average"].all())
    assert same(open_run(tmp_path / "run").spvae.state_dict(), open_run(tmp_path / "whole").spvae.state_dict())


@pytest.mark.parametrize("optimiser", ["name", "function", "object"])
def test_objects_that_were_used_go_on(optimiser, tmp_path):
    """An optimiser that trains an estimator's parameters beside the model's."""

    def options(spvae):
        made = {"name": "adam", "function": lambda parameters: torch.optim.Adam(parameters, lr=0.02)}
        made["object"] = torch.optim.Adam(spvae.parameters(), lr=0.02)
        chosen = {"optimiser": made[optimiser], "objective": CircuitELBO(1, alpha=1.0, estimator=NVIL((5,)))}
        return {name: value for name, value in OPTIONS.items() if name != "lr"} | chosen

    spvae = make(machine(), Unsmoothed())
    used = options(spvae)
    with stopped_after(5):
        spvae.fit(rows(), rows(9, 2), out=tmp_path / "run", **used)
    spvae.fit(rows(), rows(9, 2), out=tmp_path / "run", resume=True, **used)
    other = make(machine(), Unsmoothed())
    other.fit(rows(), rows(9, 2), **options(other))
    assert same(spvae.state_dict(), other.state_dict())
    spvae.fit(rows(), rows(9, 2), **used)  # and further


def test_parameters_of_an_estimator_are_trained_faster():
    trainer = Trainer(make(None, Unsmoothed()), rows(), rows(9, 2), FitConfig(**OPTIONS, estimator="nvil", particles=1))
    own, further = trainer.update.optimiser.param_groups
    assert further["lr"] == pytest.approx(10 * own["lr"])
    assert {id(p) for p in further["params"]} == {id(p) for p in trainer.estimator.parameters()}
    before = [p.clone() for p in trainer.estimator.parameters()]
    trainer.run(max_steps=1)
    assert before and all(
        not torch.equal(p, old) for p, old in zip(trainer.estimator.parameters(), before, strict=True)
    )


def test_parameters_of_an_estimator_follow_from_the_seed():
    found = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        spvae = make(None, Unsmoothed())
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        config = FitConfig(**OPTIONS, seed=seed, estimator="nvil", particles=1)
        check_objective(config, spvae, rows())
        found.append(Trainer(spvae, rows(), rows(9, 2), config).estimator.state_dict())
        assert torch.equal(torch.get_rng_state(), state)
    assert same(found[0], found[1]) and not same(found[1], found[2])


def test_a_run_records_its_estimator(tmp_path):
    fit(make(None, Unsmoothed()), out=tmp_path / "named", estimator="nvil(hidden_dims=(5,))", epochs=1, particles=1)
    objective = CircuitELBO(1, estimator=NVIL((5,)))
    fit(make(None, Unsmoothed()), out=tmp_path / "own", objective=objective, epochs=1)
    records = [json.loads((tmp_path / run / "data.json").read_text()) for run in ("named", "own")]
    configs = [json.loads((tmp_path / run / "config.json").read_text()) for run in ("named", "own")]
    assert "objective" not in records[0]
    assert "estimator='nvil(hidden_dims=(5,))'" in records[1]["objective"]
    assert [config["estimator"] for config in configs] == ["nvil(hidden_dims=(5,))"] * 2
    assert same(*(RunFolder(tmp_path / run).load("last.pt")["model"] for run in ("named", "own")))


@pytest.mark.parametrize(
    ("then", "now", "message"),
    [
        ({"estimator": "nvil"}, {"estimator": "reinforce"}, "estimator is 'reinforce', but the run .* with 'nvil'"),
        ({"estimator": "nvil"}, {}, "estimator is 'vimco', but the run .* with 'nvil'"),
        (
            {"objective": CircuitELBO(1, estimator=NVIL((5,)))},
            {"objective": CircuitELBO(1, estimator=NVIL((6,)))},
            r".*hidden_dims=\(6,\).*, but the run .*",
        ),
    ],
)
def test_runs_of_other_estimators_are_not_resumed(then, now, message, tmp_path):
    options = {} if "objective" in then else {"particles": 1}
    with stopped_after(3):
        fit(make(None, Unsmoothed()), out=tmp_path / "run", **options, **then)
    with pytest.raises(ValueError, match=f"^{message}"):
        fit(make(None, Unsmoothed()), out=tmp_path / "run", resume=True, **options, **now)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "nvl"}, "estimator is 'nvl'; did you mean nvil"),
        ({"estimator": "nvil(hidden=(3,))"}, "estimator nvil has no option hidden"),
        ({"estimator": "nvil", "objective": "trace-elbo"}, "estimator is 'nvil', which the objectives iwae, elbo, "),
        ({"estimator": "nvil", "gradient": "dreg"}, "estimator is 'nvil', for which gradient='dreg' has no use"),
        ({"estimator": "rebar(temperature=0)"}, "temperature is 0; a positive number is needed"),
    ],
)
def test_refusals_come_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(ValueError, match=f"^(fit: )?{message}"):
        fit(make(), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


class OverPixels(MLP):
    """Normalises a datum over its pixels, too."""

    def build(self, leaves, inputs, outputs):
        super().build(leaves, inputs, outputs)
        self.norm = LeafBatchNorm(leaves, 1)

    def forward(self, x):
        return super().forward(self.norm(x.unsqueeze(-2)).squeeze(-2))


class TestObjectivesOfPyro:
    """Of a single leaf; a guide is what training makes of it, whose smoothed bits have gradients of their own."""

    @pytest.mark.parametrize("objective", ["trace-elbo", "trace-mean-field-elbo", "pyro-renyi-elbo"])
    def test_train_smoothed_bits(self, objective):
        spvae = make(machine(), None, whole((4,)), normalise=True)
        x = rows().flatten(1)[:, :4]
        state = {name: value.clone() for name, value in spvae.state_dict().items()}
        check_objective(FitConfig(objective=objective), spvae, x)
        assert all(torch.equal(v, state[k]) or bool(v.isnan().all()) for k, v in spvae.state_dict().items())
        assert spvae.training
        lines = spvae.fit(x, x[:9], objective=objective, **OPTIONS)
        assert len(lines) == 3

    def test_looking_at_a_model_teaches_it_nothing(self):
        """Running means of an encoder that is run once are as they were."""
        guide = NormalGuide(encoder=OverPixels())
        spvae = SPVAE(whole((2, 4)), 1, leaf=VAE(Bernoulli(), 2), guide=guide).double()
        state = {name: value.clone() for name, value in spvae.state_dict().items()}
        check_objective(FitConfig(objective="trace-mean-field-elbo"), spvae, rows())
        assert any("running" in name for name in state) and same(spvae.state_dict(), state)

    def test_refuse_bits(self):
        spvae = make(machine(), Unsmoothed(), whole((4,)))
        message = "^objective is 'pyro-renyi-elbo'; RenyiELBO cannot train a guide whose site 'z' has no rsample"
        with pytest.raises(ValueError, match=message):
            check_objective(FitConfig(objective="pyro-renyi-elbo"), spvae, rows().flatten(1)[:, :4])


def test_scale_and_temperature_are_kept_where_they_are_not_learned(tmp_path):
    spvae = make(None, Unsmoothed())
    objective = CircuitELBO(1, estimator=REBAR(0.3, 0.7, learn=False))
    fit(spvae, objective=objective, epochs=1)
    assert bool((objective.estimator.eta == 0.7).all()) and objective.estimator.eta.shape == (spvae.num_leaves,)
