# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Table 3 of the DVAE++ paper (Vahdat et al. 2018) as configurations: global and local variables of several kinds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, get_args

from pyro_spvae import checks
from pyro_spvae.reproduce.budget import TEST_ROWS, TRAINING, Budget, fraction_of
from pyro_spvae.reproduce.published import GLOBAL, GlobalData, GlobalModel
from pyro_spvae.training.config import Preprocessing, TrainConfig

#: prior of the global variables, how they are smoothed, and the local variables of each row
ROWS: dict[GlobalModel, tuple[str, str, str]] = {
    "normal-normal": ("standard-normal", "exponential", "normal"),
    "rolfe-normal": ("boltzmann-machine", "spike-and-exponential", "normal"),
    "rbm-normal": ("boltzmann-machine", "exponential", "normal"),
    "rbm-bernoulli": ("boltzmann-machine", "exponential", "bernoulli"),
    "bernoulli-bernoulli": ("independent-bits", "exponential", "bernoulli"),
}
_BATCH = 100
_BETA = {"exponential": 8, "spike-and-exponential": 5}
_WARMUP = 0.3  # of the epochs
_NEVER = 10**6
_LEVELS = 256


@dataclass(frozen=True)
class _Size:
    """
    Of the networks and the training of a budget.

    :ivar int groups: of local variables, ``variables`` at a position each.
    :ivar tuple channels: of maps at the patch's sides and halved once, twice and three times.
    :ivar int blocks: residual blocks at each scale and before each group.
    :ivar int steps: of training; ``samples`` are those of the evaluation.
    """

    groups: int
    variables: int
    channels: tuple[int, int, int]
    blocks: int
    steps: int
    samples: int
    lr: float
    chains: str


_SIZES: dict[Budget, _Size] = {
    "paper": _Size(16, 32, (64, 64, 128), 2, 500_000, 4000, 1e-3, "chains=1000,sweeps=40"),
    "small": _Size(4, 16, (8, 32, 32), 1, 10_000, 50, 3e-3, "chains=100,sweeps=10"),
    "tiny": _Size(2, 4, (4, 8, 8), 1, 100, 5, 3e-3, "chains=100,sweeps=10"),
}


