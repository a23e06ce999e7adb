# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The right pixels in the right places."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_spvae import plots
from pyro_spvae.plots.figures import DPI
from tests.plots.cases import shown

GREY = [0.0, 0.25, 0.75, 1.0]


def flat_images(values, channels=1, height=3, width=2):
    return torch.tensor(values)[:, None, None, None].expand(-1, channels, height, width)


def test_a_grid_is_row_by_row():
    (picture,) = shown(plots.image_grid(flat_images(GREY)))
    assert picture.shape == (7, 5, 3)  # two by two images of 3 x 2, one line between
    assert np.allclose(picture[:3, :2], 0.0) and np.allclose(picture[:3, 3:], 0.25)
    assert np.allclose(picture[4:, :2], 0.75) and np.allclose(picture[4:, 3:], 1.0)
    line = picture[3]
    assert np.ptp(line[0]) > 0.2, "lines have a colour, which grey images lack"
    assert np.allclose(line, line[0]) and np.allclose(picture[:, 2], line[0])


def test_a_grid_of_so_many_columns():
    (picture,) = shown(plots.image_grid(flat_images(GREY), columns=4))
    assert picture.shape == (3, 11, 3) and np.allclose(picture[:, 9:], 1.0)


def test_an_unfilled_grid_and_a_single_image():
    (picture,) = shown(plots.image_grid(flat_images([0.0, 0.5, 1.0])))
    assert np.allclose(picture[4:, :2], 1.0) and np.allclose(picture[4:, 2:], 1.0)  # the third image is white
    assert np.ptp(picture[0, 2]) > 0.2  # a coloured line between images
    (picture,) = shown(plots.image_grid(flat_images([0.5])))
    assert picture.shape == (3, 2, 3) and np.allclose(picture, 0.5)


def test_colours_stay_and_other_channels_stand_side_by_side():
    colour = torch.rand(1, 3, 4, 5)
    (picture,) = shown(plots.image_grid(colour))
    assert np.allclose(picture, colour[0].movedim(0, -1), atol=1e-6)
    for channels in (2, 4):
        x = torch.rand(1, channels, 4, 5)
        (picture,) = shown(plots.image_grid(x))
        assert picture.shape == (4, 5 * channels, 3)
        for channel in range(channels):
            part = picture[:, 5 * channel : 5 * channel + 5]
            assert np.allclose(part, x[0, channel, :, :, None], atol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 16.0), (-2.0, 2.0)])
def test_values_are_scaled_and_cut_to_the_range(low, high):
    values = [low + (high - low) * grey for grey in GREY]
    (picture,) = shown(plots.image_grid(flat_images([*values[:3], high + 5]), low, high))
    assert np.allclose(picture, shown(plots.image_grid(flat_images(GREY)))[0])


def test_a_range_of_one_value_is_no_error():
    (picture,) = shown(plots.image_grid(flat_images([5.0]), low=5.0, high=5.0))
    assert np.allclose(picture, 0.0)


def test_rows_are_labelled_and_their_columns_stand_below_each_other():
    figure = plots.image_rows({"first": flat_images(GREY), "second": flat_images(GREY[::-1])})
    assert [axes.get_title() for axes in figure.axes] == ["first", "second"]
    first, second = shown(figure)
    assert first.shape == second.shape == (3, 4 * 2 + 3, 3)
    for i, grey in enumerate(GREY):
        assert np.allclose(first[:, 3 * i : 3 * i + 2], grey)
        assert np.allclose(second[:, 3 * i : 3 * i + 2], GREY[3 - i])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pixels_that_are_not_seen_have_a_colour_that_grey_images_lack(channels):
    x = flat_images(GREY, channels)
    seen = torch.ones_like(x, dtype=torch.bool)
    seen[1, :, 0] = False
    first, second = shown(plots.image_rows({"original": x, "seen": x}, seen={"seen": seen}))
    missing = second[0, 2 * channels + 1 if channels == 2 else 3]
    assert np.ptp(missing) > 0.2 and not np.allclose(missing, first[0, -1]), "neither grey nor the lines' colour"
    changed = (first != second).any(-1)
    width = 2 * (2 if channels == 2 else 1)
    assert changed[0, width + 1 : 2 * width + 1].all() and changed.sum() == width, "those pixels and no others"
    assert np.allclose(second[0, width + 1 : 2 * width + 1], missing)


def test_unseen_values_may_be_anything():
    x = flat_images(GREY).clone()
    seen = torch.ones_like(x, dtype=torch.bool)
    x[2], seen[2] = torch.nan, False
    (picture,) = shown(plots.image_rows({"seen": x}, seen={"seen": seen}))
    assert np.isfinite(picture).all()


def test_a_colour_pixel_of_which_one_channel_is_seen_shows_it():
    x = torch.full((1, 3, 1, 1), 0.5)
    seen = torch.tensor([True, False, False]).reshape(1, 3, 1, 1)
    (picture,) = shown(plots.image_rows({"seen": x}, seen={"seen": seen}))
    assert np.allclose(picture[0, 0], [0.5, 0.0, 0.0])


