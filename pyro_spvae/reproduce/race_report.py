# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables of the experiment on time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pyro_spvae.reproduce.budget import remarks
from pyro_spvae.reproduce.over_seeds import numbers, spread
from pyro_spvae.training.json_file import read_json

RACE = "race.json"


def race_sections(folder: Path) -> list[tuple[str, list[str]]]:
    """
    A title and a table for each race that is finished, of several seeds one.

    :param Path folder: of all experiments.
    :raises ValueError: if a file cannot be read.
    """
    groups: dict[tuple[tuple[str, Any], ...], list[dict[str, Any]]] = {}
    for path in sorted(folder.glob(f"spvae-time/*/{RACE}")):
        if path.parent.name.startswith("."):
            continue
        race = read_race(path)
        experiment = race.get("experiment", {"name": path.parent.name})  # which older ones have not
        key = tuple((name, value) for name, value in experiment.items() if name != "seed")
        groups.setdefault(key, []).append(race)
    return [_section(dict(key), races) for key, races in groups.items()]


def read_race(path: Path) -> dict[str, Any]:
    """
    :raises ValueError: if the file cannot be read or is damaged.
    """
    race = read_json(path)
    if not isinstance(race, dict) or not race.keys() >= {"lines", "ratios"}:
        raise ValueError(f"the file {path} lacks 'lines' or 'ratios'; run the experiment again by --overwrite")
    experiment = race.get("experiment", {"seed": 0})
    if not isinstance(experiment, dict) or "seed" not in experiment:
        raise ValueError(f"the file {path} does not say what was run; run the experiment again by --overwrite")
    return race


def _section(experiment: dict[str, Any], races: list[dict[str, Any]]) -> tuple[str, list[str]]:
    title = ", ".join(str(value) for value in experiment.values())
    lines = races[0]["lines"]
    if len(races) > 1:
        races = sorted(races, key=lambda race: race["experiment"]["seed"])
        lines = [f"Mean ± standard deviation over the seeds {numbers([r['experiment']['seed'] for r in races])}:", ""]
        lines += _over_seeds(races)
    notes = remarks([experiment.get("budget", "paper")])
    return f"Time: {title}", [*lines, *([""] if notes else []), *notes]


def _over_seeds(races: list[dict[str, Any]]) -> list[str]:
    lines = ["| the VAE's final test value | ratio of seconds, SPVAE to VAE | passed |", "|---|---|---|"]
    for name in races[0]["ratios"]:
        passed = [race["ratios"][name] for race in races if race["ratios"][name] is not None]
        lines.append(f"| {name} | {spread(passed, 3) if passed else ''} | {len(passed)} of {len(races)} |")
    return lines
