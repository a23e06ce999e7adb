# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Inherited test cases: a part of one's own inherits what the parts of this package are tested by. They need pytest.

Each class states what a kind of part must do; a subclass says how to make one. In twenty lines a new prior, likelihood,
network, leaf pair or objective has some fifteen checks each: densities that are normalised, samples that follow them,
leaves that are as if alone, masks that count for nothing, bounds below the evidence, saving and loading.

Example::

    >>> from pyro_spvae.testing import PriorTests
    >>> class TestMyPrior(PriorTests):
    ...     def make(self):
    ...         return MixtureOfGaussians(components=3)  # or a prior of one's own
    >>> len([name for name in dir(TestMyPrior) if name.startswith("test_")]) > 10
    True

Tests run in whatever floating-point type is torch's default; float64 is recommended
(``torch.set_default_dtype(torch.float64)`` in a fixture).
"""

import pyro_spvae.testing.asserts  # noqa: F401  before the others
from pyro_spvae.testing.block_tests import BlockTests
from pyro_spvae.testing.leaf_pair_tests import LeafPairTests
from pyro_spvae.testing.likelihood_tests import LikelihoodTests
from pyro_spvae.testing.network_tests import NetworkTests
from pyro_spvae.testing.objective_tests import ObjectiveTests
from pyro_spvae.testing.prior_tests import DiscretePriorTests, PriorTests

__all__ = [
    "BlockTests",
    "DiscretePriorTests",
    "LeafPairTests",
    "LikelihoodTests",
    "NetworkTests",
    "ObjectiveTests",
    "PriorTests",
]
