# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Further takers of metrics: a protocol of three methods, and TensorBoard."""

from __future__ import annotations

import os
from typing import Any, Protocol

from torch import Tensor


class Logger(Protocol):
    """What training tells its numbers to; ten lines make one for any other service."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes the numbers of a validation."""

    def image(self, step: int, name: str, images: Tensor) -> None:
        """Takes images ``[N, C, H, W]`` with values in [0, 1]."""

    def close(self) -> None:
        """Called once at the end."""


def check_tensorboard() -> None:
    """
    :raises ValueError: if the extra is not installed.
    """
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise ValueError(
            "tensorboard is asked for, but it is not installed; pip install 'pyro-spvae[tensorboard]'"
        ) from None


class TensorBoard:
    """
    Writes event files for TensorBoard.

    :param folder: where to.
    :param int step: steps that were done before; later events of an earlier run are hidden.
    :raises ValueError: if the extra is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], step: int = 0) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(os.fspath(folder), purge_step=step or None)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, images: Tensor) -> None:
        self._writer.add_images(name, images, step)

    def close(self) -> None:
        self._writer.close()
