# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The experiments of the DLGMM paper (Nalisnick, Hertel and Smyth 2016) as configurations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from pyro.infer import ELBO

from pyro_spvae.reproduce.binary_sets import preprocessing
from pyro_spvae.reproduce.budget import TEST_ROWS, Budget, fraction_of
from pyro_spvae.reproduce.component_elbo import Eq1ELBO
from pyro_spvae.reproduce.published import (
    NEIGHBOURS,
    BinarySet,
    MixtureBound,
    MixtureModel,
    MixturePrior,
    MixtureTable,
)
from pyro_spvae.reproduce.recipes import Recipe, falling
from pyro_spvae.training.config import TrainConfig

FIGURES = {2: "samples of the extreme components, and t-SNE of the latent spaces of Gauss-VAE and DLGMM"}
#: prior means of the components in Figure 2
MEANS = (-1.5, -0.75, 0.0, 0.75, 1.5)
#: how many samples the marginal likelihood is estimated with: as in the authors' code, and well
SAMPLES: dict[Budget, tuple[int, int]] = {"paper": (50, 5000), "small": (50, 5000), "tiny": (5, 10)}
_HIDDEN, _LATENT, _COMPONENTS, _TRUNCATION, _PIECES = 500, 25, 3, 17, 25
_CONCENTRATION = 5  # of the SB-VAE's sticks, in its authors' code
_OF_MIXTURES: tuple[MixtureModel, ...] = ("dlgmm", "dldpmm")
_LR: dict[MixtureModel, float] = {"gauss-vae": 1e-3, "sb-vae": 3e-3, "dlgmm": 1e-3, "dldpmm": 1e-3}
_PAPER_LR, _LOOK_AHEAD = 3e-4, 30
# epochs; those of the paper's recipe are the most, and end by looking ahead
_EPOCHS: dict[Recipe, dict[Budget, int]] = {
    "best": {"paper": 100, "small": 30, "tiny": 5},
    "paper": {"paper": 1000, "small": 30, "tiny": 5},
}
_SLOW_EPOCHS: dict[Budget, int] = {"paper": 100, "small": 20, "tiny": 5}  # of models whose steps take longer
_STICK_EPOCHS: dict[Budget, int] = {"paper": 200, "small": 40, "tiny": 5}  # of sticks, which are learned more slowly


@dataclass(frozen=True)
class MixtureExperiment:
    """
    One model on one data set of binary images, and how it is trained and scored.

    :ivar str data: ``static_mnist`` (Larochelle's files), ``mnist`` or ``omniglot_burda``, binarised once by the seed.
    :ivar str model: ``gauss-vae`` (500d-25s), ``sb-vae`` (500d-25t), ``dlgmm`` (500d-3x25s) or ``dldpmm``
        (500d-17tx25s): hidden units, and latent variables of each component or pieces of a stick.
    :ivar str bound: of a mixture: ``mixture``, the tightest and cheapest, with one decoder pass; ``enumerated``, the
        sum over components; ``eq1``, the paper's. By default that of the recipe.
    :ivar str prior: of the components: ``zero``, all N(0, I), or ``spread``, the five means of Figure 2.
    :ivar str budget: ``paper``, or ``small``: 30 epochs, 40 of the SB-VAE, 20 of the DLDPMM and of Figure 2;
        or ``tiny``: five epochs of 1,500 images.
    :ivar str recipe: ``best``: Adam with a rate that falls to 0 as a cosine. ``paper``: Adam with 3e-4, standard
        deviations as exponentials, eq. (1), and an end after 30 epochs without a better validation.
    """

    data: BinarySet = field(default="mnist", metadata={"named": True})  # what is usual depends on files
    model: MixtureModel = "dlgmm"
    bound: MixtureBound | None = None
    prior: MixturePrior = "zero"
    budget: Budget = "paper"
    recipe: Recipe = "best"
    seed: int = 0

    def __post_init__(self) -> None:
        known = {
            "data": BinarySet,
            "model": MixtureModel,
            "prior": MixturePrior,
            "budget": Budget,
            "recipe": Recipe,
        }
        for name, accepted in known.items():
            if getattr(self, name) not in get_args(accepted):
                raise ValueError(f"{name} is {getattr(self, name)!r}; known are {', '.join(get_args(accepted))}")
        if self.bound is not None and self.bound not in get_args(MixtureBound):
            raise ValueError(f"bound is {self.bound!r}; known are {', '.join(get_args(MixtureBound))}")
        if self.bound is not None and self.model not in _OF_MIXTURES:
            raise ValueError(f"bound is {self.bound!r}, but the {self.model} is no mixture; leave it out")
        if self.prior == "spread" and self.model != "dlgmm":
            raise ValueError(f"prior is 'spread', but the model is {self.model!r}; accepted is dlgmm")

    table: ClassVar[str] = "dlgmm"

    @property
    def chosen_bound(self) -> MixtureBound | None:
        """The bound of a mixture that is trained by."""
        if self.model not in _OF_MIXTURES:
            return None
        return self.bound or ("mixture" if self.recipe == "best" else "eq1")

    @property
    def objective(self) -> ELBO | None:
        """The paper's bound where that is asked for, which configurations cannot name."""
        return Eq1ELBO() if self.chosen_bound == "eq1" else None

    @property
    def name(self) -> str:
        """Of the run folder."""
        parts: list[str] = [self.data, self.model]
        parts += [part for part in (self.bound,) if part is not None]
        usual = {"prior": "zero", "recipe": "best", "budget": "paper", "seed": 0}
        parts += [f"{name}-{getattr(self, name)}" for name, default in usual.items() if getattr(self, name) != default]
        return "-".join(parts)

    def configuration(self, data_dir: str | None = None, device: str = "auto") -> TrainConfig:
        """
        The configuration that trains it.

        :param str data_dir: folder of data sets.
        :param str device: as in :class:`~pyro_spvae.training.config.TrainConfig`.
        """
        own = self.recipe == "best"
        return TrainConfig(
            data=self.data,
            data_dir=data_dir,
            preprocess=preprocessing(self.data),
            structure="whole",
            units=1,
            likelihood="bernoulli",
            hidden=(_HIDDEN,),
            activation="relu",
            networks="shared",
            objective="elbo",
            particles=1,
            batch_size=100,
            fraction=fraction_of(self.budget, self.data),
            samples=SAMPLES[self.budget][-1 if self.prior == "zero" else 0],
            test_rows=TEST_ROWS[self.budget],
            seed=self.seed,
            device=device,
            **self._programs("softplus" if own else "exp"),
            **self._training(),
        )

    def _training(self) -> dict[str, Any]:
        if self.recipe == "best":
            return falling(_LR[self.model], self._epochs())
        return {"lr": _PAPER_LR, "schedule": "constant", "epochs": self._epochs(), "patience": _LOOK_AHEAD}

    def _epochs(self) -> int:
        if self.model == "sb-vae" and self.recipe == "best":
            return _STICK_EPOCHS[self.budget]
        if self.recipe == "best" and (self.model == "dldpmm" or self.prior == "spread"):
            return _SLOW_EPOCHS[self.budget]
        return _EPOCHS[self.recipe][self.budget]

    def _programs(self, scale: str) -> dict[str, Any]:
        if self.model == "gauss-vae":
            return {"leaf": "vae", "guide": f"normal(scale={scale})", "latent_dim": _LATENT}
        if self.model == "sb-vae":
            return {"leaf": f"sbvae(truncation={_PIECES}, alpha0={_CONCENTRATION})", "guide": "sticks"}
        size = f"components={_COMPONENTS}" if self.model == "dlgmm" else f"truncation={_TRUNCATION}"
        if self.prior == "spread":
            size = f"components={len(MEANS)}, means=({','.join(f'{mean:g}' for mean in MEANS)})"
        summed = ", summed=True" if self.chosen_bound == "mixture" else ""
        return {"leaf": f"{self.model}({size}{summed})", "guide": f"mixture(scale={scale})", "latent_dim": _LATENT}


