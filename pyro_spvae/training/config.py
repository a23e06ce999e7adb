# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a training run: plain values, checked, and the same in Python, JSON and on the command line."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from pyro_spvae.checks import closed_sites, typed

Structure = Literal["auto", "poon-domingos", "quad-tree", "random-binary-tree", "learned", "chow-liu", "whole"]
Preprocessing = Literal[
    "auto", "none", "integers", "dequantize", "binarize", "binarize-static", "paper", "paper-discrete"
]
Missing = Literal["auto", "none", "nan"]
Objective = Literal[
    "iwae",
    "elbo",
    "renyi",
    "vr-max",
    "trace-elbo",
    "trace-enum-elbo",
    "trace-mean-field-elbo",
    "pyro-renyi-elbo",
]
Gradient = Literal["iwae", "dreg"]
Reduce = Literal["leaf", "root"]
Networks = Literal["separate", "shared"]
Activation = Literal["softplus", "relu", "leaky_relu", "elu", "silu", "tanh", "gated"]
Optimiser = Literal["adam", "adamax", "adamw", "adam-normgrad", "em", "online-em"]
Schedule = Literal["plateau", "constant", "cosine", "linear", "one-cycle"]
Average = Literal["none", "ema", "swa"]
Race = Literal["auto", "none"]
Start = Literal["auto", "random", "clusters"]
Weights = Literal["auto", "full", "cp"]
Tie = Literal["none", "shape"]
Precision = Literal["float32", "float64"]
Graphs = Literal["auto", "on", "off"]

_NO_CLIP = {
    "adam-normgrad": "'adam-normgrad' divides gradients by their norms",
    "em": "'em' takes no gradients",
    "online-em": "'online-em' takes no gradients",
}

_KIND = re.compile(
    r'\s*(?:"(?P<quoted>(?:[^"]|"")+)"\s*|(?P<name>.+?))=\s*(?P<kind>[\w-]+)\s*(,(?P<rest>.*))?$', re.DOTALL
)
_NAMES = {"drop": ("names of columns", "id,name"), "na": ("texts", "n/a,NULL,?")}

PANELS = ("Data", "Model", "Objective", "Training", "Evaluation", "Machine")

_C = TypeVar("_C", bound="FitConfig")


def _option(default: Any, panel: str, text: str, least: float | None = None, above: float | None = None) -> Any:
    """
    A field that is also an option of the command line.

    :param str panel: heading of the help under which it stands.
    :param str text: help.
    :param float least: smallest accepted number.
    :param float above: numbers must be larger than this.
    """
    return dataclasses.field(default=default, metadata={"panel": panel, "help": text, "least": least, "above": above})


