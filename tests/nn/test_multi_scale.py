# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Multi-scale decoders see the pixels of coarser scales and no others, and are drawn scale by scale."""

from __future__ import annotations

import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pyro_spvae.distributions as dist
from pyro_spvae.nn import MultiScale
from pyro_spvae.nn.leaf_conv import LeafBatchNorm
from pyro_spvae.nn.residual import ResidualStack
from pyro_spvae.nn.scales import scales

INPUTS = (3, 2)
PADDED = {"padding": "bottom-right"}
# shape of a patch, leaves, options, number of scales
CASES = {
    "two scales": ((1, 4, 4), 2, {"smallest": 2, "filters": 4}, 2),
    "colours": ((3, 4, 2), 2, {"smallest": 2, "filters": 5}, 2),
    "padded": ((1, 3, 3), 1, {"smallest": 2, "filters": 4, **PADDED}, 2),
    "from one pixel": ((1, 4, 3), 2, {"smallest": 1, "filters": 4, **PADDED}, 3),
    "oblong": ((1, 2, 8), 1, {"smallest": 2, "filters": 4, "norm": "none"}, 3),
    "one scale": ((2, 2, 3), 3, {"smallest": 4, "filters": 3, **PADDED}, 1),
    "one pixel": ((2, 1, 1), 2, {"filters": 3, **PADDED}, 1),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param][:3]


def bound(shape, leaves, options, values=(1, 2), inputs=INPUTS, **sizes):
    """A network in evaluation mode whose normalisations are not the identity."""
    torch.manual_seed(1)
    outputs = tuple(math.prod(shape) * value for value in values)
    network = MultiScale(**({"blocks": 1} | options))
    network.bind(leaves=leaves, inputs=inputs, outputs=outputs, output_shape=shape, **sizes)
    for norm in network.modules():
        if isinstance(norm, LeafBatchNorm):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return network.eval()


def latents(lead, leaves):
    return [torch.randn(*lead, leaves, size) for size in INPUTS]


