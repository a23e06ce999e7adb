# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Boltzmann machines as priors: normalisers and their gradients, persistent chains, the life cycle."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pyro
import pytest
import torch

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.commands.evaluation import table
from pyro_spvae.distributions import LeafBernoulli
from pyro_spvae.distributions.boltzmann import enumeration
from pyro_spvae.models import SPVAE
from pyro_spvae.priors import BoltzmannMachine
from pyro_spvae.testing import DiscretePriorTests
from pyro_spvae.testing.block_tests import moved_from_start
from pyro_spvae.training.evaluation import evaluate_rows
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.stated import stated_lines
from pyro_spvae.training.train import train
from pyro_spvae.training.trainer import Trainer
from tests.distributions.boltzmann_cases import every
from tests.models.own_leaves import Bits, BitsGuide
from tests.training.cases import TINY, same


class TestRestricted(DiscretePriorTests):
    def make(self):
        return BoltzmannMachine((1, 3), chains=20, sweeps=2)


class TestGeneral(DiscretePriorTests):
    def make(self):
        return BoltzmannMachine(restricted=False, chains=20, sweeps=2, temperatures=2)


class TestByChains(DiscretePriorTests):
    """In evaluation mode, with the log Z that was stored."""

    def make(self):
        return BoltzmannMachine(chains=3000, sweeps=2, gradient="chains")

    def bound(self, leaves=None):
        part = super().bound(leaves)
        part.prepare_evaluation()
        return part.eval()

    def alone(self, part, leaf):
        return super().alone(part, leaf).eval()


def machine(size=6, leaves=2, **options):
    part = BoltzmannMachine(**{"chains": 50, "sweeps": 3} | options).bind(leaves=leaves, event_shape=(size,))
    moved_from_start(part)
    return part


def few(**options):
    """Few chains for estimates."""
    return BoltzmannMachine(**{"chains": 30, "sweeps": 3, "ais_chains": 20, "ais_temperatures": 15} | options)


def large():
    """More units than can be listed for figures."""
    part = few().bind(leaves=1, event_shape=(44,))
    moved_from_start(part)
    return part


class TestNormaliser:
    @pytest.mark.parametrize("restricted", [True, False])
    def test_starts_at_independent_coins(self, restricted):
        part = BoltzmannMachine(restricted=restricted, gradient="chains").bind(leaves=2, event_shape=(7,))
        for training in (True, False):
            value = part.train(training)().log_prob(torch.ones(2, 7))
            torch.testing.assert_close(value, torch.full((2,), -7 * math.log(2)))
        assert part.states.shape == (2, 1, 1000, 7) and part.states.double().mean() == pytest.approx(0.5, abs=0.02)
        assert BoltzmannMachine().bind(leaves=1, event_shape=(7,)).weight.shape == (1, 3, 4)

    @pytest.mark.parametrize("gradient", ["auto", "chains", "exact"])
    def test_values_by_mode(self, gradient):
        """In training what is exact is, else the stored value; in evaluation mode the stored value without gradient."""
        part = machine(gradient=gradient)
        exact = enumeration.log_normaliser(part.machine)
        start = torch.full((2,), 6 * math.log(2))
        law = part()
        torch.testing.assert_close(law.log_z, start if gradient == "chains" else exact)
        assert law.log_z.requires_grad
        assert not part.eval()().log_z.requires_grad
        torch.testing.assert_close(part().log_z, start)
        part.before_validation()
        torch.testing.assert_close(part().log_z, exact.detach())
        with torch.no_grad():
            part.bias.add_(0.1)
        part.prepare_evaluation()
        torch.testing.assert_close(part().log_z, enumeration.log_normaliser(part.machine).detach())
        assert torch.equal(part.log_z_standard_error, torch.zeros(2))

    @pytest.mark.parametrize(("size", "exact"), [(17, True), (18, False)])
    def test_auto_is_exact_up_to_8_units(self, size, exact):
        part = machine(size)
        assert torch.allclose(part().log_z, part.log_z) != exact

    @pytest.mark.parametrize("options", [{}, {"restricted": False}, {"temperatures": 2}])
    def test_gradient_by_chains_is_the_exact_one_on_average(self, options):
        part = machine(gradient="chains", chains=40_000, **options)
        with torch.no_grad():
            part.states[:, 0] = enumeration.sample(part.machine, 40_000) > 0
        part.advance(0.5)
        parameters = list(part.parameters())
        found = torch.autograd.grad(part().log_z.sum(), parameters)
        expected = torch.autograd.grad(enumeration.log_normaliser(part.machine).sum(), parameters)
        for own, other in zip(found, expected, strict=True):
            assert (own - other).abs().max() < 4.5 * 0.5 / math.sqrt(40_000) and other.abs().max() > 0.1

    def test_is_estimated_where_units_are_many(self, monkeypatch):
        part = large()
        asked = []
        made = "pyro_spvae.priors.boltzmann_machine.annealed_importance_sampling"
        from pyro_spvae.distributions.boltzmann import annealed_importance_sampling

        def noted(machine, chains, temperatures):
            asked.append((chains, temperatures))
            return annealed_importance_sampling(machine, chains, temperatures)

        monkeypatch.setattr(made, noted)
        part.before_validation()
        part.prepare_evaluation()
        part.ais_chains, part.ais_temperatures = 129, 501
        part.before_validation()
        assert asked == [(20, 15), (20, 15), (128, 500)]
        assert part.stated()["log_z_standard_error"] == part.log_z_standard_error.item() > 0
        assert part.stated()["log_z"] == part.log_z.item()
        small = machine(34, 1)  # 17 units are listed for figures alone
        small.before_validation()
        assert len(asked) == 4 and small.stated()["log_z_standard_error"] > 0
        small.prepare_evaluation()
        assert len(asked) == 4 and small.stated()["log_z_standard_error"] == 0

    def test_several_leaves_state_their_mean_and_the_largest_error(self):
        part = machine(leaves=3)
        part.log_z.copy_(torch.tensor([1.0, 2.0, 6.0]))
        part.log_z_standard_error.copy_(torch.tensor([0.1, 0.3, 0.2]))
        assert part.stated() == {"log_z": 3.0, "log_z_standard_error": pytest.approx(0.3)}


