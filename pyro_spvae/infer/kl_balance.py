# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Balancing the divergences of several latent sites while their weight is warmed up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.infer.site import own_scale


class KLBalance:
    r"""
    Weights of latent sites in a warm-up, which let no group of latent variables fall idle (Vahdat et al. 2018,
    appendix H; Vahdat and Kautz 2020, appendix A).

    While the weight :math:`\gamma` of the latent KL is below 1, the bound is

    .. math:: E[\log p(x \mid z)] - \gamma \sum_i \alpha_i\, \mathrm{KL}_i, \qquad
        \alpha_i = \frac{N a_i}{\sum_j a_j}, \quad a_i = \frac{|\overline{\mathrm{KL}}_i| + \epsilon}{s_i},

    with the mean over particles, data and leaves of each of the N sites, held constant in gradients, and
    :math:`s_i = 1`: groups that say little cost little. At :math:`\gamma = 1` all :math:`\alpha_i = 1`, and the bound
    is the true one. Processes that share a batch each take the means of their own rows.

    :param float eps: :math:`\epsilon \ge 0`, in nats.
    :param bool by_size: whether :math:`s_i` is the number of entries of a value, as in hierarchies of several scales.
    :raises ValueError: for options out of range.

    Example::

        >>> from pyro_spvae.infer import KLBalance, anneal
        >>> hvae = SPVAE(whole((4, 4)), units=1, leaf=HVAE(Bernoulli(), latent_dim=3), guide=HierarchicalGuide())
        >>> objective = CircuitELBO(alpha=1, kl="analytic", balance=KLBalance())
        >>> model, guide = anneal(hvae.model, 0.5), anneal(hvae.guide, 0.5, guide=True)
        >>> bool(objective.differentiable_loss(model, guide, hvae.sample(10)) > 0)
        True
    """

    def __init__(self, eps: float = 0.1, by_size: bool = False) -> None:
        self.eps = checks.number_of_at_least("eps", eps)
        self.by_size = checks.boolean("by_size", by_size)

    def __repr__(self) -> str:
        return f"KLBalance(eps={self.eps:g}, by_size={self.by_size})"

    def weights(self, kls: Mapping[str, Tensor], sizes: Mapping[str, int]) -> dict[str, Tensor]:
        r"""
        :math:`\alpha_i` of each site, 0-dimensional.

        :param dict kls: :math:`\log q - \log p` or divergences by site, of any shapes, nats.
        :param dict sizes: numbers of entries of a value by site.
        """
        names = list(kls)
        by_size = {name: sizes[name] if self.by_size else 1 for name in names}
        shares = torch.stack([(kls[name].detach().mean().abs() + self.eps) / by_size[name] for name in names])
        return dict(zip(names, shares / shares.mean(), strict=True))


class LatentSums:
    """
    What latent sites add to log-weights, balanced while all of them count less than once.

    :param KLBalance balance: ``None``: their plain sum.
    """

    def __init__(self, balance: KLBalance | None = None) -> None:
        self.balance = balance
        self._terms: dict[str, Tensor] = {}
        self._scales: dict[str, float] = {}
        self._sizes: dict[str, int] = {}

    def add(self, name: str, site: Any, term: Tensor) -> None:
        r"""
        :param str name: of the site.
        :param site: in the guide or the model.
        :param Tensor term: :math:`\log p`, :math:`-\log q` or what stands in their place, as it counts.
        """
        key = "" if self.balance is None else name  # plain sums keep no more than one tensor
        self._terms[key] = self._terms[key] + term if key in self._terms else term
        if self.balance is not None:
            self._scales[name] = own_scale(site)
            self._sizes[name] = site["fn"].event_shape.numel()

    def total(self, expect: Callable[[Tensor], Tensor] = lambda term: term) -> Tensor | None:
        """
        The sum of all terms; ``None`` if there are none.

        :param callable expect: takes the mean over values that are enumerated, as weights see a site.
        """
        weights: dict[str, Tensor] = {}
        if self.balance is not None and self._scales and all(0 < scale < 1 for scale in self._scales.values()):
            kls = {name: -expect(term) / self._scales[name] for name, term in self._terms.items()}
            weights = self.balance.weights(kls, self._sizes)
        terms = [term * weights[name] if name in weights else term for name, term in self._terms.items()]
        return sum(terms[1:], terms[0]) if terms else None
