# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor, nn
from tqdm.auto import tqdm

from pyro_spvae import distributed, joining
from pyro_spvae.blocks import in_mode
from pyro_spvae.blocks.life_cycle import process_buffers
from pyro_spvae.data import Rows
from pyro_spvae.data.seeds import noise_seed, start_noise
from pyro_spvae.evaluating import lean
from pyro_spvae.infer import Estimator
from pyro_spvae.locking import alone
from pyro_spvae.queries import Queries
from pyro_spvae.queries.storage import warn_of_script
from pyro_spvae.training.averaging import AveragedWeights
from pyro_spvae.training.batches import BATCH_SIZE, Batches
from pyro_spvae.training.evaluation import before_validation, mean_bounds, prepare_evaluation
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.graphs import WORTH_CAPTURING, steps_of
from pyro_spvae.training.interruption import Interrupted, Interruption
from pyro_spvae.training.logger import Logger
from pyro_spvae.training.objective import annealed_programs, as_bound, build_loss, build_objective, kl_weight
from pyro_spvae.training.optimisers import rate_of
from pyro_spvae.training.pace import Pace, minutes
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.start import at_clusters, show, start_at_clusters
from pyro_spvae.training.stepping import PendingBounds
from pyro_spvae.training.transfer import sent
from pyro_spvae.training.updates import build_update

_FIRST = 5  # validations, of each of which a line is reported without a progress bar
_TEXT_EVERY = 10.0  # seconds between those of later ones
_OF_BEST = ("model", "step", "epoch", "best", "best_epoch")  # what best.pt holds besides the run's identity
_NAMED = 3  # parameters named in an error


