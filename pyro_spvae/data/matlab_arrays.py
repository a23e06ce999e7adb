# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Arrays of numbers out of MATLAB files of versions 4 to 7, by SciPy's reader."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

_APART = """
import io, sys, numpy, scipy.io
arrays = scipy.io.loadmat(io.BytesIO(sys.stdin.buffer.read()), variable_names=sys.argv[1:]).items()
numpy.savez(sys.stdout.buffer, **{n: x for n, x in arrays if isinstance(x, numpy.ndarray) and x.dtype.kind in "biuf"})
"""


def read_matlab_arrays(
    path: Path, names: tuple[str, ...], digest: str | None = None
) -> dict[str, np.ndarray[Any, Any]]:
    """
    Arrays of real numbers in a file, in this machine's byte order and of the type in which they are stored.

    SciPy's reader runs no code of a file, but it is compiled, and damaged bytes can end the whole process in it. So it
    reads a file of the expected digest in this process, and any other in one of its own.

    :param pathlib.Path path: a file of MATLAB, version 4 to 7 (those of version 7.3 are HDF5 files, and refused).
    :param names: names of the arrays to read; others, and what is no array of real numbers, are passed over.
    :param str digest: algorithm and hexadecimal digest that is expected, as ``md5:...``, where one is known.
    :returns: those of the arrays that are there.
    :raises ValueError: if the file cannot be read or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror or error}.") from None
    try:
        if digest is not None and _digest(content, digest.partition(":")[0]) == digest:
            found = scipy.io.loadmat(io.BytesIO(content), variable_names=names)
        else:
            found = _read_apart(content, names)
    except Exception as error:  # damaged bytes surface as almost any error
        raise ValueError(f"the file {path} is damaged, or no MATLAB file of version 4 to 7.") from error
    arrays = {name: found[name] for name in names if isinstance(found.get(name), np.ndarray)}
    return {name: x.astype(x.dtype.newbyteorder("=")) for name, x in arrays.items() if x.dtype.kind in "biuf"}


def _digest(content: bytes, algorithm: str) -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content, usedforsecurity=False).hexdigest()}"


def _read_apart(content: bytes, names: tuple[str, ...]) -> dict[str, Any]:
    """The arrays as another process reads them, which damaged bytes may end."""
    done = subprocess.run([sys.executable, "-c", _APART, *names], input=content, capture_output=True, check=True)
    with np.load(io.BytesIO(done.stdout), allow_pickle=False) as arrays:
        return dict(arrays)