@dataclass(frozen=True)
class ConvolutionalExperiment:
    """
    DVAE++ on one data set: 16 global variables (128 on CIFAR10) and groups of local ones on a grid of a quarter of the
    sides, trained by the ELBO with warm-up of the KL and balanced groups over the first 30 % of the steps, scored by
    importance sampling with bits as bits.

    Sizes of the paper's networks are in an appendix that is not at hand: the 16 groups of 32 variables a position, the
    numbers of global variables, the decoders (of MNIST all pixels independent given the latent variables, else scale by
    scale) and the 4,000 samples are the paper's; widths, learning rate and steps are ours.

    :ivar str data: ``mnist`` (binarised anew for every batch), ``static_mnist``, ``omniglot_burda``,
        ``caltech101_silhouettes`` or ``cifar10``.
    :ivar str model: global and local variables: ``normal-normal``, ``rolfe-normal`` (a Boltzmann machine smoothed by
        spike and exponential), ``rbm-normal``, ``rbm-bernoulli`` or ``bernoulli-bernoulli``.
    :ivar str budget: ``small``: at most 45 minutes of two cores a model of MNIST, scored by 50 samples of all test
        images (``pyro-spvae evaluate RUN --samples 4000`` adds more); ``tiny``: minutes, to see that all
        works; ``paper``: for a GPU.
    :ivar int groups: of the posterior of global bits, each given those before: 1, 2 or 4.
    """

    data: GlobalData = "mnist"
    model: GlobalModel = "rbm-normal"
    budget: Budget = "paper"
    groups: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("data", GlobalData), ("model", GlobalModel), ("budget", Budget)):
            checks.one_of(name, getattr(self, name), get_args(known))
        if self.groups not in (1, 2, 4):
            raise ValueError(f"groups is {self.groups!r}; 1, 2 or 4 is needed")

    table: ClassVar[str] = "dvaepp"
    objective: ClassVar[None] = None

    @property
    def name(self) -> str:
        """Of the run folder."""
        parts: list[str] = [self.data, self.model]
        usual = {"budget": "paper", "groups": 2, "seed": 0}
        parts += [f"{name}-{getattr(self, name)}" for name, default in usual.items() if getattr(self, name) != default]
        return "-".join(parts)

    def configuration(self, data_dir: str | None = None, device: str = "auto") -> TrainConfig:
        """
        The configuration that trains it.

        :param str data_dir: folder of data sets.
        :param str device: as in :class:`~pyro_spvae.training.config.TrainConfig`.
        """
        size, colour = _SIZES[self.budget], self.data == "cifar10"
        fraction = fraction_of(self.budget, self.data)
        rows = max(1, round(fraction * TRAINING[self.data]))
        epochs = max(1, round(size.steps / math.ceil(rows / _BATCH)))
        warmup = round(_WARMUP * epochs)
        return TrainConfig(
            data=self.data,
            data_dir=data_dir,
            preprocess=self._preprocess(),
            structure="whole",
            units=1,
            likelihood="discretized-logistic-mixture(coupled=True,from_mean=False)" if colour else "bernoulli",
            latent_dim=128 if colour else 16,
            leaf=self._leaf(size),
            guide=self._guide(size),
            objective="elbo",
            particles=1,
            kl=self._kl(),
            warmup=warmup,
            balance=warmup > 0,
            lr=size.lr,
            schedule="cosine",
            batch_size=_BATCH,
            epochs=epochs,
            patience=_NEVER,
            samples=size.samples,
            seed=self.seed,
            device=device,
            fraction=fraction,
            test_rows=TEST_ROWS[self.budget],
        )

    def _preprocess(self) -> Preprocessing:
        if self.data == "cifar10":
            return "integers"
        return "binarize" if self.data in ("mnist", "omniglot_burda") else "none"

    def _kl(self) -> str:
        """Boltzmann machines have no density when they are smoothed; of bits the bound of the marginals is taken."""
        prior, _, local = ROWS[self.model]
        if local == "normal":
            return "analytic"
        return "z" if prior == "boltzmann-machine" else "sample"

    def _leaf(self, size: _Size) -> str:
        prior, smoothing, local = ROWS[self.model]
        finest, middle, state = size.channels
        side = 8 if self.data == "cifar10" else 7
        options = [f"groups={size.groups}", f"local_shape=({size.variables},{side},{side})", f"channels={state}"]
        options.append(f"blocks={size.blocks}")
        if prior == "boltzmann-machine":
            prior += f"({size.chains})"
        options += [f"prior={prior}".replace("-", "_"), f"local={local}"]
        if "normal-normal" != self.model:
            options.append(f"smoothing={smoothing.replace('-', '_')}(beta={_BETA[smoothing]})")
        return f"dvaepp({','.join(options)},decoder={self._decoder(size, finest, middle)})"

    def _decoder(self, size: _Size, finest: int, middle: int) -> str:
        if self.data in ("mnist", "static_mnist"):
            return f"se_resnet(channels=({finest},{middle}),blocks={size.blocks})"
        padding = "none" if self.data == "cifar10" else "bottom-right"
        return f"multi_scale(filters={middle},blocks={size.blocks},padding={padding})"

    def _guide(self, size: _Size) -> str:
        options = [f"channels=({','.join(map(str, size.channels))})", f"blocks={size.blocks}"]
        if self.model != "normal-normal":
            options.append(f"groups={self.groups}")
        return f"dvaepp({','.join(options)})"


def of_table(
    data: GlobalData | None,
    models: tuple[GlobalModel, ...] | None,
    budget: Budget,
    groups: int = 2,
) -> list[ConvolutionalExperiment]:
    """
    The cells of Table 3.

    :param str data: one column; ``None``: MNIST binarised anew for every batch.
    :param models: rows; ``None``: all.
    """
    chosen = tuple(GLOBAL[data or "mnist"]) if models is None else models
    return [ConvolutionalExperiment(data or "mnist", model, budget, groups) for model in chosen]
