# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gradients divided by their norms, which with Adam are the optimiser of the VampPrior paper's code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pyro_spvae.part import Part

_EPS = 1e-7  # added to norms


def adam_normgrad(model: nn.Module, lr: float = 1e-3, **options: Any) -> torch.optim.Adam:
    """
    Adam (Kingma and Ba 2015) on normalised gradients (Tomczak and Welling 2018), for all parameters of a model.

    :param float lr: learning rate.
    :param options: others of :class:`torch.optim.Adam`.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=lr, **{"fused": True} | options)
    normalise_gradients(optimiser, model)
    return optimiser


def normalise_gradients(optimiser: torch.optim.Optimizer, model: nn.Module) -> RemovableHandle:
    r"""
    Makes every step of an optimiser divide gradients by their norms first,

    .. math:: g \leftarrow g / (\lVert g \rVert_2 + 10^{-7}),

    a norm for each parameter, and for each leaf of parameters that are stacked by leaf (see :func:`leaf_axes`), as if
    each leaf were alone. It makes steps independent of the scale of the loss: clipping has no effect, nor has the
    number of rows or pixels that a loss is summed over.

    Gradients are normalised in place: after a step ``.grad`` holds what the optimiser has seen.

    :param Optimizer optimiser: of parameters of the model; any others have one norm each.
    :param Module model: says which parameters are stacked.
    :returns: a handle whose ``remove()`` ends it.
    """
    axes = leaf_axes(model)

    @torch.no_grad()
    def normalise() -> None:
        gradients: list[Tensor] = []
        norms: list[Tensor] = []
        for parameter in (parameter for group in optimiser.param_groups for parameter in group["params"]):
            if (gradient := parameter.grad) is None:
                continue
            along = tuple(axis for axis in range(gradient.dim()) if axis != axes.get(parameter))
            # an empty tuple would mean all axes; a number alone is its own norm
            norm = torch.linalg.vector_norm(gradient, dim=along, keepdim=True) if along else gradient.abs()
            gradients.append(gradient)
            norms.append(norm)
        if gradients:
            torch._foreach_add_(norms, _EPS)
            torch._foreach_div_(gradients, norms)

    def before_step(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            normalise()
            return None

        def normalised() -> Any:  # the closure computes the gradients, within the step
            loss = closure()
            normalise()
            return loss

        return args[:1], {"closure": normalised}

    return optimiser.register_step_pre_hook(before_step)


def leaf_axes(module: nn.Module) -> dict[Tensor, int]:
    """
    The axis along which leaves lie, for each parameter that holds a tensor for every leaf.

    A parameter inside a :class:`~pyro_spvae.part.Part` that is bound to a number of leaves is stacked by leaf along its
    first axis of that size, or the axis that its module states as ``leaf_axis``; the circuit's weights are in no such
    part.

    :param Module module: the model.
    """
    axes: dict[Tensor, int] = {}

    def visit(part: nn.Module, leaves: int | None) -> None:
        if isinstance(part, Part) and part._sizes is not None:
            leaves = part.sizes.get("leaves", leaves)
        for parameter in part.parameters(recurse=False):
            if leaves is not None and leaves in parameter.shape:
                axes[parameter] = getattr(part, "leaf_axis", list(parameter.shape).index(leaves))
        for child in part.children():
            visit(child, leaves)

    visit(module, None)
    return axes
