# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""torchvision's data sets can be had whether or not its compiled operators load into this build of torch.

Each case runs in a process of its own, because an import and an operator's declaration cannot be undone.
"""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from pyro_spvae.data import _torchvision
from pyro_spvae.data._torchvision import torchvision_datasets
from tests.cli_cases import Forked

# What torchvision does on import where its operators do not load: a rule for operators that nobody declared.
RULES = """
import torch
import torchvision.first
for operator in {operators}:
    torch.library.register_fake(f"torchvision::{{operator}}")(lambda dets, scores, iou_threshold: dets)
"""


def installed():
    assert "torchvision" not in sys.modules
    warnings.simplefilter("error")
    datasets = torchvision_datasets()
    assert datasets is torchvision_datasets()
    assert issubclass(datasets.MNIST, datasets.VisionDataset)
    import torchvision
    import torchvision.transforms

    assert torchvision.datasets is datasets
    if torchvision.extension._has_ops():  # operators that load are left alone
        assert _torchvision._declare.cache_info().currsize == 0
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(2, 1)
        assert torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5).tolist() == [1]


def fake(folder):
    """Imports a package ``torchvision`` out of a folder."""
    assert "torchvision" not in sys.modules
    warnings.simplefilter("error")
    sys.path.insert(0, str(folder))
    assert torchvision_datasets().MNIST == "the data set"
    assert _torchvision._declare.cache_info().currsize > 0


@pytest.fixture
def import_fake(tmp_path):
    def run(init):
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text(init)
        (package / "first.py").write_text("")
        (package / "datasets.py").write_text("import torchvision\nimport torchvision.first\nMNIST = 'the data set'\n")
        return Forked(fake, tmp_path, after=1200)

    return run


def test_installed_torchvision():
    Forked(installed).succeed()


@pytest.mark.parametrize("operators", [["nms"], ["nms", "qnms"], ["another"]])
def test_missing_operators_are_declared(import_fake, operators):
    import_fake(RULES.format(operators=operators)).succeed()


@pytest.mark.parametrize(
    "error",
    [
        "RuntimeError: operator other::nms does not exist",
        "RuntimeError: out of luck",
        "ImportError: half installed",
        # declaring it does not help: the second time the error is passed on, and nothing goes on for ever
        "RuntimeError: operator torchvision::roi does not exist",
        "RuntimeError: operator torchvision::n{uuid.uuid4().hex} does not exist",  # a new one is missing each time
    ],
)
def test_other_errors_pass_through(import_fake, error):
    kind, message = error.split(": ", 1)
    done = import_fake(f"import uuid; raise {kind}(f'{message}')")
    assert done.codes == [1]
    assert done.stderr.strip().splitlines()[-1].startswith(error.partition("{")[0])
