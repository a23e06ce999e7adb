# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Broken sticks as priors."""

from __future__ import annotations

import pytest
import torch
from pyro.distributions import Dirichlet
from scipy.special import betaln

from pyro_spvae.distributions import stick_weights
from pyro_spvae.priors import StickBreaking, Sticks

SIZES = {"leaves": 2, "event_shape": (4,)}


@pytest.mark.parametrize("alpha0", [None, 0.5, 5.0])
def test_weights_of_a_process_are_expected_to_shrink_by_a_constant_factor(alpha0):
    """E pi_k = (1 / (1 + a)) (a / (1 + a))^(k - 1), and what is left."""
    a = 1.0 if alpha0 is None else alpha0
    prior = StickBreaking(alpha0).bind(**SIZES)
    rest = a / (1 + a)
    expected = torch.tensor([(1 - rest) * rest**k for k in range(3)] + [rest**3])
    torch.testing.assert_close(prior().mean, expected)
    torch.testing.assert_close(prior().sample((100_000,)).mean(0), expected, rtol=0, atol=5e-3)


def test_weights_of_a_distribution_are_alike():
    prior, twin = StickBreaking(alpha=0.6).bind(**SIZES), Dirichlet(torch.full((4,), 0.6))
    weights = twin.sample((20,))
    torch.testing.assert_close(prior().log_prob(weights), twin.log_prob(weights), rtol=1e-6, atol=1e-6)
    fractions = Sticks(alpha=0.6).bind(leaves=2, event_shape=(3,))().sample((100_000,))
    torch.testing.assert_close(stick_weights(fractions).mean(0), torch.full((4,), 0.25), rtol=0, atol=5e-3)


REFUSED = [
    (lambda: Sticks(0), "^alpha0 is 0; a positive number is needed$"),
    (lambda: Sticks(alpha=-1.0), "^alpha is -1.0; a positive number is needed$"),
    (lambda: StickBreaking(alpha0="1"), "^alpha0 is '1'; a positive number is needed$"),
    (lambda: Sticks(1.0, 2.0), "^alpha0 and alpha are both given; give that of a"),
    (
        lambda: StickBreaking().bind(leaves=1, event_shape=(1,)),
        "^a stick of one piece is given; at least two are needed$",
    ),
    (lambda: Sticks().bind(leaves=1, event_shape=(2, 2)), r"^Sticks is a prior of vectors, but .* the shape \[2, 2\]$"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("options", [{"alpha": 1e4}, {"alpha": 100.0}, {"alpha0": 1e5}, {"alpha0": 1e7}])
def test_normalisers_in_single_precision(options):
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        prior = Sticks(**options).bind(leaves=1, event_shape=(50,))
    finally:
        torch.set_default_dtype(default)
    first, second = (getattr(prior, name).double().numpy() for name in ("_first", "_second"))
    torch.testing.assert_close(
        prior._log_normaliser.double(), torch.from_numpy(betaln(first, second)), rtol=1e-6, atol=0
    )
