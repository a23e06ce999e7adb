# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""SPVAEs whose leaves have autoregressive decoders: trained, asked, kept."""

from __future__ import annotations

import math
import re

import pytest
import torch
from pyro import poutine

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.distributions import LeafAutoregressive
from pyro_spvae.guides import MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import SPVAE, VAE, MixedLeaf
from pyro_spvae.nn import GatedConv, MultiScale, PixelCNN
from tests.conditionals.test_pixels import scattered

DECODERS = {
    "pixelcnn": lambda filters=4: PixelCNN(filters, layers=2),
    "multi-scale": lambda filters=4: MultiScale(1, filters, blocks=1, padding="bottom-right"),
}


@pytest.fixture(params=DECODERS)
def decoder(request):
    """Makes a decoder of one of the kinds."""
    return DECODERS[request.param]


def pixel_spvae(decoder, shape=(2, 4), delta=2, likelihood=None, channels=1):
    """Two leaf regions of 2 x 2 pixels, two leaves each."""
    return SPVAE(
        poon_domingos(shape, delta),
        2,
        leaf=VAE(Bernoulli() if likelihood is None else likelihood, 2, decoder=decoder),
        guide=NormalGuide(encoder=GatedConv(((3, 3, 1, 1),))),
        channels=channels,
    )


def with_prior_as_guide(spvae):
    """Importance weights are then p(x | z), which are bounded."""
    head = spvae.leaf_guide.z.network.network.head
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        head.biases[1].fill_(math.log(math.expm1(1 - 1e-3)))
    return spvae


def binary(rows, *shape):
    return (torch.rand(rows, *shape) > 0.5).double()


def test_likelihoods_of_all_images_sum_to_one(decoder):
    spvae = with_prior_as_guide(scattered(pixel_spvae(decoder(), (2, 2), 2)))
    images = torch.cartesian_prod(*4 * [torch.tensor([0.0, 1.0])]).reshape(16, 1, 2, 2)
    total = spvae.log_likelihood(images, num_samples=4000).exp().sum()
    assert total.item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("likelihood", "channels"), [(Bernoulli, 1), (Normal, 2)])
def test_trains(likelihood, channels, decoder):
    torch.manual_seed(1)
    spvae = pixel_spvae(decoder(), likelihood=likelihood(), channels=channels)
    x = binary(1, channels, 2, 4).expand(20, -1, -1, -1)
    objective = CircuitELBO(num_particles=3)(spvae.model, spvae.guide)
    optimiser = torch.optim.Adam(spvae.parameters(), 0.02)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = objective(x)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is not None for parameter in spvae.leaf.parameters())


def test_samples_follow_the_model(decoder):
    spvae = with_prior_as_guide(scattered(pixel_spvae(decoder(), (1, 2), 2)))
    images = torch.cartesian_prod(*2 * [torch.tensor([0.0, 1.0])]).reshape(4, 1, 1, 2)
    probability = spvae.log_likelihood(images, num_samples=10_000).exp()
    drawn = spvae.sample(10_000).flatten(1)
    share = torch.bincount((drawn @ torch.tensor([2.0, 1.0])).long(), minlength=4) / 10_000
    torch.testing.assert_close(share, probability, atol=0.02, rtol=0)


def test_queries_do_not_change_the_model(decoder):
    spvae = pixel_spvae(decoder())
    x = binary(6, 1, 2, 4)
    before = {name: value.clone() for name, value in spvae.state_dict().items()}
    hidden = torch.ones(1, 2, 4, dtype=torch.bool)
    hidden[..., 2:] = False
    torch.manual_seed(1)
    in_training = [spvae.log_likelihood(x, num_samples=5), spvae.reconstruct(x, num_particles=3)]
    spvae.impute(x, hidden, num_particles=3)
    spvae.embed(x, num_particles=3)
    spvae.posterior(x, num_particles=3)
    assert spvae.training and all(module.training for module in spvae.modules())
    for name, value in spvae.state_dict().items():
        assert torch.equal(value, before[name]), name
    spvae.eval()
    torch.manual_seed(1)
    torch.testing.assert_close(in_training[0], spvae.log_likelihood(x, num_samples=5))
    torch.testing.assert_close(in_training[1], spvae.reconstruct(x, num_particles=3))


def test_means_are_those_given_a_draw(decoder):
    spvae = scattered(pixel_spvae(decoder()))
    means = spvae.sample(50, means=True)
    assert means.shape == (50, 1, 2, 4) and ((means > 0) & (means < 1)).all()
    x = binary(5, 1, 2, 4)
    reconstructions = spvae.reconstruct(x, num_particles=4)
    assert reconstructions.shape == x.shape and ((reconstructions > 0) & (reconstructions < 1)).all()


