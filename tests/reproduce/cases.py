# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Experiments of every kind, and finished runs as their files tell of them."""

from __future__ import annotations

import dataclasses
import json

from pyro_spvae.reproduce.dlgmm import MixtureExperiment
from pyro_spvae.reproduce.dvae import NETS, DiscreteExperiment, methods
from pyro_spvae.reproduce.dvaepp import ROWS, ConvolutionalExperiment
from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.reproduce.poster import MODELS, PosterExperiment
from pyro_spvae.reproduce.published import MIXTURES, TABLE_1, VAMP
from pyro_spvae.reproduce.run import command_line
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.reproduce.vampprior import VampExperiment


def experiments(budget):
    """Every model of every table and figure, on every data set."""
    made = [
        Experiment(*cell, budget, recipe=recipe, fraction=fraction, figure=figure)
        for cell in TABLE_1
        for recipe in ("best", "tuned", "paper")
        for fraction, figure in ((1.0, None), (0.01, 2), (0.3, 2), (1.0, 3))
    ]
    made += [PosterExperiment(model, budget) for model in MODELS]
    made += [VampExperiment(data, model, prior, budget) for data, model, prior in VAMP]
    made += [VampExperiment(data, "vae", "vamp-data", budget) for data in {data for data, *_ in VAMP}]
    sets = ("static_mnist", "mnist", "omniglot_burda")
    made += [
        MixtureExperiment(data, model, budget=budget, recipe=recipe)
        for data in sets
        for model in MIXTURES
        for recipe in ("best", "paper")
    ]
    made += [
        DiscreteExperiment(data, net, method, budget)
        for data in sets
        for number in NETS
        for net in NETS[number]
        for method in methods(number)
    ]
    made += [
        ConvolutionalExperiment(data, model, budget)
        for data in (*sets, "caltech101_silhouettes", "cifar10")
        for model in ROWS
    ]
    return made


def finished(path, cell, log_likelihood, bits=None, **results):
    """A finished run of an experiment, as its files tell of it."""
    path.mkdir(parents=True)
    record = {"table": cell.table, "experiment": dataclasses.asdict(cell), "command": command_line(cell)}
    known = {"log_likelihood": log_likelihood, "standard_error": 0.5, "elbo": log_likelihood - 4, "bits_per_dim": bits}
    known |= {"samples": 4000, "rows": 10_000, "parameters": 1234567, "steps": 6000, "train_seconds": 12.4}
    (path / "data.json").write_text("{}")
    (path / "config.json").write_text(json.dumps(cell.configuration().to_dict()))
    (path / "reproduce.json").write_text(json.dumps(record))
    (path / "results.json").write_text(json.dumps(known | results))
    (path / "metrics.jsonl").touch()
    return Finished.read(path)
