# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Likelihoods whose pixels all follow one family of columns."""

from __future__ import annotations

from typing import ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.likelihoods.families import ColumnFamily, Unit
from pyro_spvae.likelihoods.families.family import LEAST
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.normal_places import NormalPlaces


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
        most = Unit.above(self.location, self.scale)
        return Unit(like.new_full((), self.location), like.new_full((), self.scale), like.new_zeros(0), most)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        outputs = tuple(map(at_least_single, outputs))  # units are not known to half precision
        return self.family.law(outputs, self._unit(outputs[0]), mask)

    def normal_places(self) -> NormalPlaces | None:
        """All, if the family is Normal of values or of logarithms."""
        if self.family.normal is None:
            return None
        shape = (self.sizes["leaves"], self.sizes["pixels"])
        location, scale = (
            torch.full(shape, value, dtype=torch.float64, device="cpu") for value in (self.location, self.scale)
        )
        logs = torch.full(shape, self.family.normal == "logarithms", device="cpu")
        return NormalPlaces(location, scale, logs, torch.ones_like(logs), LEAST)

    def statistics_given(self, x: Tensor, weight: Tensor, outputs: tuple[Tensor, ...]) -> Tensor:
        outputs = tuple(output.to(weight) for output in outputs)
        own = self.family.statistics(x.to(weight), self._unit(weight), outputs)
        return torch.einsum("blp,blps->lps", weight, own)

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        return self.family.outputs_of(means, self._unit(means))

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
