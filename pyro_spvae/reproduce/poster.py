# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The poster that preceded the SPVAE paper: a vanilla SPN, an SPN with VAE leaves and a VAE on binary MNIST."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pyro_spvae import checks
from pyro_spvae.reproduce.budget import TEST_ROWS, Budget, fraction_of
from pyro_spvae.reproduce.published import POSTER
from pyro_spvae.training.config import TrainConfig

MODELS = ("spn", "spvae", "vae")

_EPOCHS: dict[Budget, dict[str, int]] = {
    "paper": {"spn": 20, "spvae": 20, "vae": 20},
    "small": {"spn": 3, "spvae": 5, "vae": 5},
    "tiny": {"spn": 3, "spvae": 3, "vae": 3},
}
_SAMPLES: dict[Budget, int] = {"paper": 1000, "small": 100, "tiny": 10}


@dataclass(frozen=True)
class PosterExperiment:
    """
    One of the poster's models, with Adam at 0.01 as there.

    - ``spn``: deltas 4 and 1, two Bernoulli leaves a pixel (1,568), 51,744 products;
    - ``spvae``: delta 4, two VAEs a cell (98) of latent size 2 with a hidden layer of 16, 12,544 products;
    - ``vae``: as large as those leaves together: latent size 196, a hidden layer of 1,568.

    Pixels are binarised once (the poster does not say how). All images are used.
    """

    model: str
    budget: Budget = "paper"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"model is {self.model!r}; known are {', '.join(MODELS)}")
        checks.one_of("budget", self.budget, get_args(Budget))

    table: ClassVar[str] = "poster"
    objective: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Of the run folder."""
        parts = [self.model, *([] if self.budget == "paper" else [f"budget-{self.budget}"])]
        return "-".join([*parts, *([f"seed-{self.seed}"] if self.seed else [])])

    def configuration(self, data_dir: str | None = None, device: str = "auto") -> TrainConfig:
        """The configuration that trains it."""
        return TrainConfig(
            **{
                "data": "mnist",
                "data_dir": data_dir,
                "preprocess": "binarize-static",
                "likelihood": "bernoulli",
                "particles": 1,
                "lr": 0.01,
                "schedule": "constant",
                "epochs": _EPOCHS[self.budget][self.model],
                "patience": 10**6,
                "samples": _SAMPLES[self.budget],
                "test_rows": TEST_ROWS[self.budget],
                "fraction": fraction_of(self.budget, "mnist"),
                "seed": self.seed,
                "device": device,
                **self._model(),
            }
        )

    def _model(self) -> dict[str, Any]:
        if self.model == "spn":
            deltas = list(POSTER["spn"]["deltas"])
            return {"structure": "poon-domingos", "delta": deltas, "units": 2, "leaf": "factorized"}
        if self.model == "spvae":
            leaves = {"latent_dim": 2, "hidden": (16,)}
            return {"structure": "poon-domingos", "delta": 4, "units": 2, "weights": "full"} | leaves
        sizes = POSTER["vae"]
        return {
            "structure": "whole",
            "units": 1,
            "latent_dim": sizes["latent_dim"],
            "hidden": (sizes["hidden"],),
        }
