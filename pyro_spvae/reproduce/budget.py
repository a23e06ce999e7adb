# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How much an experiment may take."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

#: ``paper``: the schedule of the paper, or what did best. ``small``: for two cores. ``tiny``: under three minutes of
#: one core a model, training and evaluation, to see that all works.
Budget = Literal["paper", "small", "tiny"]

#: rows of the training split of each data set
TRAINING: dict[str, int] = {
    "mnist": 50_000,
    "static_mnist": 50_000,
    "omniglot_burda": 23_000,
    "caltech101_silhouettes": 4_100,
    "frey_faces": 1_565,
    "histopathology": 6_800,
    "svhn": 65_932,
    "cifar10": 40_000,
}
#: of the test split that are evaluated, the first; ``None``: all
TEST_ROWS: dict[Budget, int | None] = {"paper": None, "small": None, "tiny": 1000}

_IMAGES = 1500  # that ``tiny`` trains on, at most
_FEW: dict[Budget, str] = {
    "small": "of fewer steps than the paper's, and of fewer samples where that is said; the budget paper does better",
    "tiny": "of at most about a hundred steps on 1,500 training images, and of few samples of the first test images; "
    "its numbers show that all works, and say nothing of the models",
}


def fraction_of(budget: Budget, data: str) -> float:
    """
    Of the rows that an experiment trains on: with the budget ``tiny`` so few that a hundred steps are several epochs,
    for there to be some to warm up in, and enough for priors that are made of training images.

    :param str data: one of :data:`TRAINING`.
    """
    return min(1.0, _IMAGES / TRAINING[data]) if budget == "tiny" else 1.0


def remarks(budgets: Iterable[str]) -> list[str]:
    """A sentence about each budget that is not the paper's."""
    found = set(budgets)
    return [f"Budget {budget}: {text}." for budget, text in _FEW.items() if budget in found]
