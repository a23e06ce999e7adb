# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs a script of examples/ as a user does, in this process."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from pathlib import Path
from typing import Any

import pyro
import pytest

from pyro_spvae import SPVAE

FOLDER = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))


class Run:
    """
    :ivar dict names: what the script defined.
    :ivar list lines: what it printed.
    :ivar list models: the models that it made, sum-product networks and sum-product VAEs.
    """

    def __init__(self, name: str, *options: object) -> None:
        self.models: list[SPVAE] = []
        make, models = SPVAE.__init__, self.models

        def kept(spvae: SPVAE, *args: Any, **kwargs: Any) -> None:
            make(spvae, *args, **kwargs)
            models.append(spvae)

        with (
            pytest.MonkeyPatch.context() as monkeypatch,
            contextlib.redirect_stdout(io.StringIO()) as printed,
            pyro.settings.context(module_local_params=False),  # a script may change it, and is not alone here
        ):
            monkeypatch.setattr(SPVAE, "__init__", kept)
            monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
            self.names = runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
        self.lines = printed.getvalue().splitlines()
