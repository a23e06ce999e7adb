# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Standard deviations from unconstrained outputs, and back."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_spvae.blocks.scale import check_scale, positive_scale, raw_scale

KINDS = ("softplus", "precision", "exp", "logvar")
BY_HAND = {
    "softplus": lambda s, floor: floor + (math.log1p(math.exp(s)) if s < 700 else s),
    "precision": lambda s, floor: max(floor, 1 / math.sqrt(1 + s * s)),
    "exp": lambda s, floor: max(floor, math.exp(s)) if s < 700 else math.inf,
    # half of a log-variance between -6 and 2, as the VampPrior paper's code has it: 0.0498 to 2.718
    "logvar": lambda s, floor: max(floor, math.exp(min(max(s, -6), 2) / 2)),
}


class TestPositiveScale:
    def test_default_floor(self):
        assert check_scale("softplus", None) == 1e-3 and check_scale("precision", None) == 0.0
        assert check_scale("exp", None) == check_scale("logvar", None) == 0.0
        assert check_scale("precision", 1) == 1.0

    @pytest.mark.parametrize("floor", [0.0, 1e-3, 0.5])
    @pytest.mark.parametrize("kind", KINDS)
    def test_by_hand(self, kind, floor):
        raw = torch.tensor([-800.0, -30.0, -6.1, -5.9, -1.0, 0.0, 0.5, 1.9, 2.1, 30.0, 800.0])
        expected = torch.tensor([BY_HAND[kind](s, floor) for s in raw.tolist()])
        torch.testing.assert_close(positive_scale(raw, kind, floor), expected)

    def test_logvar_has_no_gradient_outside_its_range(self):
        raw = torch.tensor([-7.0, -5.0, 1.0, 3.0], requires_grad=True)
        positive_scale(raw, "logvar", 0.0).sum().backward()
        expected = torch.tensor([0.0, math.exp(-2.5) / 2, math.exp(0.5) / 2, 0.0])
        torch.testing.assert_close(raw.grad, expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradient(self, kind):
        raw = torch.tensor([-2.0, -0.3, 0.4, 3.0], requires_grad=True)
        assert torch.autograd.gradcheck(lambda s: positive_scale(s, kind, 0.0), raw)


FLOOR = "a number of at least 0 is needed"
REFUSED = [
    ("log", 0.0, "scale is 'log'; known are softplus, precision, exp, logvar"),
    (["softplus"], 1.0, r"scale is \['softplus'\]; known are softplus, precision, exp, logvar"),
    ("softplus", -1.0, f"min_scale is -1.0; {FLOOR}"),
    ("softplus", math.inf, f"min_scale is inf; {FLOOR}"),
    ("softplus", math.nan, f"min_scale is nan; {FLOOR}"),
    ("softplus", "1", f"min_scale is '1'; {FLOOR}"),
    ("precision", True, f"min_scale is True; {FLOOR}"),
]


@pytest.mark.parametrize(("kind", "floor", "message"), REFUSED)
def test_refused(kind, floor, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_scale(kind, floor)


class TestRawScale:
    @pytest.mark.parametrize("floor", [0.0, 0.1])
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_the_inverse(self, kind, floor):
        low = 0.051 if kind == "logvar" else 0.001
        scale = floor + torch.linspace(low, 0.85, 50)
        raw = raw_scale(scale, kind, floor)
        torch.testing.assert_close(positive_scale(raw, kind, floor), scale)
        if kind == "softplus":
            torch.testing.assert_close(positive_scale(raw_scale(40 * scale, kind, floor), kind, floor), 40 * scale)

    @pytest.mark.parametrize(
        ("kind", "floor", "scale", "nearest"),
        [
            ("softplus", 0.1, 0.0, 0.1 + 1e-6),
            ("softplus", 0.0, 0.0, 1e-6),
            ("precision", 0.1, 0.0, 0.1),
            ("precision", 0.0, 0.0, 1e-6),
            ("precision", 0.0, 3.0, 1 - 1e-6),
            ("exp", 0.1, 0.0, 0.1),
            ("exp", 0.0, 0.0, 1e-6),
            ("exp", 0.0, 1e6, 1e6),
            ("logvar", 0.1, 0.0, 0.1),
            ("logvar", 0.0, 0.0, math.exp(-3 + 5e-7)),
            ("logvar", 0.0, 3.0, math.exp(1 - 5e-7)),
        ],
    )
    def test_goes_to_the_nearest(self, kind, floor, scale, nearest):
        raw = raw_scale(torch.tensor([scale]), kind, floor)
        assert raw.isfinite().all()
        torch.testing.assert_close(positive_scale(raw, kind, floor), torch.tensor([nearest]), rtol=1e-9, atol=0)
