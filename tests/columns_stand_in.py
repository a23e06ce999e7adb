# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A likelihood that knows columns, in the place of one that models them: normal values, whatever the columns are."""

from __future__ import annotations

from dataclasses import asdict

from pyro_spvae.data import Column
from pyro_spvae.likelihoods import Normal


class Columns(Normal):
    """Normal values."""

    def __init__(self, columns):
        super().__init__()
        made = [column if isinstance(column, Column) else Column.from_dict(column) for column in columns]
        self.columns = tuple(made)

    def options(self):
        return {"columns": [asdict(column) for column in self.columns]}
