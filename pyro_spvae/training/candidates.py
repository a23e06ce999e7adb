# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What is tried for a table, or for grey images, where nobody says how they are to be modelled."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyro_spvae.data import DataSet
from pyro_spvae.training.batches import BATCH_SIZE, batch_size_without_latents
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.hidden_trees import UNITS, tree_training, tree_units

FEW_LEVELS = 32  # above, a binomial's forced variance fits badly, and free probabilities are many
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
#: leaves, smoothing in rows, and ridge in variances of each column
_MIXTURES = ((1, 0.1, 1e-4), (3, 1.0, 1e-3), (4, 0.1, 1e-6), (5, 16.0, 1e-4), (5, 4.0, 0.1), (8, 4.0, 1e-2))
_TREE: dict[str, Any] = {"structure": "chow-liu", "leaf": "factorized", "weights": "cp"}
_LEVELS: dict[str, Any] = {"preprocess": "integers"}  # that candidates are compared by
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
        The configuration with its options, but for those of training that are given. EM cannot hide anything, nor does
        it average weights or move within an epoch: where that is asked for, a candidate follows the gradient. Nor has
        it a learning rate.
        """
        options = self.options
        asked = config.hide or config.average != "none" or config.validate_every is not None
        if asked and options.get("optimiser") == "em":
            options = {name: value for name, value in options.items() if name not in _OF_EM} | BY_GRADIENT
        found = filled(config, options)
        if found.optimiser == "em":
            found = dataclasses.replace(found, lr=None, schedule=FitConfig.schedule)
        return dataclasses.replace(found, race="none")


def filled(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig:
    """The configuration with some options, but for those of training that are given."""
    usual = {field.name: field.default for field in dataclasses.fields(FitConfig)}
    own = {
        name: value
        for name, value in options.items()
        if getattr(config, name) == usual.get(name, getattr(config, name))
    }
    return dataclasses.replace(config, **own)


def may_race(config: TrainConfig) -> bool:
    """Whether nothing is said of how data are to be modelled, so that of some data candidates are compared."""
    return not _given(config, _OPEN)


def is_open(config: TrainConfig, data: DataSet) -> bool:
    """
    Whether a table of several columns, or grey images of more than 32 levels, come without any word on how they are to
    be modelled, or by what.
    """
    if not may_race(config):
        return False
    if data.is_image:
        return config.likelihood == "auto" and config.preprocess in ("auto", "integers") and is_grey(data)
    return data.event_shape[0] > 1 and config.likelihood in ("auto", "columns", "normal", "bernoulli")


def is_grey(data: DataSet) -> bool:
    """Whether data are images of one channel and many levels."""
    return data.is_image and data.event_shape[0] == 1 and (data.values.levels or 0) > FEW_LEVELS


def is_raced(config: TrainConfig, data: DataSet) -> bool:
    """Whether a race says by what data are modelled."""
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


def candidates(config: TrainConfig, data: DataSet) -> list[Candidate]:
    """
    The rule by which data are modelled where nothing is said: each of these is trained for a tenth of the epochs, 400
    to 1,000 steps, of images 200 to 400, and the one of the best validation bound for all. Of tables:

    - **Hidden Chow-Liu trees** (Liu and Van den Broeck 2021) of single columns, with as many units as
      :func:`~pyro_spvae.training.hidden_trees.tree_units` says, and half of these, trained as by
      :func:`~pyro_spvae.training.hidden_trees.tree_training`.
    - **Mixtures of Gaussian leaves**, where two columns or more are Normal or log-normal: 1, 3, 4, 5 and 8 components
      of full covariance, as many as have no more parameters than the table has entries; 5 of them once with the
      covariances drawn towards each other and once with a ridge of a tenth of each column's variance; and 3 factor
      analysers of rank 4 where there are more than 8 such columns.
    - **Independent columns**, which take any table.
    - **Blocks** of at most 8 columns of the Chow-Liu tree, whose leaves are 4 VAEs and 4 leaves without latent
      variables, Gaussian ones or independent columns.

    Of grey images of more than 32 levels:

    - **hidden Chow-Liu trees** over the pixels, whose leaves have a free probability for each level, with as many units
      as the same function says, and with four times as many, 64 at most.
    - the **sum-product VAE** that images of few levels have.

    :param TrainConfig config: what is given.
    :param DataSet data: the data as recorded.
    """
    return list((_of_images if data.is_image else _of_tables)(config, data))


def _of_images(config: TrainConfig, data: DataSet) -> Iterator[Candidate]:
    rows, levels = rows_to_train(config, data), data.values.levels or 0
    units = tree_units(rows, levels)
    falling = tree_training(rows, config.batch_size or BATCH_SIZE, image=True)
    for number in sorted({units, min(4 * units, UNITS[-1])}):
        yield Candidate(f"hidden Chow-Liu tree, {number} units", _TREE | {"units": number} | falling | _LEVELS)
    yield Candidate("sum-product VAE", {"structure": "poon-domingos", "leaf": "vae"} | _LEVELS)


def _of_tables(config: TrainConfig, data: DataSet) -> Iterator[Candidate]:
    rows = rows_to_train(config, data)
    units = tree_units(rows)
    falling = tree_training(rows, batch_size_without_latents(rows), image=False)
    for number in sorted({units, max(UNITS[0], units // 2)}, reverse=True):
        yield Candidate(f"hidden Chow-Liu tree, {number} units", _TREE | {"units": number} | falling)
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
