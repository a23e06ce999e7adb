# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training run: plain values, checked, and the same in Python, JSON and on the command line."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, Literal

from pyro_spvae.training.column_texts import parse_kinds, parse_names
from pyro_spvae.training.fit_config import FitConfig, option, types_of
from pyro_spvae.training.json_file import read_json

Structure = Literal["auto", "poon-domingos", "quad-tree", "random-binary-tree", "learned", "chow-liu", "whole"]
Preprocessing = Literal[
    "auto", "none", "integers", "dequantize", "binarize", "binarize-static", "paper", "paper-discrete"
]
Missing = Literal["auto", "none", "nan"]
Networks = Literal["separate", "shared"]
Activation = Literal["softplus", "relu", "leaky_relu", "elu", "silu", "tanh", "gated"]
Race = Literal["auto", "none"]
Weights = Literal["auto", "full", "cp"]
Tie = Literal["none", "shape"]
Precision = Literal["float32", "float64"]

PANELS = ("Data", "Model", "Objective", "Training", "Evaluation", "Machine")


@dataclass(frozen=True)
class TrainConfig(FitConfig):
    """
    What a whole run does. ``None`` and ``"auto"`` mean: chosen from the data, see
    :func:`pyro_spvae.training.resolve.resolve`.
    """

    data: str = option("digits", "Data", "Name of a data set, or path of a file or folder of images.")
    data_dir: str | None = option(None, "Data", "Folder of data sets that are not bundled.")
    preprocess: Preprocessing = option(
        "auto",
        "Data",
        "What is modelled: values as they are (none), grey levels (integers), grey levels with uniform noise in [0, 1] "
        "(dequantize), black and white drawn for every batch or once (binarize, binarize-static), or the SPVAE paper's "
        "images, scaled one by one, with its noise (paper) or rounded to grey levels (paper-discrete).",
    )
    validation_data: str | None = option(
        None, "Data", "File of the rows to validate by, where data is that of the rows to train by."
    )
    test_data: str | None = option(None, "Data", "File of the rows to test by, likewise.")
    missing: Missing = option(
        "auto",
        "Data",
        "Entries of a file that are missing: those that are NaN or empty (nan), which are left out of the likelihood "
        "in training and evaluation; or none, so that NaN is refused. auto: nan for tables, none for images.",
    )
    kinds: str | None = option(
        None,
        "Data",
        "Kinds of columns of a table, as in age=count,sex=binary: real, positive, proportion, count, binary, "
        "categorical, ordinal, or a family such as gamma or student-t; the others are chosen from the data. A name "
        "with a comma stands in double quotes.",
    )
    drop: str | None = option(
        None,
        "Data",
        "Columns of a table that are left out, as in id,name. A name with a comma stands in double quotes.",
    )
    na: str | None = option(
        None,
        "Data",
        "Texts in a table that mean that an entry is missing, as in n/a,NULL,?, beside empty cells, NA and NaN.",
    )
    shape: tuple[int, ...] | None = option(
        None, "Data", "Rows of a table are flat images of this height and width, as in 28,20.", least=1
    )
    grey: bool = option(False, "Data", "Make colour images grey (ITU-R 601-2 luma, as PIL's mode L).")
    fraction: float = option(
        1.0, "Data", "Part of the rows for training and validation that is used, drawn at random.", above=0
    )
    structure: Structure = option(
        "auto",
        "Model",
        "Region graph; poon-domingos for images, random-binary-tree for tables, unless a race says otherwise. learned "
        "puts columns or pixels together that depend on each other in the training rows; chow-liu is the hidden "
        "Chow-Liu tree of these.",
    )
    delta: int | tuple[int, ...] | None = option(
        None,
        "Model",
        "Side of a cell in pixels, or several, coarse first, as in 4,1; by default about a quarter of the longer side, "
        "at least 4, and one that divides both sides where there is one from a sixth to a third.",
        least=1,
    )
    depth: int | None = option(None, "Model", "Depth of random binary trees; 2 by default.", least=1)
    repetitions: int | None = option(None, "Model", "Number of trees: 4 by default if random, 2 if learned.", least=1)
    leaf_size: int | None = option(
        None, "Model", "Most variables of a learned leaf region; a sixteenth of all by default, at least 4.", least=1
    )
    block: int | None = option(
        None,
        "Model",
        "Most variables of a leaf region of a Chow-Liu tree, 1 by default; more where leaves have dependence to learn.",
        least=1,
    )
    units: int | None = option(
        None,
        "Model",
        "Sum nodes of every inner region; 4 by default, of VAEs over the cells of images 8, of a Chow-Liu tree of "
        "single columns as many as rows allow.",
        least=1,
    )
    leaves: int | None = option(None, "Model", "VAEs of every leaf region; as many as units by default.", least=1)
    weights: Weights = option(
        "auto",
        "Model",
        "Sum weights: free (full), or products of a factor for each part (cp), which are fewer; by default cp for "
        "Chow-Liu trees and VAEs over the cells of images.",
    )
    tie: Tie = option("none", "Model", "Whether regions of equal shape share their sum weights (shape).")
    race: Race = option(
        "auto",
        "Model",
        "Where structure, leaves and sizes are left open of a table or of grey images of more than 32 levels, several "
        "are trained a little, and the best by validation rows is trained (auto); or the first of them is (none).",
    )
    leaf: str = option(
        "auto",
        "Model",
        "Generative program of a leaf; auto: factorized for single columns of a Chow-Liu tree, else a vae. A vae; or "
        "without latent variables factorized, or gaussian for real columns together, as in gaussian(rank=4); or "
        "several by turns, as in vae+factorized. The bits of a discrete-vae are smoothed in training, as in "
        "discrete-vae(smoothing=exponential(beta=8)), or logistic, power, spike-and-exponential, none.",
    )
    guide: str = option("auto", "Model", "Inference program of a leaf; auto: the one that the leaf asks for.")
    prior: str = option(
        "auto",
        "Model",
        "Prior of the latent variables; auto: the one that the leaf asks for, standard-normal, of bits "
        "independent-bits, of dvaepp boltzmann-machine.",
    )
    likelihood: str = option(
        "auto",
        "Model",
        "Of the pixels; auto: bernoulli for binary values, columns for other tables, binomial for images of up to 32 "
        "grey levels, for those of more low-rank-categorical, of single pixels of a Chow-Liu tree categorical, else "
        "normal.",
    )
    network: str = option(
        "mlp",
        "Model",
        "Encoder and decoder networks; a leaf that has others of its own, such as dvaepp, keeps those unless some are "
        "named (mlp as its decoder).",
    )
    decoder: str | None = option(None, "Model", "Decoder networks, where they are not those of the encoders.")
    latent_dim: int | None = option(
        None,
        "Model",
        "Latent size of a leaf; by default the leaf's own, which is 8 for those of this package, and 16 bits.",
        least=1,
    )
    hidden: tuple[int, ...] | None = option(
        None,
        "Model",
        "Hidden layers of the leaf networks, comma-separated; 32,32 by default, of VAEs over the cells of images one, "
        "such as 36 where cells are 4 x 4.",
        least=1,
    )
    activation: Activation = option("softplus", "Model", "Activation of the leaf networks.")
    networks: Networks = option("separate", "Model", "Separate mean and scale networks, or a shared trunk.")
    samples: int | None = option(
        None,
        "Evaluation",
        "Importance samples of each leaf for log-likelihoods; by default as many as take a tenth of the time of "
        "training, 10 to 5000. More give a higher bound.",
        least=1,
    )
    test_rows: int | None = option(
        None, "Evaluation", "Evaluate the first so many rows of the test split alone; all by default.", least=1
    )
    chunk_size: int = option(2048, "Evaluation", "Pairs of row and sample decoded at a time; bounds memory.", least=1)
    device: str = option("auto", "Machine", "auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.")
    precision: Precision = option("float32", "Machine", "Floating-point type of the parameters.")
    tensorboard: bool = option(False, "Machine", "Write TensorBoard event files too (extra: tensorboard).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fraction > 1:
            raise ValueError(f"fraction is {self.fraction!r}; a number above 0 and at most 1 is needed")
        if self.shape is not None and len(self.shape) not in (2, 3):
            sizes = self.shape[0] if len(self.shape) == 1 else self.shape
            raise ValueError(f"shape is {sizes!r}; height and width are needed, such as [28, 20]")
        parse_kinds(self.kinds)
        parse_names("drop", self.drop)
        parse_names("na", self.na)
        kind, _, number = self.device.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (
            ":" in self.device and not (kind == "cuda" and number.isdigit())
        ):
            raise ValueError(f"device is {self.device!r}; accepted are auto, cpu, cuda, cuda:N and mps")
        for name in (
            "data",
            "validation_data",
            "test_data",
            "leaf",
            "guide",
            "prior",
            "likelihood",
            "network",
            "decoder",
        ):
            value = getattr(self, name)
            if value is not None and not value.strip():
                raise ValueError(f"{name} is empty; a name is needed")


def read_config(path: str | os.PathLike[str]) -> TrainConfig:
    """
    Reads a configuration file (UTF-8, with or without byte-order mark), such as the ``config.json`` of a run; keys that
    are left out have their defaults.

    :raises ValueError: if it cannot be read, is no JSON object, or holds unknown keys or unfit values.
    """
    return TrainConfig.from_dict(read_json(path), f"the configuration {os.fspath(path)}")


def options(config: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Every field with its type, by panel."""
    types = types_of(config)
    pairs = [(field, types[field.name]) for field in dataclasses.fields(config)]
    return sorted(pairs, key=lambda pair: PANELS.index(pair[0].metadata["panel"]))
