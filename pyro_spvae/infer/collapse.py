# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Summing the induced tree out of a model: the handler, and the statement a model makes."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_spvae.distributions import InducedTree


class CollapseTreeMessenger(Messenger):
    """
    Collapses every :class:`~pyro_spvae.distributions.InducedTree` site that has no value yet.

    A collapsed site takes the value all-true (every leaf is evaluated), counts as observed, has log-probability 0, and
    keeps its distribution in ``site["infer"]["collapsed"]``, from which
    :class:`~pyro_spvae.infer.CircuitELBO` sums over trees. Sites that a guide, ``poutine.replay`` or
    ``poutine.condition`` inside this handler has given a value are left alone.

    Example::

        >>> from pyro import poutine
        >>> from pyro_spvae.infer import CollapseTreeMessenger
        >>> spn = SPN(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> with CollapseTreeMessenger():
        ...     trace = poutine.trace(spn.model).get_trace(num=3)
        >>> tree = trace.nodes["tree"]
        >>> tree["is_observed"], bool(tree["value"].all()), type(tree["infer"]["collapsed"]).__name__
        (True, True, 'InducedTree')
    """

    def _pyro_sample(self, msg: Any) -> None:
        if not isinstance(msg["fn"], InducedTree) or msg["value"] is not None or msg["is_observed"]:
            return
        tree = msg["fn"]
        msg["infer"]["collapsed"] = tree
        outcome = msg["infer"].get("outcome")
        if outcome is not None:
            outcome["collapsed"] = True
        msg["infer"].pop("enumerate", None)
        like = tree.circuit.reference if tree.leaf_values is None else tree.leaf_values
        msg["value"] = like.new_ones((), dtype=torch.bool).expand(tree.batch_shape + tree.event_shape)
        msg["fn"] = tree.mask(False)
        msg["is_observed"] = True


def collapse_tree(fn: Any = None) -> Any:
    """
    Returns ``fn`` with its tree sites summed out, see :class:`CollapseTreeMessenger`; without ``fn``, the handler
    itself for use as a context manager.

    :param callable fn: a model with an ``InducedTree`` site.

    Example::

        >>> from pyro.infer import TraceMeanField_ELBO
        >>> vae = SPVAE(whole((4, 4)), units=1, likelihood=Bernoulli())  # one leaf, one tree
        >>> x = vae.sample(5)
        >>> TraceMeanField_ELBO().loss(collapse_tree(vae.model), vae.guide, x) > 0
        True
    """
    messenger = CollapseTreeMessenger()
    return messenger if fn is None else messenger(fn)


def sample_tree(name: str, tree: InducedTree) -> Tensor | None:
    """
    ``pyro.sample`` for a tree, telling the model whether the tree has been summed out.

    :param str name: name of the site.
    :param InducedTree tree: the distribution over trees.
    :returns: the selected leaves ``bool [.., leaf]``, or ``None`` where :func:`collapse_tree` sums over all of them, so
        that no mask needs to be applied.

    Example::

        >>> from pyro_spvae.infer import sample_tree
        >>> circuit = Circuit(poon_domingos((4, 4), delta=2), units=2)
        >>> sample_tree("tree", InducedTree(circuit)).sum().item()  # a leaf of each of four cells
        4
        >>> with collapse_tree():
        ...     sample_tree("tree", InducedTree(circuit)) is None
        True
    """
    outcome: dict[str, bool] = {}
    infer: Any = {"enumerate": "parallel", "outcome": outcome}
    value = pyro.sample(name, tree, infer=infer)
    return None if outcome.get("collapsed") else value
