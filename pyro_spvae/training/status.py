# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How far a run came, in words, from the text files in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pyro_spvae.training.json_file import read_json

TRAINING, TRAINED, FINISHED = "training", "trained", "finished"  # what status.json says

_FILE = "status.json"


def read_status(path: Path) -> dict[str, Any]:
    """
    What ``status.json`` holds: ``status``, which is ``training`` (a run that was finished is trained on), ``trained``
    (its test rows are not evaluated yet) or ``finished``, and what is known by then. Empty where there is none, as
    until training is over, and in runs that were fitted from Python and not trained on.

    :raises ValueError: if the file is damaged.
    """
    if not (path / _FILE).exists():
        return {}
    values = read_json(path / _FILE)
    if not isinstance(values, dict) or values.get("status") not in (TRAINING, TRAINED, FINISHED):
        raise ValueError(f"the file {path / _FILE} has no status; training, trained or finished is needed")
    return values


def is_finished(path: Path) -> bool:
    """
    Whether a run came to its end, and was not trained on since then.

    :raises ValueError: if a file is damaged.
    """
    return (path / "results.json").exists() and read_status(path).get("status", FINISHED) == FINISHED


def status_of(path: Path) -> str:
    """
    How far a run came: ``finished``, ``trained, not evaluated``, or ``stopped at step`` and its number; and of which
    step its results are, if they are older.

    :raises ValueError: if a file is damaged.
    """
    if is_finished(path):
        return FINISHED
    trained = read_status(path).get("status") == TRAINED
    words = "trained, not evaluated" if trained else f"stopped at step {last_step(path)}"
    if not (path / "results.json").exists():
        return words
    results = read_json(path / "results.json")
    step = results.get("steps") if isinstance(results, dict) else None
    return f"{words} (results are of step {step})"


def last_step(path: Path) -> int:
    """The step of the last line of metrics that is whole; 0 without one."""
    try:
        lines = (path / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            step = json.loads(line)["step"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # cut off, or damaged
        if isinstance(step, int):
            return step
    return 0
