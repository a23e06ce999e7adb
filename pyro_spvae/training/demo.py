# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: a sum-product VAE beside a plain VAE of no fewer parameters, on the bundled digits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_spvae.data import DataSet, load_data
from pyro_spvae.training.build import build_model
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.train import train

SAMPLES = 5000  # importance samples of both


def demo(
    out: str | os.PathLike[str],
    seed: int = 0,
    progress: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """
    Trains both models, prints their test log-likelihoods side by side and where the pictures are.

    :param out: folder for the two runs; numbered if it exists.
    :returns: results of ``"SPVAE"`` and ``"VAE"``, as in ``results.json``.
    """
    folder = _free(Path(out))
    config = TrainConfig(seed=seed, samples=SAMPLES)
    raw = load_data(config.data, seed=seed)
    spvae = resolve(config, raw)
    data = modelled(spvae, raw)
    least = sum(parameter.numel() for parameter in build_model(spvae, data).parameters())
    configs = {"SPVAE": config, "VAE": with_parameters_of(spvae, data, least)}
    results = {}
    for name, chosen in configs.items():
        report(f"--- {name} ---")
        results[name] = train(chosen, folder / name.lower(), progress, report)
    report("")
    report(table(results))
    report("")
    report(
        f"pictures: {folder}/spvae/figures/samples.png, reconstructions.png, learning_curve.png, and the same in vae/"
    )
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Test log-likelihoods and sizes as aligned text."""
    rows = [("model", "test log-likelihood (nats)", "bits/dim", "parameters", "training (s)")]
    for name, result in results.items():
        error = f"{result['log_likelihood']:.2f} +- {result['standard_error']:.2f}"
        rows.append(
            (
                name,
                error,
                f"{result['bits_per_dim']:.3f}",
                f"{result['parameters']:,}",
                f"{result['train_seconds']:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def with_parameters_of(config: TrainConfig, data: DataSet, least: int) -> TrainConfig:
    """
    The smallest plain VAE (one region, one leaf, two hidden layers of equal width) with at least ``least`` parameters.

    :param TrainConfig config: everything but the structure and the layers.
    :param DataSet data: the data after preprocessing.
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
            weights="full",
            hidden=(width, width),
        )
        if sum(p.numel() for p in build_model(plain, data).parameters()) >= least:
            return plain
        width += 1


def _free(path: Path) -> Path:
    candidate, number = path, 2
    while candidate.exists():
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
