# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One front door: a data set by its name, or by the path of a user's own file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pyro_spvae.data.dataset import DataSet
from pyro_spvae.data.files import FILE_SUFFIXES, load_file
from pyro_spvae.data.standard import load_digits, load_mnist

Loader = Callable[[Path | None, int, bool], DataSet]

DATA_SETS: dict[str, Loader] = {"digits": load_digits, "mnist": load_mnist}
"""Every data set that has a name, and the function of ``(data_dir, seed, download)`` that loads it."""


def load_data(
    name_or_path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    download: bool = False,
) -> DataSet:
    """Load a data set.

    Example::

        >>> digits = load_data("digits")
        >>> digits.train.shape, digits.values.levels
        (torch.Size([1297, 1, 8, 8]), 17)

    :param name_or_path: a name in ``DATA_SETS``, or the path of a ``.npy`` or ``.npz`` file (see ``load_file``).
    :param data_dir: folder of the standard data sets' files, in torchvision's layout.
    :param int seed: seed of the splits that the data themselves do not come with.
    :param bool download: whether missing files of a standard data set may be fetched; nothing is by default.
    :raises ValueError: if there is no such data set or file, a file it needs is missing, or its content is unfit.
    """
    name = os.fspath(name_or_path)
    if name in DATA_SETS:
        return DATA_SETS[name](None if data_dir is None else Path(data_dir).expanduser(), seed, download)
    path = Path(name).expanduser()
    if path.suffix.lower() in FILE_SUFFIXES:
        return load_file(path, seed=seed)
    if name and path.exists():
        raise ValueError(f"the data file {name} is of an unknown kind, but only .npy and .npz files can be read.")
    raise ValueError(
        f"{name!r} is no known data set; give one of {', '.join(sorted(DATA_SETS))}, or the path of a .npy or .npz "
        "file."
    )
