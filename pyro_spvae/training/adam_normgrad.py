# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Adam of normalised gradients, the optimiser of the VampPrior paper's code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_spvae.nn import Part

_EPS = 1e-7  # added to norms


class AdamNormGrad(torch.optim.Adam):
    r"""
    Adam (Kingma and Ba 2015) on gradients divided by their norms,

    .. math:: g \leftarrow g / (\lVert g \rVert_2 + 10^{-7}),

    a norm for each parameter tensor (Tomczak and Welling 2018). It makes steps independent of the scale of the loss:
    clipping has no effect, nor has the number of rows or pixels that a loss is summed over.

    Parameters of stacked networks hold a tensor for every leaf; those in a group with ``leaf_axis`` have a norm for
    every entry of that axis, as if each leaf were alone. Where one parameter holds several tensors side by side (heads
    of a network, values and gates), the group's ``blocks`` say so: for every parameter ``None``, or an axis and the
    sizes of the blocks along it, each of which has a norm of its own.

    Gradients are normalised in place: after a step ``.grad`` holds what Adam has seen.

    :param params: parameters, or groups of them; a group may have the keys ``leaf_axis`` and ``blocks``.
    :param options: those of :class:`torch.optim.Adam`.
    :raises ValueError: if ``blocks`` do not fit the parameters of their group.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, see the class; torch calls this for the groups of the constructor too."""
        super().add_param_group(param_group)
        _complete(self.param_groups[-1])

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """
        Makes a step.

        :param callable closure: computes the loss and its gradients anew.
        :returns: what the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._normalise()
        super().step()
        return loss

    @torch.no_grad()
    def _normalise(self) -> None:
        gradients: list[Tensor] = []
        norms: list[Tensor] = []
        for group in self.param_groups:
            leaf_axis, every = group["leaf_axis"], group["blocks"] or [None] * len(group["params"])
            for parameter, blocks in zip(group["params"], every, strict=True):
                if parameter.grad is None:
                    continue
                for gradient in _split(parameter.grad, blocks):
                    along = tuple(axis for axis in range(gradient.dim()) if axis != leaf_axis)
                    # an empty tuple would mean all axes; a number alone is its own norm
                    norm = torch.linalg.vector_norm(gradient, dim=along, keepdim=True) if along else gradient.abs()
                    gradients.append(gradient)
                    norms.append(norm)
        if gradients:
            torch._foreach_add_(norms, _EPS)
            torch._foreach_div_(gradients, norms)


def norm_groups(module: nn.Module) -> list[dict[str, Any]]:
    """
    The parameters of a model in groups for :class:`AdamNormGrad`, none of them empty.

    A parameter inside a :class:`~pyro_spvae.nn.Part` that is bound to a number of leaves is stacked by leaf along its
    first axis of that size, or the axis that its module states as ``leaf_axis``; the circuit's weights are in no such
    part. A module that keeps several tensors in one parameter has a method ``tensor_blocks()``: for names of its
    parameters, as in ``named_parameters()``, an axis and the sizes of the blocks along it.

    :param Module module: the model.
    """
    axes: dict[int, int] = {}
    blocks: dict[int, tuple[int, tuple[int, ...]]] = {}

    def visit(part: nn.Module, leaves: int | None) -> None:
        if isinstance(part, Part) and part._sizes is not None:
            leaves = part.sizes.get("leaves", leaves)
        for parameter in part.parameters(recurse=False):
            if leaves is not None and leaves in parameter.shape:
                axes[id(parameter)] = getattr(part, "leaf_axis", list(parameter.shape).index(leaves))
        described: Any = getattr(part, "tensor_blocks", dict)
        if found := described():
            named = dict(part.named_parameters())
            for name, (axis, sizes) in found.items():
                blocks[id(named[name])] = (axis, tuple(sizes))
        for child in part.children():
            visit(child, leaves)

    visit(module, None)
    groups: dict[int | None, dict[str, Any]] = {}
    for parameter in module.parameters():
        axis = axes.get(id(parameter))
        group = groups.setdefault(axis, {"params": [], "leaf_axis": axis, "blocks": []})
        group["params"].append(parameter)
        group["blocks"].append(blocks.get(id(parameter)))
    return list(groups.values())


def _complete(group: dict[str, Any]) -> None:
    """Fills in what a group does not say, and checks what it does."""
    group.setdefault("leaf_axis", None)
    group.setdefault("blocks", None)
    shapes = [tuple(parameter.shape) for parameter in group["params"]]
    if group["blocks"] is None:
        return
    fits = len(group["blocks"]) == len(shapes) and all(
        blocks is None or shape[blocks[0]] == sum(blocks[1])
        for blocks, shape in zip(group["blocks"], shapes, strict=True)
    )
    if not fits:
        raise ValueError(
            f"blocks is {group['blocks']!r}, but the parameters have the shapes {shapes}; for each of them None, or an "
            "axis and sizes that add up to that of the axis, are needed"
        )


def _split(gradient: Tensor, blocks: Sequence[Any] | None) -> Sequence[Tensor]:
    return [gradient] if blocks is None else gradient.split(list(blocks[1]), blocks[0])
