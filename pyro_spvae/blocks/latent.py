# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent variables as a leaf declares them: event shape and support, and what follows from the support."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.checks import is_positive
from pyro_spvae.distributions.joined import own_leaves
from pyro_spvae.distributions.kinds import kind_probabilities, limit_support, means_given, responsibilities


@dataclass(frozen=True)
class Latent:
    """
    A latent variable of a leaf.

    What summarises its distribution follows from the support: the mean of real and other continuous values, whose
    convex support it is in; probabilities of discrete ones, of which the mode is a value.

    :ivar tuple event_shape: shape of one value; an integer stands for a vector.
    :ivar Constraint support: of one value or of its entries, such as ``constraints.simplex``; real by default.

    Example::

        >>> from torch.distributions import constraints
        >>> latents = {"z": Latent(8), "p": Latent(5, constraints.simplex), "c": Latent((), constraints.boolean)}
        >>> latents["z"].event_shape, latents["p"].is_discrete, latents["c"].is_discrete
        ((8,), False, True)
    """

    event_shape: tuple[int, ...]
    support: Any = constraints.real

    def __init__(self, event_shape: int | tuple[int, ...], support: Any = constraints.real) -> None:
        shape = tuple(event_shape) if isinstance(event_shape, (tuple, list)) else (event_shape,)
        if not all(map(is_positive, shape)):
            raise ValueError(f"event_shape is {event_shape!r}; a positive integer, or a tuple of them, is needed")
        object.__setattr__(self, "event_shape", tuple(map(int, shape)))
        object.__setattr__(self, "support", support)

    @property
    def is_discrete(self) -> bool:
        """Whether values are numbers of kinds, or other than continuous."""
        return bool(self.support.is_discrete)

    def smooth(self, law: Any) -> Any:
        """The law that programs state it by: the distribution itself; of smoothed bits in training that of these."""
        return law

    def seen(self, value: Tensor) -> Tensor:
        """A value as networks see it: itself; of bits from -1 to 1."""
        return value

    def summary(self, law: Any, draws: Tensor | None = None) -> Tensor:
        """
        What a distribution says of the variable, ``[*batch, *event_shape]``: its mean; where values are numbers of more
        than two kinds, their probabilities, with one axis more.

        :param law: a distribution.
        :param Tensor draws: of it, in front of all else; where the distribution does not know its mean, their average,
            or that of the means of each entry given the draws of those before it.
        :raises ValueError: if there is neither.
        """
        probs = kind_probabilities(law) if self.is_discrete else None
        if probs is not None:
            return probs[..., 1] if probs.size(-1) == 2 else probs
        try:
            return law.mean
        except (NotImplementedError, AttributeError):
            if draws is None:
                raise ValueError(f"a {type(law).__name__} has no mean") from None
            means = means_given(law, draws)
            if means is not None:
                return means.mean(0)
            return draws.to(torch.get_default_dtype() if not draws.is_floating_point() else draws.dtype).mean(0)

    def components(self, law: Any, draws: Tensor) -> Tensor | None:
        r"""
        Probabilities of the mixture components that a distribution says the variable is of, ``[*batch, component]``:
        of one number of a kind the probability of each kind, the smallest first; of a mixture, which has a method
        ``log_responsibilities(value)``, the mean of :math:`p(k \mid z)` over draws. 0 for leaves that do not have the
        variable; ``None`` for any other.

        :param law: a distribution.
        :param Tensor draws: of it, in front of all else.
        """
        kinds = self._kinds
        probs = responsibilities(law, draws) if kinds is None else kind_probabilities(law)
        if kinds is None:
            probs = None if probs is None else probs.mean(0)
        elif probs is None:
            values = torch.arange(kinds.start, kinds.stop, device=draws.device).to(draws.dtype)
            values = values.reshape(-1, *[1] * len(law.batch_shape)).expand(-1, *law.batch_shape)
            probs = law.log_prob(values).exp().movedim(0, -1)
        own = own_leaves(law)
        return probs if probs is None or own is None else probs * own.unsqueeze(-1)

    @property
    def _kinds(self) -> range | None:
        """The values of one number of a kind."""
        kind, *bounds = support_key(self.support)
        if self.event_shape or kind != "integers" or not all(map(math.isfinite, bounds)):
            return None
        return range(int(bounds[0]), int(bounds[1]) + 1)

    def point(self, law: Any, draws: Tensor | None = None) -> Tensor:
        """
        A typical value inside of the support, ``[*batch, *event_shape]``: the mean where it is continuous, else the
        mode, or the first draw where that is not known.

        :raises ValueError: if there is nothing to take.
        """
        if not self.is_discrete:
            return self.summary(law, draws)
        try:
            return law.mode.nan_to_num()  # a fair coin has none for torch, but either value is one
        except (NotImplementedError, AttributeError):
            if draws is None:
                raise ValueError(f"a {type(law).__name__} has no mode") from None
            return draws[0]

    def between(self, start: Tensor, end: Tensor, t: float) -> Tensor:
        """A value from one to another one: on the line between them, or where values are discrete the nearer one."""
        if self.is_discrete:
            return start if t < 0.5 else end
        return torch.lerp(start, end, t)


