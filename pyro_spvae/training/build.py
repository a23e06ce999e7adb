# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From a configuration and data to a model: what is left open is decided here, once, and recorded."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from pyro_spvae.circuits import (
    Circuit,
    RegionGraph,
    chow_liu,
    learn_regions,
    poon_domingos,
    quad_tree,
    random_binary_tree,
    whole,
)
from pyro_spvae.circuits.builders import default_delta
from pyro_spvae.circuits.learning import default_leaf_size
from pyro_spvae.data import DATA_SETS, Column, DataSet, Values, load_data
from pyro_spvae.data.column import have_names
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.guides import LeafGuide, MixedGuide
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models import SPN, SPVAE, LeafModel, MixedLeaf
from pyro_spvae.part import constructor_parameters
from pyro_spvae.registry import find, make, parse
from pyro_spvae.training.batches import BATCH_SIZE, batch_size_without_latents
from pyro_spvae.training.candidates import FEW_LEVELS, candidates, filled, is_open, names_networks, rows_to_train
from pyro_spvae.training.config import Preprocessing, Start, Structure, TrainConfig, parse_kinds, parse_names
from pyro_spvae.training.hidden_trees import tree_training, tree_units
from pyro_spvae.training.memory import check_tables
from pyro_spvae.training.optimisers import OPTIMISERS, default_rate
from pyro_spvae.training.sizes import ON_GRID, UNITS, UNITS_OF_CELLS, has_cells, hidden_of

_FREE_LEAF = "factorized"  # the leaf that is a likelihood of free parameters
_FREE = "categorical"  # its likelihood, with a probability for each level
_COLUMNS = "columns"  # the likelihood whose columns are of several kinds
_LEVELS = ("binary", "levels")  # what likelihoods of grey levels are of
# of images of more than few levels the best in bits/dim, at equal steps and in equal time, has a number for each level
# of each pixel of each leaf; where these are too many for memory, the best that has two
_MANY_LEVELS, _LARGE = ("low-rank-categorical", "discretized-logistic"), 2**24
CACHE = 2**29  # bytes of preprocessed values that a split may hold in memory

_LEARNING_ROWS = 10_000  # structure is learned from: correlations are then known to 0.01
_LEARNING = 6  # stream of seeds
_LATENT_DIM = 8
_DESCRIBED = {"hidden_dims", "activation", "networks", "normalise"}  # options by which a part describes its networks
_NETWORKS = ("encoder", "decoder", "second", "conditional")  # what parts call those that they are given


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
    - particles, schedule, epochs, patience and optimiser of images by such a tree where none is given: those of
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
    hidden_tree, rows = single and leaf == _FREE_LEAF, rows_to_train(config, data)
    if hidden_tree and data.is_image and config.optimiser == TrainConfig.optimiser:
        config = filled(config, tree_training(rows, config.batch_size or BATCH_SIZE, image=True))
    cells = has_cells(config, data, structure, _kinds(leaf))
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
    guide = _default_guide(config.leaf) if config.guide == "auto" else config.guide
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
        likelihood=likelihood if _taken(config.leaf, "likelihood") else config.likelihood,
        latent_dim=_latent_dim(config),
        prior=resolved_prior(config),
        guide=guide,
        lr=lr,
        batch_size=batch_size,
        start=_start(weights, guide) if config.start == "auto" else config.start,
    )


def _start(weights: str, guide: str) -> Start:
    return "clusters" if weights == "cp" and guide == "none" else "random"


def _taken(leaf: str, option: str) -> list[tuple[Any, Any]]:
    """
    Of the kinds of leaves whose constructors take an option, what their brackets give (``None``: nothing) and the
    default.
    """
    found = []
    for name, given in (parse("leaf", kind) for kind in _kinds(leaf)):
        for parameter in constructor_parameters(find("leaf", name)):
            if parameter.name == option:
                found.append((given.get(option), parameter.default))
    return found


def _is_open(config: TrainConfig, option: str) -> bool:
    """Whether there is one kind of leaf, which takes an option and leaves it to the configuration."""
    return len(_kinds(config.leaf)) == 1 and any(given is None for given, _ in _taken(config.leaf, option))


def resolved_prior(config: TrainConfig) -> str:
    """
    The prior that a configuration means: where it names none, that of the one kind of leaf; auto where no kind leaves
    it to the configuration.
    """
    if _is_open(config, "prior"):
        return _prior(config, config.leaf)
    return config.prior if any(given is None for given, _ in _taken(config.leaf, "prior")) else "auto"


