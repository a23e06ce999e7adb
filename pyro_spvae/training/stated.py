# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Numbers as they are printed, and those that figures rest on, such as normalisers, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LOW = "by annealed importance sampling, which is low in expectation: log-likelihoods are as much too high"


def nats(value: float) -> str:
    """A number with two digits; what rounds to 0, such as a divergence that was sampled, has no sign."""
    return f"{round(value, 2) + 0.0:.2f}"


def stated_lines(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """
    What the parts of a model state, see :meth:`pyro_spvae.part.Part.stated`, as name, value and remark.

    :param dict results: figures; ``stated``, by module and name, need not be among them.
    """
    lines = []
    several = len(results.get("stated", {})) > 1
    for module, numbers in results.get("stated", {}).items():
        of = f" of {module}" if several else ""
        for name, value in numbers.items():
            error = numbers.get(f"{name}_standard_error")
            if name.removesuffix("_standard_error") in numbers and name.endswith("_standard_error"):
                continue
            text = f"{value:.2f}" if not error else f"{value:.2f} ± {error:.2f}"
            remark = "" if error is None else (_LOW if error else "exact") if name == "log_z" else ""
            lines.append((("log Z" if name == "log_z" else name.replace("_", " ")) + of, text, remark))
    return lines
