# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every leaf distribution with a pixel mask must satisfy, besides LeafDistributionTests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tests.distributions.leaf_cases import BATCH, SIZE, LeafDistributionTests

MASK = torch.tensor([[True, False, True, True], [False, True, True, False]])  # [leaf, pixel], as for ragged regions


class MaskedLeafDistributionTests(LeafDistributionTests):
    """Subclasses say what LeafDistributionTests asks for; their ``build`` takes a mask."""

    fillers: tuple[float, ...] = (0.0, -7.5, 1e30, float("inf"))

    def masks(self):
        return [None, torch.ones(2, SIZE, dtype=torch.bool)]

    def test_mask_leaves_the_density_of_the_counted_pixels(self):
        parameters = self.parameters(5, *BATCH)
        x = self.values(*BATCH, SIZE)
        masked = self.build(parameters, MASK).log_prob(x)
        for leaf in range(2):
            of_leaf = {name: p[:, :, leaf] for name, p in parameters.items()}
            alone = self.stock(self.of_pixels(of_leaf, MASK[leaf]))
            assert_close(masked[..., leaf], alone.log_prob(x[:, leaf, MASK[leaf]]))

    def test_masked_pixels_add_nothing_whatever_fills_them(self):
        start, x = self.parameters(5, *BATCH), self.values(*BATCH, SIZE)
        results = []
        for filler in self.fillers:
            parameters = {name: parameter.clone().requires_grad_() for name, parameter in start.items()}
            filled = torch.where(MASK, x, filler)
            log_prob = self.build(parameters, MASK).log_prob(filled)  # validation is on: it must skip the fillers
            gradients = torch.autograd.grad(log_prob.sum(), list(parameters.values()))
            for gradient in gradients:
                by_pixel = gradient.movedim(self.pixel_dim, 3).reshape(5, *BATCH, SIZE, -1)
                assert (by_pixel[:, :, ~MASK] == 0).all()
                assert torch.isfinite(by_pixel).all() and (by_pixel[:, :, MASK] != 0).any()
            results.append((log_prob, *gradients))
        for other in results[1:]:
            assert_close(other, results[0], rtol=0, atol=0)

    def test_an_event_without_counted_pixels_has_log_probability_zero(self):
        d = self.build(self.parameters(*BATCH), torch.zeros(2, SIZE, dtype=torch.bool))
        assert (d.log_prob(torch.full((*BATCH, SIZE), 1e30)) == 0).all()

    def test_entropy_counts_the_same_pixels(self):
        parameters = self.parameters(*BATCH)
        entropy = self.reference(parameters).entropy()  # [data, leaf, pixel]
        assert_close(self.build(parameters, MASK).entropy(), (entropy * MASK).sum(-1))

    def test_mask_travels_and_does_not_touch_samples(self):
        parameters = self.parameters(1, 2)
        d = self.build(parameters, MASK)
        assert d.expand((5, 3, 2)).pixel_mask is MASK and "mask" in repr(d)
        torch.manual_seed(3)
        x = d.expand((5, 3, 2)).sample((2,))
        torch.manual_seed(3)
        assert_close(x, self.build(parameters).expand((5, 3, 2)).sample((2,)), rtol=0, atol=0)
        assert_close(d.expand((5, 3, 2)).log_prob(x), d.log_prob(x))

    def test_mask_takes_part_in_the_batch_shape(self):
        mask = torch.rand(5, 3, 1, SIZE) < 0.5  # missing data: [particle, data, 1, pixel]
        parameters = self.parameters(2)
        d = self.build(parameters, mask)
        x = self.values(5, 3, 2, SIZE)
        assert d.batch_shape == (5, 3, 2)
        pixelwise = torch.stack([
            self.build(self.of_pixels(parameters, [j])).log_prob(x[..., [j]]) for j in range(SIZE)
        ], -1)  # fmt: skip
        assert_close(d.log_prob(x), (pixelwise * mask).sum(-1))

    def test_refusals_with_a_mask(self):
        wrong: Any
        for error, wrong in [
            (TypeError, torch.ones(SIZE)),
            (TypeError, [True] * SIZE),
            (ValueError, torch.ones(SIZE + 1, dtype=torch.bool)),
            (ValueError, torch.ones(3, SIZE, dtype=torch.bool)),
            (ValueError, torch.tensor(True)),
        ]:
            with pytest.raises(error, match="mask of Leaf"):
                self.build(self.parameters(*BATCH), wrong)
        d = self.build(self.parameters(*BATCH), MASK)
        for bad in self.bad_values:  # of pixels that count
            x = self.values(*BATCH, SIZE)
            x[1, 0, 2] = bad
            with pytest.raises(ValueError, match="support"):
                d.log_prob(x)
