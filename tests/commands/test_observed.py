# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Masks of what is seen: as drawn by hand, the same in every order, and whatever is wrong in one sentence."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyro_spvae.commands.observed import observed_name, parse_observed

IMAGE = (1, 3, 5)
COLOUR = (3, 2, 4)


def drawn(*lines):
    """A mask from its picture: # is seen."""
    return torch.tensor([[letter == "#" for letter in line] for line in lines])


HAND = {
    "left": drawn("##...", "##...", "##..."),
    "right": drawn("..###", "..###", "..###"),
    "top": drawn("#####", ".....", "....."),
    "bottom": drawn(".....", "#####", "#####"),
    "checkerboard": drawn("#.#.#", ".#.#.", "#.#.#"),
}


@pytest.mark.parametrize("text", HAND)
def test_named_masks_are_those_drawn_by_hand(text):
    mask = parse_observed(text, IMAGE, rows=7, seed=0)
    assert mask.dtype == torch.bool and torch.equal(mask, HAND[text].unsqueeze(0))
    colour = parse_observed(text, (3, 3, 5), rows=7, seed=0)
    assert torch.equal(colour, HAND[text].expand(3, 3, 5)), "channels of a pixel are seen together"
    assert torch.equal(parse_observed(text, (3, 5), rows=7, seed=0), HAND[text])


@pytest.mark.parametrize("pair", [("left", "right"), ("top", "bottom")])
@pytest.mark.parametrize("shape", [(1, 4, 6), (1, 5, 7), (2, 2, 2)])
def test_opposite_halves_share_nothing_and_leave_nothing_out(pair, shape):
    one, other = (parse_observed(text, shape, rows=1, seed=0) for text in pair)
    assert torch.equal(one, ~other)
    assert 0 <= int(other.sum()) - int(one.sum()) <= one.numel() // min(shape[1:])


def test_columns_of_tables():
    assert parse_observed("left", (5,), 3, 0).tolist() == [True, True, False, False, False]
    assert parse_observed("right", (5,), 3, 0).tolist() == [False, False, True, True, True]
    assert parse_observed("right", (1,), 3, 0).tolist() == [True]
    assert parse_observed("checkerboard", (5,), 3, 0).tolist() == [True, False, True, False, True]


class TestRandom:
    def test_probability(self):
        mask = parse_observed("random:0.3", (1, 20, 20), rows=50, seed=1)
        assert mask.shape == (50, 1, 20, 20)
        error = (0.3 * 0.7 / mask.numel()) ** 0.5
        assert abs(float(mask.double().mean()) - 0.3) < 4 * error
        spread = mask.double().mean((1, 2, 3)).std()  # independent draws: binomial counts of each row
        assert float(spread) == pytest.approx((0.3 * 0.7 / 400) ** 0.5, rel=0.4)
        assert bool(parse_observed("random:1", (4,), rows=5, seed=0).all())

    def test_rows_differ_and_depend_on_seed_and_number_alone(self):
        mask = parse_observed("random:0.5", IMAGE, rows=9, seed=3)
        assert len({tuple(row.flatten().tolist()) for row in mask}) == 9
        assert torch.equal(mask, parse_observed("random:0.5", IMAGE, rows=9, seed=3))
        assert torch.equal(mask[:4], parse_observed("random:0.5", IMAGE, rows=9, seed=3, first=4))
        assert torch.equal(mask[:4], parse_observed("random:0.5", IMAGE, rows=4, seed=3))
        assert not torch.equal(mask, parse_observed("random:0.5", IMAGE, rows=9, seed=4))

    @pytest.mark.parametrize("rows", [2, 3, 5])
    def test_channels_are_seen_together(self, rows):
        mask = parse_observed("random:0.5", COLOUR, rows=rows, seed=0)  # also where there are as many rows as channels
        assert mask.shape == (rows, *COLOUR)
        assert torch.equal(mask, mask[:, :1].expand_as(mask))

    def test_torch_is_left_alone(self):
        state = torch.get_rng_state()
        parse_observed("random:0.5", IMAGE, rows=3, seed=3)
        assert torch.equal(state, torch.get_rng_state())


