# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""SPFlow's circuits of discrete tables, trained as ours are: by Adam, on batches of as many rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tables_data import Split, needed
from benchmarks.tables_scores import Outcome

STATES = 16  # of a hidden variable, units of a region
DEPTH, REPETITIONS = 4, 10  # of an EiNet; deeper ones learn more slowly
BATCH, RATE = 128, 0.03
PATIENCE = 10  # looks without a better validation likelihood
_ROWS = 512  # evaluated at a time
_LOOKS = 40  # over the budget, evenly spaced in seconds


class SPFlow:
    """
    A circuit of SPFlow's that is fitted by gradient, the best by its validation rows.

    :param str name: what reports call it.
    :param callable make: from a split to the module.
    """

    is_fast = False

    def __init__(self, name: str, make: Callable[[Split], nn.Module]) -> None:
        self.name, self.make = name, make

    def applies(self, split: Split) -> bool:
        """To whole tables whose columns are of one number of categories."""
        return split.levels is not None and not split.has_holes

    def run(self, split: Split, budget: float) -> Outcome:
        """Trains for at most ``budget`` CPU seconds, those of evaluations left out."""
        needed("spflow", f"the peer {self.name}")
        torch.manual_seed(split.seed)
        cpu, wall = time.process_time(), time.perf_counter()
        model = self.make(split)
        taken, aside = time.process_time() - cpu, time.perf_counter() - wall
        fitted = fit(model, split, budget, taken)
        return Outcome(
            nats=fitted["nats"],
            validation=fitted["validation"],
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            chosen=f"{STATES} states, Adam {RATE}, batches of {BATCH}, {fitted['steps']} steps",
            cpu=fitted["cpu"],
            wall=fitted["wall"] + aside,
            curve=fitted["curve"],
        )


def fit(model: nn.Module, split: Split, budget: float, taken: float = 0.0) -> dict[str, Any]:
    """
    Adam until the budget is used up or validation stalls.

    :param Module model: has ``log_likelihood``.
    :param float taken: seconds that were used already.
    :returns: ``nats`` of the test rows by the parameters that were best in validation, ``[N]``, and those of
        ``validation`` rows; CPU and wall seconds, ``steps``, and the ``curve``: CPU seconds of training, validation
        and test nats.
    """
    train, validation, test = (torch.from_numpy(x).float() for x in (split.train, split.validation, split.test))
    optimiser = torch.optim.Adam(model.parameters(), RATE)
    generator = torch.Generator().manual_seed(split.seed)
    curve: list[tuple[float, float, float]] = []
    best: tuple[np.ndarray, np.ndarray] | None = None
    waited, steps, cpu, wall = 0, 0, taken, 0.0
    next_look = budget / _LOOKS
    while cpu < budget and waited < PATIENCE:
        start, start_wall = time.process_time(), time.perf_counter()
        while cpu + time.process_time() - start < min(next_look, budget):
            order = torch.randperm(len(train), generator=generator)
            for batch in order.split(BATCH):
                optimiser.zero_grad(set_to_none=True)
                loss = -log_likelihood(model, train[batch]).mean()
                loss.backward()
                optimiser.step()
                steps += 1
                if cpu + time.process_time() - start >= min(next_look, budget):
                    break
        cpu, wall = cpu + time.process_time() - start, wall + time.perf_counter() - start_wall
        next_look = max(next_look + budget / _LOOKS, cpu)
        watched, tested = evaluated(model, validation), evaluated(model, test)
        curve.append((cpu, float(watched.mean()), float(tested.mean())))
        waited += 1
        if best is None or watched.mean() > best[0].mean():
            best, waited = (watched, tested), 0
    assert best is not None
    return {"validation": best[0], "nats": best[1], "cpu": cpu, "wall": wall, "steps": steps, "curve": curve}


def log_likelihood(model: nn.Module, x: Tensor) -> Tensor:
    """Nats of each row, ``[N]``."""
    found: Tensor = model.log_likelihood(x)  # type: ignore[operator]
    return found.reshape(len(x))


@torch.no_grad()
def evaluated(model: nn.Module, x: Tensor) -> np.ndarray:
    """Nats of each row, few at a time."""
    return torch.cat([log_likelihood(model, rows) for rows in x.split(_ROWS)]).double().numpy()


def hidden_chow_liu(split: Split) -> nn.Module:
    """A hidden Chow-Liu tree, whose structure is that of the training rows."""
    from spflow.zoo.hclt import learn_hclt_binary, learn_hclt_categorical

    x = torch.from_numpy(split.train)
    if split.levels == 2:
        model: nn.Module = learn_hclt_binary(x.float(), num_hidden_cats=STATES, init="uniform")
    else:
        model = learn_hclt_categorical(x.long(), num_hidden_cats=STATES, num_cats=split.levels, init="uniform")
    return model


def einet(split: Split) -> nn.Module:
    """An Einsum network over random binary trees, of SPFlow's default layers."""
    from spflow.meta import Scope
    from spflow.modules.leaves import Bernoulli, Categorical
    from spflow.zoo.einet import Einet

    columns = split.train.shape[1]
    options: dict[str, Any] = {"out_channels": STATES, "num_repetitions": REPETITIONS}
    scope = Scope(list(range(columns)))
    if split.levels == 2:
        leaf: nn.Module = Bernoulli(scope=scope, **options)
    else:
        leaf = Categorical(scope=scope, K=split.levels, **options)
    model: nn.Module = Einet(
        [leaf],
        num_sums=STATES,
        num_leaves=STATES,
        depth=min(DEPTH, int(np.log2(columns))),
        num_repetitions=REPETITIONS,
    )
    return model


SPFLOW = (SPFlow("spflow-hclt", hidden_chow_liu), SPFlow("spflow-einet", einet))
