# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks of a region graph, and its canonical numbering."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from operator import index
from typing import Any

Parts = tuple[int, ...]


@dataclass(frozen=True)
class Structure:
    """A checked graph under canonical numbers: leaf regions by scope, then inner regions by (level, scope).

    Scopes are bit masks, variable ``v`` being bit ``v``: unions and intersections of hundreds of variables are then
    one operation.
    """

    leaf_scopes: tuple[tuple[int, ...], ...]
    partitions: tuple[tuple[int, ...], ...]
    masks: tuple[int, ...]
    levels: tuple[int, ...]

    def scope(self, region: int) -> tuple[int, ...]:
        """Sorted variables of a region."""
        return _variables(self.masks[region])


def check_shape(shape: int | Iterable[int]) -> tuple[int, ...]:
    """The sizes as a tuple; an integer is the shape of a table's row.

    :raises ValueError: unless there is at least one axis and all sizes are positive integers.
    """
    try:
        sizes = tuple(_integer(size) for size in ([shape] if not isinstance(shape, Iterable) else shape))
    except TypeError:
        raise ValueError(f"shape must be a positive integer or a sequence of them, but is {shape!r}.") from None
    if not sizes or min(sizes) < 1:
        raise ValueError(f"shape must be a positive integer or a sequence of them, but is {shape!r}.")
    return sizes


def check_integer(name: str, value: Any, low: int | None, kind: str | None = None) -> int:
    """The value of an integer of Python or NumPy.

    :param int low: smallest accepted one.
    :param str kind: what is accepted, in words.
    :raises ValueError: if it is none, or smaller.
    """
    if kind is None:
        kind = "an integer" if low is None else f"an integer of at least {low}"
    try:
        number = _integer(value)
    except TypeError:
        number = None
    if number is None or (low is not None and number < low):
        raise ValueError(f"{name} must be {kind}, but is {value!r}.")
    return number


def canonical_structure(
    num_variables: int, leaf_scopes: Iterable[Iterable[int]], partitions: Iterable[Iterable[int]]
) -> Structure:
    """Check a graph and number its regions canonically.

    :raises ValueError: one sentence that names the region or partition at fault.
    """
    masks = _leaf_masks(num_variables, leaf_scopes)
    num_leaves = len(masks)
    by_region = _partitions_by_region(num_leaves, partitions)
    levels = dict.fromkeys(range(num_leaves), 0)
    _fill(by_region, masks, levels)
    _check_root(num_variables, by_region, masks)
    seen: dict[int, int] = {}
    for region, mask in masks.items():
        if mask in seen:
            raise ValueError(f"regions {seen[mask]} and {region} have the same scope, but scopes must differ.")
        seen[mask] = region

    scopes = {region: _variables(mask) for region, mask in masks.items()}
    order = sorted(masks, key=lambda region: (levels[region], scopes[region]))
    number = {region: place for place, region in enumerate(order)}
    numbered = []
    for region, own in by_region.items():
        for parts in own:
            numbered.append((number[region], *(number[part] for part in sorted(parts, key=lambda part: scopes[part]))))
    return Structure(
        leaf_scopes=tuple(scopes[region] for region in order[:num_leaves]),
        partitions=tuple(sorted(numbered)),
        masks=tuple(masks[region] for region in order),
        levels=tuple(levels[region] for region in order),
    )


def _leaf_masks(num_variables: int, leaf_scopes: Iterable[Iterable[int]]) -> dict[int, int]:
    masks = {}
    for region, scope in enumerate(leaf_scopes):
        mask = 0
        if not isinstance(scope, Iterable):
            raise ValueError(f"leaf region {region} must be the variables that it holds, but is {scope!r}.")
        for entry in scope:
            try:
                variable = _integer(entry)
            except TypeError:
                raise ValueError(f"leaf region {region} must hold integers, but holds {entry!r}.") from None
            if not 0 <= variable < num_variables:
                raise ValueError(
                    f"leaf region {region} holds variable {variable}, but variables are 0..{num_variables - 1}."
                )
            if mask >> variable & 1:
                raise ValueError(f"leaf region {region} holds variable {variable} twice.")
            mask |= 1 << variable
        if not mask:
            raise ValueError(f"leaf region {region} is empty, but must hold at least one variable.")
        masks[region] = mask
    if not masks:
        raise ValueError("leaf_scopes is empty, but there must be at least one leaf region.")
    return masks


