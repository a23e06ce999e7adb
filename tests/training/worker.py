# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What one of several processes does in the tests of training by many; each leaves a file of results."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae import distributed, joining
from pyro_spvae.data import load_data
from pyro_spvae.evaluating import lean
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import log_likelihoods, mean_bounds
from pyro_spvae.training.race import race
from tests.training.cases import built, images, trainer_of

EM = {"leaf": "factorized", "latent_dim": None, "optimiser": "em", "epochs": 3}
ONLINE = EM | {"optimiser": "online-em", "step_size": 0.6, "batch_size": 13}
TABLES = {
    "exact": {"leaf": "factorized", "latent_dim": None, "epochs": 3, "lr": 0.005},
    "hidden": {"leaf": "factorized", "latent_dim": None, "epochs": 3, "lr": 0.005, "hide": 0.3},
    "tree": {
        "structure": "chow-liu",
        "leaf": "factorized",
        "units": 3,
        "latent_dim": None,
        "epochs": 2,
        "lr": 0.005,
        "start": "clusters",
    },
    "vae": {"epochs": 2},
}
NORM = {"structure": "whole", "decoder": "pixelcnn(filters=2, layers=1)", "epochs": 1}


def make(**options):
    """The same trainer in every process, in float64, and test rows that do not divide by two."""
    spvae, data, config = built(images(levels=4, rows=52), **options)
    return trainer_of(spvae.double(), data, config), data.test


def people():
    """A table with holes whose columns are of several kinds."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "visits": random.poisson(4, 75).astype(float),
            "town": random.choice(["Bonn", "Köln", "Ulm"], 75),
            "income": random.lognormal(2, 1, 75),
            "change": random.normal(size=75),
        }
    )
    return frame.where(random.random(frame.shape) < 0.8)


def mixed(**options):
    """Likewise on such a table."""
    spvae, data, config = built(load_data(people()), likelihood="columns", batch_size=15, **options)
    return trainer_of(spvae.double(), data, config), data.test


def raced():
    """The configuration that a race on that table ends with, and its lines without seconds."""
    data = load_data(people().drop(columns=["town", "visits"]))
    config = TrainConfig(epochs=3, batch_size=13, precision="float64", device="cpu")
    found, lines = race(config, data, torch.device("cpu"))
    return found.to_dict(), [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def gradients(trainer, objective):
    """Gradients of the first step, which is not taken."""
    x, _ = trainer.batches(0, 0)
    torch.manual_seed(100 + distributed.rank())
    trainer.update.optimiser.step = lambda: None
    trainer._step(objective, x, None, False, len(trainer.batches.index(0, 0)), last=False)
    del trainer.update.optimiser.step
    trainer.step = 0
    return [parameter.grad.clone() for parameter in trainer.spvae.parameters()]


def statistics():
    """Running statistics of batch normalisation after an epoch, as trained by this process and as validated by all."""
    trainer, _ = make(**NORM)
    found = []

    def taken(spvae):
        found.append({name: value.clone() for name, value in spvae.named_buffers() if "running" in name})

    with pytest.MonkeyPatch.context() as patch:
        average, validate = distributed.average_statistics, trainer_module.mean_bounds
        patch.setattr(distributed, "average_statistics", lambda module: (taken(module), average(module)))
        patch.setattr(trainer_module, "mean_bounds", lambda spvae, *args: (taken(spvae), validate(spvae, *args))[1])
        trainer.run()
    return found


def averaged():
    """
    Averaged weights after an epoch with batch normalisation; what is kept of each process; the same where training was
    stopped after two steps.
    """
    whole, again = (make(**NORM, average="ema")[0] for _ in range(2))
    again.run(max_steps=2)
    other, _ = make(**NORM, average="ema")
    other.load_state(again.state(), [])
    for trainer in (whole, other):
        trainer.run()
    return {
        "parameters": whole.spvae.state_dict(),
        "processes": distributed.gathered(whole.averaged.process_buffers()),
        "resumed": other.spvae.state_dict(),
    }


def em_resumed():
    """Parameters by EM that was stopped in the middle of an epoch, as all processes go on from what the first saves."""
    options = EM | {"batch_size": 13}
    whole, stopped, other = (make(**options)[0] for _ in range(3))
    stopped.run(max_steps=5)
    assert stopped.batch > 0
    state = [stopped.state()]
    if distributed.world() > 1:
        torch.distributed.broadcast_object_list(state, 0)
    other.load_state(state[0], [])
    for trainer in (whole, stopped, other):
        trainer.run()
    return [trainer.spvae.state_dict() for trainer in (whole, stopped, other)]


def main(folder):
    """Gradients, training, evaluation."""
    torch.set_default_dtype(torch.float64)
    with joining.processes(torch.device("cpu")), lean():
        trainer, test = make()
        results = {"gradients": gradients(trainer, distributed.share(trainer.objective))}
        seeds = []
        step = trainer._step

        def recorded(*args, **options):
            seeds.append(torch.initial_seed())
            return step(*args, **options)

        trainer._step = recorded
        metrics = trainer.run()
        ran = []

        def act():
            ran.append(distributed.rank())
            return "told"

        results["told"] = distributed.on_main(act)
        tables = {}
        for name, options in TABLES.items():
            table, of_table = mixed(**options)
            table.run()
            tables[name] = {
                "parameters": table.spvae.state_dict(),
                "bounds": mean_bounds(table.spvae, table.elbo, of_table, seed=3),
                "log_likelihoods": log_likelihoods(table.spvae, of_table, samples=20, chunk_size=8, seed=3),
            }
        em, _ = make(**EM)
        em.run()
        online, _ = make(**ONLINE)
        online.run()
        results |= {
            "statistics": statistics(),
            "averaged": averaged(),
            "raced": raced(),
            "tables": tables,
            "em": em.spvae.state_dict(),
            "em_resumed": em_resumed(),
            "online": online.spvae.state_dict(),
            "ran": ran,
            "world": distributed.world(),
            "seeds": seeds,
            "elbo": [line["elbo"] for line in metrics],
            "parameters": trainer.spvae.state_dict(),
            "bounds": mean_bounds(trainer.spvae, trainer.elbo, test, seed=3),
            "log_likelihoods": log_likelihoods(trainer.spvae, test, samples=40, chunk_size=8, seed=3),
        }
        torch.save(results, folder / f"{distributed.rank()}.pt")
