# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Rows in blocks, shared out among processes.

The noise of a block is a function of the seed and the block's number, so that every number is the same however many
processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae import distributed
from pyro_spvae.data import Rows
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.models import SPVAE
from pyro_spvae.nn.mode import in_mode
from pyro_spvae.training.lean import lean


def by_blocks(
    spvae: SPVAE,
    rows: Rows | Tensor,
    observed: Tensor | None,
    compute: Callable[[Tensor, Tensor | None, int], Tensor],
    columns: int,
    size: int,
    seed: int,
    progress: bool = False,
) -> Tensor:
    """
    Numbers of all rows, computed by blocks in all processes.

    :param callable compute: from rows, their mask and the seed of their noise, which torch's generators start at, to
        numbers ``[data, columns]``.
    :param int columns: numbers a row.
    :param int size: rows of a block.
    :param bool progress: show a progress bar.
    :returns: float64 ``[data, columns]``, the same in every process.
    """
    results = torch.zeros(len(rows), columns, dtype=torch.float64, device=distributed.message_device())
    bar = tqdm(total=len(rows), desc="log-likelihood", unit="row", disable=not (progress and distributed.is_main()))
    with bar, evaluating(spvae):
        for start, block_seed in shared_blocks(len(rows), size, seed, stream=3):
            x, seen = block(spvae, rows, observed, start, start + size)
            results[start : start + size] = compute(x, seen, block_seed).to(results)
            bar.update(min(len(x) * distributed.world(), len(rows) - bar.n))
    return distributed.total(results).cpu()


def shared_blocks(rows: int, size: int, seed: int, stream: int) -> Iterator[tuple[int, int]]:
    """First rows of the blocks that this process computes, and seeds of their noise, which torch's generators get."""
    for start in range(distributed.rank() * size, rows, distributed.world() * size):
        block_seed = noise_seed(seed, start // size, stream)
        torch.manual_seed(block_seed)
        yield start, block_seed


@contextmanager
def evaluating(spvae: SPVAE) -> Iterator[None]:
    """Inside the model is in evaluation mode and without gradients; torch's generators outside are left alone."""
    where = next(spvae.parameters()).device
    generators = [where] if where.type == "cuda" else []
    with lean(), in_mode(spvae, training=False), torch.no_grad(), torch.random.fork_rng(devices=generators):
        yield


def block(
    spvae: SPVAE, rows: Rows | Tensor, observed: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor | None]:
    """Rows and their mask as the model takes them."""
    parameter = next(spvae.parameters())
    x = rows[start:stop].to(parameter.device, parameter.dtype)
    if observed is None:
        return x, None
    return x, (observed.expand(len(rows), *x.shape[1:])[start:stop]).to(parameter.device)
