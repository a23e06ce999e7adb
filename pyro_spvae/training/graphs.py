# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which training steps are captured as graphs, see :class:`~pyro_spvae.training.captured_steps.CapturedSteps`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from pyro_spvae import distributed
from pyro_spvae.training.captured_steps import CapturedSteps
from pyro_spvae.training.cuda_graphs import BACKENDS
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.stepping import QueuedSteps
from pyro_spvae.training.updates import GradientUpdate, Update

#: while the weight of the latent KL rises, epochs of fewer batches are not worth new graphs
WORTH_CAPTURING = 32


def why_not(config: FitConfig, device: torch.device, optimiser: Any = None) -> str | None:
    """
    What speaks against captured steps, before any step is looked at; ``None`` if nothing does.

    :param FitConfig config: how to fit.
    :param device: where the model is.
    :param optimiser: a torch optimiser in the place of the one that the configuration names.
    """
    if device.type not in BACKENDS:
        return f"the device is {device.type}, and graphs are captured on CUDA devices"
    if config.optimiser in ("em", "online-em"):
        return f"the optimiser is {config.optimiser!r}, which takes no gradients"
    if distributed.world() > 1:
        return f"there are {distributed.world()} processes, whose gradients are averaged on the way"
    if optimiser is not None and not all("capturable" in group for group in optimiser.param_groups):
        return f"the optimiser is a {type(optimiser).__name__}, which has no capturable form"
    return None


def check_graphs(config: FitConfig, device: torch.device, optimiser: Any = None) -> None:
    """
    Refuses ``graphs="on"`` where there can be none; what a step itself has against it is found when it is captured.

    :param optimiser: see :func:`why_not`.
    :raises ValueError: if there can be none.
    """
    reason = why_not(config, device, optimiser) if config.graphs == "on" else None
    if reason is not None:
        raise ValueError(f"graphs is 'on', but {reason}; give auto or off")


def steps_of(
    config: FitConfig,
    objective: nn.Module,
    update: Update,
    device: torch.device,
    fixed: Callable[[], Any],
    report: Callable[[str], None],
) -> QueuedSteps | None:
    """
    What takes the steps of a run that the host does not wait for; ``None`` where it waits for each of them, on a CPU,
    with several processes, and where no gradients are taken.

    :param Module objective: the loss.
    :param Update update: what a batch does to the parameters.
    :param callable fixed: see :class:`CapturedSteps`.
    :raises ValueError: if graphs are asked for and there can be none.
    """
    optimiser = getattr(update, "optimiser", None)
    check_graphs(config, device, optimiser)
    reason = why_not(config, device, optimiser)
    if reason is not None and config.graphs != "off" and device.type in BACKENDS:
        report(f"graphs      off: {reason}")
    if not isinstance(update, GradientUpdate) or distributed.world() > 1:
        return None
    if reason is None and config.graphs != "off":
        return CapturedSteps(objective, update, device, fixed, report, must=config.graphs == "on")
    return QueuedSteps(objective, update) if device.type == "cuda" else None
