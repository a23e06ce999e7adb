# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The experiments of the VampPrior paper (Tomczak and Welling 2018) as configurations."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, ClassVar, get_args

from pyro_spvae.checks import positive_integer
from pyro_spvae.reproduce import spvae
from pyro_spvae.reproduce.budget import TEST_ROWS, Budget, fraction_of
from pyro_spvae.reproduce.published import VampData, VampModel, VampPriorName
from pyro_spvae.reproduce.recipes import Recipe, falling
from pyro_spvae.training.config import TrainConfig

TABLES: dict[int, tuple[VampData, ...]] = {
    1: get_args(VampData),
    2: ("static_mnist",),
    3: ("mnist",),
    4: ("omniglot_burda",),
    5: ("caltech101_silhouettes",),
}
FIGURES = {
    2: "test bound and active units against the number of components",
    3: "pseudo-inputs and what is generated from them",
    4: "generations",
    5: "reconstructions",
    6: "histograms of test log-likelihoods",
}
_GREY = ("frey_faces", "histopathology")
# mean and standard deviation of the initial pseudo-inputs in the authors' code
_STARTS = {
    "caltech101_silhouettes": (0.5, 0.02),
    "frey_faces": (0.5, 0.02),
    "histopathology": (0.4, 0.05),
}
_HIDDEN, _LATENT = 300, 40
# units that their convolutional encoder of the lower latent variables ends in are found when it is bound
_CONVOLUTIONS = (
    "hierarchical(scale=logvar, encoder=gated_conv(layers=large), "
    f"second=joint(hidden_dims=({_HIDDEN}, {_HIDDEN}), activation=gated, init=he, output_gain=1.0, "
    "first=gated_conv(layers=small, heads=False)))"
)
# epochs, epochs of warm-up, validations to look ahead, importance samples of the test log-likelihood
_BUDGETS: dict[Budget, tuple[int, int, int, int]] = {
    "paper": (2000, 100, 51, 5000),
    "small": (25, 5, 25, 1000),
    "tiny": (5, 1, 25, 10),
}
_LR, _BATCH = 5e-4, 100
# of the recipe best: epochs and those of warm-up; the highest rate and the batch, and those of the convolutional model,
# which was not tried with larger batches, and of the tiny budget, which has few images
_BEST_EPOCHS: dict[Budget, tuple[int, int]] = {"paper": (400, 40), "small": (25, 5), "tiny": (5, 1)}
_BEST_LR, _BEST_BATCH = 4e-3, 500
_BEST_LR_OF_SMALL_BATCHES = 2e-3
# smaller budgets of the convolutional model, whose steps take far longer; no warm-up
_CONVOLUTIONAL_EPOCHS: dict[Budget, dict[VampData, int]] = {
    "small": {  # some 500 steps
        "mnist": 1,
        "static_mnist": 1,
        "omniglot_burda": 2,
        "caltech101_silhouettes": 12,
        "frey_faces": 32,
        "histopathology": 7,
    },
    "tiny": dict.fromkeys(get_args(VampData), 1),
}
# importance samples, and batches between validations
_CONVOLUTIONAL: dict[Budget, tuple[int, int]] = {"small": (10, 100), "tiny": (1, 10)}