def _partitions_by_region(num_leaves: int, partitions: Iterable[Iterable[int]]) -> dict[int, list[Parts]]:
    """Parts by region, each region known to be a leaf region or to have partitions, never both."""
    by_region: defaultdict[int, list[Parts]] = defaultdict(list)
    for given in partitions:
        try:
            region, *parts = (_integer(entry) for entry in given)
        except (TypeError, ValueError):
            raise ValueError(f"partition {given!r} must be integers (region, part, part, ..).") from None
        if len(parts) < 2:
            raise ValueError(f"partition {(region, *parts)} has {len(parts)} parts, but must have at least two.")
        if 0 <= region < num_leaves:
            raise ValueError(f"region {region} is a leaf region, but partition {(region, *parts)} takes it apart.")
        own = tuple(sorted(parts))
        if own in by_region[region]:
            raise ValueError(f"partition {(region, *parts)} is given twice.")
        by_region[region].append(own)
    for region, partitions_of_it in by_region.items():
        for part in {part for own in partitions_of_it for part in own}:
            if not 0 <= part < num_leaves and part not in by_region:
                raise ValueError(f"region {part}, a part of region {region}, is neither a leaf region nor taken apart.")
    return dict(by_region)


def _fill(by_region: dict[int, list[Parts]], masks: dict[int, int], levels: dict[int, int]) -> None:
    """Scopes and levels of the inner regions, from the leaf regions upwards (Kahn's order, no recursion)."""
    children = {region: {part for parts in own for part in parts} for region, own in by_region.items()}
    parents: defaultdict[int, list[int]] = defaultdict(list)
    for region, parts in children.items():
        for part in parts:
            parents[part].append(region)
    missing = {region: len(parts) for region, parts in children.items()}
    ready = list(masks)
    while ready:
        for region in parents[ready.pop()]:
            missing[region] -= 1
            if not missing[region]:
                masks[region] = _union(region, by_region[region], masks)
                levels[region] = 1 + max(levels[part] for part in children[region])
                ready.append(region)
    stuck = sorted(region for region, count in missing.items() if count)
    if stuck:
        raise ValueError(
            f"region {stuck[0]} is a part of itself or of a region on a cycle, but cycles are not allowed."
        )


def _union(region: int, partitions: list[Parts], masks: dict[int, int]) -> int:
    first = 0
    for place, parts in enumerate(partitions):
        union = 0
        for part in parts:
            common = union & masks[part]
            if common:
                raise ValueError(
                    f"partition {(region, *parts)} is not disjoint: two parts hold variable {_variables(common)[0]}."
                )
            union |= masks[part]
        difference = union ^ first
        if difference and place:
            raise ValueError(
                f"partitions {(region, *partitions[0])} and {(region, *parts)} do not cover the same variables: "
                f"only one of them holds variable {_variables(difference)[0]}."
            )
        first = union
    return first


def _check_root(num_variables: int, by_region: dict[int, list[Parts]], masks: dict[int, int]) -> None:
    used = {part for own in by_region.values() for parts in own for part in parts}
    roots = sorted(set(masks) - used)
    # in a graph without cycles every region lies below some region that is no part, so one root means all are reachable
    if len(roots) != 1:
        raise ValueError(
            f"exactly one region, the root, may belong to no partition as a part, but regions {roots[:4]} do not."
        )
    lacking = masks[roots[0]] ^ ((1 << num_variables) - 1)
    if lacking:
        raise ValueError(
            f"the root, region {roots[0]}, must hold all {num_variables} variables, but lacks variable "
            f"{_variables(lacking)[0]}."
        )


def _variables(mask: int) -> tuple[int, ...]:
    return tuple(variable for variable, bit in enumerate(reversed(f"{mask:b}")) if bit == "1")


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("a truth value is no integer")
    return index(value)
