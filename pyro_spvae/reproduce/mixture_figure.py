# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Figure 2 of the DLGMM paper: samples of the extreme components, and t-SNE of two latent spaces."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_spvae import distributed, plots
from pyro_spvae.data import Rows
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.evaluating import evaluating
from pyro_spvae.reproduce.dlgmm import MEANS
from pyro_spvae.reproduce.mixture_scores import latent_draws
from pyro_spvae.reproduce.over_seeds import seed_in_name
from pyro_spvae.training.pace import Pace
from pyro_spvae.training.run import Run, open_run

_SAMPLES, _EMBEDDED, _STREAM = 100, 3000, 12
_SITE = "c"


def draw_figure_2(
    out: str | os.PathLike[str],
    normal: Path,
    mixture: Path,
    *,
    seed: int = 0,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    report: Callable[[str], None] = lambda line: None,
) -> Path:
    """
    Draws the figure into the folder of all experiments: (a), (b) means of images from the first and the last component
    of the DLGMM, (c), (d) t-SNE (van der Maaten and Hinton 2008) of one latent draw of each of the first test images,
    under the Gauss-VAE and under the DLGMM, coloured by class.

    :param out: folder of all experiments.
    :param Path normal: run of the Gauss-VAE.
    :param Path mixture: run of the DLGMM.
    :param int seed: of both, for the picture's name.
    :returns: the picture.
    """
    place = distributed.choose_device(device)
    first, second = (open_run(path, place) for path in (normal, mixture))
    rows: Rows = first.data(data_dir=data_dir).test
    with Pace(report).during("t-SNE"):
        spaces = {f"({letter}) {name}": _tsne(run, rows) for letter, name, run in _spaces(first, second)}
    figure = plots.new_figure(8.0, 8.4)
    for place_number, (letter, component) in enumerate((("a", 0), ("b", len(MEANS) - 1)), start=1):
        images = _component_samples(second, component)
        title = f"({letter}) component {component + 1}, prior mean {MEANS[component]:g}"
        plots.show_pixels(figure.add_subplot(2, 2, place_number), plots.mosaic(images, 10).numpy(), title)
    assert rows.labels is not None
    labels = rows.labels[:_EMBEDDED]
    for place_number, (title, points) in enumerate(spaces.items(), start=3):
        plots.show_classes(figure.add_subplot(2, 2, place_number), points, labels, title)
    path = Path(out) / f"dlgmm-figure2{seed_in_name(seed)}.png"
    plots.save(figure, path)
    return path


def _spaces(normal: Run, mixture: Run) -> list[tuple[str, str, Run]]:
    return [("c", "latent space of the Gauss-VAE, t-SNE", normal), ("d", "latent space of the DLGMM, t-SNE", mixture)]


def _component_samples(run: Run, component: int) -> Tensor:
    with evaluating(run.spvae, noise_seed(run.config.seed, component, _STREAM)):
        return run.spvae.sample(_SAMPLES, means=True, given={_SITE: component}).cpu()


def _tsne(run: Run, rows: Rows) -> Tensor:
    from sklearn.manifold import TSNE  # takes a second

    points = latent_draws(run, rows, _EMBEDDED).double().numpy()
    perplexity = min(30.0, (len(points) - 1) / 3)  # scikit-learn's, where there are points enough
    reducer: Any = TSNE(perplexity=perplexity, random_state=run.config.seed % 2**32, init="pca")
    return torch.from_numpy(reducer.fit_transform(points))
