# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: runs every benchmark and writes the figures to ``benchmarks/README.md``."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pyro
import torch

from benchmarks import circuit, step

TEXT = """# Speed

Written by `make bench`. Contenders take turns in one process on one thread, and the median of CPU time is given, so
that a machine whose speed drifts slows all of them. Ratios carry over to other machines, milliseconds do not.

Machine: {cores} cores, {machine}, Python {python}, torch {torch}, pyro-ppl {pyro}.

## A training step and evaluation, at the size of the paper's MNIST model

28 x 28 pixels, delta 7, K = 2, latent size 25, two hidden layers of 30: 413,352 parameters. The twin
([twin.py](twin.py)) computes the same loss from the same seed in plain torch, without Pyro.

{step}

## The circuit

Forward and backward to weights and leaf log-densities, batch 128. The loop evaluates the same graph and weights region
by region, as published implementations do.

{circuit}
"""


def main() -> None:
    """Measures, prints and writes."""
    text = TEXT.format(
        cores=os.cpu_count(),
        machine=platform.machine(),
        python=platform.python_version(),
        torch=torch.__version__,
        pyro=pyro.__version__,
        step=step.main(),
        circuit=circuit.table(circuit.main()),
    )
    Path(__file__).with_name("README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
