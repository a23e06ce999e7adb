# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a configuration leaves to the data is decided here, once, and recorded."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from pyro_spvae.circuits.builders import default_delta
from pyro_spvae.circuits.learning import default_leaf_size
from pyro_spvae.data import DataSet
from pyro_spvae.data.column import have_names
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.registry import find, parse
from pyro_spvae.training.batches import BATCH_SIZE, batch_size_without_latents
from pyro_spvae.training.candidates import FEW_LEVELS, candidates, filled, is_open, names_networks, rows_to_train
from pyro_spvae.training.config import Preprocessing, Structure, TrainConfig
from pyro_spvae.training.fit_config import Start
from pyro_spvae.training.hidden_trees import tree_training, tree_units
from pyro_spvae.training.leaf_kinds import FREE_LEAF, default_guide, kinds_of, options_taken, resolved_prior
from pyro_spvae.training.optimisers import OPTIMISERS, default_rate
from pyro_spvae.training.reading import region_shape
from pyro_spvae.training.sizes import ON_GRID, UNITS, UNITS_OF_CELLS, has_cells, hidden_of

_FREE = "categorical"  # the likelihood with a probability for each level, where leaves have free parameters
_COLUMNS = "columns"  # the likelihood whose columns are of several kinds
_LEVELS = ("binary", "levels")  # what likelihoods of grey levels are of
# of images of more than few levels the best in bits/dim, at equal steps and in equal time, has a number for each level
# of each pixel of each leaf; where these are too many for memory, the best that has two
_MANY_LEVELS, _LARGE = ("low-rank-categorical", "discretized-logistic"), 2**24
_LATENT_DIM = 8


