# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of images, training, log-likelihoods, latent spaces and region graphs, as figures of matplotlib."""

from pyro_spvae.plots.calibration import calibration
from pyro_spvae.plots.classes import show_classes
from pyro_spvae.plots.curves import Line, Panel, histogram, learning_curve, line_plot
from pyro_spvae.plots.figures import new_figure, picture_files, save, show_pixels
from pyro_spvae.plots.images import image_grid, image_rows, mosaic, tiled
from pyro_spvae.plots.latent_spaces import clouds, has_prior_grid, latent_picture
from pyro_spvae.plots.pseudo_inputs import pseudo_input_pictures
from pyro_spvae.plots.region_graphs import region_graph
from pyro_spvae.plots.runs import likelihood_histogram, run_pictures

__all__ = [
    "Line",
    "Panel",
    "calibration",
    "clouds",
    "has_prior_grid",
    "histogram",
    "image_grid",
    "image_rows",
    "latent_picture",
    "learning_curve",
    "line_plot",
    "mosaic",
    "new_figure",
    "picture_files",
    "pseudo_input_pictures",
    "region_graph",
    "likelihood_histogram",
    "run_pictures",
    "save",
    "show_classes",
    "show_pixels",
    "tiled",
]