@dataclass(frozen=True)
class FitConfig:
    """
    How parameters are fitted to data; the options of :meth:`pyro_spvae.models.SPVAE.fit`.

    Every field is documented by ``pyro-spvae train --help`` and in its declaration below.

    :raises ValueError: in one sentence, for a value of the wrong type or out of range, or values that do not go
        together.
    """

    objective: Objective = _option(
        "iwae",
        "Objective",
        "Bound of every leaf: importance weighted (iwae), elbo, renyi of order alpha, or largest weight (vr-max). For "
        "circuits of one leaf also Pyro's trace-elbo, trace-enum-elbo, trace-mean-field-elbo (KL in closed form where "
        "there is one, as between normals, else sampled, as to a mixture prior) and pyro-renyi-elbo; validation is "
        "ours.",
    )
    particles: int = _option(5, "Objective", "Importance samples of each leaf in training and validation.", least=1)
    alpha: float | None = _option(
        None, "Objective", "Order of the renyi objective; 0 is iwae, 1 elbo. Of pyro-renyi-elbo 0 by default."
    )
    gradient: Gradient = _option("iwae", "Objective", "Plain, or doubly reparameterised gradients of the guide (dreg).")
    reduce: Reduce = _option(
        "leaf", "Objective", "Where importance samples are averaged: in each leaf, or at the root."
    )
    kl: str = _option(
        "sample",
        "Objective",
        "Latent KL of the objective elbo: sample, in closed form where there is one (analytic), or for some latent "
        "sites alone, by name, such as z.",
    )
    estimator: str = _option(
        "vimco",
        "Objective",
        "Gradient through latent variables that are drawn without a gradient of their own, such as bits that nothing "
        "smooths. vimco needs 2 particles; straight-through and concrete are biased.",
    )
    beta: float = _option(1.0, "Objective", "Weight of the latent KL in training; validation has 1.", least=0)
    warmup: int = _option(0, "Objective", "Epochs in which that weight rises linearly from 0.", least=0)
    balance: bool = _option(
        False,
        "Objective",
        "During the warm-up, weigh the latent sites so that each keeps its share of the KL (objective elbo).",
    )
    start: Start = _option(
        "auto",
        "Training",
        "Parameters before the first step: as they were drawn (random), or by counting clusters of up to 20,000 "
        "training rows (clusters), where leaves have no latent variables. auto: by command clusters for hidden trees; "
        "parameters of a model that is fitted in Python stay as they are.",
    )
    optimiser: Optimiser = _option(
        "adam",
        "Training",
        "adam, adamax or adamw of torch.optim; adam-normgrad, which divides the gradient of each parameter (of each "
        "leaf) by its norm first; or, for vanilla SPNs, em: an epoch is one step of expectation maximisation on all "
        "rows, without learning rate and schedule; or online-em, a step after every batch, whose step size follows the "
        "schedule.",
    )
    lr: float | None = _option(
        None, "Training", "Learning rate; 0.005 by default, of models without latent variables 0.03.", above=0
    )
    schedule: Schedule = _option(
        "plateau",
        "Training",
        "Learning rate: halved when validation stalls for a third of the patience; constant; falling to 0 over all "
        "epochs as a cosine or linearly; or rising from a 25th over the first 3 tenths of them and falling to 0 as a "
        "cosine (one-cycle). Of a run that is trained on, the last three go on as if all of its epochs had been asked "
        "for at once, so the rate may rise again first.",
    )
    weight_decay: float = _option(0.0, "Training", "Decoupled weight decay of adamw.", least=0)
    average: Average = _option(
        "none",
        "Training",
        "Weights that are validated and kept: those of a step (none), their exponential moving average over steps "
        "(ema), or their mean (swa, stochastic weight averaging). Steps are taken from the weights without it.",
    )
    average_decay: float | None = _option(
        None, "Training", "Decay of ema, 0.999 by default; smaller in the first steps.", above=0
    )
    average_start: float | None = _option(
        None, "Training", "Part of the steps after which averaging begins; 0 by default of ema, 0.75 of swa.", least=0
    )
    smoothing: float = _option(
        0.1,
        "Training",
        "Of em and online-em, and not of bits: each sum and each pixel of a leaf learns as if so many more rows had "
        "come; the covariance of a gaussian leaf as if these had the covariance within the leaves of its region.",
        least=0,
    )
    ridge: float = _option(
        1e-3,
        "Training",
        "Of em and online-em: added to the diagonal of the covariances of gaussian leaves, in each column's variance.",
        least=0,
    )
    step_size: float = _option(
        0.3,
        "Training",
        "Of online-em: by how much of the way expected statistics move to those of a batch, at most 1.",
        above=0,
    )
    clip: float | None = _option(
        None, "Training", "Largest norm of the gradient; larger ones are scaled down.", above=0
    )
    batch_size: int | None = _option(
        None,
        "Training",
        "Rows of a step, over all processes; 128 by default, of tables of few rows 32 for models without latent "
        "variables.",
        least=1,
    )
    hide: float = _option(
        0.0,
        "Training",
        "Part of the entries of each batch that is hidden, drawn anew at random, so that guides learn to infer from "
        "rows with holes; the bound is that of what is left. Validation hides nothing.",
        least=0,
    )
    epochs: int = _option(
        400, "Training", "Most epochs. A finished run is trained on by --resume RUN and more than it had.", least=1
    )
    patience: int = _option(
        30, "Training", "Validations without a better bound before training stops; not counted in warm-up.", least=1
    )
    validate_every: int | None = _option(
        None, "Training", "Batches between validations; by default once an epoch.", least=1
    )
    seed: int = _option(0, "Training", "Decides splits, initial parameters, order and noise.", least=0)
    graphs: Graphs = _option(
        "off",
        "Machine",
        "Training steps as captured CUDA graphs, each of which the host hands over at once: where there can be some "
        "(auto), else refused in a sentence that says why not (on), or none (off).",
    )

    def __post_init__(self) -> None:
        types = _types(type(self))
        for field in dataclasses.fields(self):
            limits = {name: field.metadata[name] for name in ("least", "above")}
            value = typed(field.name, getattr(self, field.name), types[field.name], **limits)
            object.__setattr__(self, field.name, value)
        if self.step_size > 1:
            raise ValueError(f"step_size is {self.step_size!r}; a number above 0 and at most 1 is needed")
        if self.seed >= 2**63:
            raise ValueError(f"seed is {self.seed!r}; an integer from 0 to 2^63 - 1 is needed")
        if self.objective == "renyi" and self.alpha is None:
            raise ValueError("objective is 'renyi', which needs its order; give alpha")
        if self.alpha is not None and self.objective not in ("renyi", "pyro-renyi-elbo"):
            raise ValueError(f"alpha is the order of the objective 'renyi', but objective is {self.objective!r}")
        if self.alpha == 1 and self.objective == "pyro-renyi-elbo":
            raise ValueError("alpha is 1, which the objective 'pyro-renyi-elbo' does not take; give trace-elbo")
        if self.gradient == "dreg" and (self.order != 0 or self.objective == "pyro-renyi-elbo"):
            raise ValueError(f"gradient is 'dreg', which needs the objective 'iwae'; objective is {self.objective!r}")
        if self.estimator != "vimco":
            if self.objective not in ("iwae", "elbo", "renyi", "vr-max"):
                raise ValueError(
                    f"estimator is {self.estimator!r}, which the objectives iwae, elbo, renyi and vr-max take; "
                    f"objective is {self.objective!r}"
                )
            if self.gradient == "dreg":
                raise ValueError(f"estimator is {self.estimator!r}, for which gradient='dreg' has no use; leave it out")
        object.__setattr__(self, "kl", ", ".join(closed_sites(self.kl)))
        if self.kl != "sample" and self.objective != "elbo":
            raise ValueError(f"kl is {self.kl!r}, which needs the objective 'elbo'; objective is {self.objective!r}")
        if self.balance and (self.objective != "elbo" or self.estimator != "vimco"):
            other = "the objective" if self.objective != "elbo" else "the estimator"
            raise ValueError(
                f"balance is given with {other} {self.objective if self.objective != 'elbo' else self.estimator!r}; it "
                "belongs to the objective 'elbo' without an estimator"
            )
        if self.balance and not self.warmup:
            raise ValueError("balance is given, but warmup is 0; it weighs latent sites during a warm-up, so give one")
        if self.hide >= 1:
            raise ValueError(f"hide is {self.hide!r}; a number of at least 0 and below 1 is needed")
        if self.hide and self.optimiser == "em":
            raise ValueError(f"hide is {self.hide!r}, but the optimiser 'em' takes all that is seen; leave it out")
        if self.validate_every is not None and self.optimiser == "em":
            raise ValueError(
                f"validate_every is {self.validate_every!r}, but the optimiser 'em' takes a step after each epoch; "
                "leave it out"
            )
        if self.weight_decay and self.optimiser != "adamw":
            raise ValueError(f"weight_decay belongs to the optimiser 'adamw', but optimiser is {self.optimiser!r}")
        if self.average != "none" and self.optimiser in ("em", "online-em"):
            raise ValueError(
                f"average is {self.average!r}, but the optimiser {self.optimiser!r} averages statistics of rows, not "
                "weights; leave it out"
            )
        if self.average_decay is not None and self.average != "ema":
            raise ValueError(f"average_decay belongs to the average 'ema', but average is {self.average!r}")
        if self.average_start is not None and self.average == "none":
            raise ValueError(f"average_start is {self.average_start!r}, but average is 'none'; give ema or swa")
        for name in ("average_decay", "average_start"):
            value = getattr(self, name)
            if value is not None and value >= 1:
                least = "above 0" if name == "average_decay" else "of at least 0"
                raise ValueError(f"{name} is {value!r}; a number {least} and below 1 is needed")
        if self.clip is not None and self.optimiser in _NO_CLIP:
            raise ValueError(f"clip is {self.clip!r}, but the optimiser {_NO_CLIP[self.optimiser]}; leave it out")

    @property
    def order(self) -> float:
        """The order alpha of the leaf bounds that ``objective`` names."""
        if self.alpha is not None:
            return self.alpha
        if self.objective == "vr-max":
            return -math.inf
        return 1.0 if self.objective in ("elbo", "trace-elbo", "trace-enum-elbo", "trace-mean-field-elbo") else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_dict(cls: type[_C], values: object, where: str = "the configuration") -> _C:
        """
        The configuration of :meth:`to_dict`.

        :param values: what was read.
        :param str where: where from, for messages; empty if the user knows.
        :raises ValueError: for anything but a dict, unknown keys, wrong types and values out of range.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{where} holds a {type(values).__name__}; an object of options is needed")
        known = _types(cls)
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                raise ValueError(f"{where} has the unknown key {str(key)!r}{hint}")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}" if where else str(error)) from None


@dataclass(frozen=True)
class TrainConfig(FitConfig):
    """
    What a whole run does. ``None`` and ``"auto"`` mean: chosen from the data, see
    :func:`pyro_spvae.training.resolve.resolve`.
    """

    data: str = _option("digits", "Data", "Name of a data set, or path of a file or folder of images.")
    data_dir: str | None = _option(None, "Data", "Folder of data sets that are not bundled.")
    preprocess: Preprocessing = _option(
        "auto",
        "Data",
        "What is modelled: values as they are (none), grey levels (integers), grey levels with uniform noise in [0, 1] "
        "(dequantize), black and white drawn for every batch or once (binarize, binarize-static), or the SPVAE paper's "
        "images, scaled one by one, with its noise (paper) or rounded to grey levels (paper-discrete).",
    )
    validation_data: str | None = _option(
        None, "Data", "File of the rows to validate by, where data is that of the rows to train by."
    )
    test_data: str | None = _option(None, "Data", "File of the rows to test by, likewise.")
    missing: Missing = _option(
        "auto",
        "Data",
        "Entries of a file that are missing: those that are NaN or empty (nan), which are left out of the likelihood "
        "in training and evaluation; or none, so that NaN is refused. auto: nan for tables, none for images.",
    )
    kinds: str | None = _option(
        None,
        "Data",
        "Kinds of columns of a table, as in age=count,sex=binary: real, positive, proportion, count, binary, "
        "categorical, ordinal, or a family such as gamma or student-t; the others are chosen from the data. A name "
        "with a comma stands in double quotes.",
    )
    drop: str | None = _option(
        None,
        "Data",
        "Columns of a table that are left out, as in id,name. A name with a comma stands in double quotes.",
    )
    na: str | None = _option(
        None,
        "Data",
        "Texts in a table that mean that an entry is missing, as in n/a,NULL,?, beside empty cells, NA and NaN.",
    )
    shape: tuple[int, ...] | None = _option(
        None, "Data", "Rows of a table are flat images of this height and width, as in 28,20.", least=1
    )
    grey: bool = _option(False, "Data", "Make colour images grey (ITU-R 601-2 luma, as PIL's mode L).")
    fraction: float = _option(
        1.0, "Data", "Part of the rows for training and validation that is used, drawn at random.", above=0
    )
    structure: Structure = _option(
        "auto",
        "Model",
        "Region graph; poon-domingos for images, random-binary-tree for tables, unless a race says otherwise. learned "
        "puts columns or pixels together that depend on each other in the training rows; chow-liu is the hidden "
        "Chow-Liu tree of these.",
    )
    delta: int | tuple[int, ...] | None = _option(
        None,
        "Model",
        "Side of a cell in pixels, or several, coarse first, as in 4,1; by default about a quarter of the longer side, "
        "at least 4, and one that divides both sides where there is one from a sixth to a third.",
        least=1,
    )
    depth: int | None = _option(None, "Model", "Depth of random binary trees; 2 by default.", least=1)
    repetitions: int | None = _option(None, "Model", "Number of trees: 4 by default if random, 2 if learned.", least=1)
    leaf_size: int | None = _option(
        None, "Model", "Most variables of a learned leaf region; a sixteenth of all by default, at least 4.", least=1
    )
    block: int | None = _option(
        None,
        "Model",
        "Most variables of a leaf region of a Chow-Liu tree, 1 by default; more where leaves have dependence to learn.",
        least=1,
    )
    units: int | None = _option(
        None,
        "Model",
        "Sum nodes of every inner region; 4 by default, of VAEs over the cells of images 8, of a Chow-Liu tree of "
        "single columns as many as rows allow.",
        least=1,
    )
    leaves: int | None = _option(None, "Model", "VAEs of every leaf region; as many as units by default.", least=1)
    weights: Weights = _option(
        "auto",
        "Model",
        "Sum weights: free (full), or products of a factor for each part (cp), which are fewer; by default cp for "
        "Chow-Liu trees and VAEs over the cells of images.",
    )
    tie: Tie = _option("none", "Model", "Whether regions of equal shape share their sum weights (shape).")
    race: Race = _option(
        "auto",
        "Model",
        "Where structure, leaves and sizes are left open of a table or of grey images of more than 32 levels, several "
        "are trained a little, and the best by validation rows is trained (auto); or the first of them is (none).",
    )
    leaf: str = _option(
        "auto",
        "Model",
        "Generative program of a leaf; auto: factorized for single columns of a Chow-Liu tree, else a vae. A vae; or "
        "without latent variables factorized, or gaussian for real columns together, as in gaussian(rank=4); or "
        "several by turns, as in vae+factorized. The bits of a discrete-vae are smoothed in training, as in "
        "discrete-vae(smoothing=exponential(beta=8)), or logistic, power, spike-and-exponential, none.",
    )
    guide: str = _option("auto", "Model", "Inference program of a leaf; auto: the one that the leaf asks for.")
    prior: str = _option(
        "auto",
        "Model",
        "Prior of the latent variables; auto: the one that the leaf asks for, standard-normal, of bits "
        "independent-bits, of dvaepp boltzmann-machine.",
    )
    likelihood: str = _option(
        "auto",
        "Model",
        "Of the pixels; auto: bernoulli for binary values, columns for other tables, binomial for images of up to 32 "
        "grey levels, for those of more low-rank-categorical, of single pixels of a Chow-Liu tree categorical, else "
        "normal.",
    )
    network: str = _option(
        "mlp",
        "Model",
        "Encoder and decoder networks; a leaf that has others of its own, such as dvaepp, keeps those unless some are "
        "named (mlp as its decoder).",
    )
    decoder: str | None = _option(None, "Model", "Decoder networks, where they are not those of the encoders.")
    latent_dim: int | None = _option(
        None,
        "Model",
        "Latent size of a leaf; by default the leaf's own, which is 8 for those of this package, and 16 bits.",
        least=1,
    )
    hidden: tuple[int, ...] | None = _option(
        None,
        "Model",
        "Hidden layers of the leaf networks, comma-separated; 32,32 by default, of VAEs over the cells of images one, "
        "such as 36 where cells are 4 x 4.",
        least=1,
    )
    activation: Activation = _option("softplus", "Model", "Activation of the leaf networks.")
    networks: Networks = _option("separate", "Model", "Separate mean and scale networks, or a shared trunk.")
    samples: int | None = _option(
        None,
        "Evaluation",
        "Importance samples of each leaf for log-likelihoods; by default as many as take a tenth of the time of "
        "training, 10 to 5000. More give a higher bound.",
        least=1,
    )
    test_rows: int | None = _option(
        None, "Evaluation", "Evaluate the first so many rows of the test split alone; all by default.", least=1
    )
    chunk_size: int = _option(2048, "Evaluation", "Pairs of row and sample decoded at a time; bounds memory.", least=1)
    device: str = _option("auto", "Machine", "auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.")
    precision: Precision = _option("float32", "Machine", "Floating-point type of the parameters.")
    tensorboard: bool = _option(False, "Machine", "Write TensorBoard event files too (extra: tensorboard).")

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


def parse_kinds(text: str | None) -> dict[str, str]:
    """
    Kinds by name of column from ``age=count,sex=binary``. A name may hold commas and equals signs, and stand in double
    quotes.

    :raises ValueError: if it is written otherwise, or names a column twice.
    """
    kinds: dict[str, str] = {}
    rest = text
    while rest is not None:
        found = _KIND.match(rest)
        name = _name(found) if found else ""
        if found is None or not name or name in kinds:
            why = f", which names the column {name!r} twice" if name in kinds else ""
            raise ValueError(
                f"kinds is {text!r}{why}; name=kind is needed, separated by commas, as in age=count,sex=binary"
            )
        kinds[name], rest = found.group("kind"), found.group("rest")
    return kinds


def _name(found: re.Match[str]) -> str:
    quoted = found.group("quoted")
    return found.group("name").strip() if quoted is None else quoted.replace('""', '"').strip()


def parse_names(option: str, text: str | None) -> tuple[str, ...]:
    """
    Names of columns from ``id,name``, or texts; one that holds a comma stands in double quotes.

    :param str option: what they are given as, ``drop`` or ``na``.
    :raises ValueError: if one is empty.
    """
    if text is None:
        return ()
    names = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))
    if not names or not all(names):
        what, example = _NAMES[option]
        raise ValueError(f"{option} is {text!r}; {what} are needed, separated by commas, as in {example}")
    return names


def read_config(path: str | os.PathLike[str]) -> TrainConfig:
    """
    Reads a configuration file (UTF-8, with or without byte-order mark), such as the ``config.json`` of a run; keys that
    are left out have their defaults.

    :raises ValueError: if it cannot be read, is no JSON object, or holds unknown keys or unfit values.
    """
    return TrainConfig.from_dict(read_json(path), f"the configuration {os.fspath(path)}")


def read_json(path: str | os.PathLike[str]) -> Any:
    """
    The content of a JSON file, in UTF-8 with or without byte-order mark.

    :raises ValueError: if it cannot be read or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"the file {os.fspath(path)} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the file {os.fspath(path)} is no valid JSON ({reason})") from None


def _types(config: type) -> dict[str, Any]:
    """Types of the fields, in order."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}


def options(config: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """Every field with its type, by panel."""
    types = _types(config)
    pairs = [(field, types[field.name]) for field in dataclasses.fields(config)]
    return sorted(pairs, key=lambda pair: PANELS.index(pair[0].metadata["panel"]))
