# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What is tried for a table where nobody says how it is to be modelled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pyro_spvae.data import DataSet
from pyro_spvae.training.batches import batch_size_without_latents
from pyro_spvae.training.config import FitConfig, TrainConfig

#: options of leaves with latent variables
OF_NETWORKS = ("guide", "prior", "network", "decoder", "latent_dim", "hidden", "activation", "networks")
#: options of which none is given where structure, leaves and sizes are open
_OPEN = (
    *("structure", "leaf", "units", "leaves", "block", "weights", "tie", "delta", "depth", "repetitions", "leaf_size"),
    *OF_NETWORKS,
    *("objective", "particles", "alpha", "gradient", "reduce", "kl", "estimator", "beta", "warmup", "balance"),
    *("optimiser", "weight_decay", "clip"),
)
#: how models without latent variables are trained where EM is not to be had
BY_GRADIENT: dict[str, Any] = {"optimiser": "adam", "particles": 1}
_OF_EM = ("smoothing", "ridge")
_JOINT = ("normal", "log-normal")  # families of columns that Gaussian leaves take together
_UNITS = (4, 8, 16, 32, 64)  # of a Chow-Liu tree
_SHARE = 0.5  # of the number of entries that the weights of a tree may be
_EDGES = 1.7  # of a Chow-Liu tree for each column, in the mean
#: leaves, smoothing in rows, and ridge in variances of each column
_MIXTURES = ((1, 0.1, 1e-4), (3, 1.0, 1e-3), (4, 0.1, 1e-6), (5, 16.0, 1e-4), (5, 4.0, 0.1), (8, 4.0, 1e-2))
_STEPS, _EPOCHS = 12_000, (100, 400)  # in which the learning rate of a tree falls to 0
_BLOCK = 8  # columns of a leaf region with dependence to learn


@dataclass(frozen=True)
class Candidate:
    """
    :ivar str name: what reports call it.
    :ivar dict options: of a configuration.
    """

    name: str
    options: dict[str, Any]

    def of(self, config: TrainConfig) -> TrainConfig:
        """
        The configuration with its options, but for those of training that are given. EM cannot hide anything: where
        that is asked for, a candidate follows the gradient.
        """
        usual = {field.name: field.default for field in dataclasses.fields(FitConfig)}
        options = self.options
        if config.hide and options.get("optimiser") == "em":
            options = {name: value for name, value in options.items() if name not in _OF_EM} | BY_GRADIENT
        own = {
            name: value
            for name, value in options.items()
            if getattr(config, name) == usual.get(name, getattr(config, name))
        }
        return dataclasses.replace(config, race="none", **own)


def is_open(config: TrainConfig, data: DataSet) -> bool:
    """Whether a table of several columns comes without any word on how it is to be modelled, or by what."""
    table = not data.is_image and data.event_shape[0] > 1
    return table and config.likelihood in ("auto", "columns", "normal", "bernoulli") and not _given(config, _OPEN)


def is_raced(config: TrainConfig, data: DataSet) -> bool:
    """Whether a race says by what a table is modelled."""
    return config.race == "auto" and is_open(config, data)


def as_stated(config: TrainConfig, given: Collection[str]) -> TrainConfig:
    """
    The configuration in which options that are given count, though they be what they are by default: leaves are VAEs
    then, as where they are anything else.

    :param given: names of options.
    """
    usual = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    told = {name for name in given if name in _OPEN and usual[name] not in (None, "auto")}
    of_networks = not set(given).isdisjoint(OF_NETWORKS)
    vaes = config.leaf == "auto" and (of_networks or (config.structure == "auto" and bool(told)))
    return dataclasses.replace(config, leaf="vae") if vaes else config


def names_networks(config: TrainConfig) -> bool:
    """Whether options are given that belong to leaves with latent variables."""
    return _given(config, OF_NETWORKS)


def _given(config: TrainConfig, names: Iterable[str]) -> bool:
    usual = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    return any(getattr(config, name) != usual[name] for name in names)


def rows_to_train(config: TrainConfig, data: DataSet) -> int:
    """How many rows of the data, as recorded, a model is trained by."""
    return len(data.thinned(config.fraction, config.seed).train)


