# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How the models of the SPVAE paper are parameterised and fitted, by recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from pyro_spvae.reproduce.budget import Budget
from pyro_spvae.reproduce.published import Pixels, SpvaeModel

Recipe = Literal["best", "tuned", "paper"]

_LR: dict[SpvaeModel, float] = {"spvae": 0.01, "vae": 0.001, "conv-spvae": 0.01, "conv-vae": 0.001}  # the paper's
# steps of the whole run
_STEPS: dict[SpvaeModel, dict[Budget, int]] = {
    "spvae": {"paper": 16_000, "small": 6_000, "tiny": 100},
    "vae": {"paper": 16_000, "small": 6_000, "tiny": 100},
    "conv-spvae": {"paper": 16_000, "small": 4_000, "tiny": 50},
    "conv-vae": {"paper": 16_000, "small": 6_000, "tiny": 50},
}
_PAPER_EPOCHS = 400
# of each point of Figure 2, where fewer images are overfitted the sooner and the best validation counts
_FIGURE_2_STEPS: dict[Budget, int] = {"paper": 6_000, "small": 2_500, "tiny": 100}
_FIGURE_2_LR = 0.003
_FEW = 0.2  # part of the images
_STRIKES = 11  # validations without a new maximum after which the authors' code stops
_NEVER = 10**6
# batches; validations of convolutional models take as long as 128 steps
_VALIDATE: dict[str, dict[Budget, int]] = {
    "usual": {"paper": 128, "small": 128, "tiny": 24},
    "often": {"paper": 64, "small": 64, "tiny": 12},
    "seldom": {"paper": 512, "small": 512, "tiny": 24},
}


@dataclass(frozen=True)
class How:
    """
    What a recipe says of a model. Without arguments it is the recipe ``tuned``.

    :ivar bool precision: standard deviations :math:`(1 + s^2)^{-1/2}` and initial outputs of full size, as in the
        paper, instead of a softplus with a floor and small outputs.
    :ivar str activation: of hidden layers.
    :ivar bool skip: a linear skip from a network's input to its outputs.
    :ivar bool shared: one trunk for all outputs of a network.
    :ivar bool widest: our latent sizes and units, and layers as wide as the paper's number of parameters allows.
    :ivar int layers: hidden layers, if not as many as the experiment has.
    :ivar int hidden: units of a hidden layer, if not the table's.
    :ivar bool from_mean: whether decoders of discrete pixels start at the training images' means.
    :ivar str gradient: of the guide.
    :ivar float lr: the highest learning rate, if not the paper's.
    :ivar str schedule: of the rate.
    :ivar str average: of the weights.
    :ivar float hide: part of the pixels of a batch that are hidden.
    :ivar bool strikes: whether training ends after eleven validations without a new maximum.
    :ivar int steps: of a whole run with the budget ``paper``, if not as many as others have.
    :ivar int most_steps: of Figure 2, and ``most_epochs``, where there is a limit.
    :ivar str validate: how often: ``usual``, ``often`` or ``seldom``.
    """

    precision: bool = False
    activation: str = "leaky_relu"
    skip: bool = False
    shared: bool = False
    widest: bool = False
    layers: int | None = None
    hidden: int | None = None
    from_mean: bool = False
    gradient: Literal["iwae", "dreg"] = "dreg"
    lr: float | None = None
    schedule: Literal["constant", "cosine", "one-cycle"] = "cosine"
    average: Literal["none", "ema"] = "none"
    hide: float = 0.0
    strikes: bool = False
    steps: int | None = None
    most_steps: int | None = None
    most_epochs: int | None = None
    validate: str = "usual"

    def learning_rate(self, model: SpvaeModel) -> float:
        """The highest."""
        return _LR[model] if self.lr is None else self.lr

    def validate_every(self, budget: Budget) -> int:
        """Batches between validations."""
        return _VALIDATE[self.validate][budget]

    @property
    def patience(self) -> int:
        """Validations to look ahead."""
        return _STRIKES if self.strikes else _NEVER

    def epochs(self, model: SpvaeModel, budget: Budget, batches: int) -> int:
        """
        Of a run.

        :param int batches: of an epoch.
        """
        if self.schedule == "constant" and budget == "paper":
            return _PAPER_EPOCHS
        steps = self.steps if self.steps is not None and budget == "paper" else _STEPS[model][budget]
        if self.most_steps is not None and self.most_epochs is not None:
            steps = min(_FIGURE_2_STEPS[budget], self.most_steps, self.most_epochs * batches)
        return max(1, round(steps / batches))


_TUNED = How()
_PAPER = How(precision=True, activation="softplus", gradient="iwae", schedule="constant", strikes=True)
_WIDEST = replace(_TUNED, widest=True, skip=True, shared=True)
_ONE_CYCLE = replace(_TUNED, schedule="one-cycle", validate="seldom")
_BEST: dict[tuple[SpvaeModel, Pixels], How] = {
    ("spvae", "continuous"): _WIDEST,
    ("spvae", "discrete"): replace(_WIDEST, from_mean=True),
    ("vae", "continuous"): _PAPER,
    ("vae", "discrete"): _WIDEST,
    ("conv-spvae", "continuous"): _TUNED,
    ("conv-spvae", "discrete"): replace(_ONE_CYCLE, lr=0.015, steps=20_000, from_mean=True),
    ("conv-vae", "continuous"): replace(_ONE_CYCLE, lr=0.002, steps=24_000, precision=True),
    ("conv-vae", "discrete"): replace(_ONE_CYCLE, lr=0.004, from_mean=True),
}
# few images are overfitted by deeper networks
_SPVAE_OF_FEW = replace(
    _PAPER,
    widest=True,
    layers=1,
    gradient="dreg",
    schedule="cosine",
    most_steps=4_000,
    most_epochs=150,
    validate="often",
)
_BEST_OF_FEW: dict[tuple[SpvaeModel, Pixels], How] = {
    ("spvae", "continuous"): _SPVAE_OF_FEW,
    ("spvae", "discrete"): _SPVAE_OF_FEW,
    # with 190 units a skip takes no more parameters than 300 have without, for MNIST
    ("vae", "continuous"): replace(_PAPER, skip=True, hidden=190, average="ema", hide=0.1),
}


def how(recipe: Recipe, model: SpvaeModel, pixels: Pixels, figure: int | None = None, fraction: float = 1.0) -> How:
    """
    What a recipe says of an experiment.

    :param int figure: number of the figure that it is for, if any.
    :param float fraction: part of the training images.
    """
    if recipe == "paper":
        return _PAPER
    if figure == 2 and fraction < _FEW and recipe == "best" and (model, pixels) in _BEST_OF_FEW:
        return _BEST_OF_FEW[model, pixels]
    found = _TUNED if recipe == "tuned" else _BEST[model, pixels]
    if figure != 2 or found.schedule == "constant":
        return found
    # few images are overfitted long before the end
    found = replace(found, strikes=True, validate="usual", most_steps=6_000, most_epochs=60)
    return replace(found, lr=_FIGURE_2_LR) if model == "spvae" else found
