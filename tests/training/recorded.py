# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
A CUDA graph without CUDA: the operations of a function are recorded with the tensors that they read and write, and done
again on these without the function. As with a CUDA graph, whatever Python computed on the way stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_spvae.training.host_reads import check_queued


class _Record(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[tuple[int, torch.Tensor]]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        check_queued(func, args, kwargs)
        found = func(*args, **kwargs)
        read = {_place(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        made = [
            (number, value)
            for number, value in enumerate(tree_leaves(found))
            if isinstance(value, torch.Tensor) and _place(value) not in read
        ]
        self.operations.append((func, args, kwargs, made))
        return found


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Recorded:
    """Records the operations of a function on the CPU, and does them again."""

    def __init__(self, device: torch.device) -> None:
        self.captures = self.replays = 0

    def warm_up(self, step: Callable[[], None]) -> None:
        step()

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        self.captures += 1
        with _Record() as record:
            step()

        def replay() -> None:
            self.replays += 1
            with torch.no_grad():
                for func, args, kwargs, made in record.operations:
                    again = tree_leaves(func(*args, **kwargs))
                    for number, value in made:
                        value.detach().copy_(again[number])

        return replay
