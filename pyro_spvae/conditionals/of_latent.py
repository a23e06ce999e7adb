# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The conditional that the support of a latent variable asks for."""

from __future__ import annotations

from typing import Any

from pyro_spvae.blocks.latent import Latent, describe_support, support_key
from pyro_spvae.conditionals.bits import Bits
from pyro_spvae.conditionals.gaussian import Gaussian
from pyro_spvae.nn.network import Network

_OF_BITS, _REAL = (support_key(Latent(1, support).support) for support in (Bits.support, Gaussian.support))


def conditional(latent: Latent, network: Network, **of_bits: Any) -> Bits | Gaussian:
    """
    A block that states a latent variable by a network of what is given: :class:`Gaussian` for real ones, :class:`Bits`
    for bits.

    :param Latent latent: as the leaf declares it.
    :param Network network: from what is given to the outputs that the block needs.
    :param of_bits: further options of :class:`Bits`, such as groups.
    :raises ValueError: for variables of another support.

    Example::

        >>> from torch.distributions import constraints
        >>> from pyro_spvae.conditionals import conditional
        >>> from pyro_spvae.nn import MLP
        >>> bits = Latent(3, constraints.boolean)
        >>> [type(conditional(latent, MLP())).__name__ for latent in (Latent(3), bits)]
        ['Gaussian', 'Bits']
    """
    key = support_key(latent.support)
    if key == _OF_BITS:
        return Bits(network, **of_bits)
    if key == _REAL:
        return Gaussian(network)
    raise ValueError(f"a conditional of {describe_support(latent.support)} is not known; of real numbers or bits it is")