def beside(decoder):
    """Autoregressive and other leaves."""
    leaves = [VAE(Bernoulli(), 2, decoder=decoder), VAE(Bernoulli(), 2)]
    guide = MixedGuide([NormalGuide(), NormalGuide()])
    return SPVAE(poon_domingos((2, 4), 2), 2, leaf=MixedLeaf(leaves), guide=guide)


@pytest.mark.parametrize("make", [pixel_spvae, beside])
def test_means_are_given_the_draw_of_each_leafs_own_pixels(make, decoder):
    spvae = scattered(make(decoder(16)))
    tree = spvae.circuit.sample((20,))
    latents = {name: 3 * torch.randn(20, spvae.num_leaves, 2) for name in spvae.latents}
    torch.manual_seed(1)
    found = spvae.decode(tree, latents)
    torch.manual_seed(1)
    given = {**latents, "tree": tree.unsqueeze(-2)}
    site = poutine.trace(poutine.condition(spvae.model, data=given)).get_trace(num=20).nodes["x"]
    wanted = torch.full_like(site["value"], math.nan)
    everything = [(site["fn"], torch.arange(spvae.num_leaves))]
    for law, index in [(part.base, part.index) for part in getattr(site["fn"], "parts", ())] or everything:
        own = site["value"][..., index, :]
        if isinstance(law, LeafAutoregressive):
            wanted[..., index, :] = law.conditional_mean(own)
            assert (law.conditional_mean(torch.zeros_like(own)) - law.conditional_mean(own)).abs().max() > 0.01
        else:
            wanted[..., index, :] = law.mean
    torch.testing.assert_close(found, spvae.view.assemble(tree, wanted))


def test_interpolates_under_one_noise(decoder):
    spvae = scattered(pixel_spvae(decoder()))
    x = binary(3, 1, 2, 4)
    path = spvae.interpolate(x, x, steps=3, num_particles=4)
    assert path.shape == (3, 3, 1, 2, 4)
    torch.testing.assert_close(path[0], path[1])
    torch.testing.assert_close(path[0], path[2])


def test_imputes_whole_regions_by_the_conditional_distribution(decoder):
    spvae = with_prior_as_guide(scattered(pixel_spvae(decoder(), (1, 2), 1)))
    observed = torch.tensor([[[True, False]]])
    images = torch.tensor([[1.0, 0], [1, 1]]).reshape(2, 1, 1, 2)
    joint = spvae.log_likelihood(images, num_samples=4000).exp()
    marginal = spvae.log_likelihood(images[:1], observed, num_samples=4000).exp()
    torch.testing.assert_close(marginal[0], joint.sum(), rtol=0.03, atol=0)
    filled = spvae.impute(images[:1].expand(2000, -1, -1, -1), observed, num_particles=30)[0]
    assert (filled[:, 0, 0, 0] == 1).all()
    assert filled[:, 0, 0, 1].mean().item() == pytest.approx((joint[1] / joint.sum()).item(), abs=0.04)
    mean = spvae.conditional_mean(images[:1], observed, num_particles=4000)[0, 0, 0]
    assert mean[0] == 1 and mean[1].item() == pytest.approx((joint[1] / joint.sum()).item(), abs=0.03)


def test_parts_of_regions_are_refused(decoder):
    spvae = pixel_spvae(decoder())
    observed = torch.ones(1, 2, 4, dtype=torch.bool)
    observed[..., 3] = False
    for ask in (spvae.impute, spvae.log_likelihood, spvae.reconstruct, spvae.embed):
        with pytest.raises(ValueError, match="^mask shows a part of a patch, .*; hide leaf regions as a whole"):
            ask(binary(2, 1, 2, 4), observed)
    assert spvae.training


def test_progress_bar(capsys, decoder):
    spvae = pixel_spvae(decoder())
    spvae.sample(3, progress=True)
    assert re.search(r"pixels: 100%.* 48/48 ", capsys.readouterr().err)  # of 3 rows, 4 leaves and 4 pixels
    spvae.sample(3)
    assert capsys.readouterr().err == ""


def test_beside_other_leaves(decoder):
    spvae = beside(decoder())
    x = binary(3, 1, 2, 4)
    assert CircuitELBO(num_particles=2).loss(spvae.model, spvae.guide, x) > 0
    assert set(spvae.sample(20).unique().tolist()) == {0.0, 1.0}
    means = spvae.reconstruct(x, num_particles=3)
    assert ((means > 0) & (means < 1)).all()