def scale_of(shape, options):
    """The number of the scale that each pixel of a patch belongs to, ``[height * width]``."""
    smallest, number = options.get("smallest", 4), torch.full(shape[1:], -1)
    spacing = [2 ** max(0, math.ceil(math.log2(side / smallest))) for side in shape[1:]]
    for scale in range(10):
        grid = number[:: spacing[0], :: spacing[1]]
        grid[grid < 0] = scale
        spacing = [max(1, each // 2) if each == max(spacing) else each for each in spacing]
    return number.flatten()


class TestScales:
    """Which pixel belongs to which scale."""

    def test_of_mnist(self):
        grids = scales((28, 28), 4, "bottom-right")
        assert [grid.sides for grid in grids] == [(4, 4), (7, 7), (14, 14), (28, 28)]
        assert [len(grid.pixels) for grid in grids] == [16, 33, 147, 588]
        assert grids[0].pixels == [28 * row + column for row in (0, 8, 16, 24) for column in (0, 8, 16, 24)]
        assert [grid.sides for grid in scales((32, 32), 4)] == [(4, 4), (8, 8), (16, 16), (32, 32)]

    @pytest.mark.parametrize("name", CASES)
    def test_of_every_case(self, name):
        shape, _, options, number = CASES[name]
        found = torch.full((shape[1] * shape[2],), -1)
        grids = scales(shape[1:], options.get("smallest", 4), options.get("padding", "none"))
        for step, grid in enumerate(grids):
            assert (found[grid.pixels] == -1).all() and len(grid.pixels) > 0
            found[grid.pixels] = step
        assert torch.equal(found, scale_of(shape, options)) and len(grids) == number

    @pytest.mark.parametrize(
        ("sides", "smallest", "needed"), [((28, 28), 4, "32 x 32"), ((6, 4), 2, "8 x 4"), ((3, 8), 4, "4 x 8")]
    )
    def test_sides_that_do_not_fit(self, sides, smallest, needed):
        message = (
            f"^smallest is {smallest}, and patches of {sides[0]} x {sides[1]} pixels cannot be halved down to it; give "
            f"another number, or padding='bottom-right', which takes them as {needed}$"
        )
        with pytest.raises(ValueError, match=message):
            scales(sides, smallest)


class TestDependence:
    """Jacobians of the outputs: an entry that is not exactly zero is a dependence."""

    def test_outputs_depend_on_the_pixels_of_coarser_scales_and_no_others(self, case):
        shape, leaves, options = case
        network = bound(shape, leaves, options)
        channels, pixels = shape[0], shape[1] * shape[2]
        context, x = network.context(*latents((), leaves)), torch.randn(leaves, math.prod(shape))
        scale = scale_of(shape, options)
        jacobians = torch.autograd.functional.jacobian(lambda y: network(context, y), x)
        for jacobian, value in zip(jacobians, (1, 2), strict=True):
            assert not any(jacobian[i, :, j].any() for i in range(leaves) for j in range(leaves) if i != j)
            own = jacobian.diagonal(dim1=0, dim2=2).reshape(channels, pixels, value, channels, pixels, leaves)
            # each value of each output sees each channel of all pixels of coarser scales, in every leaf
            expected = (scale[:, None] > scale)[None, :, None, None, :, None].expand_as(own)
            assert torch.equal(own != 0, expected)

    def test_latent_vectors_reach_all_pixels(self, case):
        shape, leaves, options = case
        network = bound(shape, leaves, options)
        x, codes = torch.randn(leaves, math.prod(shape)), latents((), leaves)
        for place in range(2):

            def outputs(z, place=place):
                return network(network.context(*(z if i == place else code for i, code in enumerate(codes))), x)[0]

            jacobian = torch.autograd.functional.jacobian(outputs, codes[place])  # [L, P, L, d]
            reached = jacobian.abs().sum(-1)
            assert torch.equal(reached.sum(1) > 0, torch.eye(leaves, dtype=torch.bool))
            assert (reached.diagonal(dim1=0, dim2=2) > 0).all()

    def test_what_is_known_matters(self):
        """A black pixel is not one that is unknown."""
        network = bound((1, 4, 4), 1, {"smallest": 2, "filters": 4})
        context, x = network.context(*latents((), 1)), torch.zeros(1, 16)
        before = network(context, x)[0]
        nn.init.zeros_(network.scales[1].of_known.kernels[0])
        changed = (network(context, x)[0] != before)[0]
        assert torch.equal(changed, scale_of((1, 4, 4), {"smallest": 2}) == 1)


def test_features_are_means_over_what_a_pixel_of_a_grid_stands_for():
    network = bound((1, 7, 4), 2, {"smallest": 2, "filters": 3, **PADDED})
    coarse, middle, fine = network.features(network.context(*latents((5,), 2)))
    assert fine.shape == (5, 6, 7, 4) and middle.shape == (5, 6, 4, 2) and coarse.shape == (5, 6, 2, 2)
    torch.testing.assert_close(middle[..., 1, 1], fine[..., 2:4, 2:4].mean((-1, -2)))
    torch.testing.assert_close(middle[..., 3, 0], fine[..., 6, :2].mean(-1))  # cut off
    torch.testing.assert_close(coarse[..., 0, 1], middle[..., :2, 1].mean(-1))


def test_a_scale_by_modules_of_torch():
    """The last scale of the second of two leaves, whose residual blocks do nothing."""
    shape = (2, 4, 4)
    network = bound(shape, 2, {"smallest": 2, "filters": 3})
    scale = network.scales[1]
    for block in scale.blocks.blocks:
        for parameter in block.refine.parameters():
            nn.init.zeros_(parameter)
    context, x = network.context(*latents((6,), 2)), torch.randn(6, 2, 32)
    known = torch.zeros(4, 4)
    known[::2, ::2] = 1
    pixels = x[:, 1].reshape(6, *shape)
    seen = torch.cat([network.features(context)[1][:, 3:], pixels * known, known.expand(6, 1, 4, 4)], 1)
    kernel = torch.cat([each.kernel[1] for each in (scale.of_maps, scale.of_pixels, scale.of_known)], 1)
    h = F.conv2d(seen, kernel, padding=1)
    norm = scale.last.norm
    h = F.elu(F.batch_norm(h, *(each[1] for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias))))
    first, second = F.conv2d(h, scale.heads.kernel[1], scale.heads.bias[1]).split([2, 4], 1)
    expected = first.flatten(1), second.unflatten(1, (2, 2)).movedim(2, -1).flatten(1)  # [N, C * H * W * values]
    for found, head in zip(network(context, x), expected, strict=True):
        values = head.size(-1) // 32
        new = (known == 0).flatten().repeat(2)  # channel by channel
        torch.testing.assert_close(
            found[:, 1].unflatten(-1, (32, values))[:, new], head.unflatten(-1, (32, values))[:, new]
        )


@pytest.mark.parametrize(("shape", "options"), [((1, 4, 4), {}), ((1, 3, 3), PADDED), ((2, 3, 2), PADDED)])
def test_probabilities_of_all_images_sum_to_one(shape, options):
    leaves, size = 2 if shape[1] < 4 else 1, math.prod(shape)
    network = bound(shape, leaves, {"smallest": 2, "filters": 2, **options}, values=(1,))
    total = torch.zeros(2, leaves)
    with torch.no_grad():
        # one latent vector is zero
        context = network.context(*(torch.stack([torch.zeros_like(z), 2 * z]) for z in latents((), leaves)))
        for images in torch.cartesian_prod(*size * [torch.tensor([0.0, 1.0])]).split(2**13):
            images = images[:, None, None]
            total += dist.LeafBernoulli(network(context, images)[0]).log_prob(images).exp().sum(0)
    torch.testing.assert_close(total, torch.ones(2, leaves))


def test_batch_dimensions_broadcast(case):
    shape, leaves, options = case
    network = bound(shape, leaves, options)
    first, second = torch.randn(3, 1, leaves, 3), torch.randn(4, leaves, 2)
    context = network.context(first, second)
    assert context.shape == (3, 4, leaves, 5, 1, 1)
    x = torch.randn(4, leaves, math.prod(shape))
    torch.testing.assert_close(network(context, x), network(context, x.expand(3, 4, -1, -1)))
    for one in (x[:, :1], x[0, 0]):  # the same patch for all leaves, and for all data
        torch.testing.assert_close(network(context, one), network(context, one.expand(4, leaves, -1)))
    one = network.context(first[0, 0], second[0])
    assert [out.shape[:-1] for out in network(one, x)] == [(4, leaves)] * 2


def test_starts_from_a_map():
    shape, of_map = (1, 8, 8), (3, 4, 4)
    network = bound(shape, 2, {"smallest": 4, "filters": 4}, inputs=48, map_shape=of_map)
    z, x = torch.randn(5, 2, 48), torch.randn(5, 2, 64)
    context = network.context(z)
    assert torch.equal(context, z.reshape(5, 2, *of_map))
    assert [out.shape for out in network(context, x)] == [(5, 2, 64), (5, 2, 128)]
    dense = sum(p.numel() for p in bound(shape, 2, {"smallest": 4, "filters": 4}, inputs=48).upscale.parameters())
    assert sum(p.numel() for p in network.upscale.parameters()) < dense  # a convolution in the place of a dense layer


def test_steps_equal_all_scales_at_once(case):
    shape, leaves, options = case
    network = bound(shape, leaves, options)
    context, x = network.context(*latents((4,), leaves)), torch.randn(4, leaves, math.prod(shape))
    expected = [out.unflatten(-1, (math.prod(shape), -1)) for out in network(context, x)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()  # steps use running statistics whatever the mode
    steps, scale = network.steps(context), scale_of(shape, options).repeat(shape[0])
    number = 0
    for number, place in enumerate(steps):
        assert torch.equal(place.sort().values, (scale == number).nonzero()[:, 0])
        for output, whole in zip(steps.outputs(), expected, strict=True):
            assert not output.requires_grad
            torch.testing.assert_close(output.unflatten(-1, (len(place), -1)), whole[..., place, :])
        steps.put(x[..., place])
    assert number + 1 == len(network.scales) == scale.max() + 1
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_gradient_checkpointing_changes_nothing_but_memory():
    """Also of a graph that is kept for a second backward pass."""
    results = []
    for checkpoint in (False, True):
        network = bound((1, 4, 4), 2, {"smallest": 2, "filters": 4, "checkpoint": checkpoint}).train()
        stacks = [module.checkpoint for module in network.modules() if isinstance(module, ResidualStack)]
        assert stacks == 3 * [checkpoint]  # that which goes up, and those of two scales
        torch.manual_seed(2)
        outputs = network(network.context(*latents((3,), 2)), torch.randn(3, 2, 16))
        parameters = list(network.parameters())
        grads = [torch.autograd.grad(out.square().sum(), parameters, retain_graph=True) for out in outputs]
        results.append((outputs, grads, list(network.buffers())))
    torch.testing.assert_close(*results)


def test_without_normalisation_there_are_biases():
    found = []
    for norm in ("batch", "none"):
        network = bound((1, 4, 4), 2, {"smallest": 2, "filters": 4, "norm": norm})
        norms = [module for module in network.modules() if isinstance(module, LeafBatchNorm)]
        found.append((len(norms) > 0, *(scale.of_maps.bias is not None for scale in network.scales)))
    assert found == [(True, False, False), (False, True, True)]


class Held(TorchDispatchMode):
    """The largest number of values that tensors made within it hold at a time."""

    def __init__(self):
        super().__init__()
        self.live, self.most = {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and (storage := each.untyped_storage())._cdata not in self.live:
                self.live[storage._cdata] = storage.nbytes() // each.element_size()
                weakref.finalize(storage, self.live.pop, storage._cdata, None)
        self.most = max(self.most, sum(self.live.values()))
        return made


@pytest.mark.parametrize(("channels", "values"), [(1, 1), (3, 40)])
def test_rows_at_once_bound_what_is_held(channels, values):
    network = bound((channels, 14, 14), 2, {"filters": 8, **PADDED}, values=(values,))
    context = network.context(*latents((6,), 2))
    with Held() as held:
        steps = network.steps(context)
        for place in steps:
            steps.outputs()
            steps.put(torch.zeros(6, 2, len(place)))
    share = network.rows_at_once(context) * held.most / 6
    assert 2**24 < share < 2**25


def test_initial_kernels_have_the_fan_of_all_that_a_scale_sees():
    network = MultiScale(2, 30, 1).bind(leaves=20, inputs=2, outputs=(32,), output_shape=(2, 4, 4))
    coarse, fine = network.scales
    for layer, fan in ((coarse.of_maps, 30), (fine.of_maps, 33), (fine.of_pixels, 33), (fine.of_known, 33)):
        assert 0.97 / math.sqrt(9 * fan) < layer.kernel.abs().max() <= 1 / math.sqrt(9 * fan)
