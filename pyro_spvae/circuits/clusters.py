# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A unit of every region for every row of a data set, by clustering what lies about the region."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .region_graph import RegionGraph

_WINDOW = 12  # leaf regions that rows are clustered by
_FEATURES = 64  # of these together, at most, unless two have more
_ITERATIONS = 8
_BLOCK = 2**24  # numbers of a block of correlations


def region_clusters(
    features: Tensor,
    regions: RegionGraph,
    units: int,
    leaves: int,
    tick: Callable[[int], None] = lambda done: None,
) -> Tensor:
    r"""
    For every row a unit of each region: its cluster among the rows, by the leaf regions nearest to where the region's
    parts meet.

    A circuit is a model with a hidden variable for each region, of as many states as the region has units. What it has
    to pass on is what the variables on one side of it say of those on the other, and these are the ones about it.
    Clusters of them are states to start from, of which weights and leaf parameters follow by counting ("latent variable
    distillation", Liu, Zhang and Van den Broeck 2023, there from the embeddings of a neural network, here from the data
    themselves).

    - A leaf region stands for itself, an inner region for the leaf region among its parts that is closest to the other
      parts: in a hidden Chow-Liu tree that of its own variable. The window are this one and the leaf regions closest to
      it, 12 in all, or fewer where they have more than 64 features.
    - Where no part is a leaf region, the window are those with the closest of the other side, inside and outside of the
      region; of the root, of different parts.

    Closeness is the largest absolute correlation of the features of two leaf regions. Rows are clustered by k-means
    (Lloyd 1982) from rows drawn at random, in 8 rounds; a cluster that loses its rows starts again at another row.
    Regions of equal windows and equally many units have the same clusters, so that they agree on every row.

    Source: Liu, Zhang and Van den Broeck 2023, "Scaling up probabilistic circuits by latent variable distillation".

    :param Tensor features: of the leaf regions, ``[row, leaf region, feature]``, floating point, all known.
    :param RegionGraph regions: the structure.
    :param int units: clusters of an inner region,
    :param int leaves: and of a leaf region.
    :param callable tick: told now and then how many regions are done.
    :returns: ``int64 [row, region]``, below the region's number of units. Drawn from torch's generator.
    """
    rows, count, width = features.shape
    closeness = _closeness(features)
    size = min(count, _WINDOW, max(2, _FEATURES // width))
    found = torch.empty(regions.num_regions, rows, dtype=torch.int64, device=features.device)
    known: dict[tuple[int, ...], int] = {}
    inside = _leaf_regions(regions)
    for region in range(regions.num_regions):
        window = _scores(regions, region, inside, closeness).topk(size).indices.sort().values
        clusters = leaves if regions.is_leaf(region) else units
        same = known.setdefault((clusters, *window.tolist()), region)
        found[region] = _clusters(features[:, window].flatten(1), clusters) if same == region else found[same]
        tick(region + 1)
    return found.t()


def _closeness(features: Tensor) -> Tensor:
    """The largest absolute correlation of the features of each two leaf regions, ``[leaf region, leaf region]``."""
    rows, count, width = features.shape
    centred = (features - features.mean(0)).flatten(1)
    scaled = centred / centred.norm(dim=0).clamp(min=torch.finfo(features.dtype).eps * rows)
    parts = scaled.split(max(1, _BLOCK // (count * width * width)) * width, dim=1)
    blocks = [(part.t() @ scaled).abs().view(-1, width, count, width).amax((1, 3)) for part in parts]
    return torch.cat(blocks)


def _leaf_regions(regions: RegionGraph) -> list[list[int]]:
    """The leaf regions within each region."""
    inside = [[leaf] for leaf in range(regions.num_leaf_regions)]
    for partitions in regions.region_partitions[regions.num_leaf_regions :]:  # parts have smaller numbers
        inside.append(sorted({leaf for parts in partitions for part in parts.parts for leaf in inside[part]}))
    return inside


def _scores(regions: RegionGraph, region: int, inside: list[list[int]], closeness: Tensor) -> Tensor:
    """How near each leaf region is to where a region's parts meet, ``[leaf region]``."""
    centre = region if regions.is_leaf(region) else _own_leaf(regions, region, inside, closeness)
    if centre is not None:
        return closeness[centre].index_fill(0, torch.tensor(centre, device=closeness.device), torch.inf)
    side = closeness.new_zeros(len(closeness), dtype=torch.int64)
    for number, part in enumerate(regions.region_partitions[region][0].parts if region == regions.root else [region]):
        side[inside[part]] = number + 1
    across = side.unsqueeze(0) != side.unsqueeze(1)
    return closeness.masked_fill(~across, -1).amax(1)


def _own_leaf(regions: RegionGraph, region: int, inside: list[list[int]], closeness: Tensor) -> int | None:
    """Of the parts of a region those that are leaf regions, the one that is closest to the other parts."""
    best: tuple[float, int] | None = None
    for partition in regions.region_partitions[region]:
        for part in filter(regions.is_leaf, partition.parts):
            near = sum(float(closeness[part, inside[other]].max()) for other in partition.parts if other != part)
            if best is None or near > best[0]:
                best = near, part
    return None if best is None else best[1]


def _clusters(x: Tensor, clusters: int) -> Tensor:
    """Of each row ``[row, feature]`` the number of its cluster."""
    rows = len(x)
    centres = x[torch.randint(rows, (clusters,), device=x.device) if rows < clusters else _some(rows, clusters, x)]
    for _ in range(_ITERATIONS):
        own = _nearest(x, centres)
        size = torch.bincount(own, minlength=clusters).unsqueeze(-1)
        sums = torch.zeros_like(centres).index_add_(0, own, x)
        again = x[torch.randint(rows, (clusters,), device=x.device)]
        centres = torch.where(size > 0, sums / size.clamp(min=1), again)
    return _nearest(x, centres)


def _some(rows: int, number: int, like: Tensor) -> Tensor:
    return torch.randperm(rows, device=like.device)[:number]


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    return torch.addmm(centres.square().sum(1), x, centres.t(), alpha=-2).argmin(1)
