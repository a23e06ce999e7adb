# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Random masks, of which each row's depends on the seed and the number of the row alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_spvae.data.seeds import noise_seed


def random_mask(rows: int, shape: Sequence[int], probability: float, seed: int, stream: int) -> Tensor:
    """
    Each entry of each row with a probability.

    :param int rows: how many, from the first.
    :param shape: of a row's mask.
    :param float probability: that an entry is set.
    :param int seed: of the noise.
    :param int stream: what the mask is for, see :func:`pyro_spvae.data.seeds.noise_seed`.
    :returns: ``bool [rows, *shape]``, on the CPU.
    """
    mask = torch.empty(rows, *shape, dtype=torch.bool, device="cpu")
    generator = torch.Generator()
    for row in range(rows):
        generator.manual_seed(noise_seed(seed, row, stream=stream))
        mask[row] = torch.rand(*shape, generator=generator, dtype=torch.float64, device="cpu") < probability
    return mask
