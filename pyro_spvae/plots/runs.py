# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The pictures that a run leaves in its folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from pyro_spvae.data import DataSet
from pyro_spvae.evaluating import block, evaluating
from pyro_spvae.models import SPVAE
from pyro_spvae.plots.curves import histogram, learning_curve
from pyro_spvae.plots.images import image_grid, image_rows
from pyro_spvae.plots.pseudo_inputs import pseudo_input_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def likelihood_histogram(log_likelihood: Tensor) -> Figure:
    """
    Histogram of the log-likelihoods of a run's test rows.

    :param Tensor log_likelihood: nats, ``[data]``.

    Example::

        >>> from pyro_spvae.plots import likelihood_histogram
        >>> likelihood_histogram(-80 + torch.randn(50)).axes[0].get_xlabel()
        'log-likelihood (nats)'
    """
    return histogram(log_likelihood.numpy(), "log-likelihood (nats)", "test rows")


class RunPictures(NamedTuple):
    """
    :ivar dict figures: by name, in order.
    :ivar dict images: those of the model alone by name, ``[N, C, H, W]`` with values in [0, 1].
    """

    figures: dict[str, Figure]
    images: dict[str, Tensor]


def run_pictures(spvae: SPVAE, data: DataSet, metrics: list[dict[str, Any]]) -> RunPictures:
    """
    Learning curve and, for images, samples, reconstructions, and the pseudo-inputs of a VampPrior; the same for the
    same model.

    :param list metrics: lines of ``metrics.jsonl``.

    Example::

        >>> from pyro_spvae.data import load_data
        >>> from pyro_spvae.plots import run_pictures
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, likelihood=Binomial(16))
        >>> metrics = [{"epoch": 1, "elbo": -200.0, "val_elbo": -210.0}]
        >>> list(run_pictures(spvae, load_data("digits"), metrics).figures)
        ['learning_curve', 'samples', 'means', 'reconstructions']
    """
    figures = {"learning_curve": learning_curve(metrics)}
    if not data.is_image:
        return RunPictures(figures, {})
    low, high = data.values.low, data.values.high
    with evaluating(spvae, seed=0):
        samples = spvae.sample(64)
        means = spvae.sample(64, means=True)
        originals, seen = block(spvae, data.test, None, 0, 16)
        reconstructions = spvae.reconstruct(originals, seen)
    figures["samples"] = image_grid(samples, low, high, title="samples")
    figures["means"] = image_grid(means, low, high, title="sampled means")
    pair = {"test images": originals, "reconstructions": reconstructions}
    figures["reconstructions"] = image_rows(pair, low, high, {} if seen is None else {"test images": seen})
    shown = {"samples": samples, "means": means, "reconstructions": reconstructions}
    return RunPictures(
        figures | pseudo_input_pictures(spvae, data.values),
        {name: ((x.float().cpu() - low) / ((high - low) or 1.0)).clamp(0, 1) for name, x in shown.items()},
    )
