# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Kumaraswamy distributions of a network's outputs: posteriors of fractions."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae import distributions as dist
from pyro_spvae.blocks.block import Block
from pyro_spvae.circuits.numerics import at_least_single, by_hand
from pyro_spvae.nn.network import Network

_SHAPE = 4.0  # a lies between exp(-4) and exp(4), b above exp(-4), too
_TAIL = 40.0  # and below exp(40), whose square single precision still holds


class Kumaraswamy(Block):
    r"""
    Independent Kumaraswamy distributions with parameters :math:`a(h), b(h)` by a network of the inputs: posteriors of
    the fractions of a stick (Nalisnick and Smyth 2017).

    A network's outputs are how concentrated a fraction is, :math:`o`, and where, :math:`\lambda`:
    :math:`a = \exp(4 \tanh(o / 4))` and :math:`\log b = 40 \tanh(a \lambda / 40)` (4 in the place of 40 for negative
    :math:`\lambda`), so that :math:`v \approx e^{-\lambda}` for large :math:`a`, whatever that is; 0 and 0 mean a
    uniform distribution. In a network of :math:`a` and :math:`b` themselves, :math:`b` would have to grow as a power of
    the place.

    :param Network network: from the inputs to both parameters; without one, the inputs are a network's outputs.

    Example::

        >>> from pyro_spvae.conditionals import Kumaraswamy
        >>> fractions = Kumaraswamy().bind(leaves=1, event_shape=(2,))  # of outputs
        >>> law = fractions(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> law.log_prob(torch.tensor([[0.3, 0.8]])).exp().round(decimals=4)  # uniform
        tensor([1.])
    """

    support = constraints.unit_interval

    def __init__(self, network: Network | None = None) -> None:
        super().__init__()
        if network is not None:
            checks.instance("network", network, Network)
        self.network = network

    def build(
        self, leaves: int, event_shape: tuple[int, ...], inputs: int | tuple[int, ...] = (), **shapes: Any
    ) -> None:
        """
        Binds the network.

        :param inputs: size of the input, or a tuple of sizes of several.
        :param tuple event_shape: number of fractions.
        :param shapes: ``input_shape``, handed on to the network.
        """
        (count,) = event_shape
        if self.network is not None:
            self.network.bind(leaves=leaves, inputs=inputs, outputs=(count, count), **shapes)

    def forward(self, *inputs: Tensor) -> TorchDistribution:
        """
        :param Tensor inputs: ``[.., leaf, in]`` each.
        :returns: batch ``[.., leaf]``, event ``[fraction]``.
        """
        raw, place = inputs if self.network is None else self.network(*inputs)
        return dist.Kumaraswamy(*concentrations(raw, place)).to_event(1)


def concentrations(raw: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The parameters a and b of outputs."""
    raw, place = at_least_single(raw), at_least_single(place)
    a, b = (_Concentrations.apply if by_hand(raw, place) else _concentrations)(raw, place)
    return a, b


def _concentrations(raw: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    a = (_SHAPE * (raw / _SHAPE).tanh()).exp()
    log_b = a * place
    limit = _limit(log_b)
    return a, (limit * (log_b / limit).tanh()).exp()


def _limit(log_b: Tensor) -> Tensor:
    return torch.full_like(log_b, _TAIL).masked_fill_(log_b < 0, _SHAPE)


class _Concentrations(torch.autograd.Function):
    """The same with derivatives in few operations."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        share = (raw / _SHAPE).tanh_()
        a = (_SHAPE * share).exp_()
        log_b = a * place
        limit = _limit(log_b)
        tail = log_b.div_(limit).tanh_()
        b = (limit * tail).exp_()
        ctx.save_for_backward(place, share, a, tail, b)
        return a, b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_a: Tensor, by_b: Tensor) -> tuple[Tensor, Tensor]:
        place, share, a, tail, b = ctx.saved_tensors
        by_log = by_b * b
        by_log = torch.addcmul(by_log, by_log * tail, tail, value=-1)
        by_a = torch.addcmul(by_a, by_log, place).mul_(a)
        return torch.addcmul(by_a, by_a * share, share, value=-1), by_log * a
