# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Numbers as they are printed, and those that figures rest on, such as normalisers, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DENSITY, PROBABILITY, BOTH = "density", "probability", "both"  # what the log-likelihood of a table is of

_UNITS = {
    DENSITY: "nats, a density in the units of the columns",
    PROBABILITY: "nats, a probability",
    BOTH: "nats, a probability times a density",
}
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


def unit_of(results: Mapping[str, Any]) -> str:
    """What stands behind a log-likelihood: nats, and of tables whether it is a density."""
    return _UNITS.get(results.get("log_likelihood_is", ""), "nats")


def kind_lines(results: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """The parts of a log-likelihood as name, value and unit; none where it has none."""
    if "log_probability_discrete" not in results:
        return []
    return [
        ("  discrete", results["log_probability_discrete"], f"{_UNITS[PROBABILITY]} of the discrete columns"),
        ("  real", results["log_density_real"], f"{_UNITS[DENSITY]}, of real columns given the discrete ones"),
    ]