def _prior(config: TrainConfig, kind: str) -> str:
    """The prior of a kind of leaf: the one that is named, else that of its class, such as one of bits."""
    cls: Any = find("leaf", parse("leaf", kind)[0])
    return cls.prior_name if config.prior == "auto" else config.prior


def _check_taken(config: TrainConfig) -> None:
    """
    :raises ValueError: if an option is given that no leaf takes.
    """
    usual = {field.name: field.default for field in dataclasses.fields(config)}
    for option in ("prior", "likelihood"):
        value = getattr(config, option)
        if value != usual[option] and not _taken(config.leaf, option):
            raise ValueError(f"{option} is {value!r}, but the leaf {config.leaf!r} takes none; leave one of them out")
    if config.latent_dim is not None and not _taken(config.leaf, "latent_dim"):
        raise ValueError(
            f"latent_dim is {config.latent_dim}, but the leaf {config.leaf!r} takes none; leave one of them out"
        )


def _latent_dim(config: TrainConfig) -> int | None:
    """What the leaves say, if it is one size; of a class that leaves it open, 8."""
    sizes = set()
    for given, default in _taken(config.leaf, "latent_dim"):
        own = default if isinstance(default, int) else _LATENT_DIM
        sizes.add(given or config.latent_dim or own)
    return sizes.pop() if len(sizes) == 1 else config.latent_dim


def _default_guide(leaf: str) -> str:
    """What the kinds of leaves that have latent variables ask for; auto where they differ: each has its own."""
    classes: list[Any] = [find("leaf", parse("leaf", kind)[0]) for kind in _kinds(leaf)]
    names = [cls.guide_name for cls in classes]
    if None in names:  # what has none of its own is seen when it is made
        return "auto"
    wanted = set(names) - {"none"}
    return "auto" if len(wanted) > 1 else wanted.pop() if wanted else "none"


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
    return config.optimiser not in OPTIMISERS or "gaussian" in (parse("leaf", kind)[0] for kind in _kinds(config.leaf))


def _described(data: DataSet, preprocess: str) -> str:
    changed = "" if preprocess in ("none", "integers") else f" after {preprocess}"
    return f"the values of {data.name}{changed} are"


def region_shape(data: DataSet) -> tuple[int, ...]:
    """Shape that the region graph divides: height and width of images, columns of tables."""
    return tuple(data.event_shape[1:] if data.is_image else data.event_shape)


def build_regions(config: TrainConfig, data: DataSet) -> RegionGraph:
    """
    The region graph of a resolved configuration.

    :param DataSet data: the data after preprocessing. A structure is learned from training rows alone, up to 10,000 of
        them, drawn by the seed, so that the same configuration and data always give the same one.
    :raises ValueError: if an option does not fit the shape of the data.
    """
    shape = region_shape(data)
    if config.structure == "poon-domingos":
        assert config.delta is not None
        return poon_domingos(shape, config.delta)
    if config.structure == "quad-tree":
        assert config.delta is not None
        if not isinstance(config.delta, int):
            raise ValueError(f"delta is {list(config.delta)}, but the structure quad-tree takes one; give one side")
        return quad_tree(shape, config.delta)
    if config.structure == "random-binary-tree":
        assert config.depth is not None and config.repetitions is not None
        return random_binary_tree(shape, config.depth, config.repetitions, config.seed)
    if config.structure == "learned":
        assert config.repetitions is not None
        x = data.train[_learning_rows(len(data.train), config.seed)]
        return learn_regions(x, config.leaf_size, repetitions=config.repetitions, seed=config.seed, shape=shape)
    if config.structure == "chow-liu":
        assert config.block is not None
        x = data.train[_learning_rows(len(data.train), config.seed)]
        of_columns: dict[str, Any] = {}
        if data.columns is not None:
            of_columns = {
                "categorical": [column.is_coded for column in data.columns],
                "names": [column.name for column in data.columns],
            }
        # free weights are one for each tuple of units
        arity = 2 if config.weights == "full" else None
        return chow_liu(x, config.block, arity=arity, shape=shape, **of_columns)
    return whole(shape)


def _learning_rows(rows: int, seed: int) -> torch.Tensor | slice:
    """Which training rows a structure is learned from; not the first ones, which may be of one class."""
    if rows <= _LEARNING_ROWS:
        return slice(None)
    generator = torch.Generator().manual_seed(noise_seed(seed, 0, _LEARNING))
    return torch.randperm(rows, generator=generator, device="cpu")[:_LEARNING_ROWS].sort().values


