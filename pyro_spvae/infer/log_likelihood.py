# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Test log-likelihoods by importance sampling, in bounded memory."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.poutine.messenger import unwrap
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae import checks
from pyro_spvae.blocks import held, in_mode
from pyro_spvae.circuits.numerics import log_sum_exp
from pyro_spvae.infer.circuit_elbo import CircuitELBO
from pyro_spvae.infer.leaf_terms import LeafTermCollector, LeafTerms
from pyro_spvae.infer.prepared import PreparesBatches, owner_of, prepared
from pyro_spvae.infer.tree_sums import push_up
from pyro_spvae.locking import alone

_CACHED_VALUES = 2**20  # values of data; measured: fewer cost more to arrange, more do not stay in the cache
_EXACT_VALUES = 2**21  # the same of leaves, which may see the same entries, where nothing is drawn
_LEAST_PAIRS = 64  # fewer at a time cost more to arrange than to decode


def log_likelihood(
    model: Any,
    guide: Any,
    x: Tensor,
    *,
    observed: Tensor | None = None,
    num_samples: int = 5000,
    chunk_size: int = 2048,
    progress: bool = False,
) -> Tensor:
    r"""
    Estimates :math:`\log p(x_n)` of every datum with ``num_samples`` independent importance samples in each leaf,

    .. math:: \log \sum_T p(T) \prod_{l \in T} \frac1K \sum_{k=1}^K \frac{p(x_l, z_{kl})}{q(z_{kl} \mid x_l)},

    the protocol of the SPVAE paper (K = 5000, Table 1). In expectation a lower bound that rises to the log-likelihood
    with K (Theorem 2). Enumerated sites of the guide are summed over. Each datum is encoded once; at most
    ``chunk_size`` pairs of datum and sample are decoded at a time, and exactly ``num_samples`` samples are drawn
    whether or not the chunks divide them. Where nothing is drawn
    besides the tree the value is exact, and computed once for any number of samples. Modules that the programs belong
    to are in evaluation mode meanwhile.

    :param callable model: a model with one ``InducedTree`` site, called as ``model(x)`` or ``model(x, observed=...)``.
    :param callable guide: its guide, called alike.
    :param Tensor x: data ``[data, ..]``.
    :param Tensor observed: ``bool``, broadcastable to ``x``, True = seen: marginal likelihood of the seen entries.
    :param int num_samples: K.
    :param int chunk_size: memory bound, in pairs of datum and sample.
    :param bool progress: show a progress bar.
    :returns: nats per datum, ``[data]``, higher is better.
    :raises ValueError: if ``x`` is empty, or ``num_samples`` or ``chunk_size`` is not positive; for sites outside the
        plate ``leaf`` that are latent or depend on latent variables, or whose log-density is NaN.

    Example::

        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> log_likelihood(spvae.model, spvae.guide, spvae.sample(6), num_samples=100).shape
        torch.Size([6])
        >>> spn = SPN(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> x = spn.sample(6)
        >>> bool(torch.allclose(log_likelihood(spn.model, spn.guide, x), spn.log_prob(x)))  # nothing to draw: exact
        True
    """
    num_samples = checks.positive_integer("num_samples", num_samples)
    chunk_size = checks.positive_integer("chunk_size", chunk_size)
    owner = owner_of(model)
    if isinstance(owner, PreparesBatches):
        x, observed = owner.taken(x, observed)
    if x.dim() == 0 or len(x) == 0:
        raise ValueError("x holds no data; at least one row is needed")
    if observed is not None:
        observed = observed.expand(x.shape)
    # what is decoded at a time should fit into the processor's cache
    chunk_size = min(chunk_size, max(_LEAST_PAIRS, _CACHED_VALUES // max(1, x[0].numel())))
    rows = max(1, min(len(x), chunk_size // num_samples))
    sizes = owner.leaf_sizes if isinstance(owner, PreparesBatches) else {}
    exact = max(_LEAST_PAIRS, _EXACT_VALUES // math.prod(sizes.values()))
    results = []
    with (
        alone(),
        torch.no_grad(),
        in_mode(owner_of(unwrap(model)), training=False),  # handlers do not change whose it is
        in_mode(owner_of(unwrap(guide)), training=False),
        held(owner, owner_of(guide)),  # priors are kept from block to block
        tqdm(total=len(x), desc="log-likelihood", unit="datum", disable=not progress) as bar,
    ):
        start = 0
        while start < len(x):
            block = slice(start, start + rows)
            kwargs = {} if observed is None else {"observed": observed[block]}
            result, latent = _block(model, guide, x[block], kwargs, num_samples, chunk_size)
            results.append(result)
            start += len(result)
            bar.update(len(result))
            if not latent:  # every sample is the exact value
                num_samples, rows = 1, min(chunk_size, exact)
    return torch.cat(results)


def _block(
    model: Any, guide: Any, x: Tensor, kwargs: dict[str, Any], num_samples: int, chunk_size: int
) -> tuple[Tensor, bool]:
    """Estimates of few data, and whether there is any latent variable besides the tree."""
    chunks = math.ceil(num_samples / max(1, chunk_size // len(x)))
    sizes = [num_samples // chunks + (i < num_samples % chunks) for i in range(chunks)]  # equal to within one
    total: Tensor | None = None
    terms: LeafTerms | None = None
    args, kwargs = prepared(model, guide, (x,), kwargs)
    # a chunk of one particle is no bound of one particle: what lies outside the leaf plate may not differ by particle
    collector = LeafTermCollector(joint_particles=num_samples == 1)
    outside: Tensor | None = None
    for size in sizes:
        terms = CircuitELBO(num_particles=size).terms(model, guide, args, kwargs, None, collector)
        if terms.outside is not None:
            outside = terms.outside[:1] if outside is None else outside
            collector.outside.check_alike(torch.cat([outside, terms.outside[:1]]))
        if not terms.latent:
            return _root(terms, terms.log_weight[0]), False
        chunk = log_sum_exp(terms.log_weight, 0)  # [B, L]
        if terms.log_weight.size(0) != size:  # nothing depended on the particle
            chunk = chunk + math.log(size)
        total = chunk if total is None else torch.logaddexp(total, chunk)
    assert terms is not None and total is not None
    return _root(terms, total - math.log(num_samples)), True


def _root(terms: LeafTerms, leaf: Tensor) -> Tensor:
    root = push_up(terms, leaf)
    return root if terms.outside is None else root + terms.outside[0]