def resolve(config: TrainConfig, data: DataSet) -> TrainConfig:
    """
    Fills in what a configuration leaves to the data.

    - of tables, and of grey images of more than 32 levels, where nothing is said of the model all options of the first
      of :func:`~pyro_spvae.training.candidates.candidates`;
    - structure: Poon-Domingos for images, random binary trees for tables, one region for a single column;
    - leaf: factorized for single columns of a Chow-Liu tree, else VAEs;
    - units: 4, of a Chow-Liu tree of single columns those of :func:`~pyro_spvae.training.hidden_trees.tree_units`, of
      VAEs of perceptrons over the cells of images 8;
    - delta: about a quarter of the longer side (the paper's 4 x 4 cells), such that cells are equal where the sides
      allow it, see :func:`~pyro_spvae.circuits.builders.default_delta`;
    - depth, repetitions: 2 (or less, where there are fewer than four columns) and 4 for random binary trees;
    - leaf_size, repetitions: a sixteenth of the columns or pixels, at least four, and 2 for a learned structure;
    - block: single columns or pixels are the leaf regions of a Chow-Liu tree;
    - weights: products of factors for a Chow-Liu tree, which they make a hidden tree, and for such VAEs over cells,
      else free;
    - hidden: 32,32, of such VAEs over cells one layer of the width of :func:`~pyro_spvae.training.sizes.hidden_of`;
    - preprocess: grey levels of images get uniform noise and are scaled to [0, 1] where the likelihood is normal;
      everything else is left as it is;
    - likelihood: Columns for tables, but Bernoulli where all values are binary and no column has a name; for grey
      levels of images Categorical in the single pixels of a Chow-Liu tree, else Binomial, of more than 32 of them
      Categorical of rank 8, or where pixels of all leaves times levels are more than 2 ** 24 the discretised logistic,
      but Normal for EM and for Gaussian leaves; else Normal. A leaf that takes no likelihood gets none;
    - missing: NaN in tables, nothing in images;
    - latent_dim: the leaf's own default, or what its brackets say;
    - guide: in the place of the default what the leaf asks for: none where it has no latent variables;
    - batch_size: 128, of tables of fewer than 2,000 rows 32 where there are no latent variables, but for EM;
    - particles, schedule, epochs, patience, optimiser and lr of images by such a tree where none is given: those of
      :func:`~pyro_spvae.training.hidden_trees.tree_training`;
    - start: at clusters where there are no latent variables and weights are products, else at random;
    - lr: 0.03 where there are no latent variables, else 0.005; none for EM.

    :raises ValueError: if an option does not fit the structure or the data.
    """
    if is_open(config, data):
        config = candidates(config, data)[0].of(config)
    shape = region_shape(data)
    structure = config.structure
    if structure == "auto":
        of_table: Structure = "random-binary-tree" if shape[0] > 1 else "whole"
        structure = "poon-domingos" if data.is_image else of_table
    single = structure == "chow-liu" and (config.block or 1) == 1
    plain = single and not names_networks(config)
    leaf = ("factorized" if plain else "vae") if config.leaf == "auto" else config.leaf
    config = dataclasses.replace(config, leaf=leaf)
    hidden_tree, rows = single and leaf == FREE_LEAF, rows_to_train(config, data)
    if hidden_tree and data.is_image and config.optimiser == TrainConfig.optimiser:
        config = filled(config, tree_training(rows, config.batch_size or BATCH_SIZE, image=True))
    cells = has_cells(config, data, structure, kinds_of(leaf))
    usual_units = UNITS_OF_CELLS if cells else UNITS
    delta, depth, repetitions, leaf_size = config.delta, config.depth, config.repetitions, config.leaf_size
    on_grid = structure in ON_GRID
    if not on_grid and delta is not None:
        raise ValueError(f"delta is {delta}, but the structure {structure} has no cells; leave it out")
    for name, value, described in (
        ("depth", depth, ("random-binary-tree",)),
        ("repetitions", repetitions, ("random-binary-tree", "learned")),
        ("leaf_size", leaf_size, ("learned",)),
        ("block", config.block, ("chow-liu",)),
    ):
        if value is not None and structure not in described:
            raise ValueError(
                f"{name} is {value} and describes {' and '.join(described)}, but the structure is {structure}; leave "
                "it out"
            )
    if on_grid and delta is None:
        delta = default_delta(shape)
    if structure == "random-binary-tree":
        depth = min(2, int(math.log2(math.prod(shape)))) if depth is None else depth
        repetitions = 4 if repetitions is None else repetitions
    if structure == "learned":
        leaf_size = default_leaf_size(math.prod(shape)) if leaf_size is None else leaf_size
        repetitions = 2 if repetitions is None else repetitions
    _check_taken(config)
    preprocess, likelihood = _modelling(config, data, hidden_tree, config.leaves or config.units or usual_units)
    missing: Any = data.missing
    units = config.units
    if units is None:
        free = (data.values.levels or 0) if parse("likelihood", likelihood)[0] == _FREE else 0
        units = tree_units(rows, free) if hidden_tree else usual_units
    factored = cells or structure == "chow-liu"
    weights = ("cp" if factored else "full") if config.weights == "auto" else config.weights
    guide = default_guide(config.leaf) if config.guide == "auto" else config.guide
    lr, batch_size = config.lr, config.batch_size
    if lr is None and config.optimiser in OPTIMISERS:
        lr = default_rate(latents=guide != "none")
    if batch_size is None:
        plain = not data.is_image and guide == "none" and config.optimiser in OPTIMISERS
        batch_size = batch_size_without_latents(rows) if plain else BATCH_SIZE
    return dataclasses.replace(
        config,
        structure=structure,
        units=units,
        delta=delta,
        depth=depth,
        repetitions=repetitions,
        leaf_size=leaf_size,
        block=1 if structure == "chow-liu" and config.block is None else config.block,
        weights=weights,
        hidden=hidden_of(cells, data, delta) if config.hidden is None else config.hidden,
        leaves=units if config.leaves is None else config.leaves,
        missing=missing,
        preprocess=preprocess,
        likelihood=likelihood if options_taken(config.leaf, "likelihood") else config.likelihood,
        latent_dim=_latent_dim(config),
        prior=resolved_prior(config),
        guide=guide,
        lr=lr,
        batch_size=batch_size,
        start=_start(weights, guide, likelihood) if config.start == "auto" else config.start,
    )


def _start(weights: str, guide: str, likelihood: str) -> Start:
    kind: Any = find("likelihood", parse("likelihood", likelihood)[0])
    counts = any(getattr(kind, name) is not getattr(Likelihood, name) for name in ("statistics", "statistics_given"))
    return "clusters" if weights == "cp" and guide == "none" and counts else "random"


