# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every leaf distribution must satisfy; one subclass per distribution inherits all of it."""

from __future__ import annotations

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints
from torch.testing import assert_close

from pyro_spvae.distributions.leaf import LeafDistribution

BATCH = (3, 2)  # [data, leaf]
SIZE = 4  # pixels of an event
MASK = torch.tensor([[True, False, True, True], [False, True, True, False]])  # [leaf, pixel], as for ragged regions
# that broadcast over pixels, over leaves, over data, and ones that have more dimensions than the parameters
BROADCAST = [
    MASK,
    MASK[:, :1],
    MASK[:1],
    torch.tensor([[[True], [False]], [[False], [True]], [[True], [True]]]),
    torch.tensor([True]),
    torch.tensor([False, True, True, False]),
    torch.tensor([[True], [False], [True]]).reshape(3, 1, 1),
    torch.arange(16).reshape(8, 1, 2, 1) % 3 > 0,
]


class LeafDistributionTests:
    """Subclasses say how to build the distribution, torch's equivalent, and which values are invalid."""

    bad_values: tuple[float, ...] = (float("nan"),)
    pixel_dim = -1  # where the parameters hold the pixels
    pixel_dims: dict[str, int | None] = {}  # of those that hold them elsewhere, or none
    has_entropy = True
    has_meta_draws = True  # torch has no draws of some families on its meta device

    def parameters(self, *batch: int) -> dict[str, Tensor]:
        """Random parameters by name, each ``[*batch, pixel, ..]``."""
        raise NotImplementedError

    def build(self, parameters: dict[str, Tensor], mask: Tensor | None = None) -> LeafDistribution:
        raise NotImplementedError

    def reference(self, parameters: dict[str, Tensor]) -> dist.TorchDistribution:
        """Pyro's (torch's) univariate distribution with the same parameters, batch ``[.., pixel]``."""
        raise NotImplementedError

    def stock(self, parameters: dict[str, Tensor]) -> dist.TorchDistribution:
        """Pyro's distribution of the event."""
        return self.reference(parameters).to_event(1)

    def values(self, *shape: int) -> Tensor:
        """Random values inside the support, of a given full shape ``[.., pixel]``."""
        return self.stock(self.parameters(*shape[:-1])).sample().to(torch.get_default_dtype())

    def learnable(self, *batch: int) -> dict[str, Tensor]:
        return {name: parameter.requires_grad_() for name, parameter in self.parameters(*batch).items()}

    def axis(self, name: str) -> int | None:
        """Where a parameter holds the pixels."""
        return self.pixel_dims.get(name, self.pixel_dim)

    def of_pixels(self, parameters: dict[str, Tensor], index: Tensor | list[int]) -> dict[str, Tensor]:
        """Parameters of the chosen pixels alone."""
        chosen = torch.arange(SIZE)[index]
        found = {}
        for name, parameter in parameters.items():
            axis = self.axis(name)
            found[name] = parameter if axis is None else parameter.index_select(axis, chosen)
        return found

    @pytest.mark.parametrize("sample_shape", [(), (5,), (2, 3)])
    @pytest.mark.parametrize("batch", [(), (2,), (3, 2)])
    def test_shapes(self, batch, sample_shape):
        d = self.build(self.parameters(*batch))
        x = d.sample(torch.Size(sample_shape))
        assert d.batch_shape == batch and d.event_shape == (SIZE,) and d.event_dim == 1
        assert x.shape == d.shape(torch.Size(sample_shape)) == (*sample_shape, *batch, SIZE)
        assert not x.requires_grad
        assert d.log_prob(x).shape == (*sample_shape, *batch)
        assert d.mean.shape == d.variance.shape == (*batch, SIZE)
        support = d.support
        assert support is not None and support.event_dim == 1 and support.check(x).all()
        assert d(torch.Size(sample_shape)).shape == x.shape
        assert support.is_discrete == self.stock(self.parameters(*batch)).support.is_discrete
        assert not d.has_enumerate_support

    def test_expand_records_the_shape_and_keeps_parameters(self):
        parameters = self.parameters(1, 2)
        d = self.build(parameters)
        e = d.expand(torch.Size((5, 3, 2)))
        assert type(e) is type(d) and e.batch_shape == (5, 3, 2) and d.batch_shape == (1, 2)
        for name, parameter in parameters.items():
            assert getattr(e, name) is parameter
        stock = self.stock(parameters).expand((5, 3, 2))
        for shape in [(SIZE,), (2, SIZE), (3, 2, SIZE), (5, 1, 2, SIZE), (5, 3, 2, SIZE), (7, 5, 3, 2, SIZE)]:
            x = self.values(*shape)
            assert_close(e.log_prob(x), stock.log_prob(x))
        assert e.sample((6,)).shape == (6, 5, 3, 2, SIZE)
        assert_close(e.mean, d.mean.expand(5, 3, 2, SIZE))
        assert_close(e.variance, d.variance.expand(5, 3, 2, SIZE))
        # the new batch elements are independent draws, not copies
        assert len(torch.unique(d.expand((50, 3, 2)).sample().flatten(1), dim=0)) > 1
        assert e.expand((4, 5, 3, 2)).batch_shape == (4, 5, 3, 2)

    @pytest.mark.parametrize("value_batch", [(), (2,), (3, 2), (5, 3, 2), (5, 1, 2)])
    def test_log_prob_and_gradients_equal_torch(self, value_batch):
        parameters = self.learnable(*BATCH)
        x = self.values(*value_batch, SIZE)
        ours, theirs = self.build(parameters).log_prob(x), self.stock(parameters).log_prob(x)
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        weight = torch.randn(ours.shape)
        if parameters:
            ours_grad = torch.autograd.grad((weight * ours).sum(), list(parameters.values()))
            assert_close(ours_grad, torch.autograd.grad((weight * theirs).sum(), list(parameters.values())))

    def test_second_derivatives(self):
        parameters = self.learnable(2)
        x = self.values(2, SIZE).requires_grad_(not parameters)

        def log_prob(x, *tensors):
            return self.build(dict(zip(parameters, tensors, strict=True))).log_prob(x)

        assert torch.autograd.gradgradcheck(log_prob, (x, *parameters.values()))

    def test_samples_have_the_stated_moments(self):
        d = self.build(self.parameters(2))
        n = 40_000
        x = d.sample((n,))  # [n, 2, pixel]
        centred = x - d.mean
        mean_error = d.variance.sqrt() / n**0.5
        assert ((x.mean(0) - d.mean).abs() < 5 * mean_error).all()
        variance_error = centred.square().std(0) / n**0.5
        assert ((centred.square().mean(0) - d.variance).abs() < 5 * variance_error).all()

    def test_pixels_are_independent(self):
        d = self.build(self.parameters(2))
        n = 40_000
        centred = d.sample((n,)) - d.mean
        correlation = (centred[..., 0] * centred[..., 1] / (d.stddev[..., 0] * d.stddev[..., 1])).mean(0)
        assert (correlation.abs() < 5 / n**0.5).all()

    def test_moments_equal_torch(self):
        parameters = self.parameters(*BATCH)
        d, stock = self.build(parameters), self.stock(parameters)
        assert_close(d.mean, stock.mean)
        assert_close(d.variance, stock.variance)

    def test_no_value_is_more_probable_than_the_mode(self):
        parameters = self.parameters(*BATCH)
        d = self.build(parameters)
        mode = d.mode
        assert mode.shape == (*BATCH, SIZE) and mode.dtype == d.mean.dtype
        x = d.sample((200,))
        for j in range(SIZE):  # one pixel at a time
            other = mode.expand(x.shape).clone()
            other[..., j] = x[..., j]
            assert (d.log_prob(other) <= d.log_prob(mode) + 1e-12).all()
        assert_close(d.expand((5, *BATCH)).mode, mode.expand(5, *mode.shape))

    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
    def test_is_computed_in_single_precision(self, half):
        """Of parameters and values in half precision, or under an autocast to it."""
        low = {name: parameter.to(half).requires_grad_() for name, parameter in self.parameters(3).items()}
        if not low:
            x = torch.randn(4, 3, SIZE).to(half)
            assert torch.equal(self.build({}).log_prob(x), self.build({}).log_prob(x.float()))
            return
        single = {name: parameter.detach().float().requires_grad_() for name, parameter in low.items()}
        ours, exact = self.build(low), self.build(single)
        x = exact.sample((4,)).to(half)
        value, wanted = ours.log_prob(x), exact.log_prob(x.float())
        assert value.dtype == torch.float32 and torch.equal(value, wanted)
        with torch.autocast("cpu", half):
            assert torch.equal(exact.log_prob(x.float()), wanted)
        gradients = torch.autograd.grad(wanted.sum(), list(single.values()))
        for found, gradient in zip(torch.autograd.grad(value.sum(), list(low.values())), gradients, strict=True):
            assert_close(found, gradient.to(half))
        for draw in (ours.rsample if ours.has_rsample else ours.sample,):
            torch.manual_seed(1)
            drawn = draw((50,))
            torch.manual_seed(1)
            assert drawn.dtype == half and torch.equal(drawn, exact.sample((50,)).to(half))

    def test_entropy_is_the_mean_surprise(self):
        if not self.has_entropy:  # in closed form, and no other number may stand in for it
            for mask in self.masks():
                with pytest.raises(NotImplementedError):
                    self.build(self.parameters(2), mask).entropy()
            return
        d = self.build(self.parameters(2))
        entropy = d.entropy()
        surprise = -d.log_prob(d.sample((40_000,)))
        assert entropy.shape == (2,)
        assert ((surprise.mean(0) - entropy).abs() < 5 * surprise.std(0) / 200).all()
        assert_close(d.expand((3, 2)).entropy(), entropy.expand(3, 2))

    def test_integer_values(self):
        d = self.build(self.parameters(*BATCH))
        if d.support.is_discrete:
            x = self.values(*BATCH, SIZE)
            for dtype in (torch.uint8, torch.int64, *([torch.bool] if x.max() < 2 else [])):
                assert_close(d.log_prob(x.to(dtype)), d.log_prob(x))

    def test_float32_is_near_float64(self):
        parameters, x = self.parameters(40, 2), self.values(40, 2, SIZE)
        small = self.build({name: p.float() for name, p in parameters.items()})
        assert_close(small.log_prob(x.float()).double(), self.build(parameters).log_prob(x), rtol=2e-6, atol=2e-6)
        assert small.log_prob(x.float()).dtype == torch.float32
        if parameters:
            assert small.sample().dtype == small.mean.dtype == small.variance.dtype == torch.float32

    def test_looks_at_no_value(self):
        """On torch's meta device, whose tensors have no content; validation does look."""
        with torch.device("meta"), pyro.validation_enabled(False):
            parameters = {name: p.float().requires_grad_() for name, p in self.parameters(3, 2).items()}
            for mask in self.masks():
                d = self.build(parameters, mask).expand((5, 3, 2))
                x = d.rsample() if d.has_rsample and self.has_meta_draws else torch.empty(5, 3, 2, SIZE)
                x = x.detach().float().requires_grad_(d.support is constraints.real_vector)
                log_prob = d.log_prob(x)
                log_prob.sum().backward()
                assert log_prob.is_meta and log_prob.dtype == torch.float32 and log_prob.shape == (5, 3, 2)
                for leaf in (*parameters.values(), *([x] if x.requires_grad else [])):
                    assert leaf.grad.is_meta and leaf.grad.shape == leaf.shape

    def masks(self) -> list[Tensor | None]:
        """What ``build`` takes."""
        return [None]

    def test_refusals(self):
        d = self.build(self.parameters(*BATCH))
        for shape in [(2,), (3, 3), (2, 3), (5, 1, 2)]:
            with pytest.raises(ValueError, match="batch_shape"):
                d.expand(shape)
        for bad in self.bad_values:
            x = self.values(*BATCH, SIZE)
            x[1, 0, 2] = bad
            with pytest.raises(ValueError, match="support"):
                d.log_prob(x)
        for validate, size in itertools.product([True, False], [1, SIZE + 1]):
            with pyro.validation_enabled(validate), pytest.raises(ValueError, match="event"):
                self.build(self.parameters(*BATCH)).log_prob(torch.zeros(*BATCH, size))
        owner = type(self.build(self.parameters(*BATCH))).__name__
        for name in self.parameters():
            parameters = self.parameters(*BATCH)
            parameters[name][..., 1] = float("nan")
            with pytest.raises(ValueError, match=name):
                self.build(parameters)
            wrong: Any
            for wrong in [torch.ones(3, 3, 3).long(), 1.0]:
                with pytest.raises(TypeError, match=f"{name} of {owner}"):
                    self.build({**parameters, name: wrong})

    def test_repr_names_class_and_shapes(self):
        d = self.build(self.parameters(*BATCH)).expand((5, 3, 2))
        text = repr(d)
        assert (
            text.startswith(f"{type(d).__name__}(")
            and "batch_shape: (5, 3, 2)" in text
            and f"event_shape: ({SIZE},)" in text
        )

    def test_detach_cuts_the_parameters_only(self):
        parameters = self.learnable(*BATCH)
        d = self.build(parameters)
        x = self.values(*BATCH, SIZE)
        assert_close(d.detach().log_prob(x), d.log_prob(x).detach(), rtol=0, atol=0)
        assert not d.detach().log_prob(x).requires_grad
        assert d.log_prob(x).requires_grad == bool(parameters)

    def test_to_event_and_batch_mask(self):
        parameters = self.parameters(*BATCH)
        d, stock = self.build(parameters), self.stock(parameters)
        x = self.values(*BATCH, SIZE)
        assert d.to_event(1).event_shape == (2, SIZE)
        assert_close(d.to_event(1).log_prob(x), stock.log_prob(x).sum(-1))
        assert_close(d.to_event(1).expand((5, 3)).log_prob(x), stock.log_prob(x).sum(-1).expand(5, 3))
        keep = torch.tensor([True, False])
        assert_close(d.mask(keep).log_prob(x), stock.log_prob(x) * keep)

    def test_plates_scale_and_mask(self):
        parameters = self.parameters(*BATCH)
        x = self.values(*BATCH, SIZE)
        keep: Any = torch.rand(BATCH) < 0.5

        def model(d):
            with pyro.plate("particles", 5, dim=-3), pyro.plate("data", 6, subsample_size=3, dim=-2):
                with pyro.plate("leaf", 2, dim=-1), poutine.scale(scale=0.3), poutine.mask(mask=keep):
                    pyro.sample("drawn", d)
                    return pyro.sample("x", d, obs=x)

        sites = []
        for d in [self.build(parameters), self.stock(parameters)]:
            trace: Any = poutine.trace(model).get_trace(d)
            trace.compute_log_prob()
            assert trace.nodes["drawn"]["value"].shape == (5, 3, 2, SIZE)
            sites.append(trace.nodes["x"]["log_prob"])
        assert sites[0].shape == (5, 3, 2)
        assert_close(sites[0], sites[1])


