# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One preparation of a batch for both programs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class PreparesBatches(nn.Module):
    """A module whose model and guide both take, in the place of data and mask, what :meth:`prepare` returns."""

    @property
    def leaf_sizes(self) -> dict[str, int]:
        """Number of ``leaves`` and of the ``pixels`` that each sees, which parts are bound with."""
        raise NotImplementedError(f"{type(self).__name__} must define leaf_sizes")

    def taken(self, x: Any, observed: Any = None, look: bool = True) -> tuple[Any, Any]:
        """
        Data and mask as tensors, from whatever else the module takes in their place.

        :param bool look: whether values may be looked at.
        """
        return x, observed

    def prepare(self, x: Any, observed: Tensor | None = None, keep: bool = False) -> Any:
        """
        What both programs see of a batch.

        :param bool keep: compute what follows from data and parameters alone once; parameters stay as they are.
        """
        raise NotImplementedError(f"{type(self).__name__} must define prepare(self, x, observed=None, keep=False)")


def owner_of(program: Any) -> nn.Module | None:
    """The module that a program is, or is a method of."""
    owner = program if isinstance(program, nn.Module) else getattr(program, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def prepared(
    model: Any, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """
    The arguments of two programs with their data prepared, where one module owns both and prepares batches; else the
    arguments as they are.
    """
    owner = owner_of(model)
    if not isinstance(owner, PreparesBatches) or owner is not owner_of(guide):
        return args, kwargs
    given: dict[str, Any] = dict(zip(("x", "observed"), args, strict=False)) | kwargs
    if given.get("x") is None or len(args) > 2:
        return args, kwargs
    return (owner.prepare(given.pop("x"), given.pop("observed", None), keep=True),), given
