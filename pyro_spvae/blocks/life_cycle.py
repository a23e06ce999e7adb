# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One life cycle: the root walks over all parts inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pyro_spvae.part import Part


def parts(module: nn.Module) -> Iterator[Part]:
    """All parts inside a module, itself first if it is one; each once.

    Example::

        >>> from pyro_spvae.blocks import parts
        >>> spvae = SPVAE(whole((8, 8)), units=1, likelihood=Bernoulli())
        >>> sorted(type(part).__name__ for part in parts(spvae))
        ['Bernoulli', 'Gaussian', 'MLP', 'MLP', 'NormalGuide', 'Pixels', 'StandardNormal', 'VAE']
    """
    return (part for part in module.modules() if isinstance(part, Part))


def process_buffers(module: nn.Module) -> dict[str, Tensor]:
    """
    The buffers inside a module that differ between processes, by name: those that modules state as ``process_buffers``.
    """
    return {
        f"{prefix}.{name}" if prefix else name: getattr(inner, name)
        for prefix, inner in module.named_modules()
        for name in getattr(inner, "process_buffers", ())
    }


@contextmanager
def in_mode(module: Any, training: bool) -> Iterator[None]:
    """
    Within the block a module and all inside it are in training or in evaluation mode, which decides whose statistics
    batch normalisation uses and which it learns, and may change which distribution a block returns; after it each is in
    the mode it was in.

    :param Module module: anything that is no module stays as it is.
    :param bool training: which mode.

    Example::

        >>> from pyro_spvae.blocks import in_mode
        >>> spvae = SPVAE(whole((8, 8)), units=1)
        >>> with in_mode(spvae, training=False):
        ...     spvae.leaf.training
        False
        >>> spvae.leaf.training
        True
    """
    changed = [part for part in module.modules() if part.training is not training] if _is_module(module) else []
    for part in changed:
        part.training = training
    try:
        yield
    finally:
        for part in changed:
            part.training = not training


@contextmanager
def held(*modules: Any) -> Iterator[None]:
    """
    Within the block parameters do not change, so that parts keep what follows from them alone, such as the encoded
    pseudo-inputs of a VampPrior. Scopes inside others change nothing.

    :param modules: anything that is no module is left alone.

    Example::

        >>> from pyro_spvae.blocks import held
        >>> spvae = SPVAE(whole((8, 8)), units=1, prior=VampPrior(20), likelihood=Bernoulli())
        >>> with torch.no_grad(), held(spvae):
        ...     prior = spvae.leaf.prior
        ...     prior() is prior()  # pseudo-inputs are encoded once
        True
    """
    found = [part for module in filter(_is_module, modules) for part in parts(module)]
    for part in found:
        part.held_by += 1
    try:
        yield
    finally:
        for part in found:
            part.held_by -= 1
            if not part.held_by:
                part.release()


def _is_module(value: Any) -> bool:
    return isinstance(value, nn.Module)
