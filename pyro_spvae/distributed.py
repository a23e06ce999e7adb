# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Several processes, as ``torchrun`` starts them; with one process every function here does nothing.

Rows are shared out by position (``index[rank()::world()]``), so that none is padded or dropped, and results are put
together by adding, so that every process ends with the same numbers.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# its functions' default group is the one there is when it is imported; DistributedDataParallel would import it in one,
# which could then not end, and whose threads would abort the process at its end, now and then
import torch.distributed.nn.functional  # noqa: F401
from torch import Tensor, nn

_T = TypeVar("_T")


def launched() -> bool:
    """Whether ``torchrun`` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if active() else 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    """Whether this process writes and reports."""
    return rank() == 0


def choose_device(name: str) -> torch.device:
    """
    The device of a name; each of several processes on one machine takes a GPU of its own.

    :param str name: ``auto`` (cuda if there is one, else cpu), ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    :raises ValueError: if it is not there.
    """
    kind, _, number = name.partition(":")
    if kind not in ("auto", "cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise ValueError(f"device is {name!r}; accepted are auto, cpu, cuda, cuda:N and mps")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind == "cuda":
        wanted = int(number) if number else int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0
        if wanted >= gpus:
            raise ValueError(f"device is {name!r}, but torch finds {gpus or 'no'} CUDA devices here; give --device cpu")
        return torch.device("cuda", wanted)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device is {name!r}, but torch finds no MPS device here; give --device cpu")
    return torch.device(kind)


def share(objective: nn.Module) -> nn.Module:
    """
    The module with gradients averaged over the processes; the module itself with one process. Parameters become those
    of the first process, buffers stay those of each.
    """
    if world() == 1:
        return objective
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer releases of torch have another name for the option
        return nn.parallel.DistributedDataParallel(objective, broadcast_buffers=False)


def total(values: Tensor) -> Tensor:
    """The sum of a tensor over the processes, in place."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def average_statistics(module: nn.Module) -> None:
    """
    Gives batch normalisation the mean over processes of the running statistics, of which each knows its own rows'.
    """
    if world() == 1:
        return
    for buffer in running_statistics(module).values():
        total(buffer).div_(world())


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """The running statistics of batch normalisation inside a module, by name."""
    return {
        name: buffer
        for name, buffer in module.named_buffers()
        if name.rpartition(".")[2] in ("running_mean", "running_var")
    }


def gathered(values: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of every process, on the CPU, in the order of their numbers."""
    own = {name: value.detach().cpu() for name, value in values.items()}
    if world() == 1:
        return [own]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, own)
    return found


def barrier() -> None:
    """Waits for the other processes."""
    if world() > 1:
        total(torch.zeros(1, device=message_device()))


def on_main(action: Callable[[], _T]) -> _T:
    """
    Runs an action in the first process and gives its result, or its refusal, to all of them.

    :param callable action: what to run; its result must be tensors and plain values.
    :raises ValueError: that of the action.
    """
    if world() == 1:
        return action()
    outcome: list[Any] = [None, None]
    if is_main():
        try:
            outcome[0] = action()
        except (ValueError, TypeError, OSError) as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise ValueError(outcome[1])
    return outcome[0]


def agree(what: str, digest: Callable[[], str]) -> None:
    """
    Refuses, in every process, what differs between them.

    :param str what: what it is, such as ``the run runs/mnist``.
    :param callable digest: says whether it is the same; not called in a single process, which has nothing to compare.
    :raises ValueError: if it is not.
    """
    if world() == 1:
        return
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, (digest(), socket.gethostname()))
    others = [(number, host) for number, (seen, host) in enumerate(found) if seen != found[0][0]]
    if others:
        number, host = others[0]
        raise ValueError(
            f"{what} of process {number} (on {host}) is another than of process 0 (on {found[0][1]}); all of them must "
            "see the same files, as in a folder that the machines share"
        )


def message_device() -> torch.device:
    """Where tensors that processes add up must live."""
    nccl = active() and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def active() -> bool:
    """Whether this process has joined others."""
    return dist.is_available() and dist.is_initialized()
