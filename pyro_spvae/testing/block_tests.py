# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every part is tested by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, nn

from pyro_spvae.part import Part
from pyro_spvae.registry import build, describe

LEAVES, PIXELS, LATENT, ROWS = 3, 4, 2, 5


def moved_from_start(module: nn.Module) -> None:
    """Moves parameters away from where they start, so that leaves differ and nothing is near 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


class SeededTests:
    """Every test starts from one seed."""

    @pytest.fixture(autouse=True)
    def _seeded(self) -> None:
        """The same noise in every run, and no parameters of the one before."""
        pyro.clear_param_store()
        torch.manual_seed(0)


class BlockTests(SeededTests):
    """
    A part is made of its options, sized once, and described by them.

    Subclasses define :meth:`make`, and the sizes that it is bound with.

    Example::

        >>> from pyro_spvae.testing import BlockTests
        >>> class TestStandardNormalAsBlock(BlockTests):
        ...     sizes = {"leaves": 3, "event_shape": (2,)}
        ...
        ...     def make(self):
        ...         return StandardNormal()
        >>> issubclass(TestStandardNormalAsBlock, BlockTests)
        True
    """

    sizes: dict[str, Any] = {"leaves": LEAVES}

    def make(self) -> Any:
        """A new part, not bound yet."""
        raise NotImplementedError("define make(self), which returns a new part, not bound yet")

    def bound(self, leaves: int | None = None) -> Any:
        """One that is bound, and away from its start."""
        torch.manual_seed(0)
        part = self.make().bind(**self.sizes | ({} if leaves is None else {"leaves": leaves}))
        moved_from_start(part)
        return part

    @pytest.fixture
    def part(self) -> Any:
        """The part that most tests look at."""
        return self.bound()

    def alone(self, part: Any, leaf: int) -> Any:
        """
        A part of one leaf with that leaf's parameters; by default their first axis is that of leaves, unless the module
        that holds them states another ``leaf_axis``.
        """
        one = self.bound(leaves=1)
        of_one, state = one.state_dict(), {}
        for prefix, module in part.named_modules(remove_duplicate=False):
            axis = getattr(module, "leaf_axis", 0)
            for name, value in {**module._parameters, **module._buffers}.items():
                if value is not None and name not in module._non_persistent_buffers_set:
                    key = f"{prefix}.{name}" if prefix else name
                    has_leaves = key in of_one and value.shape != of_one[key].shape
                    state[key] = value.narrow(axis, leaf, 1) if has_leaves else value
        one.load_state_dict(state)
        return one

    def test_has_no_sizes_before_binding(self) -> None:
        part: Part = self.make()
        with pytest.raises(ValueError, match=r"has no sizes yet; pass it to a model, or call bind"):
            part.sizes  # noqa: B018

    def test_is_bound_once(self, part: Part) -> None:
        with pytest.raises(ValueError, match="is bound already"):
            part.bind(**self.sizes)

    def test_options_make_the_same_part(self) -> None:
        part: Part = self.make()
        again = type(part)(**part.options())
        assert again.options().keys() == part.options().keys() and repr(again) == repr(part)

    def test_is_made_anew_from_its_description(self) -> None:
        if "<locals>" in type(self.make()).__qualname__:
            pytest.skip("a class inside of a function cannot be found again")
        description = describe(self.make())
        assert describe(build(description["kind"], description)) == description

    def test_numbers_of_numpy_make_the_same_part(self) -> None:
        part = self.make()
        if "<locals>" in type(part).__qualname__:
            pytest.skip("a class inside of a function cannot be found again")
        again = type(part)(**_of_numpy(part.options())).bind(**_of_numpy(self.sizes))
        bound = self.bound()
        assert repr(describe(again)) == repr(describe(part)) and repr(again.sizes) == repr(bound.sizes)
        shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (again, bound)]
        assert shapes[0] == shapes[1]

    def test_state_dict_round_trip(self, part: nn.Module) -> None:
        again = self.make().bind(**self.sizes)
        again.load_state_dict(part.state_dict())
        for name, value in part.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)


def _of_numpy(value: Any) -> Any:
    """The value with the numbers in it as NumPy's."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return np.int64(value) if isinstance(value, int) else np.float64(value)
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(_of_numpy, value))
    return {key: _of_numpy(own) for key, own in value.items()} if type(value) is dict else value


def check_gradients(parameters: Mapping[str, Tensor], value: Tensor) -> None:
    """Every parameter has a gradient, finite and not all of it 0; there may be none."""
    if not parameters:
        return
    grads = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    for name, grad in zip(parameters, grads, strict=True):
        assert grad is not None, f"{name} has no gradient"
        assert bool(grad.isfinite().all()), f"the gradient of {name} is not finite"
        assert float(grad.abs().max()) > 0, f"the gradient of {name} is 0"


def close(one: Tensor, other: Tensor, dtype: torch.dtype | None = None) -> None:
    """Equal up to rounding in a type."""
    dtype = one.dtype if dtype is None else dtype
    tolerance = 1e-9 if dtype == torch.float64 else 2e-4
    torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)