@dataclass(frozen=True)
class VampExperiment:
    """
    One model with one prior on one data set, and how it is trained and scored.

    :ivar str data: ``mnist`` (binarised anew for every batch), ``static_mnist``, ``omniglot_burda``,
        ``caltech101_silhouettes``, ``frey_faces`` or ``histopathology``; the last two in grey levels.
    :ivar str model: ``vae``, ``hvae`` (two layers of latent variables), ``convhvae`` (the same with gated convolutions
        and a PixelCNN decoder), or ``spvae``: the sum-product VAE of continuous MNIST with this prior in every leaf,
        which is in neither paper.
    :ivar str prior: ``standard``; ``mog``, a mixture of Gaussians; ``vamp``; ``vamp-data``, with frozen training images
        as pseudo-inputs.
    :ivar str budget: ``paper``: their schedule, at most 2000 epochs; ``small``, for two cores: 25 epochs and 1000
        importance samples, of the ``convhvae`` 500 steps and 10 samples; ``tiny``: five epochs of 1,500
        images, of the ``convhvae`` one.
    :ivar int components: of a mixture; 500, for OMNIGLOT 1000.
    :ivar str recipe: ``paper``: a learning rate of 0.0005, and an end after 50 epochs without a better validation.
        ``best``: the same optimiser, in batches of 500 instead of 100 with a rate that rises to 0.004 and falls to 0
        over 400 epochs (one-cycle), the first 40 of which are the warm-up, and with gradients of the guide without its
        score (Roeder et al. 2017), which of one sample are the doubly reparameterised ones; the ``convhvae`` in batches
        of 100 with a rate up to 0.002. The ``spvae`` has that of its own table in either case.
    """

    data: VampData = "mnist"
    model: VampModel = "vae"
    prior: VampPriorName = field(default="standard", metadata={"named": True})  # of which commands take two
    budget: Budget = "paper"
    components: int | None = None
    seed: int = 0
    recipe: Recipe = "paper"

    def __post_init__(self) -> None:
        known_of = {"data": VampData, "model": VampModel, "prior": VampPriorName, "budget": Budget, "recipe": Recipe}
        for name, known in known_of.items():
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is {getattr(self, name)!r}; known are {', '.join(get_args(known))}")
        if self.components is not None and self.prior == "standard":
            raise ValueError(f"components is {self.components!r}, but the standard prior has none; leave it out")
        if self.components is not None:
            positive_integer("components", self.components)
        if self.model == "spvae" and self.data != "mnist":
            raise ValueError(f"data is {self.data!r}, but the model is 'spvae'; accepted is mnist")
        if self.model == "spvae" and self.recipe != "paper":
            raise ValueError(
                f"recipe is {self.recipe!r}, but the model is 'spvae', which is trained as in its own table; leave it "
                "out"
            )

    table: ClassVar[str] = "vampprior"
    objective: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Of the run folder."""
        parts: list[str] = [self.data, self.model, self.prior]
        if self.components is not None:
            parts.append(str(self.components))
        usual = {"budget": "paper", "recipe": "paper", "seed": 0}
        parts += [f"{name}-{getattr(self, name)}" for name, default in usual.items() if getattr(self, name) != default]
        return "-".join(parts)

    def configuration(self, data_dir: str | None = None, device: str = "auto") -> TrainConfig:
        """
        The configuration that trains it.

        :param str data_dir: folder of data sets.
        :param str device: as in :class:`~pyro_spvae.training.config.TrainConfig`.
        """
        if self.model == "spvae":
            like = spvae.Experiment(budget=self.budget, seed=self.seed)
            return dataclasses.replace(like.configuration(data_dir, device), prior=self._prior())
        training = self._training()
        if self.model == "convhvae" and self.budget in _CONVOLUTIONAL:
            samples, validate_every = _CONVOLUTIONAL[self.budget]
            training |= {
                "epochs": _CONVOLUTIONAL_EPOCHS[self.budget][self.data],
                "warmup": 0,
                "validate_every": validate_every,
                "samples": samples,
            }
        return TrainConfig(
            data=self.data,
            data_dir=data_dir,
            fraction=fraction_of(self.budget, self.data),
            test_rows=TEST_ROWS[self.budget],
            preprocess=self._preprocess(),
            structure="whole",
            units=1,
            prior=self._prior(),
            likelihood="discretized-logistic(edges=truncated)" if self.data in _GREY else "bernoulli",
            latent_dim=_LATENT,
            hidden=(_HIDDEN, _HIDDEN),
            activation="gated",
            networks="shared",
            particles=1,
            optimiser="adam-normgrad",
            seed=self.seed,
            device=device,
            **training,
            **self._programs(),
        )

    def _training(self) -> dict[str, Any]:
        epochs, warmup, patience, samples = _BUDGETS[self.budget]
        if self.recipe == "best":
            epochs, warmup = _BEST_EPOCHS[self.budget]
            few = self.model == "convhvae" or self.budget == "tiny"
            lr, batch = (_BEST_LR_OF_SMALL_BATCHES, _BATCH) if few else (_BEST_LR, _BEST_BATCH)
            return falling(lr, epochs, "one-cycle") | {
                "objective": "iwae",  # of one sample the same bound
                "gradient": "dreg",
                "batch_size": batch,
                "warmup": warmup,
                "samples": samples,
            }
        return {
            "objective": "elbo",
            "batch_size": _BATCH,
            "lr": _LR,
            "schedule": "constant",
            "epochs": epochs,
            "warmup": warmup,
            "patience": patience,
            "samples": samples,
        }

    def _programs(self) -> dict[str, Any]:
        dense = "mlp(init=he, output_gain=1.0)"
        if self.model == "vae":
            return {"leaf": "vae", "guide": "normal(scale=logvar)", "network": dense}
        if self.model == "hvae":
            return {"leaf": "hvae(scale=logvar)", "guide": "hierarchical(scale=logvar)", "network": dense}
        decoder = "pixelcnn(latents=masked)"
        return {"leaf": "hvae(scale=logvar)", "guide": _CONVOLUTIONS, "network": dense, "decoder": decoder}

    def _preprocess(self) -> Any:
        if self.data in _GREY:
            return "integers"
        return "binarize" if self.data in ("mnist", "omniglot_burda") else "none"

    def _prior(self) -> str:
        if self.prior == "standard":
            return "standard-normal"
        components = self.components or (1000 if self.data == "omniglot_burda" else 500)
        if self.prior == "mog":
            return f"mixture-of-gaussians(components={components})"
        if self.prior == "vamp-data":
            return f"vamp(components={components}, init=data, frozen=True)"
        mean, std = _STARTS.get(self.data, (0.05, 0.01))
        return f"vamp(components={components}, mean={mean}, std={std})"


def of_table(
    table: int | None,
    data: VampData | None,
    models: tuple[VampModel, ...] | None,
    priors: tuple[VampPriorName, ...] | None,
    components: tuple[int, ...] | None,
    budget: Budget,
    recipe: Recipe = "paper",
) -> list[VampExperiment]:
    """
    The cells of a table, or all combinations of what is named.

    :param int table: number of the table, or ``None``.
    :param str data: one data set of it; ``None``: all of them, MNIST without a table.
    :param models: ``None``: all that the paper has, the VAE without a table.
    :param priors: ``None``: standard normal and VampPrior.
    :param components: of mixtures; ``None``: the paper's.
    :raises ValueError: if there is no such table, or it has no such data.
    """
    if table is not None and table not in TABLES:
        raise ValueError(f"table is {table}; known are {', '.join(map(str, TABLES))}")
    known = ("mnist",) if table is None else TABLES[table]
    if data is not None and table is not None and data not in known:
        raise ValueError(f"data is {data!r}, but table {table} is of {', '.join(known)}; leave one of them out")
    usual: tuple[VampModel, ...] = ("vae",) if table is None else ("vae", "hvae", "convhvae")
    return [
        VampExperiment(one, model, prior, budget, number, recipe=recipe)
        for one in (known if data is None else (data,))
        for model in models or usual
        for prior in priors or ("standard", "vamp")
        for number in ((None,) if prior == "standard" or components is None else components)
    ]


def of_figure(
    figure: int,
    data: VampData | None,
    models: tuple[VampModel, ...] | None,
    priors: tuple[VampPriorName, ...] | None,
    components: tuple[int, ...] | None,
    budget: Budget,
    recipe: Recipe = "paper",
) -> list[VampExperiment]:
    """
    The models that a figure shows; arguments as of :func:`of_table`, ``None`` being the paper's.

    :raises ValueError: if there is no such figure.
    """
    if figure not in FIGURES:
        raise ValueError(f"figure is {figure}; known are {', '.join(map(str, FIGURES))}")
    if figure == 2:
        data, models = data or "static_mnist", models or ("hvae",)
        priors, components = priors or ("standard", "mog", "vamp"), components or (1, 100, 500, 1000)
    elif figure == 3:
        models, priors = models or ("convhvae",), priors or ("vamp",)
    elif models is None and priors is None:
        cells: tuple[tuple[VampModel, VampPriorName], ...] = (
            ("vae", "standard"),
            ("hvae", "vamp"),
            ("convhvae", "vamp"),
        )
        return [VampExperiment(data or "mnist", model, prior, budget, recipe=recipe) for model, prior in cells]
    return of_table(None, data, models, priors, components, budget, recipe)
