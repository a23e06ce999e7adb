# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sum-product networks whose leaves are variational autoencoders, in Pyro.

The names below are looked up on first use (PEP 562), so that ``import pyro_spvae`` and the command line's help do not
wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pyro_spvae._version import __version__

if TYPE_CHECKING:
    from pyro_spvae.circuits import (
        Circuit,
        RegionGraph,
        learn_regions,
        poon_domingos,
        quad_tree,
        random_binary_tree,
        whole,
    )
    from pyro_spvae.distributions import InducedTree
    from pyro_spvae.infer import CircuitELBO, collapse_tree, log_likelihood

__all__ = [
    "Circuit",
    "CircuitELBO",
    "InducedTree",
    "RegionGraph",
    "__version__",
    "collapse_tree",
    "learn_regions",
    "log_likelihood",
    "poon_domingos",
    "quad_tree",
    "random_binary_tree",
    "whole",
]

_HOME = {
    "Circuit": "circuits",
    "CircuitELBO": "infer",
    "InducedTree": "distributions",
    "RegionGraph": "circuits",
    "collapse_tree": "infer",
    "learn_regions": "circuits",
    "log_likelihood": "infer",
    "poon_domingos": "circuits",
    "quad_tree": "circuits",
    "random_binary_tree": "circuits",
    "whole": "circuits",
}


if not TYPE_CHECKING:  # a type checker has the imports above, and reports every other name

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # the next access is a plain look-up
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
