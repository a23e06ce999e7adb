# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Programs of some of the leaves, where the leaves of a region follow several programs by turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_spvae.checks import is_positive
from pyro_spvae.part import Part

_V = TypeVar("_V")
_Narrow = Callable[[Tensor], Tensor]


class LeafSubset(PyroModule):
    """
    A program and the numbers of the leaves that follow it.

    :param program: a leaf model or guide.
    :param int place: which of several it is; decides how its sites are called.

    Example::

        >>> leaf = MixedLeaf([VAE(Bernoulli()), FactorizedLeaf(Bernoulli())])
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=leaf)
        >>> [subset.index.tolist() for subset in leaf.subsets]
        [[0, 2, 4, 6], [1, 3, 5, 7]]
    """

    index: Tensor

    def __init__(self, program: Any, place: int) -> None:
        super().__init__()
        self.program = program
        self.place = place

    def bind(self, index: Sequence[int], leaves: int, **sizes: Any) -> None:
        """Binds the program to the leaves ``index`` of all."""
        self.register_buffer("index", torch.tensor(index), persistent=False)  # moves to the module's device
        self.leaves = leaves
        if sizes.get("scopes") is not None:
            sizes["scopes"] = tuple(sizes["scopes"][leaf] for leaf in index)
        self.program.bind(leaves=len(index), **sizes)

    @property
    def suffix(self) -> str:
        """What stands behind the names of the program's sites."""
        return f"_{self.place}" if self.place else ""

    def narrow(self, values: Tensor) -> Tensor:
        """The program's own leaves of values ``[.., leaf, *]``."""
        return values.index_select(-2, self.index)

    def narrow_mask(self, mask: Tensor | None) -> Tensor | None:
        """The same of a mask, which may be one for all leaves."""
        return mask if mask is None or mask.dim() < 2 or mask.size(-2) != self.leaves else self.narrow(mask)


def leaf_parts(module: nn.Module, narrow: _Narrow = lambda values: values) -> Iterator[tuple[Part, _Narrow]]:
    """The parts inside a leaf, each with what takes values ``[.., leaf, *]`` of all leaves to those of its own."""
    if isinstance(module, Part):
        yield module, narrow
    if isinstance(module, LeafSubset):
        outer, subset = narrow, module

        def narrow(values: Tensor) -> Tensor:
            return subset.narrow(outer(values))

    for child in module.children():
        yield from leaf_parts(child, narrow)


def check_counts(counts: Sequence[Any] | None, parts: int) -> tuple[int, ...]:
    """
    Leaves of each kind in a turn: ``counts``, by default one each.

    :param int parts: number of kinds.
    :raises ValueError: unless there are kinds, and a positive count for each.
    """
    if not parts:
        raise ValueError("parts is empty; at least one leaf program is needed")
    if counts is None:
        return (1,) * parts
    if not isinstance(counts, (list, tuple)) or len(counts) != parts or not all(map(is_positive, counts)):
        raise ValueError(f"counts is {counts!r}; a positive integer for each of the {parts} parts is needed")
    return tuple(map(int, counts))


def leaf_index(counts: Sequence[int], leaves: int) -> list[list[int]]:
    """
    The numbers of the leaves of each kind, kinds taking turns by ``counts``.

    :param counts: leaves of each kind in a turn, see :func:`check_counts`.
    :param int leaves: number of all leaves.
    :returns: numbers of leaves for each kind.
    :raises ValueError: unless turns fill the leaves.
    """
    turn = sum(counts)
    if leaves % turn:
        raise ValueError(f"counts is {tuple(counts)!r}; their sum must divide the number of leaves, {leaves}")
    kinds = [kind for kind, count in enumerate(counts) for _ in range(count)] * (leaves // turn)
    return [[leaf for leaf, of in enumerate(kinds) if of == kind] for kind in range(len(counts))]


def own_sites(latents: Mapping[str, _V], place: int, parts: int) -> dict[str, _V]:
    """Of the sites of all programs those of one, by the names that it gives them."""
    suffixes = [f"_{other}" for other in range(1, parts)]
    if place:
        end = f"_{place}"
        return {name.removesuffix(end): value for name, value in latents.items() if name.endswith(end)}
    return {name: value for name, value in latents.items() if not any(name.endswith(end) for end in suffixes)}
