# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent bits as a leaf declares them: how many, in which groups, and how they are smoothed in training."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.blocks.latent import Latent
from pyro_spvae.distributions import Smoothing


class LatentBits(Latent):
    """
    A vector or an array of latent bits.

    :ivar int groups: number of groups, of equal size, that a guide draws one after the other unless it is told
        otherwise.
    :ivar Smoothing smoothing: what model and guide smooth them by in training.
    :raises ValueError: if the numbers are no positive integers, or groups are not equal.
    :raises TypeError: if ``smoothing`` is no smoothing transformation.

    Example::

        >>> from pyro_spvae.blocks import LatentBits
        >>> from pyro_spvae.distributions import OverlappingExponentials
        >>> bits = LatentBits(8, OverlappingExponentials(beta=8.0), groups=2)
        >>> bits.event_shape, bits.is_discrete
        ((8,), True)
    """

    groups: int
    smoothing: Smoothing

    def __init__(self, event_shape: int | tuple[int, ...], smoothing: Smoothing, groups: int = 1) -> None:
        super().__init__(event_shape, constraints.boolean)
        group_sizes(math.prod(self.event_shape), groups)
        checks.instance("smoothing", smoothing, Smoothing)
        object.__setattr__(self, "groups", int(groups))
        object.__setattr__(self, "smoothing", smoothing)

    def smooth(self, law: Any) -> Any:
        """A distribution of the bits, or in training that of the smoothed ones."""
        return self.smoothing(law)

    def seen(self, value: Tensor) -> Tensor:
        """Bits, or smoothed ones, from -1 to 1."""
        return centred(value)


def group_sizes(size: int, groups: int) -> tuple[int, ...]:
    """
    The sizes of groups of bits.

    :raises ValueError: if they are not equal.
    """
    if size % checks.positive_integer("groups", groups):
        raise ValueError(f"groups is {groups}, which does not divide the {size} bits; groups are of equal size")
    return (size // groups,) * groups


def centred(bits: Tensor) -> Tensor:
    """Bits, or smoothed ones, as networks see them: from -1 to 1."""
    return 2 * bits - 1
