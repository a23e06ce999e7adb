# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What both estimators share: options, fitting, rows, pickles."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor
from typing_extensions import Self

from pyro_spvae import checks
from pyro_spvae.data import Column, DataSet
from pyro_spvae.data.kinds import check_names
from pyro_spvae.data.registry import check_options
from pyro_spvae.data.seeds import noise_seed, start_seed
from pyro_spvae.data.tables import is_frame
from pyro_spvae.distributed import choose_device
from pyro_spvae.locking import alone
from pyro_spvae.models import SPVAE
from pyro_spvae.queries.quiet import forked
from pyro_spvae.sklearn.tables import data_set, described, entries, numbers
from pyro_spvae.training.build import build_model
from pyro_spvae.training.candidates import is_raced
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.race import race
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve

_OF_MODEL = ("structure", "units", "latent_dim", "hidden", "race")
_OF_FIT = ("epochs", "patience", "lr", "batch_size")
_SEEDS = 2**31
_ROW = 7  # stream of seeds
_LEAST_ROWS = 2  # one to fit and one to watch
_STATE = "_saved"  # the model in a pickle
SAMPLES = 100


class SPVAEEstimator(BaseEstimator):
    """
    The part of the estimators that fits a model to a table, and takes rows.

    Options that are left open are chosen from the data as ``pyro-spvae train`` does: where nothing is said of the model
    by a race of candidates, see :func:`pyro_spvae.training.candidates.candidates`, others as
    :func:`pyro_spvae.training.resolve.resolve` says.
    """

    model_: SPVAE

    def __init__(
        self,
        *,
        kinds: Mapping[str, str] | None = None,
        structure: str = TrainConfig.structure,
        units: int | None = TrainConfig.units,
        latent_dim: int | None = TrainConfig.latent_dim,
        hidden: Sequence[int] | None = TrainConfig.hidden,
        race: str = TrainConfig.race,
        epochs: int = TrainConfig.epochs,
        patience: int = TrainConfig.patience,
        lr: float | None = TrainConfig.lr,
        batch_size: int | None = TrainConfig.batch_size,
        samples: int = SAMPLES,
        random_state: Any = None,
        device: str = TrainConfig.device,
        model: Callable[[tuple[Column, ...]], SPVAE] | None = None,
        verbose: bool = False,
    ) -> None:
        self.kinds = kinds
        self.structure = structure
        self.units = units
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.race = race
        self.epochs = epochs
        self.patience = patience
        self.lr = lr
        self.batch_size = batch_size
        self.samples = samples
        self.random_state = random_state
        self.device = device
        self.model = model
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """
        Fits a model until the bound on a tenth of the rows, which are held out, stops rising.

        :param X: a table ``[N, D]``, an array or a DataFrame; NaN is a missing entry.
        :param y: ignored.
        :returns: the estimator.
        :raises ValueError: for options or columns that do not fit, or fewer than two rows.
        """
        check_options(self.kinds, ())
        checks.positive_integer("samples", self.samples)
        random = check_random_state(self.random_state)
        seed = int(random.randint(_SEEDS))
        config = TrainConfig.from_dict(
            {name: getattr(self, name) for name in (*_OF_MODEL, *_OF_FIT, "device")}
            | {"seed": seed, "likelihood": "columns"},
            "",
        )
        device = choose_device(config.device)
        X = self._validated(X, reset=True)
        x, columns = described(X, self.kinds)
        data = data_set(x, columns, seed)
        assert data.columns is not None
        with self._seeded(seed):
            spvae, options, raced = self._made(config, data, device)
        history = spvae.to(device).fit(data, progress=bool(self.verbose), **options)
        self.model_, self.columns_, self.history_, self.race_ = spvae, data.columns, history, raced
        self._entries, self._of_frame, self._seed = entries(X, columns), is_frame(X), seed
        return self

    def _made(
        self, config: TrainConfig, data: DataSet, device: torch.device
    ) -> tuple[SPVAE, dict[str, Any], list[dict[str, Any]]]:
        """The model, options of its fit, and what the race says that it was chosen by."""
        raced: list[dict[str, Any]] = []
        if self.model is not None:
            return self._own(config, data), {name: getattr(config, name) for name in (*_OF_FIT, "seed")}, raced
        if is_raced(config, data):
            config, raced = race(config, data, device, print if self.verbose else lambda line: None)
        config = resolve(config, data)
        torch.manual_seed(start_seed(config.seed))
        spvae = build_model(config, modelled(config, data))
        return spvae, {field.name: getattr(config, field.name) for field in fields(FitConfig)}, raced

    def _own(self, config: TrainConfig, data: DataSet) -> SPVAE:
        for name in _OF_MODEL:
            if getattr(config, name) != getattr(TrainConfig, name):
                raise ValueError(f"{name} is {getattr(self, name)!r}, but model makes the model; leave one of them out")
        if not callable(self.model):
            raise TypeError(f"model is a {type(self.model).__name__}; a function from columns to an SPVAE is needed")
        spvae = self.model(data.columns)  # type: ignore[arg-type]
        checks.instance("what model returns", spvae, SPVAE)
        if spvae.event_shape != data.event_shape:
            raise ValueError(
                f"what model returns is of rows of shape {list(spvae.event_shape)}; {list(data.event_shape)} is needed"
            )
        return spvae

    def _validated(self, X: Any, reset: bool) -> Any:
        """A float64 array, or a DataFrame; names and number of columns are kept, or compared with those of the fit."""
        least = _LEAST_ROWS if reset else 1
        if not is_frame(X):
            finite = {"ensure_all_finite": "allow-nan", "ensure_min_samples": least}
            return validate_data(self, X, dtype=np.float64, reset=reset, **finite)
        check_names([str(name) for name in X.columns])
        validate_data(self, X, skip_check_array=True, reset=reset)
        if len(X) < least:
            raise ValueError(f"X is a DataFrame of {len(X)} rows; at least {least} are needed")
        return X

    def _rows(self, X: Any) -> tuple[Tensor, Tensor]:
        """Rows as the model takes them, checked, and their masks."""
        like = next(self.model_.parameters())
        x = numbers(X, self.columns_)
        seen = ~x.isnan()
        x, seen = x.to(like.device, like.dtype), seen.to(like.device)
        self.model_.check(x, seen)
        return x, seen

    @contextmanager
    def _seeded(self, seed: int) -> Iterator[None]:
        """Within the block torch's generators start at a seed; after it they are where they were."""
        device = next(self.model_.parameters()).device if hasattr(self, "model_") else torch.device("cpu")
        with alone(), forked(device), pyro.settings.context(module_local_params=True):
            torch.manual_seed(seed)
            yield

    def _seed_of(self, x: Tensor, seen: Tensor) -> int:
        """A seed of the noise by which rows are answered, which follows from what is seen of them."""
        values = torch.where(seen, x, 0.0).cpu().double().numpy()
        digest = zlib.crc32(seen.cpu().numpy().tobytes(), zlib.crc32(values.tobytes()))
        return noise_seed(self._seed, digest, _ROW)

    def _drawn_seed(self, random_state: Any) -> int:
        """A seed of what is drawn: of the state that is given, else of the estimator's own."""
        random = check_random_state(self.random_state if random_state is None else random_state)
        return int(random.randint(_SEEDS))

    def __getstate__(self) -> dict[str, Any]:
        """The model is written as :meth:`pyro_spvae.models.SPVAE.save` does it: no code of its modules is pickled."""
        state = dict(super().__getstate__())
        if "model_" in state:
            with tempfile.TemporaryDirectory() as folder:
                state.pop("model_").save(folder)
                state[_STATE] = (Path(folder) / "model.pt").read_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        saved = state.pop(_STATE, None)
        super().__setstate__(state)
        if saved is not None:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "model.pt").write_bytes(saved)
                self.model_ = SPVAE.load(folder, device=choose_device(self.device))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        return tags
