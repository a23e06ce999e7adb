# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sizes and training of hidden Chow-Liu trees where nothing is said of them."""

from __future__ import annotations

import math
from typing import Any

UNITS = (4, 8, 16, 32, 64)
_SHARE = 0.5  # of the number of entries that the parameters of a tree may be
_EDGES = 1.7  # of a Chow-Liu tree for each column, in the mean
# steps in which the learning rate falls to 0, and epochs that these may be
_OF_TABLES, _OF_IMAGES = (12_000, (100, 400)), (1_500, (4, 400))

_IMAGE_LR = 0.06


def tree_units(rows: int, levels: int = 0) -> int:
    """
    Units of a hidden Chow-Liu tree of single columns or pixels: of 4, 8, 16, 32 and 64 the most at which its
    parameters, about 1.7 ``units ** 2`` and ``levels * units`` a column, are at most half as many as the entries.

    :param int rows: to train by.
    :param int levels: free probabilities of each leaf; 0 where leaves have but a few parameters.
    """
    allowed = (units for units in UNITS if _EDGES * units**2 + levels * units <= _SHARE * rows)
    return max(allowed, default=UNITS[0])


def tree_training(rows: int, batch_size: int, image: bool) -> dict[str, Any]:
    """
    How such trees are trained: AdamW with a weight decay of 0.01 and a learning rate that falls to 0 linearly, of
    tables over 12,000 steps, 100 epochs at least and 400 at most; of images over 1,500, 4 epochs at least, from 0.06.
    More steps overfit: of MNIST, with 64 units and 4,300 steps, validation rows were explained best after five of
    eleven epochs.

    :param int rows: to train by.
    :returns: options of a configuration.
    """
    steps, (least, most) = _OF_IMAGES if image else _OF_TABLES
    epochs = min(max(math.ceil(steps * batch_size / rows), least), most)
    falling = {"particles": 1, "schedule": "linear", "epochs": epochs, "patience": max(30, epochs // 4)}
    falling |= {"lr": _IMAGE_LR} if image else {}
    return falling | {"optimiser": "adamw", "weight_decay": 0.01}
