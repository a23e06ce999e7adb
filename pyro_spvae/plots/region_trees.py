# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Dendrograms of region graphs that are trees, as hidden Chow-Liu trees are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyro_spvae.circuits import RegionGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# more lines of text than this are a page that nobody reads
MAX_LINES = 200
WRAPPED_AT = 60  # characters of a line
INNER_COLOR, EDGE_COLOR = "#4477aa", "#888888"
LINE_HEIGHT = 0.2  # inches
LEVEL_WIDTH = 0.3


def is_tree(graph: RegionGraph) -> bool:
    """Whether each region is taken apart in one way at most, and is a part of one other."""
    parts = [part for _, *own in graph.partitions for part in own]
    return bool(parts) and len(graph.partitions) == graph.num_regions - graph.num_leaf_regions == len(
        {region for region, *_ in graph.partitions}
    ) and len(parts) == len(set(parts))  # fmt: skip


def labels(graph: RegionGraph, names: Sequence[str] | None) -> list[str]:
    """The variables of each leaf region, by name or else by number, in lines."""
    named = [str(place) for place in range(graph.num_variables)] if names is None else names
    texts = (", ".join(named[variable] for variable in scope) for scope in graph.leaf_scopes)
    return ["\n".join(textwrap.wrap(text, WRAPPED_AT)) or text for text in texts]


def size_of_tree(graph: RegionGraph, names: Sequence[str] | None) -> tuple[float, float] | None:
    """Width and height of its dendrogram in inches; ``None`` if it is no tree, or too large."""
    if not is_tree(graph):
        return None
    texts = labels(graph, names)
    lines = sum(text.count("\n") + 1 for text in texts)
    longest = max(len(line) for text in texts for line in text.split("\n"))
    width = max(2.0, LEVEL_WIDTH * len(graph.levels)) + 0.08 * longest + 0.5
    return (width, LINE_HEIGHT * lines + 0.6) if lines <= MAX_LINES else None


def draw_tree(graph: RegionGraph, ax: Axes, names: Sequence[str] | None) -> None:
    """
    The root at the left, each inner region as a dot at its level, and the variables of the leaf regions at the right.

    :param names: of the variables; their numbers by default.
    """
    texts = labels(graph, names)
    parts = {region: own for region, *own in graph.partitions}
    height, left_to_draw, order = 0.0, [graph.root], []
    y: dict[int, float] = {}
    while left_to_draw:
        region = left_to_draw.pop()
        order.append(region)
        if region in parts:
            left_to_draw += sorted(parts[region], key=lambda part: (len(graph.scope(part)), part))
        else:  # texts of several lines take their room
            lines = texts[region].count("\n") + 1
            y[region] = -(height + lines / 2)
            height += lines
    level = {region: place for place, row in enumerate(graph.levels, 1) for region in row}
    for region in reversed(order):
        if region not in parts:
            ax.text(0.15, y[region], texts[region], fontsize=9, ha="left", va="center")
            continue
        ends = [y[part] for part in parts[region]]
        y[region] = (min(ends) + max(ends)) / 2
        x = -level[region]
        ax.plot([x, x], [min(ends), max(ends)], color=EDGE_COLOR, lw=1.0, zorder=1)
        for part in parts[region]:
            ax.plot([x, -level.get(part, 0)], [y[part]] * 2, color=EDGE_COLOR, lw=1.0, zorder=1)
        ax.plot(x, y[region], "o", color=INNER_COLOR, ms=4.0, zorder=2)
    longest = max(len(line) for text in texts for line in text.split("\n"))
    deep = len(graph.levels)
    ax.set_xlim(-deep - 0.3, 0.3 + deep * 0.08 * longest / max(2.0, LEVEL_WIDTH * deep))
    ax.set_ylim(-height - 0.3, 0.3)
