# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Averages of the weights over the steps of training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pyro_spvae.blocks.life_cycle import process_buffers
from pyro_spvae.distributed import running_statistics
from pyro_spvae.locking import alone
from pyro_spvae.training.fit_config import FitConfig

_DECAY = 0.999
_TAIL = 0.75  # of the steps, by which the mean begins


class AveragedWeights:
    r"""
    An exponential moving average, or the mean, of the weights over steps (Polyak and Juditsky 1992), by torch's
    :class:`~torch.optim.swa_utils.AveragedModel`.

    With :math:`\theta_n` the weights :math:`n` steps after the first that counts,

    .. math:: \bar\theta_n = d_n \bar\theta_{n-1} + (1 - d_n)\, \theta_n, \qquad
        d_n = \min\left(d, \frac{1 + n}{10 + n}\right) \text{ (ema)} \quad\text{or}\quad \frac{n}{n + 1} \text{ (swa)}

    and :math:`\bar\theta_0 = \theta_0`, so that those from before training count nothing. What is averaged are the
    model's parameters, and the running statistics of batch normalisation, which belong to them. Other buffers, such as
    persistent chains, a temperature or frozen pseudo-inputs, are those of training, which goes on from the weights as
    if there were no average. Each of several processes averages running statistics of its own.

    :param FitConfig config: names the average, its decay and the part of the steps by which it begins.
    :param Module model: whose weights are averaged.
    :param int steps: steps of the whole run.
    :ivar int start: steps that do not count.
    """

    def __init__(self, config: FitConfig, model: nn.Module, steps: int) -> None:
        self._model, self._mean = model, config.average == "swa"
        self._decay = _DECAY if config.average_decay is None else config.average_decay
        part = config.average_start
        self.start = int(steps * ((_TAIL if self._mean else 0.0) if part is None else part))
        self._names, self._weights = _collected({**dict(model.named_parameters()), **running_statistics(model)})
        self._averaged: AveragedModel | None = None
        if config.average != "none":
            with torch.device("cpu"):  # where it counts, whatever the default device
                self._averaged = AveragedModel(self._weights, multi_avg_fn=self._move, use_buffers=True)

    @property
    def begun(self) -> bool:
        """Whether there is an average by now."""
        return self._averaged is not None and int(self._averaged.n_averaged) > 0

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """
        Call after every step. Where a run is trained on, by whose steps an average begins later than it had, it begins
        anew.

        :param int step: its number, from 1.
        """
        if self._averaged is not None:
            if step <= self.start:
                self._averaged.n_averaged.zero_()
            else:
                self._averaged.update_parameters(self._weights)

    def _move(self, averaged: Any, weights: Any, _: Any) -> None:
        assert self._averaged is not None
        n = int(self._averaged.n_averaged)  # the count that is given is on the device of the weights
        decay = n / (n + 1) if self._mean else min(self._decay, (1 + n) / (10 + n))
        get_ema_multi_avg_fn(decay)(averaged, weights, n)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """
        Within the block the model has the averaged weights, if there are any by now; after it parameters and buffers
        are what they were. No other thread asks models meanwhile.
        """
        if not self.begun:
            yield
            return
        with alone():
            before = {name: value.clone() for name, value in self._model.state_dict().items()}
            _copy(self._of_average(), dict(self._named(self._weights)))
            try:
                yield
            finally:
                _copy(before, self._model.state_dict())

    def process_buffers(self) -> dict[str, Tensor]:
        """What of it differs between processes, by name."""
        own = process_buffers(self._model)
        return {f"average.{name}": value for name, value in self._of_average().items() if name in own}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values; empty without an average."""
        if self._averaged is None:
            return {}
        return {"count": int(self._averaged.n_averaged), "weights": self._of_average()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken."""
        if self._averaged is not None:
            self._averaged.n_averaged.fill_(state["count"])
            _copy(state["weights"], self._of_average())

    def _of_average(self) -> dict[str, Tensor]:
        return {} if self._averaged is None else dict(self._named(self._averaged.module))

    def _named(self, collected: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Tensors under the names that the model has for them."""
        own = {**dict(collected.named_parameters()), **dict(collected.named_buffers())}
        return ((name, own[place].detach()) for name, place in self._names.items())


def _collected(tensors: Mapping[str, Tensor]) -> tuple[dict[str, str], nn.Module]:
    """A module that holds parameters and buffers of another, and the names that they have in it by those there."""
    module = nn.Module()
    names = {name: str(place) for place, name in enumerate(tensors)}
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            module.register_parameter(names[name], tensor)
        else:
            module.register_buffer(names[name], tensor)
    return names, module


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        into[name].copy_(value)
