# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Arrays out of pickles, of which nothing else is found, called or given memory."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_spvae.data.pickled_arrays import read_pickled_arrays
from tests.data.cases import damaged, perhaps_refused, refused

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = {
    "doubles": np.random.default_rng(0).random((5, 3)),
    "bytes": np.arange(256, dtype=np.uint8).reshape(16, 16),
    "fortran": np.asfortranarray(np.random.default_rng(1).random((4, 3))),
    "bools": np.array([True, False]),
    "big-endian": np.arange(5, dtype=">i4"),
    "empty": np.zeros((0, 3), dtype=np.float32),
}
ZEROS = np.zeros(1000)
NO_ARRAYS: Any = ([1, 2], 3, "text", None, {"a": 1}, {"a": b"x"}, {"a": {"b": ZEROS}}, {"a": []})


class Evil:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))

    def reader(content):
        path = tmp_path / "file.pkl"
        path.write_bytes(content)
        return read_pickled_arrays(path)

    yield reader
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_come_out_as_they_went_in(read, protocol):
    rows = list(np.random.default_rng(0).random((5, 3, 2)))
    expected = ARRAYS | {"list": np.stack(rows), "one": np.stack(rows[:1])}
    content = pickle.dumps(ARRAYS | {"list": rows, "one": rows[:1]}, protocol=protocol)
    contents = [content]
    if protocol < 4:  # names of NumPy 1 and of NumPy 2
        contents = [content.replace(b"numpy._core", b"numpy.core"), content.replace(b"numpy.core", b"numpy._core")]
    for result in map(read, contents):
        assert result.keys() == expected.keys()
        for name, array in expected.items():
            assert np.array_equal(result[name], array) and result[name].dtype == array.dtype.newbyteorder("=")
            result[name][...] = 0  # an array of its own
    array = ARRAYS["doubles"]
    assert np.array_equal(read(pickle.dumps({b"a": array}, protocol=protocol))["a"], array), "a name of Python 2"


def escaped(content):
    """Only what a quoted line cannot hold."""
    for byte, code in ((b"\\", b"\\\\"), (b"'", b"\\'"), (b"\n", b"\\n"), (b"\r", b"\\r")):
        content = content.replace(byte, code)
    return content


@pytest.mark.parametrize(
    "array", [ARRAYS["bytes"], np.frombuffer(b"'\\\n\r\t\"\x00\xff", dtype=np.uint8), ARRAYS["doubles"]]
)
def test_pickles_of_python_2(read, array):
    """The bytes of an array are a text: in protocol 0 a quoted one, with characters beyond ASCII escaped or not."""
    content, shape = array.tobytes(), b"(" + b"".join(b"I%d\n" % size for size in array.shape) + b"t"
    kind = b"cnumpy\ndtype\np5\n(S'" + array.dtype.str[1:].encode() + b"'\nI0\nI1\ntRp6\n(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    quoted = (b"S" + repr(content)[1:].encode("ascii") + b"\n", b"S'" + escaped(content) + b"'\n")
    starts = {b"(dp0\nS'a'\np1\n": quoted, b"\x80\x02}U\x01a": (b"T" + len(content).to_bytes(4, "little") + content,)}
    for start, text in ((start, text) for start, texts in starts.items() for text in texts):
        made = b"cnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntS'b'\ntRp4\n"
        result = read(start + made + b"(I1\n" + shape + kind + b"I00\n" + text + b"tbs.")["a"]
        assert np.array_equal(result, array) and result.dtype == array.dtype


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((value, "holds a value of type") for value in NO_ARRAYS),
        ({"a": [1.0, 2.0]}, "holds a value of type list in place of an array"),
        (ZEROS, "holds a value of type array"),
        ({1: ZEROS}, "holds something without a name"),
        ({"a": [ZEROS, np.zeros(3)]}, "holds a list of arrays of several shapes"),
        ({"a": [ZEROS, ZEROS.astype(int)]}, "holds a list of arrays of several shapes"),
        ({"a": np.zeros(2, dtype=[("x", "f8")])}, "holds an array of "),
        *(({"a": np.array([value])}, "holds an array of type") for value in ("text", 1j, None)),
        *((value, r"holds the name '\w+\.mkdir'") for value in (Evil(), {"a": Evil()}, {"a": [ZEROS, Evil()]})),
        ({"a": np.array([Evil()])}, "holds (an array of type 'O8'|the name)"),
        ({"a": {1, 2}}, "file.pkl"),
    ],
)
def test_other_content_is_refused(read, content, message):
    for protocol in PROTOCOLS:
        with refused(f"^the file .*{message}", "file.pkl"):
            read(pickle.dumps(content, protocol=protocol))


