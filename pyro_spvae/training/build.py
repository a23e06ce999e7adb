# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From a configuration and data to a model: what is left open is decided here, once, and recorded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pyro_spvae.circuits import RegionGraph, poon_domingos, quad_tree, random_binary_tree, whole
from pyro_spvae.data import DataSet, Values
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models import SPVAE
from pyro_spvae.nn import Network
from pyro_spvae.registry import make, parse
from pyro_spvae.training.config import Preprocessing, TrainConfig

_FEW_LEVELS = 32  # above, the binomial's forced variance fits badly and grey levels are better made continuous
CACHE = 2**29  # bytes of preprocessed values that a split may hold in memory

_SMALLEST_CELL = 4  # pixels a side: smaller patches leave a leaf VAE little to learn


def resolve(config: TrainConfig, data: DataSet) -> TrainConfig:
    """
    Fills in what a configuration leaves to the data.

    - structure: Poon-Domingos for images, random binary trees for tables, one region for a single column;
    - delta: a quarter of the longer side, rounded up (the paper's 4 x 4 cells), and at least 4;
    - depth, repetitions: 2 (or less, where there are fewer than four columns) and 4;
    - preprocess: grey levels get uniform noise and are scaled to [0, 1] where the likelihood is normal, or where there
      are more than 32 of them and none is given; everything else is left as it is;
    - likelihood: Bernoulli for binary values, Binomial for grey levels, else Normal.

    :raises ValueError: if an option does not fit the structure or the data.
    """
    shape = region_shape(data)
    structure = config.structure
    if structure == "auto":
        structure = "poon-domingos" if data.is_image else "random-binary-tree" if shape[0] > 1 else "whole"
    delta, depth, repetitions = config.delta, config.depth, config.repetitions
    on_grid = structure in ("poon-domingos", "quad-tree")
    if not on_grid and delta is not None:
        raise ValueError(f"delta is {delta}, but the structure {structure} has no cells; leave it out")
    if structure != "random-binary-tree" and not (depth is None and repetitions is None):
        raise ValueError(f"depth and repetitions describe random-binary-tree, but the structure is {structure}")
    if on_grid and delta is None:
        delta = min(max(math.ceil(max(shape) / 4), _SMALLEST_CELL), max(shape))
    if structure == "random-binary-tree":
        depth = min(2, int(math.log2(math.prod(shape)))) if depth is None else depth
        repetitions = 4 if repetitions is None else repetitions
    preprocess, likelihood = _modelling(config, data)
    return dataclasses.replace(
        config,
        structure=structure,
        delta=delta,
        depth=depth,
        repetitions=repetitions,
        leaves=config.units if config.leaves is None else config.leaves,
        preprocess=preprocess,
        likelihood=likelihood,
    )


def _modelling(config: TrainConfig, data: DataSet) -> tuple[Preprocessing, str]:
    """Preprocessing and likelihood, each chosen to fit the other and the data."""
    levels = data.values.levels
    preprocess, likelihood = config.preprocess, config.likelihood
    if preprocess == "auto":
        wanted = parse("likelihood", likelihood)[0] if likelihood != "auto" else None
        continuous = wanted == "normal" or (wanted is None and (levels or 0) > _FEW_LEVELS)
        preprocess = "none" if levels is None else "dequantize" if continuous else "integers"
    left = {"binarize": 2, "binarize-static": 2, "dequantize": None, "paper": None}.get(preprocess, levels)
    if likelihood == "auto":
        return preprocess, "normal" if left is None else "bernoulli" if left == 2 else "binomial"
    name = parse("likelihood", likelihood)[0]
    if name in ("binomial", "categorical") and left is None:
        raise ValueError(f"likelihood is {name!r}, but {_described(data, preprocess)} continuous; accepted is 'normal'")
    if name == "bernoulli" and left != 2:
        accepted = "'binomial', 'categorical' and 'normal'" if left else "'normal'"
        raise ValueError(
            f"likelihood is 'bernoulli', but {_described(data, preprocess)} not only 0 and 1; accepted are {accepted}, "
            "or preprocess 'binarize'"
        )
    return preprocess, likelihood


def _described(data: DataSet, preprocess: str) -> str:
    changed = "" if preprocess in ("none", "integers") else f" after {preprocess}"
    return f"the values of {data.name}{changed} are"


def region_shape(data: DataSet) -> tuple[int, ...]:
    """Shape that the region graph divides: height and width of images, columns of tables."""
    return tuple(data.event_shape[1:] if data.is_image else data.event_shape)


def build_regions(config: TrainConfig, shape: tuple[int, ...]) -> RegionGraph:
    """The region graph of a resolved configuration."""
    if config.structure == "poon-domingos":
        assert config.delta is not None
        return poon_domingos(shape, config.delta)
    if config.structure == "quad-tree":
        assert config.delta is not None
        return quad_tree(shape, config.delta)
    if config.structure == "random-binary-tree":
        assert config.depth is not None and config.repetitions is not None
        return random_binary_tree(shape, config.depth, config.repetitions, config.seed)
    return whole(shape)


def build_likelihood(config: TrainConfig, values: Values) -> Likelihood:
    """
    The likelihood of a resolved configuration.

    :param Values values: what it is a distribution of, after preprocessing.
    """
    in_unit_interval = values.low >= 0 and values.high <= 1
    defaults: dict[str, Any] = {"mean": "sigmoid" if in_unit_interval else "identity"}
    if values.levels is not None:
        defaults |= {"total_count": values.levels - 1, "levels": values.levels}
    return make("likelihood", config.likelihood, **defaults)


def build_model(config: TrainConfig, data: DataSet) -> SPVAE:
    """
    The model of a resolved configuration, on the CPU; draws initial parameters from torch's global generator.

    :param DataSet data: the data after preprocessing.
    """

    with _default_dtype(getattr(torch, config.precision)):
        leaf = make(
            "leaf",
            config.leaf,
            likelihood=build_likelihood(config, data.values),
            latent_dim=config.latent_dim,
            prior=make("prior", config.prior),
            **_network("decoder", "leaf", config),
        )
        return SPVAE(
            build_regions(config, region_shape(data)),
            config.units,
            config.leaves,
            leaf=leaf,
            guide=make("guide", config.guide, **_network("encoder", "guide", config)),
            channels=data.event_shape[0] if data.is_image else None,
        )


def _network(name: str, kind: str, config: TrainConfig) -> dict[str, Network]:
    """The network of a leaf or guide, unless its own options describe one."""
    options = {"hidden_dims": config.hidden, "activation": config.activation, "networks": config.networks}
    if options.keys() & parse(kind, getattr(config, kind))[1].keys():
        return {}
    return {name: make("network", config.network, **options)}


def modelled(config: TrainConfig, data: DataSet) -> DataSet:
    """The data as the likelihood of a resolved configuration models them."""
    return data.preprocessed(config.preprocess, config.seed)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Initial parameters are drawn in the type that they have, whatever the user's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