class Trainer:
    """
    Trains a model on rows, watching the bound on other rows.

    The objective runs as a module (such as ``CircuitELBO(...)(model, guide)``) under one torch optimiser, with Pyro's
    validation off: the data are checked once at the start. After ``patience`` validations without a better bound
    training stops and the best parameters are restored. Order and noise of a step follow from the seed and the step's
    number, those of a validation from the seed alone, so that training continued from any saved step gives the same
    parameters, bit for bit.

    Another thread that asks a model is answered between two steps, since Pyro's state belongs to the process: each step
    is alone, and so is each validation.

    Of several processes each computes its share of every batch; the gradient is that of the whole batch.

    Where weights are averaged (see :class:`~pyro_spvae.training.averaging.AveragedWeights`), validations, and so the
    best parameters, are those of the average; the model has the weights themselves until training is over.

    A CPU is waited for after every step, and a bound that is not finite leaves the parameters as they were. On a CUDA
    device steps are queued, where they can be as captured graphs (:mod:`pyro_spvae.training.captured_steps`): bounds
    are checked after every 64 steps, and before each validation and each state that is asked for, so that none is
    written in which training had diverged. Order and noise are the same either way.

    :param spvae: the model, on its device.
    :param train: training rows.
    :param validation: rows to watch.
    :param FitConfig config: how to fit.
    :param RunFolder folder: where metrics and checkpoints go, or ``None`` to keep the best parameters in memory.
    :param dict identity: what checkpoints hold besides the state: the architecture, the run's configuration and data.
        A class in the architecture that is defined in the script that runs is warned of.
    :param Tensor observed: ``bool`` for every training row, True = seen.
    :param Tensor validation_observed: the same for the rows to watch.
    :param bool progress: show a progress bar; without one a line is reported now and then.
    :param callable report: takes lines of text.
    :param loggers: further takers of metrics.
    :param str how_to_resume: what a user is told to do after an interruption.
    :param ELBO objective: in the place of the one that the configuration names.
    :param optimiser: likewise, see :class:`~pyro_spvae.training.updates.GradientUpdate`.
    :param dict beta: weight of the latent KL by site, in the place of the configuration's.
    """

    @alone()
    def __init__(
        self,
        spvae: Queries,
        train: Rows | Tensor,
        validation: Rows | Tensor,
        config: FitConfig,
        folder: RunFolder | None = None,
        identity: dict[str, Any] | None = None,
        observed: Tensor | None = None,
        validation_observed: Tensor | None = None,
        progress: bool = False,
        report: Callable[[str], None] = lambda line: None,
        loggers: Sequence[Logger] = (),
        how_to_resume: str = "pyro-spvae train --resume {path}",
        objective: ELBO | None = None,
        optimiser: Any = None,
        beta: Mapping[str, float] | None = None,
    ) -> None:
        self.spvae = spvae
        self.validation = validation
        self.validation_observed = validation_observed
        self.config = config
        self.folder = folder
        self.identity = identity or {}
        self.progress = progress and distributed.is_main()
        self.report = report
        self.loggers = loggers
        self.how_to_resume = how_to_resume
        if folder is not None and distributed.is_main():
            warn_of_script(self.identity.get("architecture"), stacklevel=5)  # where a user calls SPVAE.fit
        show(spvae, train, observed, config.seed)
        self._rows_to_start = (train, observed) if at_clusters(config, spvae) else None
        objective = build_objective(config) if objective is None else objective
        self.elbo = as_bound(objective)
        self.batches = Batches(train, observed, config.batch_size or BATCH_SIZE, config.seed, config.hide)
        self.rows = len(train)
        self._annealed = annealed_programs(config, spvae, beta)
        self._beta = beta
        weighted = config.warmup > 0 or config.beta != 1 or beta is not None
        model, guide = self._annealed if weighted else (spvae.model, spvae.guide)
        self.objective = build_loss(objective, model, guide, config.seed)
        self.parameters = dict(spvae.named_parameters())
        self.steps = config.epochs * len(self.batches)
        self.estimator: Estimator | None = getattr(self.objective, "estimator", None)
        self.update = build_update(config, spvae, self.steps, self.rows, optimiser, self.estimator)
        self.averaged = AveragedWeights(config, spvae, self.steps)
        parameter = next(iter(self.parameters.values()))
        self.device, self.dtype = parameter.device, parameter.dtype
        self.queued = steps_of(config, self.objective, self.update, self.device, self._fixed, report)
        self.pending = PendingBounds(parameter)  # of queued steps
        # where training stands; all of it is in a checkpoint
        self.step = 0
        self.epoch = 0  # epochs completed
        self.batch = 0  # batches done of the next
        self.validations = 0
        self.best = -math.inf
        self.best_epoch = 0
        self.waited = 0  # validations without a better bound
        self.seconds = 0.0
        self.summed = [0.0, 0.0, 0.0]  # bounds, rows and seconds of steps since the last validation
        self.step_seconds = 0.0  # of steps alone, up to the last validation
        self.metrics: list[dict[str, Any]] = []
        self._best_state: dict[str, Tensor] | None = None
        self.pace = Pace(report)
        self._of_validations = Pace(report)

    @property
    def finished(self) -> bool:
        """Whether no step is left to do."""
        return self.waited >= self.config.patience or self.epoch >= self.config.epochs and self.summed[1] == 0

    def run(self, max_steps: int | None = None) -> list[dict[str, Any]]:
        """
        Trains until the validation bound stops rising or the epochs are over; leaves the best parameters in the model.

        :param int max_steps: return after so many steps, to be called again.
        :returns: the lines of metrics, one a validation.
        :raises ValueError: if a training or validation bound is not finite, or a file cannot be written.
        :raises Interrupted: after SIGINT or SIGTERM, when the step is done and everything is saved.
        :raises Lost: if it is one of several processes, and the others cannot be reached any longer.
        """
        total = self.config.epochs * self.rows
        done = self.epoch * self.rows + self.batch * self.rows // len(self.batches)
        bar = tqdm(total=total, initial=done, unit="img", unit_scale=True, disable=not self.progress, desc="training")
        advice = f"start all of them again with: {self._go_on}" if self.folder else "start all of them again"
        with _training(self.spvae), bar, Interruption() as interruption, joining.together(advice):
            self._start(lambda: interruption.asked)
            objective = distributed.share(self.objective)
            if self.queued is not None:
                self.queued.look_around()
            last = math.inf if max_steps is None else self.step + max_steps
            self.pace.said()
            while not self.finished and self.step < last:
                start = time.perf_counter()
                with lean(), _noise_of(self.device):
                    stop = self._advance(objective, bar, interruption.asked)
                stop = stop or (distributed.world() == 1 and interruption.asked)
                if stop or self.step == last or self._validation_is_due():
                    self._settle()
                self.summed[2] += time.perf_counter() - start
                if self._validation_is_due():
                    self._validate(bar)
                if stop and not self.finished:
                    self._interrupt()
            bar.total = bar.n
        if self.finished:
            if self.config.average != "none" and not self.averaged.begun:
                self.report(
                    f"note        the average of the weights ({self.config.average}) begins after step "
                    f"{self.averaged.start:,} of {self.steps:,}, and training ended before, after {self.step:,}; "
                    "average_start says after which part of the steps"
                )
            self._restore_best()
        return self.metrics

    @alone()
    def train_step(self, x: Tensor, observed: Tensor | None = None, objective: nn.Module | None = None) -> float:
        """
        One optimisation step on this process's rows of a batch.

        :param Module objective: the objective, shared among processes; by default that of this process.
        :returns: the bound in nats, summed over the rows.
        :raises ValueError: if the bound is not finite; parameters are left as they were.
        """
        bound, _ = self._step(self.objective if objective is None else objective, x, observed, False, len(x), last=True)
        return bound

    def _start(self, asked: Callable[[], bool] = lambda: False) -> None:
        """Before the first step: at clusters, if that is where training starts; again where that was stopped."""

        def look() -> None:
            if asked() and distributed.world() == 1:
                self._interrupt()

        if self._rows_to_start is not None and self.step == 0:
            start = time.perf_counter()
            start_at_clusters(self.spvae, *self._rows_to_start, self.config.seed, self.pace, look)
            self.seconds += time.perf_counter() - start

    def _advance(self, objective: nn.Module, bar: Any, asked: bool) -> bool:
        """The next step of the run; whether all processes should stop after it."""
        self._set_beta()
        x, observed = self.batches(self.epoch, self.batch)
        size = len(self.batches.index(self.epoch, self.batch))
        number = self.step * distributed.world() + distributed.rank()
        start_noise(noise_seed(self.config.seed, number, stream=4), self.device)
        with torch.no_grad():
            self.spvae.advance(min(1.0, self.step / self.steps))
        last = self.batch + 1 == len(self.batches)
        if self.queued is None:
            bound, stop = self._step(objective, x, observed, asked, size, last)
            self.summed[0] += bound
        else:
            stop = asked
            self._queue(x, observed, size, last)
        self.summed[1] += size
        self.batch += 1
        if self.batch == len(self.batches):
            self.epoch, self.batch = self.epoch + 1, 0
        bar.update(size)
        if self.progress:
            self.pace.said()  # by the bar
        else:
            self.pace.tell(self._so_far)
        return stop

    def _step(
        self, objective: nn.Module, x: Tensor, observed: Tensor | None, asked: bool, size: int, last: bool
    ) -> tuple[float, bool]:
        own = float(self.update.look(objective, *self._sent(x, observed), size))
        said = torch.tensor([own, float(asked)], dtype=torch.float64, device=distributed.message_device())
        bound, stop = distributed.total(said).tolist()
        if not math.isfinite(bound):
            self._diverged("bound", bound, self.step + 1)
        self.update.move(last)
        self.step += 1
        self.averaged.after_step(self.step)
        return bound, stop > 0

    def _queue(self, x: Tensor, observed: Tensor | None, size: int, last: bool) -> None:
        """A step that the host does not wait for; its bound is checked later, see :meth:`_settle`."""
        assert self.queued is not None
        self.pending.add(self.queued(*self._sent(x, observed), size, last))
        self.step += 1
        self.averaged.after_step(self.step)
        if self.pending.full:
            self._settle()

    def _settle(self) -> None:
        """Waits for the queued steps, and checks and adds up their bounds; before anything is written."""
        first = self.step - self.pending.number + 1
        for step, bound in enumerate(self.pending.take(), first):
            if not math.isfinite(bound):
                self._diverged("bound", bound, step)
            self.summed[0] += bound

    def _sent(self, x: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return sent(x, self.device, self.dtype), None if observed is None else sent(observed, self.device)

    def _fixed(self) -> Any:
        """The weights of the latent KL, which a captured step holds fast; ``None`` where they will not last."""
        rising = self.epoch + 1 < self.config.warmup
        return None if rising and len(self.batches) < WORTH_CAPTURING else [one.beta for one in self._annealed]

    def _set_beta(self) -> None:
        """The weight of the latent KL in this epoch."""
        for program in self._annealed:
            program.beta = kl_weight(self.config, self.spvae.latents, self.epoch, self._beta)

    def _validation_is_due(self) -> bool:
        every = self.config.validate_every
        return self.batch == 0 if every is None else self.step % every == 0 or self.epoch >= self.config.epochs

    def _validate(self, bar: Any) -> None:
        start = time.perf_counter()
        means, better = self._bounds()
        total, rows, seconds = self.summed
        lr = self.update.lr
        val_elbo = means["elbo"]
        epoch = self.epoch + (self.batch > 0)
        warm = self.epoch >= self.config.warmup
        self.validations += 1
        self.waited = 0 if better is not None or not warm else self.waited + 1
        if better is not None:
            self.best, self.best_epoch = val_elbo, epoch
        if warm:
            self.update.after_validation(val_elbo)
        self.step_seconds += seconds
        self.seconds += seconds + time.perf_counter() - start
        line = {
            "epoch": epoch,
            "step": self.step,
            "elbo": total / rows,
            **{f"val_{name}": value for name, value in means.items()},
            **({} if lr is None else {"lr": lr}),
            "seconds": round(self.seconds, 3),
            "step_seconds": round(self.step_seconds, 3),
            "images_per_second": round(rows / seconds, 1),
        }
        self.summed = [0.0, 0.0, 0.0]
        self.metrics.append(line)
        self._keep(line, better)
        bar.set_postfix(elbo=f"{line['elbo']:.2f}", val=f"{val_elbo:.2f}", best=f"{self.best:.2f}")
        if not self.progress and (self.validations <= _FIRST or self._of_validations.silent_for > _TEXT_EVERY):
            self.pace.said()
            self._of_validations.said()
            unit = "images" if len(self.spvae.event_shape) == 3 else "rows"
            self.report(
                f"epoch {epoch:3d}  elbo {line['elbo']:10.2f}  validation {val_elbo:10.2f}"
                f"{'  ' if better is None else ' *'}  {line['images_per_second']:.0f} {unit}/s  "
                f"{self._remaining()} left at most"
            )

    def _bounds(self) -> tuple[dict[str, float], dict[str, Tensor] | None]:
        """What validation finds, of averaged weights if there are any, and the state that it is of if it is better."""
        self._before_validation()
        tick = self.pace.counting("validation")
        with self.averaged.applied():
            if self.averaged.begun:
                self._before_validation()
            means = mean_bounds(
                self.spvae, self.elbo, self.validation, self.config.seed, self.validation_observed, tick
            )
            for name, value in means.items():
                if not math.isfinite(value):
                    self._diverged(f"val_{name}", value, self.step)
            if means["elbo"] <= self.best:
                return means, None
            return means, {name: value.clone() for name, value in self.spvae.state_dict().items()}

    def _before_validation(self) -> None:
        distributed.average_statistics(self.spvae)
        before_validation(self.spvae, self.config.seed)

    def _keep(self, line: dict[str, Any], better: dict[str, Tensor] | None) -> None:
        """
        Metrics first, the last checkpoint at the end: whatever is cut off between them is done again alike.

        :param dict better: the model's state of a validation that was better than all before.
        """
        if self.folder is None:
            self._best_state = self._best_state if better is None else better
        else:
            state = self.state()
            if distributed.is_main():
                self.folder.append_metrics(line)
                if better is not None:
                    best = {name: state[name] for name in (*self.identity, *_OF_BEST)}
                    self.folder.save("best.pt", best | {"model": better})
                self.folder.save("last.pt", state)
        for logger in self.loggers:
            logger.log(self.step, {name: value for name, value in line.items() if name != "step"})

    def _interrupt(self) -> None:
        if self.folder is None:
            raise Interrupted(f"stopped after step {self.step}")
        state = self.state()
        if distributed.is_main():
            self.folder.save("last.pt", state)
        distributed.barrier()
        raise Interrupted(f"stopped after step {self.step}, everything is saved; continue with: {self._go_on}")

    @property
    def _go_on(self) -> str:
        return "" if self.folder is None else self.how_to_resume.format(path=shlex.quote(str(self.folder.path)))

    @alone()
    def _restore_best(self) -> None:
        if self.folder is not None:
            folder = self.folder
            self.spvae.load_state_dict(distributed.on_main(lambda: folder.load("best.pt")["model"]))
        elif self._best_state is not None:
            self.spvae.load_state_dict(self._best_state)
            own = process_buffers(self.spvae)
            for name, value in distributed.gathered(own)[0].items() if own else ():  # as from a folder
                own[name].copy_(value)
        before = {name: value.clone() for name, value in self.spvae.state_dict().items()}
        prepare_evaluation(self.spvae, self.config.seed)
        state = self.spvae.state_dict()
        if self.folder is not None and any(not torch.equal(state[name], value) for name, value in before.items()):
            if distributed.is_main():
                self.folder.save("best.pt", self.folder.load("best.pt") | {"model": state})

    def _diverged(self, name: str, value: float, step: int) -> None:
        def broken(of: Callable[[nn.Parameter], Tensor | None]) -> list[str]:
            tensors = {key: of(parameter) for key, parameter in self.parameters.items()}
            return [key for key, tensor in tensors.items() if tensor is not None and not tensor.isfinite().all()]

        names, what = broken(lambda parameter: parameter), "values"
        if not names:
            names, what = broken(lambda parameter: parameter.grad), "gradients"
        where = ""
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            where = f" ({what} of {', '.join(names[:_NAMED])}{more} are not finite)"
        kept = "nothing was kept"
        if self.validations and self.folder is not None:
            kept = f"the last good parameters are in {self.folder.path / 'last.pt'}"
        raise ValueError(
            f"the {name} became {value} at step {step}{where}; {kept}; try a smaller lr than "
            f"{self.update.lr or rate_of(self.spvae, self.config):g}, or data scaled to about [0, 1]"
        )

    def _remaining(self) -> str:
        done = self.epoch + self.batch / len(self.batches)
        return minutes((self.seconds + self.summed[2]) / done * (self.config.epochs - done))

    def _so_far(self) -> str:
        """Where a long epoch stands."""
        self._settle()
        done = self.batch * self.rows // len(self.batches) or self.rows
        epoch = self.epoch + (self.batch > 0)
        total, rows, _ = self.summed
        return (
            f"epoch {epoch:3d}  elbo {total / rows:10.2f}  {done:,} of {self.rows:,} rows  {self._remaining()} left at "
            "most"
        )

    def state(self) -> dict[str, Any]:
        """
        Everything that training goes on from, as tensors and plain values. All processes take part, since each has
        buffers of its own.

        :raises ValueError: if the bound of a step that was not waited for is not finite.
        """
        self._settle()
        return self.identity | {
            "model": self.spvae.state_dict(),
            "estimator": {} if self.estimator is None else self.estimator.state_dict(),
            "processes": distributed.gathered(self._own_buffers()),
            **self.update.state_dict(),
            "average": self.averaged.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "validations": self.validations,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "seconds": self.seconds,
            "summed": list(self.summed),
        }

    def _own_buffers(self) -> dict[str, Tensor]:
        """Buffers of model, average and estimator that differ between processes."""
        found = process_buffers(self.spvae) | self.averaged.process_buffers()
        if self.estimator is not None:
            found |= {f"estimator.{name}": value for name, value in process_buffers(self.estimator).items()}
        return found

    def load_state(self, state: dict[str, Any], metrics: list[dict[str, Any]]) -> None:
        """
        Goes on from :meth:`state`.

        :param dict state: what was saved.
        :param list metrics: the lines of the validations before it.
        """
        self.spvae.load_state_dict(state["model"])
        if self.estimator is not None and state.get("estimator"):
            self.estimator.load_state_dict(state["estimator"])
        self.averaged.load_state_dict(state.get("average", {}))
        own = self._own_buffers()
        if own:
            of_all = state["processes"]
            if len(of_all) != distributed.world():
                raise ValueError(
                    f"the run was started with {len(of_all)} processes, each with a state of its own, but there are "
                    f"{distributed.world()} now; resume it with {len(of_all)}"
                )
            with torch.no_grad():
                for name, value in own.items():
                    value.copy_(of_all[distributed.rank()][name])
        self.update.load_state_dict(state)
        for name in ("step", "epoch", "batch", "validations", "best", "best_epoch", "waited", "seconds"):
            setattr(self, name, state[name])
        self.summed = list(state["summed"])
        self.metrics = metrics
        self.step_seconds = metrics[-1].get("step_seconds", 0.0) if metrics else 0.0  # of older runs unknown


@contextmanager
def _training(spvae: nn.Module) -> Iterator[None]:
    """Within the block a model is in training mode; other threads that ask it may change that between two steps."""
    mode = in_mode(spvae, training=True)
    with alone():
        mode.__enter__()
    try:
        yield
    finally:
        with alone():
            mode.__exit__(None, None, None)


def _noise_of(device: torch.device) -> AbstractContextManager[None]:
    """Outside of the block torch's generators are as if nothing had been drawn."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