def tree_units(rows: int) -> int:
    """
    Units of a hidden Chow-Liu tree of single columns: of 4, 8, 16, 32 and 64 the most at which its weights, about 1.7
    ``units ** 2`` a column, are at most half as many as the table's entries.

    :param int rows: to train by.
    """
    allowed = math.sqrt(_SHARE * rows / _EDGES)
    return max((units for units in _UNITS if units <= allowed), default=_UNITS[0])


def candidates(config: TrainConfig, data: DataSet) -> list[Candidate]:
    """
    The rule by which tables are modelled where nothing is said: each of these is trained for a tenth of the epochs, 400
    to 1,000 steps, and the one of the best validation bound for all.

    - **Hidden Chow-Liu trees** (Liu and Van den Broeck 2021) of single columns, with as many units as
      :func:`tree_units` says, and half of these. Their learning rate falls to 0 linearly, over 12,000 steps, 100 epochs
      at least and 400 at most, with a weight decay of 0.01.
    - **Mixtures of Gaussian leaves**, where two columns or more are Normal or log-normal: 1, 3, 4, 5 and 8 components
      of full covariance, as many as have no more parameters than the table has entries; 5 of them once with the
      covariances drawn towards each other and once with a ridge of a tenth of each column's variance; and 3 factor
      analysers of rank 4 where there are more than 8 such columns.
    - **Independent columns**, which take any table.
    - **Blocks** of at most 8 columns of the Chow-Liu tree, whose leaves are 4 VAEs and 4 leaves without latent
      variables, Gaussian ones or independent columns.

    :param TrainConfig config: what is given.
    :param DataSet data: the data as recorded.
    """
    return list(_candidates(config, data))


def _candidates(config: TrainConfig, data: DataSet) -> Iterator[Candidate]:
    rows = rows_to_train(config, data)
    units = tree_units(rows)
    batch = batch_size_without_latents(rows)
    epochs = min(max(math.ceil(_STEPS * batch / rows), _EPOCHS[0]), _EPOCHS[1])
    falling = {"particles": 1, "schedule": "linear", "epochs": epochs, "patience": max(30, epochs // 4)}
    falling |= {"optimiser": "adamw", "weight_decay": 0.01}
    for number in sorted({units, max(_UNITS[0], units // 2)}, reverse=True):
        tree = {"structure": "chow-liu", "leaf": "factorized", "units": number, "weights": "cp"}
        yield Candidate(f"hidden Chow-Liu tree, {number} units", tree | falling)
    joint = _joint_columns(config, data)
    if joint > 1:
        mixture: dict[str, Any] = {"structure": "whole", "units": 1, "optimiser": "em"}
        for number, smoothing, ridge in _MIXTURES:
            if number * (joint + 3) <= 2 * rows:  # no more parameters than entries
                name = "one Gaussian" if number == 1 else f"mixture of {number} Gaussians, ridge {ridge:g}"
                options = {"leaf": "gaussian", "leaves": number, "smoothing": smoothing, "ridge": ridge}
                yield Candidate(name, mixture | options)
        if joint > _BLOCK:
            options = mixture | {"leaf": "gaussian(rank=4)", "leaves": 3, "smoothing": 1.0, "ridge": 1e-4}
            yield Candidate("mixture of 3 factor analysers", options)
    alone = {"structure": "whole", "leaf": "factorized", "units": 1, "leaves": 1, "optimiser": "em"}
    yield Candidate("independent columns", alone)
    beside = "gaussian" if joint > 1 else "factorized"
    blocks = {"structure": "chow-liu", "block": _BLOCK, "weights": "cp", "leaf": f"vae+{beside}", "units": 8}
    yield Candidate(f"blocks of {_BLOCK} columns, VAEs and {beside} leaves", blocks)


def _joint_columns(config: TrainConfig, data: DataSet) -> int:
    """How many columns a Gaussian leaf takes together."""
    if config.likelihood == "normal":
        return int(data.event_shape[0])
    if config.likelihood == "bernoulli":
        return 0
    if data.columns is None:  # continuous values are taken for Normal ones
        return int(data.event_shape[0]) if data.values.levels is None else 0
    return sum(column.family in _JOINT for column in data.columns)