def of_table(
    table: MixtureTable,
    data: BinarySet,
    models: tuple[MixtureModel, ...] | None,
    bound: MixtureBound | None,
    prior: MixturePrior,
    budget: Budget,
    recipe: Recipe,
) -> list[MixtureExperiment]:
    """
    The cells of a table.

    :param str table: ``kNN``, which needs labels and is of ``mnist`` alone, or ``likelihood``.
    :param models: ``None``: all that the paper has.
    :param str bound: of mixtures, ``None``: the recipe's.
    :param str prior: of the components of the DLGMM.
    :raises ValueError: for a table that there is not, data without labels, or a bound or prior that no model takes.
    """
    if table not in get_args(MixtureTable):
        raise ValueError(f"table is {table!r}; known are {', '.join(get_args(MixtureTable))}")
    if table == "kNN" and data != "mnist":
        raise ValueError(f"data is {data!r}, but table kNN needs labels, which mnist has; leave it out")
    chosen = models or (tuple(NEIGHBOURS) if table == "kNN" else get_args(MixtureModel))
    if bound is not None and not set(chosen) & set(_OF_MIXTURES):
        raise ValueError(f"bound is {bound!r}, but none of {', '.join(chosen)} is a mixture; leave it out")
    if prior != "zero" and "dlgmm" not in chosen:
        raise ValueError(
            f"prior is {prior!r}, which is of the dlgmm, but the models are {', '.join(chosen)}; leave it out"
        )
    return [
        MixtureExperiment(
            data,
            model,
            bound if model in _OF_MIXTURES else None,
            prior if model == "dlgmm" else "zero",
            budget,
            recipe,
        )
        for model in chosen
    ]


def of_figure(figure: int, data: BinarySet, budget: Budget, recipe: Recipe) -> list[MixtureExperiment]:
    """
    The models that a figure shows: a Gauss-VAE, and a DLGMM whose components have means of their own.

    :raises ValueError: if there is no such figure, or for data without labels.
    """
    if figure not in FIGURES:
        raise ValueError(f"figure is {figure}; known is {', '.join(map(str, FIGURES))}")
    if data != "mnist":
        raise ValueError(f"data is {data!r}, but figure {figure} shows classes, which mnist has; leave it out")
    return [
        MixtureExperiment(data, "gauss-vae", None, "zero", budget, recipe),
        MixtureExperiment(data, "dlgmm", None if recipe == "paper" else "enumerated", "spread", budget, recipe),
    ]
