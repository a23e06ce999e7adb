# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which pixels of the leaves are Normal up to a change of variables, and the likelihood of the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from pyro_spvae.distributions.normal_columns import Coordinates


class NormalPlaces(nn.Module):
    """
    Coordinates of the pixels of all leaves; in double precision whatever type the model is moved to.

    :param Tensor location: of values or logarithms, ``[leaf, pixel]``; like the others on the CPU.
    :param Tensor scale: likewise.
    :param Tensor logs: of which pixels logarithms are taken, ``bool [leaf, pixel]``.
    :param Tensor joint: which pixels are Normal, ``bool [leaf, pixel]``; padding is none of them.
    :param float least: smallest standard deviation, in units of the scale.
    :param others: a likelihood of all other pixels that are no padding, not bound yet, with the ``scopes`` that it is
        to be bound with; ``None`` if there are none.
    """

    location: Tensor
    scale: Tensor
    logs: Tensor | None
    joint: Tensor | None

    def __init__(
        self, location: Tensor, scale: Tensor, logs: Tensor, joint: Tensor, least: float, others: Any = None
    ) -> None:
        super().__init__()
        self.least = least
        self.most = int(joint.sum(-1).max())  # of the leaf that has most
        self.others = others
        self.plain = not bool((logs & joint).any()) and bool((location == 0).all()) and bool((scale == 1).all())
        found: dict[str, Tensor | None] = {"location": location.double(), "scale": scale.double()}
        found["logs"] = logs & joint if bool((logs & joint).any()) else None
        found["joint"] = None if bool(joint.all()) else joint
        place = torch.get_default_device()
        for name, value in found.items():
            # they follow from the likelihood, so they are not part of the state_dict
            self.register_buffer(name, None if value is None else value.to(place), persistent=False)

    def of(self, like: Tensor) -> Coordinates:
        """In the type of a tensor."""
        return Coordinates(self.location.to(like), self.scale.to(like), self.logs, self.joint)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, value in before.items():
            now = self._buffers[name]
            if value is not None and now is not None and now.dtype != value.dtype:
                self._buffers[name] = value.to(now.device)
        return self
