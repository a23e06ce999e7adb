# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Values of leaves summed over the induced trees, and what each leaf has of the sum."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions.leaf import double
from pyro_spvae.infer.leaf_terms import LeafTerms


def push_up(terms: LeafTerms, leaf: Tensor) -> Tensor:
    """
    The circuit's root over leaf values, or the sum over the selected leaves where the tree is conditioned on.

    :param Tensor leaf: ``[.., data, leaf]`` in nats.
    :returns: ``[.., data]`` in nats.
    """
    if terms.tree is not None:
        return terms.tree.log_marginal(leaf.unsqueeze(-2)).squeeze(-1)
    return torch.where(terms.selected, leaf, torch.zeros_like(leaf)).sum(-1)  # type: ignore[arg-type]


def leaf_posterior(terms: LeafTerms, leaf: Tensor) -> Tensor:
    """Exact probability that each leaf is on the tree given leaf values ``[.., data, leaf]``: the root's gradient."""
    with torch.enable_grad():
        leaf = leaf.detach().requires_grad_()
        return torch.autograd.grad(push_up(terms, leaf).sum(), leaf)[0]


def root_rise(terms: LeafTerms, leaf: Tensor, rise: Tensor) -> Tensor:
    r"""
    By how much the root rises when the value of one leaf does. The root is multilinear in :math:`e^{\ell_l}`, so with
    leaf posterior :math:`r_l` it is :math:`\log(1 - r_l + r_l e^{\ell'_l - \ell_l})`, and no further pass is needed.

    Other leaves may be hundreds of nats below the one, or it below them: posteriors are in double precision, and
    :math:`1 - r_l` is the sum of those of the leaves that share a variable with it. A leaf whose posterior is too small
    even for that (a value 708 nats below what it needs) is taken to stay without effect.

    :param Tensor leaf: :math:`\ell`, nats, ``[.., data, leaf]``.
    :param Tensor rise: :math:`\ell'_l - \ell_l`, nats, broadcastable to it.
    :returns: in the type of ``rise``.
    """
    posterior = leaf_posterior(terms, double(leaf))
    if terms.tree is None:
        rest = 1 - posterior
    else:
        circuit = terms.tree.circuit
        by_region = posterior.unflatten(-1, (-1, circuit.leaves))
        apart = 1 - torch.eye(circuit.leaves, dtype=posterior.dtype, device=posterior.device)
        rest = by_region @ apart
        if circuit.overlaps is not None:
            rest = rest + (by_region.sum(-1) @ circuit.overlaps.to(posterior.dtype).T).unsqueeze(-1)
        rest = rest.flatten(-2)
    risen = torch.where(posterior > 0, posterior.log() + rise, -torch.inf)
    return torch.logaddexp(rest.log(), risen).to(rise.dtype)
