# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
The command line on hosts one of which is lost: ``python -m tests.training.lost_host HOST STEP train ...``. All of its
processes, torchrun and this one, are killed before a step.
"""

from __future__ import annotations

import os
import signal
import socket
import sys

from pyro_spvae.training.trainer import Trainer
from tests.cli_cases import command
from tests.training import killer


def lose_host():
    os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    host, step, *args = sys.argv[1:]
    if socket.gethostname() == host:
        killer.die = lose_host
        killer.before(Trainer, "_step", int(step))()
    killer.act(None, command, *args)