class TestFile:
    @pytest.fixture
    def save(self, tmp_path):
        def save(array, name="mask.npy"):
            np.save(tmp_path / name, array, allow_pickle=True)
            return str(tmp_path / name)

        return save

    @pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, ">i4"])
    @pytest.mark.parametrize("rows", [None, 6])
    @pytest.mark.parametrize("shape", [(2, 4), (3, 2, 4)])
    def test_images(self, save, kind, rows, shape):
        array = np.random.default_rng(0).random(shape if rows is None else (rows, *shape)) < 0.5
        mask = parse_observed(save(array.astype(kind)), COLOUR, rows=6, seed=0)
        wanted = torch.from_numpy(array)
        wanted = wanted if len(shape) == 3 else wanted.unsqueeze(-3).expand(*wanted.shape[:-2], *COLOUR)
        assert mask.dtype == torch.bool and torch.equal(mask, wanted)
        first = parse_observed(save(array.astype(kind)), COLOUR, rows=6, seed=0, first=2)
        assert torch.equal(first, wanted if rows is None else wanted[:2])

    def test_tables(self, save):
        array = np.array([True, False, True])
        assert parse_observed(save(array), (3,), rows=4, seed=0).tolist() == array.tolist()
        many = np.arange(12).reshape(4, 3) % 2
        assert parse_observed(save(many), (3,), rows=4, seed=0).tolist() == (many == 1).tolist()

    def test_a_file_of_the_shape_of_a_row_is_meant_for_all_rows(self, save):
        array = np.random.default_rng(0).random((3, 2, 4)) < 0.5  # three channels, or a [H, W] for each of three rows
        assert torch.equal(parse_observed(save(array), COLOUR, rows=3, seed=0), torch.from_numpy(array))

    def test_the_file_may_change_afterwards(self, save):
        path = save(np.ones((2, 4), dtype=bool))
        mask = parse_observed(path, COLOUR, rows=3, seed=0)
        save(np.zeros((2, 4), dtype=bool))
        assert bool(mask.all())

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.ones((4, 2), bool), r"of shape \[4, 2\]; accepted are the shapes \[2, 4\], \[6, 2, 4\], \[3, 2, 4\], "),
            (np.ones((5, 2, 4), bool), r"of shape \[5, 2, 4\]; accepted are the shapes"),
            (np.ones((0, 2, 4), bool), r"of shape \[0, 2, 4\]|no readable array"),
            (np.ones((), bool), r"of shape \[\]"),
            (np.ones((2, 4)), "of type float64; bool, or integers 0 and 1, are needed"),
            (np.full((2, 4), "a"), "of type <U1; bool"),
            (np.full((2, 4), 1j), "of type complex128; bool"),
            (np.full((2, 4), 2), "integers other than 0 and 1"),
            (np.full((2, 4), -1), "integers other than 0 and 1"),
            (np.zeros((2, 4), bool), "leaves nothing seen"),
            (np.full((2, 4), None), "no readable array"),
        ],
    )
    def test_unfit_arrays(self, save, array, message):
        path = save(array)
        with pytest.raises(ValueError, match=message) as caught:
            parse_observed(path, COLOUR, rows=6, seed=0)
        assert str(caught.value).startswith("observed is ") and "\n" not in str(caught.value)

    def test_pickles_are_not_executed(self, save, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "sprung"),)

        (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap()))
        for path in (save(np.array([[Trap()] * 4] * 2, dtype=object)), str(tmp_path / "bare.npy")):
            with pytest.raises(ValueError, match="is no readable array"):
                parse_observed(path, COLOUR, rows=6, seed=0)
        assert not (tmp_path / "sprung").exists()

    def test_a_header_that_claims_more_than_memory_is_refused_at_once(self, tmp_path):
        path = tmp_path / "vast.npy"
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|b1", "fortran_order": False, "shape": (2**40, 2, 4)})
        with pytest.raises(ValueError, match="is no readable array"):
            parse_observed(str(path), COLOUR, rows=2**40, seed=0, first=1)
        with open(path, "r+b") as file:  # a sparse file of 8 GiB; nothing but its head is read
            file.truncate(path.stat().st_size + 2**33)
            file.seek(0)
            np.lib.format.write_array_header_1_0(file, {"descr": "|b1", "fortran_order": False, "shape": (2**30, 2, 4)})
            file.write(b"\1" * 8)
        mask = parse_observed(str(path), COLOUR, rows=2**30, seed=0, first=2)
        assert mask.shape == (2, *COLOUR) and bool(mask[0].all()) and not bool(mask[1].any())

    def test_missing_and_unreadable_files(self, tmp_path):
        (tmp_path / "folder.npy").mkdir()
        for path, message in (
            (tmp_path / "none.npy", "cannot be read: No such file"),
            (tmp_path / "folder.npy", "cannot be read: Is a directory"),
            ("nul\0.npy", "is no readable array"),
        ):
            with pytest.raises(ValueError, match=message):
                parse_observed(str(path), COLOUR, rows=6, seed=0)