class TestChains:
    @pytest.mark.parametrize("options", [{}, {"temperatures": 3}, {"restricted": False}])
    def test_follow_the_seed_and_come_to_the_law(self, options):
        part = machine(chains=4000, sweeps=15, **options)
        for _ in range(2):
            torch.manual_seed(4)
            part.states.fill_(True)
            part.advance(0.0)
            first = part.states.clone()
        torch.manual_seed(4)
        part.states.fill_(True)
        part.advance(0.0)
        assert torch.equal(part.states, first)
        found = part.states[:, 0].double().mean(1)
        assert (found - part().mean).abs().max() < 4.5 * 0.5 / math.sqrt(4000)

    def test_are_no_part_of_what_processes_share(self):
        part = machine()
        assert part.process_buffers == ("states",) and part.states.dtype == torch.bool
        assert set(part.state_dict()) == {"bias", "weight", "log_z", "log_z_standard_error", "states"}

    def test_of_another_number_are_refused(self):
        message = re.escape(
            "the state has chains of shape [2, 1, 50, 6], but this BoltzmannMachine has chains of shape [2, 1, 40, 6]"
        )
        with pytest.raises(ValueError, match=f"^{message}"):
            machine(chains=40).load_state_dict(machine().state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_log_z_is_kept_in_at_least_single_precision(dtype):
    part = machine(40, 1, gradient="chains").to(dtype)
    assert part.log_z.dtype == torch.float32 and part.bias.dtype == dtype
    assert part.log_z.item() == pytest.approx(40 * math.log(2), rel=1e-6)
    part.advance(0.0)
    part.prepare_evaluation()
    law = part.eval()()
    assert law.sample().dtype == dtype and law.log_prob(law.sample()).dtype == torch.float32


@pytest.mark.parametrize("options", [{}, {"temperatures": 2, "gradient": "chains"}, {"restricted": False}])
def test_a_step_on_the_meta_device(options):
    with torch.device("meta"), pyro.validation_enabled(False):
        part = machine(24, **options)
        part.advance(0.5)
        z = torch.zeros(5, 2, 24)
        part().log_prob(z).sum().backward()
    assert part.bias.grad.is_meta and part.weight.grad.shape == part.weight.shape


def bound(**options):
    return BoltzmannMachine(**options).bind(leaves=1, event_shape=(44,))


TWO = "two positive integers are needed"
REFUSED = [
    *(({"sides": sides}, f"^sides is {re.escape(repr(sides))}; {TWO}$") for sides in ((1,), 3, (0, 2), (1, 2.0), "12")),
    (
        {"sides": (3, 4)},
        r"^sides is \(3, 4\), but the latent variable has 44 bits; two numbers that add up are needed$",
    ),
    ({"sides": (22, 22), "restricted": False}, r"^sides is \(22, 22\); a machine that is not restricted has none$"),
    ({"restricted": 1}, "^restricted is 1; True or False is needed$"),
    *(({name: 0}, f"^{name} is 0; a positive integer is needed$") for name in ("chains", "sweeps", "temperatures")),
    *(({name: 1}, f"^{name} is 1; an integer of at least 2 is needed$") for name in ("ais_chains", "ais_temperatures")),
    ({"gradient": "none"}, "^gradient is 'none'; known are auto, chains, exact$"),
    (
        {"gradient": "exact"},
        "^gradient is 'exact', but 22 units need to be listed in each step; at most 20 can be$",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bound(**options)


def test_shapes_that_are_refused():
    with pytest.raises(
        ValueError, match="^the halves of one bit are given as sides, but the latent variable has 1 bits"
    ):
        BoltzmannMachine().bind(leaves=1, event_shape=(1,))
    with pytest.raises(ValueError, match="prior of vectors"):
        BoltzmannMachine().bind(leaves=1, event_shape=(2, 2))


def spvae(prior=None, size=4):
    torch.manual_seed(3)
    made = SPVAE(poon_domingos((2, 2), 1), 2, leaf=Bits(size, prior), guide=BitsGuide())
    moved_from_start(made)
    return made


def rows(number=12):
    return (torch.rand(number, 1, 2, 2, generator=torch.Generator().manual_seed(5)) < 0.5).double()


class TestInModels:
    def test_the_bound_with_its_divergence_is_the_sampled_one_on_average(self):
        """And in both the machine's parameters have a gradient."""
        made = spvae()
        bounds = []
        for kl in ("sample", "analytic"):
            torch.manual_seed(0)
            found = torch.stack(
                [CircuitELBO(50, alpha=1.0, kl=kl).bound(made.model, made.guide, rows(4)) for _ in range(60)]
            )
            bounds.append(found)
            loss = CircuitELBO(2, alpha=1.0, kl=kl).differentiable_loss(made.model, made.guide, rows(4))
            grads = torch.autograd.grad(loss, list(made.leaf.prior.parameters()))
            assert all(grad.abs().max() > 0 for grad in grads)
        error = (bounds[0].var(0) / 60 + bounds[1].var(0) / 60).sqrt()
        assert ((bounds[0].mean(0) - bounds[1].mean(0)).abs() < 4.5 * error).all()
        assert (bounds[1].var(0) < bounds[0].var(0)).all()

    def test_the_estimated_evidence_is_the_exact_one(self):
        made = spvae().eval()
        torch.nn.init.zeros_(made.leaf_guide.weight)
        made.prepare_evaluation()
        x = rows(3)
        z = every(4)
        law, leaf = made.leaf.prior(), made.leaf
        logits = torch.einsum("sd,ldp->slp", z, leaf.weight)
        pixels = LeafBernoulli(logits.unsqueeze(1)).log_prob(made.view(x))  # [state, data, leaf]
        evidence = (law.log_prob(z.unsqueeze(1)).unsqueeze(1) + pixels).logsumexp(0)
        found = made.log_likelihood(x, num_samples=10_000)
        torch.testing.assert_close(found, made.circuit(evidence), rtol=0, atol=0.05)

    def test_what_is_generated_are_bits_of_the_machine(self):
        made = spvae()
        assert made.sample(7).shape == (7, 1, 2, 2)


OPTIONS = {"epochs": 3, "batch_size": 6, "patience": 9, "lr": 0.05}


class TestTraining:
    def test_a_broken_run_goes_on_bit_for_bit(self):
        def trainer():
            return Trainer(spvae(few(), 44), rows(), rows(5), FitConfig(**OPTIONS))

        whole, first, second = trainer(), trainer(), trainer()
        whole.run()
        first.run(max_steps=3)
        state = first.state()
        start = spvae(few(), 44).leaf.prior
        assert set(state["processes"][0]) == {"leaf.prior.states"}
        assert (state["processes"][0]["leaf.prior.states"] != start.states).double().mean() > 0.1
        torch.rand(3)  # what happens in between does not matter
        second.load_state(state, first.metrics)
        second.run()
        assert same(second.spvae.state_dict(), whole.spvae.state_dict())
        assert [line["val_elbo"] for line in second.metrics] == [line["val_elbo"] for line in whole.metrics]

    def test_validations_see_the_normaliser_of_their_parameters(self, monkeypatch):
        made = spvae(BoltzmannMachine(chains=10, sweeps=2, gradient="chains"))
        seen = []
        from pyro_spvae.training import trainer as module

        def noted(model, *args):
            prior = model.leaf.prior
            seen.append((prior.log_z - enumeration.log_normaliser(prior.machine)).abs().max().item())
            return mean_bounds(model, *args)

        mean_bounds = module.mean_bounds
        monkeypatch.setattr(module, "mean_bounds", noted)
        trained = Trainer(made, rows(), rows(5), FitConfig(**OPTIONS))
        bias = made.leaf.prior.bias.clone()
        trained.run()
        assert len(seen) == 3 and max(seen) < 1e-9 and (made.leaf.prior.bias - bias).abs().max() > 0.01
        assert not made.leaf.prior.log_z.requires_grad

    def test_figures_state_what_they_rest_on(self):
        found = []
        for prior, size in ((None, 4), (few(), 44)):
            made = spvae(prior, size)
            results = evaluate_rows(made, rows(5), elbo=CircuitELBO(2), samples=3, chunk_size=8, seed=0).results
            assert results["stated"] == {"leaf.prior": made.leaf.prior.stated()}
            (line,) = stated_lines(results)
            found.append(line)
            lines = table(
                {
                    "split": "test",
                    "data": "x",
                    "observed": None,
                    "missing": "none",
                    "bits_per_dim": None,
                    "particles": 2,
                    **results,
                }
            )
            assert lines[-1] == f"log Z           {line[1]:>{len(lines[-1]) - 18 - len(line[2])}}  {line[2]}"
        value = spvae().leaf.prior
        value.prepare_evaluation()
        assert found[0] == ("log Z", f"{value.log_z.mean().item():.2f}", "exact")
        name, text, remark = found[1]
        assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d", text) and name == "log Z"
        assert remark == (
            "by annealed importance sampling, which is low in expectation: log-likelihoods are as much too high"
        )

    def test_a_run_reports_them(self, tmp_path):
        np.savez(tmp_path / "data.npz", **dict.fromkeys(("train", "validation", "test"), rows().numpy()))
        names = {name: f"tests.models.own_leaves:{cls}" for name, cls in (("leaf", "Bits"), ("guide", "BitsGuide"))}
        config = dataclasses.replace(TINY, data=str(tmp_path / "data.npz"), delta=1, latent_dim=4, **names)
        config = dataclasses.replace(config, lr=0.1, prior="boltzmann-machine(chains=10, sweeps=2)")
        lines = []
        results = train(config, tmp_path / "run", report=lines.append)
        number = results["stated"]["leaf.prior"]["log_z"]
        assert f"log Z       {number:.2f} exact" in lines and f"{number:.2f}" != f"{4 * math.log(2):.2f}"
        assert SPVAE.load(tmp_path / "run").leaf.prior.stated() == results["stated"]["leaf.prior"]

    def test_models_that_state_nothing_add_nothing(self):
        class Coins(BoltzmannMachine):
            def stated(self):
                return {}

        results = evaluate_rows(
            spvae(Coins(chains=3)), rows(2), elbo=CircuitELBO(1), samples=1, chunk_size=8, seed=0
        ).results
        assert "stated" not in results and stated_lines(results) == []

    def test_several_parts_are_told_apart(self):
        stated = {"a": {"log_z": 1.0, "log_z_standard_error": 0.0}, "b": {"number_of_modes": 3.0}}
        assert stated_lines({"stated": stated}) == [
            ("log Z of a", "1.00", "exact"),
            ("number of modes of b", "3.00", ""),
        ]
