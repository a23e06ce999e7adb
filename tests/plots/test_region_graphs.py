# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Region graphs: small ones whole, of larger ones the cells, or the first leaf regions."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import pytest

from pyro_spvae import plots, poon_domingos, quad_tree, random_binary_tree, whole
from pyro_spvae.circuits import RegionGraph


@pytest.fixture(autouse=True)
def closed():
    """Figures without a window, closed at the end."""
    plt.switch_backend("Agg")
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "graph",
    [
        poon_domingos((7, 5), [3, 2]),
        poon_domingos((3, 2, 2), 1),
        poon_domingos(5, 2),
        quad_tree((3, 2, 4)),
        random_binary_tree((3, 3), 2, 5, seed=2),
        random_binary_tree(5, 2, 4, seed=3),
        whole((3, 4)),
        whole(1),
        RegionGraph((4,), [[0], [1], [2, 3], [1, 2, 3]], [(9, 4, 2), (9, 0, 3), (4, 0, 1)]),
    ],
    ids=repr,
)
def test_the_counts_and_every_leaf_region_are_shown(graph):
    axes = plots.region_graph(graph)
    regions, leaves = graph.num_regions, graph.num_leaf_regions
    assert axes.get_title() == f"{regions} regions ({leaves} leaf), {len(graph.partitions)} partitions"
    assert {text.get_text() for text in axes.texts} >= set(map(str, range(leaves)))


def test_a_small_graph_is_drawn_whole():
    axes = plt.figure().add_subplot()
    assert plots.region_graph(poon_domingos((2, 2), 1), axes) is axes
    assert len(axes.images) == 9, "a thumbnail a region"
    assert sum(line.get_marker() == "o" for line in axes.lines) == 6, "a dot a partition"


def test_of_a_large_one_cells_share_a_colour_that_no_neighbour_has():
    axes = plots.region_graph(poon_domingos((16, 16), 2))  # eight cells a row, as many as there are colours
    (picture,) = axes.images
    shades = picture.get_array()
    assert shades.shape == (16, 16) and len(axes.texts) == 64
    cells = shades.reshape(8, 2, 8, 2).transpose(0, 2, 1, 3)
    assert (cells == cells[:, :, :1, :1]).all()
    assert (cells[1:] != cells[:-1]).all() and (cells[:, 1:] != cells[:, :-1]).all()


def test_of_overlapping_leaf_regions_the_first_have_thumbnails():
    graph = random_binary_tree((8, 8), 3, 12, seed=0)
    axes = plots.region_graph(graph)
    assert graph.num_leaf_regions == 96 and len(axes.images) == 64
    assert axes.texts[-1].get_text() == "the first 64 of 96 leaf regions"


class TestTreesOfTables:
    names = [f"column {letter}" for letter in "abcdefgh"]

    def test_are_dendrograms_with_their_columns(self):
        scopes = [[0, 4], [1], [2, 3], [5], [6, 7]]
        graph = RegionGraph((8,), scopes, [(5, 0, 3), (6, 1, 2), (7, 5, 6), (8, 7, 4)])
        axes = plots.region_graph(graph, names=self.names)
        own = [", ".join(self.names[variable] for variable in scope) for scope in scopes]
        assert sorted(text.get_text() for text in axes.texts) == sorted(own)
        assert axes.get_title() == "9 regions (5 leaf), 4 partitions"
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert sorted(dot.get_xdata()[0] for dot in dots) == [-3, -2, -1, -1], "inner regions at their levels"
        heights = {text.get_text(): text.get_position()[1] for text in axes.texts}
        ends = {(heights[own[0]], heights[own[3]]), (heights[own[1]], heights[own[2]])}
        bars = {
            tuple(sorted(line.get_ydata())) for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[-1] == -1
        }
        assert {tuple(sorted(pair)) for pair in ends} <= bars, "a bar joins the parts of a region"

    def test_of_long_names_take_several_lines_that_do_not_meet(self):
        names = [8 * name for name in self.names]
        graph = RegionGraph((8,), [range(4), range(4, 8)], [(2, 0, 1)])
        axes = plots.region_graph(graph, names=names)
        axes.figure.canvas.draw()
        boxes = sorted((text.get_window_extent() for text in axes.texts), key=lambda box: box.y0)
        assert all(lower.y1 <= upper.y0 for lower, upper in itertools.pairwise(boxes))
        assert max(box.x1 for box in boxes) <= axes.figure.bbox.x1

    def test_are_drawn_without_names_where_they_are_not_small(self):
        graph = random_binary_tree(64, 5, 1, seed=0)
        axes = plots.region_graph(graph)
        assert not axes.images and len(axes.texts) == 32
        told = itertools.chain.from_iterable(text.get_text().split(", ") for text in axes.texts)
        assert sorted(map(int, told)) == list(range(64))

    def test_other_graphs_are_drawn_as_ever(self):
        graph = random_binary_tree(8, 2, 3, seed=0)
        assert len(plots.region_graph(graph, names=self.names).images) == graph.num_regions
        assert len(plots.region_graph(quad_tree((2, 4)), names=self.names).images) == 15
        assert len(plots.region_graph(quad_tree(8)).images) == 15, "a small tree without names"

    def test_names_are_those_of_the_variables(self):
        with pytest.raises(ValueError, match="^names are 8, but the graph has 4 variables; give one for each$"):
            plots.region_graph(quad_tree(4), names=self.names)


@pytest.mark.parametrize(
    "graph",
    [
        random_binary_tree(5, 2, 1, seed=3),
        random_binary_tree(5, 2, 9, seed=3),
        poon_domingos(5, 2),
        whole(5),
        RegionGraph((5,), [[0, 1], [2, 3, 4]], [(2, 0, 1)]),
    ],
    ids=repr,
)
def test_columns_of_a_table_are_named(graph):
    """Each leaf region with its columns, one after the other; where regions tile the table, under each column."""
    names = ["age", "sex", "income in thousands of euros", "town", "x"]
    short = [*names[:2], "income in thou…", *names[3:]]
    texts = [text.get_text() for text in plots.region_graph(graph, names=names).texts]
    wanted = ["\n".join(short[variable] for variable in scope) for scope in graph.leaf_scopes]
    of_cells = [name if len(name) < 24 else name[:23] + "…" for name in names]
    of_trees = [", ".join(names[variable] for variable in scope) for scope in graph.leaf_scopes]
    assert (
        set(of_cells) <= set(texts)
        or set(of_trees) <= set(texts)
        or all(any(text.split("\n", text[:1].isdigit())[-1] == own for text in texts) for own in wanted)
    )
    with pytest.raises(ValueError, match="^names are 4, but the graph has 5 variables; give one for each$"):
        plots.region_graph(graph, names=names[:4])


def test_of_many_columns_the_first_are_named():
    text = plots.region_graph(
        RegionGraph((12,), [list(range(10)), [10, 11], [0], list(range(1, 12))], [(4, 0, 1), (4, 2, 3)]),
        names=[f"c{i}" for i in range(12)],
    ).texts
    found = [own.get_text() for own in text]
    assert "\n".join([*(f"c{i}" for i in range(8)), ".. 10 in all"]) in found and "c10\nc11" in found
