# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Rows that are read when they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pyro_spvae.data import DataSet, Rows, Values
from pyro_spvae.data.preprocessing import preprocessing
from pyro_spvae.data.rows import select
from tests.data.cases import refused

GREY = Values.grey_levels(17)
NAMES = ["dequantize", "binarize", "binarize-static", "paper"]


def grey(rows: int = 20) -> torch.Tensor:
    return torch.randint(17, (rows, 1, 3, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def make(name: str = "none", index: torch.Tensor | None = None, **options: int) -> Rows:
    return Rows(grey(), index, preprocessing(name, GREY), **options)


def test_rows_are_float32_copies_of_the_source() -> None:
    x = grey()
    rows = Rows(x)
    assert rows.shape == (20, 1, 3, 2) and rows.event_shape == (1, 3, 2) and len(rows) == 20
    assert rows[:].dtype == rows.dtype == torch.float32 and torch.equal(rows[:], x.float())
    floats = Rows(x.float())
    floats[:].zero_()
    assert torch.equal(floats[:], x.float()), "what is read may be changed"
    cached = make("paper").cached(10**6)
    before = cached[:]
    cached[:].zero_()
    assert torch.equal(cached[:], before)


def test_indexing() -> None:
    rows, x = make(), grey().float()
    index = torch.tensor([3, 1, 1])
    assert torch.equal(rows[2:5], x[2:5]) and torch.equal(rows[index], x[index])
    assert torch.equal(rows[3], x[3]) and torch.equal(rows[-1], x[-1])
    assert [torch.equal(row, other) for row, other in zip(rows, x, strict=True)] == [True] * 20
    with pytest.raises(IndexError, match="row 20 of 20"):
        rows[20]
    assert [len(block) for block in rows.blocks(8)] == [8, 8, 4]
    assert torch.equal(torch.cat(list(rows.blocks(8))), x) and torch.equal(rows.tensor(), x)


def test_scanning_is_reading_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_spvae.data.rows._SCANNED", 6 * 8)
    assert [len(block) for block in make().scan("reading")] == [8, 8, 4]
    assert torch.equal(torch.cat(list(make().scan("reading"))), grey().float())


WIDE = [torch.uint16, torch.uint32, torch.uint64, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", WIDE)
def test_sources_of_rare_types_are_read_where_they_lie(dtype: torch.dtype) -> None:
    x = torch.arange(8).reshape(4, 2)  # whole in all of them
    source, index = x.to(dtype), torch.tensor([3, 0, 1])
    for rows, expected in ((Rows(source), x), (Rows(source, index), x[index])):
        assert rows.source is source
        assert torch.equal(rows[:], expected.float()) and torch.equal(rows[1:2], expected[1:2].float())
        assert torch.equal(rows[torch.tensor([2, 0])], expected[[2, 0]].float())
        assert rows.raw(slice(None)).dtype == dtype
        data = DataSet("x", rows, rows, rows, Values(low=0, high=7))
        assert data.fingerprint() == DataSet("x", rows, rows, rows, Values(low=0, high=7)).fingerprint()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("index", [None, torch.tensor([3, 0, 1])])
def test_rows_counted_from_the_end_are_the_same_rows(name: str, index: torch.Tensor | None) -> None:
    rows = make(name, index)
    assert torch.equal(rows[torch.tensor([-1, -2])], rows[torch.tensor([len(rows) - 1, len(rows) - 2])])
    assert torch.equal(rows[-2:], rows[len(rows) - 2 :]) and torch.equal(rows[::2], rows[torch.arange(0, len(rows), 2)])
    with pytest.raises(IndexError):
        rows[torch.tensor([len(rows)])]


def test_a_split_is_an_index_into_one_source() -> None:
    x = grey()
    index = torch.tensor([7, 0, 19])
    rows = Rows(x, index)
    assert rows.source is x and len(rows) == 3
    assert torch.equal(rows[:], x[index].float()) and torch.equal(rows[1:], x[index[1:]].float())
    assert torch.equal(rows.raw(slice(None)), x[index])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_one_value_however_it_is_read(name: str) -> None:
    rows = make(name, seed=4)
    everything = rows[:]
    order = torch.randperm(20)
    assert torch.equal(rows[order], everything[order])
    assert torch.equal(rows[5:7], everything[5:7])
    assert torch.equal(rows.cached(10**6)[order], everything[order])
    torch.rand(3)
    assert torch.equal(make(name, seed=4)[:], everything)
    assert torch.equal(make(name, order, seed=4)[:], everything[order]), "the noise belongs to the row of the source"
    for other in (make(name, seed=5), make(name, seed=4, stream=1)):
        assert not torch.equal(other[:], everything)


@pytest.mark.parametrize("name", [*NAMES, "none"])
def test_drawing_is_anew_where_that_is_meant(name: str) -> None:
    rows, index = make(name), torch.arange(20)
    generator = torch.Generator().manual_seed(0)
    first, second = rows.draw(index, generator), rows.draw(index, generator)
    if name in ("dequantize", "binarize"):
        assert not torch.equal(first, second) and not torch.equal(first, rows[:])
        assert torch.equal(first, rows.draw(index, torch.Generator().manual_seed(0)))
        assert not torch.equal(rows.cached(10**6).draw(index, generator), rows[:])
    else:
        assert torch.equal(first, rows[:]) and torch.equal(second, rows[:])
    assert rows.draws_anew == (name in ("dequantize", "binarize"))


def test_what_is_held_is_limited() -> None:
    rows = make("paper")
    assert rows.cached(20 * 6 * 4 - 1) is rows and rows.cached(20 * 6 * 4) is not rows
    plain = make()
    assert plain.cached(10**9) is plain


def test_a_file_is_read_where_it_lies(tmp_path) -> None:
    np.save(tmp_path / "x.npy", grey().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="c")
    rows = Rows(torch.from_numpy(mapped), torch.tensor([4, 2]))
    mapped[4] = 0
    assert torch.equal(rows[0], torch.zeros(1, 3, 2)) and torch.equal(rows[1], grey()[2].float())


@pytest.mark.parametrize("source", [torch.zeros(3), torch.zeros(3, 2, dtype=torch.complex64)])
def test_sources_that_are_no_rows(source: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="real rows"):
        Rows(source)


class TestLabels:
    LABELS = torch.arange(20, dtype=torch.uint8) * 2

    def test_each_row_keeps_its_own(self) -> None:
        index = torch.tensor([7, 0, 19, 4])
        for rows, numbers in ((Rows(grey(), labels=self.LABELS), torch.arange(20)), (self.make(index), index)):
            wanted = 2 * numbers
            some = torch.tensor([2, 0])
            assert rows.labels is not None and rows.labels.dtype == torch.int64
            assert torch.equal(rows.labels, wanted) and "with labels" in repr(rows)
            assert torch.equal(rows.changed(seed=3).labels, wanted) and torch.equal(
                rows.part(some).labels, wanted[some]
            )
            assert torch.equal(rows.part(some).part(torch.tensor([1])).labels, wanted[some[1:]])
            assert torch.equal(rows.part(torch.tensor([-1])).labels, wanted[-1:])
        held = self.make(index, "paper").cached(10**6)
        assert held._cache is not None and torch.equal(held.labels, 2 * index)
        assert torch.equal(held.part(torch.tensor([1])).labels, torch.tensor([0]))

    def make(self, index: torch.Tensor, name: str = "none") -> Rows:
        return Rows(grey(), index, preprocessing(name, GREY), labels=self.LABELS)

    def test_most_rows_have_none_and_they_change_nothing_else(self) -> None:
        index = torch.tensor([7, 0, 19, 4])
        rows, plain = self.make(index, "paper"), make("paper", index)
        assert plain.labels is None and plain.part(torch.tensor([1])).labels is None and "labels" not in repr(plain)
        assert torch.equal(rows[:], plain[:])
        data, others = (DataSet("x", x, x, x, preprocessing("paper", GREY).values) for x in (rows, plain))
        assert data.fingerprint() == others.fingerprint()

    @pytest.mark.parametrize(
        ("labels", "given"),
        [
            (LABELS[:19], r"uint8 of shape \[19\]"),
            (LABELS.unsqueeze(1), r"uint8 of shape \[20, 1\]"),
            (LABELS.float(), r"float32 of shape \[20\]"),
            (LABELS > 9, r"bool of shape \[20\]"),
            (LABELS.tolist(), "a list"),
        ],
    )
    def test_refusals(self, labels: Any, given: str) -> None:
        with refused(f"^labels is {given}; a tensor of 20 integers, one for each row, is needed$"):
            Rows(grey(), labels=labels)


def test_what_is_seen_is_what_is_not_missing_and_what_a_mask_says() -> None:
    x = torch.tensor([[1.0, torch.nan], [2.0, 3.0], [torch.nan, torch.nan]], dtype=torch.float32)
    mask, index = torch.tensor([True, False]), torch.tensor([2, 0])
    for item in (slice(0, 2), index):
        assert select(Rows(x.nan_to_num()), None, item)[1] is None and select(x, None, item)[1] is None
        assert torch.equal(select(Rows(x, missing=True), None, item)[1], ~x.isnan()[item])
        assert torch.equal(select(Rows(x, missing=True), mask, item)[1], (~x.isnan() & mask)[item])
        assert torch.equal(select(x, mask, item)[1], mask.expand(3, 2)[item])
