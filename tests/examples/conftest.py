# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What tests of scripts share."""

import pytest
import torch


@pytest.fixture
def single(pyro_state):
    """Single precision, in which scripts start."""
    torch.set_default_dtype(torch.float32)
