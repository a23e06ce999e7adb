# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The pictures that a run leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyro
import torch
from torch import Tensor

from pyro_spvae import plots
from pyro_spvae.data import DataSet
from pyro_spvae.models import SPVAE
from pyro_spvae.training.logger import Logger
from pyro_spvae.training.pseudo_inputs import pseudo_input_pictures
from pyro_spvae.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_pictures(
    spvae: SPVAE,
    data: DataSet,
    folder: RunFolder,
    metrics: list[dict[str, Any]],
    loggers: Sequence[Logger] = (),
    step: int = 0,
    log_likelihood: Tensor | None = None,
) -> list[str]:
    """
    Learning curve, histogram of log-likelihoods and, for images, samples, reconstructions, and the pseudo-inputs of a
    VampPrior; the same for the same model.

    :param Tensor log_likelihood: of every test row, nats, ``[data]``; without it there is no histogram.
    :returns: names of the files.
    """
    folder.figures.mkdir(exist_ok=True)
    names = []

    def save(name: str, figure: Figure) -> None:
        plots.save(figure, folder.figures / f"{name}.png")
        names.append(f"{name}.png")

    save("learning_curve", plots.learning_curve(metrics))
    if log_likelihood is not None:
        save("log_likelihoods", plots.histogram(log_likelihood.numpy(), "log-likelihood (nats)", "test rows"))
    if not data.is_image:
        return names
    low, high = data.values.low, data.values.high
    parameter = next(spvae.parameters())
    generators = [parameter.device] if parameter.device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators), pyro.settings.context(module_local_params=True):
        torch.manual_seed(0)
        samples = spvae.sample(64)
        means = spvae.sample(64, means=True)
        originals = data.test[:16].to(parameter.device, parameter.dtype)
        reconstructions = spvae.reconstruct(originals)
    save("samples", plots.image_grid(samples, low, high, title="samples"))
    save("means", plots.image_grid(means, low, high, title="sampled means"))
    pair = {"test images": originals, "reconstructions": reconstructions}
    save("reconstructions", plots.image_rows(pair, low, high))
    for name, figure in pseudo_input_pictures(spvae, data.values).items():
        save(name, figure)
    for logger in loggers:
        for name, images in {"samples": samples, "means": means, "reconstructions": reconstructions}.items():
            logger.image(step, name, ((images.float().cpu() - low) / ((high - low) or 1.0)).clamp(0, 1))
    return names
