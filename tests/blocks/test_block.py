# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Blocks that return something else than the distribution they were asked for."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from pyro_spvae.blocks import Block


class Returning(Block):
    """Returns what it is given."""

    def __init__(self, law):
        super().__init__()
        self.law = law

    def build(self, leaves, event_shape):
        pass

    def forward(self):
        return self.law


class NoSuper(Block):
    def __init__(self):
        self.leaves = 1


NORMAL = dist.Normal(torch.zeros(2, 3), 1.0)  # [leaf, event]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Returning(None), TypeError, "the block Returning returned a NoneType; one of pyro.distributions is"),
        (lambda: Returning(torch.zeros(2, 3)), TypeError, "the block Returning returned a Tensor; one of pyro"),
        (lambda: Returning(torch.distributions.Normal(0.0, 1.0)), TypeError, "returned a Normal; one of pyro.distrib"),
        (lambda: Returning(NORMAL), ValueError, r"a Normal of event shape \[\], but was bound with \[3\]; .to_event"),
        (lambda: Returning(NORMAL.to_event(2)), ValueError, r"of event shape \[2, 3\], but was bound with \[3\]"),
        (NoSuper, AttributeError, r"^the constructor of NoSuper must call super\(\).__init__\(\)$"),
    ],
)
def test_what_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make().bind(leaves=2, event_shape=(3,))()


def test_an_event_of_the_shape_that_was_asked_for():
    law = NORMAL.to_event(1)
    assert Returning(law).bind(leaves=2, event_shape=(3,))() is law
    assert Returning(NORMAL)() is NORMAL, "before it is bound, any"
