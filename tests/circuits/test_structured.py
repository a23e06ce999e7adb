# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A circuit's state is that of its structure."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae import Circuit, random_binary_tree
from tests.helpers import small_spvae

REFUSAL = "^the state is of a Circuit of another structure, where parameters mean something else; make this one as"


def circuit(seed=0, units=2, **options):
    return Circuit(random_binary_tree(8, 2, 3, seed=seed), units, **options)


def test_parameters_of_another_random_structure_are_refused_although_they_fit():
    one, other = circuit(0), circuit(1)
    shapes = [{name: value.shape for name, value in made.named_parameters()} for made in (one, other)]
    assert shapes[0] == shapes[1]
    before = {name: value.clone() for name, value in other.named_parameters()}
    torch.nn.init.normal_(one.layers[0].logits)
    with pytest.raises(ValueError, match=REFUSAL):
        other.load_state_dict(one.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in other.named_parameters()), "nothing is half loaded"


@pytest.mark.parametrize("strict", [True, False])
def test_of_a_whole_model_too_and_nothing_is_half_loaded(strict):
    one, other = (small_spvae(random_binary_tree(8, 2, 3, seed=seed)) for seed in (0, 1))
    before = {name: value.clone() for name, value in other.named_parameters()}
    with pytest.raises(ValueError, match=REFUSAL):
        other.load_state_dict(one.state_dict(), strict=strict)
    assert all(torch.equal(value, before[name]) for name, value in other.named_parameters())


def test_options_belong_to_the_structure():
    """Of tied weights the number is the same on graphs that are taken apart alike."""
    with pytest.raises(ValueError, match=REFUSAL):
        circuit(weights="cp").load_state_dict(circuit(tie="shape").state_dict(), strict=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_same_structure_made_again_takes_them(dtype):
    one, other = circuit(), circuit()
    torch.nn.init.normal_(one.layers[0].logits)
    state = {name: value.to(dtype) for name, value in one.state_dict().items()}
    other.load_state_dict(state)
    assert torch.equal(other.layers[0].logits, one.layers[0].logits.to(dtype).to(other.layers[0].logits.dtype))


def test_states_that_name_no_structure_are_loaded():
    one, other = circuit(), circuit()
    torch.nn.init.normal_(one.layers[0].logits)
    state = one.state_dict()
    assert state.pop("_extra_state").dtype == torch.uint8
    assert other.load_state_dict(state).missing_keys == []
    assert torch.equal(other.layers[0].logits, one.layers[0].logits)
