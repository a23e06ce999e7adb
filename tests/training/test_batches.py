# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Order and noise of steps."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae import distributed
from pyro_spvae.data import Rows, Values
from pyro_spvae.data.preprocessing import preprocessing
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.training.batches import Batches
from tests.training.cases import images


def _epoch(batches, epoch):
    return [batches(epoch, number)[0] for number in range(len(batches))]


def _values(batches):
    return sorted(map(tuple, torch.cat(batches).flatten(1).tolist()))


def test_every_row_is_seen_once_an_epoch_in_another_order():
    x = torch.arange(20.0).unsqueeze(-1)
    batches = Batches(x, None, 7, seed=0)
    first, second = _epoch(batches, 0), _epoch(batches, 1)
    for epoch in (first, second):
        assert _values(epoch) == [(float(i),) for i in range(20)]
        assert {len(part) for part in epoch} <= {6, 7}
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_any_batch_can_be_had_again_in_any_order():
    data = images(levels=4).preprocessed("dequantize", 0)
    one, other = Batches(data.train, None, 8, seed=3), Batches(data.train, None, 8, seed=3)
    expected = {(epoch, batch): one(epoch, batch)[0] for epoch in range(2) for batch in range(3)}
    for key in reversed(expected):
        assert torch.equal(other(*key)[0], expected[key])
    assert not torch.equal(Batches(data.train, None, 8, seed=4)(0, 0)[0], expected[0, 0])


def test_masks_belong_to_their_rows():
    x = torch.arange(20.0).unsqueeze(-1)
    for values, seen in (Batches(x, x > 9, 6, seed=0)(0, number) for number in range(4)):
        assert torch.equal(seen, values > 9)


def test_grey_levels_get_new_noise_in_every_epoch():
    data = images(levels=4)
    batches = Batches(data.preprocessed("dequantize", 0).train, None, 1000, seed=0)
    (first,), (second,) = _epoch(batches, 0), _epoch(batches, 1)
    levels = sorted(map(tuple, data.train.tensor().flatten(1).tolist()))
    for x in (first, second):
        assert sorted(map(tuple, (x * 4).floor().flatten(1).tolist())) == levels
    assert len(set(first.flatten().tolist()) & set(second.flatten().tolist())) < 5  # of 320, by chance


def test_every_batch_epoch_and_process_has_noise_of_its_own(monkeypatch):
    """More epochs than batches and more processes than either, so that no two mixed up counters give other numbers."""
    epochs, number, world = 5, 4, 7
    black = Rows(torch.zeros(28, 40), preprocessing=preprocessing("dequantize", Values.grey_levels(2)))
    monkeypatch.setattr(distributed, "world", lambda: world)
    noise = {}
    for rank in range(world):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        batches = Batches(black, None, 7, seed=3)
        assert len(batches) == number
        noise |= {(epoch, batch, rank): batches(epoch, batch)[0] for epoch in range(epochs) for batch in range(number)}
        for key in [(4, 1, rank), (0, 3, rank)]:
            assert torch.equal(Batches(black, None, 7, seed=3)(*key[:2])[0], noise[key]), "a function of the three"
    rows = torch.cat(list(noise.values()))
    assert len(rows.unique(dim=0)) == len(rows) == epochs * number * world


def test_processes_share_every_batch_without_loss(monkeypatch):
    x = torch.arange(23.0).unsqueeze(-1)
    alone = Batches(x, None, 6, seed=0)
    monkeypatch.setattr(distributed, "world", lambda: 3)
    for number in range(len(alone)):
        parts = []
        for rank in range(3):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            values, seen = Batches(x, x > 9, 6, seed=0)(0, number)
            assert torch.equal(seen, values > 9), "masks belong to their rows in every process"
            parts.append(values)
        assert sorted(torch.cat(parts).flatten().tolist()) == sorted(x[alone.index(0, number)].flatten().tolist())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_fewer_rows_than_processes(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 3)
    with pytest.raises(ValueError, match="^batches have 2 rows, but there are 3 processes; give a batch_size"):
        Batches(torch.zeros(4, 1), None, 2, seed=0)


def test_seeds_of_noise_do_not_repeat():
    seeds = [noise_seed(5, counter, stream) for stream in range(5) for counter in range(20000)]
    assert all(0 <= seed < 2**32 for seed in seeds)
    for stream in range(5):
        own = seeds[stream * 20000 : (stream + 1) * 20000]
        assert len(set(own)) == len(own), "a permutation"
    assert len(set(seeds)) > len(seeds) - 10  # streams may meet by chance
    assert noise_seed(5, 7, 1) == noise_seed(5, 7, 1) != noise_seed(6, 7, 1)
    assert noise_seed(2**40, 7, 1) != noise_seed(0, 7, 1)
