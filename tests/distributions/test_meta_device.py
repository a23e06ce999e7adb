# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Log-densities on torch's meta device, whose tensors have no content: a tensor made on another device is an error there,
and so is every look at a value, for which a GPU would be waited for.
"""

from __future__ import annotations

import pyro
import pytest
import torch
from torch.distributions import constraints

from pyro_spvae import distributions
from pyro_spvae.distributions import (
    LeafAutoregressive,
    LeafBernoulli,
    LeafBinomial,
    LeafCategorical,
    LeafDiscretizedLogistic,
    LeafNormal,
    LeafNormalMixture,
    LeafStandardNormal,
)

SIZE = 4


def autoregressive(mask=None, *, context):
    """Each pixel given the one before it."""

    def conditionals(context, value):
        return LeafBernoulli(context.flatten(-3) + value.roll(1, -1), mask=mask)

    support = constraints.independent(constraints.boolean, 1)
    return LeafAutoregressive(context, SIZE, conditionals, lambda rows: iter(()), support, mask)


# sizes of parameters by name, and how to build the distribution, whose batch is [data, leaf]
CASES = {
    "LeafNormal": ({"loc": (3, 2, SIZE), "scale": (2, 1)}, LeafNormal),
    "LeafStandardNormal": ({}, lambda: LeafStandardNormal(SIZE, (3, 2), dtype=torch.float32, device="meta")),
    "LeafBernoulli": ({"logits": (3, 2, SIZE)}, LeafBernoulli),
    "LeafBinomial": ({"logits": (3, 2, SIZE)}, lambda **given: LeafBinomial(7, **given)),
    "LeafCategorical": ({"logits": (3, 2, SIZE, 5)}, LeafCategorical),
    "LeafDiscretizedLogistic": ({"loc": (3, 2, SIZE), "log_scale": (2, 1)}, LeafDiscretizedLogistic),
    "LeafDiscretizedLogistic, truncated": (
        {"loc": (3, 2, SIZE), "log_scale": (2, 1)},
        lambda **given: LeafDiscretizedLogistic(edges="truncated", **given),
    ),
    "LeafNormalMixture": ({"loc": (6, 2, SIZE), "scale": (6, 2, SIZE), "log_weight": (6, 2)}, LeafNormalMixture),
    "LeafNormalMixture, equal weights": ({"loc": (6, 2, SIZE), "scale": (6, 2, SIZE)}, LeafNormalMixture),
    "LeafAutoregressive": ({"context": (3, 2, 1, 2, 2)}, autoregressive),
}
MASKED = [name for name in CASES if not name.startswith(("LeafStandardNormal", "LeafNormalMixture"))]


def test_every_leaf_distribution_is_here():
    public = {name for name in distributions.__all__ if name.startswith("Leaf")}
    assert public == {name.partition(",")[0] for name in CASES}


@pytest.mark.parametrize(("name", "masked"), [*((name, False) for name in CASES), *((name, True) for name in MASKED)])
def test_log_prob_forward_and_backward(name, masked):
    sizes, build = CASES[name]
    options = {"dtype": torch.float32, "device": "meta"}
    given = {key: torch.empty(size, **options).requires_grad_() for key, size in sizes.items()}
    mask = {"mask": torch.empty(3, 2, SIZE, dtype=torch.bool, device="meta")} if masked else {}
    with pyro.validation_enabled(False):
        d = build(**given, **mask).expand((5, 3, 2))
        value = d.rsample() if d.has_rsample else torch.empty(5, 3, 2, SIZE, **options)
        value = value.detach().requires_grad_(d.support is constraints.real_vector)
        log_prob = d.log_prob(value)
        log_prob.sum().backward()
    assert (log_prob.shape, log_prob.dtype, log_prob.device.type) == ((5, 3, 2), torch.float32, "meta")
    for leaf in (*given.values(), *([value] if value.requires_grad else [])):
        assert leaf.grad is not None and leaf.grad.shape == leaf.shape and leaf.grad.device.type == "meta"
