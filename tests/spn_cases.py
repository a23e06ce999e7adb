# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small sum-product networks, and what they are by listing every induced tree, with torch's distributions."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Binomial as TorchBinomial
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal as TorchNormal

from pyro_spvae import RegionGraph, poon_domingos
from pyro_spvae.likelihoods import Bernoulli, Binomial, Categorical, Likelihood, Normal
from pyro_spvae.models import SPN
from tests.circuits.oracle import enumerate_induced_trees

LEVELS = 3  # of pixels that are not binary

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": Bernoulli,
    "binomial": lambda: Binomial(LEVELS - 1),
    "categorical": lambda: Categorical(LEVELS),
    "normal": Normal,
    "sigmoid": lambda: Normal(mean="sigmoid"),
    "precision": lambda: Normal(mean="sigmoid", scale="precision"),
}
DISCRETE = ("bernoulli", "binomial", "categorical")


def make_spn(likelihood: str = "bernoulli", regions: RegionGraph | None = None, units: int = 2) -> SPN:
    """A network of four pixels, two leaves each, unless said otherwise."""
    regions = poon_domingos((2, 2), 1) if regions is None else regions
    return SPN(regions, units, likelihood=LIKELIHOODS[likelihood]())


def values(likelihood: str, *shape: int) -> Tensor:
    """Random values in the support."""
    if likelihood in DISCRETE:
        return torch.randint(0, 2 if likelihood == "bernoulli" else LEVELS, shape).to(torch.get_default_dtype())
    return torch.randn(shape) if likelihood == "normal" else torch.rand(shape)


def states(likelihood: str, event: tuple[int, ...]) -> Tensor:
    """Every datum that a discrete likelihood allows, ``[state, *event]``."""
    levels = range(2 if likelihood == "bernoulli" else LEVELS)
    every = itertools.product(levels, repeat=torch.Size(event).numel())
    return torch.tensor(list(every)).to(torch.get_default_dtype()).reshape(-1, *event)


def pixel_log_prob(spn: SPN, likelihood: str, patches: Tensor) -> Tensor:
    """Log-density of each pixel of each leaf, ``[data, leaf, pixel]``, by torch's own distributions."""
    outputs = [output.detach() for output in spn.leaf.pixels.outputs]
    if likelihood == "bernoulli":
        return TorchBernoulli(logits=outputs[0]).log_prob(patches)
    if likelihood == "binomial":
        return TorchBinomial(LEVELS - 1, logits=outputs[0]).log_prob(patches)
    if likelihood == "categorical":
        return TorchCategorical(logits=outputs[0].unflatten(-1, (-1, LEVELS))).log_prob(patches)
    loc = outputs[0] if likelihood == "normal" else outputs[0].sigmoid()
    if likelihood == "precision":
        return TorchNormal(loc, (1 + outputs[1].square()).rsqrt()).log_prob(patches)
    return TorchNormal(loc, 1e-3 + outputs[1].exp().log1p()).log_prob(patches)


def joint_log_prob(spn: SPN, likelihood: str, x: Tensor, observed: Tensor | None = None) -> Tensor:
    """Log of weight times density of the seen entries, for each datum and induced tree, ``[data, tree]``."""
    pixels = pixel_log_prob(spn, likelihood, spn.view(x))
    for mask in (spn.view.mask, None if observed is None else spn.view(observed.expand(x.shape))):
        if mask is not None:
            pixels = torch.where(mask, pixels, 0.0)
    leaf = pixels.sum(-1)
    trees = enumerate_induced_trees(spn.circuit)
    return torch.stack([weight.detach() + leaf[:, sorted(leaves)].sum(-1) for weight, leaves in trees], -1)
