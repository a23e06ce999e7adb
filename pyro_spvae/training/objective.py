# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objectives: from a configuration or a user's own object to a loss, refused where it would be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_spvae.blocks import in_mode
from pyro_spvae.data import Rows
from pyro_spvae.data.rows import select
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.evaluating import lean
from pyro_spvae.infer import CircuitELBO, KLBalance, SingleLeafELBO
from pyro_spvae.infer.closed_form import ClosedSites
from pyro_spvae.infer.em import ClosedForm
from pyro_spvae.queries import Queries
from pyro_spvae.queries.quiet import forked
from pyro_spvae.registry import make
from pyro_spvae.training.config import FitConfig

_PLATES = 2  # of data and leaves


def _ours(alpha: float) -> Callable[[FitConfig], ELBO]:
    return lambda config: CircuitELBO(
        config.particles,
        alpha,
        gradient=config.gradient,
        reduce=config.reduce,
        kl=config.kl,
        balance=KLBalance() if config.balance else None,
        estimator=None if config.estimator == "vimco" else make("estimator", config.estimator),
    )


def _pyros(kind: type[ELBO], **options: Any) -> Callable[[FitConfig], ELBO]:
    plates: dict[str, Any] = {"vectorize_particles": True, "max_plate_nesting": _PLATES}
    return lambda config: kind(num_particles=config.particles, **plates, **options)


#: the objectives that configurations name
OBJECTIVES: dict[str, Callable[[FitConfig], ELBO]] = {
    "iwae": _ours(0.0),
    "elbo": _ours(1.0),
    "vr-max": _ours(-math.inf),
    "renyi": lambda config: _ours(config.alpha or 0.0)(config),
    "trace-elbo": _pyros(Trace_ELBO),
    "trace-enum-elbo": _pyros(TraceEnum_ELBO),
    "trace-mean-field-elbo": _pyros(TraceMeanField_ELBO),
    "pyro-renyi-elbo": lambda config: _pyros(RenyiELBO, alpha=config.alpha or 0.0)(config),
}


def build_objective(config: FitConfig) -> ELBO:
    """The objective that a configuration names."""
    return OBJECTIVES[config.objective](config)


def as_bound(objective: ELBO) -> CircuitELBO:
    """The bound that an objective is, as validation and evaluation compute it; of Pyro's objectives our form of it."""
    if isinstance(objective, CircuitELBO):
        return objective
    order = float(objective.alpha) if isinstance(objective, RenyiELBO) else 1.0
    return CircuitELBO(
        objective.num_particles, order, kl="analytic" if isinstance(objective, TraceMeanField_ELBO) else "sample"
    )


def build_loss(objective: ELBO, model: Any, guide: Any, seed: int = 0) -> nn.Module:
    """
    The loss of an objective as a module; leaves torch's generators as they are.

    :param ELBO objective: :class:`~pyro_spvae.infer.CircuitELBO`, or one of Pyro's.
    :param callable model: the model, with KL annealing if there is any.
    :param callable guide: likewise.
    :param int seed: of the initial parameters that an estimator has of its own.
    :raises TypeError: for an objective of another kind.
    """
    if isinstance(objective, CircuitELBO):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(noise_seed(seed, 0, stream=11))
            return objective(model, guide)
    if objective.max_plate_nesting == math.inf:  # or Pyro finds it out, by a run that moves the noise of the first step
        objective.max_plate_nesting = _PLATES + (objective.vectorize_particles and objective.num_particles > 1)
    return SingleLeafELBO(model, guide, objective)


def check_objective(config: FitConfig, model: Queries, rows: Rows | Tensor, objective: ELBO | None = None) -> None:
    """
    Refuses an objective that would be wrong for a model, before anything is trained or written.

    :param rows: of which the first is encoded.
    :param ELBO objective: in the place of the one that the configuration names.
    :raises TypeError: for an objective that is neither ours nor one of Pyro's that are taken.
    :raises ValueError: if one of Pyro's objectives is given for several leaves, or for a guide that it has no gradient
        for; if ``kl`` names a site that is not latent; if EM is asked for of a model that has no closed M-step.
    """
    if config.optimiser == "em":
        check_em(model)
    named = repr(config.objective) if objective is None else f"a {type(objective).__name__}"
    objective = build_objective(config) if objective is None else objective
    if isinstance(objective, CircuitELBO):
        ClosedSites(objective.kl).check(model.latents)
    loss = build_loss(objective, model.model, model.guide, config.seed)
    if not isinstance(loss, SingleLeafELBO):
        return
    if model.num_leaves > 1:
        raise ValueError(
            f"objective is {named}, but the circuit has {model.num_leaves} leaves, whose tree the guide "
            "would have to draw; iwae, elbo, renyi and vr-max sum it out, or take the structure whole with one unit"
        )
    parameter = next(model.parameters())
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]  # of which batch normalisation learns some
    with lean(), in_mode(model, training=True), forked(parameter.device), torch.no_grad():
        try:
            x, seen = select(rows, None, slice(0, 1))
            loss.check_guide(x.to(parameter), *([] if seen is None else [seen.to(parameter.device)]))
        except ValueError as error:
            raise ValueError(f"objective is {named}; {error}") from None
        finally:
            for buffer, value in kept:
                buffer.copy_(value)


def check_em(model: Queries) -> ClosedForm:
    """
    The model as one that EM can train.

    :raises ValueError: if it is no vanilla SPN, or its likelihood has no sufficient statistics.
    """
    if not isinstance(model, ClosedForm):
        named, kind = type(model).__name__, type(model.leaf).__name__
        raise ValueError(
            "optimiser is 'em', which trains vanilla SPNs (models.SPN, --leaf factorized); the model is "
            f"{named} of {kind}"
        )
    model.check_closed_form()
    return model