TWICE = b"\x80\x02}" + b")" + b"q\x00h\x00\x86" * 100  # 2^100 tuples to whoever compares, hashes or prints them
MADE = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
F8 = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR"
HUGE = b"(L100000000000L\nt"


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": [ZEROS] * 1000}),
        pickle.dumps({"a": [[ZEROS] * 100] * 100}),
        pickle.dumps({f"a{number}": ZEROS for number in range(1000)}),
        *(TWICE + rest for rest in (b"K\x01s.", b".", b"\x8c\x06latin1\x86c_codecs\nencode\nq\x010h\x01h\x00R.")),
        b"(" + TWICE[3:] + b"K\x01d.",
        b"\x80\x04}\x8c\x01ac_codecs\nencode\n(J\xff\xff\xff\x7fU\x06latin1NNtRs.",
        b"\x80\x04}\x8c\x01acnumpy._core.numeric\n_frombuffer\n(J\xff\xff\xff\x7fU\x06latin1NNtRs.",
        b"\x80\x02}U\x01a" + MADE.replace(b"(I0\nt", HUGE) + b"s.",  # arrays as large as they claim to be
        b"\x80\x02}U\x01acnumpy\nndarray\n(" + HUGE + b"tRs.",
        b"\x80\x02}U\x01a" + MADE + b"(I1\n" + HUGE + F8 + b"I00\nU\x08aaaaaaaatbs.",
        b"\x80\x02}U\x01a" + MADE + b"(I1\n(U\x01aL10000000000L\nt" + F8 + b"I00\nU\x08aaaaaaaatbs.",
        pickle.dumps({"a": [ZEROS] * 1000}, protocol=2)[:-1]
        + (b"U\x01b" + MADE + b"(I1\n(I-1000000\nt" + F8 + b"I00\nU\x08aaaaaaaatbs."),
        b"\x80\x05}\x8c\x01a\x96" + (2**40).to_bytes(8, "little") + b"s.",
        b"\x80\x02}U\x01a\x82\x01s.",  # an extension by its number
        b"\x80\x02}U\x01ac_codecs\nencode\nN}U\x0c__defaults__)s\x86bs.",  # attributes of what stands for a name
    ],
)
def test_hostile_files_are_refused_at_once(read, content):
    """Nothing takes the memory or time of much more than the file."""
    tracemalloc.start()
    try:
        with refused("^the file .*file.pkl"):
            read(content)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert read(pickle.dumps(ARRAYS, protocol=1)).keys() == ARRAYS.keys(), "they leave nothing behind"


def test_numbers_of_memory_take_none(read):
    assert read(b"\x80\x02}r\xff\xff\xff\xff.") == {}


def test_a_file_that_is_not_there(tmp_path):
    with refused("cannot be read: No such file"):
        read_pickled_arrays(tmp_path / "none.pkl")


@given(st.sampled_from(PROTOCOLS), st.integers(0, 3000), st.binary(max_size=8), st.booleans())
def test_only_refusals_leave_the_reader(tmp_path_factory, protocol, place, noise, cut):
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    whole = pickle.dumps({"a": ARRAYS["doubles"], "b": ARRAYS["bytes"]}, protocol=protocol)
    path.write_bytes(damaged(whole, place, noise, cut))
    with perhaps_refused("fuzz.pkl"):
        assert all(isinstance(array, np.ndarray) for array in read_pickled_arrays(path).values())