def support_key(support: Any) -> tuple[Any, ...]:
    """
    What two constraints must share to be one support: the kind with its bounds. Whether an end of an interval belongs
    to it does not matter, nor how axes are counted as events.
    """
    while hasattr(support, "base_constraint"):  # of axes that are events, or of a mixture
        support = support.base_constraint
    infinite = math.inf
    if isinstance(support, type(constraints.real)):  # which a copy of a model is a copy of, too
        return ("interval", -infinite, infinite)
    if isinstance(support, type(constraints.boolean)):
        return ("integers", 0.0, 1.0)
    low, high = (_bound(getattr(support, name, None)) for name in ("lower_bound", "upper_bound"))
    if low is None and high is None:
        return (type(support).__name__.strip("_"),)
    kind = "integers" if support.is_discrete else "interval"
    return (kind, -infinite if low is None else low, infinite if high is None else high)


def describe_support(support: Any) -> str:
    """A constraint in words, such as "the integers from 0 to 4"."""
    return _described(support_key(support))


def _bound(value: Any) -> float | None:
    """A bound as a number; the first entry of a tensor stands for all."""
    if isinstance(value, Tensor):
        return None if value.is_meta else float(value.detach().reshape(-1)[0])
    return None if value is None else float(value)


def check_sites(declared: Mapping[str, Latent], laws: Mapping[str, Any], program: str, leaf: str) -> None:
    """
    Compares the latent sites of a program with what the leaf declares: names, event shapes and supports. The smoothed
    form of a distribution, which states its ``limit_support``, may stand for it.

    :param dict declared: by site.
    :param dict laws: the distributions that the program states by site.
    :param str program: the program, for messages.
    :param str leaf: the leaf, likewise.
    :raises ValueError: for the first difference, in one sentence.
    """
    if declared.keys() != laws.keys():
        stated, wanted = (", ".join(sites) or "none" for sites in (laws, declared))
        raise ValueError(
            f"{program} states the latent sites {stated}, but the leaf {leaf} declares {wanted}; they must agree"
        )
    for name, latent in declared.items():
        shape = tuple(laws[name].event_shape)
        if shape != latent.event_shape:
            raise ValueError(
                f"{program} draws the site '{name}' with events of shape {list(shape)}, but the leaf {leaf} declares "
                f"{list(latent.event_shape)}; one shape is needed"
            )
        if isinstance(laws[name], Delta) and bool(latent.support.check(laws[name].v).all()):
            continue  # a point, whatever its neighbours are
        try:
            found, needed = support_key(laws[name].support), support_key(latent.support)
        except NotImplementedError:
            continue  # a distribution that does not say
        limit = limit_support(laws[name])
        if found != needed and (limit is None or support_key(limit) != needed):
            raise ValueError(
                f"{program} draws the site '{name}' from {_described(found)}, but the leaf {leaf} declares "
                f"{_described(needed)}; one support is needed"
            )


def _described(key: tuple[Any, ...]) -> str:
    kind, *bounds = key
    if not bounds:
        return f"the support {kind}"
    if bounds == [-math.inf, math.inf] and kind == "interval":
        return "the real numbers"
    noun = "the integers" if kind == "integers" else "numbers"
    return f"{noun} from {bounds[0]:g} to {bounds[1]:g}"
