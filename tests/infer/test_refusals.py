# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What CircuitELBO refuses, in one sentence that names the site or the option."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_spvae import CircuitELBO, InducedTree
from pyro_spvae.infer import sample_tree
from tests.helpers import small_spvae


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_particles": 0}, "num_particles is 0"),
            ({"num_particles": 2.5}, "num_particles is 2.5"),
            ({"alpha": math.nan}, "alpha is nan"),
            ({"gradient": "stl"}, "gradient is 'stl'; known are iwae, dreg"),
            ({"reduce": "sum"}, "reduce is 'sum'; known are leaf, root"),
            ({"gradient": "dreg", "alpha": 1.0}, "gradient='dreg' needs alpha=0"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            CircuitELBO(**options)

    def check_refused(self, model, guide, message, elbo=None):
        with pytest.raises(ValueError, match=message), pyro.validation_enabled(False):
            (elbo or CircuitELBO()).loss(model, guide, torch.randn(3, 1, 2, 2))

    def test_no_tree_and_two_trees(self):
        spvae = small_spvae()

        def two(x):
            spvae.model(x)
            with pyro.plate("data", dim=-2):
                sample_tree("second", InducedTree(spvae.circuit))

        def none(x):
            with pyro.plate("data", 3, dim=-2), pyro.plate("leaf", 8, dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))

        self.check_refused(two, spvae.guide, "exactly one InducedTree site in the model; found 'tree', 'second'")
        self.check_refused(none, spvae.guide, "exactly one InducedTree site in the model; found none")

    def test_tree_in_the_guide(self):
        spvae = small_spvae()

        def guide(x):
            spvae.guide(x)
            with pyro.plate("data", dim=-2):
                pyro.sample("tree", InducedTree(spvae.circuit).expand([3, 1]))

        self.check_refused(spvae.model, guide, "sums the tree site 'tree' out itself")

    def test_latent_that_the_guide_lacks(self):
        spvae = small_spvae()
        self.check_refused(spvae.model, lambda x: None, "latent site 'z' is not in the guide")

    def test_latent_outside_of_the_leaf_plate(self):
        spvae = small_spvae()

        def around(program, is_global):
            def run(x):
                if is_global:
                    pyro.sample("s", dist.Normal(0.0, 1.0))
                else:
                    with pyro.plate("data", dim=-2):
                        pyro.sample("s", dist.Normal(torch.zeros(3, 1), 1.0))
                program(x)

            return run

        elbo = CircuitELBO(2)
        self.check_refused(
            around(spvae.model, False), around(spvae.guide, False), "'s' lies outside the plate 'leaf'", elbo
        )
        self.check_refused(
            around(spvae.model, True), around(spvae.guide, True), "'s' lies outside the plate 'data'", elbo
        )
        joint = CircuitELBO(2, reduce="root")
        value = joint.loss(around(spvae.model, False), around(spvae.guide, False), torch.randn(3, 1, 2, 2))
        assert math.isfinite(value)

    def test_site_outside_that_depends_on_the_leaves(self):
        spvae = small_spvae()

        def model(x):
            with poutine.trace() as tracer:
                spvae.model(x)
            z = tracer.trace.nodes["z"]["value"]
            with pyro.plate("data", dim=-2):
                pyro.sample("y", dist.Normal(z.sum((-1, -2)).unsqueeze(-1), 1.0), obs=torch.zeros(3, 1))

        self.check_refused(
            model, spvae.guide, "depends on latent variables inside it; pass reduce='root'", CircuitELBO(2)
        )
        assert math.isfinite(CircuitELBO(2, reduce="root").loss(model, spvae.guide, torch.randn(3, 1, 2, 2)))

    def test_scale_on_the_tree(self):
        spvae = small_spvae()
        self.check_refused(poutine.scale(spvae.model, 0.5), spvae.guide, "a poutine.scale reaches the tree site 'tree'")
