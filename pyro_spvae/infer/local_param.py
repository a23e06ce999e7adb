# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Running programs without leaving parameters in the global store."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor


class LocalParamMessenger(Messenger):
    """
    Answers parameter statements with the module's own tensors and hides all statements from handlers further out.

    Evaluation uses it, so that a model that is only looked at does not claim names in Pyro's global parameter store,
    where ``SVI`` would find them when it trains another model.
    """

    def _pyro_param(self, msg: Any) -> None:
        if len(msg["args"]) > 1 and isinstance(msg["args"][1], Tensor):
            msg["value"] = msg["args"][1]

    def _process_message(self, msg: Any) -> None:
        super()._process_message(msg)
        msg["stop"] = True
