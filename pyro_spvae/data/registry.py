# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One front door: a data set by its name, or by the path of a user's own file."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from pyro_spvae.checks import one_of
from pyro_spvae.data.dataset import MISSING, DataSet
from pyro_spvae.data.digits import load_digits
from pyro_spvae.data.files import FILE_SUFFIXES, load_file
from pyro_spvae.data.published_sets import (
    load_caltech101_silhouettes,
    load_frey_faces,
    load_histopathology,
    load_omniglot_burda,
    load_static_mnist,
)
from pyro_spvae.data.torchvision_sets import (
    load_cifar10,
    load_fashion_mnist,
    load_mnist,
    load_omniglot,
    load_svhn,
)

Loader = Callable[[Path | None, int, bool], DataSet]

DATA_SETS: dict[str, Loader] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "omniglot": load_omniglot,
    "svhn": load_svhn,
    "cifar10": load_cifar10,
    "static_mnist": load_static_mnist,
    "omniglot_burda": load_omniglot_burda,
    "caltech101_silhouettes": load_caltech101_silhouettes,
    "frey_faces": load_frey_faces,
    "histopathology": load_histopathology,
}
"""Every data set that has a name, and the function of ``(data_dir, seed, download)`` that loads it."""


def load_data(
    name_or_path: str | os.PathLike[str],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    download: bool = False,
    missing: str = "none",
) -> DataSet:
    """Load a data set.

    Example::

        >>> digits = load_data("digits")
        >>> digits.train.shape, digits.values.levels
        (torch.Size([1297, 1, 8, 8]), 17)

    :param name_or_path: a name in ``DATA_SETS``, or the path of a ``.npy``, ``.npz`` or ``.pt`` file or of a folder of
        images (see ``load_file``).
    :param data_dir: folder of the standard data sets' files, in torchvision's layout.
    :param int seed: seed of the splits that the data themselves do not come with.
    :param bool download: whether missing files of a standard data set may be fetched; nothing is by default.
    :param str missing: ``"nan"`` to take NaN in a user's own file as entries that are missing, see
        :class:`~pyro_spvae.data.DataSet`; by default NaN is refused. Data sets that have a name lack no entries.
    :raises ValueError: if there is no such data set or file, a file it needs is missing, or its content is unfit.
    """
    one_of("missing", missing, MISSING)
    name = os.fspath(name_or_path)
    if name in DATA_SETS:
        return DATA_SETS[name](None if data_dir is None else Path(data_dir).expanduser(), seed, download)
    path = Path(name).expanduser()
    try:
        if name and path.is_dir() or path.suffix.lower() in FILE_SUFFIXES:
            return load_file(path, seed=seed, missing=missing)
        exists = bool(name) and path.exists()
    except OSError as error:  # a name that is no path, a folder that may not be read
        raise ValueError(f"the data {name!r} cannot be read: {error.strerror or error}.") from None
    if exists:
        raise ValueError(
            f"the data file {name} is of an unknown kind; {', '.join(FILE_SUFFIXES)} files and folders of images can "
            "be read."
        )
    near = difflib.get_close_matches(name, DATA_SETS, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"{name!r} is no known data set; {hint}give one of {', '.join(DATA_SETS)}, or the path of a "
        f"{', '.join(FILE_SUFFIXES)} file or of a folder of images."
    )
