# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Captured steps, by a backend that records operations on the CPU: what they do is what ordinary steps do, to the last
bit. Of CUDA graphs themselves is tests/cuda.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch

from pyro_spvae import distributed, poon_domingos
from pyro_spvae.blocks import in_mode
from pyro_spvae.distributions import normal_mixture
from pyro_spvae.evaluating import lean
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.infer.estimators import Estimator
from pyro_spvae.models import SPVAE
from pyro_spvae.priors import StandardNormal
from pyro_spvae.training import cuda_graphs, stepping
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.graphs import why_not
from pyro_spvae.training.interruption import Interrupted
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume, train
from pyro_spvae.training.trainer import Trainer
from tests.helpers import small_spvae
from tests.training.cases import TINY, assert_same_outcome, same, same_average, stopped_after, untimed
from tests.training.graph_cases import ALL, trainer
from tests.training.recorded import Recorded

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def recorded(monkeypatch):
    """Steps are captured on the CPU, and mixtures of many components computed as on a GPU."""
    monkeypatch.setitem(cuda_graphs.BACKENDS, "cpu", Recorded)
    monkeypatch.setattr(normal_mixture, "_READABLE", ())


def trained(made: Trainer, steps: int | None = None) -> Trainer:
    made.run(steps)
    return made


def assert_alike(one: Trainer, other: Trainer) -> None:
    """Parameters, the optimiser's state and metrics are the same, to the last bit."""
    assert same(one.spvae.state_dict(), other.spvae.state_dict())
    assert [untimed(line) for line in one.metrics] == [untimed(line) for line in other.metrics]
    state, other_state = one.state(), other.state()
    assert state["schedule"] == other_state["schedule"]
    assert same_average(state["average"], other_state["average"])
    moments, others = state["optimiser"]["state"], other_state["optimiser"]["state"]
    assert moments.keys() == others.keys() and all(same(moments[name], others[name]) for name in moments)
    groups, other_groups = state["optimiser"]["param_groups"], other_state["optimiser"]["param_groups"]
    assert groups == other_groups and all(isinstance(group["lr"], float) for group in groups)


@pytest.mark.parametrize("name", ALL)
def test_a_captured_step_is_an_ordinary_one(name):
    lines: list[str] = []
    ordinary = trained(trainer(name, graphs="off"))
    captured = trained(trainer(name, report=lines.append, graphs="on"))
    assert_alike(captured, ordinary)
    rising = max(0, captured.config.warmup - 1) * len(captured.batches)  # epochs that are too short
    backend = captured.queued.backend
    assert backend.captures == 2, "one for each size of a batch"
    assert backend.replays == captured.step - max(1, rising), "the first step makes the optimiser's state"
    assert sum(line.startswith("graphs ") for line in lines) == 1


@pytest.mark.parametrize("name", ["warm-up", "balanced warm-up"])
def test_a_weight_that_rises_has_graphs_of_every_epoch(name, monkeypatch):
    monkeypatch.setattr(trainer_module, "WORTH_CAPTURING", 2)
    captured = trained(trainer(name, graphs="on"))
    assert_alike(captured, trained(trainer(name, graphs="off")))
    assert captured.queued.backend.captures == 2 * captured.config.warmup
    monkeypatch.setattr(Trainer, "_fixed", lambda self: "as if it never changed")
    stale = trained(trainer(name, graphs="on"))
    assert not same(stale.spvae.state_dict(), captured.spvae.state_dict()), "what is recorded is not computed anew"


def test_capture_leaves_everything_as_it_was():
    made = trained(trainer("normalised gradients", graphs="on", hide=0.3), 1)
    before = copy.deepcopy(made.state())
    x, observed = made.batches(0, 1)
    noise = torch.get_rng_state()
    with lean(), in_mode(made.spvae, training=True):
        graph = made.queued._captured(*made._sent(x, observed), len(x))
    assert graph is not None and made.queued.backend.captures == 1
    after = made.state()
    assert same(before["model"], after["model"]) and torch.equal(noise, torch.get_rng_state())
    for name, moments in before["optimiser"]["state"].items():
        assert same(moments, after["optimiser"]["state"][name])
    assert before["summed"] == after["summed"] and before["step"] == after["step"]


