# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Categorical likelihood of many levels: mixtures of a few learned distributions over them."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks import DataOutputs
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions import LeafLevelMixture
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.summaries import level_frequencies


class LowRankCategorical(Likelihood):
    r"""
    Levels 0..levels-1 with a free probability each, of which a decoder makes :math:`R` numbers a pixel and not one for
    each level: logits :math:`o` of a mixture of :math:`R` distributions over levels, which are learned and do not
    depend on the datum,

    .. math:: p(x_j = v) = \sum_{r=1}^R \operatorname{softmax}(o_j)_r
        \operatorname{softmax}_v(T_{v r} + b_{j v}),

    so that the probabilities of a pixel's levels, a row for each datum, are a matrix of rank :math:`R`. All pixels of a
    leaf share the table :math:`T`, and every pixel has biases :math:`b` of its own. Distributions are looked up, so
    that a pixel of a datum costs :math:`R` terms, whatever the number of levels. With ``rank=levels`` and a diagonal
    table of large numbers this is :class:`~pyro_spvae.likelihoods.Categorical`.

    Components start as neighbouring levels, with weights such that the mixture is :math:`\operatorname{softmax}(b_j)`:
    the frequencies of the pixel's levels in training data, once these are known.

    :param int levels: number of levels.
    :param int rank: :math:`R`, at most ``levels``.
    :param bool from_mean: whether :math:`b` starts at the logarithms of the frequencies of levels in training data, and
        a decoder's outputs are added to those of the components, see :class:`~pyro_spvae.conditionals.Pixels`.
    :ivar Parameter table: :math:`T`, ``[leaf, level, component]``.
    :ivar Parameter bias: :math:`b`, but for what is known of training data, ``[leaf, pixel, level]``.
    :raises ValueError: for options out of range.

    Example::

        >>> leaf = VAE(LowRankCategorical(levels=16, rank=4))
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=leaf)
        >>> images = spvae.sample(4)
        >>> images.shape, bool((images == images.round()).all()), bool(images.max() <= 15)
        (torch.Size([4, 1, 8, 8]), True, True)
    """

    of = "levels"

    def __init__(self, levels: int = 256, rank: int = 8, from_mean: bool = True) -> None:
        super().__init__()
        self.levels = checks.positive_integer("levels", levels)
        self.rank = checks.positive_integer("rank", rank)
        if rank > levels:
            raise ValueError(f"rank is {rank}, but there are {levels} levels; a number of at most as many is needed")
        self.from_mean = checks.boolean("from_mean", from_mean)
        self.accepts = f"the integers 0 to {levels - 1}"

    def build(self, leaves: int, pixels: int) -> None:
        """Makes table and biases."""
        self.table = nn.Parameter(neighbours(self.levels, self.rank).expand(leaves, -1, -1).clone())
        self.bias = nn.Parameter(torch.zeros(leaves, pixels, self.levels))
        self.data = (
            DataOutputs().bind(leaves=leaves, pixels=pixels, outputs=(pixels * self.levels,))
            if self.from_mean
            else None
        )

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.sizes["pixels"] * self.rank,)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        bias = self.bias
        if self.data is not None:
            (flat,) = self.data((bias.flatten(-2),))
            bias = flat.unflatten(-1, bias.shape[-2:])
        return LeafLevelMixture(logits.unflatten(-1, (self.sizes["pixels"], self.rank)), self.table, bias, mask=mask)

    def start_at(self, patches: Tensor, mask: Tensor | None) -> None:
        """Where biases start from data: takes the frequencies of levels in training data, once."""
        if self.data is not None and not self.data.is_known:
            patches = at_least_single(patches)
            weight = torch.ones_like(patches) if mask is None else mask.to(patches)
            self.data.keep((level_frequencies(patches, weight, self.levels).log().flatten(-2),))

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """
        Logarithms of the frequencies of the components that tables start from, as if one more row had come, evenly over
        all levels.
        """
        frequencies = level_frequencies(x, weight, self.levels)  # [L, P, V]
        share = neighbours(self.levels, self.rank, frequencies.device).to(frequencies).exp()
        return ((frequencies @ share).log().flatten(-2),)

    def features(self, x: Tensor) -> Tensor:
        return x / max(self.levels - 1, 1)

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.levels) & (x == x.round())


def neighbours(levels: int, components: int, device: torch.device | None = None) -> Tensor:
    r"""
    Logarithms of how much of a level belongs to each component, ``[level, component]``: most to the nearest of as many
    that are spread evenly. They sum to 1 over components, so that any distribution :math:`p` over levels is the mixture
    of :math:`p(v) e^{t_{v r}} / p_r` with weights :math:`p_r = \sum_v p(v) e^{t_{v r}}`.
    """
    place = (torch.arange(levels, device=device) + 0.5) / levels
    centre = (torch.arange(components, device=device) + 0.5) / components
    return (-0.5 * ((place.unsqueeze(-1) - centre) * components).square()).log_softmax(-1)
