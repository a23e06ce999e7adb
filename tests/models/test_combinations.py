# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The README's table of what goes together: every leaf with every prior under every objective."""

from __future__ import annotations

import pyro
import pytest
import torch

from pyro_spvae.circuits import poon_domingos, whole
from pyro_spvae.guides import HierarchicalGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, SPVAE, VAE
from pyro_spvae.nn import MultiScale, PixelCNN
from pyro_spvae.priors import MixtureOfGaussians, StandardNormal, VampPrior
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.objective import build_loss, build_objective, check_objective

LEAVES = {
    "vae": lambda prior: (VAE(Bernoulli(), 2, (5,), prior), NormalGuide((5,))),
    "hvae": lambda prior: (HVAE(Bernoulli(), 3, 2, (5,), prior), HierarchicalGuide((5,))),
    "hvae-bottom-up": lambda prior: (
        HVAE(Bernoulli(), 3, 2, (5,), prior, skip=False),
        HierarchicalGuide((5,), order="bottom-up"),
    ),
    "vae-pixelcnn": lambda prior: (
        VAE(Bernoulli(), 2, prior=prior, decoder=PixelCNN(filters=3, layers=2)),
        NormalGuide((5,)),
    ),
    "hvae-pixelcnn": lambda prior: (
        HVAE(Bernoulli(), 3, 2, prior=prior, decoder=PixelCNN(filters=3, layers=2)),
        HierarchicalGuide((5,)),
    ),
    "vae-multi-scale": lambda prior: (
        VAE(Bernoulli(), 2, prior=prior, decoder=MultiScale(smallest=2, filters=2, blocks=1)),
        NormalGuide((5,)),
    ),
}
PRIORS = {
    "standard": lambda x: StandardNormal(),
    "mog": lambda x: MixtureOfGaussians(3),
    "vamp": lambda x: VampPrior(3),
    "vamp-data": lambda x: VampPrior(data=x[:3]),
}
OURS = [
    {"objective": "iwae"},
    {"objective": "elbo"},
    {"objective": "renyi", "alpha": 0.5},
    {"objective": "vr-max"},
    {"objective": "iwae", "gradient": "dreg"},
    {"objective": "elbo", "kl": "analytic"},
]
PYROS = [{"objective": name} for name in ("trace-elbo", "trace-mean-field-elbo", "pyro-renyi-elbo")]


WHOLE, CIRCUIT = whole((4, 4)), poon_domingos((4, 4), 2)
CELLS = [(leaf, prior) for leaf in LEAVES for prior in PRIORS if leaf != "hvae-bottom-up" or "vamp" not in prior]
EVIDENCE = {}  # of models that are drawn alike
IN_ORDER = (  # what needs one order of latent variables
    ("analytic", "kl='analytic'"),
    ("trace-mean-field-elbo", "objective is 'trace-mean-field-elbo'; TraceMeanField_ELBO"),
)


def build(regions, leaf, prior, x):
    program, guide = LEAVES[leaf](PRIORS[prior](x))
    return SPVAE(regions, units=1 if regions is WHOLE else 2, leaf=program, guide=guide).eval()


@pytest.mark.parametrize(("leaf", "prior"), CELLS)
class TestCombinations:
    x = (torch.arange(5 * 16).reshape(5, 1, 4, 4) % 3 == 0).double()

    def check(self, regions, leaf, prior, options):
        """The loss is minus a bound on the average, and its gradient reaches every parameter."""
        spvae = build(regions, leaf, prior, self.x)
        with pyro.settings.context(module_local_params=True):
            config = FitConfig(particles=4, **options)
            check_objective(config, spvae, self.x)
            loss = build_loss(build_objective(config), spvae.model, spvae.guide)
            loss(self.x).backward()
            with torch.no_grad():
                bounds = -torch.stack([loss(self.x) for _ in range(10)])
        untouched = [name for name, p in spvae.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not untouched
        if options["objective"] != "vr-max":  # which is no lower bound
            place = regions is WHOLE, leaf, prior
            if place not in EVIDENCE:
                EVIDENCE[place] = spvae.log_likelihood(self.x, num_samples=2000).sum()
            assert bounds.mean() < EVIDENCE[place] + 4 * bounds.std() / 10**0.5 + 0.05

    def check_or_refused(self, regions, leaf, prior, options):
        refused = leaf == "hvae-bottom-up" and next((text for name, text in IN_ORDER if name in options.values()), None)
        if refused:
            with pytest.raises(ValueError, match=f"^{refused} cannot train a guide that draws z1, z2 in"):
                self.check(regions, leaf, prior, options)
        else:
            self.check(regions, leaf, prior, options)

    @pytest.mark.parametrize("options", OURS, ids=lambda options: "-".join(map(str, options.values())))
    @pytest.mark.parametrize("regions", [CIRCUIT, WHOLE], ids=["circuit", "whole"])
    def test_ours(self, regions, leaf, prior, options):
        self.check_or_refused(regions, leaf, prior, options)

    @pytest.mark.parametrize("options", PYROS, ids=lambda options: options["objective"])
    def test_pyros(self, leaf, prior, options):
        self.check_or_refused(WHOLE, leaf, prior, options)


@pytest.mark.parametrize("prior", ["vamp", "vamp-data"])
def test_the_vamp_prior_needs_the_upper_layers_posterior(prior):
    with pytest.raises(ValueError, match="^a VampPrior needs q"):
        build(CIRCUIT, "hvae-bottom-up", prior, TestCombinations.x)
