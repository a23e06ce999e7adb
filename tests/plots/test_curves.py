# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Curves and histograms: what they show, and in which units."""

from __future__ import annotations

import numpy as np

from pyro_spvae import plots


def test_a_histogram_counts_every_value_and_marks_the_mean():
    values = np.concatenate([np.full(30, -2.0), np.full(10, 6.0)])
    (axes,) = plots.histogram(values, "log-likelihood (nats)", "rows", error=0.55).axes
    assert sum(bar.get_height() for bar in axes.patches) == 40
    assert max(bar.get_height() for bar in axes.patches) == 30
    (line,) = axes.lines
    assert list(line.get_xdata()) == [0.0, 0.0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mean 0.00 \u00b1 0.55"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("log-likelihood (nats)", "rows")
    (axes,) = plots.histogram(np.array([1.5]), "log-likelihood (nats)", "rows").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mean 1.50"]


def metrics(bounds, validation):
    return [
        {"epoch": epoch, "elbo": bound, "val_elbo": val}
        for epoch, (bound, val) in enumerate(zip(bounds, validation, strict=True), start=1)
    ]


def test_a_learning_curve_has_both_bounds_the_best_and_units():
    figure = plots.learning_curve(metrics([-9.0, -6.0, -5.0, -4.0], [-8.0, -5.5, -6.0, -7.0]))
    (axes,) = figure.axes
    training, validation, best = axes.lines
    assert list(training.get_ydata()) == [-9.0, -6.0, -5.0, -4.0]
    assert list(validation.get_ydata()) == [-8.0, -5.5, -6.0, -7.0]
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([2], [-5.5])
    assert axes.get_xlabel() == "epoch" and "nats" in axes.get_ylabel()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["training", "validation", "best: -5.5 in epoch 2"]


def test_the_first_epochs_do_not_flatten_the_curve():
    bounds = [-1e6] * 2 + [-100.0 + i for i in range(18)]
    low, high = plots.learning_curve(metrics(bounds, bounds)).axes[0].get_ylim()
    assert -110 < low < -100 and -83 < high < -75


def test_one_epoch_is_visible_and_epochs_are_whole_numbers(tmp_path):
    figure = plots.learning_curve(metrics([-2.0], [-1.0]))
    assert all(line.get_marker() not in (None, "None", "") for line in figure.axes[0].lines)
    for epochs in (1, 2, 3, 40):
        figure = plots.learning_curve(metrics([-2.0] * epochs, [-1.0] * epochs))
        ticks = figure.axes[0].get_xticks()
        assert len(ticks) and np.allclose(ticks, np.round(ticks))


def test_panels_of_lines_with_levels_and_scales():
    lines = [plots.Line("a", [1, 10], [2.0, 3.0], "o-", "red"), plots.Line("level", None, [5.0], ":")]
    first, second = plots.line_plot(
        plots.Panel(lines, "x", "nats", "title", log=True), plots.Panel(lines, "y", "z")
    ).axes
    points, level = first.lines
    assert [*map(list, points.get_data())] == [[1, 10], [2, 3]] and list(level.get_ydata()) == [5, 5]
    assert (points.get_color(), points.get_marker(), level.get_linestyle()) == ("red", "o", ":")
    assert (first.get_xscale(), second.get_xscale(), first.get_title()) == ("log", "linear", "title")
    assert [first.get_xlabel(), first.get_ylabel(), second.get_xlabel()] == ["x", "nats", "y"]
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["a", "level"]


def test_the_first_tenth_of_a_line_does_not_decide_the_range():
    line = plots.Line("a", range(20), [-1e6] * 2 + [-100.0 + i for i in range(18)])
    for later in (True, False):
        low, _ = plots.line_plot(plots.Panel([line], "x", "y", later=later)).axes[0].get_ylim()
        assert (low > -110) == later