class MaskedLeafDistributionTests(LeafDistributionTests):
    """What one with a pixel mask must satisfy besides; its ``build`` takes a mask."""

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
            for name, gradient in zip(start, gradients, strict=True):
                axis = self.axis(name)
                if axis is None:
                    continue
                by_pixel = gradient.movedim(axis, 3).reshape(5, *BATCH, SIZE, -1)
                assert (by_pixel[:, :, ~MASK] == 0).all()
                assert torch.isfinite(by_pixel).all() and (by_pixel[:, :, MASK] != 0).any()
            results.append((log_prob, *gradients))
        for other in results[1:]:
            assert_close(other, results[0], rtol=0, atol=0)

    def test_an_event_without_counted_pixels_has_log_probability_zero(self):
        d = self.build(self.parameters(*BATCH), torch.zeros(2, SIZE, dtype=torch.bool))
        assert (d.log_prob(torch.full((*BATCH, SIZE), 1e30)) == 0).all()

    @pytest.mark.parametrize("mask", BROADCAST)
    def test_masks_broadcast(self, mask):
        """Over pixels, leaves and data; density and entropy count the same pixels."""
        parameters, x = self.parameters(*BATCH), self.values(*BATCH, SIZE)
        d = self.build(parameters, mask)
        shape = torch.broadcast_shapes(BATCH, mask.shape[:-1])
        counts = torch.stack([
            self.build(self.of_pixels(parameters, [j])).log_prob(x[..., [j]]) for j in range(SIZE)
        ], -1)  # fmt: skip
        assert d.batch_shape == shape
        assert_close(d.log_prob(x), (counts * mask).sum(-1))
        assert_close(d.expand((5, *shape)).log_prob(x), (counts * mask).sum(-1).expand(5, *shape))
        if self.has_entropy:
            entropy = (self.reference(parameters).entropy() * mask).sum(-1)  # [.., data, leaf]
            assert_close(d.entropy(), entropy)
            assert_close(d.expand((5, *shape)).entropy(), entropy.expand(5, *shape))

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
