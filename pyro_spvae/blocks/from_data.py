# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What is computed of training data once, before the first step, and does not learn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pyro_spvae.part import Part, of_earlier

_ROWS = 10_000  # rows that are looked at
_MOST = 2**26  # numbers that they hold in all leaves


class FromData(Part):
    """
    Base class of parts whose tensors are computed of training data once, and do not learn. They are kept in the state,
    which also says whether they are known.

    Subclasses define :meth:`keeps_known`, and set :attr:`is_known` when they have seen data.

    Example::

        >>> from pyro_spvae.blocks import FromData
        >>> class Largest(FromData):
        ...     def build(self, leaves, pixels):
        ...         self.register_buffer("values", torch.full((leaves, pixels), torch.nan))
        ...
        ...     def start(self, features):
        ...         self.values.copy_(features.amax(0))
        ...         self.is_known = True
        ...
        ...     def keeps_known(self):
        ...         return not self.values.isnan().any()
        >>> largest = Largest().bind(leaves=1, pixels=2)
        >>> largest.wanted_rows
        10000
        >>> largest.start(torch.rand(10, 1, 2))
        >>> largest.wanted_rows
        0
    """

    waits = False  # it has no effect until then
    rows = _ROWS  # that are looked at

    def __init__(self) -> None:
        super().__init__()
        self.is_known = False
        self.register_load_state_dict_post_hook(_loaded)

    @property
    def wanted_rows(self) -> int:  # type: ignore[override]
        """As many rows as are looked at, until it has seen data."""
        return 0 if self.is_known else self.rows

    def keeps_known(self) -> bool:
        """Whether the buffers, which are on no meta device, say that they were computed of data."""
        raise NotImplementedError(f"{type(self).__name__} must define keeps_known(self)")


def _loaded(module: nn.Module, _keys: Any) -> None:
    """What was loaded is known, unless it was saved while it waited."""
    assert isinstance(module, FromData)
    module.is_known = any(buffer.is_meta for buffer in module.buffers(recurse=False)) or module.keeps_known()


class DataMean(FromData):
    """
    The mean of the features of training data, of every leaf and pixel, from when it has seen some; 0 before.

    :ivar Tensor mean: ``[leaf, pixel]``.

    Example::

        >>> from pyro_spvae.blocks import DataMean
        >>> centre = DataMean().bind(leaves=1, pixels=2)
        >>> centre.start(torch.tensor([[[0.0, 2.0]], [[1.0, 4.0]]]))  # [rows, leaf, pixel]
        >>> centre(torch.ones(1, 2))
        tensor([[ 0.5000, -2.0000]])
    """

    values: Tensor

    def build(self, leaves: int, pixels: int) -> None:
        """Makes the mean; NaN says that it waits for data."""
        self.register_buffer("values", torch.full((leaves, pixels), torch.nan))

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Takes the mean of the rows ``[rows, leaf, pixel]``, once."""
        if not self.is_known:
            self.values.copy_(features.to(self.values).mean(0))
            self.is_known = True

    def keeps_known(self) -> bool:
        """Whether it is no NaN."""
        return not bool(self.values.isnan().any())

    @property
    def mean(self) -> Tensor:
        """The mean; 0 as long as it waits."""
        return self.values if self.is_known else torch.zeros_like(self.values)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[.., leaf, pixel]`` less the mean."""
        return x - self.values if self.is_known else x


class DataOutputs(FromData):
    """
    Outputs that were made of training data, which others are added to; 0 before it has seen some, and in models that
    were saved before there were any.

    Example::

        >>> from pyro_spvae.blocks import DataOutputs
        >>> start = DataOutputs().bind(leaves=1, pixels=2, outputs=(2,))
        >>> start.keep((torch.tensor([[-1.0, 1.0]]),))
        >>> start((torch.zeros(1, 2),))
        (tensor([[-1.,  1.]]),)
    """

    known: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(of_earlier)

    def build(self, leaves: int, pixels: int, outputs: tuple[int, ...]) -> None:
        """
        Makes them.

        :param int pixels: of a leaf.
        :param tuple outputs: their sizes.
        """
        self.rows = max(1, min(_ROWS, _MOST // (leaves * pixels)))
        self.names = tuple(f"output_{place}" for place in range(len(outputs)))
        for name, size in zip(self.names, outputs, strict=True):
            self.register_buffer(name, torch.zeros(leaves, size))
        self.register_buffer("known", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def keep(self, outputs: tuple[Tensor, ...]) -> None:
        """Takes finite outputs ``[leaf, output]``, once."""
        if not self.is_known:
            for name, output in zip(self.names, outputs, strict=True):
                getattr(self, name).copy_(output)
            self.known.fill_(True)
            self.is_known = True

    def keeps_known(self) -> bool:
        """As it says."""
        return bool(self.known)

    def of_earlier(self, state: dict[str, Any], prefix: str) -> None:
        """A state of a model that had no such outputs adds none."""
        if f"{prefix}known" not in state:
            state |= {f"{prefix}{name}": torch.zeros_like(value) for name, value in self.named_buffers()}
            state[f"{prefix}known"] = torch.ones_like(self.known)

    def forward(self, outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Outputs ``[.., leaf, output]``, to which these are added."""
        if not self.is_known:
            return outputs
        return tuple(output + getattr(self, name) for name, output in zip(self.names, outputs, strict=True))
