# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a batch does to the parameters: a step along the gradient, its share of a step of EM, or one of its own."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyro_spvae import distributed
from pyro_spvae.infer import Estimator, RunningStatistics
from pyro_spvae.infer.em import ClosedForm
from pyro_spvae.queries import Queries
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.objective import check_em
from pyro_spvae.training.optimisers import OPTIMISERS, Schedule, own_optimiser, train_beside


class Update(Protocol):
    """Looks at a batch, and then, if its bound is finite, moves the parameters."""

    @property
    def lr(self) -> float | None:
        """Learning rate; ``None`` where there is none."""

    def look(self, objective: nn.Module, x: Tensor, observed: Tensor | None, size: int) -> Tensor | float:
        """
        :param Module objective: the loss, shared among processes.
        :param int size: rows of the batch over all processes.
        :returns: the bound in nats, summed over this process's rows; a tensor is 0-dimensional, where the model is.
        """

    def move(self, last: bool) -> None:
        """
        :param bool last: whether the batch was the last of an epoch.
        """

    def after_validation(self, bound: float) -> None:
        """Call after every validation that counts."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken."""


class GradientUpdate:
    """
    A step of a torch optimiser for every batch.

    :param FitConfig config: names optimiser and schedule.
    :param spvae: the model.
    :param int steps: steps of the whole run.
    :param optimiser: in the place of the one that is named: an optimiser of the model's parameters, or a function that
        makes one of them.
    :param Estimator estimator: whose own parameters are trained too, with a learning rate of their own.
    :raises ValueError: if it is neither, or holds other parameters.
    """

    def __init__(
        self,
        config: FitConfig,
        spvae: Queries,
        steps: int,
        optimiser: Any = None,
        estimator: Estimator | None = None,
    ) -> None:
        self.clip = config.clip
        self.parameters = list(spvae.parameters())
        self.optimiser = (
            OPTIMISERS[config.optimiser](spvae, config) if optimiser is None else own_optimiser(optimiser, spvae)
        )
        train_beside(self.optimiser, estimator)
        self.schedule = Schedule(config, self.optimiser, steps)

    @property
    def lr(self) -> float:
        return float(self.optimiser.param_groups[0]["lr"])

    def look(self, objective: nn.Module, x: Tensor, observed: Tensor | None, size: int) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        loss: Tensor = objective(x) if observed is None else objective(x, observed)
        # gradients are averaged over processes, so each gives its part of the mean over the batch, times their number
        (loss * (distributed.world() / size)).backward()
        return -loss.detach()

    def move(self, last: bool) -> None:
        self.apply()
        self.after_step()

    def apply(self) -> None:
        """The step of the optimiser, along the gradient of the last look."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip)
        with _counting():
            self.optimiser.step()

    def after_step(self) -> None:
        """What follows a step on the host: the learning rate of the next."""
        self.schedule.after_step()

    def after_validation(self, bound: float) -> None:
        self.schedule.after_validation(bound)

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": self.optimiser.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


def _counting() -> AbstractContextManager[Any]:
    """
    Where torch keeps count of an optimiser's steps on the CPU, from which it reads them, and not on the default device;
    nowhere else is every call of torch's slowed down.
    """
    default = torch.get_default_device()
    return nullcontext() if default.type == "cpu" else torch.device("cpu")


class EMUpdate:
    """
    Expectation maximisation of an SPN: expected statistics of every batch, and an M-step after each epoch, see
    :meth:`pyro_spvae.models.SPN.fit_em`. The parameters of every epoch's M-step do not depend on the batch size, nor on
    the number of processes.

    :param FitConfig config: has smoothing and ridge.
    :param ClosedForm spn: the model.
    """

    lr: float | None = None

    def __init__(self, config: FitConfig, spn: ClosedForm) -> None:
        self.spn = spn
        self.smoothing, self.ridge = config.smoothing, config.ridge
        self.expected = spn.expected_statistics()

    def look(self, objective: nn.Module, x: Tensor, observed: Tensor | None, size: int) -> float:
        before = self.expected.log_likelihood
        self.spn.expect(self.expected, x, observed)
        return self.expected.log_likelihood - before

    def move(self, last: bool) -> None:
        if not last:
            return
        self._add_up()
        self.spn.maximise(self.expected, self.smoothing, self.ridge)
        self.expected = self.spn.expected_statistics()

    def _add_up(self) -> None:
        """The statistics of all processes."""
        for total in self.expected.sums:
            place = distributed.message_device() if distributed.world() > 1 else total.device
            total.copy_(distributed.total(total.to(place)))

    def after_validation(self, bound: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        """The statistics of all processes, which are added up without changing anybody's own."""
        own = self.expected.state_dict()
        if distributed.world() > 1:
            place = distributed.message_device()
            said = torch.tensor([own["rows"], own["log_likelihood"]], dtype=torch.float64, device=place)
            rows, log_likelihood = distributed.total(said).tolist()
            sums = [distributed.total(total.detach().clone().to(place)).to(total.device) for total in own["sums"]]
            own = {"rows": int(rows), "log_likelihood": log_likelihood, "sums": sums}
        return {"expected": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The first process goes on from the statistics of all, the others from none."""
        self.expected = self.spn.expected_statistics()
        if distributed.is_main():
            self.expected.load_state_dict(state["expected"])


class OnlineEMUpdate(EMUpdate):
    """
    Expectation maximisation by batches: a step after each of them, see
    :class:`~pyro_spvae.infer.RunningStatistics`. The step size follows the schedule, as a learning rate does.

    :param FitConfig config: also has the step size, and names the schedule.
    :param ClosedForm spn: the model.
    :param int rows: number of training rows.
    :param int steps: steps of the whole run.
    """

    def __init__(self, config: FitConfig, spn: ClosedForm, rows: int, steps: int) -> None:
        super().__init__(config, spn)
        self.running = RunningStatistics(rows)
        # of a parameter that is none: what a schedule sets the rate of
        self.rate = torch.optim.SGD([torch.zeros((), requires_grad=True, device="cpu")], lr=config.step_size)
        self.schedule = Schedule(config, self.rate, steps)

    @property
    def lr(self) -> float:  # type: ignore[override]
        """The step size."""
        return float(self.rate.param_groups[0]["lr"])

    def look(self, objective: nn.Module, x: Tensor, observed: Tensor | None, size: int) -> float:
        found = super().look(objective, x, observed, size)
        self.expected.rows = size  # of all processes, whose statistics are added up
        return found

    def move(self, last: bool) -> None:
        self._add_up()
        self.running.take(self.expected, self.lr)
        if self.running.ready:
            self.spn.maximise(self.running.into(self.expected), self.smoothing, self.ridge)
        self.expected = self.spn.expected_statistics()
        with _counting():
            self.rate.step()  # of nothing; schedules ask that it comes before theirs
        self.schedule.after_step()

    def after_validation(self, bound: float) -> None:
        self.schedule.after_validation(bound)

    def state_dict(self) -> dict[str, Any]:
        return {
            "running": self.running.state_dict(),
            "optimiser": self.rate.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.running.load_state_dict(state["running"])
        self.rate.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])


def build_update(
    config: FitConfig,
    spvae: Queries,
    steps: int,
    rows: int,
    optimiser: Any = None,
    estimator: Estimator | None = None,
) -> Update:
    """
    The update of a configuration.

    :param int steps: steps of the whole run.
    :param int rows: number of training rows.
    :param optimiser: a user's own, see :class:`GradientUpdate`.
    :param Estimator estimator: of the objective, likewise.
    :raises ValueError: if EM is asked for of a model with no closed M-step.
    """
    if config.optimiser == "em":
        return EMUpdate(config, check_em(spvae, config.optimiser))
    if config.optimiser == "online-em":
        return OnlineEMUpdate(config, check_em(spvae, config.optimiser), rows, steps)
    return GradientUpdate(config, spvae, steps, optimiser, estimator)
