# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which latent sites have a divergence in the place of their log-densities."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.distributions import divergence
from pyro_spvae.distributions.joined import as_given


class ClosedSites:
    r"""
    The sites whose divergence :math:`E_q[\log q - \log p]` stands in the place of :math:`\log q - \log p`.

    :param kl: ``"sample"``: none; ``"analytic"``: all whose pair of distributions has one; or names of sites, as a
        collection or as text such as ``"z, h1"``: these, and each must have one.
    :ivar frozenset named: those that are named.
    :raises ValueError: if it is something else.
    """

    def __init__(self, kl: str | Collection[str]) -> None:
        names = checks.closed_sites(kl)
        self.all = names == ("analytic",)
        self.named = frozenset(names).difference(checks.KLS)

    def __bool__(self) -> bool:
        return self.all or bool(self.named)

    def __str__(self) -> str:
        return ", ".join(sorted(self.named)) if self.named else checks.KLS[self.all]

    def __contains__(self, name: str) -> bool:
        return self.all or name in self.named

    def check(self, sites: Collection[str]) -> None:
        """
        :param sites: names of the latent sites that there are.
        :raises ValueError: if another one is named.
        """
        for name in sorted(self.named.difference(sites)):
            checks.latent_site("kl names", name, sites)

    def divergence(self, name: str, guide: Any, model: Any, value: Tensor) -> Tensor | None:
        """
        The divergence of a site, if it is one of these and it is known.

        :param str name: of the site.
        :param guide: its distribution in the guide.
        :param model: that in the model.
        :param Tensor value: drawn by the guide.
        :raises ValueError: if the site is named, and none is known.
        """
        if name not in self:
            return None
        found = divergence(guide, model, value)
        if found is None and name in self.named:
            raise ValueError(
                f"kl names the site {name!r}, but no divergence of a {type(as_given(guide)).__name__} from a "
                f"{type(as_given(model)).__name__} is known; leave it out, and it is sampled"
            )
        return found


def check_order(who: str, model_sites: Iterable[str], guide_sites: Iterable[str]) -> None:
    """
    :param str who: what takes divergences of one site at a time, for the message.
    :param model_sites: names in the order of the model.
    :param guide_sites: names in the order of the guide.
    :raises ValueError: if the guide draws latent variables in another order than the model.
    """
    model_sites, guide_sites = list(model_sites), list(guide_sites)
    by_model = [name for name in model_sites if name in guide_sites]
    by_guide = [name for name in guide_sites if name in model_sites]
    if by_model != by_guide:
        raise ValueError(
            f"{who} cannot train a guide that draws {', '.join(by_guide)} in this order, where the model draws "
            f"{', '.join(by_model)}: its divergences would leave out how one depends on the other; sampled ones take "
            "any order"
        )
