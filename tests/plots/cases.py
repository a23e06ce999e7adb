# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What tests of pictures look at."""

from __future__ import annotations

import numpy as np


def shown(figure):
    """The arrays that a figure shows, axes by axes."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
