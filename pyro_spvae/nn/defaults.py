# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The networks that a program takes where none are given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pyro_spvae import checks
from pyro_spvae.nn.joint import Joint
from pyro_spvae.nn.mlp import MLP
from pyro_spvae.nn.network import Network


def networks_or_defaults(
    given: Mapping[str, Network | None],
    options: Mapping[str, Any],
    several: Collection[str] = (),
    shared: bool = False,
) -> list[Network]:
    """
    The networks that a program was given, or by default multilayer perceptrons.

    :param dict given: by the names of the arguments, ``None`` for the default.
    :param dict options: of the defaults; ``None`` for theirs.
    :param several: names of those of several inputs, which are :class:`~pyro_spvae.nn.Joint` by default; the others are
        :class:`~pyro_spvae.nn.MLP`.
    :param bool shared: whether the latter share a trunk.
    :raises TypeError: if one is no network.
    :raises ValueError: if all are given and options too, or an option is out of range.
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    found = []
    for name, network in given.items():
        if network is None:
            network = Joint(**chosen) if name in several else MLP(**({"networks": "shared"} if shared else {}) | chosen)
        checks.instance(name, network, Network)
        found.append(network)
    if chosen and None not in given.values():
        names, are = " and ".join(given), "are" if len(given) > 1 else "is"
        raise ValueError(f"{names} {are} given, so leave out the options of the default network ({', '.join(chosen)})")
    return found
