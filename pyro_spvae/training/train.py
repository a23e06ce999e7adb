# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A whole run: data, model, training, test log-likelihood, pictures."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_spvae import __version__
from pyro_spvae.data import DataSet, load_data
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.models import SPVAE
from pyro_spvae.training.bounds import mean_bounds
from pyro_spvae.training.build import build_model, modelled, resolve
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.pictures import write_pictures
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer

_LARGE = 10.0  # networks start with outputs near 0 and steps of the learning rate


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    progress: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """
    Trains a model and leaves a run folder, see :class:`~pyro_spvae.training.run_folder.RunFolder`.

    Everything that can be refused is refused before the folder is made.

    :param TrainConfig config: what to do.
    :param out: the folder to make.
    :param bool progress: show progress bars.
    :param callable report: takes lines of text about what happens.
    :returns: what ``results.json`` holds: ``log_likelihood`` and its ``standard_error`` (nats per datum, mean over the
        test split), ``bits_per_dim``, the ELBO's terms, ``parameters``, seconds, versions.
    :raises ValueError: if the configuration does not fit the data, the folder exists, or a number is not finite. In the
        last case the folder keeps the checkpoints, if there are any, and is removed otherwise.
    """
    start = time.perf_counter()
    RunFolder(out).check_free()
    data = load_data(config.data, data_dir=config.data_dir, seed=config.seed, download=config.download)
    config = resolve(config, data)
    pyro.set_rng_seed(config.seed)
    with pyro.settings.context(module_local_params=True):
        spvae = build_model(config, data)
    continuous = modelled(config, data)
    for split in (continuous.train, continuous.validation, continuous.test):
        spvae.check(split)
    folder = RunFolder.create(out)
    folder.write_json("config.json", config.to_dict())

    parameters = sum(parameter.numel() for parameter in spvae.parameters())
    report(f"data        {data!r}")
    report(f"likelihood  {config.likelihood}" + (" on dequantised values" if continuous is not data else ""))
    low, high = continuous.values.low, continuous.values.high
    if config.likelihood == "normal" and max(abs(low), abs(high)) > _LARGE:
        report(f"note        values run from {low:.4g} to {high:.4g}; scale them to about [-1, 1] for a good fit")
    report(f"structure   {spvae.circuit.regions!r}")
    report(f"model       {spvae.num_leaves} leaf VAEs, {parameters:,} parameters")
    trainer = Trainer(spvae, data, continuous, config, folder, progress, report)
    try:
        trainer.run()
    except BaseException:
        folder.discard_unless_trained()
        raise
    report(
        f"trained     {trainer.epoch} epochs, best validation bound {trainer.best:.2f} nats "
        f"in epoch {trainer.best_epoch}"
    )

    results = evaluate_test(spvae, continuous, config, progress)
    results |= {
        "parameters": parameters,
        "best_epoch": trainer.best_epoch,
        "steps": trainer.step,
        "train_seconds": round(trainer.seconds, 3),
        "seconds": round(time.perf_counter() - start, 3),
        "versions": {
            "pyro_spvae": __version__,
            "pyro": pyro.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    folder.write_json("results.json", results)
    write_pictures(spvae, continuous, folder)
    report(summary(results))
    report(f"written to  {folder.path}")
    return results


def evaluate_test(spvae: SPVAE, data: DataSet, config: TrainConfig, progress: bool = False) -> dict[str, Any]:
    """
    Log-likelihood of the test split with ``config.samples`` samples, and the terms of its ELBO, all in nats.

    :raises ValueError: if one of them is not finite.
    """
    pyro.set_rng_seed(config.seed)
    per_datum = spvae.log_likelihood(
        data.test, num_samples=config.samples, chunk_size=config.chunk_size, progress=progress
    ).double()
    elbo = CircuitELBO(config.particles, alpha=config.alpha)
    with pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
        terms = mean_bounds(spvae, elbo, data.test)
    mean = float(per_datum.mean())
    for name, value in {"log-likelihood": mean, **terms}.items():
        if not math.isfinite(value):
            raise ValueError(
                f"the mean {name.replace('_', ' ')} of the test split is {value}, that of validation was finite; "
                "look for values far from those of the other splits (the trained parameters are in best.pt)"
            )
    return {
        "data": data.name,
        "split": "test",
        "rows": len(per_datum),
        "log_likelihood": mean,
        "standard_error": float(per_datum.std() / len(per_datum) ** 0.5) if len(per_datum) > 1 else None,
        "samples": config.samples,
        "bits_per_dim": data.bits_per_dim(mean),
        **terms,
        "active_units": active_units(spvae, data.test),
        "seed": config.seed,
    }


def active_units(spvae: SPVAE, x: Tensor) -> int | None:
    r"""
    Number of latent dimensions of all leaves whose posterior mean varies with the data,
    :math:`\mathrm{Var}_x(E_q[z \mid x]) > 0.01` (Burda et al. 2016), every leaf encoding every datum.

    :returns: the count, or ``None`` for a single row, or where what the guide's ``encode`` returns has no mean.
    """
    with torch.no_grad(), pyro.validation_enabled(False), pyro.settings.context(module_local_params=True):
        encodings = [spvae.leaf_guide.encode(spvae.prepare(rows).features) for rows in x.split(512)]
        if len(x) < 2 or not all(isinstance(encoding, torch.distributions.Distribution) for encoding in encodings):
            return None
        means = torch.cat([encoding.mean for encoding in encodings])  # [data, leaf, latent]
        return int((means.var(0) > 0.01).sum())


def summary(results: dict[str, Any]) -> str:
    """One line about the test split."""
    error = results["standard_error"]
    line = f"test        log-likelihood {results['log_likelihood']:.2f}"
    line += "" if error is None else f" +- {error:.2f}"
    line += f" nats ({results['rows']:,} rows, {results['samples']:,} samples)"
    bits = results["bits_per_dim"]
    return line if bits is None else line + f", {bits:.3f} bits/dim"


def with_parameters_of(config: TrainConfig, data: DataSet, least: int) -> TrainConfig:
    """
    The smallest plain VAE (one region, one leaf, two hidden layers of equal width) with at least ``least`` parameters.

    :param TrainConfig config: everything but the structure and the layers.
    """
    width = 1
    while True:
        plain = dataclasses.replace(
            config,
            structure="whole",
            delta=None,
            depth=None,
            repetitions=None,
            units=1,
            leaves=1,
            hidden=(width, width),
        )
        if sum(p.numel() for p in build_model(plain, data).parameters()) >= least:
            return plain
        width += 1
