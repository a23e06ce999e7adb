# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Where the files of a data set come from, and how one that is missing is fetched."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch.hub

_TIMEOUT = 30.0  # seconds without an answer


@dataclass(frozen=True)
class SourceFile:
    """
    One file of a data set.

    :param str name: what it is called.
    :param str address: its official address.
    :param str digest: algorithm and hexadecimal digest, ``sha256:...``, or ``None`` where none is known.
    :param str packed: name of the one file that it holds, if it is an archive; that file is as good.
    """

    name: str
    address: str
    digest: str | None = None
    packed: str | None = None

    @property
    def sha256(self) -> str | None:
        """The digest that is checked after a download."""
        algorithm, _, digest = (self.digest or "").partition(":")
        return digest if algorithm == "sha256" else None


@dataclass(frozen=True)
class Source:
    """
    The files of a data set.

    :param str name: name of the data set.
    :param tuple files: what it consists of.
    """

    name: str
    files: tuple[SourceFile, ...]

    def locate(self, data_dir: Path | None, download: bool) -> list[Path]:
        """
        The files on disk: in ``data_dir/<name>/`` or in ``data_dir``.

        :param data_dir: folder of data sets.
        :param bool download: fetch those that are missing into ``data_dir/<name>/``; what is there is never fetched.
        :raises ValueError: if there is no ``data_dir``, or a file is missing and not to be fetched or cannot be.
        """
        folder = require_data_dir(self.name, data_dir)
        return [self._find(file, folder, download) for file in self.files]

    def _find(self, file: SourceFile, data_dir: Path, download: bool) -> Path:
        for name in (file.packed, file.name):
            for folder in (data_dir / self.name, data_dir):
                if name is not None and (folder / name).is_file():
                    return folder / name
        wanted = data_dir / self.name / file.name
        if not download:
            raise ValueError(
                f"{self.name} needs the file {file.name}, and it is not there; put it to {wanted} (from "
                f"{file.address}), or allow the download by --download (download=True)."
            )
        fetch(file, wanted)
        return wanted


def require_data_dir(name: str, data_dir: Path | None) -> Path:
    """
    :raises ValueError: if there is no folder of data sets.
    """
    if data_dir is None:
        raise ValueError(
            f"data_dir is not given, but {name} needs it (--data-dir): the folder that holds, or will hold, its files."
        )
    return data_dir


def fetch(file: SourceFile, path: Path) -> None:
    """
    Downloads a file with a progress bar: under another name first, renamed when it is whole and its digest right.

    :raises ValueError: if that fails; it says which file to put where, and nothing is left behind.
    """
    partial = path.with_name(f"{path.name}.partial")
    waited = socket.getdefaulttimeout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(_TIMEOUT)  # what downloads has no limit of its own
        size = _size(file.address)
        shown = sys.stderr is not None and sys.stderr.isatty()
        torch.hub.download_url_to_file(file.address, str(partial), hash_prefix=file.sha256, progress=shown)
        if size is not None and partial.stat().st_size < size:
            raise OSError(f"the connection ended after {partial.stat().st_size:,} of {size:,} bytes")
        os.replace(partial, path)
    except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:  # urllib's errors are OSErrors
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        reason = str(reason).partition("\n")[0][:200] or type(error).__name__
        raise ValueError(
            f"{file.name} could not be downloaded from {file.address} ({reason}); put it to {path} yourself."
        ) from error
    finally:
        socket.setdefaulttimeout(waited)
        with contextlib.suppress(OSError):  # where it could not even be made
            partial.unlink()


def _size(address: str) -> int | None:
    """Bytes that an address announces, which nobody else compares with those that came."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD")) as answer:
            length = answer.headers.get("Content-Length")
    except urllib.error.HTTPError as error:  # of servers that announce nothing
        error.close()
        return None
    return int(length) if length and length.isdigit() else None
