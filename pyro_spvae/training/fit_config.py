# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How parameters are fitted: plain values, checked, and the same in Python, JSON and on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_type_hints

from pyro_spvae.checks import closed_sites, typed

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
Optimiser = Literal["adam", "adamax", "adamw", "adam-normgrad", "em", "online-em"]
Schedule = Literal["plateau", "constant", "cosine", "linear", "one-cycle"]
Average = Literal["none", "ema", "swa"]
Start = Literal["auto", "random", "clusters"]
Graphs = Literal["auto", "on", "off"]

_NO_CLIP = {
    "adam-normgrad": "'adam-normgrad' divides gradients by their norms",
    "em": "'em' takes no gradients",
    "online-em": "'online-em' takes no gradients",
}

_C = TypeVar("_C", bound="FitConfig")


def option(default: Any, panel: str, text: str, least: float | None = None, above: float | None = None) -> Any:
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

    objective: Objective = option(
        "iwae",
        "Objective",
        "Bound of every leaf: importance weighted (iwae), elbo, renyi of order alpha, or largest weight (vr-max). For "
        "circuits of one leaf also Pyro's trace-elbo, trace-enum-elbo, trace-mean-field-elbo (KL in closed form where "
        "there is one, as between normals, else sampled, as to a mixture prior) and pyro-renyi-elbo; validation is "
        "ours.",
    )
    particles: int = option(5, "Objective", "Importance samples of each leaf in training and validation.", least=1)
    alpha: float | None = option(
        None, "Objective", "Order of the renyi objective; 0 is iwae, 1 elbo. Of pyro-renyi-elbo 0 by default."
    )
    gradient: Gradient = option("iwae", "Objective", "Plain, or doubly reparameterised gradients of the guide (dreg).")
    reduce: Reduce = option("leaf", "Objective", "Where importance samples are averaged: in each leaf, or at the root.")
    kl: str = option(
        "sample",
        "Objective",
        "Latent KL of the objective elbo: sample, in closed form where there is one (analytic), or for some latent "
        "sites alone, by name, such as z.",
    )
    estimator: str = option(
        "vimco",
        "Objective",
        "Gradient through latent variables that are drawn without a gradient of their own, such as bits that nothing "
        "smooths. vimco needs 2 particles; straight-through and concrete are biased.",
    )
    beta: float = option(1.0, "Objective", "Weight of the latent KL in training; validation has 1.", least=0)
    warmup: int = option(0, "Objective", "Epochs in which that weight rises linearly from 0.", least=0)
    balance: bool = option(
        False,
        "Objective",
        "During the warm-up, weigh the latent sites so that each keeps its share of the KL (objective elbo).",
    )
    start: Start = option(
        "auto",
        "Training",
        "Parameters before the first step: as they were drawn (random), or by counting clusters of up to 20,000 "
        "training rows (clusters), where leaves have no latent variables. auto: by command clusters for hidden trees; "
        "parameters of a model that is fitted in Python stay as they are.",
    )
    optimiser: Optimiser = option(
        "adam",
        "Training",
        "adam, adamax or adamw of torch.optim; adam-normgrad, which divides the gradient of each parameter (of each "
        "leaf) by its norm first; or, for vanilla SPNs, em: an epoch is one step of expectation maximisation on all "
        "rows, without learning rate and schedule; or online-em, a step after every batch, whose step size follows the "
        "schedule.",
    )
    lr: float | None = option(
        None, "Training", "Learning rate; 0.005 by default, of models without latent variables 0.03.", above=0
    )
    schedule: Schedule = option(
        "plateau",
        "Training",
        "Learning rate: halved when validation stalls for a third of the patience; constant; falling to 0 over all "
        "epochs as a cosine or linearly; or rising from a 25th over the first 3 tenths of them and falling to 0 as a "
        "cosine (one-cycle). Of a run that is trained on, the last three go on as if all of its epochs had been asked "
        "for at once, so the rate may rise again first.",
    )
    weight_decay: float = option(0.0, "Training", "Decoupled weight decay of adamw.", least=0)
    average: Average = option(
        "none",
        "Training",
        "Weights that are validated and kept: those of a step (none), their exponential moving average over steps "
        "(ema), or their mean (swa, stochastic weight averaging). Steps are taken from the weights without it.",
    )
    average_decay: float | None = option(
        None, "Training", "Decay of ema, 0.999 by default; smaller in the first steps.", above=0
    )
    average_start: float | None = option(
        None, "Training", "Part of the steps after which averaging begins; 0 by default of ema, 0.75 of swa.", least=0
    )
    smoothing: float = option(
        0.1,
        "Training",
        "Of em and online-em, and not of bits: each sum and each pixel of a leaf learns as if so many more rows had "
        "come; the covariance of a gaussian leaf as if these had the covariance within the leaves of its region.",
        least=0,
    )
    ridge: float = option(
        1e-3,
        "Training",
        "Of em and online-em: added to the diagonal of the covariances of gaussian leaves, in each column's variance.",
        least=0,
    )
    step_size: float = option(
        0.3,
        "Training",
        "Of online-em: by how much of the way expected statistics move to those of a batch, at most 1.",
        above=0,
    )
    clip: float | None = option(None, "Training", "Largest norm of the gradient; larger ones are scaled down.", above=0)
    batch_size: int | None = option(
        None,
        "Training",
        "Rows of a step, over all processes; 128 by default, of tables of few rows 32 for models without latent "
        "variables.",
        least=1,
    )
    hide: float = option(
        0.0,
        "Training",
        "Part of the entries of each batch that is hidden, drawn anew at random, so that guides learn to infer from "
        "rows with holes; the bound is that of what is left. Validation hides nothing.",
        least=0,
    )
    epochs: int = option(
        400, "Training", "Most epochs. A finished run is trained on by --resume RUN and more than it had.", least=1
    )
    patience: int = option(
        30, "Training", "Validations without a better bound before training stops; not counted in warm-up.", least=1
    )
    validate_every: int | None = option(
        None, "Training", "Batches between validations; by default once an epoch.", least=1
    )
    seed: int = option(0, "Training", "Decides splits, initial parameters, order and noise.", least=0)
    graphs: Graphs = option(
        "off",
        "Machine",
        "Training steps as captured CUDA graphs, each of which the host hands over at once: where there can be some "
        "(auto), else refused in a sentence that says why not (on), or none (off).",
    )

    def __post_init__(self) -> None:
        types = types_of(type(self))
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
        known = types_of(cls)
        for key in values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                raise ValueError(f"{where} has the unknown key {str(key)!r}{hint}")
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{where}: {error}" if where else str(error)) from None


def types_of(config: type) -> dict[str, Any]:
    """Types of the fields, in order."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config)}
