# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Optimisers and learning-rate schedules by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pyro_spvae.training.adam_normgrad import AdamNormGrad, norm_groups
from pyro_spvae.training.config import FitConfig


def build_optimiser(config: FitConfig, model: nn.Module) -> torch.optim.Optimizer:
    """
    The optimiser of a configuration for all parameters of a model; fused where torch has that: one pass over all
    parameters instead of ten.
    """
    if config.optimiser == "adam-normgrad":
        return AdamNormGrad(norm_groups(model), lr=config.lr, fused=True)
    parameters = model.parameters()
    if config.optimiser == "adamax":
        return torch.optim.Adamax(parameters, lr=config.lr)
    if config.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    return torch.optim.Adam(parameters, lr=config.lr, fused=True)


class Schedule:
    """
    The learning rate over a run: ``plateau`` follows validation, the others the steps.

    :param FitConfig config: names the schedule.
    :param Optimizer optimiser: whose rate is set.
    :param int steps: steps of the whole run.
    """

    def __init__(self, config: FitConfig, optimiser: torch.optim.Optimizer, steps: int) -> None:
        self._plateau: torch.optim.lr_scheduler.ReduceLROnPlateau | None = None
        self._by_step: torch.optim.lr_scheduler.LRScheduler | None = None
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
            self._by_step = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=steps)
        elif config.schedule == "linear":
            self._by_step = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=steps)

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
        """Continues where :meth:`state_dict` was taken."""
        kept = self._plateau or self._by_step
        if kept is not None:
            kept.load_state_dict(state)
