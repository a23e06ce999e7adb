# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distribution whose pixels follow one another, each given all before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from tqdm.auto import tqdm

from pyro_spvae.distributions.leaf import LeafDistribution

_Conditionals = Callable[[Tensor, Tensor], TorchDistribution]
_Ancestral = Callable[[Tensor], Iterable[tuple[slice, Tensor, Tensor]]]


class LeafAutoregressive(LeafDistribution):
    r"""
    Pixels in an order, one event ``[pixel]``, each with a distribution given the context and the pixels before it,

    .. math:: \log p(x \mid c) = \sum_j \log p(x_j \mid x_{<j}, c) \quad \text{nats}.

    All terms of the sum are computed at once (teacher forcing); samples are drawn one pixel after the other, as many at
    a time as are independent given those before. A network gives the conditionals, so this class only knows callables:
    :class:`~pyro_spvae.conditionals.Pixels` makes them of a decoder and a likelihood.

    A mask may hide events as a whole; such an event adds exactly 0. The marginal of a part of the pixels is an integral
    over all others and not tractable.

    :param torch.Tensor context: what conditionals depend on besides pixels, ``[.., n, height, width]``.
    :param int event_size: number of pixels.
    :param callable conditionals: given ``context`` and values ``[.., pixel]``, which broadcast, the distribution of all
        pixels each given those before it, with event ``[pixel]``. It counts the pixels of ``mask``.
    :param callable ancestral: given contexts ``[row, leaf, n, height, width]``, iterates over drawn pixels: a slice of
        rows, indices of pixels ``[k]``, and their values ``[row, leaf, k]``.
    :param Constraint support: of an event.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check values, and that ``mask`` hides events as a whole; None follows Pyro's
        global switch.
    :raises TypeError: if ``mask`` is no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if ``mask`` shows a part of an event.

    Example::

        >>> from pyro_spvae.nn import PixelCNN
        >>> pixels = Pixels(Bernoulli(), PixelCNN(filters=4, layers=2, norm="none"))
        >>> law = pixels.bind(leaves=1, pixels=4, inputs=3, patch=(1, 2, 2))(torch.randn(1, 3))
        >>> type(law).__name__
        'LeafAutoregressive'
        >>> values = torch.cartesian_prod(*[torch.arange(2.0)] * 4).unsqueeze(1)  # all patches, [16, leaf, pixel]
        >>> round(law.log_prob(values).exp().sum().item(), 4)
        1.0
    """

    has_rsample = False
    stepwise = True

    def __init__(
        self,
        context: Tensor,
        event_size: int,
        conditionals: _Conditionals,
        ancestral: _Ancestral,
        support: constraints.Constraint,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(context.shape[:-3], event_size, mask, validate_args)
        if mask is not None and self._validate_args:  # the answer is read, for which a device would be waited for
            check_whole(mask)
        self.context = context
        self.conditionals = conditionals
        self.ancestral = ancestral
        self._event_support = support

    @property
    def support(self) -> constraints.Constraint:
        """That of the likelihood."""
        return self._event_support

    @property
    def mean(self) -> Tensor:
        """
        :raises NotImplementedError: always.
        """
        raise NotImplementedError(
            "LeafAutoregressive has no mean in closed form; conditional_mean(value) has those of each pixel given the "
            "pixels before it"
        )

    def conditional_mean(self, value: Tensor) -> Tensor:
        r"""
        Means :math:`E[x_j \mid x_{<j}]` of each pixel given the values of those before it.

        :param torch.Tensor value: ``[.., pixel]``, broadcastable against ``batch_shape + event_shape``.
        :returns: ``batch_shape + event_shape`` broadcast with ``value``.
        """
        value = self._fill(value)
        mean = pixel_means(self.conditionals(self.context, value), value)
        return mean.expand(torch.broadcast_shapes(mean.shape, self._batch_shape + self._event_shape))

    def sample(self, sample_shape: list[int] | tuple[int, ...] = (), *, progress: bool = False) -> Tensor:
        """
        Draw some pixels after the others.

        :param torch.Size sample_shape: shape of independent draws.
        :param bool progress: show a progress bar.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        shape = self._extended_shape(sample_shape)
        context = self.context.expand(shape[:-1] + self.context.shape[-3:])
        rows = context.reshape(-1, shape[-2], *context.shape[-3:]) if len(shape) > 1 else context[None, None]
        value = context.new_zeros(*rows.shape[:2], shape[-1])  # [N, L, P]
        with torch.no_grad(), tqdm(total=value.numel(), desc="pixels", unit="px", disable=not progress) as bar:
            for part, pixels, drawn in self.ancestral(rows):
                value[part, :, pixels] = drawn.to(value.dtype)
                bar.update(drawn.numel())
        return value.reshape(shape)

    def undrawn(self) -> Tensor:
        """Zeros in the place of a sample that nobody looks at, ``batch_shape + event_shape``."""
        return self.context.new_zeros(()).expand(self._batch_shape + self._event_shape)

    def _precisely(self, value: Tensor) -> Tensor:
        return self._log_prob(value)  # by a network, in its own precision; the conditionals take care of theirs

    def _log_prob(self, value: Tensor) -> Tensor:
        return self.conditionals(self.context, self._fill(value)).log_prob(value)


def pixel_means(law: Any, value: Tensor) -> Tensor:
    """
    Means of pixels: those of a distribution, or where it is autoregressive, or the channels of a pixel are coupled,
    those of each given the values before it.

    :param law: distribution of patches.
    :param Tensor value: drawn from it, ``[.., pixel]``.
    """
    conditional = getattr(law, "conditional_mean", None)
    return law.mean if conditional is None else conditional(value)


def means_need_draws(law: Any) -> bool:
    """Whether :func:`pixel_means` looks at what was drawn; of what is made of others by its ``means_need_draws``."""
    return bool(getattr(law, "means_need_draws", hasattr(law, "conditional_mean")))


def pixel_summaries(law: Any, value: Tensor) -> Tensor:
    """
    What stands for pixels where an answer is no draw: :func:`pixel_means`, or, where the distribution has a method
    ``summary(value)``, what it returns, such as the most probable of names.

    :param law: distribution of patches.
    :param Tensor value: drawn from it, ``[.., pixel]``.
    """
    summary = getattr(law, "summary", None)
    return pixel_means(law, value) if summary is None else summary(value)


def check_whole(mask: Tensor) -> None:
    """
    :param Tensor mask: ``bool [.., pixel]``: pixels that count.
    :raises ValueError: if it shows a part of a patch.
    """
    if bool((mask.any(-1) != mask.all(-1)).any()):
        raise ValueError(
            "mask shows a part of a patch, whose marginal likelihood an autoregressive decoder cannot compute; hide "
            "leaf regions as a whole, which is exact, or use a decoder that is not autoregressive"
        )
