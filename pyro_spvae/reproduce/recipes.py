# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How experiments are trained where their papers' schedule is not what is asked for."""

from __future__ import annotations

from typing import Any, Literal

Recipe = Literal["best", "paper"]

_NEVER = 10**6  # validations to look ahead: the rate ends the run


def falling(lr: float, epochs: int) -> dict[str, Any]:
    """
    Options of the recipe ``best``: Adam with a learning rate that falls to 0 over a number of epochs that is known from
    the start, as a cosine, and no early stopping. The best validation is kept.

    :param float lr: the rate that it falls from.
    """
    return {"optimiser": "adam", "lr": lr, "schedule": "cosine", "epochs": epochs, "patience": _NEVER}
