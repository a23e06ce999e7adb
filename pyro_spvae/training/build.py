# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From a resolved configuration and data to a model."""

from __future__ import annotations

import dataclasses
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
from pyro_spvae.data import Column, DataSet, Values
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.guides import LeafGuide, MixedGuide
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models import SPN, SPVAE, LeafModel, MixedLeaf
from pyro_spvae.part import constructor_parameters
from pyro_spvae.registry import find, make, parse
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.leaf_kinds import FREE_LEAF, default_guide, kinds_of, options_taken, prior_of
from pyro_spvae.training.memory import check_tables
from pyro_spvae.training.optimisers import OPTIMISERS
from pyro_spvae.training.reading import region_shape

_COLUMNS = "columns"  # the likelihood whose columns are of several kinds
_LEARNING_ROWS = 10_000  # structure is learned from: correlations are then known to 0.01
_LEARNING = 6  # stream of seeds
_DESCRIBED = {"hidden_dims", "activation", "networks", "normalise"}  # options by which a part describes its networks
_NETWORKS = ("encoder", "decoder", "second", "conditional")  # what parts call those that they are given
# options that say how latent variables are trained
_OF_LATENTS = ("beta", "gradient", "reduce", "kl", "particles", "estimator", "warmup", "balance")


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
    if config.leaf != FREE_LEAF or parse("likelihood", config.likelihood)[0] == _COLUMNS:
        return
    leaves = config.units if config.leaves is None else config.leaves
    assert leaves is not None
    likelihood = build_likelihood(config, data.values, data.columns)
    channels = data.event_shape[0] if data.is_image else 1
    by_gradient = config.optimiser in OPTIMISERS
    check_tables(config.likelihood, likelihood, regions, leaves, channels, config.precision, by_gradient)


def _programs(config: TrainConfig, data: DataSet) -> tuple[LeafModel, LeafGuide]:
    """Leaf model and guide; ``vae+factorized`` names kinds of leaves that take turns."""
    kinds = kinds_of(config.leaf)
    if config.decoder is not None:
        _check_decoder(config, kinds)
    leaves, guides = [], []
    for kind in kinds:
        own = dataclasses.replace(config, leaf=kind)
        options: dict[str, Any] = _own_networks("leaf", own)
        if config.latent_dim is not None:
            options["latent_dim"] = config.latent_dim
        of_prior: dict[str, Any] = {}
        if options_taken(kind, "likelihood"):
            options["likelihood"] = likelihood = build_likelihood(config, data.values, data.columns)
            if likelihood.feature_range is not None:  # in which pseudo-inputs lie
                of_prior["range"] = likelihood.feature_range
        options["prior"] = make("prior", prior_of(config, kind), **of_prior)
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
    Refuses options of networks, where they are given, for leaves and guides that have no such networks, and options of
    latent variables for leaves that have none.

    :param given: names of the options that are given.
    :raises ValueError: if one of them has no effect.
    """
    if config.leaf == "auto":
        return
    guide = default_guide(config.leaf) if config.guide == "auto" else config.guide
    for option in _OF_LATENTS if guide == "none" else ():
        if option in given:
            raise ValueError(
                f"{option} is given, but the leaf {config.leaf!r} has no latent variables, so that it has no effect; "
                "leave one of them out"
            )
    found = [("leaf", kind) for kind in kinds_of(config.leaf)] + [("guide", guide)]
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


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Initial parameters are drawn in the type that they have, whatever the user's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
