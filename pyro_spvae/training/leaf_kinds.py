# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of leaves as a configuration names them, and what they leave to it."""

from __future__ import annotations

from typing import Any

from pyro_spvae.part import constructor_parameters
from pyro_spvae.registry import find, parse
from pyro_spvae.training.config import TrainConfig

FREE_LEAF = "factorized"  # the leaf that is a likelihood of free parameters


def kinds_of(leaf: str) -> list[str]:
    """What stands between plus signs outside of brackets."""
    kinds, depth = [""], 0
    for sign in leaf:
        depth += (sign == "(") - (sign == ")")
        if sign == "+" and depth == 0:
            kinds.append("")
        else:
            kinds[-1] += sign
    return kinds


def options_taken(leaf: str, option: str) -> list[tuple[Any, Any]]:
    """
    Of the kinds of leaves whose constructors take an option, what their brackets give (``None``: nothing) and the
    default.
    """
    found = []
    for name, given in (parse("leaf", kind) for kind in kinds_of(leaf)):
        for parameter in constructor_parameters(find("leaf", name)):
            if parameter.name == option:
                found.append((given.get(option), parameter.default))
    return found


def _is_open(config: TrainConfig, option: str) -> bool:
    """Whether there is one kind of leaf, which takes an option and leaves it to the configuration."""
    return len(kinds_of(config.leaf)) == 1 and any(given is None for given, _ in options_taken(config.leaf, option))


def resolved_prior(config: TrainConfig) -> str:
    """
    The prior that a configuration means: where it names none, that of the one kind of leaf; auto where no kind leaves
    it to the configuration.
    """
    if _is_open(config, "prior"):
        return prior_of(config, config.leaf)
    return config.prior if any(given is None for given, _ in options_taken(config.leaf, "prior")) else "auto"


def prior_of(config: TrainConfig, kind: str) -> str:
    """The prior of a kind of leaf: the one that is named, else that of its class, such as one of bits."""
    cls: Any = find("leaf", parse("leaf", kind)[0])
    return cls.prior_name if config.prior == "auto" else config.prior


def default_guide(leaf: str) -> str:
    """What the kinds of leaves that have latent variables ask for; auto where they differ: each has its own."""
    classes: list[Any] = [find("leaf", parse("leaf", kind)[0]) for kind in kinds_of(leaf)]
    names = [cls.guide_name for cls in classes]
    if None in names:  # what has none of its own is seen when it is made
        return "auto"
    wanted = set(names) - {"none"}
    return "auto" if len(wanted) > 1 else wanted.pop() if wanted else "none"
