# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""torchvision's data sets, also beside a build of torch that its compiled operators do not load into."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from types import ModuleType

import torch

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
# Declared together, because torch 2.4 takes no rule twice: after a second failure the retry could not succeed there.
_KNOWN_MISSING = ("nms", "qnms")
_MAX_OPERATORS = 32


def torchvision_datasets() -> ModuleType:
    """The module ``torchvision.datasets``.

    torchvision's usual wheels are compiled against torch with CUDA. Beside a CPU-only torch their operators cannot be
    loaded, and then even ``import torchvision`` fails, because it registers shape rules for operators (``nms``,
    ``qnms``) that nobody declared. The data sets are pure Python and need none of them: what is missing is declared
    here, without an implementation, and the import is tried again. Where the operators load, nothing happens.

    :raises RuntimeError: torchvision's own, if another thing is wrong with it.
    :raises ImportError: if torchvision is not installed.
    """
    declared: set[str] = set()
    while True:
        try:
            return importlib.import_module("torchvision.datasets")
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None or missing[1] in declared or len(declared) >= _MAX_OPERATORS:
                raise
            for operator in {missing[1], *_KNOWN_MISSING} - declared:
                _declare(operator)
                declared.add(operator)
            for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[module]  # a half-imported package would be taken for the whole one


@functools.cache  # a declaration ends with its library, so the library is kept
def _declare(operator: str) -> torch.library.Library:
    """Declare ``torchvision::operator`` for as long as the process lives.

    The signature is that of non-maximum suppression, which is what the known cases are; it is never called.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
