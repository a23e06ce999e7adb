# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Values of leaves summed over the induced trees, and what each leaf has of the sum."""

from __future__ import annotations

import torch
from torch import Tensor

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


def root_rise(posterior: Tensor, rise: Tensor) -> Tensor:
    r"""
    By how much the root rises when the value of one leaf does. The root is multilinear in :math:`e^{\ell_l}`, so with
    leaf posterior :math:`r_l` it is :math:`\log(1 - r_l + r_l e^{\ell'_l - \ell_l})`, and no further pass is needed.

    :param Tensor posterior: :math:`r_l`, ``[.., data, leaf]``.
    :param Tensor rise: :math:`\ell'_l - \ell_l`, nats, broadcastable to it.
    """
    tiny = torch.finfo(posterior.dtype).tiny
    return torch.logaddexp(torch.log1p(-posterior.clamp(max=1.0)), posterior.clamp(tiny, 1.0).log() + rise)
