# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How much an experiment may take."""

from __future__ import annotations

from typing import Literal

Budget = Literal["paper", "small", "tiny"]

#: of the rows that the budget ``tiny`` trains on, so that there are epochs to warm up in
TINY_FRACTION = 1 / 15


def fraction_of(budget: Budget) -> float:
    """Of the rows that an experiment trains on."""
    return TINY_FRACTION if budget == "tiny" else 1.0
