# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sum-product networks over leaf log-densities that are computed elsewhere."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from .building import build_layers
from .evaluation import downward, evaluate, flows, upward, upward_max
from .layer import Group, Layer
from .numerics import at_least_single
from .region_graph import RegionGraph
from .sampling import select_trees
from .structured import Structured

TIES = ("none", "shape")
WEIGHTS = ("full", "cp")


class Circuit(Structured):
    r"""A sum-product network: a mixture over *induced trees*, products of leaf densities (Poon and Domingos 2011).

    A leaf region has ``leaves`` leaf distributions, an inner region ``units`` sum nodes, the root one. Each sum mixes
    all products of all partitions of its region, a product being one unit of each part; its weights are one softmax
    over them all, as in the SPVAE paper (Tan and Peharz 2019). An induced tree keeps one product at each
    sum it reaches and so ends in leaves whose regions are disjoint and cover the variables. With :math:`w_T` the
    product of a tree's weights,

    .. math:: \log p(x) = \log \sum_T w_T \prod_{l \in T} p_l(x)

    A circuit knows nothing of variables or densities. It takes their log-values ``leaf``, ``[.., leaf]`` in nats, leaf
    ``i`` of leaf region ``c`` being at ``c * leaves + i``::

        >>> circuit = Circuit(poon_domingos((28, 28), delta=7), units=2)
        >>> circuit(torch.zeros(128, circuit.num_leaves)).shape
        torch.Size([128])

    Sums are exact where no region has more than 4 units. Above, weights below e^-65 (float32; e^-531 in float64) count
    as that much, which keeps every value finite.

    Two options make it smaller. With ``tie="shape"`` regions share one set of weights if they are translations of each
    other in the array of variables, taken apart alike ("homogeneous" parameters in PyJuice; Liu et al. 2024, "Scaling
    tractable probabilistic circuits"): on a Poon-Domingos grid, all rectangles of one shape. With ``weights="cp"`` the
    weight that a sum gives the units i, j, .. of the parts of partition p is :math:`m_p a_{pi} b_{pj} ..`, one softmax
    over the partitions, where a region has several, and one over the units of each part ("CP" layers; Loconte et al.
    2025, "What is the relationship between tensor factorizations and circuits"). A partition of n parts then takes
    ``n K`` weights of each sum (and one) where it took ``K^n``, and no tuple of units is ever computed in
    :meth:`log_prob`. The root has K such sums and mixes them: a single one would make the parts of a partition
    independent. Partitions of more than two parts need this form.

    :param RegionGraph regions: the structure.
    :param int units: sum nodes of an inner region, ``K``.
    :param int leaves: leaf distributions of a leaf region, as many as ``units`` by default.
    :param str tie: which regions share their weights, ``"none"`` or ``"shape"``.
    :param str weights: the form of a sum's weights, one softmax (``"full"``) or products (``"cp"``). A root that mixes
        its own leaves has one softmax.
    :ivar Tensor overlaps: ``bool [leaf region, leaf region]``, whether the second, another one, has the first variable
        of the first, so that a tree has one or the other; ``None`` where no leaf regions overlap.
    :raises ValueError: if ``units`` or ``leaves`` is not a positive integer, or an option is unknown.
    """

    overlaps: Tensor | None

    def __init__(
        self,
        regions: RegionGraph,
        units: int,
        leaves: int | None = None,
        tie: str = "none",
        weights: str = "full",
    ) -> None:
        super().__init__()
        if not isinstance(regions, RegionGraph):
            raise TypeError(f"regions must be a RegionGraph, but is a {type(regions).__name__}.")
        self._counts = regions.counts(units, leaves)
        units, leaves = int(units), int(units if leaves is None else leaves)
        for name, value, accepted in (("tie", tie, TIES), ("weights", weights, WEIGHTS)):
            if not isinstance(value, str) or value not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, but is {value!r}.")
        self.regions = regions
        self.units = units
        self.leaves = leaves
        self.tie = tie
        self.weights = weights
        layers = build_layers(regions, units, self.leaves, tied=tie == "shape", factored=weights == "cp")
        self.layers = nn.ModuleList(layers)
        # type and device of a circuit of a single leaf, which has no parameters
        self.register_buffer("_blank", None if layers else torch.zeros(()), persistent=False)
        self.register_buffer("overlaps", _overlaps(regions), persistent=False)
        if weights == "cp" and units > 1 and regions.partitions:
            self._counts["sums"] += units  # the root's, which it mixes

    def structure(self) -> str:
        """Region graph, numbers of units and leaves, and form of the weights; the state is that of one structure."""
        return f"{self.regions.to_json()} {self.units} {self.leaves} {self.tie} {self.weights}"

    @property
    def reference(self) -> Tensor:
        """A tensor whose type and device are those of the circuit."""
        return self._layers[0].reference if self.layers else cast(Tensor, self._blank)

    @property
    def num_leaf_regions(self) -> int:
        """Number of leaf regions."""
        return self.regions.num_leaf_regions

    @property
    def num_leaves(self) -> int:
        """Number of leaf distributions, ``num_leaf_regions * leaves``."""
        return self.num_leaf_regions * self.leaves

    @property
    def num_weights(self) -> int:
        """Number of parameters of the sums, shared ones counted once: ``regions.counts(units, leaves)["weights"]``
        unless weights are tied or products."""
        return sum(parameter.numel() for parameter in self.parameters())

    def log_weights(self) -> list[Tensor]:
        """Normalised log-weights (nats) of the sums, one tensor ``[region, sum, product]`` for each group of regions,
        written out whether tied, products or neither.

        The tensors are those of :meth:`groups`; the last one is the root's.

        :raises ValueError: if a region has more than a million products.
        """
        return [weights for layer in self._layers for weights in layer.log_weights()]

    def groups(self) -> list[Group]:
        """The regions that each of :meth:`log_weights` is of, and the nodes that its products multiply.

        :raises ValueError: if a region has more than a million products.
        """
        return [group for layer in self._layers for group in layer.groups()]

    def forward(self, leaf: Tensor, mask: Tensor | None = None) -> Tensor:
        """The same as :meth:`log_prob`."""
        return self.log_prob(leaf, mask)

    def log_prob(self, leaf: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log of the sum over all induced trees of the tree's weight times the densities of its leaves.

        :param Tensor leaf: leaf log-densities in nats, ``[.., leaf]``.
        :param Tensor mask: bool, True where a leaf is present; broadcast to ``[.., leaf]`` or ``[.., leaf region]``. A
            missing leaf counts as log 1 = 0, which is the integral over its variables.
        :return: ``[..]`` in nats.
        :raises ValueError: if ``leaf`` or ``mask`` has another last axis.
        """
        values = self._prepare(leaf, mask)
        factors = [factor for own in self._factors(values) for factor in own]
        return evaluate(values.reshape(-1, self.num_leaves), self._layers, factors).reshape(values.shape[:-1])

    @torch.no_grad()
    def posterior(self, leaf: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probability that a leaf is on the induced tree given the leaf log-densities: the derivative of
        :meth:`log_prob`.

        For each variable the leaves of the leaf regions that hold it have probabilities that sum to 1.

        :param Tensor leaf: leaf log-densities in nats, ``[.., leaf]``.
        :param Tensor mask: see :meth:`log_prob`.
        :return: ``[.., leaf]``, detached.
        """
        values = self._prepare(leaf, mask)
        factors = self._factors(values)
        rows, sums = upward(values.reshape(-1, self.num_leaves), self._layers, factors)
        flow, _ = downward(torch.ones_like(rows[-1]), rows, sums, self._layers, factors, False)
        return flow.reshape(values.shape)

    @torch.no_grad()
    def sum_posterior(self, leaf: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Probability that the induced tree reaches a sum and takes one of its products, given the leaf log-densities:
        the derivative of :meth:`log_prob` in each log-weight.

        Summed over the products of a sum it is the probability that the tree reaches the sum, 1 for the root.

        :param Tensor leaf: leaf log-densities in nats, ``[.., leaf]``.
        :param Tensor mask: see :meth:`log_prob`.
        :return: one tensor ``[.., region, sum, product]`` for each of :meth:`log_weights`, detached.
        """
        values = self._prepare(leaf, mask)
        factors = self._factors(values)
        rows, sums = upward(values.reshape(-1, self.num_leaves), self._layers, factors)
        shares = flows(rows, sums, self._layers, factors)  # [R, O, C, B] each
        return [share.movedim(-1, 0).reshape(*values.shape[:-1], *share.shape[:-1]) for share in shares]

    @torch.no_grad()
    def sample(
        self,
        sample_shape: tuple[int, ...] | torch.Size = (),
        leaf: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Induced trees, drawn by their weights or, given leaf log-densities, from the exact posterior over trees.

        :param tuple sample_shape: shape of independent draws.
        :param Tensor leaf: leaf log-densities in nats, ``[.., leaf]``; None for draws from the prior.
        :param Tensor mask: see :meth:`log_prob`; only together with ``leaf``.
        :return: bool ``[*sample_shape, .., leaf]``, True for the leaves of the tree.
        :raises TypeError: if ``sample_shape`` is no tuple.
        :raises ValueError: if there is a mask without leaf log-densities.
        """
        if not isinstance(sample_shape, (tuple, list)):
            raise TypeError(f"sample_shape must be a tuple of sizes, but is {sample_shape!r}.")
        rows, batch = None, torch.Size()
        factors = [layer.log_factors() for layer in self._layers]
        if leaf is not None:
            values = self._prepare(leaf, mask)
            factors = self._factors(values)
            rows, _ = upward(values.reshape(-1, self.num_leaves), self._layers, factors)
            batch = values.shape[:-1]
        elif mask is not None:
            raise ValueError("mask is given without leaf, but only leaf log-densities can be missing.")
        shape = (*sample_shape, *batch)
        number, device = math.prod(shape), self.reference.device
        trees = select_trees(self._layers, factors, self.num_leaves, number, rows, noise=True, device=device)
        return trees.reshape(*shape, self.num_leaves)

    @torch.no_grad()
    def mpe(self, leaf: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The most probable induced tree given the leaf log-densities ("most probable explanation", all sums maxima).

        :param Tensor leaf: leaf log-densities in nats, ``[.., leaf]``.
        :param Tensor mask: see :meth:`log_prob`.
        :return: its leaves, bool ``[.., leaf]``, and its log-weight plus their log-densities, ``[..]``, both detached.
            Several trees may select the same leaves; the value is that of the one best tree.
        """
        values = self._prepare(leaf, mask)
        factors = self._factors(values)
        rows = upward_max(values.reshape(-1, self.num_leaves), self._layers, factors)
        number = rows.shape[1]
        trees = select_trees(self._layers, factors, self.num_leaves, number, rows, noise=False, device=rows.device)
        return trees.reshape(values.shape), rows[-1].reshape(values.shape[:-1])

    def num_trees(self) -> int:
        """Number of induced trees, exactly; it soon is astronomic."""
        trees = [1] * self.num_leaf_regions
        units = [self.leaves] * self.num_leaf_regions
        for partitions in self.regions.region_partitions[self.num_leaf_regions :]:
            # children have smaller numbers, so theirs are known
            trees.append(sum(math.prod(units[part] * trees[part] for part in own.parts) for own in partitions))
            units.append(self.units)
        if not self.regions.partitions:
            return self.leaves
        return trees[-1] * (self.units if self.weights == "cp" else 1)

    def leaf_selections(self, limit: int = 65536) -> Tensor:
        """All distinct sets of leaves that induced trees end in.

        :param int limit: largest number of sets that is accepted.
        :return: bool ``[S, leaf]``, in descending lexicographic order (leaf 0 of each leaf region first).
        :raises ValueError: if there are more than ``limit``.
        """
        refusal = f"limit is {limit}, but the induced trees of this circuit end in more distinct sets of leaves."
        # leaf l is bit num_leaves - 1 - l, so that integers are ordered like rows
        bits = [1 << place for place in reversed(range(self.num_leaves))]
        # the sets below one region, given all its units
        below = [set(bits[cell * self.leaves : (cell + 1) * self.leaves]) for cell in range(self.num_leaf_regions)]
        for partitions in self.regions.region_partitions[self.num_leaf_regions :]:
            sets: set[int] = set()
            for partition in partitions:
                # distinct sets of the parts give distinct unions, and none gets lost on the way to the root
                if math.prod(len(below[part]) for part in partition.parts) > limit:
                    raise ValueError(refusal)
                unions = {0}
                for part in partition.parts:
                    unions = {one | other for one in unions for other in below[part]}
                sets |= unions
            if len(sets) > limit:
                raise ValueError(refusal)
            below.append(sets)
        if len(below[-1]) > limit:
            raise ValueError(refusal)
        rows = [[bit == "1" for bit in f"{chosen:0{self.num_leaves}b}"] for chosen in sorted(below[-1], reverse=True)]
        return torch.tensor(rows, dtype=torch.bool, device=self.reference.device)

    @property
    def _layers(self) -> list[Layer]:
        return cast("list[Layer]", list(self.layers))

    def _factors(self, values: Tensor) -> list[list[Tensor]]:
        """What each layer is evaluated from, in the type of the values."""
        return [[factor.to(values.dtype) for factor in layer.log_factors()] for layer in self._layers]

    def _prepare(self, leaf: Tensor, mask: Tensor | None) -> Tensor:
        """Checked leaf log-densities ``[.., leaf]`` with 0 for missing leaves, at least as precise as the weights and
        as single precision."""
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            raise TypeError(f"leaf must be a floating-point tensor, but is {_describe(leaf)}.")
        if leaf.dim() < 1 or leaf.shape[-1] != self.num_leaves:
            raise ValueError(f"leaf must have shape [.., {self.num_leaves}], but has {list(leaf.shape)}.")
        leaf = at_least_single(leaf)
        if self.layers:
            leaf = leaf.to(torch.promote_types(leaf.dtype, self._layers[0].reference.dtype))
        if mask is None:
            return leaf
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask must be a bool tensor, but is {_describe(mask)}.")
        size = mask.shape[-1] if mask.dim() else 1
        if size not in (1, self.num_leaves, self.num_leaf_regions):
            raise ValueError(
                f"mask must have shape [.., {self.num_leaves}] or [.., {self.num_leaf_regions}], "
                f"but has {list(mask.shape)}."
            )
        if size not in (1, self.num_leaves):
            mask = mask.repeat_interleave(self.leaves, dim=-1)
        try:
            return torch.where(mask, leaf, torch.zeros_like(leaf))
        except RuntimeError:
            raise ValueError(
                f"mask must broadcast with leaf of shape {list(leaf.shape)}, but has {list(mask.shape)}."
            ) from None

    def extra_repr(self) -> str:
        options = "" if self._is_plain else f", tie={self.tie!r}, weights={self.weights!r}"
        return f"{self.regions}, units={self.units}, leaves={self.leaves}{options}"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={self._counts[name]}" for name in ("sums", "products"))
        # the option has the shorter name where it is given
        name = "weights" if self._is_plain else "num_weights"
        return f"Circuit({self.extra_repr()}, {sizes}, {name}={self.num_weights})"

    @property
    def _is_plain(self) -> bool:
        return (self.tie, self.weights) == ("none", "full")


def _overlaps(regions: RegionGraph) -> Tensor | None:
    """See :attr:`Circuit.overlaps`."""
    if sum(map(len, regions.leaf_scopes)) == regions.num_variables:  # a partition of the variables
        return None
    holders: dict[int, list[int]] = {scope[0]: [] for scope in regions.leaf_scopes}
    for place, scope in enumerate(regions.leaf_scopes):
        for variable in scope:
            if variable in holders:
                holders[variable].append(place)
    overlaps = torch.zeros(regions.num_leaf_regions, regions.num_leaf_regions, dtype=torch.bool)
    for place, scope in enumerate(regions.leaf_scopes):
        overlaps[place, holders[scope[0]]] = True
        overlaps[place, place] = False
    return overlaps


def _describe(value: object) -> str:
    return f"of type {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
