# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Memory that was freed is kept where the C library can, and nothing breaks where it cannot."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from pyro_spvae.commands import allocator

_FAULTS = """
import resource
from pyro_spvae.commands.allocator import keep_freed_memory
kept = {keep} and keep_freed_memory()
import torch
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    """Pages of new memory that twenty tensors of 64 MiB in turn take."""
    text = subprocess.run([sys.executable, "-c", _FAULTS.format(keep=keep)], capture_output=True, text=True, check=True)
    kept, number = text.stdout.split()
    return kept == "True", int(number)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
def test_tensors_take_the_memory_of_those_before_them():
    kept, number = faults(keep=True)
    assert kept and number < faults(keep=False)[1] / 2


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_other_systems_are_left_alone(monkeypatch, error):
    def missing(name):
        raise error("no such library")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert allocator.keep_freed_memory() is False
