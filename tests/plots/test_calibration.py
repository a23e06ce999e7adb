# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of calibration: what is drawn, of tables and images, of few columns and many."""

from __future__ import annotations

import numpy as np
import pytest

from pyro_spvae import plots


def test_shares_by_column():
    """One column whose truths are in the middle, and one whose truths are at the ends."""
    pit = np.array([0.5] * 10 + [0.01] * 10)
    figure = plots.calibration(pit, np.repeat([0, 2], 10), ["middle", "empty", "ends"])
    _, levels, columns = figure.axes
    assert [label.get_text() for label in columns.get_yticklabels()] == ["middle", "ends"]
    points = {line.get_label(): list(line.get_xdata()) for line in columns.lines if line.get_marker() == "o"}
    assert points == {"50% interval": [1, 0], "90% interval": [1, 0]}
    found = next(line for line in levels.lines if line.get_label() == "found")
    assert np.interp(0.5, found.get_xdata(), found.get_ydata()) == pytest.approx(0.5)


def test_images_have_no_columns_and_many_are_the_worst():
    pit = np.random.default_rng(0).random(5000)
    assert len(plots.calibration(pit, np.zeros(5000, int), []).axes) == 2
    of = np.repeat(np.arange(50), 100)
    pit[of == 7] = 0.99
    shown = plots.calibration(pit, of, [f"column {number}" for number in range(50)]).axes[2]
    labels = [label.get_text() for label in shown.get_yticklabels()]
    assert len(labels) == 40 and "column 7" in labels
    assert shown.get_legend().get_title().get_text() == "the 40 columns that are farthest off"
    few = plots.calibration(pit[:1000], of[:1000], [f"column {number}" for number in range(50)]).axes[2]
    assert few.get_legend().get_title().get_text() == "", "none was left out: the others have no entries"


def test_thirty_names_do_not_overlap():
    figure = plots.calibration(
        np.random.default_rng(0).random(3000), np.repeat(np.arange(30), 100), ["a_long_name"] * 30
    )
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[2].get_yticklabels()]
    assert all(not one.overlaps(two) for one, two in zip(boxes[:-1], boxes[1:], strict=True))
