# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""torchvision's data sets can be had whether or not its compiled operators load into this build of torch.

Each case runs in a process of its own, because an import and an operator's declaration cannot be undone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyro_spvae.data._torchvision import torchvision_datasets

REPOSITORY = Path(__file__).parents[2]

# What torchvision does on import where its operators do not load: a rule for operators that nobody declared.
RULES = """
import torch
import torchvision.first
for operator in {operators}:
    torch.library.register_fake(f"torchvision::{{operator}}")(lambda dets, scores, iou_threshold: dets)
"""


def run(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that finds this repository and before it the folders."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*path, REPOSITORY])), "PYTHONWARNINGS": "error"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=1200)


def fake_torchvision(folder: Path, init: str) -> Path:
    """A package ``torchvision`` whose ``__init__`` runs ``init``."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(init)
    (package / "first.py").write_text("")
    (package / "datasets.py").write_text("import torchvision\nimport torchvision.first\nMNIST = 'the data set'\n")
    return folder


def test_installed_torchvision() -> None:
    result = run(
        "from pyro_spvae.data._torchvision import torchvision_datasets\n"
        "datasets = torchvision_datasets()\n"
        "assert datasets is torchvision_datasets()\n"
        "assert issubclass(datasets.MNIST, datasets.VisionDataset)\n"
        "import torchvision, torchvision.transforms\n"
        "assert torchvision.datasets is datasets\n"
    )
    assert result.returncode == 0, result.stderr


def test_operators_that_load_are_left_alone() -> None:
    if "torchvision" not in sys.modules:
        torchvision_datasets()
    extension = sys.modules["torchvision.extension"]
    if not extension._has_ops():
        pytest.skip("the operators of the installed torchvision do not load into the installed torch")
    result = run(
        "from pyro_spvae.data import _torchvision\n"
        "_torchvision.torchvision_datasets()\n"
        "assert _torchvision._declare.cache_info().currsize == 0\n"
        "import torch, torchvision\n"
        "boxes = torch.tensor([[0., 0., 1., 1.], [0., 0., 1., 1.]])\n"
        "assert torchvision.ops.nms(boxes, torch.tensor([.5, .9]), .5).tolist() == [1]\n"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("operators", [["nms"], ["nms", "qnms"], ["another"]])
def test_missing_operators_are_declared(tmp_path: Path, operators: list[str]) -> None:
    result = run(
        "from pyro_spvae.data import _torchvision\n"
        "assert _torchvision.torchvision_datasets().MNIST == 'the data set'\n"
        "assert _torchvision._declare.cache_info().currsize > 0\n",
        fake_torchvision(tmp_path, RULES.format(operators=operators)),
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "init, error",
    [
        ("RuntimeError('operator other::nms does not exist')", "RuntimeError: operator other::nms does not exist"),
        ("RuntimeError('out of luck')", "RuntimeError: out of luck"),
        ("ImportError('half installed')", "ImportError: half installed"),
        # declaring it does not help: the second time the error is passed on, and nothing goes on for ever
        (
            "RuntimeError('operator torchvision::roi does not exist')",
            "RuntimeError: operator torchvision::roi does not",
        ),
        # a new operator is missing each time
        (
            "RuntimeError(f'operator torchvision::n{uuid.uuid4().hex} does not exist')",
            "RuntimeError: operator torchvision::n",
        ),
    ],
)
def test_other_errors_pass_through(tmp_path: Path, init: str, error: str) -> None:
    result = run(
        "from pyro_spvae.data._torchvision import torchvision_datasets\ntorchvision_datasets()",
        fake_torchvision(tmp_path, f"import uuid; raise {init}"),
    )
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith(error)
