# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Operations for which the host waits for the device, or reads its own memory: a CUDA graph cannot hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

aten: Any = torch.ops.aten

# the host reads a value, a number of elements or an error code of the device
_READS = {
    aten._local_scalar_dense,
    aten.is_nonzero,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.unique_dim_consecutive,
    aten._unique,
    aten._unique2,
    aten.bincount,
    aten.histc,
    aten._linalg_check_errors,
    aten._linalg_eigh,
    aten._linalg_svd,
}
_MAKERS = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}
_ITEMS = {Tensor.__getitem__, Tensor.__setitem__}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}


class NotCapturable(ValueError):
    """What a step does that a CUDA graph cannot hold."""


@contextmanager
def refused_host_reads() -> Iterator[None]:
    """
    Within the block an operation for which the host would wait for a device is refused, whatever device tensors are on:
    reading a value, a size that depends on values, an error code of linear algebra, tensors of Python's numbers that
    are not on the CPU, and copies between devices. What it lets pass is a step whose kernels can be queued without
    looking back, as in the capture of a CUDA graph.

    :raises NotCapturable: by the operation, which it names.
    """
    with _Made(), _Queued():
        yield


class _Queued(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        check_queued(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _Made(TorchFunctionMode):
    """Python's numbers become a tensor, or an index, without an operation that the other mode is shown."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in _MAKERS and found.device.type != "cpu" and not any(_tensors(args[-1:])):
            raise NotCapturable(f"the step makes a tensor of numbers of the host ({func.__name__})")
        if func in _ITEMS and args[0].device.type != "cpu" and _has_list(args[1]):
            raise NotCapturable("the step picks entries by a list of numbers of the host")
        return found


def check_queued(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """
    :param func: an operation of torch, as a :class:`TorchDispatchMode` is given it.
    :raises NotCapturable: if the host would wait for it.
    """
    packet = func.overloadpacket
    if packet in _READS:
        raise NotCapturable(f"the step reads values of a tensor on the host ({func})")
    if packet in _INDEXING:
        if any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1])):
            raise NotCapturable(f"the step picks entries by a mask, whose number the host has to learn ({func})")
        _check_one_device(func, (args[0], *args[1]), {})
    if packet is aten.repeat_interleave and func is not aten.repeat_interleave.self_int:
        if kwargs.get("output_size") is None:
            raise NotCapturable(f"the step repeats entries as often as a tensor says ({func})")
    if packet in (aten._to_copy, aten.copy_):
        _check_one_device(func, args, kwargs)


def _check_one_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    kinds = {tensor.device.type for tensor in _tensors(args)}
    if kwargs.get("device") is not None:
        kinds.add(torch.device(kwargs["device"]).type)
    if len(kinds) > 1:
        raise NotCapturable(f"the step copies a tensor between {' and '.join(sorted(kinds))} ({func})")


def _has_list(index: Any) -> bool:
    return any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,)))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    return (value for value in values if isinstance(value, Tensor))
