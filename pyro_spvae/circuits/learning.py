# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Region graphs learned from data: variables that depend on each other stay together."""

from __future__ import annotations

import random
from collections.abc import Iterable

import torch
from torch import Tensor

from ._columns import columns_of
from ._dependence import contingency
from ._structure import check_integer
from .builders import _from_splits
from .region_graph import RegionGraph

_SMALL = 4  # variables: a leaf of fewer has little dependence to learn
_CELLS = 16  # leaf regions of an image in the SPVAE paper's region graph, 4 x 4
_SHARE = 0.2  # of the variables of a region that each part has at least, so that trees are not deep
_MODES = 3  # eigenvectors that cuts of further trees are mixed from
_TOGETHER = 0.5  # of what a variable shows of itself: two that show as much of each other are not cut apart
_DIGITS = 1e9  # differences below 1e-9 are rounding, which depends on the machine, and decide nothing

Scope = tuple[int, ...]


def learn_regions(
    x: Tensor,
    leaf_size: int | None = None,
    *,
    repetitions: int = 2,
    max_rows: int = 10_000,
    seed: int = 0,
    shape: int | Iterable[int] | None = None,
) -> RegionGraph:
    r"""
    A region graph for variables without a grid, learned top-down from the pairwise dependence of the variables.

    With ``w_ij`` the dependence of variables i and j, a region is cut, as long as it has parts that are independent
    (no ``w_ij > 0`` between them) or more than ``leaf_size`` variables:

    - between its independent parts, which are the connected components of the graph with edges ``w_ij > 0``; all
      variables that depend on no other count as one of them. Components are never divided by such a cut, and are shared
      out so that both sides are about equally large;
    - into halves in the order of the variables, if none depends on any other;
    - else so that little dependence is cut. The variables are ordered along the second generalised eigenvector of
      :math:`(D - W) v = \lambda D v`, :math:`D_{ii} = \sum_j w_{ij}`, and parted there where, among thresholds that
      leave at least a fifth of the variables on each side, the normalised cut is smallest:

      .. math:: \mathrm{Ncut}(A, B) = \frac{w(A, B)}{w(A, A \cup B)} + \frac{w(A, B)}{w(B, A \cup B)}, \qquad
          w(A, B) = \sum_{i \in A, j \in B} w_{ij}

    Cuts do not part *close* variables, which show of each other at least half of what they show of themselves: binary
    columns of a correlation of 0.7, normal ones of 0.8. These end up in one leaf region where ``leaf_size`` has room:
    kept together are groups linked by dependence above any bar from there up, of at most so many variables.

    ``w`` is the part of Pearson's mean square contingency that three polynomials of each variable's ranks show, less
    what is expected by chance, and 0 where it may be chance altogether (in at least 19 of 20 data sets of independent
    variables it is 0 everywhere). It sees dependence that is not monotone, does not change under increasing maps of a
    variable, and takes binary, discrete and continuous columns; it does not see dependence of three variables that no
    two of them show.

    The first tree is learned from all rows. Each further one is learned from another half of them, drawn without
    replacement, and is cut along a random mixture of the three lowest eigenvectors, each weighted by ``gauss /
    sqrt(lambda)``: where the data leave no doubt about a cut all trees have it, and where many cuts are equally good,
    as in images, they differ. All trees have one root. Equal regions are merged, and a region that is cut in one
    tree is cut in all. More repetitions keep the trees of fewer.

    Learning is on the CPU, takes a few seconds for 784 variables, and ``O(N D^2 + D^3)`` in general. The graph follows
    from data and arguments; global random generators are left alone.

    Sources: clustering of variables into a region graph is from Dennis and Ventura 2012, "Learning the architecture of
    sum-product networks using clustering on variables"; products where variables are independent from Gens and Domingos
    2013, "Learning the structure of sum-product networks"; nonlinear features of ranks from Lopez-Paz, Hennig and
    Schoelkopf 2013, "The randomized dependence coefficient"; the cut from Shi and Malik 2000, "Normalized cuts and
    image segmentation".

    :param Tensor x: rows of a table ``[N, D]`` or images ``[N, H, W]`` or ``[N, C, H, W]``, of any real type; NaN is a
        missing entry. The graph's shape has no channels: the dependence of two positions is summed over theirs.
    :param int leaf_size: largest number of variables of a leaf region. By default a sixteenth of the variables, as
        large as a cell of the 4 x 4 cells that the SPVAE paper cuts images into, but at least four, because there is
        little dependence for a leaf to model among fewer.
    :param int repetitions: number of trees.
    :param int max_rows: learn from this many rows, drawn at random, if there are more.
    :param int seed: seed of a random generator of its own.
    :param shape: shape of the region graph, if ``x`` is ``[N, *shape]`` or ``[N, C, *shape]`` with another number of
        axes than above.
    :raises TypeError: if ``x`` is not a tensor.
    :raises ValueError: if ``x`` is complex, has another shape, fewer than two rows or no columns; if ``leaf_size`` is
        not in ``1 .. D``, ``repetitions`` not positive, or ``max_rows`` below two.

    Example::

        >>> noise = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> x = torch.stack([noise[:, 0], noise[:, 1], noise[:, 0] ** 2, noise[:, 1] + noise[:, 2]], 1)
        >>> learn_regions(x, leaf_size=2).leaf_scopes
        ((0, 2), (1, 3))
    """
    values, sizes = columns_of(x, shape)
    rows, _, variables = values.shape
    if leaf_size is None:
        leaf_size = default_leaf_size(variables)
    leaf_size = check_integer("leaf_size", leaf_size, 1)
    if leaf_size > variables:
        raise ValueError(f"leaf_size must be at most the number of variables, {variables}, but is {leaf_size}.")
    repetitions, max_rows, seed = (
        check_integer(name, value, low)
        for name, value, low in (("repetitions", repetitions, 1), ("max_rows", max_rows, 2), ("seed", seed, None))
    )
    generator = random.Random(seed)
    if rows > max_rows:
        values, rows = values[sorted(generator.sample(range(rows), max_rows))], max_rows
    splits: dict[Scope, set[tuple[Scope, ...]]] = {}
    for repetition in range(repetitions):
        if repetition == 0:
            used, cuts = values, None
        else:
            used, cuts = values[sorted(generator.sample(range(rows), max(2, rows // 2)))], generator
        _grow(contingency(used), leaf_size, cuts, splits)
    return _from_splits(sizes, splits)


def default_leaf_size(variables: int) -> int:
    """
    Largest number of variables of a leaf region where none is given: a sixteenth of all, and at least four.

    :param int variables: number of all variables.
    """
    return min(variables, max(_SMALL, variables // _CELLS))


def _grow(
    weights: Tensor, leaf_size: int, generator: random.Random | None, splits: dict[Scope, set[tuple[Scope, ...]]]
) -> None:
    """
    Adds the regions of one tree, and how it cuts them, to ``splits``.

    :param Tensor weights: ``[D, D]``, dependence of the variables, with that on themselves.
    """
    groups = _close_groups(weights, leaf_size)
    weights = weights.clone().fill_diagonal_(0)
    waiting = [tuple(range(len(weights)))]
    while waiting:
        scope = waiting.pop()
        index = torch.tensor(scope, device=weights.device)
        part = _cut(weights[index][:, index], groups[index], leaf_size, generator)
        splits.setdefault(scope, set())
        if part is not None:
            pair = sorted(tuple(index[side].tolist()) for side in (part, ~part))
            splits[scope].add(tuple(pair))
            waiting += pair


def _close_groups(weights: Tensor, most: int) -> Tensor:
    """
    Close variables that no cut parts: the largest groups of single linkage with at most so many of them.

    :param Tensor weights: ``[D, D]``, dependence of the variables, with that on themselves.
    :returns: of each variable the first one of its group, ``[D]``.
    """
    own = weights.diagonal()
    shares = _rounded(weights / own.sqrt().outer(own.sqrt()).clamp(min=1 / _DIGITS)).triu(1)
    pairs = (shares >= _TOGETHER * _DIGITS).nonzero()
    strongest_first = shares[pairs[:, 0], pairs[:, 1]].argsort(descending=True, stable=True)
    linked = [{variable} for variable in range(len(weights))]
    groups = [{variable} for variable in range(len(weights))]
    for one, other in pairs[strongest_first].tolist():
        if linked[one] is linked[other]:
            continue
        both = linked[one] | linked[other]
        for variable in both:
            linked[variable] = both
            if len(both) <= most:
                groups[variable] = both
    return torch.tensor([min(group) for group in groups], device=weights.device)


def _cut(weights: Tensor, groups: Tensor, leaf_size: int, generator: random.Random | None) -> Tensor | None:
    """
    One part of a region as a mask over its variables, or ``None`` for a leaf region.

    :param Tensor weights: ``[n, n]``, dependence of the region's variables.
    :param Tensor groups: ``[n]``, numbers of their close groups.
    """
    blocks = _blocks(weights)
    size = len(weights)
    if len(blocks) > 1:
        return _shared_out(blocks, size)
    if size <= leaf_size:
        return None
    if not bool((weights > 0).any()):
        return torch.arange(size, device=weights.device) < size // 2
    return _normalised_cut(weights, _direction(weights, generator), groups)


def _blocks(weights: Tensor) -> list[Tensor]:
    """Connected components of more than one variable, and the variables without any dependence as one more block."""
    edges = weights > 0
    alone = ~edges.any(1)
    blocks = [alone.nonzero().flatten()] if bool(alone.any()) else []
    left = ~alone
    while bool(left.any()):
        block = torch.zeros_like(left)
        front = left.nonzero()[:1].flatten()
        while len(front):
            block[front] = True
            front = (edges[front].any(0) & ~block).nonzero().flatten()
        blocks.append(block.nonzero().flatten())
        left &= ~block
    return blocks


def _shared_out(blocks: list[Tensor], size: int) -> Tensor:
    """One of two groups of whole blocks: each block, the largest first, joins the group that is smaller so far."""
    part, balance = blocks[0].new_zeros(size, dtype=torch.bool), 0
    for block in sorted(blocks, key=lambda block: (-len(block), int(block[0]))):
        if balance <= 0:
            part[block] = True
        balance += len(block) if balance <= 0 else -len(block)
    return part


def _direction(weights: Tensor, generator: random.Random | None) -> Tensor:
    """
    A number for each variable of a connected region, by which the region is cut.

    The second generalised eigenvector of the Laplacian (Shi and Malik 2000, equation 7), or with a generator a random
    mixture of the second to fourth, the smoothest part of a Gaussian field on the graph.
    """
    scale = weights.sum(0).rsqrt()
    identity = torch.eye(len(weights), dtype=weights.dtype, device=weights.device)
    laplacian = identity - scale.unsqueeze(1) * weights * scale
    eigenvalues, vectors = torch.linalg.eigh(laplacian)
    modes = scale.unsqueeze(1) * vectors[:, 1 : 1 + _MODES]  # [n, mode]
    largest = _rounded(modes / modes.abs().amax(0)).abs().argmax(0, keepdim=True)
    modes = modes * modes.gather(0, largest).sign()  # the sign of an eigenvector is the machine's choice
    if generator is None:
        return modes[:, 0]
    spread = eigenvalues[1 : 1 + _MODES].clamp(min=1 / _DIGITS).rsqrt()
    return modes @ (spread * weights.new_tensor([generator.gauss(0, 1) for _ in spread]))


def _normalised_cut(weights: Tensor, direction: Tensor, groups: Tensor) -> Tensor:
    """
    The part below the threshold of smallest normalised cut; the most balanced one if several are smallest.

    Variables of one group take the mean of their places and are not parted, even where sides are small without it.
    """
    size = len(weights)
    members = (groups.unsqueeze(1) == groups).to(weights.dtype)
    direction = members @ direction / members.sum(1)
    order = groups.argsort(stable=True)
    order = order[_rounded(direction / direction.abs().max())[order].argsort(stable=True)]
    ordered = weights[order][:, order]
    within = 2 * ordered.tril().sum(1).cumsum(0)[:-1]  # w(A, A), where A is the first 1, 2, .. n - 1 variables
    volume = ordered.sum(1).cumsum(0)
    volume, everything = volume[:-1], volume[-1]
    crossing = volume - within
    cut = _rounded(crossing / volume + crossing / (everything - volume))
    least = max(1, int(size * _SHARE))
    first = torch.arange(1, size, device=weights.device)  # variables of A
    between = groups[order][1:] != groups[order][:-1]
    allowed = between & (first >= least) & (first <= size - least)
    allowed = allowed if bool(allowed.any()) else between
    best = cut[allowed].min()
    number = min(first[allowed & (cut == best)].tolist(), key=lambda count: abs(2 * count - size))
    part = weights.new_zeros(size, dtype=torch.bool)
    part[order[:number]] = True
    return part


def _rounded(values: Tensor) -> Tensor:
    return (values * _DIGITS).round()
