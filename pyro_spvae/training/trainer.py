# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae.data import DataSet, dequantize
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.models import SPVAE
from pyro_spvae.training.bounds import mean_bounds
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.run_folder import RunFolder


class Trainer:
    """
    Trains a model on the training split, watching the bound on the validation split.

    The objective runs as a module (``CircuitELBO(...)(model, guide)``) under one torch Adam, with Pyro's validation
    off: the data are checked once at the start. The learning rate is halved when validation has not improved for a
    third of the patience; after ``patience`` epochs without a better bound training stops and the best parameters are
    restored. The seed alone decides initial noise, data order and validation noise, which is the same in every epoch.

    :param SPVAE spvae: the model; build it under ``pyro.settings.context(module_local_params=True)``.
    :param DataSet data: the data as recorded, before dequantisation.
    :param DataSet modelled: the data as the likelihood models them. Where they were dequantised, training draws new
        noise for every batch.
    :param TrainConfig config: resolved configuration.
    :param RunFolder folder: where metrics and checkpoints go.
    :param bool progress: show a progress bar; without one a line is reported for the first epochs and every tenth.
    :param callable report: takes lines of text.
    """

    def __init__(
        self,
        spvae: SPVAE,
        data: DataSet,
        modelled: DataSet,
        config: TrainConfig,
        folder: RunFolder,
        progress: bool = False,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.spvae = spvae
        self.data = data
        self.modelled = modelled
        self.config = config
        self.folder = folder
        self.progress = progress
        self.report = report
        self.elbo = CircuitELBO(config.particles, alpha=config.alpha, gradient=config.gradient)
        self.objective = self.elbo(spvae.model, spvae.guide)
        # fused: one pass over all parameters instead of ten
        self.optimiser = torch.optim.Adam(self.objective.parameters(), lr=config.lr, fused=True)
        self.schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            # torch's patience is the number of bad epochs that go unpunished, one less than ours
            self.optimiser,
            mode="max",
            factor=0.5,
            patience=max(1, config.patience // 3) - 1,
            threshold=0.0,
        )
        self.order = torch.Generator().manual_seed(config.seed)
        self.step = 0
        self.epoch = 0
        self.best = -math.inf
        self.best_epoch = 0
        self.seconds = 0.0

    def run(self) -> None:
        """
        Trains until the validation bound stops rising or the epochs are over; leaves the best parameters in the model.

        :raises ValueError: if a training or validation bound is not finite.
        """
        config = self.config
        total = config.epochs * len(self.data.train)
        with _lean(), tqdm(total=total, unit="img", unit_scale=True, disable=not self.progress, desc="training") as bar:
            while self.epoch < config.epochs and self.epoch - self.best_epoch < config.patience:
                self._run_epoch(bar)
            bar.total = bar.n
        state = self.folder.load("best.pt")
        self.spvae.load_state_dict(state["model"])

    def _run_epoch(self, bar: Any) -> None:
        start = time.perf_counter()
        self.epoch += 1
        total, count = 0.0, 0
        for x in self._batches():
            bound = self.train_step(x)
            self._check_finite("bound", bound)
            total += bound
            count += len(x)
            bar.update(len(x))
        training = time.perf_counter() - start
        metrics = self._validate()
        for name, value in metrics.items():
            self._check_finite(name, value)
        self.seconds += time.perf_counter() - start
        val_elbo = metrics["val_elbo"]
        lr = self.optimiser.param_groups[0]["lr"]
        self.schedule.step(val_elbo)
        better = val_elbo > self.best
        if better:
            self.best, self.best_epoch = val_elbo, self.epoch
        line = {
            "epoch": self.epoch,
            "step": self.step,
            "elbo": total / count,
            **metrics,
            "lr": lr,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(count / training, 1),
        }
        self.folder.append_metrics(line)
        self.folder.save("last.pt", self._state())
        if better:
            self.folder.save("best.pt", self._state())
        bar.set_postfix(elbo=f"{line['elbo']:.2f}", val=f"{val_elbo:.2f}", best=f"{self.best:.2f}")
        if not self.progress and (self.epoch <= 5 or self.epoch % 10 == 0):
            self.report(
                f"epoch {self.epoch:3d}  elbo {line['elbo']:10.2f}  validation {val_elbo:10.2f}"
                f"{' *' if better else '  '}  {line['images_per_second']:.0f} images/s  "
                f"{self._remaining()} left at most"
            )

    def _check_finite(self, name: str, value: float) -> None:
        if not math.isfinite(value):
            good = f"the last good parameters are in {self.folder.path / 'last.pt'}"
            raise ValueError(
                f"the {name} became {value} at step {self.step}; {good if self.epoch > 1 else 'nothing was kept'}; "
                f"try a smaller lr than {self.config.lr:g}, or data scaled to about [0, 1]"
            )

    def train_step(self, x: Tensor) -> float:
        """
        One optimisation step on a batch.

        :returns: the bound in nats, summed over the batch.
        """
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.objective(x)
        (loss / len(x)).backward()
        self.optimiser.step()
        self.step += 1
        return -loss.item()

    def _batches(self) -> Iterator[Tensor]:
        """Shuffled batches of nearly equal size; every row once."""
        train = self.data.train
        order = torch.randperm(len(train), generator=self.order)
        levels = self.data.values.levels
        fresh_noise = levels is not None and self.modelled is not self.data
        for index in order.tensor_split(math.ceil(len(train) / self.config.batch_size)):
            x = train[index]
            yield dequantize(x, levels, self.order) if fresh_noise and levels is not None else x

    def _validate(self) -> dict[str, float]:
        """Mean bounds on the validation split, with the same noise in every epoch."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            means = mean_bounds(self.spvae, self.elbo, self.modelled.validation)
        return {f"val_{name}": value for name, value in means.items()}

    def _remaining(self) -> str:
        seconds = self.seconds / self.epoch * (self.config.epochs - self.epoch)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.to_dict(),
            "model": self.spvae.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "seconds": self.seconds,
            "random": torch.get_rng_state(),
            "order": self.order.get_state(),
        }


@contextmanager
def _lean() -> Iterator[None]:
    """Pyro without validation and without the global parameter store."""
    validating = is_validation_enabled()
    pyro.enable_validation(False)
    try:
        with pyro.settings.context(module_local_params=True):
            yield
    finally:
        pyro.enable_validation(validating)
