# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two hosts on one machine: network namespaces with names and addresses of their own, joined by a cable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_cases import PLAIN

NAMES = ("first", "second")  # the first has the smaller name, hence process 0
INTERFACE = "cable0"
ADDRESSES = dict(zip(NAMES, ("10.77.0.1", "10.77.0.2"), strict=True))
_ROOT = Path(__file__).parents[2]
_GUARD = 1800  # seconds after which a run counts as hanging, were it on the slowest of machines
_ENTER = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'


class Hosts:
    """
    Two hosts that are there for the length of a ``with`` block; tests are skipped where none can be made. They share
    all files but ``/etc/hosts``.

    :param Path folder: for the files of names.
    """

    def __init__(self, folder):
        self._folder = folder
        self._spaces = {name: f"spvae-{os.getpid()}-{name}" for name in NAMES}

    def __enter__(self):
        if os.geteuid() != 0:
            pytest.skip("two hosts are made by network namespaces, which only root may make")
        for program in ("ip", "unshare", "mount", "hostname"):
            if shutil.which(program) is None:
                pytest.skip(f"two hosts are made by network namespaces, for which there is no program {program} here")
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.__exit__()
            pytest.skip(f"two hosts cannot be made here: {error.stderr.strip()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self):
        for space in self._spaces.values():
            _ip("netns", "add", space)
        one, other = ((INTERFACE, "netns", space) for space in self._spaces.values())
        _ip("link", "add", *one, "type", "veth", "peer", "name", *other)
        for name, space in self._spaces.items():
            _ip("-n", space, "addr", "add", f"{ADDRESSES[name]}/24", "dev", INTERFACE)
            for interface in ("lo", INTERFACE):
                _ip("-n", space, "link", "set", interface, "up")
            lines = [f"{address} {other}" for other, address in ADDRESSES.items()]
            (self._folder / f"{name}.hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            # as some distributions have it
            own = [f"127.0.1.1 {name}", *(line for line in lines if not line.endswith(name))]
            (self._folder / f"{name}.loopback").write_text("\n".join(["127.0.0.1 localhost", *own, ""]))
            subprocess.run(self._within(name, "hosts", "true"), check=True, capture_output=True, text=True)

    def __exit__(self, *error):
        for space in self._spaces.values():
            found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
            for process in found.stdout.split():
                os.kill(int(process), signal.SIGKILL)
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)

    def _within(self, name, names, *command):
        enter = ("ip", "netns", "exec", self._spaces[name], "unshare", "--uts", "--mount", "sh", "-ec", _ENTER, "sh")
        return [*enter, name, str(self._folder / f"{name}.{names}"), *map(str, command)]

    def torchrun(self, *command, names="hosts", launcher=(), **environment):
        """
        A command on both hosts by torchrun, one process each, to its end.

        :param str names: ``loopback`` if each finds itself under an address that the other cannot reach.
        :returns: exit code and output of torchrun, by host.
        """
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{NAMES[0]}:29500", *launcher, "-m", *command]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYRO_SPVAE", "GLOO"))}
        environment = kept | PLAIN | {"PYTHONPATH": str(_ROOT)} | environment
        outputs = {name: self._folder / f"{name}.txt" for name in NAMES}
        started = {}
        try:
            for name, output in outputs.items():
                with open(output, "w") as file:
                    started[name] = subprocess.Popen(
                        self._within(name, names, *torchrun), stdout=file, stderr=file, cwd=_ROOT, env=environment
                    )
            codes = {name: process.wait(_GUARD) for name, process in started.items()}
        finally:
            for process in started.values():
                process.kill()
                process.wait()
        return {name: (codes[name], output.read_text()) for name, output in outputs.items()}


def _ip(*args):
    subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
