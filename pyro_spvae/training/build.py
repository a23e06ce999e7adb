# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From a configuration and data to a model: what is left open is decided here, once, and recorded."""

from __future__ import annotations

import dataclasses
import math

from pyro_spvae.circuits import RegionGraph, poon_domingos, quad_tree, random_binary_tree, whole
from pyro_spvae.data import DataSet
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial, Categorical, Likelihood, Normal
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.training.config import TrainConfig

_FEW_LEVELS = 32  # above, the binomial's forced variance fits badly and grey levels are better made continuous
_SMALLEST_CELL = 4  # pixels a side: smaller patches leave a leaf VAE little to learn


def resolve(config: TrainConfig, data: DataSet) -> TrainConfig:
    """
    Fills in what a configuration leaves to the data.

    - structure: Poon-Domingos for images, random binary trees for tables, one region for a single column;
    - delta: a quarter of the longer side, rounded up (the paper's 4 x 4 cells), and at least 4;
    - depth, repetitions: 2 (or less, where there are fewer than four columns) and 4;
    - likelihood: Bernoulli for binary values, Binomial for up to 32 grey levels, else Normal (grey levels are
      dequantised with uniform noise and scaled to [0, 1]).

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
    likelihood = config.likelihood
    levels = data.values.levels
    if likelihood == "auto":
        likelihood = "normal" if levels is None or levels > _FEW_LEVELS else "binomial"
        likelihood = "bernoulli" if levels == 2 else likelihood
    if likelihood in ("binomial", "categorical") and levels is None:
        raise ValueError(f"likelihood is {likelihood!r}, but {data.name} holds continuous values; accepted is 'normal'")
    if likelihood == "bernoulli" and levels != 2:
        raise ValueError(
            f"likelihood is 'bernoulli', but {data.name} holds values other than 0 and 1; accepted are "
            + ("'binomial', 'categorical' and 'normal'" if levels else "'normal'")
        )
    return dataclasses.replace(
        config,
        structure=structure,
        delta=delta,
        depth=depth,
        repetitions=repetitions,
        leaves=config.units if config.leaves is None else config.leaves,
        likelihood=likelihood,
    )


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


def build_likelihood(config: TrainConfig, data: DataSet) -> Likelihood:
    """The likelihood of a resolved configuration."""
    values = data.values
    if config.likelihood == "bernoulli":
        return Bernoulli()
    if config.likelihood == "normal":
        in_unit_interval = values.levels is not None or (values.low >= 0 and values.high <= 1)
        return Normal(mean="sigmoid" if in_unit_interval else "identity")
    assert values.levels is not None
    return Binomial(values.levels - 1) if config.likelihood == "binomial" else Categorical(values.levels)


def build_model(config: TrainConfig, data: DataSet) -> SPVAE:
    """
    The model of a resolved configuration, in the data's dtype; draws initial parameters from torch's global generator.
    """
    likelihood = build_likelihood(config, data)
    leaf = VAE(likelihood, config.latent_dim, config.hidden, activation=config.activation, networks=config.networks)
    spvae = SPVAE(
        build_regions(config, region_shape(data)),
        config.units,
        config.leaves,
        leaf=leaf,
        guide=NormalGuide(config.hidden, activation=config.activation, networks=config.networks),
        channels=data.event_shape[0] if data.is_image else None,
    )
    return spvae.to(data.train.dtype)


def modelled(config: TrainConfig, data: DataSet) -> DataSet:
    """The data as the likelihood models them: grey levels are made continuous for the Normal."""
    if config.likelihood == "normal" and data.values.levels is not None:
        return data.dequantized(config.seed)
    return data
