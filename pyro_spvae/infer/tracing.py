# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What torch's tracer can record, and what it cannot."""

from __future__ import annotations

from pyro_spvae.circuits.numerics import is_recorded


def check_not_traced(what: str) -> None:
    """
    Refuses to be recorded by ``torch.jit.trace``, which would freeze choices that are made from values.

    :param str what: begins the sentence.
    :raises RuntimeError: inside such a trace.
    """
    if is_recorded():
        raise RuntimeError(
            f"{what} cannot be recorded by torch.jit.trace; use torch.compile, or one of Pyro's Jit objectives, such "
            "as JitTraceEnum_ELBO, with spvae.model and spvae.guide"
        )
