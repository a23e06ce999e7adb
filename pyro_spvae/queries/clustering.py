# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How well clusters that were found without labels agree with labels."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae import checks


def clustering_accuracy(clusters: Tensor, labels: Tensor) -> float:
    r"""
    Unsupervised clustering accuracy, the largest part of rows whose cluster has their label under a one-to-one
    matching :math:`m` of clusters and labels,

    .. math:: \max_m \frac{1}{N} \sum_{n=1}^N 1[m(k_n) = y_n]

    (Yang et al. 2010), by the Hungarian method (Kuhn 1955). Of more clusters than labels some have no label, whose rows
    count as wrong, and the other way round.

    :param Tensor clusters: the cluster of each row, integers ``[N]``, such as one leaf of
        :attr:`pyro_spvae.queries.Embedding.most_probable`.
    :param Tensor labels: the label of each row, integers ``[N]``.
    :returns: between 0 and 1, higher is better.
    :raises ValueError: if there are no rows, or these are not integers of as many rows.

    Example::

        >>> from pyro_spvae.queries import clustering_accuracy
        >>> clustering_accuracy(torch.tensor([2, 2, 0, 0]), torch.tensor([5, 5, 7, 5]))
        0.75
    """
    # scipy's optimisers take a second to load
    from scipy.optimize import linear_sum_assignment

    for name, value in (("clusters", clusters), ("labels", labels)):
        checks.instance(name, value, Tensor)
        if value.dim() != 1 or value.is_floating_point() or value.is_complex() or not len(value):
            given = f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
            raise ValueError(f"{name} is {given}; integers [N], at least one, are needed")
    if len(labels) != len(clusters):
        raise ValueError(f"labels has {len(labels)} rows, but clusters has {len(clusters)}; as many are needed")
    kinds, cluster = clusters.cpu().unique(return_inverse=True)
    names, label = labels.cpu().unique(return_inverse=True)
    both = torch.bincount(cluster * len(names) + label, minlength=len(kinds) * len(names))
    counts = both.reshape(len(kinds), len(names)).numpy()
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum()) / len(labels)
