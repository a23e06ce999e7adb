# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
The training step as one captured graph: the host hands over a step at once, in the place of a thousand operations.

What differs between steps is written to tensors that the graph reads: the rows and their mask, learning rates, what
parts move in :meth:`~pyro_spvae.part.Part.advance`. Noise is that of an ordinary step: a graph reads seed and offset of
torch's generator, as they are when it is run, from memory (the note "CUDA Graph-safe RNG states" in torch's
ATen/cuda/CUDAGeneratorImpl.h), so that it remains a function of the seed and the step's number. The weight of the
latent KL is fixed in a graph; where that rises, there are new graphs for every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_spvae.part import Part
from pyro_spvae.queries.quiet import forked
from pyro_spvae.training.cuda_graphs import BACKENDS
from pyro_spvae.training.host_reads import NotCapturable, refused_host_reads
from pyro_spvae.training.stepping import QueuedSteps
from pyro_spvae.training.updates import GradientUpdate

_WARM_UP = 3  # steps before the first capture, in which libraries choose their kernels and make their handles


class CapturedSteps(QueuedSteps):
    """
    Steps that are graphs, one for every shape of a batch. The first step of a new optimiser, which makes its state, is
    an ordinary one. Whether a step is captured follows from where training stands, so that a run which is resumed has
    the graphs of one that was not stopped.

    :param Module objective: the loss.
    :param GradientUpdate update: of an optimiser with a capturable form.
    :param device: where the model is, with one of :data:`~pyro_spvae.training.cuda_graphs.BACKENDS`.
    :param callable fixed: what a graph holds fast besides tensors; ``None`` where no step is to be captured.
    :param callable report: takes lines of text.
    :param bool must: raise, in the place of going on by ordinary steps.
    """

    def __init__(
        self,
        objective: nn.Module,
        update: GradientUpdate,
        device: torch.device,
        fixed: Callable[[], Any],
        report: Callable[[str], None] = lambda line: None,
        must: bool = False,
    ) -> None:
        super().__init__(objective, update)
        self.device, self.fixed, self.report, self.must = device, fixed, report, must
        self.backend = BACKENDS[device.type](device)
        self.refused = False
        self._graphs: dict[Any, _Graph] = {}
        self._fixed: Any = None  # what the graphs hold fast
        self._known: list[int] = []  # addresses that they hold
        self._checked = False
        self._moved_parts = [
            part for part in objective.modules() if isinstance(part, Part) and type(part).advance is not Part.advance
        ]
        self._of_parts: Any = None
        # fused optimisers read a rate in single precision on a GPU, in double precision on a CPU
        kind = torch.float32 if device.type == "cuda" else torch.float64
        self._rates = [torch.zeros((), dtype=kind, device=device) for _ in update.optimiser.param_groups]
        self._written = [0.0 for _ in self._rates]

    def __call__(self, x: Tensor, observed: Tensor | None, size: int, last: bool) -> Tensor:
        fixed = self.fixed()
        if self.refused or fixed is None or not self.update.optimiser.state:
            return super().__call__(x, observed, size, last)
        if fixed != self._fixed:
            self._graphs.clear()
            self._fixed = fixed
        key = (x.shape, observed is not None)
        try:
            if self._graphs and _numbers(self._moved_parts) != self._of_parts:
                raise NotCapturable("a part of the model is moved by numbers that a graph would hold fast")
            graph = self._graphs.get(key) or self._captured(x, observed, size)
        except NotCapturable as error:
            reason = str(error).partition("\n")[0]  # Pyro adds a table of shapes to what is raised in a program
            if self.must:
                raise ValueError(f"graphs is 'on', but {reason}; give auto or off") from error
            self.report(f"graphs      off: {reason}")
            self.refused = True
            self._graphs.clear()
            graph = None
        if graph is None:
            return super().__call__(x, observed, size, last)
        self._graphs[key] = graph
        self._write_rates()
        bound = graph(x, observed)
        self.update.after_step()
        return bound

    def look_around(self) -> None:
        """Forgets graphs of tensors that are no longer those of model and optimiser."""
        if self._graphs and [tensor.data_ptr() for tensor in self._tensors()] != self._known:
            self._graphs.clear()

    def _captured(self, x: Tensor, observed: Tensor | None, size: int) -> _Graph | None:
        """
        A new graph, which leaves everything as it was; ``None`` if the step gives parameters a gradient for the first
        time.
        """
        _move_counts(self.update.optimiser)
        graph = _Graph(x, observed)
        step = partial(self._step, graph, size)
        state = self.update.optimiser.state
        parameters = set(state)
        self._write_rates()
        with forked(self.device), _put_back(self._tensors(), list(self.objective.modules())):
            try:
                self._warm_up(step)
                if parameters == set(state):
                    graph.replay = self._recorded(step)
            finally:
                for parameter in set(state) - parameters:
                    del state[parameter]
        if graph.replay is None:
            return None
        if not self._checked:
            self.report("graphs      a training step is one captured graph")
            self._checked = True
        self._known = [tensor.data_ptr() for tensor in self._tensors()]
        self._of_parts = _numbers(self._moved_parts)
        return graph

    def _warm_up(self, step: Callable[[], None]) -> None:
        if self._checked:
            self.backend.warm_up(step)
            return
        for number in range(_WARM_UP):
            held = self._held_by_modules()
            if number:
                self.backend.warm_up(step)
            else:
                with refused_host_reads():
                    self.backend.warm_up(step)
            now = self._held_by_modules()
            if number and held != now:  # what is made by the first step alone does not matter
                where = next(name for name in held.keys() | now.keys() if held.get(name) != now.get(name))
                raise NotCapturable(f"a step changes {where}, which a graph would hold fast; change a buffer in place")

    def _recorded(self, step: Callable[[], None]) -> Callable[[], None]:
        try:
            return self.backend.capture(step)
        except RuntimeError as error:
            raise NotCapturable(f"the device refuses to capture a step ({str(error).splitlines()[0]})") from error

    def _step(self, graph: _Graph, size: int) -> None:
        with _capturable(self.update.optimiser, self._rates):
            graph.bound.copy_(self.update.look(self.objective, graph.x, graph.observed, size))
            self.update.apply()

    def _write_rates(self) -> None:
        for number, group in enumerate(self.update.optimiser.param_groups):
            if not isinstance(group["lr"], Tensor) and group["lr"] != self._written[number]:
                self._rates[number].fill_(group["lr"])
                self._written[number] = group["lr"]

    def _tensors(self) -> list[Tensor]:
        """All that a step may change."""
        of_optimiser = (
            value for own in self.update.optimiser.state.values() for value in own.values() if isinstance(value, Tensor)
        )
        return [*self.objective.parameters(), *self.objective.buffers(), *of_optimiser]

    def _held_by_modules(self) -> dict[str, Any]:
        """Addresses of buffers, and numbers, by what a user calls them."""
        found: dict[str, Any] = {name: buffer.data_ptr() for name, buffer in self.objective.named_buffers()}
        return found | _numbers(self.objective.modules())


