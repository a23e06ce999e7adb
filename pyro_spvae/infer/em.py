# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Expectation maximisation of sum-product networks over tractable leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from pyro_spvae.circuits import Circuit
from pyro_spvae.circuits.evaluation import evaluate
from pyro_spvae.circuits.layer import Layer
from pyro_spvae.distributions.simplex import away_from_zero

_LEAST = 1e-12  # sum weight that an M-step writes
_NOTHING = 1e-12  # expected count below which there is nothing to learn from


class ClosedFormLeaf(Protocol):
    """What EM needs to know of a leaf program, see :class:`pyro_spvae.leaves.TractableLeaf`."""

    def expected(self, patches: Tensor, weight: Tensor, mask: Tensor | None = None) -> list[Tensor]: ...

    def maximise(self, sums: Iterator[Tensor], smoothing: float = 0.0, ridge: float = 0.0) -> None: ...


@runtime_checkable
class ClosedForm(Protocol):
    """A model with a closed M-step, see :class:`pyro_spvae.models.SPN`."""

    def check_closed_form(self) -> None:
        """Raises a ValueError if a leaf has no closed M-step."""

    def expected_statistics(self) -> ExpectedStatistics:
        """Statistics of no data yet."""

    def expect(self, expected: ExpectedStatistics, x: Tensor, observed: Tensor | None = None) -> None:
        """Adds what is expected of data."""

    def maximise(self, expected: ExpectedStatistics, smoothing: float = 0.1, ridge: float = 1e-3) -> None:
        """The M-step."""


def expected_counts(circuit: Circuit, leaf: Tensor) -> tuple[Tensor, Tensor, list[list[Tensor]]]:
    r"""
    How often the posterior over induced trees uses each leaf and each weight, by one derivative (Darwiche 2003).

    With :math:`w_{oc}` the weight of the product c in the sum o, the tree's posterior expectation of "the tree reaches
    o and takes c" is :math:`\partial \log p(x) / \partial \log w_{oc}`, that of "the tree ends in l" is
    :math:`\partial \log p(x) / \partial \log p_l(x)`. Where a weight is a product of factors, the derivative in the log
    of a factor is the expectation of all products that have it.

    :param Circuit circuit: the circuit.
    :param Tensor leaf: leaf log-densities in nats, ``[data, leaf]``.
    :returns: log-likelihoods in nats ``[data]``; probabilities ``[data, leaf]``; for each of ``circuit.layers`` the
        expected counts, added up over the data, in the shapes of ``layer.log_factors()``: ``[region, sum, product]``
        unless weights are products.

    Example::

        >>> from pyro_spvae.infer import expected_counts
        >>> circuit = Circuit(poon_domingos((4, 4), delta=2), units=2)
        >>> log_prob, leaves, products = expected_counts(circuit, torch.zeros(3, circuit.num_leaves))
        >>> leaves.shape, leaves.sum(-1).round(decimals=4)  # a leaf of each of four cells
        (torch.Size([3, 8]), tensor([4., 4., 4.]))
    """
    layers = _layers(circuit)
    with torch.enable_grad():
        leaf = leaf.detach().requires_grad_()
        factors = [
            [factor.detach().to(leaf.dtype).requires_grad_() for factor in layer.log_factors()] for layer in layers
        ]
        log_prob = evaluate(leaf, layers, [factor for own in factors for factor in own])
        responsibility, *found = torch.autograd.grad(log_prob.sum(), [leaf, *(f for own in factors for f in own)])
    counts = iter(found)
    return log_prob.detach(), responsibility, [[next(counts) for _ in own] for own in factors]


