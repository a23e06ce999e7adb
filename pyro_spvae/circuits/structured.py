# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Modules whose state says which structure their parameters belong to."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


class Structured(nn.Module):
    """A module whose parameters mean something in one structure alone, though others may give them the same shapes.

    Its state holds a digest of :meth:`structure`, and is loaded into the same structure only. States without one, of
    versions that kept none, are loaded as they are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_without)

    def structure(self) -> str:
        """The structure as a text, the same for equal ones."""
        raise NotImplementedError(f"{type(self).__name__} must define structure")

    def get_extra_state(self) -> Tensor:
        """The digest, ``uint8 [16]``; bytes, which stay what they are in every floating-point type."""
        digest = hashlib.sha256(self.structure().encode()).digest()[:16]
        return torch.tensor(list(digest), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Any) -> None:
        """
        :raises ValueError: if the digest is that of another structure; nothing is changed then.
        """
        if isinstance(state, Tensor) and state.is_meta:
            return
        given = state.tolist() if isinstance(state, Tensor) else state
        if given != self.get_extra_state().tolist():
            raise ValueError(
                f"the state is of a {type(self).__name__} of another structure, where parameters mean something else; "
                "make this one as that one was, with the same region graph (its to_json, or its seed) and options"
            )


def _without(module: nn.Module, keys: Any) -> None:
    """A digest that is missing is none that differs."""
    keys.missing_keys[:] = [key for key in keys.missing_keys if not key.endswith("_extra_state")]
