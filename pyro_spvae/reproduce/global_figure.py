# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Figure 4 of the DVAE++ paper: samples of which five at a time share a draw of the global variables."""

from __future__ import annotations

import os
from pathlib import Path

from pyro_spvae import distributed, plots
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.evaluating import evaluating
from pyro_spvae.training.run import open_run

_LINES, _COPIES, _STREAM = 5, 5, 13


def draw_figure_4(out: str | os.PathLike[str], path: Path, *, device: str = "auto") -> Path:
    """
    Draws five lines of five images into the folder of all experiments: global variables are the same on a line, local
    ones vary.

    :param out: folder of all experiments.
    :param Path path: a run.
    :returns: the picture.
    """
    run = open_run(path, distributed.choose_device(device))
    with evaluating(run.spvae, noise_seed(run.config.seed, 0, _STREAM)):
        x = run.spvae.sample(_LINES * _COPIES, means=True, hold=("z",), copies=_COPIES).cpu()
    title = "means; the global variables of a line are the same"
    figure = plots.image_grid(x, 0.0, max(1.0, float(x.max())), title, columns=_COPIES)
    picture = Path(out) / f"dvaepp-figure4-{path.name}.png"
    plots.save(figure, picture)
    return picture
