# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a root is: the module that owns circuit, leaf and guide, and states both programs."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_spvae.blocks import Latent, Program, parts
from pyro_spvae.circuits import Circuit
from pyro_spvae.circuits.leaf_view import LeafView
from pyro_spvae.data import Column, Rows, Values
from pyro_spvae.data.preprocessing import preprocessing
from pyro_spvae.data.tables import as_mask, as_tensor, without_holes
from pyro_spvae.infer.prepared import PreparesBatches
from pyro_spvae.leaves import LeafGuide, LeafModel
from pyro_spvae.leaves.leaf_subset import leaf_parts
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.locking import alone
from pyro_spvae.part import Part
from pyro_spvae.queries.batch import LeafBatch, batches, check_shapes

_CHECKED = 256  # rows whose values are looked at together
_STREAM = 3  # of the noise of preprocessing, apart from those of a data set's splits


class Root(PreparesBatches, Program):
    """
    A circuit over leaves with a generative program and an inference program; owns all parameters, and walks over the
    life cycle of all parts.

    :ivar Circuit circuit: the mixture.
    :ivar LeafView view: which entries of a datum each leaf sees.
    :ivar LeafModel leaf: the generative program of a leaf.
    :ivar LeafGuide leaf_guide: the inference program of a leaf.
    :ivar int num_leaves: number of leaf programs.
    :ivar int num_features: how many features the guide's networks see of a leaf.
    :ivar torch.Size event_shape: shape of one datum.
    :ivar Values values: the kind of values that the model is a density of, which queries refuse others than; set by
        ``fit`` and ``train``, saved with the model, ``None`` as long as nobody has said.

    Example::

        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, latent_dim=3, likelihood=Bernoulli())
        >>> spvae.num_leaves, spvae.num_features, spvae.event_shape
        (8, 4, torch.Size([1, 4, 4]))
        >>> spvae.latents["z"].event_shape
        (3,)
    """

    circuit: Circuit
    view: LeafView
    leaf: LeafModel
    leaf_guide: LeafGuide
    num_leaves: int
    num_features: int
    event_shape: torch.Size
    values: Values | None = None

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

    @property
    def leaf_sizes(self) -> dict[str, int]:
        """Number of ``leaves`` and of the ``pixels`` that networks see of each, which are features."""
        return {"leaves": self.num_leaves, "pixels": self.num_features}

    @property
    def columns(self) -> tuple[Column, ...] | None:
        """What the columns of a table are that the likelihood is one of; ``None`` where it does not know them."""
        return next((own.columns for own in self.likelihoods if own.columns is not None), None)

    @property
    def likelihoods(self) -> list[Likelihood]:
        """Those of the leaves; several where leaves are of several kinds."""
        return [part for part in parts(self) if isinstance(part, Likelihood)]

    def taken(self, x: Any, observed: Any = None, look: bool = True) -> tuple[Any, Any]:
        """
        Data and mask as tensors: NumPy arrays and pandas DataFrames become ones of the model's type, on its device;
        entries of a table that are NaN are not seen.

        :param x: data; of a DataFrame columns are found by name, see :func:`pyro_spvae.data.tables.as_tensor`.
        :param observed: a mask, likewise.
        :param bool look: whether NaN are looked for, which waits for the device.
        """
        if not isinstance(x, Tensor) or not (observed is None or isinstance(observed, Tensor)):
            like, columns = self._reference(x if isinstance(x, Tensor) else None), self.columns
            x, observed = as_tensor(x, columns, like), as_mask(observed, columns, like)
        if look and len(self.event_shape) == 1 and isinstance(x, Tensor) and x.is_floating_point():
            observed = without_holes(x, observed)
        return x, observed

    def prepare(self, x: Any, observed: Any = None, keep: bool = False) -> LeafBatch:
        """
        What both programs see of a batch, which they take in the place of the data, so that it is cut into patches
        once. Shapes are always checked, values, and whether entries are NaN, while Pyro's validation is on.

        :param bool keep: encode it once too, for as long as parameters stay as they are.
        :raises ValueError: if ``x`` or ``observed`` does not fit, or a seen entry is outside the likelihood's support.
        """
        if isinstance(x, LeafBatch) and observed is not None:
            raise ValueError("observed is given beside a prepared batch, which has its own; give it to prepare alone")
        batch = x
        if not isinstance(batch, LeafBatch):
            look = is_validation_enabled()
            x, observed = self.taken(x, observed, look)
            batch = LeafBatch.make(self.view, self.leaf, self._reference(x), x, observed, look, columns=self.columns)
        return batch.kept() if keep else batch

    @alone()
    def check(self, x: Any, observed: Any = None, *, as_trained: bool = True) -> LeafBatch:
        """
        :param bool as_trained: whether values of another kind than :attr:`values` are refused.
        :returns: what the programs see of the data.
        :raises ValueError: if data cannot be modelled: wrong shape, no rows, NaN or infinite entries, values of another
            kind than the model was trained on (such as grey levels, asked about as if they were densities' arguments in
            [0, 1]), or outside of the likelihood's support.
        """
        values = self.values if as_trained else None
        x, observed = self.taken(x, observed)
        return LeafBatch.make(self.view, self.leaf, self._reference(x), x, observed, True, values, self.columns)

    def refuse(self, x: Any, observed: Any = None) -> None:
        """
        Refuses what :meth:`check` refuses, looking at few rows at a time; at all of them where some are refused, so
        that these are counted.
        """
        x, observed = self.taken(x, observed)
        check_shapes(self.event_shape, self._reference(x), x, observed)
        try:
            for block, seen in batches(x, observed, _CHECKED):
                self.check(block, seen)
        except ValueError:
            self.check(x, observed)
            raise

    def trained_on(self, values: Values | None, seen: Callable[[], Iterable[Tensor]], stacklevel: int) -> Values:
        """
        Sets :attr:`values` to what training makes the model a density of: the kind that is known of the data; else that
        of the model, if it has limits and the data are of it; else their range. Warns if a kind with limits is left.

        :param Values values: the kind, or ``None`` if nothing is known of it.
        :param callable seen: gives the values that are seen, a part at a time.
        :param int stacklevel: as of :func:`warnings.warn`.
        """
        before = self.values if self.values is not None and self.values.bounded else None
        if values is None and before is not None and all(before.fault(x) is None for x in seen() if x.numel()):
            return before
        self.values = found = Values.occurring(seen()) if values is None else values
        if before is not None and (before, before.preprocess) != (found, found.preprocess):
            warnings.warn(
                f"the model was a density of {self._described(before)}, and training makes it one of "
                f"{self._described(found)}; if these rows are raw, give spvae.preprocess(x)",
                stacklevel=stacklevel + 1,
            )
        return found

    def preprocess(self, x: Any, seed: int = 0) -> Tensor:
        """
        Raw rows as the values that the model is a density of: the preprocessing of the data that it was trained on.

        :param Tensor x: rows ``[data, *event_shape]`` of any real type, such as bytes of grey levels; NaN, for entries
            that are missing, stays NaN.
        :param int seed: of the noise, which is a function of it and of the row's number among ``x``; that of training
            was drawn anew.
        :returns: rows of the model's type, on its device.
        :raises ValueError: if the model does not know the kind of values that it was trained on, or raw ones are of
            another.
        """
        if self.values is None:
            raise ValueError(
                "the model has not been told what values it is a density of: fit, fit_em and train tell it, or set "
                "spvae.values to a pyro_spvae.data.Values"
            )
        raw = self.values.raw or self.values
        x = as_tensor(x, self.columns, self._reference())
        if not isinstance(x, Tensor) or x.shape[1:] != self.event_shape or not len(x):
            given = f"of shape {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ValueError(f"x is {given}; a tensor [data, {', '.join(map(str, self.event_shape))}] is needed")
        x = x.detach()
        fault = raw.fault(x.to(self._reference(x).dtype), ~x.isnan())
        if fault is not None:
            taken = ", taken as they are" if self.values.raw is None else ""
            raise ValueError(f"x {fault}; raw values of this model are {self._described(raw)}{taken}")
        step, holes = preprocessing(self.values.preprocess, raw), bool(x.isnan().any())
        if holes and step is not None and step.whole_rows:
            raise ValueError(f"x holds NaN, but {step.name!r} scales each row by its smallest and largest value")
        return Rows(x.cpu(), None, step, seed, _STREAM, missing=holes)[:].to(self._reference(x))

    def extra_repr(self) -> str:
        return "" if self.values is None else f"density of {self._described(self.values)}"

    def _described(self, values: Values) -> str:
        """Values in words, as those of an image or of a table."""
        return values.described(len(self.event_shape) == 3, self.columns)

    def _reference(self, x: Any = None) -> Any:
        """A tensor of the model's type on its device; without parameters, ``x`` if there is one."""
        return next(self.parameters(), self.circuit.reference if x is None else x)

    @property
    def wanted_rows(self) -> int:
        """How many training rows :meth:`start` still has to see: not 0 for priors that start from data."""
        return max((part.wanted_rows for part in parts(self)), default=0)

    @alone()
    def start(self, x: Any, observed: Any = None) -> None:
        """
        Shows training data to parts that start from them, such as ``VampPrior(500, init="data")``; others stay as they
        are. ``fit`` and ``pyro-spvae train`` do this by themselves.

        :param Tensor x: at least :attr:`wanted_rows` data ``[data, *event_shape]``.
        :param Tensor observed: as in :meth:`model`; entries that are not seen become 0.
        :raises ValueError: if there are fewer.
        """
        batch = self.prepare(x, observed)
        mask = None if batch.mask is None else batch.mask.expand(batch.patches.shape)
        of_features = self._feature_mask(batch)
        for part, narrow in (*leaf_parts(self.leaf), *leaf_parts(self.leaf_guide)):
            takes = "mask" in inspect.signature(part.start).parameters
            known = {"mask": None if of_features is None else narrow(of_features)} if takes else {}
            part.start(narrow(batch.features), **known)
            part.start_at(narrow(batch.patches), None if mask is None else narrow(mask))

    def _feature_mask(self, batch: LeafBatch) -> Tensor | None:
        """Features that are seen and no padding, ``bool [data, leaf, feature]``, or ``None`` if all are."""
        mask = self.leaf.feature_mask(batch.mask)
        return None if mask is None else mask.expand(batch.features.shape)

    @property
    def looks_at_data(self) -> bool:
        """Whether there are parts that want to see training data before the first step."""
        return any(type(part).look_at is not Part.look_at for part in parts(self))

    def look_at(self, x: Tensor, observed: Tensor | None = None) -> None:
        """
        Shows training data to parts that warn of options that do not fit them, such as the range of a VampPrior.
        ``fit`` and ``pyro-spvae train`` do this by themselves.

        :param Tensor x: some data ``[data, *event_shape]``.
        :param Tensor observed: as in :meth:`model`.
        """
        batch = self.prepare(x, observed)
        mask = self._feature_mask(batch)
        for part, narrow in (*leaf_parts(self.leaf), *leaf_parts(self.leaf_guide)):
            part.look_at(narrow(batch.features), None if mask is None else narrow(mask))

    def advance(self, progress: float) -> None:
        """
        Before each step: moves what training moves besides gradients. ``fit`` and ``train`` do this by themselves.

        :param float progress: part of the steps that are done, from 0 to 1.
        """
        for part in parts(self):
            part.advance(progress)

    def before_validation(self) -> None:
        """Before each validation: computes what it needs and no step does. ``fit`` and ``train`` do this themselves."""
        for part in parts(self):
            part.before_validation()

    def prepare_evaluation(self) -> None:
        """Once before figures are reported: computes what they need and no step does, such as a normaliser."""
        for part in parts(self):
            part.prepare_evaluation()

    def stated(self) -> dict[str, dict[str, float]]:
        """
        Numbers that figures rest on, such as normalisers, by name of the module that states them; nats where they are
        logarithms.
        """
        named = ((name, part) for name, part in self.named_modules() if isinstance(part, Part))
        return {name: numbers for name, part in named if (numbers := part.stated())}
