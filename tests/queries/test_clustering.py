# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Unsupervised clustering accuracy against brute force over all matchings."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyro_spvae.queries import clustering_accuracy


def brute_force(clusters, labels):
    """The best of all one-to-one matchings of clusters and labels, padded to as many of both."""
    kinds, names = sorted(set(clusters.tolist())), sorted(set(labels.tolist()))
    size = max(len(kinds), len(names))
    kinds += [f"none {i}" for i in range(size - len(kinds))]
    names += [f"nothing {i}" for i in range(size - len(names))]
    best = 0
    for matched in itertools.permutations(names):
        of = dict(zip(kinds, matched, strict=True))
        best = max(best, sum(of[k] == y for k, y in zip(clusters.tolist(), labels.tolist(), strict=True)))
    return best / len(labels)


@pytest.mark.parametrize(("clusters", "labels"), [(4, 4), (3, 5), (5, 3), (1, 4), (5, 1)])
def test_is_the_best_of_all_matchings(clusters, labels):
    for _ in range(20):
        found, wanted = torch.randint(clusters, (15,)) * 3 - 1, torch.randint(labels, (15,)) + 7
        assert clustering_accuracy(found, wanted) == pytest.approx(brute_force(found, wanted), abs=1e-12)


def test_names_of_clusters_do_not_matter():
    labels = torch.randint(10, (200,))
    renamed = torch.randperm(10)[labels]
    assert clustering_accuracy(renamed, labels) == 1.0 and clustering_accuracy(renamed.int(), labels) == 1.0
    assert clustering_accuracy(torch.zeros_like(labels), labels) == float(labels.bincount().max()) / 200


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        (torch.zeros(3).long(), torch.zeros(4).long(), "labels has 4 rows, but clusters has 3; as many are needed"),
        (torch.zeros(3).half(), torch.zeros(3).long(), r"clusters is float16 of shape \[3\]; integers \[N\], .*"),
        (torch.zeros(3).long(), torch.zeros(3, 1).long(), r"labels is int64 of shape \[3, 1\]; integers \[N\], .*"),
        (torch.zeros(0).long(), torch.zeros(0).long(), r"clusters is int64 of shape \[0\]; .*"),
        ([0, 1], torch.zeros(2).long(), "clusters is a list; an instance of Tensor is needed"),
    ],
)
def test_refused(clusters, labels, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}$"):
        clustering_accuracy(clusters, labels)
