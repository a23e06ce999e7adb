# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The data set that needs no file."""

from __future__ import annotations

from pathlib import Path

import torch

from pyro_spvae.data.dataset import DataSet
from pyro_spvae.data.rows import Rows
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.data.values import Values


def load_digits(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """The 1,797 handwritten digits bundled with scikit-learn: 8x8 pixels, 17 grey levels.

    Source: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI). It has no
    customary split; here the rows are shuffled by ``seed`` into 1,297 / 250 / 250. Labels are the digits.

    :param data_dir: not used, the data are part of scikit-learn.
    :param int seed: seed of the split.
    :param bool download: not used.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # takes a second, and only this data set needs it

    digits = sklearn_digits()
    x = torch.from_numpy(digits.images).to(torch.float32).unsqueeze(1)  # [N, 1, 8, 8]
    labels = torch.from_numpy(digits.target)
    train, validation, test = (
        Rows(x, index, stream=stream, labels=labels)
        for stream, index in enumerate(shuffled_split(len(x), [len(x) - 500, 250, 250], seed))
    )
    return DataSet("digits", train, validation, test, Values.grey_levels(17))
