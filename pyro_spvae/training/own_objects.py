# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objects that a user gives in the place of names: an objective, an optimiser, weights of latent sites."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO, RenyiELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from pyro_spvae.checks import number_of_at_least, plain
from pyro_spvae.infer import CircuitELBO, Estimator, KLBalance
from pyro_spvae.queries import Queries
from pyro_spvae.registry import written
from pyro_spvae.training.optimisers import of_model, own_optimiser

_OF_OBJECTIVE = ("particles", "alpha", "gradient", "reduce", "kl", "estimator", "balance")
_OF_OPTIMISER = ("lr", "weight_decay")


class OwnObjects(NamedTuple):
    """
    :ivar ELBO objective: or ``None``, as all of them.
    :ivar optimiser: a torch optimiser, or a function of parameters.
    :ivar dict beta: weight of the latent KL by site.
    """

    objective: ELBO | None = None
    optimiser: Any = None
    beta: dict[str, float] | None = None

    @classmethod
    def split(cls, options: Mapping[str, Any]) -> tuple[OwnObjects, dict[str, Any]]:
        """
        Objects among the options of :func:`pyro_spvae.training.fit.fit`, and the others, with what the objects say.

        :raises ValueError: for an object together with options that describe it.
        :raises TypeError: for an object of another kind.
        """
        plain, found = dict(options), dict[str, Any]()
        objective = plain.get("objective")
        if objective is not None and not isinstance(objective, str):
            if not isinstance(objective, ELBO):
                given = "the class" if isinstance(objective, type) else "a"
                raise TypeError(
                    f"objective is {given} {_name(objective)}; a name, CircuitELBO or an ELBO of Pyro is needed"
                )
            _refuse("objective", objective, _OF_OBJECTIVE, plain)
            found["objective"] = objective
            plain |= _as_options(objective)
        optimiser = plain.get("optimiser")
        if optimiser is not None and not isinstance(optimiser, str):
            if not callable(optimiser) and not isinstance(optimiser, torch.optim.Optimizer):
                raise TypeError(
                    f"optimiser is a {type(optimiser).__name__}; a name, a torch optimiser, or a function of "
                    "parameters that makes one is needed"
                )
            _refuse("optimiser", optimiser, _OF_OPTIMISER, plain)
            found["optimiser"] = plain.pop("optimiser")
        if isinstance(plain.get("beta"), Mapping):
            weights = plain.pop("beta")
            found["beta"] = {site: number_of_at_least(f"beta of {site!r}", value) for site, value in weights.items()}
        return cls(**found), plain

    def of_model(self, model: Queries) -> OwnObjects:
        """
        The objects for a model: with the optimiser that a function makes of its parameters.

        :raises ValueError: if the optimiser is none for this model, or a weight is that of a site that it has not.
        """
        for site in self.beta or ():
            if site not in model.latents:
                known = ", ".join(model.latents) or "none"
                raise ValueError(f"beta names the site {site!r}; the latent sites of the leaves are {known}")
        return self if self.optimiser is None else self._replace(optimiser=own_optimiser(self.optimiser, model))

    def described(self) -> dict[str, Any]:
        """Plain values that tell objects from others, for the record of a run; nothing of those that are not given."""
        found: dict[str, Any] = {}
        if self.objective is not None:
            found["objective"] = _described(self.objective, vars(self.objective))
        if self.optimiser is not None:
            found["optimiser"] = _described(self.optimiser, _of_groups(self.optimiser))
        return found | ({} if self.beta is None else {"beta": self.beta})


def _of_groups(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's options, and in further tuples those of groups of parameters whose own are others."""
    usual, found = optimiser.defaults, dict(optimiser.defaults)
    for place, group in enumerate(of_model(optimiser)):
        own = tuple((name, value) for name, value in group.items() if name in usual and value != usual[name])
        if own:
            found[f"group {place}"] = own
    return found


def _as_options(objective: ELBO) -> dict[str, Any]:
    """The options that name the same bound."""
    options: dict[str, Any] = {"particles": objective.num_particles}
    if isinstance(objective, CircuitELBO):
        options |= {"gradient": objective.gradient, "reduce": objective.reduce, "kl": objective.kl}
        options |= {"estimator": written(objective.estimator), "balance": objective.balance is not None}
        names = {0.0: "iwae", 1.0: "elbo", -math.inf: "vr-max"}
        if objective.alpha not in names:
            options["alpha"] = objective.alpha
        return options | {"objective": names.get(objective.alpha, "renyi")}
    if isinstance(objective, RenyiELBO):
        return options | {"objective": "pyro-renyi-elbo", "alpha": float(objective.alpha)}
    names_of_pyro = {TraceMeanField_ELBO: "trace-mean-field-elbo", TraceEnum_ELBO: "trace-enum-elbo"}
    return options | {"objective": names_of_pyro.get(type(objective), "trace-elbo")}


def _refuse(name: str, value: Any, others: tuple[str, ...], options: Mapping[str, Any]) -> None:
    for other in others:
        if other in options:
            raise ValueError(f"{other} is given, but {name} is a {_name(value)}, which has its own; leave it out")


def _described(value: Any, options: Mapping[str, Any]) -> str:
    own = {key: plain(option) for key, option in options.items() if key[0] != "_"}
    if isinstance(own.get("estimator"), Estimator):
        own["estimator"] = written(own["estimator"])
    if isinstance(own.get("balance"), KLBalance):
        own["balance"] = repr(own["balance"])
    shown = {key: option for key, option in own.items() if isinstance(option, (bool, int, float, str, tuple))}
    return f"{_name(value)}({', '.join(f'{key}={option!r}' for key, option in shown.items())})"


def _name(value: Any) -> str:
    return getattr(value, "__qualname__", None) or type(value).__qualname__
