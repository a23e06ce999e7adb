# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Lets pytest say what was compared when a check fails that others inherit, as it does by itself of their own tests."""

from __future__ import annotations

import pkgutil
from pathlib import Path

import pytest

_NAMES = [name for _, name, _ in pkgutil.iter_modules([str(Path(__file__).parent)])]
pytest.register_assert_rewrite(*(f"pyro_spvae.testing.{name}" for name in _NAMES if name.endswith("_tests")))
