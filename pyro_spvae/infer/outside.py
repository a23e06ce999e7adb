# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sites of the data plate outside the leaf plate, beside bounds that average particles in each leaf."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.infer.site import LEAF_PLATE


class OutsideSites:
    """The log-densities of the sites, of traces that were seen since the last check."""

    def __init__(self) -> None:
        self._sites: list[tuple[str, Tensor]] = []

    def add(self, name: str, log_prob: Tensor) -> None:
        """
        :param str name: of the site.
        :param Tensor log_prob: nats, ``[.., data]``.
        """
        self._sites.append((name, log_prob))

    def check_alike(self, total: Tensor) -> None:
        """
        The sum over sites must be the same for all particles where it is added to means over them.

        :param Tensor total: nats, ``[particle, .., data]``.
        :raises ValueError: if it is not; or if it is NaN, which differs from itself, naming the site.
        """
        sites, self._sites = self._sites, []
        if not bool((total != total[:1]).any()):
            return
        if bool(total.isnan().any()):
            for wrong in (torch.isnan, torch.isinf):  # infinite ones of both signs add up to NaN
                for name, log_prob in sites:
                    if bool((places := wrong(log_prob)).any()):
                        raise ValueError(
                            f"CircuitELBO: the log-density of the site '{name}' is {float(log_prob[places][0])} in row "
                            f"{int(places.nonzero()[0, -1])} of the data, where a number is needed; look for values or "
                            "parameters that are not finite"
                        )
        raise ValueError(
            f"CircuitELBO: a site outside the plate '{LEAF_PLATE}' depends on latent variables inside it; "
            "pass reduce='root'"
        )
