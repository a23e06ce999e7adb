# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Likelihoods whose pixels all follow one family of columns."""

from __future__ import annotations

from typing import ClassVar

from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.likelihoods.families import ColumnFamily, Unit
from pyro_spvae.likelihoods.likelihood import Likelihood


class OfFamily(Likelihood):
    """
    Base class of likelihoods that are one family of columns at all pixels, in one unit.

    Subclasses name their :attr:`family` and give it a location and a scale, which are what the mean and the standard
    deviation of a pixel are where outputs are 0.
    """

    family: ClassVar[ColumnFamily]

    def __init__(self, location: float, scale: float) -> None:
        super().__init__()
        if not checks.is_number(location):
            raise ValueError(f"location is {location!r}; a finite number is needed")
        if not checks.is_number(scale) or scale <= 0:
            raise ValueError(f"scale is {scale!r}; a number above 0 is needed")
        self.location, self.scale = float(location), float(scale)

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.sizes["pixels"],) * self.family.outputs(0)

    def _unit(self, like: Tensor) -> Unit:
        return Unit(like.new_tensor(self.location), like.new_tensor(self.scale), like.new_zeros(0))

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        return self.family.law(outputs, self._unit(outputs[0]), mask)

    def features(self, x: Tensor) -> Tensor:
        """In units of ``scale``, or logarithms."""
        return self.family.features(x, self._unit(x)).squeeze(-1)

    def supports(self, x: Tensor) -> Tensor:
        return self.family.supports(x, self._unit(x))


def check_above_zero(location: float) -> None:
    """
    :raises ValueError: if the mean of values that are not negative is not above 0.
    """
    if not checks.is_number(location) or location <= 0:
        raise ValueError(f"location is {location!r}; a number above 0 is needed")
