# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How experiments are trained where their papers' schedule is not what is asked for."""

from __future__ import annotations

from typing import Any, Literal

Recipe = Literal["best", "paper"]

_NEVER = 10**6  # validations to look ahead: the rate ends the run


def falling(lr: float, epochs: int, schedule: Literal["cosine", "one-cycle"] = "cosine") -> dict[str, Any]:
    """
    Options of the recipe ``best``: a learning rate that comes to 0 after a number of epochs that is known from the
    start, and no early stopping. The best validation is kept.

    :param float lr: the highest rate.
    :param str schedule: which way it comes there.
    """
    return {"lr": lr, "schedule": schedule, "epochs": epochs, "patience": _NEVER}
