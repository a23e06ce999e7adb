# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small data sets and configurations for the tests of training."""

from __future__ import annotations

import torch

from pyro_spvae.data import DataSet, Values
from pyro_spvae.training.config import TrainConfig

TINY = TrainConfig(
    units=1, latent_dim=2, hidden=(4,), particles=2, batch_size=16, epochs=2, patience=4, samples=6, chunk_size=16
)


def table(columns: int = 4, rows: int = 40, seed: int = 0) -> DataSet:
    """Continuous rows of a table."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return _split("table", x, Values(low=float(x.min()), high=float(x.max())))


def images(levels: int | None = 4, channels: int = 1, side: int = 4, rows: int = 40) -> DataSet:
    """Images of grey levels, or of values in [0, 1] where ``levels`` is ``None``."""
    generator = torch.Generator().manual_seed(1)
    shape = (rows, channels, side, side)
    if levels is None:
        x = torch.rand(shape, generator=generator, dtype=torch.float32)
        return _split("images", x, Values(low=0, high=1))
    x = torch.randint(levels, shape, generator=generator).float()
    return _split("images", x.to(torch.float32), Values.grey_levels(levels))


def _split(name: str, x: torch.Tensor, values: Values) -> DataSet:
    held_out = len(x) // 4
    train, validation, test = x.split([len(x) - 2 * held_out, held_out, held_out])
    return DataSet(name, train, validation, test, values)