def test_tiles_lie_in_their_places():
    tiles = [torch.full((1, 2, 3), grey) for grey in GREY]
    corners = [(0, 0), (0, 3), (2, 0), (2, 3)]
    figure = plots.tiled({"VAE 1": tiles, "VAE 2": tiles[::-1]}, corners, title="latent spaces")
    assert [axes.get_title() for axes in figure.axes] == ["VAE 1", "VAE 2"]
    assert figure.get_suptitle() == "latent spaces"
    first, second = shown(figure)
    assert first.shape == second.shape == (5, 7, 3)  # one line between
    for (top, left), grey, other in zip([(0, 0), (0, 4), (3, 0), (3, 4)], GREY, GREY[::-1], strict=True):
        assert np.allclose(first[top : top + 2, left : left + 3], grey)
        assert np.allclose(second[top : top + 2, left : left + 3], other)
    assert np.ptp(first[2, 0]) > 0.2 and np.allclose(first[2], first[2, 0]) and np.allclose(first[:, 3], first[2, 0])


def test_tiles_of_unequal_size_and_of_two_channels():
    tiles = [torch.zeros(2, 3, 4), torch.ones(2, 3, 1), torch.full((2, 2, 5), 0.5)]
    (picture,) = shown(plots.tiled({"": tiles}, [(0, 0), (0, 4), (3, 0)]))
    assert picture.shape == (6, 11, 3)  # both channels of a tile side by side
    assert np.allclose(picture[:3, :8], 0.0) and np.allclose(picture[:3, 9:], 1.0)
    assert np.allclose(picture[4:, :10], 0.5)


def test_thin_lines_divide_tiles():
    tiles = [torch.zeros(1, 4, 6), torch.zeros(1, 4, 6)]
    (axes,) = plots.tiled({"": tiles}, [(0, 0), (4, 0)], divisions=2).axes
    lines = [[segment.tolist() for segment in group.get_segments()] for group in axes.collections]
    # pixel i lies from i - 0.5 to i + 0.5; the second tile begins below a line of one pixel
    assert lines == [
        [[[-0.5, 1.5], [5.5, 1.5]]],
        [[[2.5, -0.5], [2.5, 3.5]]],
        [[[-0.5, 6.5], [5.5, 6.5]]],
        [[[2.5, 4.5], [2.5, 8.5]]],
    ]
    (axes,) = plots.tiled({"": tiles}, [(0, 0), (4, 0)]).axes
    assert not axes.collections


@pytest.mark.parametrize(
    "number, height, width, columns",
    [(64, 28, 28, 8), (64, 28, 20, 8), (100, 28, 28, 10), (3, 3, 2, 2), (1, 28, 20, 1), (2, 4, 40, 1), (5, 40, 4, 5)],
)
def test_a_grid_is_about_square_and_its_last_row_full(number, height, width, columns):
    assert plots.images.grid_columns(number, height, width) == columns


def test_channels_side_by_side_count_as_width():
    (picture,) = shown(plots.image_grid(torch.rand(16, 4, 2, 2)))
    assert picture.shape == (8 * 2 + 7, 2 * 8 + 1, 3)


@pytest.mark.parametrize("number", [1, 2, 4, 5, 9, 100])
@pytest.mark.parametrize("height, width", [(64, 64), (224, 160), (224, 224), (32, 320), (480, 48), (128, 192)])
def test_panels_fill_a_figure_that_is_not_oblong(number, height, width):
    columns, own, column = plots.images.layout(number, height, width)
    rows = -(-number // columns)
    assert rows * columns < number + columns, "no empty row"
    assert own <= column and own * height / width < 12
    assert own * plots.figures.DPI >= 2 * width - 1e-6, "two dots a pixel, at least"
    if number >= 4:
        assert 1 / 3 < rows * own * height / width / (columns * column) < 3


@pytest.mark.parametrize("height, width", [(8, 8), (28, 20), (4, 40), (60, 6)])
@pytest.mark.parametrize("number", [1, 6])
def test_panels_keep_the_shape_of_what_they_show_and_headings_are_apart(height, width, number):
    """As they are drawn, by the boxes of axes and texts in dots."""
    tiles = [torch.rand(1, 4 * height, 4 * width)]
    headings = [f"VAE {i + 1}, 69% of the variance on average" for i in range(number)]
    figure = plots.tiled(dict.fromkeys(headings, tiles), [(0, 0)], title="latent spaces of the leaves, all of them")
    figure.draw_without_rendering()
    assert [" ".join(axes.get_title().split()) for axes in figure.axes] == headings
    panels = [axes.get_window_extent() for axes in figure.axes]
    texts = [text.get_window_extent() for text in (*(axes.title for axes in figure.axes), figure._suptitle)]
    for panel in panels:
        assert panel.height / panel.width == pytest.approx(height / width, rel=0.02)
        assert panel.width * panel.height > 0.3 * figure.bbox.width * figure.bbox.height / (number + 1)
    for i, box in enumerate(texts):
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in [*texts[i + 1 :], *panels])


def test_lines_that_would_fill_patches_are_left_out():
    tiles = [torch.zeros(1, 512, 512)]
    (axes,) = plots.tiled({"": tiles}, [(0, 0)], divisions=128).axes
    assert not axes.collections
    (axes,) = plots.tiled({"": tiles}, [(0, 0)], divisions=8).axes
    assert len(axes.collections) == 2


@pytest.mark.parametrize("number", [3, 200])
def test_rows_of_many_images_have_dots_for_every_pixel(number):
    figure = plots.image_rows({"original": torch.rand(number, 1, 28, 28), "seen": torch.rand(number, 1, 28, 28)})
    figure.canvas.draw()
    for axes in figure.axes:
        dots = axes.get_window_extent().width * DPI / figure.dpi
        assert dots >= 1.5 * (number * 29 - 1)
