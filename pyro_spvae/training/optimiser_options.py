# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which options of training belong to which optimisers."""

from __future__ import annotations

from collections.abc import Collection

from pyro_spvae.training.candidates import may_race
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.optimisers import OPTIMISERS

_EM = ("em", "online-em")
_OF_EM = ("smoothing", "ridge")  # the candidates of a race have optimisers of their own, EM among them
_TAKE = {
    "lr": tuple(OPTIMISERS),
    "schedule": (*OPTIMISERS, "online-em"),
    "step_size": ("online-em",),
    **dict.fromkeys(_OF_EM, _EM),
}


def check_taken(config: FitConfig, given: Collection[str]) -> None:
    """
    Refuses options that the optimiser does not take.

    :param given: names of the options that are given.
    :raises ValueError: if one of them has no effect.
    """
    racing = isinstance(config, TrainConfig) and config.race == "auto" and may_race(config)
    for option, optimisers in _TAKE.items():
        if option not in given or config.optimiser in optimisers or (racing and option in _OF_EM):
            continue
        raise ValueError(
            f"{option} is given, but the optimiser {config.optimiser!r} takes none; it belongs to "
            f"{', '.join(optimisers)}, so leave one of them out"
        )
