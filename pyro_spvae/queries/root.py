# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a root is: the module that owns circuit, leaf and guide, and states both programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from pyro.nn import PyroModule
from torch import Tensor

from pyro_spvae.blocks import Latent, parts
from pyro_spvae.circuits import Circuit
from pyro_spvae.circuits.leaf_view import LeafView
from pyro_spvae.infer.prepared import PreparesBatches
from pyro_spvae.leaves import LeafGuide, LeafModel
from pyro_spvae.leaves.leaf_subset import leaf_parts
from pyro_spvae.locking import alone
from pyro_spvae.queries.batch import LeafBatch


class Root(PreparesBatches, PyroModule):
    """
    A circuit over leaves with a generative program and an inference program; owns all parameters, and walks over the
    life cycle of all parts.

    :ivar Circuit circuit: the mixture.
    :ivar LeafView view: which entries of a datum each leaf sees.
    :ivar LeafModel leaf: the generative program of a leaf.
    :ivar LeafGuide leaf_guide: the inference program of a leaf.
    :ivar int num_leaves: number of leaf programs.
    :ivar torch.Size event_shape: shape of one datum.
    """

    circuit: Circuit
    view: LeafView
    leaf: LeafModel
    leaf_guide: LeafGuide
    num_leaves: int
    event_shape: torch.Size

    def model(self, x: Any = None, observed: Tensor | None = None, *, num: int = 1, size: int | None = None) -> Tensor:
        """The generative program."""
        raise NotImplementedError(f"{type(self).__name__} must define model")

    def guide(self, x: Any, observed: Tensor | None = None, *, num: int | None = None, size: int | None = None) -> None:
        """The inference program."""
        raise NotImplementedError(f"{type(self).__name__} must define guide")

    @property
    def latents(self) -> Mapping[str, Latent]:
        """
        The latent variables of the leaves by site. If there are none, the tree alone is random given data, and every
        query is exact whatever its number of particles.
        """
        return self.leaf.latents

    def prepare(self, x: Tensor | LeafBatch, observed: Tensor | None = None, keep: bool = False) -> LeafBatch:
        """
        What both programs see of a batch, which they take in the place of the data, so that it is cut into patches
        once. Shapes are always checked, values while Pyro's validation is on.

        :param bool keep: encode it once too, for as long as parameters stay as they are.
        :raises ValueError: if ``x`` or ``observed`` does not fit, or a seen entry is outside the likelihood's support.
        """
        if isinstance(x, LeafBatch) and observed is not None:
            raise ValueError("observed is given beside a prepared batch, which has its own; give it to prepare alone")
        batch = x
        if not isinstance(batch, LeafBatch):
            batch = LeafBatch.make(self.view, self.leaf, self._reference(x), batch, observed, is_validation_enabled())
        return batch.kept() if keep else batch

    @alone()
    def check(self, x: Tensor, observed: Tensor | None = None) -> LeafBatch:
        """
        :returns: what the programs see of the data.
        :raises ValueError: if data cannot be modelled: wrong shape, no rows, NaN or infinite entries, or values
            outside of the likelihood's support.
        """
        return LeafBatch.make(self.view, self.leaf, self._reference(x), x, observed, True)

    def _reference(self, x: Any) -> Any:
        """A tensor of the model's type on its device."""
        return next(self.parameters(), x)

    @property
    def wanted_rows(self) -> int:
        """How many training rows :meth:`start` still has to see: not 0 for priors that start from data."""
        return max((part.wanted_rows for part in parts(self)), default=0)

    @alone()
    def start(self, x: Tensor, observed: Tensor | None = None) -> None:
        """
        Shows training data to parts that start from them, such as ``VampPrior(500, init="data")``; others stay as they
        are. ``fit`` and ``pyro-spvae train`` do this by themselves.

        :param Tensor x: at least :attr:`wanted_rows` data ``[data, *event_shape]``.
        :param Tensor observed: as in :meth:`model`; entries that are not seen become 0.
        :raises ValueError: if there are fewer.
        """
        features = self.prepare(x, observed).features
        for part, narrow in leaf_parts(self.leaf):
            part.start(narrow(features))

    def advance(self, progress: float) -> None:
        """
        Before each step: moves what training moves besides gradients. ``fit`` and ``train`` do this by themselves.

        :param float progress: part of the steps that are done, from 0 to 1.
        """
        for part in parts(self):
            part.advance(progress)

    def prepare_evaluation(self) -> None:
        """Once before figures are reported: computes what they need and no step does, such as a normaliser."""
        for part in parts(self):
            part.prepare_evaluation()
