# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The experiments of the sum-product VAE paper as configurations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from pyro_spvae.reproduce.budget import TEST_ROWS, TRAINING, Budget, fraction_of
from pyro_spvae.reproduce.published import FIGURE_2_SIZES, TABLE_1, Pixels, SpvaeData, SpvaeModel
from pyro_spvae.reproduce.spvae_recipes import How, Recipe, how
from pyro_spvae.reproduce.spvae_widths import DELTA, best_shape, widest
from pyro_spvae.training.config import TrainConfig

Protocol = Literal["paper", "clean"]

_BATCH = 128  # the paper's
# importance samples of the test log-likelihood, and those beside the five-sample bounds of figures
_SAMPLES: dict[Budget, int] = {"paper": 5000, "small": 500, "tiny": 10}
_FIGURE_SAMPLES: dict[Budget, int] = {"paper": 100, "small": 100, "tiny": 10}
_FILTERS = {"conv-spvae": ("(4,8)", 1), "conv-vae": ("(32,64)", 2)}


@dataclass(frozen=True)
class Experiment:
    """
    One model on one data set, and how it is trained and scored.

    :ivar str data: ``mnist``, ``svhn`` or ``cifar10``; the latter two in grey, as in the paper.
    :ivar str pixels: ``continuous`` (Gaussian) or ``discrete`` (binomial on 0..255).
    :ivar str model: ``spvae``, ``vae``, ``conv-spvae`` or ``conv-vae``.
    :ivar str budget: ``paper``; ``small``: 20 minutes on two cores; ``tiny``: under three minutes of one core, on a
        part of the training images.
    :ivar str protocol: what is modelled. ``paper``: every image scaled to [0, 1] by itself, with the authors' noise if
        continuous. ``clean``: pixels as they are, uniform noise if continuous, so that bits/dim mean something.
    :ivar str recipe: how it is parameterised and fitted. ``paper``: standard deviations as :math:`(1 + s^2)^{-1/2}`, a
        constant learning rate, early stopping after eleven validations. ``tuned``: their sizes with standard
        deviations by a softplus with a floor, leaky ReLUs, doubly reparameterised gradients, and a learning rate that
        falls to 0. ``best``: what did best in our trials. For ``spvae`` and the discrete ``vae``, networks with a
        shared trunk and a linear skip from input to output, as wide as the paper's number of parameters allows, and in
        the ``spvae`` of continuous pixels four leaves and sums a region instead of two, while that of discrete ones
        starts at the training images' means; for the ``vae`` of continuous pixels the recipe ``paper``. The
        ``conv-vae`` has a rate that rises to 0.004 and falls to 0 (one-cycle), with leaky ReLUs and doubly
        reparameterised gradients; on continuous pixels with the paper's standard deviations, on discrete ones from the
        training images' means. From these starts the ``conv-spvae`` of discrete pixels, with a rate up to 0.015. Others
        are ``tuned``. In Figure 2 the ``spvae`` has a learning rate of 0.003, and with less than a fifth of the images,
        which deeper networks overfit, the paper's parameterisation, one hidden layer instead of two in as many leaves,
        doubly reparameterised gradients, and a learning rate that falls from 0.01; the ``vae`` of continuous pixels has
        a linear skip in networks of 190 units with so few, a tenth of the pixels is
        hidden in training, and the exponential average of its weights is kept.
        All train on all images in a proper shuffle, where the authors' released code saw the first 17,384 only.
    :ivar float fraction: part of the training images.
    :ivar int layers: hidden layers; 3 is the paper's control of depth.
    :ivar int latent_dim: another latent size than the table's.
    :ivar int figure: number of the figure, where it is for one.
    """

    data: SpvaeData = "mnist"
    pixels: Pixels = "continuous"
    model: SpvaeModel = "spvae"
    budget: Budget = "paper"
    protocol: Protocol = "paper"
    recipe: Recipe = "best"
    fraction: float = 1.0
    layers: int = 2
    latent_dim: int | None = None
    figure: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known are {', '.join(known)}")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"fraction is {self.fraction!r}; a number above 0 and at most 1 is needed")
        if self.layers not in (2, 3) or (self.layers == 3 and "conv" in self.model):
            raise ValueError(f"layers is {self.layers!r}; 2 is accepted, and 3 for models without convolutions")

    def configuration(self, data_dir: str | None = None, device: str = "auto") -> TrainConfig:
        """
        The configuration that trains it.

        :param str data_dir: folder of data sets.
        :param str device: as in :class:`~pyro_spvae.training.config.TrainConfig`.
        """
        values: dict[str, Any] = {
            "data": self.data,
            "data_dir": data_dir,
            "grey": self.data != "mnist",
            "preprocess": self._preprocess(),
            "fraction": self._part,
            "test_rows": TEST_ROWS[self.budget],
            "particles": 5,
            "batch_size": _BATCH,
            "samples": self._samples(),
            "seed": self.seed,
            "device": device,
        }
        return TrainConfig(**(values | self._structure() | self._networks() | self._training()))

    objective: ClassVar[None] = None

    @property
    def table(self) -> str:
        """What it belongs to: the command of ``reproduce`` that runs it."""
        return "spvae-table1" if self.figure is None else f"spvae-figure{self.figure}"

    @property
    def name(self) -> str:
        """Of the run folder: what differs from a full run under the paper's protocol is said."""
        parts: list[str] = [self.data, self.pixels, self.model]
        if self.fraction < 1:
            parts.append(str(self.fraction))
        if self.layers != 2:
            parts.append(f"{self.layers}-layers")
        if self.latent_dim is not None:
            parts.append(f"latent-{self.latent_dim}")
        usual = {"budget": "paper", "protocol": "paper", "recipe": "best"}
        parts += [f"{name}-{getattr(self, name)}" for name, value in usual.items() if getattr(self, name) != value]
        if self.seed:
            parts.append(f"seed-{self.seed}")
        return "-".join(parts)

    @property
    def _part(self) -> float:
        """Of the training images that is seen."""
        return self.fraction * fraction_of(self.budget, self.data)

    def _samples(self) -> int:
        """Figures report the bound with the five samples of training; log-likelihoods are an addition there."""
        return (_SAMPLES if self.figure is None else _FIGURE_SAMPLES)[self.budget]

    def _preprocess(self) -> str:
        if self.protocol == "paper":
            return "paper" if self.pixels == "continuous" else "paper-discrete"
        return "dequantize" if self.pixels == "continuous" else "integers"

    @property
    def _how(self) -> How:
        """What the recipe says."""
        return how(self.recipe, self.model, self.pixels, self.figure, self.fraction)

    def _structure(self) -> dict[str, Any]:
        if self.model in ("vae", "conv-vae"):
            return {"structure": "whole", "units": 1}
        units = best_shape(self.data, self.pixels, self.model).units if self._how.widest else 2
        return {"structure": "poon-domingos", "delta": DELTA[self.data], "units": units, "weights": "full"}

    def _sizes(self) -> tuple[int, int, int]:
        """Latent size, units of a hidden layer, and how many there are."""
        recipe, key = self._how, (self.data, self.pixels, self.model)
        layers = self.layers if recipe.layers is None else recipe.layers
        latent, hidden = TABLE_1[key].latent_dim, TABLE_1[key].hidden
        if self.figure == 2:
            latent, hidden = FIGURE_2_SIZES.get(key, (latent, hidden))
        if recipe.widest:
            latent, hidden = best_shape(*key).latent_dim, widest(*key, few=layers == 1)
        if recipe.hidden is not None:
            hidden = recipe.hidden
        return latent if self.latent_dim is None else self.latent_dim, hidden, layers

    def _networks(self) -> dict[str, Any]:
        recipe, (latent, hidden, layers) = self._how, self._sizes()
        gain = ["output_gain=1"] if recipe.precision else []
        scale = ["scale=precision"] if recipe.precision else []
        network = _written("mlp", [*gain, *(["skip=True"] if recipe.skip else [])])
        if self.model in _FILTERS:
            filters, stride = _FILTERS[self.model]
            network = _written("conv", [f"filters={filters}", f"stride={stride}", f"dense={hidden}", *gain])
        discrete = _written("binomial", [] if recipe.from_mean else ["from_mean=False"])
        return {
            "latent_dim": latent,
            "hidden": (hidden,) * layers,
            "network": network,
            "networks": "shared" if recipe.shared else "separate",
            "activation": recipe.activation,
            "guide": _written("normal", scale),
            "likelihood": _written("normal", ["mean=sigmoid", *scale]) if self.pixels == "continuous" else discrete,
        }

    def _training(self) -> dict[str, Any]:
        recipe, batches = self._how, math.ceil(self._part * TRAINING[self.data] / _BATCH)
        return {
            "lr": recipe.learning_rate(self.model),
            "schedule": recipe.schedule,
            "gradient": recipe.gradient,
            "average": recipe.average,
            "hide": recipe.hide,
            "validate_every": recipe.validate_every(self.budget),
            "patience": recipe.patience,
            "epochs": recipe.epochs(self.model, self.budget, batches),
        }


def of_figure_2(
    fractions: Iterable[float],
    models: Iterable[SpvaeModel],
    data: SpvaeData = "mnist",
    pixels: Pixels = "continuous",
    budget: Budget = "paper",
    recipe: Recipe = "best",
) -> list[Experiment]:
    """The points of Figure 2. With all images they are, as in the paper, the cells of Table 1."""
    return [
        Experiment(data, pixels, model, budget, "paper", recipe, fraction, figure=None if fraction == 1 else 2)
        for fraction in fractions
        for model in models
    ]


def _written(name: str, options: list[str]) -> str:
    return f"{name}({', '.join(options)})" if options else name


_KNOWN: dict[str, tuple[str, ...]] = {
    "data": ("mnist", "svhn", "cifar10"),
    "pixels": ("continuous", "discrete"),
    "model": ("spvae", "vae", "conv-spvae", "conv-vae"),
    "budget": get_args(Budget),
    "protocol": ("paper", "clean"),
    "recipe": ("best", "tuned", "paper"),
}
