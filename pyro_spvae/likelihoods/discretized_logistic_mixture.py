# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The mixture of discretised logistics of grey and colour levels (PixelCNN++)."""

from __future__ import annotations

import math

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions import LeafDiscretizedLogisticMixture
from pyro_spvae.distributions.discretized_logistic_mixture import check_coupled_mask
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.summaries import unit_moments

_INITIAL = 0.3 * math.sqrt(3) / math.pi  # scale of a logistic variable of standard deviation 0.3, of values in [-1, 1]


class DiscretizedLogisticMixture(Likelihood):
    r"""
    Grey or colour levels 0..levels-1 as a mixture of discretised logistics (Salimans et al. 2017, PixelCNN++; the
    image likelihood of NVAE). A position of the image has one weight for each component, and each component a logistic
    of every channel, with a mean and a scale of its own:

    .. math:: \log p(x_n) = \log \sum_k \pi_{nk} \prod_c P(x_{cn}; m_{cnk}, s_{cnk}) \quad \text{nats}.

    Values, means and scales are in units of [-1, 1], where level :math:`v` of :math:`V` is :math:`2v / (V - 1) - 1`
    and a bin reaches :math:`1 / (V - 1)` to either side, the first and the last to infinity. Outputs of the decoder are
    logits of the weights, means :math:`m`, log-scales, of which the nearest number of at least ``min_log_scale`` is
    taken, and, if channels are coupled, :math:`\tanh^{-1}` of the coefficients by which

    .. math:: m'_{cnk} = m_{cnk} + \sum_{b < c} \gamma_{nbck} \, x_{bn}.

    See :class:`~pyro_spvae.distributions.LeafDiscretizedLogisticMixture`, also for what a mask may hide.

    Each output is as large as the pixels or several times so, as convolutional decoders need it. What a position has
    one of, whatever the channels (weights, coefficients), is spread over its pixels: ``ceil(components / channels)``
    numbers a pixel for the weights, the numbers of the position's pixels one after the other being its logits, of
    which up to ``channels - 1`` are left over and not used.

    :param int levels: number of levels, at least 2.
    :param int components: number of components K.
    :param bool coupled: whether the mean of a channel depends on the true values of the channels before it. Of one
        channel there is nothing to couple.
    :param int channels: of a position, in whose order pixels are (channel, position); by default those of the images of
        the model that binds it, 1 for tables. Needed only where that does not say, and refused where it differs.
    :param float min_log_scale: smallest logarithm of a scale, in units of [-1, 1].
    :param bool from_mean: whether a decoder's outputs are added to those of the means and variances of training data,
        see :class:`~pyro_spvae.conditionals.Pixels`; ``False`` is the form of the papers.
    :raises ValueError: for options out of range; when bound, if channels are others or are one and coupled.

    Example::

        >>> from pyro_spvae.nn import Conv
        >>> leaf = VAE(DiscretizedLogisticMixture(levels=256, components=5, coupled=True), decoder=Conv((4, 8)))
        >>> spvae = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=NormalGuide(encoder=Conv((4, 8))), channels=3)
        >>> spvae.sample(4).shape
        torch.Size([4, 3, 8, 8])
    """

    of = "levels"
    same_at_all_pixels = True

    def __init__(
        self,
        levels: int = 256,
        components: int = 10,
        coupled: bool = False,
        channels: int | None = None,
        min_log_scale: float = -7.0,
        from_mean: bool = True,
    ) -> None:
        super().__init__()
        self.levels = checks.positive_integer("levels", levels)
        if levels < 2:
            raise ValueError(f"levels is {levels!r}; at least 2 are needed")
        self.components = checks.positive_integer("components", components)
        self.coupled = checks.boolean("coupled", coupled)
        self.channels = None if channels is None else checks.positive_integer("channels", channels)
        if not checks.is_number(min_log_scale):
            raise ValueError(f"min_log_scale is {min_log_scale!r}; a finite number is needed")
        self.min_log_scale = float(min_log_scale)
        self.from_mean = checks.boolean("from_mean", from_mean)
        self.accepts = f"the integers 0 to {levels - 1}"

    def build(self, leaves: int, pixels: int, channels: int | None = None) -> None:
        """
        Makes nothing, but compares channels.

        :param int channels: of the images; ``None``: not known.
        """
        own = self.channels
        if own is not None and channels is not None and own != channels:
            raise ValueError(f"channels of the likelihood is {own}, but the data have {channels}; leave it out")
        found = own or channels or 1
        if pixels % found:
            raise ValueError(f"channels of the likelihood is {found}, which does not divide a leaf's {pixels} pixels")
        if self.coupled and found == 1:
            raise ValueError("coupled of the likelihood is True, but the data have one channel; leave it out")

    @property
    def _channels(self) -> int:
        return self.channels or self.sizes.get("channels") or 1

    @property
    def heads(self) -> tuple[int, ...]:
        """Of logits, means, log-scales and coefficients."""
        pixels, channels = self.sizes["pixels"], self._channels
        of_pixels = pixels * self.components
        heads = (pixels * math.ceil(self.components / channels), of_pixels, of_pixels)
        return (*heads, pixels * math.ceil(self.components * (channels - 1) / 2)) if self.coupled else heads

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        logits, loc, log_scale, *coupling = outputs
        half = (self.levels - 1) / (2 * self.levels)  # of the range of [0, 1] in which the middles of the bins lie
        loc, log_scale = (at_least_single(output).unflatten(-1, (-1, self.components)) for output in (loc, log_scale))
        coefficients = None
        if coupling:
            pairs = self._channels * (self._channels - 1) // 2
            of_positions = self._of_positions(at_least_single(coupling[0]), pairs * self.components)
            coefficients = of_positions.unflatten(-1, (pairs, self.components)).tanh()
        return LeafDiscretizedLogisticMixture(
            self._of_positions(logits, self.components),
            0.5 + half * loc,
            log_scale.clamp(min=self.min_log_scale) + math.log(half),
            self.levels,
            mask,
            coefficients,
        )

    def _of_positions(self, output: Tensor, count: int) -> Tensor:
        """An output ``[.., channel * position * number]`` as the first numbers of each position, ``[.., N, count]``."""
        by_channel = output.unflatten(-1, (self._channels, self.sizes["pixels"] // self._channels, -1))
        return by_channel.movedim(-3, -2).flatten(-2)[..., :count]

    def initial_outputs(self, leaves: int) -> tuple[Tensor, ...]:
        """
        Means of standard deviation 0.5 and scales of one of 0.3, both in units of [-1, 1]; standard normal logits, and
        channels that are not coupled yet.
        """
        logits, loc, log_scale, *coupling = super().initial_outputs(leaves)
        narrow = torch.full_like(log_scale, max(math.log(_INITIAL), self.min_log_scale))
        return (logits, 0.5 * loc, narrow, *map(torch.zeros_like, coupling))

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        r"""
        Equal weights, components of one scale at the quantiles :math:`(k - 1/2) / K` of a normal distribution, together
        of the mean and the variance of the data (but for the smallest scale), and channels that are not coupled yet.
        """
        mean, variance = unit_moments(self.features(x), weight)
        deviation = 2 * self.levels / (self.levels - 1) * variance.sqrt().unsqueeze(-1)  # in units of [-1, 1]
        shares = (torch.arange(self.components, device=mean.device).to(mean) + 0.5) / self.components
        places = torch.special.ndtri(shares)
        within = 1 - places.square().mean()
        loc = (2 * mean - 1).unsqueeze(-1) * self.levels / (self.levels - 1) + deviation * places
        log_scale = (deviation * within.sqrt() * math.sqrt(3) / math.pi).log().clamp(min=self.min_log_scale)
        sizes = self.heads
        logits, *coupling = (mean.new_zeros(len(mean), size) for size in (sizes[0], *sizes[3:]))
        return (logits, loc.flatten(-2), log_scale.expand_as(loc).flatten(-2), *coupling)

    def features(self, x: Tensor) -> Tensor:
        """Middles of the bins, in [0, 1]."""
        return (x + 0.5) / self.levels

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.levels) & (x == x.round())

    def check(self, x: Tensor, mask: Tensor) -> None:
        """
        :raises ValueError: also if channels are coupled and the mask hides one, but not those behind it.
        """
        super().check(x, mask)
        if self.coupled:
            check_coupled_mask(mask.unflatten(-1, (self._channels, -1)))
