# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Hidden Chow-Liu trees as region graphs."""

from __future__ import annotations

import heapq
import itertools
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._columns import columns_of
from ._mutual_information import mutual_information
from ._structure import check_integer
from ._trees import Neighbours, centres, linked, merged, pieces, rooted, spanning_tree
from .builders import _from_splits
from .region_graph import RegionGraph

_NAMED = 5  # variables that a message names
_LEAST = 2  # rows of which anything can be said
_DIGITS = 1e9  # differences below 1e-9 nats are rounding, which depends on the machine, and decide nothing

Scope = tuple[int, ...]
Splits = dict[Scope, set[tuple[Scope, ...]]]


class _Region(NamedTuple):
    """A region below another, in the order in which such are joined."""

    levels: int
    size: int  # number of variables
    weakness: float  # minus what it has in common with the node it hangs from
    scope: Scope


def chow_liu(
    x: Tensor,
    block: int = 1,
    *,
    arity: int | None = None,
    categorical: Sequence[bool] | None = None,
    bins: int | None = None,
    names: Sequence[str] | None = None,
    shape: int | Iterable[int] | None = None,
) -> RegionGraph:
    r"""
    The hidden Chow-Liu tree of a data set: of all trees over the variables that with the largest sum of mutual
    information along its edges, as a region graph.

    Chow and Liu's tree is the maximum spanning tree of the pairwise mutual information: of all distributions whose
    graph is a tree the one with its edges has the greatest likelihood. With a root chosen, the region of a variable
    holds it and all that hang below it, and its parts are the variable itself, a leaf region, and the regions of its
    children. A circuit of K units over this graph is a hidden tree: each variable has a latent one of K states, and
    these form the tree. It wants CP weights, ``Circuit(chow_liu(x), 16, weights="cp")``, which then are its transition
    probabilities.

    The root is a centre or centroid of the tree, whichever gives the fewest levels. More parts than ``arity`` are
    joined to regions of their own, those of fewest levels first, and of these the smallest, which gives the fewest
    levels that there can be (Golumbic 1976, "Combinatorial merging").

    With ``block`` above 1 connected pieces of the tree with at most so many variables are leaf regions, for leaves that
    have dependence to learn, such as VAEs: as few as possible (each variable, from the leaves up, keeps what hangs
    below it, and gives up the largest pieces first where this is too much; Kundu and Misra 1977, "A linear tree
    partitioning algorithm"). Pieces with one neighbour, the same one, are put together where they fit.

    Mutual information is that of the rows in which both columns are seen: exactly from counts for binary and
    categorical columns and those of few values; for others the larger of two lower bounds, of bins and of the
    correlation of normal scores. What chance adds on average is taken off, so that columns of many categories do not
    attract all others. No increasing map of a column of numbers changes the tree. Ties fall to the order of the
    columns, and the graph follows from the data alone. It takes a second for 10,000 rows of 200 columns, and
    ``O(N D^2)`` in general.

    A constant column depends on nothing. It becomes a child of the root, and in tables a warning names it.

    Sources: Chow and Liu 1968, "Approximating discrete probability distributions with dependence trees"; hidden trees
    as circuits from Liu and Van den Broeck 2021, "Tractable regularization of probabilistic circuits"; trees of
    variables as structures of circuits from Dang, Vergari and Van den Broeck 2020, "Strudel: learning structured-
    decomposable probabilistic circuits".

    :param Tensor x: rows of a table ``[N, D]`` or images ``[N, H, W]`` or ``[N, C, H, W]``, of any real type; NaN is a
        missing entry. The graph's shape has no channels: mutual information of two positions is that of the two
        channels with most of it.
    :param int block: most variables of a leaf region.
    :param int arity: most parts of a partition; ``None`` for as many as a variable has children, and itself.
    :param categorical: of each variable, whether its values are names rather than numbers. By default those are that
        take at most 16 values, all whole numbers.
    :param int bins: most bins of a column of numbers, where counts are made; by default 8, or fewer, so that two
        columns have five rows a cell on average.
    :param names: of the variables, for messages.
    :param shape: shape of the region graph, if ``x`` is ``[N, *shape]`` or ``[N, C, *shape]`` with another number of
        axes than above.
    :raises TypeError: if ``x`` is not a tensor, or ``categorical`` or ``names`` no collection.
    :raises ValueError: if ``x`` is complex, has another shape, fewer than two rows or no columns; if two variables are
        seen together in fewer than two rows; if ``block`` is below 1, ``arity`` or ``bins`` below 2, or there are more
        or fewer of ``categorical`` or ``names`` than variables; for entries of ``categorical`` that are no booleans.

    Example::

        >>> steps = torch.randn(500, 5, generator=torch.Generator().manual_seed(0))
        >>> chain = steps.cumsum(1)
        >>> chow_liu(chain).regions[5:]
        ((0, 1), (3, 4), (0, 1, 2, 3, 4))
        >>> chow_liu(chain, block=2).leaf_scopes
        ((0, 1), (2,), (3, 4))
    """
    values, sizes = columns_of(x, shape)
    variables = values.shape[2]
    block = check_integer("block", block, 1)
    arity = variables + 1 if arity is None else check_integer("arity", arity, 2)
    bins = None if bins is None else check_integer("bins", bins, 2)
    for name, given in (("categorical", categorical), ("names", names)):
        if given is None:
            continue
        if not isinstance(given, Collection) or isinstance(given, str):
            raise TypeError(f"{name} must have an entry for each of {variables} variables, but is {given!r}.")
        if len(given) != variables:
            raise ValueError(f"{name} must have an entry for each of {variables} variables, but has {len(given)}.")
    names = [f"variable {place}" for place in range(variables)] if names is None else list(map(str, names))
    categorical = None if categorical is None else _truths(categorical)
    pairs = mutual_information(values, categorical, bins)
    _check_seen(pairs.rows, names)
    constant = pairs.constant.nonzero().flatten().tolist()
    if constant and len(sizes) == 1:
        listed = ", ".join(names[place] for place in constant[:_NAMED])
        more = f" and {len(constant) - _NAMED} more" if len(constant) > _NAMED else ""
        warnings.warn(
            f"x is constant in {listed}{more}: what takes one value depends on nothing, and is a child of the root.",
            stacklevel=2,
        )
    weights = (pairs.information * _DIGITS).round()
    edges = spanning_tree(weights, (~pairs.constant).nonzero().flatten().tolist())
    tree = linked(variables, edges)
    of_each = _strengths([(place,) for place in range(variables)], tree, weights)
    root = centres(tree, [1] * variables, of_each, edges[0][0])[0] if edges else 0
    tree = linked(variables, [*edges, *((root, node) for node in constant if node != root)])
    groups, tree = merged(*pieces(tree, root, weights, block), block)
    scopes = [tuple(sorted(group)) for group in groups]
    roots = centres(tree, [len(scope) for scope in scopes], _strengths(scopes, tree, weights))
    found = [_split(scopes, tree, root, arity, weights) for root in roots]
    return _from_splits(sizes, min(found, key=lambda pair: pair[0])[1])


