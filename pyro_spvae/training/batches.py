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
from pyro_spvae.training.transfer import sent

BATCH_SIZE = 128  # where none is given
_FEW_ROWS = 2000  # of a table, of which an epoch is few steps
_SMALL_BATCH = 32


def batch_size_without_latents(rows: int) -> int:
    """Rows of a batch where none is given, of a table and a model without latent variables: 32 of fewer than 2,000."""
    return _SMALL_BATCH if rows < _FEW_ROWS else BATCH_SIZE


class Batches:
    """
    Shuffled batches of nearly equal size, every row once an epoch, shared out among the processes.

    :param rows: training rows: :class:`~pyro_spvae.data.Rows`, or a tensor whose values are used as they are.
    :param Tensor observed: ``bool`` for every row, True = seen, or ``None``; entries that are missing from the rows are
        not seen in any case.
    :param int batch_size: rows of a batch over all processes.
    :param int seed: decides the order, the noise of preprocessing and what is hidden.
    :param float hide: part of the entries that are hidden in each batch, see :func:`kept_entries`.
    :raises ValueError: if there are fewer rows in a batch than processes.
    """

    def __init__(
        self, rows: Rows | Tensor, observed: Tensor | None, batch_size: int, seed: int, hide: float = 0.0
    ) -> None:
        self.rows = rows
        self.hide = hide
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
        whole = self.index(epoch, batch)
        share = slice(distributed.rank(), None, distributed.world())
        index = whole[share]
        if isinstance(self.rows, Tensor):
            x = self.rows[sent(index, self.rows.device)]
        else:
            step = (epoch * self.number + batch) * distributed.world() + distributed.rank()
            x = self.rows.draw(index, torch.Generator().manual_seed(noise_seed(self.seed, step, stream=2)))
        seen = seen_entries(self.rows, self.observed, index, x)
        if not self.hide:
            return x, seen
        shape = torch.Size((len(whole), *x.shape[1:]))
        kept = kept_entries(shape, self.hide, self.seed, epoch * self.number + batch)[share]
        kept = sent(kept, x.device)
        return x, kept if seen is None else seen & kept


def kept_entries(shape: torch.Size, hide: float, seed: int, step: int) -> Tensor:
    """
    Which entries of a batch are not hidden, ``bool``, True = kept: each entry of a row of a table, and each pixel of an
    image with all of its channels, is kept with probability ``1 - hide``. A function of the seed and the step, however
    many processes share the batch.

    :param shape: of the batch over all processes, ``[rows, *event_shape]``.
    :param float hide: from 0 to 1.
    """
    generator = torch.Generator().manual_seed(noise_seed(seed, step, stream=8))
    drawn = (shape[0], *(shape[1:] if len(shape) == 2 else (1, *shape[2:])))
    kept = torch.rand(drawn, generator=generator, dtype=torch.float32, device="cpu") >= hide
    return kept.expand(shape)
