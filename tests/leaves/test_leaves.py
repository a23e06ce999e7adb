# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What leaf models and guides bring along, and which leaves follow which program."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae.leaves import LeafGuide, LeafModel
from pyro_spvae.leaves.leaf_subset import check_counts, leaf_index, own_sites
from pyro_spvae.likelihoods import Bernoulli, Binomial
from pyro_spvae.models import HVAE, VAE, FactorizedLeaf
from tests.models.own_leaves import Bare, Coin


def test_default_guides_follow_from_what_is_latent():
    leaves = Bare(), Coin(), VAE(Bernoulli()), HVAE(Bernoulli()), FactorizedLeaf(Bernoulli())
    assert [leaf.default_guide for leaf in leaves] == ["none", "normal", "normal", "hierarchical", "none"]
    assert [list(leaf.latents) for leaf in leaves] == [[], ["p"], ["z"], ["z2", "z1"], []]


def test_values_are_checked_and_brought_to_features_where_there_are_pixels():
    x = torch.full((2, 3, 4), 7.0)
    everything = torch.ones_like(x, dtype=torch.bool)
    Bare().check(x, everything)
    assert Bare().features(x) is x
    leaf = VAE(Binomial(5)).bind(leaves=3, pixels=4)
    assert torch.equal(leaf.features(x), x / 5)
    with pytest.raises(ValueError, match="^x holds the value 7 "):
        leaf.check(x, everything)


def test_what_a_program_must_define():
    with pytest.raises(NotImplementedError, match="^LeafModel must define forward"):
        LeafModel()()
    with pytest.raises(ValueError, match="^the guide LeafGuide has no encoder that a VampPrior could use"):
        LeafGuide().posterior(torch.zeros(1))


def test_leaves_follow_programs_by_turns():
    assert leaf_index((1, 2), 6) == [[0, 3], [1, 2, 4, 5]]
    assert check_counts(None, 3) == (1, 1, 1)
    sites = dict.fromkeys(("z", "z_1", "z2_1", "z_2", "z_11"))
    assert [list(own_sites(sites, place, 3)) for place in range(3)] == [["z", "z_11"], ["z", "z2"], ["z"]]
    with pytest.raises(ValueError, match=r"^counts is \(1, 2\); their sum must divide the number of leaves, 4$"):
        leaf_index((1, 2), 4)
    with pytest.raises(ValueError, match="^parts is empty; at least one leaf program is needed$"):
        check_counts(None, 0)
