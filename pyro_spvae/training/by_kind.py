# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What of a table's log-likelihood is a density and what is a probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_spvae.queries import Queries
from pyro_spvae.training.stated import BOTH, DENSITY, PROBABILITY


def kind_of(spvae: Queries) -> str | None:
    """``density``, ``probability`` or ``both``; ``None`` where the likelihood knows no columns."""
    if spvae.columns is None:
        return None
    found = {column.is_density for column in spvae.columns}
    return BOTH if len(found) == 2 else DENSITY if found == {True} else PROBABILITY


def passes(spvae: Queries) -> int:
    """How many times log-likelihoods are computed: twice of columns of both kinds."""
    return 2 if kind_of(spvae) == BOTH else 1


def by_kind(
    spvae: Queries,
    log_likelihood: Tensor,
    likelihoods: Callable[[Tensor], Tensor],
    observed: Tensor | None,
) -> dict[str, Any]:
    r"""
    The parts of the mean log-likelihood,

    .. math:: \log p(x) = \log P(x_{\mathrm{discrete}}) + \log p(x_{\mathrm{real}} \mid x_{\mathrm{discrete}}),

    a probability, which is marginal over the real columns, and a density in their units.

    :param Tensor log_likelihood: of every row, nats, ``[data]``.
    :param callable likelihoods: from a mask of entries to their log-likelihoods, with the same noise.
    :param Tensor observed: ``bool``, broadcastable to the rows: entries that ``log_likelihood`` is of.
    :returns: ``log_likelihood_is``, see :func:`kind_of`; of both kinds ``log_probability_discrete`` and
        ``log_density_real``, nats, means over rows, which add up to the mean of ``log_likelihood``. Nothing where the
        likelihood knows no columns.
    """
    kind = kind_of(spvae)
    if kind is None or spvae.columns is None:
        return {}
    if kind != BOTH:
        return {"log_likelihood_is": kind}
    discrete = torch.tensor([not column.is_density for column in spvae.columns], device="cpu")
    probability = float(likelihoods(discrete if observed is None else observed.cpu() & discrete).mean())
    return {
        "log_likelihood_is": kind,
        "log_probability_discrete": probability,
        "log_density_real": float(log_likelihood.mean()) - probability,
    }
