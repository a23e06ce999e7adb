# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Seeded splits are partitions of the rows."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae.data.splits import shuffled_split


def test_sets_are_disjoint_cover_all_rows_and_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    sets = shuffled_split(100, [80, 15, 5], seed=0)
    assert [len(rows) for rows in sets] == [80, 15, 5] and torch.equal(state, torch.get_rng_state())
    first = torch.cat(sets)
    assert torch.equal(first.sort().values, torch.arange(100)) and not torch.equal(first, torch.arange(100))
    torch.manual_seed(12345)
    assert torch.equal(first, torch.cat(shuffled_split(100, [80, 15, 5], seed=0)))
    assert not torch.equal(first, torch.cat(shuffled_split(100, [80, 15, 5], seed=1)))


@pytest.mark.parametrize("sizes", [[50, 49], [101], [110, -10]])
def test_sizes_that_do_not_fit(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="num_rows=100"):
        shuffled_split(100, sizes, seed=0)
