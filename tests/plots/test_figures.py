# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Files that are pictures, whole or not there."""

from __future__ import annotations

import functools

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.image import imread, imsave

from pyro_spvae import plots
from tests.commands.cases import assert_picture
from tests.plots.test_curves import metrics


def grids(height, width, count):
    x = torch.rand(count, 1, height, width)
    return (
        plots.image_grid(x, title="samples"),
        plots.image_rows({"test images": x, "reconstructions": x}),
        plots.tiled({str(i): list(x) for i in range(4)}, [(height * i, 0) for i in range(count)]),
    )


FIGURES = {
    **{
        f"{height} x {width}, {count}": functools.partial(grids, height, width, count)
        for height, width, count in [(8, 8, 64), (28, 28, 16), (2, 40, 9), (40, 2, 9), (1, 1, 1)]
    },
    "curves": lambda: (
        plots.learning_curve(metrics([-2.0, -1.0], [-3.0, -2.0])),
        plots.histogram(torch.rand(64).numpy(), "values", "pixels"),
        plots.histogram(torch.rand(1).numpy(), "values", "pixels"),
    ),
    "clouds": lambda: (
        plots.clouds({str(i): (torch.rand(9, 2), torch.rand(9)) for i in range(number)}, 4, "weights", "title")
        for number in (1, 8)
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_files_are_pictures_of_sane_size(tmp_path, name):
    for figure in FIGURES[name]():
        plots.save(figure, tmp_path / "picture.png")
        assert_picture(tmp_path / "picture.png")
    assert not plt.get_fignums(), "pyplot keeps none"


def test_a_picture_replaces_another_at_one_go(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    path.write_bytes(b"before")
    figure = plots.image_grid(torch.rand(1, 1, 3, 3))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(figure, "savefig", full)
        with pytest.raises(ValueError, match="picture.png cannot be written: No space left on device"):
            plots.save(figure, path)
    assert path.read_bytes() == b"before" and [file.name for file in tmp_path.iterdir()] == ["picture.png"]
    plots.save(figure, path)
    assert path.read_bytes().startswith(b"\x89PNG") and [file.name for file in tmp_path.iterdir()] == ["picture.png"]


def test_pictures_stand_in_rows_and_wide_strips_below_each_other(tmp_path):
    paths = {}
    for name, (height, width) in {"square": (9, 9), "strip": (3, 20)}.items():
        paths[name] = tmp_path / f"{name}.png"
        imsave(paths[name], torch.rand(height, width, 3, dtype=torch.float64).numpy())
    for name, wanted in {"square": [(0, 0), (0, 1), (1, 0)], "strip": [(0, 0), (1, 0), (2, 0)]}.items():
        row = [("a", paths[name]), ("b", paths[name])]
        axes = plots.picture_files([row, [("c", paths[name])]]).axes
        assert [each.get_title() for each in axes] == ["a", "b", "c"]
        places = [each.get_subplotspec() for each in axes]
        assert [(place.rowspan.start, place.colspan.start) for place in places] == wanted
        assert axes[0].images[0].get_array().shape[:2] == imread(paths[name]).shape[:2]
