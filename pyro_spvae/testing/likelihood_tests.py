# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every likelihood is tested by."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_spvae.distributions.autoregressive import pixel_means
from pyro_spvae.testing.block_tests import LEAVES, PIXELS, ROWS, BlockTests, close

_OF = ("binary", "levels", "real", "positive", "counts", "columns")


class LikelihoodTests(BlockTests):
    """
    A likelihood turns a decoder's outputs into a normalised distribution over the pixels of a leaf, independent of each
    other but for the channels of a position; those under a mask count for nothing.

    Subclasses define :meth:`make`; and :attr:`values`, all values of a pixel where they can be listed, or else
    :attr:`reach`, ends of a grid that holds almost all of the mass. Where channels of a position depend on each other,
    :attr:`channels` and :attr:`sizes` say how many there are.

    Example::

        >>> from pyro_spvae.testing import LikelihoodTests
        >>> class TestCategorical(LikelihoodTests):
        ...     values = torch.arange(4)
        ...
        ...     def make(self):
        ...         return Categorical(levels=4)
        >>> issubclass(TestCategorical, LikelihoodTests)
        True
    """

    sizes = {"leaves": LEAVES, "pixels": PIXELS}
    values: Tensor | None = None
    reach = (-60.0, 60.0)
    #: channels of a position that may depend on each other
    channels = 1
    #: values that are refused
    outside: tuple[float, ...] = (math.inf,)

    def outputs(self, part: Any, rows: int = ROWS) -> tuple[Tensor, ...]:
        """What a decoder might put out, ``[row, leaf, head]`` each."""
        torch.manual_seed(1)
        return tuple(torch.randn(rows, LEAVES, size) for size in part.heads)

    def test_shapes(self, part: Any) -> None:
        law = part(self.outputs(part))
        assert law.batch_shape == (ROWS, LEAVES) and law.event_shape == (PIXELS,)
        x = law.sample()
        assert x.shape == (ROWS, LEAVES, PIXELS) and law.log_prob(x).shape == (ROWS, LEAVES)
        assert bool(part.supports(x).all())
        assert part.features(x).shape == (ROWS, LEAVES, part.count_features(PIXELS))
        assert part.of in _OF

    def _pixel(self, part: Any) -> tuple[Any, Tensor, float]:
        """A distribution of one pixel that counts, its values on a grid, and the width of a cell."""
        mask = torch.zeros(PIXELS, dtype=torch.bool)
        mask[0] = True
        law = part(self.outputs(part, 1), mask)
        if self.values is not None:
            return law, self.values.to(torch.get_default_dtype()), 1.0
        grid = torch.linspace(*self.reach, 200_001)
        return law, grid, float(grid[1] - grid[0])

    def test_is_normalised_and_drawn_from(self, part: Any) -> None:
        law, grid, cell = self._pixel(part)
        patches = grid.reshape(-1, 1, 1).expand(-1, LEAVES, PIXELS)
        mass = law.log_prob(patches).exp() * cell  # [value, leaf]
        torch.testing.assert_close(mass.sum(0), torch.ones(LEAVES), rtol=0, atol=2e-3)
        drawn = law.expand(torch.Size((20_000, LEAVES))).sample()[..., 0]
        for statistic in (torch.tanh, torch.cos):
            expected = (mass * statistic(grid).unsqueeze(-1)).sum(0)
            found = statistic(drawn)
            assert bool(((found.mean(0) - expected).abs() < 4.5 * found.std(0) / math.sqrt(len(found)) + 3e-3).all())

    def test_masked_pixels_count_for_nothing(self, part: Any) -> None:
        outputs = self.outputs(part)
        x = part(outputs).sample()
        mask = (torch.rand(ROWS, LEAVES, PIXELS // self.channels) < 0.5).repeat(1, 1, self.channels)
        other = torch.where(mask, x, part(self.outputs(part)).sample())
        close(part(outputs, mask).log_prob(other), part(outputs, mask).log_prob(x))
        whole = part(outputs).log_prob(x)
        close(part(outputs, mask).log_prob(x) + part(outputs, ~mask).log_prob(x), whole)
        nothing = part(outputs, torch.zeros_like(mask)).log_prob(x)
        assert bool((nothing == 0).all())

    def test_the_mean_is_that_of_draws(self, part: Any) -> None:
        law = part(self.outputs(part, 1))
        drawn = law.expand(torch.Size((20_000, LEAVES))).sample()
        try:
            means = pixel_means(law, drawn)
        except NotImplementedError:
            pytest.fail(f"{law} has no mean, by which reconstructions and pictures are made; define it")
        rest = drawn - means  # of coupled channels the means given those before
        assert bool((rest.mean(0).abs() < 5 * rest.std(0) / math.sqrt(len(rest)) + 1e-6).all())

    def test_rows_are_independent(self, part: Any) -> None:
        outputs = self.outputs(part)
        x = part(outputs).sample()
        together = part(outputs).log_prob(x)
        for row in range(ROWS):
            one = part(tuple(output[row : row + 1] for output in outputs))
            close(one.log_prob(x[row : row + 1]), together[row : row + 1])

    def test_accepts_only_what_has_a_density(self, part: Any) -> None:
        """Of some numbers; ends of an interval may be refused although they are in the support."""
        law = part(self.outputs(part, 1))
        for value in (-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 1e6):
            x = torch.full((1, LEAVES, PIXELS), value)
            said, inside = part.supports(x), law.support.check(x)
            said = said.flatten(inside.dim()).all(-1) if said.dim() > inside.dim() else said
            assert not bool((said & ~inside).any()), f"supports accepts {value}, which the distribution's support lacks"

    def test_gradients_reach_every_output(self, part: Any) -> None:
        outputs = tuple(output.requires_grad_() for output in self.outputs(part))
        x = part(outputs).sample()
        for grad in torch.autograd.grad(part(outputs).log_prob(x).sum(), outputs):
            assert bool(grad.isfinite().all()) and float(grad.abs().max()) > 0

    def test_each_leaf_is_as_if_alone(self, part: Any) -> None:
        outputs = self.outputs(part)
        x = part(outputs).sample()
        together = part(outputs).log_prob(x)
        for leaf in range(LEAVES):
            one = self.alone(part, leaf)(tuple(output[:, leaf : leaf + 1] for output in outputs))
            close(one.log_prob(x[:, leaf : leaf + 1]), together[:, leaf : leaf + 1])

    def test_follows_dtype(self, part: Any) -> None:
        outputs = self.outputs(part)
        x = part(outputs).sample()
        value = part.float()(tuple(output.float() for output in outputs)).log_prob(x.float())
        assert value.dtype == torch.float32
        close(value, part.to(outputs[0].dtype)(outputs).log_prob(x), torch.float32)

    def test_refuses_other_values(self, part: Any) -> None:
        x = part(self.outputs(part)).sample()
        everything = torch.ones_like(x, dtype=torch.bool)
        part.check(x, everything)
        for value in self.outside:
            x[0, 0, 0] = value
            with pytest.raises(ValueError, match=f"accepts {part.accepts}"):
                part.check(x, everything)
            everything[0, 0, :: PIXELS // self.channels] = False  # what does not count may be anything
            part.check(x, everything)
            everything[0, 0, :: PIXELS // self.channels] = True

    def test_what_leaves_without_a_decoder_start_from(self, part: Any) -> None:
        outputs = part.initial_outputs(LEAVES)
        assert [output.shape for output in outputs] == [(LEAVES, size) for size in part.heads]
        assert bool(part(outputs).log_prob(part(outputs).sample()).isfinite().all())
