# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent bits that are independent, and what all distributions of latent bits share."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.circuits.numerics import softplus
from pyro_spvae.distributions.bernoulli import LeafBernoulli
from pyro_spvae.distributions.leaf import LeafDistribution


def log_mass(logits: Tensor, value: Tensor) -> Tensor:
    r"""
    The log-mass of bits, :math:`\sum_i z_i \ell_i - \log(1 + e^{\ell_i})` nats, ``[..]``; as it stands also of numbers
    from 0 to 1.

    :param Tensor logits: :math:`\ell`, ``[.., D]``.
    :param Tensor value: broadcastable with them.
    """
    return (value.to(logits.dtype) * logits).sum(-1) - softplus(logits).sum(-1)


class Bits(LeafDistribution):
    """A distribution of latent bits, whose log-mass is extended to numbers from 0 to 1."""

    def _validate_sample(self, value: Tensor) -> None:
        if not bool(constraints.unit_interval.check(value).all()):
            raise ValueError(
                f"value of {type(self).__name__}.log_prob lies outside of the support, to which it is extended: "
                "numbers from 0 to 1 are needed"
            )


class FactorialBernoulli(Bits, LeafBernoulli):
    r"""
    Independent latent bits, one event ``[D]``,

    .. math:: \log p(z) = \sum_{i=1}^D z_i \ell_i - \log(1 + e^{\ell_i}),

    linear in each bit, and extended as such to numbers from 0 to 1 (as the objective of Jang et al. 2017 takes it).

    :param Tensor logits: :math:`\ell`, ``[.., D]``.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if ``logits`` is no floating-point tensor.
    :raises ValueError: if it has no dimension, or, under validation, a logit is NaN.

    Example::

        >>> from pyro_spvae.distributions import FactorialBernoulli
        >>> p = FactorialBernoulli(torch.zeros(2, 3))  # [leaf, D]
        >>> p.log_prob(p.sample())  # nats
        tensor([-2.0794, -2.0794])
    """

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        super().__init__(logits, validate_args=validate_args)

    def _log_prob(self, value: Tensor) -> Tensor:
        return log_mass(self.logits, value)