PROBABILITY = "; a probability above 0 and at most 1 is needed, such as random:0.5"
ACCEPTED = "; accepted are left, right, top, bottom, checkerboard, random:P with 0 < P <= 1, or a .npy file"
NUMBERS = ("0", "1.01", "-0.5", "nan", "inf", "", "half", "0.5 ", "1_0", "0x1", "1e999")


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        *((f"random:{number}", IMAGE, PROBABILITY) for number in NUMBERS),
        *((text, IMAGE, ACCEPTED) for text in ("", "Left", "half", "random", "mask.npz", "left ", "random 0.5")),
        ("top", (5,), ", but rows of a table have no top; left and right are their halves"),
        ("bottom", (5,), ", but rows of a table have no bottom; left and right are their halves"),
        ("left", (1,), ", which leaves nothing seen of rows of shape [1]"),
    ],
)
def test_refusals(text, shape, message):
    with pytest.raises(ValueError) as caught:
        parse_observed(text, shape, rows=3, seed=0)
    assert str(caught.value) == f"observed is {text!r}{message}"


def test_names_of_files():
    texts = ["left", "random:0.5", "some/where/my mask.npy", "checkerboard", "random:1e-3", "../x:y.npy"]
    names = [observed_name(text) for text in texts]
    assert names == ["left", "random-0.5", "my-mask-npy", "checkerboard", "random-1e-3", "x-y-npy"]


def header(shape=(2, 4), kind="|b1"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def only_value_errors(text):
    """What the parser returns, if it accepts; anything but a mask or a ValueError of one sentence fails."""
    try:
        mask = parse_observed(text, COLOUR, rows=6, seed=0)
    except ValueError as error:
        assert str(error).startswith("observed is ") and "\n" not in str(error)
        return
    assert mask.dtype == torch.bool and mask.shape in (COLOUR, (6, *COLOUR)) and bool(mask.any())


@settings(max_examples=200, deadline=None)
@given(st.text() | st.text().map("random:{}".format) | st.floats().map("random:{}".format))
@example("random:1e-400")
@example("random:" + "1" * 5000)
def test_any_text_is_a_mask_or_refused(text):
    if not text.lower().endswith(".npy"):
        only_value_errors(text)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.binary(max_size=40).map(lambda tail: header() + tail)
    | st.binary(max_size=100).map(lambda text: b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    | st.tuples(st.integers(0, 135), st.integers(0, 255)).map(
        lambda flip: (header() + b"\1" * 8)[: flip[0]] + bytes([flip[1]]) + (header() + b"\1" * 8)[flip[0] + 1 :]
    )
    | st.integers(0, 136).map(lambda size: (header() + b"\1" * 8)[:size])
)
def test_any_bytes_are_a_mask_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.npy"
    path.write_bytes(content)
    only_value_errors(str(path))
