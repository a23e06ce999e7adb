# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: whole or not there, read without running code, and anything else refused in one sentence."""

from __future__ import annotations

import builtins
import errno
import io
import os
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyro_spvae.checkpoint import FORMAT, atomic_write, read_checkpoint, write_checkpoint

STATE = {
    "weights": torch.arange(12, dtype=torch.float64).reshape(3, 4),
    "nested": {"a": [1, 2.5, None, True, ("x", {})], 7: torch.zeros(0, dtype=torch.int64)},
    "model": OrderedDict(w=torch.nn.Parameter(torch.ones(2)), half=torch.ones(1, dtype=torch.bfloat16)),
}


class Bomb:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def refused(path: Path, content: bytes) -> str:
    """What is said about a file, in one sentence that names it."""
    path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ValueError) as error:
        warnings.simplefilter("error")
        read_checkpoint(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@contextmanager
def kept(path):
    """Neither a file changes nor what is beside it."""
    before = path.read_bytes()
    yield
    assert path.read_bytes() == before and names(path.parent) == ["a.pt"]


def test_round_trip(tmp_path):
    write_checkpoint(tmp_path / "a.pt", STATE)
    state = read_checkpoint(str(tmp_path / "a.pt"))
    assert state.pop("format") == FORMAT
    assert state.keys() == STATE.keys()
    assert torch.equal(state["weights"], STATE["weights"]) and state["weights"].dtype == torch.float64
    assert state["nested"]["a"] == STATE["nested"]["a"] and state["nested"][7].dtype == torch.int64
    assert state["model"].keys() == STATE["model"].keys() and state["model"]["half"].dtype == torch.bfloat16
    assert names(tmp_path) == ["a.pt"] and "format" not in STATE
    write_checkpoint(tmp_path / "a.pt", {"format": 99})
    assert read_checkpoint(tmp_path / "a.pt") == {"format": FORMAT}


def failing(number):
    """A function of the system that fails."""

    def fail(*args):
        raise OSError(number, os.strerror(number))

    return fail


class Full:
    """A binary file on a disk that is full."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def write(self, content):
        self.file.write(bytes(content)[:10])
        failing(errno.ENOSPC)()


class TestWriting:
    @pytest.fixture
    def path(self, tmp_path):
        write_checkpoint(tmp_path / "a.pt", STATE)
        return tmp_path / "a.pt"

    @pytest.mark.parametrize(
        ("state", "message"),
        [
            ({"a": {"b": [lambda: None]}}, r"^state\['a'\]\['b'\]\[0\] is a function; .*pickled"),
            ({"a": np.float64(1)}, r"^state\['a'\] is a float64; a checkpoint holds tensors and plain values only"),
            ({"a": Path("x")}, "PosixPath"),
            ({"a": {1, 2}}, "is a set"),
            ({"a": torch.nn.Linear(1, 1)}, "is a Linear"),
            ({("a",): 1}, r"^state has the key \('a',\); keys are texts or integers$"),
        ],
    )
    def test_what_could_not_be_read_back_is_not_written(self, path, state, message):
        with kept(path), pytest.raises(TypeError, match=message):
            write_checkpoint(path, state)

    def check_kept(self, path, reason):
        with kept(path), pytest.raises(ValueError, match=f"^the file {path} cannot be written: {reason}$"):
            write_checkpoint(path, {"other": torch.ones(3)})

    def test_full_disk_in_write(self, path, monkeypatch):
        real = builtins.open
        monkeypatch.setattr(builtins, "open", lambda name, mode: Full(real(name, mode)))
        self.check_kept(path, "No space left on device")

    @pytest.mark.parametrize("name", ["fsync", "replace"])
    def test_full_disk_later(self, path, monkeypatch, name):
        monkeypatch.setattr(os, name, failing(errno.ENOSPC))
        self.check_kept(path, "No space left on device")

    def test_the_new_file_is_on_the_disk_before_it_replaces_the_old_one(self, path, monkeypatch):
        calls = []
        for name in ("fsync", "replace"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
        write_checkpoint(path, {})
        assert calls == ["fsync", "replace"]

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    def test_other_errors_pass_and_leave_nothing(self, path, error):
        def write(file):
            file.write(b"half")
            raise error

        with kept(path), pytest.raises(error):
            atomic_write(path, write)

    @pytest.mark.parametrize(
        ("place", "reason"), [("none/a.pt", "No such file or directory"), ("folder", "Is a directory")]
    )
    def test_places_without_a_file(self, tmp_path, place, reason):
        (tmp_path / "folder").mkdir()
        with pytest.raises(ValueError, match=f"{place} cannot be written: {reason}$"):
            write_checkpoint(tmp_path / place, {})
        assert names(tmp_path) == ["folder"]

    @pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
    def test_read_only_folder(self, path):
        path.parent.chmod(0o500)
        self.check_kept(path, "Permission denied")

    def test_a_stale_partial_file_is_no_obstacle(self, path):
        path.with_name("a.pt.partial").write_bytes(b"cut off")
        write_checkpoint(path, {"x": 1})
        assert read_checkpoint(path)["x"] == 1 and names(path.parent) == ["a.pt"]


class TestReading:
    @pytest.mark.parametrize("name", ["a.pt", ""])
    def test_no_file(self, tmp_path, name):
        with pytest.raises(ValueError, match=f"^there is no checkpoint {tmp_path / name}$"):
            read_checkpoint(tmp_path / name)

    def test_an_error_of_the_disk(self, tmp_path, monkeypatch):
        write_checkpoint(tmp_path / "a.pt", {})
        monkeypatch.setattr(Path, "read_bytes", failing(errno.EIO))
        with pytest.raises(ValueError, match="a.pt cannot be read: Input/output error$"):
            read_checkpoint(tmp_path / "a.pt")

    def test_code_is_refused_and_not_run(self, tmp_path):
        target = tmp_path / "was run"
        for content in (saved({"format": FORMAT, "x": Bomb(target)}), saved(Bomb(target)), pickle.dumps(Bomb(target))):
            refused(tmp_path / "a.pt", content)
            assert not target.exists()
        assert "something other than tensors and plain values" in refused(tmp_path / "a.pt", saved({"x": Bomb(target)}))
        assert "something other than tensors" in refused(tmp_path / "a.pt", saved({"x": torch.nn.Linear(1, 1)}))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            *(
                (content, "a.pt is no checkpoint of this package$")
                for content in (torch.ones(2), [1], None, {}, {"format": "2"}, {"format": True}, {"format": 2.0})
            ),
            ({"format": FORMAT + 1}, rf"newer version of pyro-spvae \(format {FORMAT + 1}, this one reads {FORMAT}\)"),
            ({"format": FORMAT - 1}, rf"older version of pyro-spvae \(format {FORMAT - 1}, this one reads {FORMAT}\)"),
        ],
    )
    def test_other_files_of_torch(self, tmp_path, content, message):
        assert re.search(message, refused(tmp_path / "a.pt", saved(content)))

    def test_files_of_other_kinds(self, tmp_path):
        zipped = io.BytesIO()
        with zipfile.ZipFile(zipped, "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}q\x00.")
        old_format = io.BytesIO()
        torch.save({"format": FORMAT}, old_format, _use_new_zipfile_serialization=False)
        script = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), script)
        refused(tmp_path / "a.pt", script.getvalue())
        for content in (b"", b"PK\x03\x04", b"text", zipped.getvalue(), old_format.getvalue()):
            assert "it is damaged, or no checkpoint" in refused(tmp_path / "a.pt", content)


WHOLE = saved(STATE | {"format": FORMAT})


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """One file for all examples of a test."""
    return tmp_path_factory.mktemp("fuzz") / "a.pt"


def read_or_refused(path, content):
    path.write_bytes(content)
    try:
        return read_checkpoint(path)
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)


class TestFuzz:
    """Whatever happened to a file, a ValueError in one sentence is all that leaves the reader."""

    @given(st.integers(0, len(WHOLE) - 1))
    def test_truncated(self, path, length):
        refused(path, WHOLE[:length])

    @given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=4))
    def test_changed_bytes(self, path, changes):
        """A file of which bytes have changed is refused, or they did not matter; never are there other values."""
        content = bytearray(WHOLE)
        for place, change in changes:
            content[place] ^= change
        state = read_or_refused(path, content)
        if state is not None:
            assert torch.equal(state["weights"], STATE["weights"])
            assert torch.equal(state["model"]["w"], STATE["model"]["w"])
            assert state["nested"]["a"] == STATE["nested"]["a"]

    def test_each_byte_of_the_tensors_matters(self, path):
        start = WHOLE.index(STATE["weights"].numpy().tobytes())
        for place in range(start, start + 96):
            content = bytearray(WHOLE)
            content[place] ^= 1
            refused(path, bytes(content))

    @given(st.binary(max_size=300), st.booleans())
    def test_random_bytes(self, path, content, like_zip):
        refused(path, b"PK\x03\x04" * like_zip + content)

    @given(st.binary(max_size=60), st.integers(0, 60), st.integers(0, 30))
    def test_random_pickles_in_a_sound_archive(self, path, junk, start, length):
        """The sums fit, the pickle does not."""
        source = zipfile.ZipFile(io.BytesIO(WHOLE))
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as archive:
            for entry in source.infolist():
                content = source.read(entry)
                if entry.filename.endswith("data.pkl"):
                    content = content[:start] + junk + content[start + length :]
                archive.writestr(entry.filename, content)
        state = read_or_refused(path, target.getvalue())
        assert state is None or isinstance(state, dict)

    plain = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
        max_leaves=20,
    )

    @settings(max_examples=40)
    @given(st.dictionaries(st.text(), plain, max_size=4))
    def test_any_plain_values_survive(self, path, state):
        write_checkpoint(path, state)
        assert read_checkpoint(path) == state | {"format": FORMAT}
