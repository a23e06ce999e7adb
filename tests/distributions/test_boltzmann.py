# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Energies, normalisers and laws of Boltzmann machines, by listing all states."""

from __future__ import annotations

import re

import pytest
import torch

from pyro_spvae.distributions.boltzmann import (
    Boltzmann,
    GeneralMachine,
    RestrictedMachine,
    annealed_importance_sampling,
    enumeration,
    log_normaliser,
)
from tests.distributions.boltzmann_cases import KINDS, check_frequencies, energies, every, law, machine, masses

SIDES = [(3, 3), (2, 4), (4, 2), (1, 3), (5, 1)]
CASES = [(restricted, *sides) for restricted in KINDS.values() for sides in SIDES]


def test_energies_by_hand():
    z = torch.tensor([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    restricted = RestrictedMachine(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[[10.0, 20.0]]]))
    assert restricted.energy(z.unsqueeze(1)).flatten().tolist() == [-25.0, -37.0]
    j = torch.tensor([[[7.0, 10.0, 20.0], [7.0, 7.0, 40.0], [7.0, 7.0, 7.0]]])  # sevens do not count
    general = GeneralMachine(torch.tensor([[1.0, 2.0, 4.0]]), j)
    assert general.energy(z.unsqueeze(1)).flatten().tolist() == [-25.0, -77.0]
    assert torch.equal(general.couplings[0], torch.tensor([[0.0, 10, 20], [10, 0, 40], [20, 40, 0]]))


@pytest.mark.parametrize(("restricted", "left", "right"), CASES)
def test_energies_and_the_exact_normaliser(restricted, left, right):
    made = machine(restricted, left, right)
    z = every(left + right)
    expected = energies(made, z)
    torch.testing.assert_close(made.energy(z.unsqueeze(1).expand(-1, 2, -1)), expected)
    log_z = (-expected).logsumexp(0)
    torch.testing.assert_close(log_normaliser(made), log_z)
    torch.testing.assert_close(law(made).log_prob(z.unsqueeze(1)), -expected - log_z)
    torch.testing.assert_close(law(made).mean, masses(made).T @ z)


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
def test_normaliser_in_chunks_and_its_gradient(restricted, monkeypatch):
    made = machine(restricted)
    weights = [value.requires_grad_() for value in (made.bias, made.weight)]
    expected = torch.autograd.grad((-energies(made, every(6))).logsumexp(0).sum(), weights)
    for at_once in (2**21, 40):
        monkeypatch.setattr(enumeration, "_AT_ONCE", at_once)
        found = log_normaliser(made)
        for own, other in zip(torch.autograd.grad(found.sum(), weights), expected, strict=True):
            torch.testing.assert_close(own, other)
        with torch.no_grad():
            torch.testing.assert_close(log_normaliser(made), found.detach())
    assert len(list(enumeration.chunks(made))) > 1


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
def test_gradients_do_not_leave_what_counts(restricted):
    """No coupling of a unit with itself, nor one that counts twice."""
    made = machine(restricted)
    weight = made.weight.clone().requires_grad_()
    (grad,) = torch.autograd.grad(type(made)(made.bias, weight).energy(torch.ones(2, 6)).sum(), weight)
    expected = -torch.ones(2, 3, 3) if restricted else -torch.ones(2, 6, 6).triu(1)
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
def test_the_mean_energy_of_states_and_its_gradient(restricted):
    made = machine(restricted)
    weights = [value.requires_grad_() for value in (made.bias, made.weight)]
    chains = torch.rand(2, 50, 6) < 0.4
    found = made.expected_energy(chains)
    expected = made.energy(chains.double().transpose(0, 1)).mean(0)
    torch.testing.assert_close(found, expected)
    direction = torch.randn(2)
    grads = (torch.autograd.grad((direction * value).sum(), weights) for value in (found, expected))
    for own, other in zip(*grads, strict=True):
        torch.testing.assert_close(own, other)


