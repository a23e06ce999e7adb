# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What only some distributions have: probabilities of kinds, means given draws, limits, a law of hidden pixels."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def kind_probabilities(law: Any) -> Tensor | None:
    """
    The probability of each kind, ``[*batch, *event, kind]``, of a Categorical distribution, whose axes may be events
    and which may be masked or expanded; ``None`` for any other.
    """
    base = law
    while getattr(base, "probs", None) is None:
        base = getattr(base, "base_dist", None)
        if base is None:
            return None
    probs: Tensor = base.probs
    if probs.dim() != len(base.batch_shape) + len(base.event_shape) + 1:  # such as those of counts
        return None
    return probs.expand(*law.batch_shape, *law.event_shape, probs.size(-1))


def limit_support(law: Any) -> Any | None:
    """
    The support of what a distribution is a smoothed form of, such as that of bits: what has ``limit_support`` is the
    distribution or one that it wraps; else ``None``.
    """
    while getattr(law, "limit_support", None) is None:
        law = getattr(law, "base_dist", None)
        if law is None:
            return None
    return law.limit_support


def means_given(law: Any, value: Tensor) -> Tensor | None:
    """
    The mean of each entry given the values of those that are drawn before it, which has the distribution's own mean as
    its expectation: where the distribution or one that it wraps has a method ``conditional_mean(value)``, such as that
    of bits in groups; else ``None``.

    :param Tensor value: drawn from it.
    """
    while getattr(law, "conditional_mean", None) is None:
        law = getattr(law, "base_dist", None)
        if law is None:
            return None
    try:
        found: Tensor = law.conditional_mean(value)
    except (NotImplementedError, AttributeError):  # of what it is made of
        return None
    return found


def mixture_of(law: Any) -> Any | None:
    """What has a method ``log_responsibilities(value)``: the distribution or one that it wraps; else ``None``."""
    while getattr(law, "log_responsibilities", None) is None:
        law = getattr(law, "base_dist", None)
        if law is None:
            return None
    return law


def hidden_pixels(law: Any, value: Tensor, seen: Tensor) -> Any:
    """
    The distribution of patches of which some pixels are seen: what its method ``given_seen(value, seen)`` returns, or
    itself where pixels are independent.

    :param Tensor value: ``[.., pixel]``, of which only the seen pixels are looked at.
    :param Tensor seen: ``bool``, broadcastable to it.
    """
    given_seen = getattr(law, "given_seen", None)
    return law if given_seen is None else given_seen(value, seen)


def responsibilities(law: Any, value: Tensor) -> Tensor | None:
    r"""
    The probabilities :math:`p(k \mid z)` of the components of a mixture given a value of it, ``[.., component]``;
    ``None`` for a distribution that is none, see :func:`mixture_of`.

    :param Tensor value: ``[.., *batch, *event]``.
    """
    mixture = mixture_of(law)
    if mixture is None:
        return None
    found: Tensor = mixture.log_responsibilities(value).exp()
    return found.expand(*value.shape[: value.dim() - len(law.event_shape)], found.size(-1))
