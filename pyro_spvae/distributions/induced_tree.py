# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The distribution over induced trees of a sum-product network, as a Pyro distribution."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from pyro_spvae.circuits import Circuit
from pyro_spvae.circuits.numerics import at_least_single

_MISSING = -1e30  # log-density of a leaf that is switched off; finite so that gradients stay numbers
_IMPOSSIBLE = -1e29  # a root below this has no induced tree with the selected leaves


class InducedTree(TorchDistribution):
    r"""
    Which leaves an induced tree of a circuit selects: a boolean event over all leaves.

    An induced tree :math:`T` keeps one child of every sum node it reaches and all children of every product node
    (Zhao et al. 2016; eq. (5) of the SPVAE paper, Tan and Peharz 2019). The event is its set of leaves as
    ``bool[leaf]``: exactly one leaf per cell on a grid. Its probability sums the trees that select the same leaves,

    .. math:: p(T) = \sum_{T' : L_{T'} = L_T} \prod_{(n, c) \in T'} w_{nc}.

    With ``leaf_values`` (log-densities :math:`\ell_l` of a datum under each leaf) it is the exact posterior over trees,
    :math:`p(T \mid x) \propto p(T) \exp \sum_{l \in T} \ell_l`.

    :class:`~pyro_spvae.infer.CircuitELBO` is to this distribution what ``TraceEnum_ELBO`` is to ``Categorical``: it
    sums the site out by one pass through the circuit.

    :param Circuit circuit: the circuit whose trees are meant.
    :param Tensor leaf_values: optional log-densities ``[.., leaf]`` in nats; their leading shape is the batch shape.
    :raises ValueError: if the last size of ``leaf_values`` is not the circuit's number of leaves.

    Example::

        >>> circuit = Circuit(poon_domingos((4, 4), delta=2), units=2)
        >>> tree = InducedTree(circuit).sample((10,))
        >>> tree.shape, tree.sum(-1).unique()  # a leaf of each of four cells
        (torch.Size([10, 8]), tensor([4]))
        >>> posterior = InducedTree(circuit, torch.randn(3, circuit.num_leaves))  # given leaf log-densities
        >>> posterior.log_prob(posterior.sample()).shape
        torch.Size([3])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.independent(constraints.boolean, 1)
    has_enumerate_support = True

    def __init__(self, circuit: Circuit, leaf_values: Tensor | None = None, validate_args: bool | None = None) -> None:
        if leaf_values is not None and (leaf_values.dim() < 1 or leaf_values.size(-1) != circuit.num_leaves):
            raise ValueError(
                f"leaf_values has shape {tuple(leaf_values.shape)}; its last size must be {circuit.num_leaves}, "
                "the number of leaves of the circuit"
            )
        self.circuit = circuit
        self.leaf_values = leaf_values
        batch_shape = torch.Size() if leaf_values is None else leaf_values.shape[:-1]
        super().__init__(batch_shape, torch.Size((circuit.num_leaves,)), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> InducedTree:
        new = self._get_checked_instance(InducedTree, _instance)
        batch_shape = torch.Size(batch_shape)
        new.circuit = self.circuit
        new.leaf_values = self.leaf_values
        if self.leaf_values is not None:
            new.leaf_values = self.leaf_values.expand(batch_shape + self.event_shape)
        super(InducedTree, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        """
        Draws trees top-down, one choice per visited sum node.

        :returns: ``bool [*sample_shape, *batch_shape, leaf]``.
        """
        sample_shape = torch.Size(sample_shape)
        with torch.no_grad():
            if self.leaf_values is None:
                return self.circuit.sample(sample_shape + self.batch_shape)
            return self.circuit.sample(sample_shape, leaf=self.leaf_values)

    def log_prob(self, value: Tensor) -> Tensor:
        """
        :param Tensor value: leaf selections ``[.., leaf]``, boolean or 0/1.
        :returns: log-probability in nats, ``-inf`` where no induced tree selects exactly these leaves.
        """
        if self._validate_args:
            self._validate_sample(value)
        tree = value.bool()
        dtype = at_least_single(self.circuit.reference if self.leaf_values is None else self.leaf_values).dtype
        switched = torch.where(tree, 0.0, torch.tensor(_MISSING, dtype=dtype, device=tree.device))
        log_prior = self.circuit.log_prob(switched)
        # a superset of a tree's leaves would pass the circuit too: a tree tiles the variables exactly once
        sizes = torch.tensor(self._scope_sizes(), device=tree.device)
        tiled = (tree * sizes).sum(-1) == self.circuit.regions.num_variables
        log_prior = torch.where(tiled & ~(log_prior <= _IMPOSSIBLE), log_prior, -torch.inf)  # NaN stays NaN
        if self.leaf_values is None:
            return log_prior.expand(torch.broadcast_shapes(log_prior.shape, self.batch_shape))
        tree, leaf = broadcast_all(tree, self.leaf_values)
        log_joint = torch.where(tree.bool(), leaf, torch.zeros_like(leaf)).sum(-1)
        return log_prior + log_joint - self.circuit.log_prob(self.leaf_values)

    def log_marginal(self, leaf: Tensor) -> Tensor:
        r"""
        The log-mean of leaf products under this distribution,
        :math:`\log \sum_T p(T) \exp \sum_{l \in T} \mathrm{leaf}_l`: the circuit's root.

        :param Tensor leaf: log-values ``[.., leaf]`` in nats, broadcastable with the batch shape.
        :returns: nats, shape ``[..]``.
        """
        if self.leaf_values is None:
            return self.circuit.log_prob(leaf)
        return self.circuit.log_prob(leaf + self.leaf_values) - self.circuit.log_prob(self.leaf_values)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """
        All leaf selections with positive probability, at most 65,536.

        :returns: ``bool [selection, *batch_shape, leaf]`` (batch sizes 1 when not ``expand``).
        :raises ValueError: when there are more; sum the site out with ``CircuitELBO`` then.
        """
        selections = self.circuit.leaf_selections()
        device = None if self.leaf_values is None else self.leaf_values.device
        shape = (len(selections),) + (1,) * len(self.batch_shape) + self.event_shape
        values = selections.to(device).reshape(shape)
        return values.expand((len(selections),) + self.batch_shape + self.event_shape) if expand else values

    @property
    def mean(self) -> Tensor:
        """Probability that each leaf is on the tree, ``[*batch_shape, leaf]``; exact."""
        leaf = self.leaf_values
        if leaf is None:
            leaf = self.circuit.reference.new_zeros(self.event_shape)
        return self.circuit.posterior(leaf).expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Variance of each leaf's indicator, ``[*batch_shape, leaf]``."""
        return self.mean * (1 - self.mean)

    def _scope_sizes(self) -> list[int]:
        return [len(scope) for scope in self.circuit.regions.leaf_scopes for _ in range(self.circuit.leaves)]