class ExpectedStatistics:
    """
    The E-step: expected counts of products and expected statistics of leaves, added up over batches in double precision
    (single on devices without it).

    :param Circuit circuit: over the leaves.
    :param leaf: the leaf program, which says what it has to know of data.
    :ivar int rows: data so far.
    :ivar float log_likelihood: the sum of their log-likelihoods, in nats.
    :ivar list sums: the statistics; those of several parts of the data may be added up.

    Example::

        >>> spn = SPN(poon_domingos((2, 2), delta=1), units=2, likelihood=Bernoulli())
        >>> x = spn.sample(50)
        >>> expected = spn.expected_statistics()
        >>> spn.expect(expected, x)  # a batch
        >>> spn.maximise(expected, smoothing=0.0)
        >>> expected.rows, bool(spn.log_prob(x).sum() >= expected.log_likelihood)
        (50, True)
    """

    def __init__(self, circuit: Circuit, leaf: ClosedFormLeaf) -> None:
        self.circuit = circuit
        self.leaf = leaf
        self.rows = 0
        self.log_likelihood = 0.0
        self.sums: list[Tensor] = []  # the weights' counts, and what the leaf has to know

    def add(self, leaf: Tensor, patches: Tensor, mask: Tensor | None = None) -> None:
        """
        Counts a batch.

        :param Tensor leaf: leaf log-densities of the seen pixels in nats, ``[data, leaf]``.
        :param Tensor patches: values ``[data, leaf, pixel]``, in the support also where not seen.
        :param Tensor mask: pixels that count, ``bool`` broadcastable to ``patches``; all by default.
        """
        log_prob, responsibility, counts = expected_counts(self.circuit, leaf)
        dtype = torch.float32 if leaf.device.type == "mps" else torch.float64
        sums = [count.to(dtype) for own in counts for count in own]
        sums += self.leaf.expected(patches, responsibility.to(dtype), mask)
        self.sums = (
            [total.to(own.device) + own for total, own in zip(self.sums, sums, strict=True)] if self.sums else sums
        )
        self.rows += len(leaf)
        self.log_likelihood += float(log_prob.to(dtype).sum())

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {"rows": self.rows, "log_likelihood": self.log_likelihood, "sums": list(self.sums)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where :meth:`state_dict` was taken."""
        self.rows, self.log_likelihood = state["rows"], state["log_likelihood"]
        self.sums = list(state["sums"])

    @torch.no_grad()
    def maximise(self, smoothing: float = 0.0, ridge: float = 0.0) -> None:
        """
        The M-step: sum weights in proportion to the counts, and the most likely leaf parameters, each as if
        ``smoothing`` further data had come, see :meth:`pyro_spvae.models.SPN.fit_em`. Sums and pixels without any data
        stay as they are.

        :param float smoothing: number of further data, at least 0.
        :param float ridge: of covariances, in variances of the data, at least 0.
        :raises ValueError: if there are no data.
        """
        if not self.sums:
            raise ValueError("there are no data to learn from; add(...) some first")
        sums = iter(self.sums)
        for layer in _layers(self.circuit):
            free = layer.free_weights()
            for (logits, axis, even), counts in zip(free, layer.of_classes([next(sums) for _ in free]), strict=True):
                logits.copy_(_log_shares(counts, logits, axis, even.to(counts) * smoothing))
        self.leaf.maximise(sums, smoothing, ridge)


def _log_shares(counts: Tensor, logits: Tensor, axis: int, further: Tensor) -> Tensor:
    """
    Logarithms of the shares of each count along an axis, or the old logits where nothing was counted.

    :param Tensor further: what is added to each count, broadcast to the counts with that axis moved to the end.
    """
    counts = counts.movedim(axis, -1) + further
    total = counts.sum(-1, keepdim=True)
    reached = total > _NOTHING
    shares = counts / torch.where(reached, total, 1.0)
    shares = away_from_zero(torch.where(reached, shares, 1 / counts.shape[-1]), _LEAST)
    return torch.where(reached, shares.log().to(logits.dtype), logits.movedim(axis, -1)).movedim(-1, axis)


def _layers(circuit: Circuit) -> list[Layer]:
    return cast("list[Layer]", list(circuit.layers))
