# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Probabilities of values that are numbers of kinds, whatever wraps their distribution."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def kind_probabilities(law: Any) -> Tensor | None:
    """
    The probability of each kind, ``[*batch, *event, kind]``, of a Categorical distribution, whose axes may be events
    and which may be masked or expanded; ``None`` for any other.
    """
    base = law
    while getattr(base, "probs", None) is None:
        base = getattr(base, "base_dist", None)
        if base is None:
            return None
    probs: Tensor = base.probs
    if probs.dim() != len(base.batch_shape) + len(base.event_shape) + 1:  # such as those of counts
        return None
    return probs.expand(*law.batch_shape, *law.event_shape, probs.size(-1))
