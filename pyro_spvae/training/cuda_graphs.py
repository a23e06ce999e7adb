# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What records the operations of a training step, and does them again at once: CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Backend(Protocol):
    """What records the operations of a function, and does them again without the function."""

    def warm_up(self, step: Callable[[], None]) -> None:
        """Calls the function where it can be recorded afterwards."""

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """
        Records the function; maybe its operations are done then.

        :returns: does the operations on the tensors that they were recorded with.
        """


class CudaGraphs:
    """
    CUDA graphs. They share one pool of memory, since no two of them run at a time.

    :param device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.pool = torch.cuda.graph_pool_handle()

    def warm_up(self, step: Callable[[], None]) -> None:
        with torch.cuda.device(self.device):
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                step()
            here.wait_stream(aside)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        # the outer stream is what is current again after a capture that failed; other threads may use the device
        with torch.cuda.device(self.device), torch.cuda.stream(torch.cuda.current_stream()):
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                step()
        return graph.replay


#: by type of device
BACKENDS: dict[str, Callable[[torch.device], Backend]] = {"cuda": CudaGraphs}
