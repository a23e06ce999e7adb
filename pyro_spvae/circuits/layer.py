# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every layer of a circuit offers, whatever the form of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

# up to so many units the exact log-sum-exp is as fast as the log-einsum-exp
MAX_EXACT_UNITS = 4
# products of one region that are written out one by one
MAX_PRODUCTS = 1 << 20


class Group(NamedTuple):
    """Regions of a layer that have equally many products: what one tensor ``[region, sum, product]`` is about.

    :ivar tuple regions: their numbers in the graph.
    :ivar int start: row of their first sum; theirs are ``[region, sum]`` flattened.
    :ivar int sums: sum nodes of a region, ``O``.
    :ivar Tensor children: rows of the factors of each product, ``[region, product, factor]``; -1 where a product has
        fewer than others.
    """

    regions: tuple[int, ...]
    start: int
    sums: int
    children: Tensor


class FreeWeights(NamedTuple):
    """The parameter behind one of a layer's factors, for the M-step of EM.

    :ivar Parameter logits: ``[class, ..]``.
    :ivar int axis: that it is a softmax over.
    :ivar Tensor even: the part of further data, evenly spread over the products of a sum, that reaches each entry;
        broadcast to the logits with that axis moved to the end.
    """

    logits: nn.Parameter
    axis: int
    even: Tensor


class Layer(nn.Module):
    """Sum nodes whose values follow from those of nodes below.

    All nodes of a circuit that have a value (leaves and sums) are rows of one table ``[row, batch]``, leaves first, the
    root last. A layer reads rows below ``start`` and writes the rows ``start .. stop - 1``. It is evaluated from its
    *factors*, the logarithms of normalised weights in nats, in whatever form it keeps them.
    """

    start: int
    stop: int

    @property
    def reference(self) -> Tensor:
        """A parameter, whose type and device are those of all."""
        raise NotImplementedError

    @property
    def num_factors(self) -> int:
        """How many tensors :meth:`log_factors` returns."""
        raise NotImplementedError

    def log_factors(self) -> list[Tensor]:
        """What the layer is evaluated from."""
        raise NotImplementedError

    def free_weights(self) -> list[FreeWeights]:
        """What is behind each of the factors."""
        raise NotImplementedError

    def of_classes(self, counts: Sequence[Tensor]) -> list[Tensor]:
        """What is known of each factor, added up over those that share a weight, in the shapes of the parameters."""
        raise NotImplementedError

    def own_rows(self) -> list[tuple[int, int, int]]:
        """Of each of its regions the number in the graph, the row of its first sum, and how many these are."""
        raise NotImplementedError

    def assigned_counts(self, chosen: Tensor) -> list[Tensor]:
        """
        How often each entry of the factors is used where a node of every region is chosen, and every sum goes by those
        below it that are. Where a region has several partitions, each is in turn.

        :param Tensor chosen: ``bool [row, data]``.
        :returns: in the shapes of :meth:`log_factors`.
        """
        raise NotImplementedError

    def groups(self) -> list[Group]:
        """Its regions, by number of products.

        :raises ValueError: if a region has more than ``MAX_PRODUCTS`` products.
        """
        raise NotImplementedError

    def log_weights(self) -> list[Tensor]:
        """Normalised log-weights in nats of each of the :meth:`groups`, ``[region, sum, product]``."""
        raise NotImplementedError

    def upward(self, rows: Tensor, factors: Sequence[Tensor]) -> list[Tensor]:
        """Writes its rows.

        :return: what :meth:`downward` needs.
        """
        raise NotImplementedError

    def values(self, rows: Tensor, factors: Sequence[Tensor]) -> Tensor:
        """What :meth:`upward` writes, ``[stop - start, batch]``, in operations that autograd follows.

        :param Tensor rows: those below ``start``.
        """
        raise NotImplementedError

    def downward(
        self, flow: Tensor, rows: Tensor, saved: Sequence[Tensor], factors: Sequence[Tensor], weights: bool
    ) -> list[Tensor | None]:
        """Divides what reaches its rows of ``flow`` among the rows below, by shares that sum to 1.

        :param bool weights: whether the derivatives in the factors are wanted.
        :return: these, of the factors' shapes, or None for each.
        """
        raise NotImplementedError

    def product_flows(
        self, flow: Tensor, rows: Tensor, saved: Sequence[Tensor], factors: Sequence[Tensor]
    ) -> list[Tensor]:
        """Like :meth:`downward`, and gives what reaches each product, ``[region, sum, product, batch]`` for each
        group."""
        raise NotImplementedError

    def upward_max(self, rows: Tensor, factors: Sequence[Tensor]) -> None:
        """Writes its rows with maxima in the place of sums: the values of the best trees."""
        raise NotImplementedError

    def choose(
        self, nodes: Tensor, trees: Tensor, factors: Sequence[Tensor], rows: Tensor | None, noise: bool
    ) -> tuple[Tensor, Tensor]:
        """Follows trees through the layer.

        :param Tensor nodes: rows of its sums that are reached,
        :param Tensor trees: and the numbers of the trees that reach them.
        :param Tensor rows: values of all nodes, ``[row, batch]``, tree ``n`` being for member ``n mod batch``; None for
            choices by the weights alone.
        :param bool noise: draw by posterior probability (Gumbel-max), or take the best, ``rows`` then being those of
            :meth:`upward_max`.
        :return: rows below ``start`` that are reached, and the trees that reach them.
        """
        raise NotImplementedError
