# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Commands of experiments of tiny models, some of which die (SIGKILL) at chosen moments, in processes of their own."""

from __future__ import annotations

from pyro_spvae.reproduce import dlgmm, mixture_scores, race, spvae, spvae_recipes, vampprior
from pyro_spvae.training import pace
from pyro_spvae.training import train as train_module
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer
from tests.cli_cases import command
from tests.training.killer import before

BATCHES = 391  # that configurations count in an epoch of MNIST, of which the tests' has one
EPOCHS = 4

MOMENTS = {
    "in a step of the second cell": before(Trainer, "_step", EPOCHS + 3),
    "before the second cell is made": before(RunFolder, "create", 2),
    "before it is scored": before(mixture_scores, "neighbour_errors", 1),
    "in a turn": before(Trainer, "_step", 4),
    "in the middle of a turn's files": before(RunFolder, "save", 6),
    "while the last value is scored": before(race, "log_likelihoods", 1),
    "before the race is written": before(race, "_picture", 1),
}


def act(moment, *arguments):
    """What ``pyro-spvae reproduce`` does with the arguments until a moment, if one is named."""
    shrink()
    if moment is not None:
        MOMENTS[moment]()
    command("reproduce", *arguments)


def shrink(set_value=setattr):
    """Models of few units and epochs."""
    set_value(train_module, "_write_pictures", lambda *args: None)
    set_value(pace, "EVERY", 1e6)
    for module in (dlgmm, vampprior):
        set_value(module, "_HIDDEN", 8)
        set_value(module, "_LATENT", 3)
    set_value(dlgmm, "_EPOCHS", {"best": {"small": EPOCHS}})
    set_value(vampprior, "_BUDGETS", {"small": (EPOCHS, 1, EPOCHS, 10)})
    set_value(spvae_recipes, "_STEPS", {model: {"small": EPOCHS * BATCHES} for model in spvae_recipes._STEPS})
    set_value(spvae_recipes, "_VALIDATE", dict.fromkeys(spvae_recipes._VALIDATE, {"small": 1}))
    set_value(spvae, "_SAMPLES", {"small": 10})
