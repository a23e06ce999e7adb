# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Boltzmann machines whose bits are smoothed: each is replaced by a number drawn given it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions.boltzmann.boltzmann import Boltzmann
from pyro_spvae.distributions.boltzmann.enumeration import chunks
from pyro_spvae.distributions.leaf import LeafDistribution
from pyro_spvae.distributions.smoothing.draws import uniform
from pyro_spvae.distributions.smoothing.registry import register_smoothing

#: units of the smaller side up to which the density is computed
DENSITY_UNITS = 12


class SmoothedBoltzmann(LeafDistribution):
    r"""
    The law of :math:`\zeta` with :math:`\zeta_j \sim r(\cdot \mid z_j)` and :math:`z` of a Boltzmann machine (Vahdat et
    al. 2018, section 4),

    .. math:: p(\zeta) = \sum_z \frac{e^{-E(z)}}{Z} \prod_j r(\zeta_j \mid z_j),

    which is a sum over the states of the smaller side, with the others summed out, if that has at most 12 units. Else
    there is no density, and bounds need ``kl="analytic"``, which takes the divergence of bits in its place.

    :param Boltzmann bits: the law of the bits.
    :param smoothing: r, with ``support``, ``log_density(zeta)`` and ``conditional(z, rho)``.
    :param bool validate_args: whether to check values; None follows Pyro's global switch.

    Example::

        >>> from pyro_spvae.distributions import Boltzmann, OverlappingExponentials, smoothed
        >>> law = smoothed(Boltzmann(torch.zeros(1, 4), torch.zeros(1, 2, 2)), OverlappingExponentials(beta=8.0))
        >>> zeta = law.sample()
        >>> type(law).__name__, bool(((zeta >= 0) & (zeta <= 1)).all())
        ('SmoothedBoltzmann', True)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    #: of which bits it is a smoothed form
    limit_support = constraints.boolean

    def __init__(self, bits: Boltzmann, smoothing: Any, *, validate_args: bool | None = None) -> None:
        self.bits, self.smoothing = bits, smoothing
        self._dtype = bits._dtype
        super().__init__(bits.batch_shape, bits.event_shape[0], None, validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> Any:
        """That of the smoothing."""
        return constraints.independent(self.smoothing.support, 1)

    @property
    def machine(self) -> Any:
        """That of the bits."""
        return self.bits.machine

    @property
    def log_z(self) -> Tensor:
        """That of the bits."""
        return self.bits.log_z

    def detach(self) -> Self:
        """The same law cut from the graph."""
        new = self.expand(self.batch_shape)
        new.bits = self.bits.detach()
        return new

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws bits, and a number given each.

        :param torch.Size sample_shape: shape of draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            z = self.bits.expand(self.batch_shape).sample(sample_shape)
            drawn: Tensor = self.smoothing.conditional(at_least_single(z), uniform(z.shape, at_least_single(z)))
            return drawn.to(z.dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        machine = self.machine
        if machine.listed > DENSITY_UNITS:
            raise ValueError(
                f"the density of a smoothed Boltzmann machine whose smaller side has {machine.listed} units was asked "
                f'for, which is known for at most {DENSITY_UNITS}; kl="analytic" needs no density'
            )
        off, on = self.smoothing.log_density(value.to(machine.bias.dtype))  # [.., leaf, D]
        on = on + machine.bias
        few_off, few_on, many_off, many_on = (
            log_r[..., units].unsqueeze(0) for units in (machine.few, machine.many) for log_r in (off, on)
        )
        parts = []
        for states in chunks(machine, max(1, off[..., 0].numel() // machine.leaves)):
            apart = states.reshape(len(states), *[1] * (off.dim() - 1), machine.listed)  # [state, .., 1, few]
            few = torch.where(apart > 0, few_on, few_off).sum(-1)
            few = few + machine.few_interaction(states).reshape(len(states), *[1] * (off.dim() - 2), -1)
            fields = machine.fields(apart) - machine.bias[:, machine.many]
            parts.append((few + torch.logaddexp(many_off, many_on + fields).sum(-1)).logsumexp(0))
        return torch.stack(parts).logsumexp(0) - self.log_z


@register_smoothing(Boltzmann)
def _smoothed(law: Boltzmann, smoothing: Any) -> SmoothedBoltzmann:
    return SmoothedBoltzmann(law, smoothing, validate_args=False).expand(law.batch_shape)
