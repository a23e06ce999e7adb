# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objectives: from a configuration or a user's own object to a loss, refused where it would be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_spvae.blocks import in_mode
from pyro_spvae.blocks.life_cycle import parts
from pyro_spvae.data import Rows
from pyro_spvae.data.rows import select
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.evaluating import lean
from pyro_spvae.infer import CircuitELBO, KLBalance, SingleLeafELBO, anneal
from pyro_spvae.infer.annealing import Annealed
from pyro_spvae.infer.closed_form import ClosedSites
from pyro_spvae.infer.em import ClosedForm
from pyro_spvae.queries import Queries
from pyro_spvae.queries.quiet import forked
from pyro_spvae.registry import make
from pyro_spvae.training.batches import kept_entries
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.start import at_clusters

_PLATES = 2  # of data and leaves
_LOOKED_AT = 2  # rows; batch normalisation over data has no use for one


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


def kl_weight(
    config: FitConfig, sites: Iterable[str], epoch: int, beta: Mapping[str, float] | None = None
) -> float | dict[str, float]:
    """
    The weight of the latent KL in an epoch, or that of each site.

    :param sites: names of the latent sites.
    :param dict beta: weights of sites, in the place of the configuration's.
    """
    rise = min(1.0, (epoch + 1) / config.warmup) if config.warmup else 1.0
    if beta is None:
        return rise * config.beta
    others = dict.fromkeys(sites, config.beta)
    return {site: rise * weight for site, weight in (others | dict(beta)).items()}


def annealed_programs(
    config: FitConfig, model: Queries, beta: Mapping[str, float] | None = None
) -> tuple[Annealed, Annealed]:
    """
    Model and guide with the weight of the latent KL in the first epoch.

    :param dict beta: see :func:`kl_weight`.
    """
    weight = kl_weight(config, model.latents, 0, beta)
    return anneal(model.model, weight), anneal(model.guide, weight, guide=True)


def check_objective(
    config: FitConfig,
    model: Queries,
    rows: Rows | Tensor,
    objective: ELBO | None = None,
    *,
    observed: Tensor | None = None,
    beta: Mapping[str, float] | None = None,
) -> None:
    """
    Refuses an objective that would be wrong for a model, before anything is trained or written: what the first step
    would refuse is learned from the gradient for a few rows, which is left nowhere. Of a model with a part that waits
    for training data before it has a distribution only the guide is run, and only if the objective is one of Pyro's.

    :param rows: of which the first are looked at.
    :param ELBO objective: in the place of the one that the configuration names.
    :param Tensor observed: ``bool`` for every row, True = seen.
    :param dict beta: weights of the latent KL by site, in the place of the configuration's.
    :raises TypeError: for an objective that is neither ours nor one of Pyro's that are taken.
    :raises ValueError: if one of Pyro's objectives is given for several leaves; for a model, guide or estimator that
        the objective does not take; if ``kl`` names a site that is not latent; if EM is asked for of a model that has
        no closed M-step.
    """
    if config.optimiser in ("em", "online-em"):
        check_em(model, config.optimiser)
    elif not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no parameter of the model requires a gradient, so that nothing would be trained")
    at_clusters(config, model)
    if config.hide:
        _check_hiding(config, model, *select(rows, observed, slice(0, _LOOKED_AT)))
    named = repr(config.objective) if objective is None else f"a {type(objective).__name__}"
    objective = build_objective(config) if objective is None else objective
    if isinstance(objective, CircuitELBO):
        ClosedSites(objective.kl).check(model.latents)
    loss = build_loss(objective, *annealed_programs(config, model, beta), config.seed)
    of_pyro = isinstance(loss, SingleLeafELBO)
    if of_pyro and model.num_leaves > 1:
        raise ValueError(
            f"objective is {named}, but the circuit has {model.num_leaves} leaves, whose tree the guide "
            "would have to draw; iwae, elbo, renyi and vr-max sum it out, or take the structure whole with one unit"
        )
    waits = any(part.waits for part in parts(model))
    parameter = next(model.parameters())
    kept = [(buffer, buffer.clone()) for buffer in loss.buffers()]  # of which batch normalisation learns some
    with lean(), in_mode(model, training=True), forked(parameter.device):
        try:
            x, seen = select(rows, observed, slice(0, _LOOKED_AT))
            seen = None if seen is None else seen.to(parameter.device)
            args = (x.to(parameter), *([] if seen is None else [seen]))
            if not waits:
                _first_gradient(loss, args)
            elif isinstance(loss, SingleLeafELBO):
                loss.check_guide(*args)
        except ValueError as error:
            said = _cause(error)
            raise ValueError(f"objective is {named}; {said}" if of_pyro else str(said)) from error
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)


def _check_hiding(config: FitConfig, model: Queries, x: Tensor, seen: Tensor | None) -> None:
    """
    :raises ValueError: for a model of which single entries cannot be hidden, such as one with an autoregressive
        decoder.
    """
    parameter = next(model.parameters())
    kept = kept_entries(x.shape, 0.5, config.seed, 0).to(x.device)
    kept = kept if seen is None else kept & seen.to(x.device)
    try:
        model.check(x.to(parameter), kept.to(parameter.device), as_trained=False)
    except ValueError as error:
        raise ValueError(f"hide is {config.hide!r}, which hides single entries, but {error}") from None


def _first_gradient(loss: nn.Module, args: tuple[Tensor, ...]) -> None:
    """Value and gradient of a loss, which is left nowhere."""
    value = loss(*args)
    moved = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    if value.requires_grad and moved:
        torch.autograd.grad(value, moved, allow_unused=True)


def _cause(error: BaseException) -> BaseException:
    """What was raised inside of a program, to which Pyro adds a table of shapes."""
    while isinstance(error.__cause__, ValueError) and str(error.__cause__) in str(error):
        error = error.__cause__
    return error


def check_em(model: Queries, optimiser: str = "em") -> ClosedForm:
    """
    The model as one that EM can train.

    :param str optimiser: its name.
    :raises ValueError: if it is no vanilla SPN, or its likelihood has no sufficient statistics.
    """
    if not isinstance(model, ClosedForm):
        named, kind = type(model).__name__, type(model.leaf).__name__
        raise ValueError(
            f"optimiser is {optimiser!r}, which trains vanilla SPNs (models.SPN, --leaf gaussian or --leaf "
            f"factorized); the model is {named} of {kind}"
        )
    model.check_closed_form()
    return model
