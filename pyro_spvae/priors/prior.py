# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a prior is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from typing_extensions import Self

from pyro_spvae.blocks import Block
from pyro_spvae.circuits.numerics import HALF


class Prior(Block):
    """
    A block given nothing: the distribution of a latent variable of every leaf.

    Subclasses make their parameters in ``build(leaves, event_shape)``; their call returns a distribution with events of
    that shape and a batch shape broadcastable to ``[.., leaf]``.

    Example::

        >>> from pyro.distributions import Normal
        >>> class LearnedNormal(Prior):
        ...     def build(self, leaves, event_shape):
        ...         self.loc = torch.nn.Parameter(torch.zeros(leaves, *event_shape))
        ...
        ...     def forward(self):
        ...         return Normal(self.loc, 1.0).to_event(1)
        >>> SPVAE(whole((8, 8)), units=1, prior=LearnedNormal()).sample(4).shape
        torch.Size([4, 1, 8, 8])
    """

    #: groups of a value that are drawn one after the other, each given those before it
    groups: int = 1

    #: names of buffers that stay in at least single precision, as all densities do, whatever parameters are cast to
    single_buffers: tuple[str, ...] = ()

    _kept: tuple[bool, Any] | None = None

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        """Makes the parameters; the default has none."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: getattr(self, name, None) for name in self.single_buffers}
        super()._apply(fn, recurse)
        for name, value in before.items():
            moved = getattr(self, name, None)
            if value is not None and moved is not None and moved.dtype in HALF:
                setattr(self, name, value.to(moved.device, torch.float32))
        return self

    def kept(self, make: Callable[[], TorchDistribution]) -> Any:
        """What ``make`` returns, computed once inside of a scope in which parameters do not change."""
        grad = torch.is_grad_enabled()
        if self._kept is not None and self._kept[0] == grad:
            return self._kept[1]
        law = make()
        if self.held_by:
            self._kept = (grad, law)
        return law

    def release(self) -> None:
        """Forgets the distribution."""
        self._kept = None

    def forward(self) -> TorchDistribution:
        """The prior distribution."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self)")
