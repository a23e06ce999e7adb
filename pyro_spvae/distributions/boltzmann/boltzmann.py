# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The law of the bits of a Boltzmann machine, given its normaliser."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.distributions.boltzmann import enumeration
from pyro_spvae.distributions.boltzmann.gibbs import Gibbs
from pyro_spvae.distributions.boltzmann.machine import GeneralMachine, Machine, RestrictedMachine
from pyro_spvae.distributions.leaf import LeafDistribution, checked_parameter, full_precision

#: units of the smaller side up to which draws and means are exact
LISTED_UNITS = 10


class Boltzmann(LeafDistribution):
    r"""
    A Boltzmann machine of D bits in every leaf, of known normaliser,

    .. math:: \log p(z) = -E(z) - \log Z, \quad E(z) = -a^T z - \tfrac12 z^T J z,

    restricted (:math:`J` couples two sides alone, :math:`E(z) = -a^T z - z_l^T W z_r`) or general.

    Draws are exact where the smaller side has at most 10 units (a general machine as many in all). Else they are the
    ends of Gibbs chains, which start from given states, such as those of persistent chains, each taken about equally
    often, or from independent units with the machine's biases; then they are as good as the chains mix.

    :param Tensor bias: :math:`a`, ``[leaf, D]``.
    :param Tensor weight: :math:`W`, ``[leaf, left, right]``, whose sides add up to D; or, with ``restricted=False``,
        ``[leaf, D, D]``, of which the upper triangle holds :math:`J_{ij}` for i < j and nothing else counts.
    :param Tensor log_z: :math:`\log Z` in nats, ``[leaf]``; the exact one if ``None``.
    :param bool restricted: which of both the weights are.
    :param Tensor chains: states that draws start from, ``[leaf, chain, D]``.
    :param int sweeps: sweeps of Gibbs sampling from there to a draw.
    :param bool validate_args: whether to check values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor.
    :raises ValueError: if shapes do not fit each other.

    Example::

        >>> from pyro_spvae.distributions import Boltzmann
        >>> law = Boltzmann(torch.zeros(1, 3), torch.ones(1, 1, 2))
        >>> law.log_prob(torch.tensor([[1.0, 1.0, 0.0]])) + law.log_z
        tensor([1.])
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(
        self,
        bias: Tensor,
        weight: Tensor,
        log_z: Tensor | None = None,
        restricted: bool = True,
        chains: Tensor | None = None,
        sweeps: int = 100,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self._dtype = bias.dtype if isinstance(bias, Tensor) else None
        bias, weight = (
            checked_parameter("Boltzmann", name, value, least)
            for name, value, least in (("bias", bias, 2), ("weight", weight, 3))
        )
        leaves, size = bias.shape
        sides = weight.size(1) + weight.size(2)
        fits = weight.dim() == 3 and weight.size(0) == leaves
        if not fits or (sides != size if restricted else weight.shape[1:] != (size, size)):
            wanted = f"[{leaves}, left, right] with sides that add up to {size}"
            raise ValueError(
                f"weight of Boltzmann has the shape {list(weight.shape)} beside a bias of {list(bias.shape)}; "
                f"{wanted if restricted else [leaves, size, size]} is needed"
            )
        self.machine: Machine = (RestrictedMachine if restricted else GeneralMachine)(bias, weight)
        self.log_z = enumeration.log_normaliser(self.machine) if log_z is None else log_z.to(bias.dtype)
        self.chains, self.sweeps = chains, sweeps
        super().__init__((leaves,), size, None, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Bits."""
        return constraints.independent(constraints.boolean, 1)

    @property
    def mean(self) -> Tensor:
        """
        Probabilities of the bits, ``batch_shape + event_shape``.

        :raises NotImplementedError: if there are too many states to list.
        """
        if self.machine.listed > LISTED_UNITS:
            raise NotImplementedError("the mean of a Boltzmann machine of many units is not known")
        return self._full(enumeration.mean(self.machine))

    def detach(self) -> Self:
        """The same law cut from the graph."""
        new = self.expand(self.batch_shape)
        new.machine, new.log_z = self.machine.detach(), self.log_z.detach()
        return new

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws bits, in the type of the biases.

        :param torch.Size sample_shape: shape of draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        shape = self._extended_shape(sample_shape)
        leaves = self.machine.leaves
        number = shape[:-1].numel() // leaves
        with torch.no_grad(), full_precision(self.machine.bias):
            drawn = self._drawn(number).to(self._dtype)  # [leaf, number, D]
        if leaves == 1:
            return drawn.reshape(shape)
        return drawn.reshape(leaves, *shape[:-2], shape[-1]).movedim(0, -2)

    def _drawn(self, number: int) -> Tensor:
        machine = self.machine.detach()
        if machine.listed <= LISTED_UNITS:
            return enumeration.sample(machine, number)
        sampler = Gibbs.of(machine, number)
        if self.chains is None:
            return sampler.sweep(sampler.independent(machine.bias), self.sweeps)
        # no start is taken twice before all are
        rounds = -(-number // self.chains.size(1))
        order = torch.cat([torch.randperm(self.chains.size(1), device=machine.bias.device) for _ in range(rounds)])
        return sampler.sweep(self.chains[:, order[:number]], self.sweeps)

    def _log_prob(self, value: Tensor) -> Tensor:
        return -self.machine.energy(value.to(self.machine.bias.dtype)) - self.log_z

    def __repr__(self) -> str:
        sides = f"sides: {list(self.machine.weight.shape[1:])}, " if isinstance(self.machine, RestrictedMachine) else ""
        return f"Boltzmann({sides}batch_shape: {tuple(self.batch_shape)}, event_shape: {tuple(self.event_shape)})"
