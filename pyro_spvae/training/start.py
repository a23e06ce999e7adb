# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a model sees of training rows before its first step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_spvae import distributed
from pyro_spvae.data import Rows
from pyro_spvae.data.rows import select
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.infer.cluster_start import Clustered
from pyro_spvae.queries import Queries
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.pace import Pace

_STREAM = 7  # of seeds
_LOOKED_AT = 1000  # rows, by which a range is known well enough
_CLUSTERED = 20_000  # rows that clusters are made of


def show(spvae: Queries, train: Rows | Tensor, observed: Tensor | None, seed: int) -> None:
    """
    Shows rows drawn by the seed to a model that starts from data, such as one with a VampPrior of training data, or
    that looks at them before it is trained.
    """
    wanted = min(spvae.wanted_rows, len(train))  # the prior itself says so if there are too few
    if wanted:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise_seed(seed, 1, stream=_STREAM))
            spvae.start(*_some(spvae, train, observed, wanted, seed))
    if spvae.looks_at_data and distributed.is_main():  # which changes nothing
        spvae.look_at(*_some(spvae, train, observed, _LOOKED_AT, seed))


def at_clusters(config: FitConfig, spvae: Queries) -> bool:
    """
    Whether a model starts at clusters of the training rows.

    :raises ValueError: if it is asked to and cannot.
    """
    if config.start != "clusters":
        return False
    if not isinstance(spvae, Clustered):
        raise ValueError(
            f"start is 'clusters', where SPNs can start (models.SPN, --leaf gaussian or --leaf factorized); the model "
            f"is {type(spvae).__name__} of {type(spvae.leaf).__name__}"
        )
    spvae.check_closed_form()
    return True


def start_at_clusters(
    spvae: Queries,
    train: Rows | Tensor,
    observed: Tensor | None,
    seed: int,
    pace: Pace,
    look: Callable[[], None] = lambda: None,
) -> None:
    """
    Starts at clusters of rows drawn by the seed.

    :param callable look: called after each region; parameters are those of before until all are done.
    """
    assert isinstance(spvae, Clustered)
    count, regions = pace.counting("clusters", "regions"), spvae.circuit.regions.num_regions

    def tick(done: int) -> None:
        count(done, regions)
        look()

    rows = _some(spvae, train, observed, _CLUSTERED, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(noise_seed(seed, 2, stream=_STREAM))
        spvae.start_at_clusters(*rows, tick=tick)


def _some(
    spvae: Queries, train: Rows | Tensor, observed: Tensor | None, number: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """As many rows, or all, in an order by the seed."""
    generator = torch.Generator().manual_seed(noise_seed(seed, 0, stream=_STREAM))
    order = torch.randperm(len(train), generator=generator, device="cpu")
    parameter = next(spvae.parameters())
    x, seen = select(train, observed, order[:number])
    return x.to(parameter), None if seen is None else seen.to(parameter.device)
