# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every network is tested by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_spvae.testing.block_tests import LEAVES, ROWS, BlockTests, check_gradients, close


class NetworkTests(BlockTests):
    """
    A network has parameters of its own for every leaf, takes any number of batch dimensions, and gives a tensor for
    each output.

    Subclasses define :meth:`make`, and :attr:`sizes` where they need others.

    Example::

        >>> from pyro_spvae.nn import MLP
        >>> from pyro_spvae.testing import NetworkTests
        >>> class TestMLP(NetworkTests):
        ...     def make(self):
        ...         return MLP((16,), activation="tanh")
        >>> issubclass(TestMLP, NetworkTests)
        True
    """

    sizes = {"leaves": LEAVES, "inputs": 6, "outputs": (4, 2)}

    def inputs(self, *lead: int, leaves: int = LEAVES) -> tuple[Tensor, ...]:
        """Inputs ``[*lead, leaf, in]``."""
        sizes = self.sizes["inputs"]
        return tuple(torch.rand(*lead, leaves, size) for size in (sizes if isinstance(sizes, tuple) else (sizes,)))

    def test_shapes(self, part: Any) -> None:
        for lead in ((), (ROWS,), (2, ROWS)):
            outputs = part(*self.inputs(*lead))
            assert [output.shape for output in outputs] == [(*lead, LEAVES, size) for size in self.sizes["outputs"]]

    def test_rows_are_independent(self, part: Any) -> None:
        part.eval()
        inputs = self.inputs(2, ROWS)
        flat = tuple(value.flatten(0, 1) for value in inputs)
        together = part(*flat)
        for one, other in zip(part(*inputs), together, strict=True):
            close(one.flatten(0, 1), other)
        for row in range(2 * ROWS):
            for one, other in zip(part(*(value[row] for value in flat)), together, strict=True):
                close(one, other[row])

    def test_each_leaf_is_as_if_alone(self, part: Any) -> None:
        part.eval()
        inputs = self.inputs(ROWS)
        together = part(*inputs)
        for leaf in range(LEAVES):
            one = self.alone(part, leaf).eval()(*(value[:, leaf : leaf + 1] for value in inputs))
            for own, of_all in zip(one, together, strict=True):
                close(own, of_all[:, leaf : leaf + 1])

    def test_leaves_differ(self, part: Any) -> None:
        inputs = tuple(value[:, :1].expand(-1, LEAVES, -1) for value in self.inputs(ROWS))
        for output in part(*inputs):
            assert bool((output[:, 0] != output[:, 1]).any())

    def test_gradients_reach_every_parameter(self, part: Any) -> None:
        inputs = tuple(value.requires_grad_() for value in self.inputs(ROWS))
        total = torch.stack([(output * torch.randn_like(output)).sum() for output in part(*inputs)]).sum()
        named = {f"input {place}": value for place, value in enumerate(inputs)}
        check_gradients(named | dict(part.named_parameters()), total)

    def test_joins_what_it_embeds(self, part: Any) -> None:
        part.eval()
        first, *others = self.inputs(ROWS)
        for one, other in zip(part.join(part.embed(first), *others), part(first, *others), strict=True):
            close(one, other)

    def test_follows_dtype(self, part: Any) -> None:
        part.eval()
        inputs = self.inputs(ROWS)
        expected = part(*inputs)
        for one, other in zip(part.float()(*(value.float() for value in inputs)), expected, strict=True):
            assert one.dtype == torch.float32
            close(one, other, torch.float32)

    def test_runs_on_the_meta_device(self, part: Any) -> None:
        """Nothing is made on another device, and nothing waits for the host."""
        part.to("meta")
        total = sum(output.sum() for output in part(*(value.to("meta") for value in self.inputs(ROWS))))
        total.backward()
        assert all(parameter.grad is not None and parameter.grad.is_meta for parameter in part.parameters())
