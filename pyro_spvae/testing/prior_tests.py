# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every prior is tested by."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pyro_spvae.blocks.latent import support_key
from pyro_spvae.testing.block_tests import LATENT, LEAVES, PIXELS, ROWS, BlockTests, check_gradients, close


class _AnyPriorTests(BlockTests):
    """What priors of numbers and of discrete values have in common."""

    sizes = {"leaves": LEAVES, "event_shape": (LATENT,), "pixels": PIXELS}
    #: whether parameters have a leaf axis, so that leaves differ and are independent
    by_leaf = True

    def values(self, part: Any, *batch: int) -> Tensor:
        """Values to compute densities of, ``[*batch, *event]``."""
        raise NotImplementedError

    def test_shapes(self, part: Any) -> None:
        law = part()
        event = part.sizes["event_shape"]
        assert law.event_shape == event
        assert torch.broadcast_shapes(law.batch_shape, (LEAVES,)) == (LEAVES,)
        for shape in ((LEAVES,), (ROWS, LEAVES), (2, ROWS, LEAVES)):
            expanded = law.expand(torch.Size(shape))
            z = expanded.sample()
            assert z.shape == (*shape, *event) and expanded.batch_shape == shape
            assert expanded.sample(torch.Size((7,))).shape == (7, *shape, *event)
            assert expanded.log_prob(z).shape == shape
            close(expanded.log_prob(z), law.log_prob(z))

    def test_has_the_support_it_says(self, part: Any) -> None:
        assert support_key(part().support) == support_key(part.support)

    def test_each_leaf_is_as_if_alone(self, part: Any) -> None:
        if not self.by_leaf:
            pytest.skip("one prior for all leaves")
        z = self.values(part, ROWS, LEAVES)
        together = part().log_prob(z)
        for leaf in range(LEAVES):
            close(self.alone(part, leaf)().log_prob(z[:, leaf : leaf + 1]), together[:, leaf : leaf + 1])

    def test_leaves_and_rows_are_drawn_independently(self, part: Any) -> None:
        z = part().expand(torch.Size((4000, LEAVES))).sample()
        standard = (z - z.mean(0)) / z.std(0)
        for one, other in ((standard[:, 0], standard[:, 1]), (standard[:-1, 0], standard[1:, 0])):
            assert bool(((one * other).mean(0).abs() < 4.5 / math.sqrt(len(one))).all())

    def test_samples_carry_no_gradient(self, part: Any) -> None:
        assert not part().expand(torch.Size((LEAVES,))).sample().requires_grad

    def test_follows_dtype(self, part: Any) -> None:
        z = torch.ones(LEAVES, *part.sizes["event_shape"])
        expected = part().log_prob(z)
        law = part.to(torch.float32)()
        value = law.log_prob(z.float())
        assert law.sample().dtype == value.dtype == torch.float32
        close(value, expected, torch.float32)


