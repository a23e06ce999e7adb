# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of a Gaussian mixture whose weights are a broken stick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from pyro.distributions import Categorical
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import Components, Kumaraswamy
from pyro_spvae.distributions import log_stick_weights
from pyro_spvae.leaves import LeafGuide
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults


class MixtureGuide(LeafGuide):
    r"""
    Mixture guide: fractions ``v`` of a stick by Kumaraswamy distributions, their weights those of K diagonal Gaussians
    of ``z`` given the data (Nalisnick, Hertel and Smyth 2016).

    The component ``"c"`` is summed over (K decoder passes), or drawn with ``enumerate=False``. Of a leaf that has
    summed it out, ``z`` is drawn from the mixture, with implicit gradients.

    :param Sequence[int] hidden_dims: hidden layers of the default networks, (32, 32); ``activation``: ``"softplus"``.
    :param str scale: of the components, see :func:`pyro_spvae.blocks.positive_scale`; ``min_scale`` is the smallest.
    :param bool enumerate: whether ``"c"`` is summed over.
    :param Network encoder: from features to means and scales; ``sticks`` to the parameters of the fractions.
    :raises ValueError: for options out of range, or if all networks and options of the default ones are given.
    """

    def __init__(
        self, hidden_dims: Sequence[int] | None = None, activation: str | None = None, scale: str = "softplus",
        min_scale: float | None = None, enumerate: bool = True, encoder: Network | None = None,
        sticks: Network | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        given, options = {"encoder": encoder, "sticks": sticks}, {"hidden_dims": hidden_dims, "activation": activation}
        encoder, sticks = networks_or_defaults(given, options, shared=True)
        self.enumerate = checks.boolean("enumerate", enumerate)
        self.fractions, self.parts = Kumaraswamy(sticks), Components(encoder, scale, min_scale)

    def build(self, leaves: int, pixels: int, latents: Mapping[str, Latent], patch: Any = None) -> None:
        """Binds both networks."""
        self.summed = "c" not in latents
        fractions, *_, event = self.shape_of(latents, *(("v", "z") if self.summed else ("v", "c", "z")))
        seen = {"leaves": leaves, "inputs": pixels, "input_shape": patch}
        self.fractions.bind(event_shape=fractions, **seen)
        self.parts.bind(event_shape=event, components=fractions[0] + 1, **seen)

    def encode(self, x: Tensor) -> Any:
        """The fractions' distribution, and means and deviations of all components."""
        return self.fractions(x), self.parts.embed(x)

    def forward(self, encoding: Any) -> None:
        """States ``v``, ``c`` and ``z``."""
        law, parts = encoding
        log_weights = log_stick_weights(pyro.sample("v", law))
        if self.summed:
            pyro.sample("z", self.parts.mixture(parts, log_weights))
            return
        infer: Any = {"enumerate": "parallel"} if self.enumerate else {}
        c = pyro.sample("c", Categorical(logits=log_weights), infer=infer)
        pyro.sample("z", self.parts.join(parts, c))
