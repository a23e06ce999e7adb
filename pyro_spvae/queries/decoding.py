# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How values are drawn that nobody looks at, or that take long."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_spvae.distributions.autoregressive import means_need_draws
from pyro_spvae.distributions.kinds import hidden_pixels
from pyro_spvae.distributions.leaf import LeafDistribution


class DrawMessenger(Messenger):
    """
    Says how values of the observation are drawn in the model: of leaves that are on the induced tree, if that is known.

    :param bool progress: with a progress bar, where they are drawn step by step.
    :param tuple seen: patches, and which of their pixels are seen, that the others are drawn given.
    :param Tensor zero: a number of the model's type on its device, which is put in their place where nobody looks at
        them; by default they are drawn.
    :param bool means: with ``zero``, that means are looked at, for which values are drawn where these need them.
    """

    def __init__(
        self,
        progress: bool = False,
        zero: Tensor | None = None,
        seen: tuple[Tensor, Tensor] | None = None,
        means: bool = False,
    ) -> None:
        super().__init__()
        self.means = means
        self.progress = progress
        self.seen = seen
        self.zero = zero

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] != "x" or msg["done"] or msg["value"] is not None:
            return
        if self.seen is not None:
            msg["fn"] = hidden_pixels(msg["fn"], *self.seen)
        law: Any = msg["fn"]
        if self.zero is not None and not (self.means and means_need_draws(law)):
            msg["value"] = self.zero.expand(law.batch_shape + law.event_shape)
        elif self.progress and isinstance(law, LeafDistribution) and law.stepwise:
            msg["value"] = msg["fn"].sample(progress=True)
        elif isinstance(law, LeafDistribution) and isinstance(msg["mask"], Tensor):  # of leaves on the tree alone
            msg["value"] = law.sample_selected(msg["mask"])
