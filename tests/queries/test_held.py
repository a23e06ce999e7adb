# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Copies that share a draw of the tree and of some latent variables."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae import SPVAE, poon_domingos
from pyro_spvae.guides import DVAEppGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, VAE, DVAEpp
from pyro_spvae.testing.block_tests import moved_from_start

REGIONS = poon_domingos((2, 4), 2)


def hierarchical():
    torch.manual_seed(0)
    return moved(SPVAE(REGIONS, leaf=HVAE(Bernoulli(), 2, 3, hidden_dims=(5,))))


def moved(spvae):
    moved_from_start(spvae)
    return spvae.eval()


def captured(spvae, monkeypatch, *args, **options):
    """What latent sites and trees data are generated from."""
    found = []
    generate = spvae._generate

    def spy(rows, posterior, means, progress, given=None):
        found.append(given)
        return generate(rows, posterior, means, progress, given)

    monkeypatch.setattr(spvae, "_generate", spy)
    torch.manual_seed(1)
    x = spvae.sample(*args, **options)
    return x, {name: torch.cat([given[name] for given in found]) for name in found[0]}


@pytest.mark.parametrize("hold", [(), ("z2",), ("z2", "z1"), "z2"])
def test_copies_share_what_is_held_and_the_tree(hold, monkeypatch):
    x, given = captured(hierarchical(), monkeypatch, 12, hold=hold, copies=3)
    names = {hold} if isinstance(hold, str) else set(hold)
    assert x.shape == (12, 1, 2, 4) and given.keys() == names | {"tree"}
    for value in given.values():
        groups = value.unflatten(0, (4, 3))
        torch.testing.assert_close(groups, groups[:, :1].expand_as(groups))
    for name in names:
        assert len(given[name].unique(dim=0)) == 4


def test_given_all_that_decides_them_copies_are_equal_in_the_mean():
    torch.manual_seed(0)
    spvae = moved(SPVAE(REGIONS, leaf=VAE(Bernoulli(), 2, hidden_dims=(5,))))
    held, free = (spvae.sample(40, means=True, hold=hold, copies=2).unflatten(0, (20, 2)) for hold in (("z",), ()))
    torch.testing.assert_close(held[:, 0], held[:, 1])
    assert float((free[:, 0] - free[:, 1]).abs().amax((1, 2, 3)).min()) > 1e-4


def test_each_datum_has_the_models_law():
    spvae = hierarchical()
    torch.manual_seed(3)
    shared = spvae.sample(8000, means=True, hold=("z2",), copies=4)
    alone = spvae.sample(8000, means=True)
    error = (shared.var(0) / 2000 + alone.var(0) / 8000).sqrt()
    assert bool(((shared.mean(0) - alone.mean(0)).abs() < 4.5 * error + 1e-6).all()) and float(error.max()) < 0.01


def test_of_more_data_than_a_block(monkeypatch):
    from pyro_spvae.queries import generation

    monkeypatch.setattr(generation, "BLOCK", 7)
    x, given = captured(hierarchical(), monkeypatch, 15, hold=("z2",), copies=5)
    assert len(x) == 15 and len(given["z2"].unique(dim=0)) == 3
    groups = given["z2"].unflatten(0, (3, 5))
    torch.testing.assert_close(groups, groups[:, :1].expand_as(groups))


def test_local_variables_vary_what_global_ones_say(monkeypatch):
    torch.manual_seed(0)
    leaf = DVAEpp(Bernoulli(), 4, groups=2, local_shape=(2, 1, 1), channels=3)
    spvae = SPVAE(REGIONS, leaf=leaf, guide=DVAEppGuide(levels=1, channels=3, hidden_dims=(4,)))
    moved_from_start(spvae)
    spvae.eval()
    x, given = captured(spvae, monkeypatch, 25, means=True, hold=("z",), copies=5)
    assert set(given) == {"z", "tree"} and bool(((given["z"] == 0) | (given["z"] == 1)).all())
    assert all(len(line.unique(dim=0)) == 5 for line in x.unflatten(0, (5, 5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copies": 0}, "^copies is 0; a positive integer is needed"),
        ({"copies": 5}, "^copies is 5, which does not divide num, 12"),
        ({"hold": ("z2",)}, "^hold names z2, but copies is 1; at least 2 data share a draw"),
        ({"hold": ("z3",), "copies": 2}, "^hold names the site 'z3', but the latent sites are z2, z1"),
        ({"hold": ("z1",), "copies": 2}, "^hold names z1, but not 'z2', which the model draws before; name it too"),
        ({"given": {"z2": 0.5}, "copies": 2}, "^copies is 2, but given fixes z2; one of them is needed"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hierarchical().sample(12, **options)
