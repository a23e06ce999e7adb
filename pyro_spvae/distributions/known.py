# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What is known of a value, for as long as nobody changes the value in place."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T")


class State:
    """
    What a tensor holds now.

    :param Tensor value: the tensor; of one made in inference mode, which counts no changes, there is a copy.
    """

    def __init__(self, value: Tensor) -> None:
        self._state: Tensor | int = value.clone() if value.is_inference() else value._version

    def lasts(self, value: Tensor) -> bool:
        """Whether the tensor, the same one, still holds it."""
        if isinstance(self._state, int):
            return value._version == self._state
        return torch.equal(value, self._state)


class Known(Generic[_T]):
    """
    What is known of a value, such as the noise of a draw.

    :param Tensor value: recognised by its identity.
    :param known: anything.

    Example::

        >>> from pyro_spvae.distributions.known import Known
        >>> value = torch.zeros(2)
        >>> zeros = Known(value, "all are 0")
        >>> zeros.of(value), zeros.of(torch.zeros(2))
        ('all are 0', None)
        >>> value[0] = 1.0
        >>> zeros.of(value) is None
        True
    """

    def __init__(self, value: Tensor | None = None, known: _T | None = None) -> None:
        self._value, self._known = value, known
        self._state = None if value is None else State(value)

    def of(self, value: Tensor) -> _T | None:
        """What is known of a value, if it is the one and holds what it held."""
        if self._state is None or value is not self._value or not self._state.lasts(value):
            return None
        return self._known

    def __reduce__(self) -> tuple[Any, ...]:
        lasts = self._value is not None and self._state is not None and self._state.lasts(self._value)
        return type(self), (self._value, self._known) if lasts else ()
