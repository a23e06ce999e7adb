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

    :param Sequence[int] hidden_dims: hidden layers of the default encoder, (32, 32); ``activation``: ``"softplus"``.
    :param str scale: of components, see :func:`~pyro_spvae.blocks.positive_scale`; ``enumerate``: sum over ``"c"``.
    :param Network encoder: from features to the parameters of all fractions and components.
    :raises ValueError: for options out of range, or if both an encoder and options of the default one are given.

    Example::

        >>> from pyro_spvae.guides import MixtureGuide
        >>> from pyro_spvae.models import DLGMM
        >>> leaf = DLGMM(Bernoulli(), latent_dim=2, components=3)
        >>> dlgmm = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=MixtureGuide(hidden_dims=(16,)))
        >>> dlgmm.embed(dlgmm.sample(4)).most_probable["c"].shape  # a component for each datum and leaf
        torch.Size([4, 1])
    """

    def __init__(
        self, hidden_dims: Sequence[int] | None = None, activation: str | None = None, scale: str = "softplus",
        min_scale: float | None = None, enumerate: bool = True, encoder: Network | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        options = {"hidden_dims": hidden_dims, "activation": activation}
        (self.encoder,) = networks_or_defaults({"encoder": encoder}, options, shared=True)
        self.enumerate = checks.boolean("enumerate", enumerate)
        self.fractions, self.parts = Kumaraswamy(), Components(None, scale, min_scale)

    def build(self, leaves: int, pixels: int, latents: Mapping[str, Latent], patch: Any = None) -> None:
        """Binds encoder and blocks."""
        self.summed = "c" not in latents
        if self.summed and not self.enumerate:
            raise ValueError("enumerate is False, but the leaf has summed=True and no component to draw; leave it out")
        (sticks,), *_, event = self.shape_of(latents, *(("v", "z") if self.summed else ("v", "c", "z")))
        size = (sticks + 1) * event[0]
        self.encoder.bind(leaves=leaves, inputs=pixels, outputs=(sticks, sticks, size, size), input_shape=patch)
        self.fractions.bind(leaves=leaves, event_shape=(sticks,))
        self.parts.bind(leaves=leaves, event_shape=event, components=sticks + 1)

    def encode(self, x: Tensor) -> Any:
        """The fractions' distribution, and means and deviations of all components."""
        a, b, *parts = self.encoder(x)
        return self.fractions(a, b), self.parts.embed(*parts)

    def forward(self, encoding: Any) -> None:
        """States ``v``, ``c`` and ``z``."""
        law, parts = encoding
        log_weights = log_stick_weights(pyro.sample("v", law))
        infer: Any = {"enumerate": "parallel"} if self.enumerate else {}
        c = None if self.summed else pyro.sample("c", Categorical(logits=log_weights), infer=infer)
        pyro.sample("z", self.parts.mixture(parts, log_weights) if c is None else self.parts.join(parts, c))
