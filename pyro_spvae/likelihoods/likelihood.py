# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the likelihood of a leaf is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.blocks import Block
from pyro_spvae.data import Column
from pyro_spvae.likelihoods.normal_places import NormalPlaces

LEAST = 1e-6  # probability that an M-step writes, so that logits stay within 14 of each other


class Likelihood(Block):
    """
    The distribution of a leaf's pixels given its decoder's outputs.

    The call takes one tensor ``[.., leaf, head]`` per entry of :attr:`heads` and returns a distribution with batch
    ``[.., leaf]`` and event ``[pixel]``; pixels where ``mask`` is False contribute exactly 0. A likelihood that relates
    the channels of a position also names ``channels`` in its ``build``, those of images, in whose patches pixels are in
    the order (channel, position); it is told 1 for tables, and nothing where they are not known.

    When bound it is asked once for heads of zeros: for a distribution of an event ``[pixel]``, whose support
    :meth:`supports` states, unless values are any finite numbers, and :attr:`accepts` in words.

    :raises ValueError: when bound, where it is none or does not state these.

    Example, of a location and a scale for each pixel::

        >>> from pyro import distributions as dist
        >>> class Laplace(Likelihood):
        ...     accepts = "finite real numbers"
        ...
        ...     @property
        ...     def heads(self):
        ...         return (self.sizes["pixels"], self.sizes["pixels"])
        ...
        ...     def forward(self, outputs, mask=None):
        ...         loc, raw = outputs
        ...         laplace = dist.Laplace(loc, 1e-3 + torch.nn.functional.softplus(raw))
        ...         return (laplace if mask is None else laplace.mask(mask)).to_event(1)
        ...
        ...     def supports(self, x):
        ...         return torch.isfinite(x)
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, likelihood=Laplace())
        >>> spvae.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    accepts: str  # what values are accepted, for error messages

    #: what it is a distribution of: "binary", "levels", "real", "positive", "counts" or "columns" (of several kinds);
    #: decides preprocessing
    of: str = "real"

    #: what the columns of a table are that it is a distribution of; ``None`` where it does not know them
    columns: tuple[Column, ...] | None = None

    #: what its features lie within, whatever the unit of the data, but for values far from those of training; ``None``:
    #: they have the data's unit, or are from 0 to 1
    feature_range: tuple[float, float] | None = None

    #: whether the distribution of a pixel, with all of its channels, follows from its outputs alone, wherever it is in
    #: the patch; every class says so for itself, a subclass does not inherit it
    same_at_all_pixels: bool = False

    #: whether every pixel has equally many features and outputs, in the order of pixels, as autoregressive decoders
    #: need
    by_pixel: bool = True

    #: whether a decoder's outputs are added to what :meth:`outputs_from` says of training data, where the leaf does
    #: not say
    from_mean: bool = False

    def bind(self, **sizes: Any) -> Self:
        """
        See :meth:`pyro_spvae.part.Part.bind`.

        :param sizes: ``leaves`` and ``pixels``; ``channels`` and ``scopes`` where they are known.
        :raises ValueError: also if what the call returns is no distribution of the pixels, or its support is not
            stated.
        """
        super().bind(**sizes)
        with torch.no_grad(), pyro.validation_enabled(False):  # on the meta device there are no values
            law = self(tuple(torch.zeros(sizes["leaves"], head) for head in self.heads))
        name, found, pixels = type(self).__name__, list(law.event_shape), sizes["pixels"]
        if found != [pixels]:
            raise ValueError(
                f"the likelihood {name} returned a {type(law).__name__} of event shape {found} for heads of zeros, but "
                f"its leaves have {pixels} pixels; [{pixels}] is needed, and .to_event(1) makes the last dimension an "
                "event"
            )
        if not isinstance(getattr(self, "accepts", None), str):
            raise ValueError(
                f"the likelihood {name} does not state what values it accepts; define accepts, as in accepts = 'finite "
                "real numbers'"
            )
        if type(self).supports is Likelihood.supports and not _is_real(law):
            base = type(getattr(law, "base_dist", law)).__name__
            raise ValueError(
                f"the likelihood {name} returned a {base}, whose support is not all real numbers; define "
                "supports(self, x), whether each value is in it"
            )
        return self

    def build(self, leaves: int, pixels: int) -> None:
        """Makes parameters of the likelihood's own; the default has none."""

    @property
    def heads(self) -> tuple[int, ...]:
        """Sizes of the decoder outputs that the likelihood needs."""
        return (self.sizes["pixels"],)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        """The distribution of the pixels."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, outputs, mask=None)")

    def initial_outputs(self, leaves: int) -> tuple[Tensor, ...]:
        """
        What a leaf without a decoder starts from in its place: a tensor ``[leaf, head]`` for each of :attr:`heads`,
        drawn from torch's generator, so that the leaves of a region differ; standard normal by default.
        """
        return tuple(torch.randn(leaves, size) for size in self.heads)

    def normal_places(self) -> NormalPlaces | None:
        """
        Which pixels are Normal, or Normal up to a change of variables, so that they may be jointly Normal, see
        :class:`pyro_spvae.models.GaussianLeaf`; once it is bound. ``None``, the default: none are.
        """
        return None

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """
        Sufficient statistics of an exponential family, added up over the data, for the E-step of EM.

        :param Tensor x: values ``[data, leaf, pixel]`` in the support where the weight is not 0.
        :param Tensor weight: of every value, same shape, at least 0.
        :returns: ``[leaf, pixel, statistic]``, in the type of the weights.
        :raises ValueError: if the likelihood does not say; it can be trained by gradient alone.
        """
        raise ValueError(
            f"the likelihood {type(self).__name__} has no sufficient statistics, which EM needs; train by gradient, or "
            "define statistics, uniform_statistics and outputs_of"
        )

    def statistics_given(self, x: Tensor, weight: Tensor, outputs: tuple[Tensor, ...]) -> Tensor:
        """
        What EM takes for :meth:`statistics`: of a distribution that is a mixture, such as Student's t of Normal ones,
        expectations of those of value and hidden variable. By default there is nothing hidden, and they are the same.

        :param tuple outputs: the present ones, under which is expected what is hidden: a tensor ``[leaf, head]`` for
            each of :attr:`heads`.
        """
        return self.statistics(x, weight)

    def uniform_statistics(self) -> Tensor | None:
        """
        Means of the statistics, broadcastable to ``[leaf, pixel, statistic]``, where all values are equally likely; NaN
        for pixels whose values cannot be, ``None`` if those of none can.
        """
        return None

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """
        The most likely outputs given means of the statistics, for the M-step of EM.

        :param Tensor means: ``[leaf, pixel, statistic]``.
        :returns: a finite tensor ``[leaf, head]`` for each of :attr:`heads`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define outputs_of(self, means)")

    def by_output(self, values: Tensor) -> tuple[Tensor, ...]:
        """
        What is known of pixels, ``[leaf, pixel]``, of each output: a tensor ``[leaf, head]`` for each of :attr:`heads`.
        By default the outputs of a head are equally many for every pixel, those of a pixel side by side.
        """
        return tuple(values.repeat_interleave(head // values.size(-1), -1) for head in self.heads)

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...] | None:
        """
        The outputs of a distribution that is like training values, whatever the latent variables: what the outputs of a
        decoder may be added to. ``None``, the default: the likelihood does not say.

        :param Tensor x: values ``[row, leaf, pixel]``, in the support where the weight is not 0.
        :param Tensor weight: 1 for pixels that are seen, else 0; same shape. Of some pixels there may be none.
        :returns: a finite tensor ``[leaf, head]`` for each of :attr:`heads`.
        """
        return None

    def features(self, x: Tensor) -> Tensor:
        """Pixel values brought to about [0, 1] for the guide's networks."""
        return x

    def count_features(self, pixels: int, scopes: Sequence[Sequence[int | None]] | None = None) -> int:
        """
        How many features each leaf has, before the likelihood is bound; by default one for each pixel.

        :param int pixels: of a leaf.
        :param scopes: the entries of a datum that each leaf sees, ``None`` for padding; where they are known.
        """
        return pixels

    def feature_mask(self, mask: Tensor | None) -> Tensor | None:
        """
        Which features count, ``bool [.., leaf, feature]``, or ``None`` if all do; by default those of pixels that do.

        :param Tensor mask: pixels that count, ``bool``, broadcastable to ``[.., leaf, pixel]``, or ``None``.
        """
        return mask

    def supports(self, x: Tensor) -> Tensor:
        """Elementwise: is the value in the support?"""
        return torch.isfinite(x)

    def check(self, x: Tensor, mask: Tensor) -> None:
        """
        :raises ValueError: if a value of ``x`` with ``mask`` set is outside the support.
        """
        fits = self.supports(x)
        if bool(fits.all()):
            return
        wrong = mask & ~fits
        if wrong.any():
            value = x[wrong][0].item()
            rows = wrong.flatten(1).any(1)  # leaves may share entries, so that those are not counted here
            more = f" ({int(rows.sum())} such rows)" if rows.sum() > 1 else ""
            raise ValueError(
                f"x holds the value {value:g} in row {int(rows.nonzero()[0])}{more}; the likelihood "
                f"{type(self).__name__} accepts {self.accepts}"
            )


def _is_real(law: Any) -> bool:
    """Whether a distribution is known to be one of all real numbers, or does not say of which."""
    try:
        support = law.support
    except NotImplementedError:
        return True
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is None or support is constraints.real or support is constraints.real_vector