def build_likelihood(config: TrainConfig, values: Values, columns: Sequence[Column] | None = None) -> Likelihood:
    """
    The likelihood of a resolved configuration.

    :param Values values: what it is a distribution of, after preprocessing.
    :param columns: what the columns of a table are.
    """
    in_unit_interval = values.low >= 0 and values.high <= 1
    defaults: dict[str, Any] = {"mean": "sigmoid" if in_unit_interval else "identity"}
    if columns is not None:
        defaults["columns"] = columns
    if values.levels is not None:
        defaults |= {"total_count": values.levels - 1, "levels": values.levels}
    return make("likelihood", config.likelihood, **defaults)


def build_model(config: TrainConfig, data: DataSet) -> SPVAE:
    """
    The model of a resolved configuration, on the CPU; draws initial parameters from torch's global generator.

    :param DataSet data: the data after preprocessing.
    """

    with torch.device("cpu"), _default_dtype(getattr(torch, config.precision)):
        leaf, guide = _programs(config, data)
        kind = SPN if leaf.tractable else SPVAE
        assert config.units is not None
        regions = build_regions(config, data)
        _check_memory(config, data, regions)
        return kind(
            Circuit(regions, config.units, config.leaves, config.tie, config.weights),
            leaf=leaf,
            guide=guide,
            channels=data.event_shape[0] if data.is_image else None,
        )


def _check_memory(config: TrainConfig, data: DataSet, regions: RegionGraph) -> None:
    """
    :raises ValueError: if leaves of free parameters have more than fit into memory.
    """
    if config.leaf != _FREE_LEAF or parse("likelihood", config.likelihood)[0] == _COLUMNS:
        return
    leaves = config.units if config.leaves is None else config.leaves
    assert leaves is not None
    likelihood = build_likelihood(config, data.values, data.columns)
    channels = data.event_shape[0] if data.is_image else 1
    by_gradient = config.optimiser in OPTIMISERS
    check_tables(config.likelihood, likelihood, regions, leaves, channels, config.precision, by_gradient)


def _programs(config: TrainConfig, data: DataSet) -> tuple[LeafModel, LeafGuide]:
    """Leaf model and guide; ``vae+factorized`` names kinds of leaves that take turns."""
    kinds = _kinds(config.leaf)
    if config.decoder is not None:
        _check_decoder(config, kinds)
    leaves, guides = [], []
    for kind in kinds:
        own = dataclasses.replace(config, leaf=kind)
        options: dict[str, Any] = _own_networks("leaf", own)
        if config.latent_dim is not None:
            options["latent_dim"] = config.latent_dim
        of_prior: dict[str, Any] = {}
        if _taken(kind, "likelihood"):
            options["likelihood"] = likelihood = build_likelihood(config, data.values, data.columns)
            if likelihood.feature_range is not None:  # in which pseudo-inputs lie
                of_prior["range"] = likelihood.feature_range
        options["prior"] = make("prior", _prior(config, kind), **of_prior)
        leaves.append(make("leaf", kind, **options))
        asked_for = config.guide != "auto" and (len(kinds) == 1 or leaves[-1].latents)
        guide = config.guide if asked_for else leaves[-1].default_guide
        guides.append(make("guide", guide, **_own_networks("guide", dataclasses.replace(own, guide=guide))))
    if len(kinds) == 1:
        return leaves[0], guides[0]
    per_region = config.units if config.leaves is None else config.leaves
    assert per_region is not None
    if per_region % len(kinds):
        raise ValueError(
            f"leaf is {config.leaf!r}, {len(kinds)} kinds, but leaves (by default units) is {per_region}; a "
            f"multiple of {len(kinds)} is needed"
        )
    return MixedLeaf(leaves), MixedGuide(guides)


def _kinds(leaf: str) -> list[str]:
    """What stands between plus signs outside of brackets."""
    kinds, depth = [""], 0
    for sign in leaf:
        depth += (sign == "(") - (sign == ")")
        if sign == "+" and depth == 0:
            kinds.append("")
        else:
            kinds[-1] += sign
    return kinds


def _own_networks(kind: str, config: TrainConfig) -> dict[str, Any]:
    """
    The networks of a leaf or guide, unless its own options describe them: the encoder and decoder that are asked for;
    between layers of latent variables a perceptron, of the same options if those are ones. Of a guide that makes more
    networks than it is given, the options of perceptrons.
    """
    part, given = parse(kind, getattr(config, kind))
    options = {"hidden_dims": config.hidden, "activation": config.activation, "networks": config.networks}
    if _DESCRIBED & given.keys():
        return {}
    cls: Any = find(kind, part)
    if cls.makes_networks and config.network == "mlp":
        return {"hidden_dims": config.hidden, "activation": config.activation}
    if cls.has_own_networks and config.network == "mlp" and config.decoder is None:
        return {}
    dense = config.network if parse("network", config.network)[0] == "mlp" else "mlp"
    texts = {"encoder": config.network, "decoder": config.decoder or config.network}
    networks = {}
    for parameter in constructor_parameters(cls):
        name = parameter.name
        if name in given or name not in _NETWORKS:
            continue
        text = texts.get(name, dense)
        if name in cls.joint_networks and parse("network", text)[0] == "mlp":
            text = _as_joint(text)
        networks[name] = make("network", text, **options)
    return networks


