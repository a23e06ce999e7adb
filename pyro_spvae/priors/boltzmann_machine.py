# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A Boltzmann machine as the prior of latent bits, trained by persistent chains."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions.boltzmann import (
    Boltzmann,
    GeneralMachine,
    Machine,
    RestrictedMachine,
    annealed_importance_sampling,
    log_normaliser,
    tempered_sweep,
)
from pyro_spvae.priors.mixture_of_gaussians import vector
from pyro_spvae.priors.prior import Prior

_AUTO_UNITS = 8  # of the smaller side, up to which listing its states costs a step less than moving chains
_FINAL_UNITS, _PASSING_UNITS = 20, 16  # up to which log Z is exact in figures, and before validations
_PASSING_CHAINS, _PASSING_TEMPERATURES = 128, 500


class BoltzmannMachine(Prior):
    r"""
    :math:`p(z) = e^{-E(z)} / Z` for every leaf, with :math:`E(z) = -a^T z - z_l^T W z_r` of D bits in two sides: the
    restricted Boltzmann machine that is the prior of Vahdat et al. 2018 (eq. (6), appendix E); with
    ``restricted=False`` all pairs interact, :math:`E(z) = -a^T z - \sum_{i<j} J_{ij} z_i z_j`.

    Bounds need :math:`\log Z` and its gradient, :math:`-E_p[\nabla E]`. In training the gradient is the mean over
    *persistent chains* (Tieleman 2008), which :meth:`advance` moves by Gibbs sampling before each step; the value is
    the last estimate, made before each validation, so that bounds of steps in between are off by how much
    :math:`\log Z` has changed since then. Where the smaller side (of a general machine all of it) has few units its
    states are listed in each step, and both are exact. Before figures are reported :math:`\log Z` is computed exactly
    if at most 20 units need to be listed, else estimated by annealed importance sampling (Salakhutdinov and Murray
    2008). The estimate is too low in expectation, and log-likelihoods are as much too high; :meth:`stated` says how
    good it is.

    Parameters start at 0, as in the authors' code, where units are independent coins and :math:`\log Z = D \log 2`. All
    units being visible, nothing is symmetric that would have to be broken.

    :math:`\log Z` is that of the parameters when it was computed last. Nobody knows that they were changed by hand
    since then: call ``spvae.prepare_evaluation()`` before asking for densities.

    :param tuple sides: numbers of units of the two sides, the first ones of a value to the left; halves if ``None``.
    :param bool restricted: whether units interact with those of the other side alone.
    :param int chains: number of persistent chains of each leaf, and temperature.
    :param int sweeps: sweeps of Gibbs sampling a step; also from a chain to a draw.
    :param int temperatures: with more than one each chain also runs at higher temperatures and exchanges states
        (parallel tempering, Hukushima and Nemoto 1996), from inverse temperature 1 to 0, where couplings count nothing.
    :param str gradient: of :math:`\log Z` by ``chains`` or ``exact``; ``auto`` is exact where the smaller side has at
        most 8 units. Chains move in any case, draws start from them.
    :param int ais_chains: chains of annealed importance sampling.
    :param int ais_temperatures: its number of inverse temperatures.
    :raises ValueError: for options out of range; when bound, if the sides do not add up to the bits of the latent
        variable, or exact gradients need more states than can be listed.

    Example::

        >>> prior = BoltzmannMachine(chains=10).bind(leaves=1, event_shape=(6,))
        >>> prior().sample().shape
        torch.Size([1, 6])
    """

    support: Any = constraints.boolean
    process_buffers = ("states",)
    log_z: Tensor
    log_z_standard_error: Tensor
    states: Tensor  # bool [leaf, temperature, chain, D]

    single_buffers = ("log_z", "log_z_standard_error")

    def __init__(
        self,
        sides: tuple[int, int] | None = None,
        restricted: bool = True,
        chains: int = 1000,
        sweeps: int = 40,
        temperatures: int = 1,
        gradient: Literal["auto", "chains", "exact"] = "auto",
        ais_chains: int = 1024,
        ais_temperatures: int = 1000,
    ) -> None:
        super().__init__()
        self.restricted = checks.boolean("restricted", restricted)
        if sides is not None:
            pair = isinstance(sides, (tuple, list)) and len(sides) == 2 and all(map(checks.is_positive, sides))
            if not pair or not restricted:
                wanted = (
                    "two positive integers are needed" if restricted else "a machine that is not restricted has none"
                )
                raise ValueError(f"sides is {sides!r}; {wanted}")
        self.sides = None if sides is None else (int(sides[0]), int(sides[1]))
        self.chains = checks.positive_integer("chains", chains)
        self.sweeps = checks.positive_integer("sweeps", sweeps)
        self.temperatures = checks.positive_integer("temperatures", temperatures)
        self.gradient = checks.one_of("gradient", gradient, ("auto", "chains", "exact"))
        for name, value in (("ais_chains", ais_chains), ("ais_temperatures", ais_temperatures)):
            if not checks.is_integer(value) or value < 2:
                raise ValueError(f"{name} is {value!r}; an integer of at least 2 is needed")
        self.ais_chains, self.ais_temperatures = ais_chains, ais_temperatures

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        """Makes biases ``[leaf, D]``, weights ``[leaf, left, right]`` or ``[leaf, D, D]``, and chains."""
        (size,) = vector("BoltzmannMachine", event_shape)
        left, right = self.sides or (size // 2, size - size // 2)
        if self.restricted and (left + right != size or not left):
            given = f"sides is {self.sides!r}" if self.sides else "the halves of one bit are given as sides"
            raise ValueError(f"{given}, but the latent variable has {size} bits; two numbers that add up are needed")
        listed = min(left, right) if self.restricted else size
        if self.gradient == "exact" and listed > _FINAL_UNITS:
            raise ValueError(
                f"gradient is 'exact', but {listed} units need to be listed in each step; at most {_FINAL_UNITS} can be"
            )
        shape = (left, right) if self.restricted else (size, size)
        self.bias = nn.Parameter(torch.zeros(leaves, size))
        self.weight = nn.Parameter(torch.zeros(leaves, *shape))
        self.register_buffer("log_z", torch.full((leaves,), size * math.log(2)))
        self.register_buffer("log_z_standard_error", torch.zeros(leaves))
        self.register_buffer("states", torch.rand(leaves, self.temperatures, self.chains, size) < 0.5)

    @property
    def machine(self) -> Machine:
        """The machine of the present parameters, in at least single precision."""
        self.sizes  # noqa: B018, says so if there are none
        kind = RestrictedMachine if self.restricted else GeneralMachine
        return kind(at_least_single(self.bias), at_least_single(self.weight))

    def advance(self, progress: float) -> None:
        """Moves the persistent chains, by sweeps of Gibbs sampling and, with several temperatures, exchanges."""
        with torch.no_grad():
            self.states.copy_(tempered_sweep(self.machine, self.states, self.sweeps) > 0.5)

    def before_validation(self) -> None:
        """A cheap log Z: exact where at most 16 units are listed, else by fewer chains than figures take."""
        chains, temperatures = self.ais_chains, self.ais_temperatures
        self._normalise(_PASSING_UNITS, min(chains, _PASSING_CHAINS), min(temperatures, _PASSING_TEMPERATURES))

    def prepare_evaluation(self) -> None:
        """Computes log Z and its standard error, exactly where at most 20 units are listed."""
        self._normalise(_FINAL_UNITS, self.ais_chains, self.ais_temperatures)

    def _normalise(self, listed: int, chains: int, temperatures: int) -> None:
        machine = self.machine.detach()
        with torch.no_grad():
            if machine.listed <= listed:
                self.log_z.copy_(log_normaliser(machine.precise(torch.float64)))
                self.log_z_standard_error.zero_()
            else:
                found = annealed_importance_sampling(machine, chains, temperatures)
                self.log_z.copy_(found.log_z)
                self.log_z_standard_error.copy_(found.standard_error)

    def stated(self) -> dict[str, float]:
        """
        ``log_z`` that figures rest on, the mean over leaves, and the largest ``log_z_standard_error``, 0 where it is
        exact; nats.
        """
        return {
            "log_z": float(self.log_z.double().mean()),
            "log_z_standard_error": float(self.log_z_standard_error.double().max()),
        }

    def forward(self) -> Boltzmann:
        machine = self.machine
        log_z = self._in_training(machine) if self.training else self.log_z
        return Boltzmann(self.bias, self.weight, log_z, self.restricted, self.states[:, 0], self.sweeps)

    def _in_training(self, machine: Machine) -> Tensor:
        """log Z with its gradient; where it is not exact the value is the last estimate."""
        if self.gradient == "exact" or self.gradient == "auto" and machine.listed <= _AUTO_UNITS:
            return log_normaliser(machine)
        surrogate = -machine.expected_energy(self.states[:, 0])
        return self.log_z + (surrogate - surrogate.detach())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        given = state_dict.get(f"{prefix}states")
        if isinstance(given, Tensor) and given.shape != self.states.shape:
            raise ValueError(
                f"the state has chains of shape {list(given.shape)}, but this BoltzmannMachine has chains of shape "
                f"{list(self.states.shape)} ([leaf, temperature, chain, bit]); make it with the same numbers"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)
