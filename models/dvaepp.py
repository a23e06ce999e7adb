# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""DVAE++ as a leaf (Vahdat et al. 2018): global bits with a Boltzmann prior over groups of convolutional variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks import Latent, LatentBits
from pyro_spvae.conditionals import LocalGroup, Pixels
from pyro_spvae.conditionals.local_group import check_grid
from pyro_spvae.distributions import OverlappingExponentials, Smoothing
from pyro_spvae.leaves import LeafModel
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Network, SEResNet
from pyro_spvae.nn.upscale import Upscale
from pyro_spvae.priors import BoltzmannMachine, Prior

LOCALS = ("normal", "bernoulli")


class DVAEpp(LeafModel):
    r"""
    DVAE++ (Vahdat et al. 2018, Figure 3a), :math:`p(z) \prod_i r(\zeta_i \mid z_i) \prod_j p(h_j \mid \zeta, h_{<j})\,
    p(x \mid \zeta, h)`: a few global variables with any prior, and groups of local ones on a grid.

    The rows of the paper's Table 3 are choices of ``prior`` (of global variables) and ``local``. Bits are smoothed in
    training, and themselves in evaluation mode. With ``kl="analytic"`` the bound of global bits is that of eq. (6).

    Sites: latent ``"z"``, a vector, and ``"h1"``, ``"h2"``, .., each ``[C, H, W]``; observed ``"x"``.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: number of global variables, 16.
    :param Prior prior: of these; ``BoltzmannMachine()`` by default. Their support is the prior's.
    :param Smoothing smoothing: of all bits; ``OverlappingExponentials()`` by default.
    :param str local: ``"normal"`` or ``"bernoulli"``.
    :param int groups: number of groups of local variables, 16.
    :param tuple local_shape: variables at a position, height and width of the grid, (32, 7, 7).
    :param int channels: of the map that global variables and groups are added up in, 32.
    :param int blocks: residual blocks before each group; ``norm``, ``activation`` and ``checkpoint`` are those of all
        residual blocks, see :class:`pyro_spvae.nn.SEResNet`.
    :param Network decoder: from the map to the pixels; an :class:`~pyro_spvae.nn.SEResNet` by default, and
        :class:`~pyro_spvae.nn.MultiScale` for pixels scale by scale.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.guides import DVAEppGuide
        >>> from pyro_spvae.models import DVAEpp
        >>> leaf = DVAEpp(Bernoulli(), latent_dim=4, groups=2, local_shape=(3, 2, 2), channels=4)
        >>> guide = DVAEppGuide(levels=2, channels=4, hidden_dims=(8,))
        >>> dvaepp = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=guide)
        >>> {name: latent.event_shape for name, latent in dvaepp.latents.items()}
        {'z': (4,), 'h1': (3, 2, 2), 'h2': (3, 2, 2)}
    """

    guide_name, prior_name, has_own_networks = "dvaepp", "boltzmann-machine", True

    def __init__(
        self, likelihood: Likelihood, latent_dim: int = 16, prior: Prior | None = None,
        smoothing: Smoothing | None = None, local: str = "normal", groups: int = 16,
        local_shape: tuple[int, int, int] = (32, 7, 7), channels: int = 32, blocks: int = 1, norm: str = "batch",
        activation: str = "elu", checkpoint: bool = False, decoder: Network | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.prior = BoltzmannMachine() if prior is None else prior
        self.smoothing = OverlappingExponentials() if smoothing is None else smoothing
        for name, part, kind in (("prior", self.prior, Prior), ("smoothing", self.smoothing, Smoothing)):
            checks.instance(name, part, kind)
        checks.one_of("local", local, LOCALS)
        size = checks.positive_integer("latent_dim", latent_dim)
        if not (
            isinstance(local_shape, Sequence) and len(local_shape) == 3 and all(map(checks.is_positive, local_shape))
        ):
            raise ValueError(f"local_shape is {local_shape!r}; variables at a position, height and width are needed")
        shape = Latent(tuple(local_shape)).event_shape
        of_all: dict[str, Any] = {"norm": norm, "activation": activation, "checkpoint": checkpoint}
        bits = self.prior.support.is_discrete
        of_z = LatentBits(size, self.smoothing, self.prior.groups) if bits else Latent(size, self.prior.support)
        of_h = LatentBits(shape, self.smoothing) if local == "bernoulli" else Latent(shape)
        names = [f"h{group + 1}" for group in range(checks.positive_integer("groups", groups))]
        self.latents = {"z": of_z, **dict.fromkeys(names, of_h)}
        self.map_shape = (checks.positive_integer("channels", channels), *shape[1:])
        levels = min(2, math.ceil(math.log2(max(shape[1:]))))
        self.upscale = Upscale(channels=(channels,), levels=levels, blocks=blocks, **of_all)
        self.local: Any = nn.ModuleDict({name: LocalGroup(of_h, blocks, **of_all) for name in names})
        self.pixels = Pixels(likelihood, SEResNet(channels=(channels,), **of_all) if decoder is None else decoder)

    def build(self, leaves: int, pixels: int, **shapes: Any) -> None:
        """Binds prior, networks and pixels."""
        event, of_map = self.latents["z"].event_shape, self.map_shape
        check_grid(of_map, shapes.get("patch"))
        self.prior.bind(leaves=leaves, event_shape=event, pixels=self.bound_features(pixels, **shapes))
        self.upscale.bind(leaves=leaves, inputs=event[0], output_shape=of_map)
        for name, group in self.local.items():
            group.bind(leaves=leaves, event_shape=self.latents[name].event_shape, map_shape=of_map)
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=math.prod(of_map), map_shape=of_map, **shapes)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``z``, ``h1``, .. and ``x``."""
        latents = self.latents
        z = pyro.sample("z", latents["z"].smooth(self.prior()))
        state = self.upscale(latents["z"].seen(z))
        for name, group in self.local.items():
            state = group.refine(state)
            h = pyro.sample(name, latents[name].smooth(group(state)))
            state = group.insert(state, h)
        return pyro.sample("x", self.pixels(state.flatten(-3), mask=mask), obs=x)