class _Graph:
    """A recorded step, and the tensors that it reads and writes."""

    def __init__(self, x: Tensor, observed: Tensor | None) -> None:
        self.x = torch.empty_like(x, memory_format=torch.contiguous_format).copy_(x)
        self.observed: Tensor | None = None
        if observed is not None:
            self.observed = torch.empty_like(observed, memory_format=torch.contiguous_format).copy_(observed)
        self.bound = x.new_zeros(())
        self.replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor, observed: Tensor | None) -> Tensor:
        assert self.replay is not None
        self.x.copy_(x)
        if self.observed is not None and observed is not None:
            self.observed.copy_(observed)
        self.replay()
        return self.bound


def _numbers(modules: Iterable[nn.Module]) -> dict[str, Any]:
    """Python's own values that are attributes of modules."""
    return {
        f"{name} of {type(module).__name__} {number}": value
        for number, module in enumerate(modules)
        for name, value in _numbers_of(module).items()
    }


def _numbers_of(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str))}


@contextmanager
def _put_back(tensors: list[Tensor], modules: list[nn.Module]) -> Iterator[None]:
    """After the block tensors hold what they held before, where they were, and modules the same buffers and numbers."""
    values = [tensor.detach().clone() for tensor in tensors]
    held = [(module, dict(module._buffers), _numbers_of(module)) for module in modules]
    try:
        yield
    finally:
        for module, buffers, numbers in held:
            module._buffers.update(buffers)
            module.__dict__.update(numbers)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)


@contextmanager
def _capturable(optimiser: torch.optim.Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """
    Within the block an optimiser reads its learning rates from tensors, and nothing of the device. Schedules and
    checkpoints have the numbers that they ever had.
    """
    kept = [(group["lr"], group.get("capturable")) for group in optimiser.param_groups]
    for group, rate in zip(optimiser.param_groups, rates, strict=True):
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate
        if rate.device.type != "cpu":  # where torch refuses the flag
            group["capturable"] = True
    try:
        yield
    finally:
        for group, (lr, capturable) in zip(optimiser.param_groups, kept, strict=True):
            group["lr"], group["capturable"] = lr, capturable


def _move_counts(optimiser: torch.optim.Optimizer) -> None:
    """An optimiser's counts of steps go to where its parameters are, as its capturable form has them."""
    for parameter, state in optimiser.state.items():
        if isinstance(step := state.get("step"), Tensor) and step.device != parameter.device:
            state["step"] = step.to(parameter.device)
