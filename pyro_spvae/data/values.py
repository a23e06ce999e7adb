# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What kind of values data hold."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_spvae.checks import plain
from pyro_spvae.data.column import Column

Nats = TypeVar("Nats", float, Tensor)


@dataclass(frozen=True)
class Values:
    """What kind of values data hold; it decides which likelihoods fit and in which unit results compare.

    A model keeps the kind of values that it is a density of, and refuses others. Kinds that differ only in how they
    came about compare as equal.

    :param float low: smallest possible value, or the smallest that occurs where none is known.
    :param float high: largest possible value, or the largest that occurs where none is known.
    :param int levels: number of integer grey levels 0 .. levels - 1; ``None`` for continuous values.
    :param int scaled_from: number of grey levels that continuous values in [0, 1] were dequantised or scaled from;
        ``None`` for grey levels themselves and for values that never were any.
    :param bool bounded: whether no value can lie outside of ``low`` and ``high``; ``False`` where these are the
        smallest and the largest that occur.
    :param str preprocess: how they were made from others, see :func:`pyro_spvae.data.preprocessing.preprocessing`.
    :param Values raw: from which kind; ``None`` for values as they are.
    :raises ValueError: if the parts contradict each other.

    Example::

        >>> from pyro_spvae.data import Values
        >>> levels = Values.grey_levels(256)
        >>> levels.described(), round(levels.bits_per_dim(-784 * 1.3863, (1, 28, 28)), 3)
        ('grey levels 0 to 255', 2.0)
    """

    low: float
    high: float
    levels: int | None = None
    scaled_from: int | None = None
    bounded: bool = field(default=True, compare=False, repr=False)
    preprocess: str = field(default="none", compare=False, repr=False)
    raw: Values | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for part in fields(self):
            object.__setattr__(self, part.name, plain(getattr(self, part.name)))  # as data.json holds it
        if self.levels is not None and (self.levels < 2 or (self.low, self.high) != (0, self.levels - 1)):
            raise ValueError(
                f"values with levels={self.levels} run from {self.low} to {self.high}, "
                "but L >= 2 grey levels run from 0 to L - 1."
            )
        if self.scaled_from is not None and (self.levels is not None or (self.low, self.high) != (0, 1)):
            raise ValueError(
                f"scaled_from={self.scaled_from} is for continuous values between 0 and 1, not for "
                f"levels={self.levels} between {self.low} and {self.high}."
            )

    @classmethod
    def grey_levels(cls, levels: int) -> Values:
        """Integer grey levels 0 .. levels - 1.

        :param int levels: how many, at least 2.
        """
        return cls(low=0, high=levels - 1, levels=levels)

    @classmethod
    def occurring(cls, blocks: Iterable[Tensor]) -> Values:
        """
        Continuous values of which nothing is known but the smallest and the largest that occur.

        :param blocks: the values, all together or a part at a time.
        """
        ends = [(float(block.min()), float(block.max())) for block in blocks if block.numel()]
        low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
        return cls(low=low, high=high, bounded=False)

    @classmethod
    def from_dict(cls, given: Any) -> Values:
        """
        The inverse of :meth:`to_dict`.

        :raises ValueError: if it is no such dict.
        """
        kinds: dict[str, tuple[type, ...]] = {"low": (int, float), "high": (int, float), "bounded": (bool,)}
        kinds |= {"levels": (int, type(None)), "scaled_from": (int, type(None)), "preprocess": (str,)}
        whole = isinstance(given, dict) and {"low", "high"} <= given.keys() <= {part.name for part in fields(cls)}
        if not whole or not all(
            isinstance(given[name], kind) and (kind == (bool,) or not isinstance(given[name], bool))
            for name, kind in kinds.items()
            if name in given
        ):
            raise ValueError(f"values is {given!r}; a dict with low, high and what else Values have is needed")
        if given.get("raw") is not None:
            given = given | {"raw": cls.from_dict(given["raw"])}
        found = cls(**given)
        # the versions that did not say it knew limits of these alone
        known = found.levels is not None or found.scaled_from is not None or (found.low, found.high) == (0, 1)
        return found if "bounded" in given else replace(found, bounded=known)

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def __str__(self) -> str:
        return self.described()

    def described(self, is_image: bool = True, columns: Sequence[Column] | None = None) -> str:
        """
        In words, such as "grey levels 0 to 16".

        :param bool is_image: whether a row is an image; else it is one of a table, which has no grey levels.
        :param columns: what its columns are: each has a range of its own then, where no limits are known.
        """
        levels = "grey levels" if is_image else "whole numbers"
        if columns is not None and self.levels is None and not self.bounded:
            return f"{len(columns)} column{'' if len(columns) == 1 else 's'}"
        kind = f"{levels} 0 to {self.high:g}" if self.levels else f"values from {self.low:.4g} to {self.high:.4g}"
        if self.raw is not None:
            return f"{kind}, made of {self.raw.described(is_image)} by {self.preprocess!r}"
        return kind if self.scaled_from is None else f"{kind}, scaled from {self.scaled_from} {levels}"

    def fault(self, x: Tensor, observed: Tensor | None = None) -> str | None:
        """
        What is wrong with data that are not of this kind; ``None`` if nothing is.

        :param Tensor x: finite values.
        :param Tensor observed: ``bool``, broadcastable to ``x``, True = looked at.
        """
        seen = x if observed is None else torch.where(observed, x, torch.full_like(x, self.low))
        low, high = (float(end) for end in seen.aminmax())
        width = 0.0 if self.bounded else self.high - self.low  # how far others than those that occurred may lie
        if low < self.low - width or high > self.high + width:
            return f"runs from {low:.4g} to {high:.4g}"
        if self.levels is not None and not is_grey_levels(seen, self.levels):
            return "holds other values than whole numbers"
        return None

    def check(self, x: Tensor, observed: Tensor | None = None) -> None:
        """
        Whether a model of this kind of values can be asked about data.

        Where limits are not known, data that lie farther outside of what occurred than this is wide get a warning.

        :raises ValueError: if they are not of this kind.
        """
        fault = self.fault(x, observed)
        if fault is None:
            return
        is_image = x.dim() == 4
        sentence = f"x {fault}, but the model is a density of {self.described(is_image)}"
        if not self.bounded:
            warnings.warn(f"{sentence}, those that it was trained on; check the unit of x", stacklevel=4)
            return
        if self.raw is None:
            raise ValueError(f"{sentence}; give such values")
        raise ValueError(f"{sentence}; make them of {self.raw.described(is_image)} by spvae.preprocess(x)")

    def bits_per_dim(self, log_likelihood: Nats, event_shape: Sequence[int]) -> Nats | None:
        r"""A log-likelihood in bits for each dimension (lower is better), the unit in which codes compare.

        For grey levels this is :math:`-\ell / (D \ln 2)`. For a density on [0, 1] of values that were dequantised or
        scaled from :math:`L` grey levels it is :math:`-\ell / (D \ln 2) + \log_2 L`: a grey level is a bin of width
        :math:`1/L`, so the two compare. Any other continuous density depends on the unit of measurement, and has no
        such figure.

        :param log_likelihood: :math:`\ell` of a row or the mean over rows, in nats; a float or a tensor.
        :param event_shape: shape of a row.
        :returns: bits per dimension, or ``None`` where they are undefined.
        """
        if self.levels is None and self.scaled_from is None:
            return None
        bits = -log_likelihood / (math.prod(event_shape) * math.log(2))
        return bits if self.scaled_from is None else bits + math.log2(self.scaled_from)


def is_grey_levels(x: Tensor, levels: int) -> bool:
    """Whether every entry is a whole number between 0 and ``levels - 1`` (NaN is not).

    :param torch.Tensor x: values to look at, `[..]`.
    :param int levels: the number of grey levels.
    """
    return bool(((x >= 0) & (x < levels) & (x == x.floor())).all())