@pytest.mark.parametrize("step", [1, 2, 5])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(step, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    config = dataclasses.replace(TINY, data="digits", fraction=0.03, warmup=2, prior="vamp", graphs="on")
    config = dataclasses.replace(config, race="none", structure="whole", hide=0.2, batch_size=15, schedule="cosine")
    train(config, tmp_path / "whole")
    with stopped_after(step, Interrupted):
        train(config, tmp_path / "run")
    assert RunFolder(tmp_path / "run").load("last.pt")["step"] == step
    resume(tmp_path / "run")
    assert_same_outcome(tmp_path / "run", tmp_path / "whole")


def test_a_run_may_go_on_without_graphs(tmp_path, monkeypatch):
    """They are how it is trained, and not what: it ends alike, by ``train`` and by ``fit``."""
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    config = dataclasses.replace(TINY, data="digits", fraction=0.03, race="none", structure="whole", graphs="on")
    train(config, tmp_path / "whole")
    with stopped_after(2, Interrupted):
        train(config, tmp_path / "run")
    monkeypatch.delitem(cuda_graphs.BACKENDS, "cpu")  # as on another machine
    with pytest.raises(ValueError, match="^graphs is 'on', but the device is cpu"):
        resume(tmp_path / "run")
    resume(tmp_path / "run", {"graphs": "auto"})
    assert_same_outcome(tmp_path / "run", tmp_path / "whole")

    x, options = torch.rand(40, 1, 2, 2), {"epochs": 3, "batch_size": 9}
    one, other = small_spvae(), small_spvae()
    other.load_state_dict(one.state_dict())
    one.fit(x, **options)
    monkeypatch.setitem(cuda_graphs.BACKENDS, "cpu", Recorded)
    with stopped_after(5, Interrupted):
        other.fit(x, out=tmp_path / "fit", graphs="on", **options)
    other.fit(x, out=tmp_path / "fit", resume=True, graphs="off", **options)
    assert same(one.state_dict(), other.state_dict())


def test_a_state_that_is_loaded_between_two_runs_is_gone_on_from():
    """Graphs hold addresses, and loading gives the optimiser other tensors."""
    made = trained(trainer("iwae", graphs="on"), 4)
    state = copy.deepcopy(made.state())
    first = copy.deepcopy(trained(made, 3).state())
    made.load_state(state, made.metrics[:1])
    again = trained(made, 3).state()
    assert same(first["model"], again["model"]) and first["summed"][:2] == again["summed"][:2]
    assert made.queued.backend.captures == 4, "of both sizes of a batch, twice"


class TestDivergence:
    def made(self, tmp_path, **options):
        made = trainer("iwae", lr=1e154, **options)
        made.folder = RunFolder.create(tmp_path / options["graphs"], made.config.to_dict(), {})
        return made

    def error_of(self, made):
        with pytest.raises(ValueError) as error:
            made.run()
        return str(error.value)

    @pytest.mark.parametrize("every", [3, 64])
    def test_the_error_names_the_step_and_nothing_is_written(self, every, tmp_path, monkeypatch):
        """Whether it is found by the way or before a validation."""
        monkeypatch.setattr(stepping, "CHECK_EVERY", every)
        ordinary = self.made(tmp_path, graphs="off", validate_every=8)
        captured = self.made(tmp_path, graphs="on", validate_every=8)
        expected, found = self.error_of(ordinary), self.error_of(captured)
        assert expected.startswith("the bound became nan at step ") and 2 <= ordinary.step + 1 < 8
        assert found.partition(" (")[0] == expected.partition(" (")[0] and "are not finite); nothing was kept" in found
        assert captured.step == min(every * (1 + ordinary.step // every), 8)
        assert not (captured.folder.path / "last.pt").exists() and not captured.folder.read_metrics()

    def test_a_state_that_is_asked_for_is_checked_first(self, tmp_path, monkeypatch):
        made = self.made(tmp_path, graphs="on", validate_every=8)
        monkeypatch.setattr(Trainer, "_settle", lambda self: None)
        made.run(3)
        monkeypatch.undo()
        assert made.pending.number == 3
        with pytest.raises(ValueError, match="the bound became nan at step"):
            made.state()


class Counting(StandardNormal):
    """A prior that training moves by a number of Python's."""

    def advance(self, progress):
        self.progress = progress


class Replaced(StandardNormal):
    """A prior with another buffer after every call, in the place of the one that it had."""

    def build(self, leaves, event_shape):
        super().build(leaves, event_shape)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self):
        self.calls = self.calls + 1
        return super().forward()


class Reading(StandardNormal):
    """A prior that looks at a value."""

    def build(self, leaves, event_shape):
        super().build(leaves, event_shape)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self):
        assert float(self.calls) == 0
        return super().forward()


class Averaging(Estimator):
    """An estimator with a baseline that is a number of Python's."""

    average = 0.0

    def surrogate(self, step):
        self.average = self.average + 1.0
        return step.score(step.learning_signal - self.average)


def own(prior=None, estimator=None, optimiser=None, report=lambda line: None, **options):
    torch.manual_seed(2)
    spvae = small_spvae(units=1, **({} if prior is None else {"prior": prior}))
    x = torch.rand(20, *spvae.event_shape)
    config = FitConfig(particles=2, batch_size=10, epochs=3, **options)
    objective = None if estimator is None else CircuitELBO(2, estimator=estimator)
    return Trainer(spvae, x, x, config, report=report, objective=objective, optimiser=optimiser)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prior": Counting}, "a part of the model is moved by numbers that a graph would hold fast"),
        ({"prior": Replaced}, r"a step changes programs\.0\.\S*calls, which a graph would hold fast"),
        ({"prior": Reading}, r"the step reads values of a tensor on the host \(aten._local_scalar_dense"),
    ],
    ids=["a number that moves", "a buffer that is replaced", "a value that is read"],
)
def test_what_cannot_be_captured_is_said(options, message):
    """``auto`` goes on by ordinary steps, with the same numbers; ``on`` says it in one sentence."""
    made = {name: make() for name, make in options.items()}
    with pytest.raises(ValueError, match=f"^graphs is 'on', but {message}.*; give auto or off$"):
        own(**made, graphs="on").run()
    lines: list[str] = []
    made = {name: make() for name, make in options.items()}
    one = trained(own(**made, report=lines.append, graphs="auto"))
    made = {name: make() for name, make in options.items()}
    other = trained(own(**made, graphs="off"))
    assert one.queued.refused and same(one.spvae.state_dict(), other.spvae.state_dict())
    (line,) = [line for line in lines if line.startswith("graphs      off: ")]
    assert one.queued.backend.captures == ("prior" in options and options["prior"] is Counting)


