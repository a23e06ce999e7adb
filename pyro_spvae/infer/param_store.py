# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro's global parameter store beside a module that owns its parameters: what it must not hold in their place."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from pyro.params.param_store import param_with_module_name
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_OF_MODELS = WeakIdKeyDictionary()  # parameters of models that were run; others in the store were loaded into it
_KEPT = "_first_in_store"


def check_param_store(root: PyroModule) -> None:
    """
    Refuses a parameter store that holds other tensors by the names of a model's parameters, where that would go wrong
    without a word.

    A program of modules states its parameters by name, and computes with its own. If the store holds other tensors by
    these names, ``SVI`` trains them and not the model; and where they were loaded from a file
    (``pyro.get_param_store().load``), the model stays as it is. Those of another model do no harm where nothing is
    trained. Under ``module_local_params`` there is no global store.

    All names are looked at when their number in the store has changed, else the first of each module.

    :param PyroModule root: the module whose parameters its children hold.
    :raises ValueError: if SVI would train another tensor, or a tensor of another value was loaded into the store.
    """
    if pyro.settings.get("module_local_params"):
        return
    parameters: Any = pyro.get_param_store().named_parameters()
    stored = parameters.mapping
    size, first = root.__dict__.get(_KEPT, (None, []))
    if size != len(stored) or any(stored.get(name, parameter) is not parameter for name, parameter in first):
        _look(root, stored)


def wrong_in_store(name: str) -> ValueError:
    """The sentence about a tensor in the store that is not the model's."""
    return ValueError(
        f"the parameter store holds another tensor than this model's parameter '{name}', of another model or loaded "
        "from a file, which SVI would train and the model would not use; call pyro.clear_param_store() first (models "
        "are kept by spvae.save and SPVAE.load, not by the store)"
    )


def _look(root: PyroModule, stored: MappingProxyType[str, Tensor]) -> None:
    first, own = [], []
    for names in _names(root, root._pyro_name):
        first += names[:1]
        own += names
    for _, parameter in own:
        _OF_MODELS[parameter] = True
    for name, parameter in own:
        other = stored.get(name)
        if other is None or other is parameter:
            continue
        if _is_training() or (other not in _OF_MODELS and not _equal(other, parameter)):
            raise wrong_in_store(name)
    root.__dict__[_KEPT] = (len(stored), first)


def _names(module: PyroModule, name: str) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Trainable parameters by the names that Pyro gives them: those of a module itself, and of each inside it."""
    prefix = f"{name}." if name else ""
    own = [(prefix + key, parameter) for key, parameter in module.named_parameters(recurse=False)]
    yield [(key, parameter) for key, parameter in own if parameter.requires_grad]
    for key, child in module.named_children():
        if isinstance(child, PyroModule):
            yield from _names(child, prefix + key)
        else:
            inside = [(param_with_module_name(prefix + key, inner), value) for inner, value in child.named_parameters()]
            yield [(key, value) for key, value in inside if value.requires_grad]


def _is_training() -> bool:
    """Whether somebody collects the parameters that programs state, as ``SVI.step`` does to train them."""
    return any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK)


def _equal(one: Any, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.detach().to(other), other)
