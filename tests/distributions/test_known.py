# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What distributions know of a value holds for what the value holds: draws that are changed in place."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch

from pyro_spvae.distributions import (
    Beta,
    BinaryHierarchy,
    Kumaraswamy,
    LeafGaussianMixture,
    LeafNormal,
    LeafNormalMixture,
    StickWeights,
)
from pyro_spvae.distributions.known import Known

TWO, THREE = torch.tensor([2.0, 2.0]).double(), torch.tensor([3.0, 3.0]).double()


def hierarchy():
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double()
    return BinaryHierarchy((2, 2), lambda group, before: before @ weight, first=torch.tensor([0.3, -1.0]).double())


def invert(value):
    value[:] = 1 - value


def lower(value):
    value[..., 0] /= 2


def swap(value):
    value[:] = value.flip(-1).clone()


CASES = {
    "normal": (lambda: LeafNormal(torch.zeros(2).double(), torch.ones(2).double()), None, lower),
    "gaussian-mixture": (
        lambda: LeafGaussianMixture(torch.zeros(1, 2).double(), torch.ones(1, 2).double(), torch.zeros(1).double()),
        None,
        lower,
    ),
    "kumaraswamy": (lambda: Kumaraswamy(TWO, THREE), None, lower),
    "beta of a kumaraswamy draw": (lambda: Kumaraswamy(TWO, THREE), Beta(TWO, THREE), lower),
    "sticks": (lambda: StickWeights(Kumaraswamy(TWO, THREE).to_event(1)), None, swap),
    "hierarchy": (hierarchy, None, invert),
}


@pytest.fixture(params=[torch.no_grad, torch.inference_mode, contextlib.nullcontext])
def mode(request):
    with request.param():
        yield


@pytest.mark.parametrize(("make", "asked", "change"), CASES.values(), ids=CASES)
def test_a_changed_draw_has_the_density_of_what_it_holds(make, asked, change, mode):
    torch.manual_seed(0)
    law = make()
    asked = law if asked is None else asked
    value = law.sample()
    before = asked.log_prob(value)
    torch.testing.assert_close(before, asked.log_prob(value.clone()))
    change(value)
    found, copied = asked.log_prob(value), copy.deepcopy(asked).log_prob(value)
    expected = asked.log_prob(value.clone())
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(copied, expected)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_mixture_whose_parameters_move_is_the_mixture_of_now(batch, mode):
    loc, scale = torch.randn(4, 2).double(), torch.rand(4, 2).double() + 0.5
    law, x = LeafNormalMixture(loc, scale, torch.zeros(4).double().log_softmax(0)), torch.randn(*batch, 2).double()
    law.log_prob(x)
    for values in (loc, scale, law.log_weight):
        values += torch.rand_like(values)
        expected = LeafNormalMixture(loc.clone(), scale.clone(), law.log_weight.clone()).log_prob(x)
        torch.testing.assert_close(law.log_prob(x), expected)


def test_what_is_known_is_copied_with_the_value_unless_that_was_changed(mode):
    value = torch.zeros(2)
    known = Known(value, "zeros")
    again, its = copy.deepcopy((known, value))
    assert known.of(value) == again.of(its) == "zeros" and again.of(value) is None and known.of(its) is None
    value += 1
    again, its = copy.deepcopy((known, value))
    assert known.of(value) is None and again.of(its) is None and Known().of(value) is None
