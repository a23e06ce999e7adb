# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
How models are trained and asked: without Pyro's checks, and in evaluation mode without gradients.

Rows are taken in blocks, shared out among processes. The noise of a block is a function of the seed and the block's
number, so that every number is the same however many processes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_spvae import distributed
from pyro_spvae.blocks import held, in_mode, unstated
from pyro_spvae.data import Rows
from pyro_spvae.data.rows import select
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.denormals import flushed
from pyro_spvae.locking import alone


@contextmanager
def lean() -> Iterator[None]:
    """
    Pyro without validation and without the global parameter store, programs not stating parameters
    (:func:`pyro_spvae.blocks.unstated`), for one thread at a time (see :func:`pyro_spvae.locking.alone`), which takes
    denormal numbers for 0 (see :func:`pyro_spvae.denormals.flushed`); all settings are put back at the end.
    """
    with alone(), unstated(), flushed():
        validating = is_validation_enabled()
        pyro.enable_validation(False)
        try:
            with pyro.settings.context(module_local_params=True):
                yield
        finally:
            pyro.enable_validation(validating)


@contextmanager
def evaluating(model: nn.Module, seed: int | None = None) -> Iterator[None]:
    """
    Inside the model is in evaluation mode, without gradients and with parameters that do not change, and Pyro
    :func:`lean`; torch's generators outside are left alone.

    :param Module model: a module with parameters.
    :param int seed: what torch's generators start at.
    """
    where = next(model.parameters()).device
    generators = [where] if where.type == "cuda" else []
    mode = in_mode(model, training=False)
    with lean(), mode, held(model), torch.no_grad(), torch.random.fork_rng(devices=generators):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def by_blocks(
    model: nn.Module,
    rows: Rows | Tensor,
    observed: Tensor | None,
    compute: Callable[[Tensor, Tensor | None, int], Tensor],
    columns: int,
    size: int,
    seed: int,
    progress: bool = False,
    tick: Callable[[int, int], None] | None = None,
) -> Tensor:
    """
    Numbers of all rows, computed by blocks in all processes.

    :param callable compute: from rows, their mask and the seed of their noise, which torch's generators start at, to
        numbers ``[data, columns]``.
    :param int columns: numbers a row.
    :param int size: rows of a block.
    :param bool progress: show a progress bar.
    :param callable tick: told after every block how many rows are done, and of how many.
    :returns: float64 ``[data, columns]``, the same in every process.
    """
    results = torch.zeros(len(rows), columns, dtype=torch.float64, device=distributed.message_device())
    bar = tqdm(total=len(rows), desc="log-likelihood", unit="row", disable=not (progress and distributed.is_main()))
    with bar, evaluating(model):
        for start, block_seed in shared_blocks(len(rows), size, seed, stream=3):
            x, seen = block(model, rows, observed, start, start + size)
            results[start : start + size] = compute(x, seen, block_seed).to(results)
            done = min(start + len(x) * distributed.world(), len(rows))  # about, of several processes
            bar.update(done - bar.n)
            if tick is not None:
                tick(done, len(rows))
    return distributed.total(results).cpu()


def shared_blocks(rows: int, size: int, seed: int, stream: int) -> Iterator[tuple[int, int]]:
    """First rows of the blocks that this process computes, and seeds of their noise, which torch's generators get."""
    for start in range(distributed.rank() * size, rows, distributed.world() * size):
        block_seed = noise_seed(seed, start // size, stream)
        torch.manual_seed(block_seed)
        yield start, block_seed


def block(
    model: nn.Module, rows: Rows | Tensor, observed: Tensor | None, start: int, stop: int
) -> tuple[Tensor, Tensor | None]:
    """Rows and their mask as the model takes them."""
    parameter = next(model.parameters())
    x, seen = select(rows, observed, slice(start, stop))
    return x.to(parameter.device, parameter.dtype), None if seen is None else seen.to(parameter.device)
