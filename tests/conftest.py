# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Every test runs in float64, seeded, with Pyro's validation on and an empty parameter store.

The suite is run by one worker a core (``make test``), and no test may depend on how fast the machine is.
"""

import os

# the tensors of tests are small: more threads only wait for each other, in the processes that tests start too
os.environ["OMP_NUM_THREADS"] = "1"

import pyro  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)
# an example takes as long as it takes
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def pyro_state():
    """A known state before each test, and the defaults after it."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.validation_enabled(True):
        yield
    pyro.clear_param_store()
    torch.set_default_dtype(dtype)
