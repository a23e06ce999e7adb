# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Arrays out of pickles that are never unpickled."""

from __future__ import annotations

import io
import os
import pickle
import pickletools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_spvae.data.pickled_arrays import read_pickled_arrays

ARRAYS = {
    "doubles": np.random.default_rng(0).random((5, 3)),
    "bytes": np.arange(256, dtype=np.uint8).reshape(16, 16),
    "fortran": np.asfortranarray(np.random.default_rng(1).random((4, 3))),
    "bools": np.array([True, False]),
    "big-endian": np.arange(5, dtype=">i4"),
    "empty": np.zeros((0, 3), dtype=np.float32),
}


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.fixture
def read(tmp_path):
    def reader(content):
        path = tmp_path / "file.pkl"
        path.write_bytes(content)
        return read_pickled_arrays(path)

    return reader


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_come_out_as_they_went_in(read, protocol):
    result = read(pickle.dumps(ARRAYS, protocol=protocol))
    assert result.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert np.array_equal(result[name], array) and result[name].dtype == array.dtype.newbyteorder("=")
        result[name][...] = 0  # an array of its own


def test_pickles_of_python_2(read):
    array = np.arange(6.0).reshape(2, 3)
    names = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    kind = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    content = b"T" + len(array.tobytes()).to_bytes(4, "little") + array.tobytes()
    python2 = b"\x80\x02}U\x01a" + names + b"(I1\n(I2\nI3\nt" + kind + b"I00\n" + content + b"tbs."
    pickletools.dis(python2, out=io.StringIO())  # it is a pickle
    assert np.array_equal(read(python2)["a"], array)


@pytest.mark.parametrize(
    "array", [ARRAYS["bytes"], np.frombuffer(b"'\\\n\r\t\"\x00\xff", dtype=np.uint8), ARRAYS["doubles"]]
)
def test_pickles_of_python_2_in_its_default_protocol(read, array):
    """Protocol 0: the bytes of an array are a quoted text, with characters beyond ASCII escaped or not."""
    content = array.tobytes()
    for text in (repr(content)[1:].encode("ascii"), b"'" + escaped(content) + b"'"):
        shape = b"(" + b"".join(b"I%d\n" % size for size in array.shape) + b"t"
        kind = (
            b"cnumpy\ndtype\np5\n(S'"
            + array.dtype.str[1:].encode()
            + b"'\nI0\nI1\ntRp6\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        )
        first = b"(dp0\nS'a'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntS'b'\ntRp4\n"
        result = read(first + b"(I1\n" + shape + kind + b"I00\nS" + text + b"\ntbs.")["a"]
        assert np.array_equal(result, array) and result.dtype == array.dtype


def escaped(content):
    """Only what a quoted line cannot hold."""
    for byte, code in ((b"\\", b"\\\\"), (b"'", b"\\'"), (b"\n", b"\\n"), (b"\r", b"\\r")):
        content = content.replace(byte, code)
    return content


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_list_of_arrays_is_one_array(read, protocol):
    rows = list(np.random.default_rng(0).random((5, 3, 2)))
    assert np.array_equal(read(pickle.dumps({"a": rows}, protocol=protocol))["a"], np.stack(rows))
    assert np.array_equal(read(pickle.dumps({"a": rows[:1]}, protocol=protocol))["a"], np.stack(rows[:1]))


def test_small_files_do_not_become_large(read):
    """What makes reading take the memory or time of much more than the file is refused."""
    array = np.zeros(1000)
    for content in ({"a": [array] * 1000}, {"a": [[array] * 100] * 100}):
        with pytest.raises(ValueError, match="^the file .* holds a list"):
            read(pickle.dumps(content))
    twice = b")" + b"q\x00h\x00\x86" * 100  # 2^100 tuples to whoever compares, hashes or prints them
    for rest in (b"K\x01s.", b".", b"\x8c\x06latin1\x86c_codecs\nencode\nq\x010h\x01h\x00R."):
        with pytest.raises(ValueError, match="^the file .*file.pkl"):
            read(b"\x80\x02}" + twice + rest)
    for call in (b"c_codecs\nencode\n", b"cnumpy._core.numeric\n_frombuffer\n"):
        with pytest.raises(ValueError, match="^the file .*file.pkl"):
            read(b"\x80\x04}\x8c\x01a" + call + b"(J\xff\xff\xff\x7fU\x06latin1NNtRs.")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: {"a": evil}, lambda evil: {"a": np.array([evil])}])
def test_code_is_refused_and_not_run(read, tmp_path, monkeypatch, protocol, wrap):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    content = pickle.dumps(wrap(Evil()), protocol=protocol)
    with pytest.raises(ValueError, match="^the file .*file.pkl") as caught:
        read(content)
    assert not (tmp_path / "evil").exists() and "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        os.rmdir(tmp_path / "evil")


@pytest.mark.parametrize(
    "content",
    [
        *([1, 2], 3, "text", None, {"a": 1}, {1: np.zeros(2)}, np.zeros(2), {"a": b"x"}, {"a": {"b": np.zeros(2)}}),
        *(
            {"a": []},
            {"a": [1.0, 2.0]},
            {"a": [np.zeros(2), np.zeros(3)]},
            {"a": [np.zeros(2), np.zeros(2, dtype=int)]},
        ),
        {"a": np.zeros(2, dtype=[("x", "f8")])},
        {"a": np.array(["text"])},
        {"a": np.zeros(2, dtype=complex)},
        {"a": np.array([None])},
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_other_content_is_refused(read, content, protocol):
    with pytest.raises(ValueError, match="^the file .*file.pkl"):
        read(pickle.dumps(content, protocol=protocol))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        read_pickled_arrays(tmp_path / "none.pkl")


@given(st.sampled_from(range(6)), st.integers(0, 3000), st.binary(max_size=8))
def test_only_refusals_leave_the_reader(tmp_path_factory, protocol, place, noise):
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    content = pickle.dumps({"a": ARRAYS["doubles"], "b": ARRAYS["bytes"]}, protocol=protocol)
    place %= len(content)
    for damaged in (content[:place], content[:place] + noise + content[place + len(noise) :]):
        path.write_bytes(damaged)
        try:
            arrays = read_pickled_arrays(path)
        except ValueError as error:
            assert "fuzz.pkl" in str(error)
        else:
            assert all(isinstance(array, np.ndarray) for array in arrays.values())
