# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest

from pyro_spvae.training.run_folder import RunFolder
from tests.training.cases import built, table, trainer_of


@pytest.fixture
def make(tmp_path):
    """Makes trainers, each with a folder of its own and options over the tiny configuration."""

    def trainer(data=None, report=lambda line: None, loggers=(), folder=True, **options):
        spvae, data, config = built(table() if data is None else data, **options)
        path = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        kept = RunFolder.create(path, config.to_dict(), {}) if folder else None
        made = trainer_of(spvae, data, config, kept, report=report, loggers=loggers)
        made.data = data
        return made

    return trainer
