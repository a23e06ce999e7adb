# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sum-product networks that start at clusters."""

from __future__ import annotations

import itertools

import pytest
import torch

from pyro_spvae import Circuit, chow_liu, poon_domingos, whole
from pyro_spvae.infer.cluster_start import _blurred, _counts
from pyro_spvae.likelihoods import Bernoulli, Categorical, Normal, Poisson
from pyro_spvae.models import SPN, SPVAE, GaussianLeaf

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(name="float64")
def _float64():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(default)


def hidden_chain(rows, columns=9, states=3, levels=7, sure=0.95):
    """Rows of a hidden Markov chain whose states show in their levels."""
    state = torch.randint(states, (rows,))
    x = torch.empty(rows, columns)
    for column in range(columns):
        moved = torch.rand(rows) > sure
        state = torch.where(moved, torch.randint(states, (rows,)), state)
        x[:, column] = (3 * state + (torch.rand(rows) < 0.3)).clamp(max=levels - 1)
    return x


def tree(x, units=3, likelihood=None, **options):
    circuit = Circuit(chow_liu(x), units, weights="cp", **options)
    return SPN(circuit, likelihood=Categorical(7) if likelihood is None else likelihood)


def test_it_begins_near_the_truth():
    x, fresh = hidden_chain(2000), hidden_chain(1000)
    spn = tree(x)
    before = spn.log_prob(fresh).mean().item()
    spn.start_at_clusters(x, blur=0.01)
    after = spn.log_prob(fresh).mean().item()
    trained = tree(x)
    best = trained.fit_em(x, epochs=60)[-1]
    assert after > before + 5
    assert after > best - 0.35  # of about -9


@pytest.mark.parametrize("weights", ["full", "cp"])
def test_blur_leaves_counts_and_their_margins(weights):
    """Also where a region has several partitions, whose products lie side by side."""
    circuit = Circuit(poon_domingos((3, 3), 1), 3, weights=weights)
    units = torch.randint(3, (500, circuit.regions.num_regions))
    changed = []
    for counts in (own for layer in _counts(circuit, units) for own in layer):
        blurred = _blurred(counts, 0.3)
        for axes in ((-1,), (-2,), (-1, -2)):
            torch.testing.assert_close(blurred.sum(axes), counts.sum(axes))
        changed.append(not torch.allclose(blurred, counts))
    assert any(changed)


def test_without_blur_and_smoothing_leaves_are_their_clusters():
    x = 10.0 * (torch.arange(60) % 2).unsqueeze(-1) + torch.randn(60, 4)
    spn = SPN(Circuit(chow_liu(x), 2, weights="cp"), likelihood=Normal(scale="exp"))
    spn.start_at_clusters(x, blur=0, smoothing=0)
    mean = spn.leaf.law().mean.view(4, 2)  # [leaf region, leaf]
    for region, (column,) in enumerate(spn.circuit.regions.leaf_scopes):
        wanted = torch.stack([x[0::2, column].mean(), x[1::2, column].mean()])
        torch.testing.assert_close(mean[region].sort().values, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("tie", ["none", "shape"])
def test_with_all_blur_columns_are_independent(tie):
    x = hidden_chain(600)  # more than are counted together
    spn = tree(x, units=4, tie=tie)
    spn.start_at_clusters(x, blur=1, smoothing=0)
    wanted = torch.zeros(600)
    for column in range(x.shape[1]):
        frequency = torch.bincount(x[:, column].long(), minlength=7) / 600
        wanted += frequency[x[:, column].long()].log()
    torch.testing.assert_close(spn.log_prob(x), wanted, atol=1e-4, rtol=0)  # but for probabilities of at least 1e-6


@pytest.mark.parametrize("weights", ["cp", "full"])
def test_masses_sum_to_one(weights):
    x = (torch.rand(200, 1, 2, 2) < 0.4).double()
    spn = SPN(Circuit(poon_domingos((2, 2), 1), 3, weights=weights), likelihood=Bernoulli())
    spn.start_at_clusters(x)
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).view(-1, 1, 2, 2)
    torch.testing.assert_close(spn.log_prob(states).exp().sum(), torch.tensor(1.0))


def test_what_is_not_seen_is_not_looked_at():
    x = hidden_chain(400)
    seen = torch.rand_like(x) < 0.7
    found = []
    for filler in (0.0, 6.0):
        torch.manual_seed(1)
        spn = tree(x)
        torch.manual_seed(2)
        spn.start_at_clusters(torch.where(seen, x, filler), seen)
        found.append({name: value.clone() for name, value in spn.state_dict().items()})
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    torch.manual_seed(1)
    whole_rows = tree(x)
    whole_rows.start_at_clusters(x)
    assert spn.log_prob(x).mean() > whole_rows.log_prob(x).mean() - 1.5


def test_unseen_features_lie_at_the_mean_of_the_seen_ones():
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0], [0.0, 5.0], [8.0, 0.0]])
    seen = torch.tensor([[True, True], [True, True], [False, True], [False, False]])
    spn = SPN(whole(2), 1, likelihood=Normal())
    features = torch.cat([own for own, _, _ in spn._parts(x, seen)])
    torch.testing.assert_close(features[:, 0], torch.tensor([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0], [2.0, 5.0]]))


def test_the_same_seed_starts_alike_and_the_order_of_leaves_is_theirs():
    x = hidden_chain(300)
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        spn = tree(x, units=5)
        spn.start_at_clusters(x)
        states.append(spn.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_gaussian_leaves_over_blocks_and_other_families_take_part():
    x = hidden_chain(300) + 0.1 * torch.randn(300, 9)
    blocks = SPN(Circuit(chow_liu(x, block=3), 4, weights="cp"), leaf=GaussianLeaf())
    before = blocks.log_prob(x).mean()
    blocks.start_at_clusters(x)
    assert blocks.log_prob(x).mean() > before + 1
    counts = torch.poisson(1 + 4 * hidden_chain(300))
    poisson = tree(counts, units=3, likelihood=Poisson())
    before = poisson.log_prob(counts).mean()
    poisson.start_at_clusters(counts)
    assert poisson.log_prob(counts).mean() > before + 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"blur": 1.5}, "blur is 1.5; a number from 0 to 1 is needed"),
        ({"blur": -0.1}, "blur is -0.1; a number from 0 to 1 is needed"),
        ({"blur": "much"}, "blur is 'much'; a number from 0 to 1 is needed"),
        ({"smoothing": -1}, "smoothing is -1"),
        ({"ridge": -1}, "ridge is -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    x = hidden_chain(20)
    spn = tree(x)
    before = {name: value.clone() for name, value in spn.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        spn.start_at_clusters(x, **options)
    assert all(torch.equal(value, before[name]) for name, value in spn.state_dict().items())


def test_only_networks_with_a_closed_m_step_have_it():
    assert not hasattr(SPVAE(whole(3), 1, likelihood=Normal()), "start_at_clusters")
