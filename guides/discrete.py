# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of latent bits, in one group or in several that depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import DataMean, Latent, LatentBits
from pyro_spvae.conditionals import Bits
from pyro_spvae.distributions import Unsmoothed
from pyro_spvae.leaves import LeafGuide
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults


class DiscreteGuide(LeafGuide):
    r"""
    Guide of latent bits, :math:`\prod_g q(z_g \mid x, z_{<g})`, each group factorial given the data and the groups
    before it (Rolfe 2017; Vahdat et al. 2018, Figure 2), smoothed in training as the leaf says.

    Site: ``"z"``, the one latent variable of the leaf.

    :param int groups: number of groups, of equal size; by default as many as the prior has, or one. Others fit as well.
    :param Sequence[int] hidden_dims: of the networks, (32, 32); empty for linear ones. ``activation`` is tanh;
        ``normalise``: with batch normalisation.
    :param Network encoder: from features to the logits of the first group, in the place of the default; the options
        above are then those of the networks of further groups.
    :param bool centre: subtract the mean of the training data from what the networks see.
    :raises ValueError: for options out of range; when bound, for an encoder beside options that no network has.

    Example::

        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=6, prior=BoltzmannMachine(chains=10))
        >>> dvae = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=DiscreteGuide(groups=3))
        >>> bits = dvae.draw_latents((torch.rand(5, 1, 8, 8) < 0.5).float())["z"]
        >>> bits.shape, bool(((bits == 0) | (bits == 1)).all())
        (torch.Size([1, 5, 1, 6]), True)
    """

    makes_networks = True

    def __init__(
        self, groups: int | None = None, hidden_dims: Sequence[int] | None = None, activation: str | None = None,
        normalise: bool | None = None, encoder: Network | None = None, centre: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.groups = None if groups is None else checks.positive_integer("groups", groups)
        usual: dict[str, Any] = {"hidden_dims": (32, 32), "activation": "tanh", "normalise": False}
        given = {"hidden_dims": hidden_dims, "activation": activation, "normalise": normalise}
        chosen = {name: value for name, value in given.items() if value is not None}
        self.options_of_networks, self.ignored = usual | chosen, [] if encoder is None else list(chosen)
        of_first = {} if encoder is not None else self.options_of_networks
        (self.encoder,) = networks_or_defaults({"encoder": encoder}, of_first, shared=True)
        self.mean = DataMean() if checks.boolean("centre", centre) else None

    def build(
        self, leaves: int, pixels: int, latents: Mapping[str, Latent], patch: tuple[int, ...] | None = None
    ) -> None:
        """Binds the networks."""
        event, bits = self.shape_of(latents, "z"), latents["z"]
        self.latent: Any = bits if isinstance(bits, LatentBits) else LatentBits(event[0], Unsmoothed())
        groups = self.groups or self.latent.groups
        if self.ignored and groups == 1:
            raise ValueError(
                f"encoder is given and there is one group of bits, so leave out the options of other networks "
                f"({', '.join(self.ignored)})"
            )
        self.z = Bits(self.encoder, groups, **self.options_of_networks)
        del self.encoder  # which is held by the block from here on
        self.z.bind(leaves=leaves, inputs=pixels, event_shape=event, input_shape=patch)
        if self.mean is not None:
            self.mean.bind(leaves=leaves, pixels=pixels)

    def encode(self, x: Tensor) -> Any:
        """What the networks see of features ``x [.., leaf, pixel]``."""
        return self.z.embed(x if self.mean is None else self.mean(x))

    def forward(self, encoding: Any) -> None:
        """States ``z``."""
        pyro.sample("z", self.latent.smooth(self.z.join(encoding)))
