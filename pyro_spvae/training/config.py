# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training run: plain values, checked, and the same in Python, JSON and on the command line."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Structure = Literal["auto", "poon-domingos", "quad-tree", "random-binary-tree", "whole"]
LikelihoodName = Literal["auto", "bernoulli", "binomial", "categorical", "normal"]
Gradient = Literal["iwae", "dreg"]
Networks = Literal["separate", "shared"]
Activation = Literal["softplus", "relu", "leaky_relu", "elu", "silu", "tanh"]


@dataclass(frozen=True)
class TrainConfig:
    """
    What a run does. ``None`` means: chosen from the data, see :func:`pyro_spvae.training.build.resolve`.

    :ivar str data: name of a data set or path of an array file.
    :ivar data_dir: folder of data sets that are not bundled.
    :ivar bool download: whether a missing data set may be downloaded.
    :ivar int seed: decides splits, initial parameters, data order and noise.
    :ivar str structure: region graph.
    :ivar delta: cell side of Poon-Domingos and quad trees.
    :ivar depth: depth of random binary trees.
    :ivar repetitions: number of random binary trees.
    :ivar int units: sum nodes of an inner region.
    :ivar leaves: leaf VAEs of a leaf region; ``units`` if ``None``.
    :ivar int latent_dim: latent size of a leaf VAE.
    :ivar tuple hidden: hidden layers of the leaf networks.
    :ivar str activation: activation of the leaf networks.
    :ivar str networks: separate mean and scale networks, or one shared trunk.
    :ivar str likelihood: likelihood of the leaves.
    :ivar int particles: importance samples of each leaf in training and validation.
    :ivar float alpha: order of the leaf bounds.
    :ivar str gradient: gradient estimator.
    :ivar float lr: learning rate of Adam; halved whenever validation has not improved for ``patience // 3`` epochs.
    :ivar int batch_size: images a step.
    :ivar int epochs: most epochs.
    :ivar int patience: epochs without a better validation bound after which training stops.
    :ivar int samples: importance samples of each leaf for the test log-likelihood.
    :ivar int chunk_size: pairs of datum and sample decoded at a time in evaluation.
    """

    data: str = "digits"
    data_dir: str | None = None
    download: bool = False
    seed: int = 0
    structure: Structure = "auto"
    delta: int | None = None
    depth: int | None = None
    repetitions: int | None = None
    units: int = 4
    leaves: int | None = None
    latent_dim: int = 8
    hidden: tuple[int, ...] = (32, 32)
    activation: Activation = "softplus"
    networks: Networks = "separate"
    likelihood: LikelihoodName = "auto"
    particles: int = 5
    alpha: float = 0.0
    gradient: Gradient = "iwae"
    lr: float = 0.005
    batch_size: int = 128
    epochs: int = 400
    patience: int = 30
    samples: int = 5000
    chunk_size: int = 2048

    def __post_init__(self) -> None:
        if isinstance(self.hidden, (list, tuple)):  # JSON has lists
            object.__setattr__(self, "hidden", tuple(self.hidden))
        for number in ("alpha", "lr"):
            object.__setattr__(self, number, _number(number, getattr(self, number)))
        counts = ("units", "latent_dim", "particles", "batch_size", "epochs", "patience", "samples", "chunk_size")
        for name in (*counts, "leaves", "delta", "depth", "repetitions"):
            value = getattr(self, name)
            optional = name not in counts
            if not (optional and value is None) and not _is_count(value):
                raise ValueError(f"{name} is {value!r}; a positive integer is needed")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed!r}; an integer from 0 to 2^63 - 1 is needed")
        if not isinstance(self.hidden, tuple) or not all(map(_is_count, self.hidden)):
            raise ValueError(f"hidden is {self.hidden!r}; a tuple of positive integers is needed")
        if not (0 < self.lr < math.inf):
            raise ValueError(f"lr is {self.lr!r}; a positive number is needed")
        if math.isnan(self.alpha) or self.alpha == math.inf:
            raise ValueError(f"alpha is {self.alpha!r}; a finite number or -inf is needed")
        if self.gradient == "dreg" and self.alpha != 0:
            raise ValueError(f"gradient is 'dreg', which needs alpha 0; alpha is {self.alpha!r}")
        choices = {
            "structure": Structure,
            "likelihood": LikelihoodName,
            "gradient": Gradient,
            "networks": Networks,
            "activation": Activation,
        }
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; known are {', '.join(get_args(kind))}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``-inf`` becomes the string ``"-inf"``, which JSON lacks."""
        values = dataclasses.asdict(self)
        values["hidden"] = list(self.hidden)
        if self.alpha == -math.inf:
            values["alpha"] = "-inf"
        return values


def _number(name: str, value: Any) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if value == "-inf":  # how JSON has it
        return -math.inf
    raise ValueError(f"{name} is {value!r}; a number is needed")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
