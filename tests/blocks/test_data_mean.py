# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The mean of the training data: when it is known, who subtracts it, and that it is kept."""

from __future__ import annotations

import copy

import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.blocks import DataMean
from pyro_spvae.guides import DiscreteGuide, LeafGuide, MixedGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, DiscreteVAE, FactorizedLeaf, MixedLeaf

X = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 1.0]], [[1.0, 0.0]]])  # [rows, leaf, pixel]


def waiting():
    return DataMean().bind(leaves=1, pixels=2)


def started(x=X):
    part = waiting()
    part.start(x)
    return part


def test_before_the_data_there_is_none():
    part = waiting()
    assert part.wanted_rows > 0 and not part.waits and not list(part.parameters())
    assert torch.equal(part(X), X) and torch.equal(part.mean, torch.zeros(1, 2))


def test_starts_once():
    part = started()
    part.start(torch.full((2, 1, 2), 5.0))
    assert part.wanted_rows == 0
    assert torch.equal(part.mean, torch.tensor([[0.75, 0.5]])) and torch.equal(part(X), X - torch.tensor([0.75, 0.5]))
    assert not part.mean.requires_grad


@pytest.mark.parametrize("make", [waiting, started])
@pytest.mark.parametrize("target", [waiting, lambda: started(1 - X), lambda: copy.deepcopy(started(1 - X))])
def test_a_state_says_whether_it_is_known(make, target):
    """One that was saved before the data were seen puts it back."""
    source, part = make(), target()
    part.load_state_dict(source.state_dict())
    assert part.wanted_rows == source.wanted_rows and torch.equal(part.mean, source.mean)
    part.start(X / 2)
    assert torch.equal(part.mean, source.mean if make is started else X.mean(0) / 2)


@pytest.mark.parametrize("make", [waiting, started])
def test_a_state_without_it_changes_nothing(make):
    part, before = make(), make()
    part.load_state_dict({}, strict=False)
    assert part.wanted_rows == before.wanted_rows and torch.equal(part.mean, before.mean)


def test_follows_type_and_device():
    part = started().to(torch.float32)
    assert part(X.float()).dtype == torch.float32 and part.to("meta")(X.float().to("meta")).is_meta
    assert part.wanted_rows == 0
    later = waiting().to(torch.float32)
    later.start(X)
    assert later.mean.dtype == torch.float32 and torch.equal(later.mean.double(), started().mean)


def rows(num=7):
    return (torch.rand(num, 1, 2, 4, generator=torch.Generator().manual_seed(1)) < 0.4).double()


def test_guide_and_decoder_know_that_of_their_leaves():
    spvae = SPVAE(poon_domingos((2, 4), 2), leaf=DiscreteVAE(Bernoulli(), 2), guide=DiscreteGuide())
    seen = []
    spvae.leaf_guide.z.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    batch = spvae.prepare(rows())
    spvae.leaf_guide.encode(batch.features)
    spvae.start(rows())
    spvae.leaf_guide.encode(batch.features)
    mean = spvae.view(rows()).mean(0)
    assert spvae.wanted_rows == 0
    torch.testing.assert_close(spvae.leaf_guide.mean.mean, mean)
    torch.testing.assert_close(spvae.leaf.pixels.data.output_0, mean.logit(eps=1e-3))
    torch.testing.assert_close(seen, [batch.features, batch.features - mean])


def test_without_centring_networks_see_the_features():
    guide = DiscreteGuide(centre=False)
    spvae = SPVAE(poon_domingos((2, 4), 2), leaf=DiscreteVAE(Bernoulli(), 2, from_mean=False), guide=guide)
    assert spvae.wanted_rows == 0 and guide.mean is None and spvae.leaf.pixels.data is None


@pytest.mark.parametrize("place", [0, 1])
def test_leaves_of_several_kinds_have_that_of_their_own(place):
    leaves, guides = [FactorizedLeaf(Bernoulli())], [LeafGuide()]
    leaves.insert(place, DiscreteVAE(Bernoulli(), 2))
    guides.insert(place, DiscreteGuide())
    spvae = SPVAE(poon_domingos((2, 4), 2), units=2, leaf=MixedLeaf(leaves), guide=MixedGuide(guides))
    x = rows()
    x[..., :2] *= 1 - x[..., 2:]  # regions differ
    spvae.start(x)
    mean = spvae.view(x).mean(0)[place::2]
    leaf, guide = (programs.subsets[place].program for programs in (spvae.leaf, spvae.leaf_guide))
    torch.testing.assert_close(guide.mean.mean, mean)
    torch.testing.assert_close(leaf.pixels.data.output_0, mean.logit(eps=1e-3))
    assert float((mean[0] - mean[1]).abs().max()) > 0.05


def test_entries_that_are_missing_count_as_features_of_0():
    """As networks see them."""
    spvae = SPVAE(poon_domingos((2, 4), 2), leaf=DiscreteVAE(Bernoulli(), 2), guide=DiscreteGuide())
    x, observed = rows(), torch.rand(7, 1, 2, 4) < 0.6
    spvae.start(torch.where(observed, x, torch.nan), observed)
    torch.testing.assert_close(spvae.leaf_guide.mean.mean, spvae.view(torch.where(observed, x, 0.0)).mean(0))


@pytest.mark.parametrize("make_known", [False, True])
def test_models_are_saved_with_it(make_known, tmp_path):
    spvae = SPVAE(poon_domingos((2, 4), 2), leaf=DiscreteVAE(Bernoulli(), 2), guide=DiscreteGuide())
    if make_known:
        spvae.start(rows())
    spvae.save(tmp_path)
    again = SPVAE.load(tmp_path)
    assert again.wanted_rows == spvae.wanted_rows
    found = []
    for one in (spvae, again):
        torch.manual_seed(1)
        found.append(one.log_likelihood(rows(), num_samples=20))
    torch.testing.assert_close(*found)
    again.start(1 - rows())
    expected = spvae.view(rows() if make_known else 1 - rows()).mean(0)
    torch.testing.assert_close(again.leaf_guide.mean.mean, expected)
