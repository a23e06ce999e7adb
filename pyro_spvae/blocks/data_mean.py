# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The mean of the training data, which encoders subtract and outputs start at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_spvae.part import Part

_ROWS = 10_000  # rows that a mean is taken over


class DataMean(Part):
    """
    The mean of the features of training data, of every leaf and pixel, from when it has seen some; 0 before. It does
    not learn.

    :ivar Tensor mean: ``[leaf, pixel]``.
    """

    values: Tensor
    waits = False  # it is 0 until then

    def __init__(self) -> None:
        super().__init__()
        self._waits = True
        self.register_load_state_dict_post_hook(_loaded)

    def build(self, leaves: int, pixels: int) -> None:
        """Makes the mean; NaN says that it waits for data."""
        self.register_buffer("values", torch.full((leaves, pixels), torch.nan))

    @property
    def wanted_rows(self) -> int:  # type: ignore[override]
        """As many rows as a mean is taken over, until it has seen data."""
        return _ROWS if self._waits else 0

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Takes the mean of the rows ``[rows, leaf, pixel]``, once."""
        if self._waits:
            self.values.copy_(features.to(self.values).mean(0))
            self._waits = False

    @property
    def mean(self) -> Tensor:
        """The mean; 0 as long as it waits."""
        return torch.zeros_like(self.values) if self._waits else self.values

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[.., leaf, pixel]`` less the mean."""
        return x if self._waits else x - self.values


def _loaded(module: nn.Module, _keys: Any) -> None:
    """A mean that was loaded is known, unless it was saved while it waited."""
    assert isinstance(module, DataMean)
    values = module.values
    module._waits = not values.is_meta and bool(values.isnan().any())