def _check_taken(config: TrainConfig) -> None:
    """
    :raises ValueError: if an option is given that no leaf takes.
    """
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    for option in ("prior", "likelihood"):
        value = getattr(config, option)
        if value != usual[option] and not options_taken(config.leaf, option):
            raise ValueError(f"{option} is {value!r}, but the leaf {config.leaf!r} takes none; leave one of them out")
    if config.latent_dim is not None and not options_taken(config.leaf, "latent_dim"):
        raise ValueError(
            f"latent_dim is {config.latent_dim}, but the leaf {config.leaf!r} takes none; leave one of them out"
        )


def _latent_dim(config: TrainConfig) -> int | None:
    """What the leaves say, if it is one size; of a class that leaves it open, 8."""
    sizes = set()
    for given, default in options_taken(config.leaf, "latent_dim"):
        own = default if isinstance(default, int) else _LATENT_DIM
        sizes.add(given or config.latent_dim or own)
    return sizes.pop() if len(sizes) == 1 else config.latent_dim


def _modelling(config: TrainConfig, data: DataSet, free: bool, leaves: int) -> tuple[Preprocessing, str]:
    """
    Preprocessing and likelihood, each chosen to fit the other and the data.

    :param bool free: whether leaves have free parameters, the same for all data, so that many levels cost little.
    :param int leaves: of a leaf region.
    """
    levels = data.values.levels
    preprocess, likelihood = config.preprocess, config.likelihood
    name = None if likelihood == "auto" else parse("likelihood", likelihood)[0]
    kind: Any = None if name is None else find("likelihood", name)
    if name == _COLUMNS and data.columns is None:
        raise ValueError(f"likelihood is {name!r}, which is one of tables, but {data.name} has no columns")
    named = data.columns is not None and have_names(data.columns)
    if not data.is_image and (levels != 2 or name == _COLUMNS or (kind is None and named)):
        if preprocess == "auto":
            preprocess = "integers" if kind is not None and kind.of in _LEVELS and levels is not None else "none"
        if kind is None and preprocess == "none" and data.columns is not None:
            return preprocess, _COLUMNS
    if preprocess == "auto":
        many = (levels or 0) > FEW_LEVELS and not free
        continuous = many and _needs_normal(config) if kind is None else kind.of in ("real", "positive")
        preprocess = "none" if levels is None else "dequantize" if continuous else "integers"
    left = {"binarize": 2, "binarize-static": 2, "dequantize": None, "paper": None, "paper-discrete": 256}.get(
        preprocess, levels
    )
    if kind is None:
        if left is None or left == 2:
            return preprocess, "normal" if left is None else "bernoulli"
        if free:
            return preprocess, _FREE
        if left <= FEW_LEVELS or _needs_normal(config):
            return preprocess, "binomial"
        numbers = left * math.prod(data.event_shape) * leaves
        return preprocess, _MANY_LEVELS[numbers > _LARGE]
    if name == _COLUMNS:
        return preprocess, likelihood
    if kind.of in ("levels", "counts") and left is None:
        raise ValueError(f"likelihood is {name!r}, but {_described(data, preprocess)} continuous; accepted is 'normal'")
    if kind.of == "binary" and left != 2:
        of_levels = (
            "'binomial', 'categorical', 'low-rank-categorical', 'discretized-logistic', 'discretized-logistic-mixture' "
            "and 'normal'"
        )
        accepted = of_levels if left else "'normal'"
        raise ValueError(
            f"likelihood is {name!r}, but {_described(data, preprocess)} not only 0 and 1; accepted are {accepted}, "
            "or preprocess 'binarize'"
        )
    return preprocess, likelihood


def _needs_normal(config: TrainConfig) -> bool:
    """Whether pixels of many levels are better taken for Normal ones, jointly or by EM, which has no other of them."""
    return config.optimiser not in OPTIMISERS or "gaussian" in (
        parse("leaf", kind)[0] for kind in kinds_of(config.leaf)
    )


def _described(data: DataSet, preprocess: str) -> str:
    changed = "" if preprocess in ("none", "integers") else f" after {preprocess}"
    return f"the values of {data.name}{changed} are"
