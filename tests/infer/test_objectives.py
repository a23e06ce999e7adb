# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every objective of this package inherits the checks that one of a user's own does."""

from __future__ import annotations

import math

from pyro_spvae import CircuitELBO
from pyro_spvae.testing import ObjectiveTests


class CircuitELBOTests(ObjectiveTests):
    options = {}

    def make(self):
        return CircuitELBO(3, **self.options)


class TestImportanceWeighted(CircuitELBOTests):
    pass


class TestLeafELBO(CircuitELBOTests):
    options = {"alpha": 1.0}


class TestAnalytic(CircuitELBOTests):
    options = {"alpha": 1.0, "kl": "analytic"}


class TestRenyi(CircuitELBOTests):
    options = {"alpha": 0.5}


class TestLargestWeight(CircuitELBOTests):
    is_lower_bound = False
    options = {"alpha": -math.inf}


class TestDoublyReparameterised(CircuitELBOTests):
    options = {"gradient": "dreg"}


class TestAtTheRoot(CircuitELBOTests):
    options = {"reduce": "root"}


class TestOneAfterTheOther(CircuitELBOTests):
    options = {"vectorize_particles": False}
