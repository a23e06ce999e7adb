# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Joining other processes, and losing them.

Processes meet before they join, so that one that will not join, say because its machine lacks a file, can tell the
others why: they would wait for it for hours otherwise, since launchers leave processes on other machines alone.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

from pyro_spvae.distributed import active, launched, rank, world

_MEETING = timedelta(minutes=10)  # processes are started at the same time
_MINUTES = 120.0  # the first process may load, download and draw while the others wait


class Lost(ConnectionError):
    """Other processes ended, or cannot be reached; the text says what is known, and how to go on."""


@contextmanager
def processes(device: torch.device, advice: str = "start all of them again") -> Iterator[None]:
    """
    Joins the other processes for the length of the block; gloo on CPUs, NCCL on GPUs.

    :param str advice: what to do if some of them are lost.
    :raises Lost: if they cannot be reached, one of them declined, or some are lost within the block.
    :raises ValueError: if the environment variable ``PYRO_SPVAE_TIMEOUT``, the minutes that one may wait for the others
        (120 unless it is set), is no positive number.
    """
    if not launched() or active():
        yield
        return
    timeout = _timeout()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    soon = min(timeout, _MEETING)
    meeting = _meet(soon)
    try:
        _join(meeting, "reach", device, soon)  # or one would wait long for another that has found no way to it
        dist.barrier()
        dist.destroy_process_group()
        _join(meeting, "work", device, timeout)
    except RuntimeError as error:
        if active():
            dist.destroy_process_group()
        raise Lost(
            f"process {meeting.rank} cannot reach the others ({_reason(error)}); if all were started, the host name of "
            "a machine may lead to no address that others can reach: set GLOO_SOCKET_IFNAME (on GPUs "
            "NCCL_SOCKET_IFNAME too) on each machine to its network interface, such as eth0"
        ) from error
    try:
        with together(advice):
            yield
    finally:
        gc.collect()  # what still holds the group must go first, or its threads outlive it
        dist.destroy_process_group()


def decline(reason: str) -> None:
    """
    Tells the others, who would wait for it, that this process will not join them; once it has, it does nothing.

    :param str reason: why, in words.
    """
    if launched() and _met is None:
        with suppress(Lost):
            _meet(_MEETING, reason)


class _Meeting(NamedTuple):
    """Where processes meet; kept, since it may be this process that the others meet at."""

    store: dist.Store  # type: ignore[name-defined]
    rank: int
    world: int
    nth: int  # of this process, from 0: what others leave behind is not mixed up


_met: _Meeting | None = None


def _meet(timeout: timedelta, refusal: str = "") -> _Meeting:
    """
    Waits until every process is about to join, or one of them declines.

    :param str refusal: why this one does; it tells, and does not wait.
    """
    global _met
    number, nth = os.environ["RANK"], 0 if _met is None else _met.nth + 1
    try:
        store, own, every = next(dist.rendezvous("env://", timeout=timeout))  # type: ignore[attr-defined]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the store of earlier ones may be the same
        _met = _Meeting(dist.PrefixStore(f"pyro_spvae/{attempt}/{nth}", store), own, every, nth)  # type: ignore[attr-defined]
        _met.store.set(number, refusal)
        for other in range(0 if refusal else every):
            text = _met.store.get(str(other)).decode()
            if text:
                raise Lost(f"process {other} ended before it joined the others: {text}")
    except RuntimeError as error:
        raise Lost(
            f"process {number} did not meet all of the {os.environ['WORLD_SIZE']} processes ({_reason(error)}), for "
            f"which {timeout.total_seconds() / 60:.3g} minutes are allowed; see what the others say"
        ) from error
    return _met


def _join(meeting: _Meeting, name: str, device: torch.device, timeout: timedelta) -> None:
    store = dist.PrefixStore(name, meeting.store)  # type: ignore[attr-defined]
    store.set_timeout(timeout)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=meeting.rank, world_size=meeting.world, timeout=timeout)


@contextmanager
def together(advice: str) -> Iterator[None]:
    """
    Says, of what fails within the block because other processes are gone, that they are, and what to do. A process that
    was launched with others has no more to do then, and ignores SIGTERM.

    :param str advice: what to do.
    :raises Lost: if other processes are lost.
    """
    try:
        yield
    except RuntimeError as error:
        if world() == 1 or not _of_network(error):
            raise
        if launched() and threading.current_thread() is threading.main_thread():
            # torchrun ends what remains of a run; what is known of it must have been told by then
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Lost(
            f"process {rank()} lost the others ({_reason(error)}): one of the {world()} processes or its machine has "
            f"ended, or the network between them failed; {advice}"
        ) from error


def _of_network(error: RuntimeError) -> bool:
    """Whether an error is one of sending or receiving; gloo's have no class of their own, but name their source."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _reason(error: RuntimeError) -> str:
    """What torch says, in short: without the place in its source, what is often the cause, and the C++ stack."""
    line = re.sub(r"^\[\S*\]\s*", "", str(error).strip().splitlines()[0])
    return re.split(r"\.\s", line)[0].rstrip(". ")


def _timeout() -> timedelta:
    """How long one may wait for the others."""
    given = os.environ.get("PYRO_SPVAE_TIMEOUT", str(_MINUTES))
    try:
        found = timedelta(minutes=float(given))
    except (ValueError, OverflowError):
        found = timedelta()
    if found <= timedelta():
        raise ValueError(
            f"the environment variable PYRO_SPVAE_TIMEOUT is {given!r}; a positive number of minutes is needed"
        )
    return found