def check_described(config: TrainConfig, given: Collection[str]) -> None:
    """
    Refuses options of networks, where they are given, for leaves and guides that have no such networks.

    :param given: names of the options that are given.
    :raises ValueError: if one of them has no effect.
    """
    if config.leaf == "auto":
        return
    guide = _default_guide(config.leaf) if config.guide == "auto" else config.guide
    found = [("leaf", kind) for kind in _kinds(config.leaf)] + [("guide", guide)]
    if guide == "auto" or any(map(partial(_takes_networks, config), *zip(*found, strict=True))):
        return
    for option in ("hidden", "activation", "networks"):
        if option in given:
            raise ValueError(
                f"{option} is given, but the leaf {config.leaf!r} and the guide {guide!r} have no networks that it "
                "describes; leave one of them out"
            )


def _takes_networks(config: TrainConfig, kind: str, text: str) -> bool:
    """Whether a kind of leaf or guide has networks that the configuration describes, unless its brackets do."""
    cls: Any = find(kind, parse(kind, text)[0])
    if cls.has_own_networks and config.network == "mlp" and config.decoder is None:
        return False
    return cls.makes_networks or any(parameter.name in _NETWORKS for parameter in constructor_parameters(cls))


def _as_joint(text: str) -> str:
    """A perceptron's text as one of several inputs."""
    taken = {parameter.name for parameter in constructor_parameters(find("network", "joint"))}
    options = [f"{name}={value!r}" for name, value in parse("network", text)[1].items() if name in taken]
    return f"joint({', '.join(options)})"


def _check_decoder(config: TrainConfig, kinds: list[str]) -> None:
    """
    :raises ValueError: if a decoder is named that no leaf takes.
    """
    for name, options in (parse("leaf", kind) for kind in kinds):
        taken = {parameter.name for parameter in constructor_parameters(find("leaf", name))}
        if "decoder" in taken and not _DESCRIBED & options.keys():
            return
    raise ValueError(f"decoder is {config.decoder!r}, but the leaf {config.leaf!r} takes none; leave one of them out")


def recorded(
    config: TrainConfig,
    name: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    missing: str | None = None,
    columns: Sequence[Column] | None = None,
    undivided: bool = False,
) -> DataSet:
    """
    The data of a configuration as they were recorded, in grey if it says so.

    :param str name: another data set; files of one are read as the configuration reads its own.
    :param data_dir: another folder of data sets.
    :param bool download: whether missing files may be fetched.
    :param str missing: which entries are missing, if not those that the configuration says.
    :param columns: what the columns of a table are, if that is known.
    :param bool undivided: take all rows for each split.
    """
    own = name in (None, config.data)
    name = config.data if name is None else name
    of_files: dict[str, Any] = {}
    if own or name not in DATA_SETS:
        of_files = {
            "drop": parse_names("drop", config.drop),
            "na": parse_names("na", config.na),
            "shape": config.shape,
            "columns": columns,
        }
    if own:
        of_files |= {"validation": config.validation_data, "test": config.test_data}
        of_files |= {"kinds": parse_kinds(config.kinds) or None} if columns is None else {}
    data = load_data(
        name,
        data_dir=config.data_dir if data_dir is None else data_dir,
        seed=config.seed,
        download=download,
        missing=config.missing if missing is None else missing,
        undivided=undivided,
        report=lambda note: None,  # the table of columns says it
        **of_files,
    )
    return data.in_grey() if config.grey else data


def modelled(config: TrainConfig, data: DataSet) -> DataSet:
    """The data as the likelihood of a resolved configuration models them."""
    changed = data.thinned(config.fraction, config.seed).preprocessed(config.preprocess, config.seed)
    return changed.as_measured() if _of_measures(config, data) else changed


def _of_measures(config: TrainConfig, data: DataSet) -> bool:
    """Whether the likelihood takes whole numbers of a table for values like all others, and not for grey levels."""
    if data.is_image or config.preprocess != "none" or config.likelihood == "auto":
        return False
    name = parse("likelihood", config.likelihood)[0]
    kind: Any = find("likelihood", name)
    return name == _COLUMNS or (data.values.levels is not None and kind.of not in _LEVELS)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Initial parameters are drawn in the type that they have, whatever the user's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