def _truths(categorical: Collection[Any]) -> list[bool]:
    """
    :raises ValueError: for entries that are neither true nor false.
    """
    for entry in categorical:
        if not (isinstance(entry, (bool, np.bool_)) or (isinstance(entry, Tensor) and entry.dtype == torch.bool)):
            raise ValueError(f"categorical must hold True or False for each variable, but holds {entry!r}.")
    return [bool(entry) for entry in categorical]


def _between(one: Scope, other: Scope, weights: Tensor) -> float:
    """Weight of the edge between two pieces of a tree of most weight: it is the largest between any two variables."""
    return float(weights[list(one)][:, list(other)].max())


def _strengths(scopes: list[Scope], tree: Neighbours, weights: Tensor) -> list[float]:
    """Sums of the weights of the edges of each node."""
    return [
        sum(_between(scopes[node], scopes[other], weights) for other in sorted(around))
        for node, around in enumerate(tree)
    ]


def _check_seen(rows: Tensor, names: Sequence[str]) -> None:
    few = (rows.fill_diagonal_(_LEAST) < _LEAST).nonzero()
    if len(few):
        one, other = few[0].tolist()
        raise ValueError(
            f"x must have at least {_LEAST} rows in which both are seen of each two variables, but has "
            f"{int(rows[one, other])} of {names[one]} and {names[other]}."
        )


def _split(scopes: list[Scope], tree: Neighbours, root: int, arity: int, weights: Tensor) -> tuple[int, Splits]:
    """Levels of the region graph of a tree of groups of variables, and how its regions are taken apart."""
    splits: Splits = {scope: set() for scope in scopes}
    regions: dict[int, _Region] = {}
    parents = rooted(tree, root)
    for node, parent in reversed(parents.items()):
        parts = [_Region(0, len(scopes[node]), 0.0, scopes[node])]
        parts += [regions.pop(child) for child in tree[node] if child != parent]
        levels, size, _, scope = _joined(parts, arity, splits)
        regions[node] = _Region(levels, size, -_between(scopes[node], scopes[parent], weights), scope)
    return regions[root].levels, splits


def _joined(parts: list[_Region], arity: int, splits: Splits) -> _Region:
    """The region of all parts, of which at most so many are joined at once, those of fewest levels first."""
    heapq.heapify(parts)
    number = 2 + (len(parts) - 2) % (arity - 1)  # so that all further joins are of as many as there may be
    while len(parts) > 1:
        own = [heapq.heappop(parts) for _ in range(number)]
        scope = tuple(sorted(itertools.chain.from_iterable(part.scope for part in own)))
        splits[scope] = {tuple(sorted(part.scope for part in own))}
        heapq.heappush(parts, _Region(own[-1].levels + 1, len(scope), own[0].weakness, scope))
        number = arity
    return parts[0]
