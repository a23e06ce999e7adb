# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Independent latent bits, smoothed."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.checks import instance
from pyro_spvae.distributions.factorial_bernoulli import FactorialBernoulli
from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter
from pyro_spvae.distributions.smoothing.draws import uniform
from pyro_spvae.distributions.smoothing.registry import register_smoothing
from pyro_spvae.distributions.smoothing.smoothing import Smoothing


class SmoothedBernoulli(LeafDistribution):
    r"""
    Independent smoothed bits, one event ``[D]``: with the smoothing transformation :math:`r` and
    :math:`q_i = \sigma(\ell_i)` the mixtures

    .. math:: q(\zeta) = \prod_{i=1}^D \left[(1 - q_i)\, r(\zeta_i \mid 0) + q_i\, r(\zeta_i \mid 1)\right]

    (Vahdat et al. 2018, eq. 2), whose draws are differentiable in the logits. Under a prior that is smoothed alike,
    their log-densities give the bound of the marginals, eq. (5); the registered divergences of the bits that of the
    joint law, eq. (4).

    :param Tensor logits: log-odds :math:`\ell` of the bits, ``[.., D]``.
    :param Smoothing smoothing: :math:`r`.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if ``logits`` is no floating-point tensor, or ``smoothing`` no smoothing transformation.

    Example::

        >>> from pyro_spvae.distributions import OverlappingExponentials, SmoothedBernoulli
        >>> q = SmoothedBernoulli(torch.zeros(2, 3, requires_grad=True), OverlappingExponentials(beta=8.0))
        >>> zeta = q.rsample()  # [2, 3], between 0 and 1
        >>> q.log_prob(zeta).shape  # nats
        torch.Size([2])
    """

    arg_constraints = {"logits": ParameterConstraint(constraints.real, 1)}
    has_rsample = True

    #: support of the bits, of which this is the smoothed form
    limit_support: Any = constraints.boolean

    def __init__(self, logits: Tensor, smoothing: Smoothing, *, validate_args: bool | None = None) -> None:
        self.logits = checked_parameter("SmoothedBernoulli", "logits", logits, 1)
        instance("smoothing", smoothing, Smoothing)
        self.smoothing = smoothing
        self._dtype = logits.dtype
        super().__init__(logits.shape[:-1], logits.shape[-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """That of the smoothing transformation."""
        return constraints.independent(self.smoothing.support, 1)

    @property
    def bits(self) -> FactorialBernoulli:
        """The distribution of the bits."""
        return FactorialBernoulli(self.logits, validate_args=False).expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``."""
        of_zero, of_one = (mean.to(self.logits.dtype) for mean in self.smoothing.means())
        return self._full(of_zero + (of_one - of_zero) * self.logits.sigmoid())

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws, differentiable in the logits.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        rho = uniform(self._extended_shape(sample_shape), self.logits)
        return self.smoothing.rsample(self.logits, rho).to(self._dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        return self._sum_event(self.smoothing.log_prob(self.logits, value.to(self.logits.dtype)))


@register_smoothing(FactorialBernoulli)
def _smoothed(law: FactorialBernoulli, smoothing: Smoothing) -> SmoothedBernoulli:
    smooth = SmoothedBernoulli(law.logits, smoothing, validate_args=False).expand(law.batch_shape)
    smooth._dtype = law._dtype
    return smooth
