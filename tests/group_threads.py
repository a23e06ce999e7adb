# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
The threads of a group of processes, which must end before Python does: one that lets go of a tensor after that aborts
the process.
"""

from __future__ import annotations

from pathlib import Path

TASKS = Path("/proc/self/task")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def left():
    """Names of those that run, where the system shows them."""
    names = [path.read_text().strip() for path in TASKS.glob("*/comm")]
    return [name for name in names if "gloo" in name]
