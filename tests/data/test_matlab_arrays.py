# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Arrays out of MATLAB files: what SciPy writes, what it does not write, and what is damaged."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from pyro_spvae.data.matlab_arrays import read_matlab_arrays

TYPES = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
TYPES_4 = ["f8", "f4", "i4", "i2", "u2", "u1"]


def numbers(dtype, *shape):
    return np.random.default_rng(0).integers(0, 100, shape or (5, 3)).astype(dtype)


@pytest.fixture
def read(tmp_path):
    def reader(content, *names):
        (tmp_path / "file.mat").write_bytes(content)
        return read_matlab_arrays(tmp_path / "file.mat", names)

    return reader


def saved(content, **options):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, content, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"do_compression": True}])
@pytest.mark.parametrize("dtype", TYPES)
def test_arrays_come_out_as_they_went_in(read, dtype, options):
    content = {
        "x": numbers(dtype),
        "a": numbers(dtype, 1, 3),
        "long_name": numbers(dtype, 2, 3, 4),
        "empty": numbers(dtype, 0, 3),
    }
    result = read(saved(content, **options), *content)
    assert result.keys() == content.keys()
    for name, array in content.items():
        assert np.array_equal(result[name], array) and result[name].dtype == dtype
    assert read(saved(content, **options), "a").keys() == {"a"}


@pytest.mark.parametrize("dtype", TYPES_4)
def test_arrays_of_version_4(read, dtype):
    content = {"x": numbers(dtype), "other": numbers(dtype, 1, 4)}
    result = read(saved(content, format="4"), "x", "other")
    for name, array in content.items():
        assert np.array_equal(result[name], array) and result[name].dtype == dtype


@pytest.mark.parametrize("options", [{}, {"do_compression": True}])
def test_what_is_no_array_of_real_numbers_is_passed_over(read, options):
    others = {
        "text": "abc",
        "struct": {"a": 1, "b": np.zeros(3)},
        "cell": np.array([[1, "b"]], dtype=object),
        "sparse": scipy.sparse.eye(3, format="csc"),
        "complex": np.array([[1j]]),
    }
    result = read(saved(others | {"x": numbers("u1")}, **options), "x", *others)
    assert result.keys() == {"x"} and np.array_equal(result["x"], numbers("u1"))
    others = {"text": "abc", "complex": np.array([[1j]])}
    result = read(saved(others | {"x": numbers("u1")}, format="4"), "x", *others)
    assert result.keys() == {"x"} and np.array_equal(result["x"], numbers("u1"))
    assert read(saved({"mask": np.array([[True, False]])}), "mask")["mask"].tolist() == [[1, 0]]


def element(order, kind, content):
    return struct.pack(f"{order}2I", kind, len(content)) + content + b"\0" * (-len(content) % 8)


@pytest.mark.parametrize("order", "<>")
def test_either_byte_order_and_numbers_stored_in_fewer_bytes(read, order):
    """MATLAB stores doubles that are whole in fewer bytes; SciPy never does."""
    array = np.arange(6).reshape(2, 3)
    matrix = (
        element(order, 6, struct.pack(f"{order}2I", 6, 0))  # doubles,
        + element(order, 5, struct.pack(f"{order}2i", 2, 3))
        + struct.pack(
            f"{order}2H" if order == ">" else "<2H", *((1, 1)[:: 1 if order == "<" else -1])
        )  # a short name in the tag
        + b"x\0\0\0"
        + element(order, 3, array.astype(f"{order}i2").tobytes("F"))  # as 16-bit integers
    )
    header = b"a file".ljust(124) + struct.pack(f"{order}H", 0x100) + (b"IM" if order == "<" else b"MI")
    content = header + element(order, 14, matrix)
    result = read(content, "x")["x"]
    assert np.array_equal(result, array) and result.dtype == np.float64
    assert np.array_equal(scipy.io.loadmat(io.BytesIO(content))["x"], array), "it is a MATLAB file"


def test_version_4_of_the_other_byte_order(read):
    array = np.arange(6.0).reshape(2, 3)
    content = struct.pack(">5i", 1000, 2, 3, 0, 2) + b"x\0" + array.astype(">f8").tobytes("F")
    result = read(content, "x")["x"]
    assert np.array_equal(result, array) and result.dtype == np.float64 and result.dtype.isnative
    assert np.array_equal(scipy.io.loadmat(io.BytesIO(content))["x"], array), "it is a MATLAB file"


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"MAT", b"<html>not found</html>", b"MATLAB 5.0".ljust(128, b"\0"), b"\0" * 30, bytes(range(256)) * 10),
        saved({"x": numbers("f8")})[:-9],
        saved({"x": numbers("f8")}, do_compression=True)[:-9],
        saved({"x": numbers("f8")}, format="4")[:-9],
        saved({})[:128] + struct.pack("<2I", 15, 8) + zlib.compress(b""),
        b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x200) + b"IM" + b"\x89HDF",
    ],
)
def test_damaged_files(read, content):
    with pytest.raises(ValueError, match="^the file .*file.mat is damaged, or no MATLAB file of version 4 to 7"):
        read(content, "x")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_matlab_arrays(tmp_path / "none.mat", ("x",))


WHOLE = [
    saved({"x": numbers("f8"), "name": numbers("u1")}, **options)
    for options in ({}, {"do_compression": True}, {"format": "4"})
]


@given(st.sampled_from(WHOLE), st.integers(0, 2**16), st.binary(max_size=12), st.booleans())
def test_only_refusals_leave_the_reader(tmp_path_factory, whole, place, noise, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz.mat"
    place %= len(whole)
    path.write_bytes(whole[:place] + noise + (b"" if cut else whole[place + len(noise) :]))
    try:
        arrays = read_matlab_arrays(path, ("x", "name"))
    except ValueError as error:
        assert str(error).startswith(f"the file {path} is damaged")
    else:
        assert all(array.dtype.kind in "iuf" for array in arrays.values())
