# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which rows a step sees, and which noise: functions of the seed and the step alone, so that any step can be redone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_spvae import distributed
from pyro_spvae.data import Rows
from pyro_spvae.data.rows import seen_entries
from pyro_spvae.data.seeds import noise_seed


class Batches:
    """
    Shuffled batches of nearly equal size, every row once an epoch, shared out among the processes.

    :param rows: training rows: :class:`~pyro_spvae.data.Rows`, or a tensor whose values are used as they are.
    :param Tensor observed: ``bool`` for every row, True = seen, or ``None``; entries that are missing from the rows are
        not seen in any case.
    :param int batch_size: rows of a batch over all processes.
    :param int seed: decides the order and the noise of preprocessing.
    :raises ValueError: if there are fewer rows in a batch than processes.
    """

    def __init__(self, rows: Rows | Tensor, observed: Tensor | None, batch_size: int, seed: int) -> None:
        self.rows = rows
        self.observed = observed
        self.seed = seed
        self.number = math.ceil(len(rows) / batch_size)
        smallest = len(rows) // self.number
        if smallest < distributed.world():
            raise ValueError(
                f"batches have {smallest} rows, but there are {distributed.world()} processes; give a batch_size of at "
                f"least {distributed.world()}, and as many rows"
            )
        self._order: tuple[int, tuple[Tensor, ...]] | None = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.number

    def index(self, epoch: int, batch: int) -> Tensor:
        """Row numbers of a batch, over all processes; both count from 0."""
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(noise_seed(self.seed, epoch, stream=1))
            order = torch.randperm(len(self.rows), generator=generator, device="cpu")
            self._order = (epoch, order.tensor_split(self.number))
        return self._order[1][batch]

    def __call__(self, epoch: int, batch: int) -> tuple[Tensor, Tensor | None]:
        """This process's rows of a batch and their mask, with the noise of that step."""
        index = self.index(epoch, batch)[distributed.rank() :: distributed.world()]
        if isinstance(self.rows, Tensor):
            x = self.rows[index]
        else:
            step = (epoch * self.number + batch) * distributed.world() + distributed.rank()
            x = self.rows.draw(index, torch.Generator().manual_seed(noise_seed(self.seed, step, stream=2)))
        return x, seen_entries(self.rows, self.observed, index, x)
