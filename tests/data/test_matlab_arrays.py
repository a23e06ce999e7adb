# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Arrays out of MATLAB files, in this process and in one of its own, which damaged bytes may end."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from pyro_spvae.data import matlab_arrays
from pyro_spvae.data.matlab_arrays import read_matlab_arrays
from tests.data.cases import refused

TYPES = ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]
TYPES_4 = ["f8", "f4", "i4", "i2", "u2", "u1"]
OTHERS = {"text": "abc", "complex": np.array([[1j]])}  # no arrays of real numbers
OTHERS_5 = {
    "struct": {"a": 1, "b": np.zeros(3)},
    "cell": np.array([[1, "b"]], dtype=object),
    "sparse": scipy.sparse.eye(3, format="csc"),
}


def saved(content, **options):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, content, **options)
    return buffer.getvalue()


def numbers(*types):
    random = np.random.default_rng(0)
    return {f"x_{kind}": random.integers(0, 100, (5, 3)).astype(kind) for kind in types}


@pytest.fixture
def read(tmp_path):
    def reader(content, *names, apart=False):
        (tmp_path / "file.mat").write_bytes(content)
        digest = None if apart else f"md5:{hashlib.md5(content).hexdigest()}"
        return read_matlab_arrays(tmp_path / "file.mat", names, digest)

    return reader


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("options", "types"), [({}, TYPES), ({"do_compression": True}, TYPES), ({"format": "4"}, TYPES_4)]
)
def test_arrays_come_out_as_they_went_in(read, options, types, apart):
    content = numbers(*types) | {"row": np.arange(3.0)[None]}
    content |= {} if "format" in options else {"solid": np.arange(24.0).reshape(2, 3, 4), "empty": np.zeros((0, 3))}
    others = OTHERS if "format" in options else OTHERS | OTHERS_5
    result = read(saved(content | others, **options), *content, *others, apart=apart)
    assert result.keys() == content.keys(), "what is no array of real numbers is passed over"
    for name, array in content.items():
        assert np.array_equal(result[name], array) and result[name].dtype == array.dtype
    assert read(saved(content, **options), "row").keys() == {"row"}


@pytest.mark.parametrize("apart", [False, True])
def test_the_other_byte_order(read, apart):
    array = np.arange(6.0).reshape(2, 3)
    content = struct.pack(">5i", 1000, 2, 3, 0, 2) + b"x\0" + array.astype(">f8").tobytes("F")
    result = read(content, "x", apart=apart)["x"]
    assert np.array_equal(result, array) and result.dtype == np.float64 and result.dtype.isnative


X = saved({"x": np.zeros((5, 3))})
CRASH = X.replace(struct.pack("<2I", 9, 120), struct.pack("<2I", 8, 120))  # SciPy follows an address that is none
DAMAGED = [
    *(b"", b"<html>not found</html>", bytes(range(256)) * 10, X[:-9], saved({"x": np.zeros(9)}, format="4")[:-9]),
    saved({"x": np.zeros((5, 3))}, do_compression=True)[:-9],
    saved({})[:128] + struct.pack("<2I", 15, 8) + zlib.compress(b""),
    b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x200) + b"IM" + b"\x89HDF",
]


@pytest.mark.parametrize(
    ("content", "apart"), [*((content, False) for content in DAMAGED), (DAMAGED[3], True), (CRASH, True)]
)
def test_damaged_files(read, content, apart):
    with refused("^the file .*file.mat is damaged, or no MATLAB file of version 4 to 7"):
        read(content, "x", apart=apart)


def test_a_file_of_another_digest_is_not_read_in_this_process(tmp_path, monkeypatch):
    def here(*args, **options):
        raise AssertionError("read here")

    monkeypatch.setattr(matlab_arrays.scipy.io, "loadmat", here)
    (tmp_path / "file.mat").write_bytes(X)
    for digest in ("md5:4483e9c14b188fd09937f9ea6f9ea777", "sha1:32c4bc7a947721c46df32d4f4973f31daf5d3946"):
        assert read_matlab_arrays(tmp_path / "file.mat", ("x",), digest).keys() == {"x"}
    with refused("is damaged"):
        read_matlab_arrays(tmp_path / "file.mat", ("x",), f"sha1:{hashlib.sha1(X).hexdigest()}")


def test_a_file_that_is_not_there(tmp_path):
    with refused("cannot be read: No such file"):
        read_matlab_arrays(tmp_path / "none.mat", ("x",))
