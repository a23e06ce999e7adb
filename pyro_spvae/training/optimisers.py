# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import nn

from pyro_spvae.infer import Estimator
from pyro_spvae.training.adam_normgrad import adam_normgrad
from pyro_spvae.training.fit_config import FitConfig

_BESIDE = "of_estimator"  # says of a group of parameters that they are not the model's

#: schedules by the number of steps
BY_STEP = ("cosine", "linear", "one-cycle")
_OF_CYCLE = ("total_steps", "_schedule_phases")

_RATE, _RATE_WITHOUT_LATENTS = 0.005, 0.03  # of networks; of weights and leaf parameters themselves


def rate_of(model: Any, config: FitConfig) -> float:
    """The learning rate: the one that is given, else by whether the model has latent variables."""
    return default_rate(bool(model.latents)) if config.lr is None else config.lr


def default_rate(latents: bool) -> float:
    """
    The learning rate where none is given.

    :param bool latents: whether the model has latent variables.
    """
    return _RATE if latents else _RATE_WITHOUT_LATENTS


#: by the names that configurations have for them, functions from model and configuration to an optimiser of all
#: parameters; fused where torch has that: one pass over all parameters instead of ten
OPTIMISERS: dict[str, Callable[[Any, FitConfig], torch.optim.Optimizer]] = {
    "adam": lambda model, config: torch.optim.Adam(model.parameters(), lr=rate_of(model, config), fused=True),
    "adamax": lambda model, config: torch.optim.Adamax(model.parameters(), lr=rate_of(model, config)),
    "adamw": lambda model, config: torch.optim.AdamW(
        model.parameters(), lr=rate_of(model, config), weight_decay=config.weight_decay, fused=True
    ),
    "adam-normgrad": lambda model, config: adam_normgrad(model, rate_of(model, config)),
}


def own_optimiser(optimiser: Any, model: nn.Module) -> torch.optim.Optimizer:
    """
    A user's own optimiser.

    :param optimiser: of the model's parameters, or a function that makes one of them.
    :raises ValueError: if it is none, holds parameters that are not the model's, or evaluates the loss itself.
    """
    if isinstance(optimiser, PyroOptim):
        raise ValueError(
            "optimiser is one of pyro.optim, which is for SVI; give a function such as "
            "lambda parameters: torch.optim.Adam(parameters, lr=0.01)"
        )
    own = {id(parameter) for parameter in model.parameters()}
    made = optimiser if isinstance(optimiser, torch.optim.Optimizer) else optimiser(model.parameters())
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"optimiser makes a {type(made).__name__}; a torch optimiser is needed")
    if any(id(parameter) not in own for group in of_model(made) for parameter in group["params"]):
        raise ValueError("optimiser holds parameters that are not the model's; make it of spvae.parameters()")
    if any("lr" not in group for group in made.param_groups):
        raise ValueError(f"optimiser is a {type(made).__name__} without a learning rate, which schedules set")
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ValueError(
            f"optimiser is a {type(made).__name__}, whose step evaluates the loss several times; one that takes the "
            "gradient of a batch is needed"
        )
    return made


def of_model(optimiser: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The groups of an optimiser's parameters that are the model's."""
    return [group for group in optimiser.param_groups if not group.get(_BESIDE)]


def train_beside(optimiser: torch.optim.Optimizer, estimator: Estimator | None) -> None:
    """
    Lets an optimiser of a model's parameters train those of an estimator too, with a learning rate of their own, in the
    place of those that it trained in a run before.
    """
    for group in optimiser.param_groups:
        if group.get(_BESIDE):
            for parameter in group["params"]:
                optimiser.state.pop(parameter, None)
    optimiser.param_groups[:] = of_model(optimiser)
    further = [] if estimator is None else list(estimator.parameters())
    if estimator is not None and further:
        lr = float(optimiser.param_groups[0]["lr"]) * estimator.lr_factor
        optimiser.add_param_group({"params": further, "lr": lr, _BESIDE: True})


def _one_cycle(steps: int, t: int) -> float:
    """The rate of torch's OneCycleLR that ends after so many steps, as a multiple of the one that it starts with."""
    top, bottom, turn = 25.0, 1e-4, 0.3 * (steps + 1) - 1
    if t <= turn:
        return top + (1 - top) * (1 + math.cos(math.pi * t / turn)) / 2
    return bottom + (top - bottom) * (1 + math.cos(math.pi * (t - turn) / (steps - turn))) / 2


class Schedule:
    r"""
    The learning rate over a run: ``plateau`` follows validation, the others the steps: at step :math:`t` of :math:`T`
    it is the optimiser's, times :math:`(1 + \cos(\pi t / T)) / 2` or :math:`1 - t / T`, or by torch's
    :class:`~torch.optim.lr_scheduler.OneCycleLR` with the defaults that it has, momentum being left alone.

    A run that is trained on, by more steps than it had, goes on at the rate of one that had all of them from its start.

    :param FitConfig config: names the schedule.
    :param Optimizer optimiser: whose rate is set.
    :param int steps: steps of the whole run.
    """

    def __init__(self, config: FitConfig, optimiser: torch.optim.Optimizer, steps: int) -> None:
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._by_step: torch.optim.lr_scheduler.LRScheduler | None = None
        self._totals: dict[str, Any]  # what it knows the number of steps by
        self._factor: Callable[[int], float]
        if config.schedule == "plateau":
            self._plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
                # torch's patience is the number of bad validations that go unpunished, one less than ours
                optimiser,
                mode="max",
                factor=0.5,
                patience=max(1, config.patience // 3) - 1,
                threshold=0.0,
            )
        elif config.schedule == "cosine":
            self._totals, self._factor = {"T_max": steps}, lambda t: (1 + math.cos(math.pi * t / steps)) / 2
            self._by_step = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
        elif config.schedule == "linear":
            self._totals, self._factor = {"total_iters": steps}, lambda t: 1 - t / steps
            self._by_step = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)
        elif config.schedule == "one-cycle":
            rates = [float(group["lr"]) for group in optimiser.param_groups]
            cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, total_steps=steps + 1, cycle_momentum=False)
            self._totals, self._factor = {name: vars(cycle)[name] for name in _OF_CYCLE}, partial(_one_cycle, steps)
            self._by_step = cycle

    def after_step(self) -> None:
        """Call after every step of the optimiser."""
        if self._by_step is not None:
            self._by_step.step()

    def after_validation(self, bound: float) -> None:
        """Call after every validation that counts."""
        if self._plateau is not None:
            self._plateau.step(bound)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        kept = self._plateau or self._by_step
        return {} if kept is None else dict(kept.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken, maybe with another patience or number of steps."""
        if self._plateau is not None:
            self._plateau.load_state_dict(state | {"patience": self._plateau.patience})
        if self._by_step is None:
            return
        self._by_step.load_state_dict(state | self._totals)
        if any(state[name] != total for name, total in self._totals.items()):  # torch may find a rate from the last
            for group, lr in zip(self._by_step.optimizer.param_groups, self._by_step.base_lrs, strict=True):
                group["lr"] = lr * self._factor(self._by_step.last_epoch)
