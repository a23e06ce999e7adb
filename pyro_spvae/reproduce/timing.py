# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The experiment on time of the sum-product VAE paper: how long the SPVAE trains until it passes the VAE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pyro_spvae.reproduce.budget import Budget
from pyro_spvae.reproduce.published import Pixels, SpvaeData, SpvaeModel
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.reproduce.spvae_recipes import Recipe
from pyro_spvae.training.config import TrainConfig

MEMBERS: tuple[SpvaeModel, ...] = ("spvae", "vae")


@dataclass(frozen=True)
class TimeExperiment:
    """
    Two models of Table 1 that train by turns, see :func:`pyro_spvae.reproduce.race.race`.

    Arguments are those of :class:`~pyro_spvae.reproduce.spvae.Experiment`.
    """

    data: SpvaeData = "mnist"
    pixels: Pixels = "continuous"
    budget: Budget = "paper"
    recipe: Recipe = "best"
    seed: int = 0

    table: ClassVar[str] = "spvae-time"

    @property
    def name(self) -> str:
        """Of its folder, in which each model has a run folder."""
        usual = {"budget": "paper", "recipe": "best", "seed": 0}
        parts = [f"{name}-{getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        return "-".join([self.data, self.pixels, *parts])

    def members(self) -> dict[str, Experiment]:
        """The two models, which have equal options."""
        return {
            model: Experiment(self.data, self.pixels, model, self.budget, recipe=self.recipe, seed=self.seed)
            for model in MEMBERS
        }

    def configurations(self, data_dir: str | None = None, device: str = "auto") -> dict[str, TrainConfig]:
        """Those that train them."""
        return {model: member.configuration(data_dir, device) for model, member in self.members().items()}
