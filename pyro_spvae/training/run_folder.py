# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: what is in it, and how it is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

FORMAT = 1


class RunFolder:
    """
    A self-describing folder: ``config.json``, ``metrics.jsonl`` (a line an epoch), ``results.json``, ``last.pt`` and
    ``best.pt`` (tensors and plain values, readable with ``weights_only=True``), ``figures/``.

    Every file but ``metrics.jsonl`` is written under another name first and then renamed, so that none is ever half
    there.

    :param path: the folder; made by :meth:`create`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> RunFolder:
        """
        Makes a new folder.

        :raises ValueError: if the path exists already or cannot be made.
        """
        folder = cls(path)
        folder.check_free()
        try:
            (folder.path / "figures").mkdir(parents=True)
        except OSError as error:
            raise ValueError(f"the run folder {folder.path} cannot be made: {error.strerror}") from error
        return folder

    def check_free(self) -> None:
        """
        :raises ValueError: if the path exists already.
        """
        if self.path.exists():
            raise ValueError(f"out is {self.path}, which exists already; choose another folder for the run")

    def discard_unless_trained(self) -> None:
        """Removes the folder of a run that failed before its first checkpoint: nothing in it is of use."""
        if not (self.path / "last.pt").exists():
            shutil.rmtree(self.path)

    @property
    def figures(self) -> Path:
        """Folder of pictures."""
        return self.path / "figures"

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Writes ``name`` with sorted indentation for people to read."""
        partial = self.path / f"{name}.partial"
        partial.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, self.path / name)

    def append_metrics(self, values: dict[str, Any]) -> None:
        """Adds a line to ``metrics.jsonl``."""
        line = json.dumps(values, allow_nan=False) + "\n"
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of ``metrics.jsonl``."""
        text = (self.path / "metrics.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Writes a checkpoint; ``state`` holds tensors and plain values only."""
        partial = self.path / f"{name}.partial"
        torch.save({"format": FORMAT} | state, partial)
        os.replace(partial, self.path / name)

    def load(self, name: str) -> dict[str, Any]:
        """Reads a checkpoint without running code that may be in it."""
        return torch.load(self.path / name, weights_only=True)