def test_an_estimator_with_a_number_of_its_own_is_not_captured():
    made = trainer("vimco", graphs="auto")
    made.objective.estimator = made.objective.elbo.estimator = Averaging()
    trained(made)
    assert made.queued.refused and made.queued.backend.captures == 0 and made.step == 12


@pytest.mark.parametrize("optimiser", ["em", "online-em"])
def test_em_is_refused_before_anything_is_written(optimiser, tmp_path):
    config = dataclasses.replace(
        TINY, data="digits", leaf="factorized", latent_dim=None, race="none", optimiser=optimiser, graphs="on"
    )
    with pytest.raises(ValueError, match=f"^graphs is 'on', but the optimiser is '{optimiser}', which takes no grad"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_reasons(monkeypatch):
    spvae = small_spvae()
    assert why_not(FitConfig(), CPU) is None
    assert why_not(FitConfig(), CPU, torch.optim.Adam(spvae.parameters())) is None
    assert why_not(FitConfig(), CPU, torch.optim.SGD(spvae.parameters())) == (
        "the optimiser is a SGD, which has no capturable form"
    )
    monkeypatch.setattr(distributed, "world", lambda: 2)
    assert why_not(FitConfig(), CPU) == "there are 2 processes, whose gradients are averaged on the way"


class TestWithoutADevice:
    @pytest.fixture(autouse=True)
    def only_cuda(self, recorded, monkeypatch):
        monkeypatch.delitem(cuda_graphs.BACKENDS, "cpu")

    def test_auto_is_as_ever_on_a_cpu(self):
        made = own(graphs="auto")
        assert made.queued is None and made.config.graphs == "auto"
        assert same(trained(made).spvae.state_dict(), trained(own(graphs="off")).spvae.state_dict())

    def test_on_is_refused_before_anything_is_written(self, tmp_path):
        spvae = SPVAE(poon_domingos((2, 2), delta=1), latent_dim=1, hidden_dims=(2,))
        message = "^graphs is 'on', but the device is cpu, and graphs are captured on CUDA devices; give auto or off$"
        with pytest.raises(ValueError, match=message):
            spvae.fit(torch.rand(9, 1, 2, 2), graphs="on", out=tmp_path / "run")
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(TINY, graphs="on", device="cpu"), tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_other_values_are_refused():
    with pytest.raises(ValueError, match="graphs is 'maybe'; .*auto, on"):
        TrainConfig(graphs="maybe")
