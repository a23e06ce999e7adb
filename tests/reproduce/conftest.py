# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A tiny MNIST with structure: strokes of random length."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 training and 20 test images of 28x28 in torchvision's layout."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, count in (("train", 120), ("t10k", 20)):
        images, labels = np.zeros((count, 28, 28), dtype=np.uint8), np.zeros(count, dtype=np.uint8)
        for number, image in enumerate(images):
            column, length = random.integers(6, 22), random.integers(8, 20)
            image[4 : 4 + length, column : column + 3] = random.integers(128, 256)
            image[0, 0] = 255
            labels[number] = column > 13
        for suffix, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (raw / f"{name}-{suffix}-ubyte").write_bytes(header + array.tobytes())
    return folder