class TestLaw:
    @pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
    @pytest.mark.parametrize("listed", [10, 0], ids=["exact", "Gibbs"])
    def test_samples_follow_the_masses(self, restricted, listed, monkeypatch):
        monkeypatch.setattr("pyro_spvae.distributions.boltzmann.boltzmann.LISTED_UNITS", listed)
        made = machine(restricted, 2, 2)
        for chains in (None, torch.rand(2, 3, 4) < 0.5):
            drawn = law(made, chains=chains).expand((5, 2)).sample((4000,))
            assert drawn.shape == (4000, 5, 2, 4)
            check_frequencies(drawn.flatten(0, 1).transpose(0, 1), masses(made))

    def test_starts_are_taken_equally_often(self, monkeypatch):
        """Without sweeps that move them draws are the starts."""
        monkeypatch.setattr("pyro_spvae.distributions.boltzmann.boltzmann.LISTED_UNITS", 0)
        made = machine(left=4, right=4, leaves=1)
        chains = every(8)[torch.randperm(256)[:20]].unsqueeze(0)
        drawn = law(made, chains=chains, sweeps=0).expand((50, 1)).sample().squeeze(1)
        counts = (drawn.unsqueeze(1) == chains).all(-1).sum(0)
        assert counts.sum() == 50 and counts.min() == 2 and counts.max() == 3

    @pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
    def test_leaves_are_as_if_alone(self, restricted):
        made = machine(restricted, leaves=3)
        z = (torch.rand(5, 3, 6) < 0.5).double()
        together = law(made).log_prob(z)
        for leaf in range(3):
            alone = law(type(made)(made.bias[leaf : leaf + 1], made.weight[leaf : leaf + 1]))
            torch.testing.assert_close(alone.log_prob(z[:, leaf : leaf + 1]), together[:, leaf : leaf + 1])

    def test_one_leaf_expands_to_several(self):
        one = law(machine(leaves=1)).expand((7, 3))
        z = one.sample((2,))
        assert z.shape == (2, 7, 3, 6) and one.log_prob(z).shape == (2, 7, 3)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_densities_of_half_precision_are_computed_in_single(self, dtype):
        made = machine(left=4, right=4, scale=3.0).precise(dtype)
        law_, exact = law(made), law(made.precise(torch.float64))
        z = (torch.rand(9, 2, 8) < 0.5).to(dtype)
        found = law_.log_prob(z)
        assert found.dtype == torch.float32 and law_.sample().dtype == dtype
        torch.testing.assert_close(found.double(), exact.log_prob(z.double()), rtol=1e-5, atol=1e-5)

    def test_detached_it_has_the_same_density_without_gradients(self):
        made = machine()
        bias = made.bias.requires_grad_()
        whole = law(made)
        z = (torch.rand(4, 2, 6) < 0.5).double()
        assert whole.log_prob(z).requires_grad and not whole.detach().log_prob(z).requires_grad
        assert torch.equal(whole.detach().log_prob(z), whole.log_prob(z)) and bias.grad is None

    def test_a_mean_that_is_not_known_says_so(self):
        with pytest.raises(NotImplementedError, match="many units"):
            law(machine(left=11, right=11), log_z=torch.zeros(2)).mean  # noqa: B018


def of_shape(*shape):
    return lambda: Boltzmann(torch.zeros(2, 5), torch.zeros(shape))


REFUSED = {
    "sides": (
        of_shape(2, 2, 2),
        r"^weight of Boltzmann has the shape \[2, 2, 2\] beside a bias of \[2, 5\]; \[2, left",
    ),
    "leaves": (of_shape(3, 2, 3), r"\[2, left, right\] with sides that add up to 5 is needed$"),
    "general": (
        lambda: Boltzmann(torch.zeros(2, 5), torch.zeros(2, 2, 3), restricted=False),
        r"\[2, 5, 5\] is needed$",
    ),
    "states": (
        lambda: log_normaliser(machine(left=26, right=27)),
        r"^a Boltzmann machine whose smaller side has 26 units is given, of which 2\^26 states would have to be "
        r"listed; at most 2\^25 can be",
    ),
    "all states": (lambda: log_normaliser(machine(False, 20, 6)), "has 26 units"),
    **{
        f"{number} {name}": (
            lambda name=name, number=number: annealed_importance_sampling(machine(), **{name: number}),
            f"^{name} of annealed importance sampling is {re.escape(repr(number))}; an integer of at least 2 is",
        )
        for name in ("temperatures", "chains")
        for number in (1, 0, 2.0, True)
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()
