# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixture of discretised logistics (PixelCNN++): the channels of a position given one of several components."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.circuits.numerics import at_least_single, log_sum_exp
from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter, type_of_levels
from pyro_spvae.distributions.logistic_bins import checked_levels, level_variance, log_mass, mean_level, sample_bins

if TYPE_CHECKING:
    from typing_extensions import Self

_Chosen = Callable[[Tensor], Tensor]

_NAME = "LeafDiscretizedLogisticMixture"
_BLOCK = 2**22  # numbers that the mode holds at a time


class LeafDiscretizedLogisticMixture(LeafDistribution):
    r"""
    Mixture of discretised logistics of an image's positions (Salimans et al. 2017, PixelCNN++), one event ``[pixel]``
    of integers :math:`0..V-1`, pixels being in the order (channel, position). Positions are independent. One of
    :math:`K` components gives all channels :math:`x_1..x_C` of a position :math:`n`:

    .. math::
        \log p(x) = \sum_n \log \sum_k \pi_{nk} \prod_c P(x_{cn}; \mu_{cnk}, s_{cnk}) \quad \text{nats},

    where :math:`P` is the mass of a bin of a logistic variable on [0, 1], of which the first and the last bin take in
    the tails, as in :class:`~pyro_spvae.distributions.LeafDiscretizedLogistic`, so that masses sum to 1.

    With ``coefficients`` channels are coupled: the mean of a channel is moved by the true values of those before it,

    .. math:: \mu'_{cnk} = \mu_{cnk} + \sum_{b < c} \gamma_{nbck} \left(\frac{x_{bn} + 1/2}{V} - \frac12\right),

    which are PixelCNN++'s coefficients of values in [-1, 1] and means in the same unit.

    A mask that hides a position adds exactly 0. Of a position that is seen in part the marginal mass is computed:
    hidden channels are left out of the product, which is exact unless a coupled channel is seen of which one before it
    is hidden; that is refused.

    :param torch.Tensor logits: unnormalised logarithms of the weights :math:`\pi`, ``[.., position, component]``.
    :param torch.Tensor loc: means :math:`\mu`, in units of [0, 1], ``[.., pixel, component]``. There are as many
        channels as it has pixels for each position.
    :param torch.Tensor log_scale: :math:`\log s`, ``[.., pixel, component]``.
    :param int levels: number of levels :math:`V`, at least 2.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param torch.Tensor coefficients: :math:`\gamma`, ``[.., position, pair, component]`` for pairs of channels
        :math:`(b, c)` in the order (1, 2), (1, 3), (2, 3), (1, 4), ..; ``None``: channels are independent given the
        component.
    :param bool validate_args: whether to check parameters and values, and what ``mask`` hides of coupled channels; None
        follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, ``levels`` no int, or ``mask`` no bool tensor.
    :raises ValueError: if ``levels`` is below 2, shapes do not fit or broadcast, or, under validation, a parameter is
        NaN, or ``mask`` hides a channel of which a coupled one behind it counts.

    Example::

        >>> from pyro_spvae.distributions import LeafDiscretizedLogisticMixture
        >>> logits, loc = torch.zeros(16, 5), torch.rand(3 * 16, 5)  # 4x4 pixels of three channels, five components
        >>> law = LeafDiscretizedLogisticMixture(logits, loc, torch.full_like(loc, -3.0))
        >>> law.log_prob(law.sample((7,))).shape
        torch.Size([7])
    """

    arg_constraints = {
        "logits": ParameterConstraint(constraints.real, 2),
        "loc": ParameterConstraint(constraints.real, 2),
        "log_scale": ParameterConstraint(constraints.real, 2),
        "coefficients": ParameterConstraint(constraints.real, 3),
    }

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        levels: int = 256,
        mask: Tensor | None = None,
        coefficients: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.levels = checked_levels(_NAME, levels)
        self.logits = checked_parameter(_NAME, "logits", logits, 2)
        self.loc = checked_parameter(_NAME, "loc", loc, 2)
        self.log_scale = checked_parameter(_NAME, "log_scale", log_scale, 2)
        self.coefficients = None
        if coefficients is None:
            self.arg_constraints = {
                name: constraint for name, constraint in type(self).arg_constraints.items() if name != "coefficients"
            }
        else:
            self.coefficients = checked_parameter(_NAME, "coefficients", coefficients, 3)
        self._dtype = type_of_levels(logits.dtype, self.levels)
        super().__init__(self._checked_shapes(), self.loc.size(-2), mask, validate_args)
        if mask is not None and coefficients is not None and self._validate_args:
            check_coupled_mask(self._by_channel(mask))  # the answer is read, for which a device would be waited for

    def _checked_shapes(self) -> torch.Size:
        """
        The batch shape of the parameters.

        :raises ValueError: if their shapes do not go together.
        """
        named = {name: getattr(self, name) for name in self.arg_constraints}
        given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items())
        (positions, components), pixels = self.logits.shape[-2:], self.loc.size(-2)
        fits = self.logits.numel() > 0 and pixels >= positions and pixels % positions == 0
        fits = fits and self.loc.shape[-2:] == self.log_scale.shape[-2:] == (pixels, components)
        if fits and self.coefficients is not None:
            pairs = self.channels * (self.channels - 1) // 2
            fits = pairs > 0 and self.coefficients.shape[-3:] == (positions, pairs, components)
        if not fits:
            raise ValueError(
                f"{_NAME} needs logits [.., position, component], loc and log_scale [.., pixel, component] with a "
                "multiple of the positions as pixels, and if coefficients, of several channels, [.., position, pair, "
                f"component], but the shapes are {given}."
            )
        try:
            shape = broadcast_shape(*(value.shape[: -2 - (name == "coefficients")] for name, value in named.items()))
        except ValueError:
            raise ValueError(f"the parameters of {_NAME} must broadcast, but their shapes are {given}.") from None
        return torch.Size(shape)

    @property
    def num_components(self) -> int:
        """Number of components."""
        return self.logits.size(-1)

    @property
    def channels(self) -> int:
        """Number of channels of a position."""
        return self.loc.size(-2) // self.logits.size(-2)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are integers from 0 to ``levels - 1``."""
        pixel = constraints.integer_interval(0, self.levels - 1)
        return self._support(pixel, constraints.independent(pixel, 1))

    @property
    def mean(self) -> Tensor:
        """
        Mean, ``batch_shape + event_shape``.

        :raises NotImplementedError: if channels are coupled.
        """
        return self._full(self._expected(mean_level(*self._bins())))

    @property
    def variance(self) -> Tensor:
        """
        Variance, ``batch_shape + event_shape``.

        :raises NotImplementedError: if channels are coupled.
        """
        means = mean_level(*self._bins())
        apart = means - self._expected(means).unsqueeze(-1)
        return self._full(self._expected(level_variance(*self._bins()) + apart.square()))

    def _bins(self) -> tuple[Tensor, Tensor, int]:
        """The parameters that levels of uncoupled channels follow from."""
        if self.coefficients is not None:
            raise NotImplementedError(
                f"{_NAME} of coupled channels has no mean or variance in closed form; conditional_mean(value) has the "
                "means of each channel given those before it"
            )
        return self.loc, self.log_scale, self.levels

    def _expected(self, of_components: Tensor) -> Tensor:
        """Of numbers of each component ``[.., pixel, K]`` the mean, ``[.., pixel]``."""
        weight = self.logits.softmax(-1).unsqueeze(-3)  # [.., 1, N, K]
        return (weight * self._by_channel(of_components, -2)).sum(-1).flatten(-2)

    @property
    def conditional_mean(self) -> Callable[[Tensor], Tensor] | None:
        """
        Of coupled channels the means of each given the values of those before it: a function of a value ``[.., pixel]``
        with results ``batch_shape + event_shape`` broadcast with it. ``None`` where there is a :attr:`mean`.
        """
        return None if self.coefficients is None else self._conditional_mean

    def _conditional_mean(self, value: Tensor) -> Tensor:
        log_weight, means = self.logits.log_softmax(-1), []
        for loc, log_scale, mass in self._channels(value, self.pixel_mask):
            means.append((log_weight.softmax(-1) * mean_level(loc, log_scale, self.levels)).sum(-1))
            log_weight = log_weight + mass
        mean = _stack(means, -2).flatten(-2)
        return mean.expand(broadcast_shape(mean.shape, self._batch_shape + self._event_shape))

    @property
    def mode(self) -> Tensor:
        """
        The most probable level of each pixel, the lowest of several, ``batch_shape + event_shape``.

        :raises NotImplementedError: if a position has several channels.
        """
        if self.channels > 1:
            raise NotImplementedError(f"{_NAME} of several channels has no mode in closed form")
        with torch.no_grad():
            log_weight = self.logits.log_softmax(-1)
            shape = broadcast_shape(self.logits.shape, self.loc.shape, self.log_scale.shape)
            best = self.loc.new_full(shape[:-1], -math.inf)
            mode, block = torch.zeros_like(best), max(1, _BLOCK // max(math.prod(shape), 1))
            for start in range(0, self.levels, block):
                level = torch.arange(start, min(start + block, self.levels), dtype=best.dtype, device=best.device)
                level = level.reshape(-1, *[1] * len(shape))
                mass = log_mass(level, self.loc, self.log_scale, None, self.levels, summed=False)
                top, index = (mass + log_weight).logsumexp(-1).max(0)
                mode = torch.where(top > best, index.to(mode.dtype) + start, mode)
                best = torch.maximum(top, best)
            return self._full(mode)

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws a component for each position, then its channels in order; in the dtype of ``logits``.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            shape = torch.Size((*self._extended_shape(sample_shape)[:-1], self.logits.size(-2)))  # [.., N]
            below = self.logits.softmax(-1).cumsum(-1)[..., :-1]
            uniform = torch.rand((*shape, 1), dtype=below.dtype, device=below.device)
            component = (uniform >= below).sum(-1, keepdim=True)

            def chosen(parameter: Tensor) -> Tensor:  # [.., N, K] to [.., N, 1]
                return parameter.expand(*shape, -1).gather(-1, component)

            drawn: list[Tensor] = []
            for channel in range(self.channels):
                loc, log_scale = (
                    chosen(self._by_channel(parameter, -2).select(-3, channel))
                    for parameter in (self.loc, self.log_scale)
                )
                if self.coefficients is not None:
                    loc = loc + self._shift(self.coefficients, drawn, chosen)
                drawn.append(sample_bins(loc, log_scale, self.levels, component.shape))
            return torch.stack(drawn, -3).flatten(-3).to(self._dtype)

    def given_seen(self, value: Tensor, seen: Tensor) -> Self:
        r"""
        The distribution of the pixels that are not seen given those that are: weights of a position become
        :math:`p(k \mid x_\mathrm{seen})`, and means of coupled channels are moved by what is seen. Seen pixels count
        no longer, and what is drawn in their place means nothing.

        :param torch.Tensor value: ``[.., pixel]``; hidden pixels may hold anything.
        :param torch.Tensor seen: ``bool``, broadcastable to it, True = seen. Of coupled channels no hidden one may be
            before one that is seen.
        """
        seen = seen.expand(*seen.shape[:-1], self.loc.size(-2))
        value = torch.where(seen, at_least_single(value), 0.0)
        new: Any = self.expand(broadcast_shape(self._batch_shape, value.shape[:-1]))
        new.logits = self._joint(value, seen)
        new.pixel_mask = ~seen if self.pixel_mask is None else self.pixel_mask & ~seen
        if self.coefficients is not None:
            earlier = [b for c in range(self.channels) for b in range(c)]  # of each pair
            known = self._by_channel(seen)[..., earlier, :].movedim(-2, -1).unsqueeze(-1)  # [.., N, pair, 1]
            values, locs = self._by_channel(value).unsqueeze(-1).unbind(-3), self._by_channel(self.loc, -2).unbind(-3)
            moved = [loc + self._shift(self.coefficients * known, values[:c]) for c, loc in enumerate(locs)]
            new.loc = _stack(moved, -3).flatten(-3, -2)
            new.coefficients = self.coefficients * ~known
        return new

    def _log_prob(self, value: Tensor) -> Tensor:
        value = self._fill(value)
        log_prob = log_sum_exp(self._joint(value, self.pixel_mask))  # [.., N]
        if self.pixel_mask is not None:  # the weights of what is hidden add up to 1 but for rounding
            log_prob = log_prob * self._by_channel(self.pixel_mask).any(-2)
        return log_prob.sum(-1)

    def _joint(self, value: Tensor, mask: Tensor | None) -> Tensor:
        """Log-masses of component and values, of those that count, ``[.., N, K]``."""
        joint = self.logits.log_softmax(-1)
        for _, _, mass in self._channels(value, mask):
            joint = joint + mass
        return joint

    def _channels(self, value: Tensor, mask: Tensor | None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """
        One channel after the other: the means and log-scales of all components ``[.., N, K]`` given the channels before
        it, and the log-masses of its values, 0 where hidden.
        """
        values = self._by_channel(value.to(self.loc.dtype)).unsqueeze(-1).unbind(-3)  # [.., N, 1]
        weights: Any = [None] * self.channels
        if mask is not None:
            weights = self._by_channel(mask).to(self.loc.dtype).unsqueeze(-1).unbind(-3)
        parameters = (self._by_channel(parameter, -2).unbind(-3) for parameter in (self.loc, self.log_scale))
        for channel, (loc, log_scale) in enumerate(zip(*parameters, strict=True)):
            if self.coefficients is not None:
                loc = loc + self._shift(self.coefficients, values[:channel])
            mass = log_mass(values[channel], loc, log_scale, weights[channel], self.levels, summed=False)
            yield loc, log_scale, mass

    def _shift(self, coefficients: Tensor, earlier: Sequence[Tensor], chosen: _Chosen = lambda p: p) -> Tensor | float:
        """By how much the means of a channel are moved by the values ``[.., N, 1]`` of those before it."""
        first = len(earlier) * (len(earlier) - 1) // 2
        return sum(
            chosen(coefficients[..., first + place, :]) * ((value + 0.5) / self.levels - 0.5)
            for place, value in enumerate(earlier)
        )

    def _by_channel(self, values: Tensor, dim: int = -1) -> Tensor:
        """The axis ``[pixel]``, which may have size 1, as ``[channel, position]``."""
        positions = self.logits.size(-2)
        if values.size(dim) == 1:
            shape = list(values.shape)
            shape[dim] = self.loc.size(-2)
            values = values.expand(shape)
        return values.unflatten(dim, (-1, positions))


def _stack(values: Sequence[Tensor], dim: int) -> Tensor:
    """Tensors whose batch dimensions broadcast, side by side."""
    return torch.stack(torch.broadcast_tensors(*values), dim)


def check_coupled_mask(mask: Tensor) -> None:
    """
    :param Tensor mask: ``bool [.., channel, position]``: what counts.
    :raises ValueError: if a channel of a position counts, but not one before it.
    """
    if bool((mask[..., 1:, :] & ~mask[..., :-1, :]).any()):
        raise ValueError(
            "mask hides a channel of a position and shows one behind it, whose marginal likelihood is no closed form "
            "where channels are coupled; hide positions as a whole or their last channels, or do not couple them"
        )
