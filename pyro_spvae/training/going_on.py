# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which runs can be trained on, and by what."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.run_folder import RunFolder

GOES_ON = ("epochs", "patience")
"""Options that may be changed of a run that came to its end."""

_OF_STATE = {"step", "epoch", "batch", "validations", "waited", "summed"}  # which best.pt has not all


def last_state(folder: RunFolder) -> dict[str, Any] | None:
    """
    The state that a run goes on from; ``None`` if it was stopped before the first.

    :raises ValueError: if ``last.pt`` is damaged, or another kind of checkpoint.
    """
    path = folder.path / "last.pt"
    if not path.exists():
        return None
    state = folder.load(path.name)
    if not state.keys() >= _OF_STATE:
        raise ValueError(f"the checkpoint {path} holds no state of training; a run goes on from its own last.pt alone")
    return state


def is_over(config: FitConfig, state: dict[str, Any]) -> bool:
    """Whether a checkpoint is that of the end of training."""
    return state["waited"] >= config.patience or (state["epoch"] >= config.epochs and state["summed"][1] == 0)


def check_goes_on(config: FitConfig, asked: Set[str], folder: RunFolder, state: dict[str, Any]) -> None:
    """
    :param FitConfig config: with other epochs or another patience than before.
    :param asked: which of these are given.
    :param dict state: the run's last checkpoint.
    :raises ValueError: if there is nothing left to train with it.
    """
    done, waited = state["epoch"], state["waited"]
    if config.epochs <= done:
        given = "" if "epochs" in asked else ", and epochs are not given"
        raise ValueError(
            f"epochs is {config.epochs}{given}, but the run {folder.path} was trained for {done} already; more are "
            "needed to train it on"
        )
    if waited >= config.patience:
        raise ValueError(
            f"patience is {config.patience}, but the run {folder.path} stopped after {waited} validations without a "
            f"better bound, in epoch {done + (state['batch'] > 0)}; a patience above {waited} is needed to train it on"
        )
