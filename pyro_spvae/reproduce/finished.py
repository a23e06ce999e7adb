# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Finished experiments: what was run, what came out, and what the papers print for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_spvae.reproduce.places import with_places
from pyro_spvae.reproduce.published import DISCRETE, GLOBAL, MIXTURES, TABLE_1, VAMP, Cell, figure_2
from pyro_spvae.reproduce.run import RECORD, note_of
from pyro_spvae.training.json_file import read_json
from pyro_spvae.training.run_folder import RunFolder

#: data whose scores a paper prints in bits
_IN_BITS = {"vampprior": ("frey_faces", "histopathology"), "dvaepp": ("cifar10",)}


@dataclass(frozen=True)
class Finished:
    """
    A finished experiment.

    :ivar Path path: its run folder.
    :ivar str table: what it belongs to.
    :ivar dict experiment: what was run.
    :ivar str command: what runs it again.
    :ivar dict results: content of ``results.json``.
    :ivar list metrics: lines of ``metrics.jsonl``.
    """

    path: Path
    table: str
    experiment: dict[str, Any]
    command: str
    results: dict[str, Any]
    metrics: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Finished:
        """
        What was run is also said by the note beside the folder, of a run that was killed before it said so itself.

        :raises ValueError: if a file cannot be read.
        """
        of_run = path / RECORD if (path / RECORD).exists() else note_of(path)
        record, results = read_json(of_run), read_json(path / "results.json")
        metrics = RunFolder(path).read_metrics()
        if not isinstance(record, dict) or not isinstance(results, dict):
            raise ValueError(f"the files {of_run} and results.json of {path} hold no objects; run the experiment again")
        try:
            return cls(path, record["table"], record["experiment"], record["command"], results, metrics)
        except KeyError as error:
            raise ValueError(f"the file {of_run} lacks {error}; run the experiment again") from None

    @property
    def again(self) -> str:
        """The command with the folders that it was given."""
        config = read_json(self.path / "config.json")
        return with_places(
            self.command, self.path.parent.parent, config.get("data_dir") if isinstance(config, dict) else None
        )

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.experiment["model"])

    @property
    def published_score(self) -> str | None:
        """The log-likelihood that a paper prints for it, in the paper's units."""
        if self.table == "vampprior":
            value = VAMP.get(tuple(self.experiment[name] for name in ("data", "model", "prior")))
            return None if value is None or self.experiment["components"] is not None else f"{value:.2f}"
        if self.table == "dlgmm":
            comparable = self.experiment["data"] != "omniglot_burda" and self.experiment["prior"] == "zero"
            return f"{MIXTURES[self.experiment['model']]:.2f}" if comparable else None
        if self.table == "dvae":
            data, net, method = (self.experiment[name] for name in ("data", "net", "method"))
            mean, deviation = DISCRETE["static_mnist" if data == "mnist" else data, net][method]
            return f"{mean:.2f} \u00b1 {deviation:.2f}"
        if self.table == "dvaepp":
            return f"{GLOBAL[self.experiment['data']][self.experiment['model']]:.2f}"
        return None if self.published is None else f"{self.published.log_likelihood:.1f}"

    @property
    def published_in_bits(self) -> bool:
        """Whether the paper's score is in bits per dimension, lower being better, and not in nats."""
        return self.experiment.get("data") in _IN_BITS.get(self.table, ())

    @property
    def published(self) -> Cell | None:
        """What Table 1 has for it, if its protocol compares."""
        named = (self.experiment.get("data"), self.experiment.get("pixels"), self.experiment.get("model"))
        if self.experiment.get("protocol") != "paper" or self.experiment.get("latent_dim") is not None:
            return None
        if self.experiment.get("fraction", 1) != 1:
            return None
        return TABLE_1.get(named)  # type: ignore[arg-type]

    @property
    def published_bound(self) -> float | None:
        """The five-sample bound of Table 1, or of Figure 2 where a part of the images was used."""
        if self.published is not None or self.experiment.get("fraction", 1) == 1:
            return None if self.published is None else self.published.bound
        named = (self.experiment[name] for name in ("data", "pixels", "model"))
        return figure_2(*named).get(self.experiment["fraction"])

    @property
    def how(self) -> str:
        """Protocol, budget, recipe and what else is not usual, but for the seed."""
        parts = [
            f"{name} {self.experiment[name]}" for name in ("protocol", "budget", "recipe") if name in self.experiment
        ]
        if self.experiment.get("layers", 2) != 2:
            parts.append(f"{self.experiment['layers']} hidden layers")
        if self.experiment.get("fraction", 1) != 1:
            parts.append(f"fraction {self.experiment['fraction']:g}")
        return ", ".join(parts)


def with_error(results: dict[str, Any]) -> str:
    """Mean log-likelihood and its standard error, nats."""
    error = results["standard_error"]
    return f"{results['log_likelihood']:.2f}" + ("" if error is None else f" \u00b1 {error:.2f}")


def finished(out: str | os.PathLike[str]) -> list[Finished]:
    """
    The finished experiments in a folder, in the order of their paths.

    :raises ValueError: if a file of one cannot be read.
    """
    paths = {path.parent for path in Path(out).glob(f"*/*/{RECORD}")}
    paths |= {path.with_name(path.name.removesuffix(".json")) for path in Path(out).glob("*/*.json")}  # notes
    runs = [path for path in sorted(paths) if not path.name.startswith(".") and RunFolder(path).is_finished]
    return [Finished.read(path) for path in runs]
