# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a VampPrior refuses, in one sentence."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides import HierarchicalGuide, NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE, SPVAE, VAE
from pyro_spvae.nn import MLP
from pyro_spvae.priors import VampPrior
from tests.helpers import small_spvae
from tests.models import own_parts
from tests.priors.vamp_cases import GRID


class OtherSize(NormalGuide):
    """A posterior of another size than the site."""

    def posterior(self, x):
        q = self.encode(x)
        return LeafNormal(q.loc[..., :1], q.scale[..., :1])


class NotNormal(NormalGuide):
    def posterior(self, x):
        q = self.encode(x)
        return dist.Normal(q.loc, q.scale).to_event(1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"components": 0}, "components is 0; a positive integer is needed"),
            ({"components": -3}, "components is -3; a positive integer is needed"),
            ({"components": 2.0}, "components is 2.0; a positive integer is needed"),
            ({"components": True}, "components is True; a positive integer is needed"),
            (
                {"components": 4, "data": torch.zeros(3, 1, 2, 2)},
                "components is 4, but there are 3 data; at most as many as data are accepted",
            ),
            (
                {"data": torch.zeros(0, 4)},
                r"data is of shape \[0, 4\]; a tensor \[rows, \.\.\] of at least one datum is",
            ),
            (
                {"data": torch.zeros(4)},
                r"data is of shape \[4\]; a tensor \[rows, \.\.\] of at least one datum is needed",
            ),
            ({"data": [[0.0]]}, r"data is a list; a tensor \[rows, \.\.\] of at least one datum is needed"),
            ({"data": torch.full((2, 2), torch.nan)}, "data hold NaN or infinite values; finite values are needed"),
            ({"data": torch.zeros(3, 4), "init": "normal"}, "init is 'normal', but data are given, from which"),
            ({"init": "random"}, "init is 'random'; known are normal, data"),
            ({"frozen": True}, "frozen is True, but init is 'normal'; frozen pseudo-inputs are data: give data, or"),
            ({"frozen": 1}, "frozen is 1; True or False is needed"),
            ({"mean": math.inf}, "mean is inf; a finite number is needed"),
            ({"mean": "0"}, "mean is '0'; a finite number is needed"),
            ({"std": -0.1}, "std is -0.1; a number of at least 0 is needed"),
            ({"std": math.nan}, "std is nan; a number of at least 0 is needed"),
            ({"range": (1.0, 0.0)}, r"range is \(1.0, 0.0\); two finite numbers, the smaller one first, are needed"),
            ({"range": (0.0, 0.0)}, r"range is \(0.0, 0.0\); two finite numbers"),
            ({"range": (0.0,)}, r"range is \(0.0,\); two finite numbers"),
            ({"range": (-math.inf, 0.0)}, r"range is \(-inf, 0.0\); two finite numbers"),
            ({"range": 1.0}, "range is 1.0; two finite numbers"),
            ({"weights": "equal"}, "weights is 'equal'; known are uniform, learned"),
            ({"weights": None}, "weights is None; known are uniform, learned"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=f"^{message}") as error:
            VampPrior(**options)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("shape", [(3, 2, 2), (3, 1, 2, 3), (3, 4), (3, 1, 1, 2, 2), (4, 4, 1, 1)])
    def test_data_of_another_shape(self, shape):
        message = r"^data have shape .*; the model's region graph and channels need \[data, 1, 2, 2\]$"
        with pytest.raises(ValueError, match=message):
            small_spvae(prior=VampPrior(data=torch.zeros(shape)))

    @pytest.mark.parametrize(
        ("guide", "message"),
        [
            (
                lambda: HierarchicalGuide(order="bottom-up"),
                r"a VampPrior needs q\(z2 \| x\), which the order bottom-up has not; choose order='top-down'",
            ),
            (
                own_parts.LinearGuide,
                r"the guide LinearGuide has no encoder that a VampPrior could use; define posterior\(self, x\), or "
                "choose another prior",
            ),
            (
                OtherSize,
                "the guide's posterior has latent size 1, but the prior's is 2; one size is needed",
            ),
            (NotNormal, "a VampPrior needs a guide whose posterior is a LeafNormal, but it is a Independent"),
        ],
    )
    def test_guides_that_do_not_fit_when_the_model_is_made(self, guide, message):
        for prior in (VampPrior(3), VampPrior(3, init="data")):
            leaf = HVAE(Normal(), prior=prior) if "z2" in message else VAE(Normal(), 2, (3,), prior)
            with pytest.raises(ValueError, match=f"^{message}$"):
                SPVAE(GRID, leaf=leaf, guide=guide())

    @pytest.mark.parametrize(
        ("use", "message"),
        [
            (
                lambda: VampPrior(3).bind(leaves=1, event_shape=(2,), pixels=4)(),
                "this VampPrior has no encoder; pass it",
            ),
            (
                lambda: VAE(Normal(), prior=VampPrior(3)).bind(leaves=1, pixels=4)(),
                "this VampPrior has no encoder; pass",
            ),
            (
                lambda: VampPrior(3).bind(leaves=1, event_shape=(), pixels=4),
                "a VampPrior is a prior of vectors, but the",
            ),
            (lambda: [small_spvae(prior=prior) for prior in 2 * [VampPrior(3)]], "this VampPrior is bound already"),
            (lambda: small_spvae(prior=VampPrior), "prior is the class VampPrior; an instance of Prior is needed$"),
        ],
    )
    def test_uses(self, use, message):
        with pytest.raises((TypeError, ValueError), match=f"^{message}"):
            use()

    def test_trying_the_encoder_leaves_no_trace(self):
        """Making a model asks the encoder once, without learning statistics from it."""

        class Normalised(MLP):
            def build(self, leaves, inputs, outputs):
                super().build(leaves, inputs, outputs)
                self.norm = nn.BatchNorm1d(leaves)

            def forward(self, x):
                return super().forward(self.norm(x))

        guide = NormalGuide(encoder=Normalised((3,)))
        SPVAE(GRID, leaf=VAE(Normal(), 2, (3,), VampPrior(3)), guide=guide)
        assert guide.z.network.norm.num_batches_tracked == 0 and guide.training