class PriorTests(_AnyPriorTests):
    """
    A prior is a block whose call, given nothing, returns a normalised distribution over the latent vector of every
    leaf, from which its samples come.

    Subclasses define :meth:`make`. The moments are integrals over a grid, from ``-reach`` to ``reach`` in each of two
    dimensions, which must hold all of the mass but ``mass_error``; of priors of positive numbers and such, over those
    of its points that are in the support.

    Example::

        >>> from pyro_spvae.testing import PriorTests
        >>> class TestMixtureOfGaussians(PriorTests):
        ...     def make(self):
        ...         return MixtureOfGaussians(components=3)
        >>> issubclass(TestMixtureOfGaussians, PriorTests)
        True
    """

    reach = 9.0
    #: how far from 1 the density may add up on the grid, which cuts tails off; moments may be off by ten times as much
    mass_error = 2e-4

    #: points of the grid in a unit of length
    density = 20

    def values(self, part: Any, *batch: int) -> Tensor:
        """Normals, or where they are not in the support draws of the prior."""
        normals = torch.randn(*batch, *part.sizes["event_shape"])
        if bool(part.support.check(normals).all()):
            return normals
        drawn: Tensor = part().expand(torch.Size(batch)).sample()
        return drawn

    def _grid(self, part: Any) -> tuple[Tensor, float]:
        number = 2 * math.ceil(self.density * self.reach)  # an even one: the middles of cells, of which none is at 0
        cell = 2 * self.reach / number
        line = (torch.arange(number) + 0.5) * cell - self.reach
        points = torch.cartesian_prod(line, line)
        inside = part.support.check(points)
        return points[inside.all(-1) if inside.dim() > 1 else inside], cell**2

    def test_samples_have_the_moments_of_the_density(self, part: Any) -> None:
        grid, cell = self._grid(part)
        with torch.no_grad():
            mass = part().log_prob(grid.unsqueeze(-2).expand(-1, LEAVES, -1)).exp() * cell  # [point, leaf]
        total = mass.sum(0)
        assert bool(((total - 1).abs() < self.mass_error).all()), (
            f"the density adds up to {total.tolist()} on {self.density} points a unit from {-self.reach:g} to "
            f"{self.reach:g}; if it is too little and its tails are heavy, set reach to a larger number; if it has "
            "edges or peaks that the grid does not resolve, set density to a larger one"
        )
        drawn = part().expand(torch.Size((40_000, LEAVES))).sample()
        for statistic in (
            lambda z: z[..., 0],
            lambda z: z[..., 1],
            lambda z: z[..., 0].square(),
            lambda z: z[..., 1].square(),
            lambda z: z[..., 0] * z[..., 1],
            lambda z: (z[..., 0] - z[..., 1]).abs(),
            lambda z: z.norm(dim=-1).cos(),
        ):
            expected = (mass * statistic(grid).unsqueeze(-1)).sum(0)
            found = statistic(drawn)
            error = found.std(0) / math.sqrt(len(drawn))
            assert bool(((found.mean(0) - expected).abs() < 4.5 * error + 10 * self.mass_error).all())
            assert bool((error < 0.1).all())

    def test_gradients_reach_every_parameter(self, part: Any) -> None:
        z = self.values(part, ROWS, LEAVES).requires_grad_()
        check_gradients({"z": z, **dict(part.named_parameters())}, part().log_prob(z).sum())


class DiscretePriorTests(_AnyPriorTests):
    """
    A prior of discrete vectors is a block whose call, given nothing, returns a distribution over the latent vector of
    every leaf: the masses of all values add up to 1, and samples follow them.

    Subclasses define :meth:`make`, and :meth:`all_values` unless values are bits.

    Example::

        >>> from pyro_spvae.priors import BitChain
        >>> from pyro_spvae.testing import DiscretePriorTests
        >>> class TestBitChain(DiscretePriorTests):
        ...     def make(self):
        ...         return BitChain(groups=2)
        >>> issubclass(TestBitChain, DiscretePriorTests)
        True
    """

    #: number of entries of a value; all values are listed
    size = 4
    sizes = {"leaves": LEAVES, "event_shape": (size,), "pixels": PIXELS}

    def all_values(self, part: Any) -> Tensor:
        """All values ``[value, *event]``; by default bits."""
        (size,) = part.sizes["event_shape"]
        return torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * size).reshape(-1, size)

    def values(self, part: Any, *batch: int) -> Tensor:
        """Some of all, at random."""
        every = self.all_values(part)
        return every[torch.randint(len(every), batch)]

    def masses(self, part: Any) -> Tensor:
        """Probabilities of all values, ``[value, leaf]``."""
        every = self.all_values(part)
        probs: Tensor = part().log_prob(every.unsqueeze(1).expand(-1, LEAVES, -1)).exp()
        return probs.detach()

    def test_masses_add_up_to_one(self, part: Any) -> None:
        masses = self.masses(part)
        close(masses.sum(0), torch.ones(LEAVES))
        assert not self.by_leaf or float((masses[:, 0] - masses[:, 1]).abs().max()) > 1e-6

    def test_samples_follow_the_masses(self, part: Any) -> None:
        number, every = 20_000, self.all_values(part)
        drawn = part().expand(torch.Size((number, LEAVES))).sample()
        found = (drawn.unsqueeze(0) == every[:, None, None]).all(-1).double().mean(1)  # [value, leaf]
        masses = self.masses(part).double()
        close(found.sum(0), torch.ones(LEAVES, dtype=torch.float64))
        assert bool(((found - masses).abs() < 4.5 * (masses * (1 - masses) / number).sqrt() + 1e-9).all())

    def test_gradients_reach_every_parameter(self, part: Any) -> None:
        z = self.values(part, ROWS, LEAVES)
        check_gradients(dict(part.named_parameters()), (part().log_prob(z) * torch.randn(ROWS, LEAVES)).sum())
