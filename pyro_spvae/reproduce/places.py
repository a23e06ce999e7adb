# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Where the files of experiments are, as commands say it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

OUT = Path("runs/reproduce")
"""Folder of all experiments where none is given."""


def with_places(command: str, out: Path, data_dir: str | None) -> str:
    """
    A command with the folders that it needs to find the same files again.

    :param str command: that runs an experiment.
    :param Path out: folder of all experiments.
    :param str data_dir: folder of data sets, if one was given.
    """
    places = {} if data_dir is None else {"--data-dir": data_dir}
    if os.path.abspath(out) != os.path.abspath(OUT):
        places["--out"] = str(out)
    return " ".join([command, *(f"{name} {shlex.quote(place)}" for name, place in places.items())])
