# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small models and comparisons that several tests use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_spvae import collapse_tree, poon_domingos
from pyro_spvae.circuits import RegionGraph
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE
from pyro_spvae.testing.block_tests import moved_from_start


def small_spvae(regions: RegionGraph | None = None, units: int = 2, **options: Any) -> SPVAE:
    """An SPVAE small enough to enumerate; by default four leaf regions of one pixel, two leaves each."""
    options = {"latent_dim": 2, "hidden_dims": (3,), "likelihood": Normal()} | options
    if "leaf" in options:
        options = {key: value for key, value in options.items() if key in ("leaf", "guide", "channels", "leaves")}
    spvae = SPVAE(poon_domingos((2, 2), delta=1) if regions is None else regions, units=units, **options)
    moved_from_start(spvae)
    return spvae


def particles(program: Callable, num: int) -> Callable:
    """The program under a plate of particles in front of data and leaf."""
    return pyro.plate("particles", num, dim=-3)(program)


def leaf_log_weights(spvae: SPVAE, x: Tensor, num_particles: int, seed: int = 1, **kwargs: object) -> Tensor:
    """log p(x_l, z) - log q(z) of every leaf by Pyro's own traces, ``[particle, data, leaf]``."""
    pyro.set_rng_seed(seed)
    guide_trace = poutine.trace(particles(spvae.guide, num_particles)).get_trace(x, **kwargs)
    model = collapse_tree(poutine.replay(particles(spvae.model, num_particles), trace=guide_trace))
    model_trace = poutine.trace(model).get_trace(x, **kwargs)
    guide_trace.compute_log_prob()
    model_trace.compute_log_prob()
    latent = [name for name, site in guide_trace.nodes.items() if site["type"] == "sample" and name != "data"]
    total = model_trace.nodes["x"]["log_prob"]
    for name in latent:
        total = total + model_trace.nodes[name]["log_prob"] - guide_trace.nodes[name]["log_prob"]
    return total


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradient of a loss for every parameter by name; zeros where it does not matter."""
    named = dict(module.named_parameters())
    grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if grad is None else grad
        for (name, parameter), grad in zip(named.items(), grads, strict=True)
    }


def collected_gradients(module: nn.Module) -> dict[str, Tensor]:
    """What ``backward`` has left in ``.grad``."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}


def assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor], atol: float = 1e-9) -> None:
    """All gradients equal, and not all of them zero."""
    assert actual.keys() == expected.keys()
    assert sum(float(grad.abs().sum()) for grad in expected.values()) > 1e-3
    for name, grad in expected.items():
        difference = float((actual[name] - grad).abs().max())
        assert difference <= atol + 1e-9 * float(grad.abs().max()), f"{name}: gradients differ by {difference}"
