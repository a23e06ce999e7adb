# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what is in it, and how it is written."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_spvae import __version__
from pyro_spvae.checkpoint import atomic_write, read_checkpoint, write_checkpoint
from pyro_spvae.training.json_file import read_json
from pyro_spvae.training.run_lock import check_not_trained
from pyro_spvae.training.status import TRAINING, is_finished, read_status, status_of

_DIGESTED = ("config.json", "data.json", "last.pt", "best.pt")


def beside(path: str | os.PathLike[str]) -> Path:
    """Where a folder lies, hidden, while another takes its place: beside it."""
    whole = Path(os.path.abspath(path))
    return whole.with_name(f".{whole.name}.old")


class RunFolder:
    """
    A self-describing folder: ``config.json`` (itself a configuration to train by), ``data.json`` (what it was trained
    on), ``metrics.jsonl`` (a line a validation), ``status.json`` (once it is trained, see
    :func:`~pyro_spvae.training.status.read_status`), ``results.json`` (once it is finished), ``last.pt`` and
    ``best.pt`` (tensors and plain values, readable with ``weights_only=True``), ``log.txt``, ``figures/``.

    The folder appears with its configuration in it, and every file but ``metrics.jsonl`` and ``log.txt`` is written
    under another name first and then renamed, so that a run killed at any moment can be resumed. A run that is replaced
    lies beside the folder, hidden, until the new one has a checkpoint, and comes back if that one fails before.

    :param path: the folder; made by :meth:`create`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        config: dict[str, Any],
        data: dict[str, Any],
        overwrite: bool = False,
    ) -> RunFolder:
        """
        Makes a new folder.

        :param dict config: content of ``config.json``.
        :param dict data: content of ``data.json``.
        :param bool overwrite: replace a run that is there.
        :raises ValueError: if the path exists already or cannot be made.
        """
        folder = cls(path)
        folder.check_free(overwrite)
        partial: Path | None = None
        try:
            folder.path.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.path.name}.", suffix=".partial", dir=folder.path.parent))
            partial.chmod(0o777 & ~_umask())
            made = cls(partial)
            made.figures.mkdir()
            made.write_json("data.json", data)
            made.write_json("config.json", config)
            if overwrite and folder.path.exists():
                folder._put_aside()
            partial.rename(folder.path)
        except OSError as error:
            raise ValueError(f"the run folder {folder.path} cannot be made: {error.strerror or error}") from error
        finally:
            if partial is not None and partial.exists():
                shutil.rmtree(partial, ignore_errors=True)
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunFolder:
        """
        The folder of a run that exists.

        :raises ValueError: if there is none.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise ValueError(f"there is no run folder {folder.path}")
        if not folder._is_run():
            raise ValueError(f"the folder {folder.path} is no run: it has no config.json and data.json")
        return folder

    def check_free(self, overwrite: bool = False) -> None:
        """
        :raises ValueError: if the path exists already; with ``overwrite`` if it exists and is no run, or if another
            process trains there.
        """
        if not os.path.lexists(self.path):
            return
        if not overwrite:
            raise ValueError(
                f"out is {self.path}, which exists already; choose another folder, or overwrite it"
                + (", or resume the run in it" if self._is_run() and not self.is_finished else "")
            )
        if not self._is_run():
            raise ValueError(f"out is {self.path}, which exists and is no run, so it is not overwritten")
        if self.path.is_symlink():
            raise ValueError(f"out is {self.path}, which is a link, so it is not overwritten; give the folder itself")
        check_not_trained(self.path)

    def discard_unless_trained(self) -> None:
        """
        Removes the folder of a run that failed before its first checkpoint: nothing in it is of use. The run that it
        replaced comes back.
        """
        if (self.path / "last.pt").exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        if self._replaces() and not self.path.exists():
            self.replaced.rename(self.path)

    @property
    def is_finished(self) -> bool:
        """Whether the run came to its end, and was not trained on since then."""
        return is_finished(self.path)

    @property
    def status(self) -> str:
        """How far it came, in words, see :func:`~pyro_spvae.training.status.status_of`."""
        return status_of(self.path)

    @property
    def replaced(self) -> Path:
        """Where a run that is replaced lies until the new one has a checkpoint."""
        return beside(self.path)

    @property
    def figures(self) -> Path:
        """Folder of pictures."""
        return self.path / "figures"

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Writes ``name`` indented for people to read."""
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
        atomic_write(self.path / name, lambda file: file.write(text.encode()))

    def read_json(self, name: str) -> Any:
        """
        Reads ``name``.

        :raises ValueError: if it cannot be read.
        """
        return read_json(self.path / name)

    def append_metrics(self, values: dict[str, Any]) -> None:
        """
        Adds a line to ``metrics.jsonl``.

        :raises ValueError: if it cannot be written.
        """
        self._append("metrics.jsonl", json.dumps(values, allow_nan=False))

    def append_log(self, line: str) -> None:
        """
        Adds a line to ``log.txt``.

        :raises ValueError: if it cannot be written.
        """
        self._append("log.txt", line)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """
        Changes ``config.json`` of a run that goes on. Results that are there count as those of another run from then
        on, until there are new ones.
        """
        if any((self.path / name).exists() for name in ("status.json", "results.json")):
            self.write_json("status.json", read_status(self.path) | {"status": TRAINING})
        self.write_json("config.json", config)

    def read_metrics(self) -> list[dict[str, Any]]:
        """
        All complete lines of ``metrics.jsonl``, up to the first that is damaged.

        :raises ValueError: if it cannot be read.
        """
        try:
            text = (self.path / "metrics.jsonl").read_text(encoding="utf-8-sig", errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ValueError(f"the file {self.path / 'metrics.jsonl'} cannot be read: {error.strerror}") from None
        lines: list[dict[str, Any]] = []
        for line in text.splitlines():
            try:
                values = json.loads(line)
            except ValueError:
                break  # the write was cut off here
            if not isinstance(values, dict):
                break
            lines.append(values)
        return lines

    def rewind(self, validations: int) -> list[dict[str, Any]]:
        """
        Takes back what was written after the checkpoint that a run is resumed from.

        :param int validations: how many the checkpoint counts.
        :returns: the lines of metrics that remain.
        :raises ValueError: if lines are missing.
        """
        lines = self.read_metrics()[:validations]
        if len(lines) < validations:
            raise ValueError(
                f"the file {self.path / 'metrics.jsonl'} has {len(lines)} lines, but last.pt counts {validations} "
                "validations; the run cannot be resumed without them"
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        atomic_write(self.path / "metrics.jsonl", lambda file: file.write(text.encode()))
        if not validations:
            (self.path / "best.pt").unlink(missing_ok=True)
        return lines

    def save(self, name: str, state: dict[str, Any]) -> None:
        """
        Writes a checkpoint; ``state`` holds tensors and plain values only. With ``last.pt`` the run that was replaced
        is gone.
        """
        write_checkpoint(self.path / name, state)
        if name == "last.pt" and self._replaces():
            shutil.rmtree(self.replaced, ignore_errors=True)

    def load(self, name: str) -> dict[str, Any]:
        """Reads a checkpoint without running code that may be in it."""
        return read_checkpoint(self.path / name)

    def digest(self) -> str:
        """
        What is the same for the same configuration, data and checkpoints.

        :raises ValueError: if a file cannot be read.
        """
        found = hashlib.sha256()
        for name in _DIGESTED:
            path = self.path / name
            try:
                found.update(f"{name} {path.stat().st_size} ".encode() + path.read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ValueError(f"the file {path} cannot be read: {error.strerror or error}") from None
        return found.hexdigest()

    def _put_aside(self) -> None:
        """Makes room for a new run; one without a checkpoint that replaced another itself is of no use."""
        if self._replaces() and not (self.path / "last.pt").exists():
            shutil.rmtree(self.path)
            return
        if self._replaces():
            shutil.rmtree(self.replaced)
        self.path.rename(self.replaced)

    def _replaces(self) -> bool:
        """Whether there is a run that it replaces."""
        return RunFolder(self.replaced)._is_run()

    def _is_run(self) -> bool:
        return all((self.path / name).is_file() for name in ("config.json", "data.json"))

    def _append(self, name: str, line: str) -> None:
        try:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise ValueError(f"the file {self.path / name} cannot be written: {error.strerror or error}") from error


def versions() -> dict[str, str]:
    """Versions of the package and of what its numbers depend on."""
    return {
        "pyro_spvae": __version__,
        "pyro": pyro.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
