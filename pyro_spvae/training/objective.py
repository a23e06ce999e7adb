# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The objective that a configuration names."""

from __future__ import annotations

from typing import Any

import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_spvae.data import Rows
from pyro_spvae.infer import CircuitELBO, SingleLeafELBO
from pyro_spvae.models import SPN, SPVAE
from pyro_spvae.nn.mode import in_mode
from pyro_spvae.training.config import FitConfig
from pyro_spvae.training.lean import lean


def build_objective(config: FitConfig) -> CircuitELBO:
    """The bound of a configuration, as validation and evaluation compute it; of Pyro's objectives the same by ours."""
    return CircuitELBO(config.particles, alpha=config.order, gradient=config.gradient, reduce=config.reduce)


def build_loss(config: FitConfig, model: Any, guide: Any) -> nn.Module:
    """
    The loss of a configuration as a module: :class:`~pyro_spvae.infer.CircuitELBO`, or one of Pyro's ELBOs.

    :param callable model: the model, with KL annealing if there is any.
    :param callable guide: likewise.
    """
    elbo = _of_pyro(config)
    return build_objective(config)(model, guide) if elbo is None else SingleLeafELBO(model, guide, elbo)


def check_objective(config: FitConfig, spvae: SPVAE, rows: Rows | Tensor) -> None:
    """
    Refuses an objective that would be wrong for a model, before anything is trained or written.

    :param rows: of which the first is encoded.
    :raises ValueError: if one of Pyro's objectives is named for several leaves, or for a guide without ``rsample``; if
        EM is asked for of a model that has no closed M-step.
    """
    if config.optimiser == "em":
        check_em(spvae)
    elbo = _of_pyro(config)
    if elbo is None:
        return
    if spvae.num_leaves > 1:
        raise ValueError(
            f"objective is {config.objective!r}, but the circuit has {spvae.num_leaves} leaves, whose tree the guide "
            "would have to draw; iwae, elbo, renyi and vr-max sum it out, or take the structure whole with one unit"
        )
    parameter = next(spvae.parameters())
    generators = [parameter.device] if parameter.device.type == "cuda" else []
    with lean(), in_mode(spvae, training=False), torch.random.fork_rng(devices=generators), torch.no_grad():
        try:
            SingleLeafELBO(spvae.model, spvae.guide, elbo).check_guide(rows[:1].to(parameter))
        except ValueError as error:
            raise ValueError(f"objective is {config.objective!r}; {error}") from None


def check_em(spvae: SPVAE) -> SPN:
    """
    The model as one that EM can train.

    :raises ValueError: if it is no vanilla SPN, or its likelihood has no sufficient statistics.
    """
    if not isinstance(spvae, SPN):
        named, kind = type(spvae).__name__, type(spvae.leaf).__name__
        raise ValueError(
            "optimiser is 'em', which trains vanilla SPNs (models.SPN, --leaf factorized); the model is "
            f"{named} of {kind}"
        )
    likelihood = spvae.leaf.likelihood
    empty = next(spvae.parameters()).new_zeros(0, spvae.num_leaves, likelihood.sizes["pixels"])
    likelihood.statistics(empty, empty)  # which refuses if it has none
    return spvae


def _of_pyro(config: FitConfig) -> ELBO | None:
    options: dict[str, Any] = {
        "num_particles": config.particles,
        "vectorize_particles": True,
        "max_plate_nesting": 2,  # data and leaf
    }
    if config.objective == "trace-elbo":
        return Trace_ELBO(**options)
    if config.objective == "trace-mean-field-elbo":
        return TraceMeanField_ELBO(**options)
    if config.objective == "pyro-renyi-elbo":
        return RenyiELBO(alpha=config.order, **options)
    return None
