# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every objective of this package inherits the checks that one of a user's own does."""

from __future__ import annotations

import math

from pyro_spvae import CircuitELBO
from pyro_spvae.testing import ObjectiveTests


class TestImportanceWeighted(ObjectiveTests):
    def make(self):
        return CircuitELBO(3)


class TestLeafELBO(ObjectiveTests):
    def make(self):
        return CircuitELBO(3, alpha=1.0)


class TestAnalytic(ObjectiveTests):
    def make(self):
        return CircuitELBO(3, alpha=1.0, kl="analytic")


class TestRenyi(ObjectiveTests):
    def make(self):
        return CircuitELBO(3, alpha=0.5)


class TestLargestWeight(ObjectiveTests):
    is_lower_bound = False

    def make(self):
        return CircuitELBO(3, alpha=-math.inf)


class TestDoublyReparameterised(ObjectiveTests):
    def make(self):
        return CircuitELBO(3, gradient="dreg")


class TestAtTheRoot(ObjectiveTests):
    def make(self):
        return CircuitELBO(3, reduce="root")


class TestOneAfterTheOther(ObjectiveTests):
    def make(self):
        return CircuitELBO(3, vectorize_particles=False)
