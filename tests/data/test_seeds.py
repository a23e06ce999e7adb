# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Seeds as generators take them."""

from __future__ import annotations

import pytest

from pyro_spvae.data.seeds import start_seed


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_small_seeds_stay_what_they_are(seed):
    assert start_seed(seed) == seed


def test_large_ones_fit_into_32_bits_and_differ():
    large = [2**32, 2**32 + 1, 2**33, 2**63 - 1]
    found = [start_seed(seed) for seed in large]
    assert all(0 <= seed < 2**32 for seed in found)
    assert len({*found, *(seed % 2**32 for seed in large)}) == 2 * len(large) - 1  # of two the low bits are 0
