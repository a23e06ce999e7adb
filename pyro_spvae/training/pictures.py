# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The pictures that a run leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch

from pyro_spvae import plots
from pyro_spvae.data import DataSet
from pyro_spvae.models import SPVAE
from pyro_spvae.training.logger import Logger
from pyro_spvae.training.run_folder import RunFolder


def write_pictures(
    spvae: SPVAE,
    data: DataSet,
    folder: RunFolder,
    metrics: list[dict[str, Any]],
    loggers: Sequence[Logger] = (),
    step: int = 0,
) -> None:
    """Learning curve and, for images, samples and reconstructions; the same for the same model."""
    folder.figures.mkdir(exist_ok=True)
    plots.save(plots.learning_curve(metrics), folder.figures / "learning_curve.png")
    if not data.is_image:
        return
    low, high = data.values.low, data.values.high
    parameter = next(spvae.parameters())
    generators = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators), pyro.settings.context(module_local_params=True):
        torch.manual_seed(0)
        samples = spvae.sample(64)
        means = spvae.sample(64, means=True)
        originals = data.test[:16].to(parameter.device, parameter.dtype)
        reconstructions = spvae.reconstruct(originals)
    plots.save(plots.image_grid(samples, low, high, title="samples"), folder.figures / "samples.png")
    plots.save(plots.image_grid(means, low, high, title="sampled means"), folder.figures / "means.png")
    pair = plots.image_rows({"test images": originals, "reconstructions": reconstructions}, low, high)
    plots.save(pair, folder.figures / "reconstructions.png")
    for logger in loggers:
        for name, images in {"samples": samples, "means": means, "reconstructions": reconstructions}.items():
            logger.image(step, name, ((images.float().cpu() - low) / ((high - low) or 1.0)).clamp(0, 1))
