# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Work that takes long is told of about every thirty seconds where no progress bar shows it, and no more often."""

from __future__ import annotations

import threading

import pytest

from pyro_spvae.infer import CircuitELBO
from pyro_spvae.training import pace
from pyro_spvae.training.evaluation import evaluate_rows
from pyro_spvae.training.pace import Pace, minutes
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import built, images, trainer_of


class Clock:
    """A clock that the test moves, and the lines that were reported, with their times."""

    def __init__(self):
        self.now = 100.0
        self.lines = []

    def __call__(self):
        return self.now

    def report(self, line):
        self.lines.append((self.now, line))

    def gaps(self, start, end):
        """Seconds between lines, and before the first and after the last."""
        times = [start, *(time for time, _ in self.lines), end]
        return [after - before for before, after in zip(times, times[1:], strict=False)]


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(pace, "clock", made)
    return made


def test_a_line_when_nothing_was_said_for_thirty_seconds(clock):
    told = Pace(clock.report)
    for second in range(100, 300):
        clock.now = float(second)
        if second == 200:
            told.said()
        told.tell(lambda: f"at {clock.now:g}")
    assert clock.lines == [(t, f"at {t:g}") for t in (130.0, 160.0, 190.0, 230.0, 260.0, 290.0)]
    assert told.silent_for == 9


def test_a_line_that_is_not_due_is_not_made(clock):
    Pace(clock.report).tell(lambda: pytest.fail("made"))


def test_counting_says_how_many_are_done_and_how_long_the_rest_takes(clock):
    tick = Pace(clock.report).counting("validation")
    for done in range(0, 1001, 100):
        tick(done, 1000)
        clock.now += 10
    wanted = [(300, "1:10"), (600, "0:40"), (900, "0:10")]
    assert [line for _, line in clock.lines] == [
        f"validation  {done} of 1,000 rows, {left} left" for done, left in wanted
    ]


def test_minutes():
    assert [minutes(seconds) for seconds in (0.0, 59.9, 60, 4000)] == ["0:00", "0:59", "1:00", "66:40"]


def slow_steps(monkeypatch, clock, seconds):
    """Each step of training takes so long."""
    step = Trainer._step

    def slow(*args, **options):
        clock.now += seconds
        return step(*args, **options)

    monkeypatch.setattr(Trainer, "_step", slow)


@pytest.mark.parametrize(("progress", "lines"), [(False, [35, 70]), (True, [])])
def test_a_long_epoch(clock, monkeypatch, progress, lines):
    """Of ten steps of seven seconds; validations, which are told of anyway, count as lines."""
    spvae, data, config = built(images(rows=80), batch_size=4, epochs=1)
    slow_steps(monkeypatch, clock, 7.0)
    trainer = trainer_of(spvae, data, config, report=clock.report, progress=progress)
    trainer.run()
    during = [(time, line) for time, line in clock.lines if "validation" not in line]
    assert [time - 100 for time, _ in during] == lines
    assert len(clock.lines) == len(during) + (not progress)
    if lines:
        bound = trainer.metrics[0]["elbo"]
        assert during[0][1].startswith("epoch   1  elbo ") and "  20 of 40 rows  " in during[0][1]
        assert f"{bound:.2f}  40 of 40 rows" in during[1][1], "the mean over all rows so far"


def test_epochs_of_any_length_are_told_of_and_no_line_is_lost(clock, monkeypatch):
    spvae, data, config = built(images(rows=80), batch_size=4, epochs=9, patience=9)
    slow_steps(monkeypatch, clock, 3.5)
    trainer_of(spvae, data, config, report=clock.report).run()
    validations = [line for _, line in clock.lines if "validation" in line]
    assert len(validations) == 9, "35 seconds after the one before"
    assert max(clock.gaps(100, clock.now)) <= 35
    others = [time for time, line in clock.lines if "validation" not in line]
    assert len(others) == 9 and all(after - before >= 30 for before, after in zip(others, others[1:], strict=False))


def test_of_short_epochs_the_first_five_are_told_of_and_then_one_in_ten_seconds(clock, monkeypatch):
    spvae, data, config = built(images(rows=80), batch_size=40, epochs=30, patience=30)
    slow_steps(monkeypatch, clock, 1.0)
    trainer_of(spvae, data, config, report=clock.report).run()
    assert [time - 100 for time, _ in clock.lines] == [1, 2, 3, 4, 5, 16, 27]


class Slow:
    """A model some of whose answers take seconds, a block of rows."""

    def __init__(self, monkeypatch, clock, seconds):
        from pyro_spvae.training import evaluation

        for name in ("bound_terms", "draw_means"):
            monkeypatch.setattr(evaluation, name, self.slow(getattr(evaluation, name), clock, seconds))
        monkeypatch.setattr(evaluation, "_BOUND_ROWS", 2)
        monkeypatch.setattr(evaluation, "_LIKELIHOOD_ROWS", 2)
        monkeypatch.setattr(evaluation, "_PAIRS", 2)

    def slow(self, function, clock, seconds):
        def wrapper(*args, **options):
            clock.now += seconds
            return function(*args, **options)

        return wrapper


def test_a_long_validation(clock, monkeypatch):
    spvae, data, config = built(images(rows=80), epochs=1)
    Slow(monkeypatch, clock, 10.0)
    trainer_of(spvae, data, config, report=clock.report).run()
    *told, last = clock.lines
    assert [line.split(", ")[0] for _, line in told] == [f"validation  {n} of 20 rows" for n in (6, 12, 18)]
    assert [time for time, _ in told] == [130, 160, 190] and "validation" in last[1]


def test_a_long_evaluation(clock, monkeypatch):
    spvae, data, _ = built(images(rows=80))
    Slow(monkeypatch, clock, 10.0)
    answer = spvae.log_likelihood
    spvae.log_likelihood = lambda *args, **options: (setattr(clock, "now", clock.now + 12), answer(*args, **options))[1]
    options = {"elbo": CircuitELBO(2), "samples": 2, "chunk_size": 4, "seed": 0}
    quiet = evaluate_rows(spvae, data.test, **options)
    assert not clock.lines
    start = clock.now
    loud = evaluate_rows(spvae, data.test, **options, pace=Pace(clock.report))
    assert loud.results == quiet.results
    assert {line.split()[0] for _, line in clock.lines} == {"evaluating", "bounds", "latents"}
    assert max(clock.gaps(start, clock.now)) <= 60
    assert min(clock.gaps(start, clock.now)[:-1]) >= 30


def test_work_that_cannot_tell_is_told_of_by_another_thread(clock):
    """As soon as the clock is beyond forty seconds, and not after its end."""
    told, said = Pace(clock.report), threading.Event()
    report = told._report
    told._report = lambda line: (report(line), said.set())
    told._last = clock.now - 40
    with told.during("t-SNE"):
        assert said.wait(60)
        clock.now += 95
        said.clear()
        assert told.silent_for == 95
    assert clock.lines[0] == (100.0, f"{'t-SNE':<12}0:00 so far")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pace")]


def test_work_that_counts_is_told_of_by_its_own_words(clock, monkeypatch):
    """The other thread, which waits by the true clock, leaves it time to, and else repeats what was counted last."""
    monkeypatch.setattr(pace, "EVERY", 0.3)
    monkeypatch.setattr(pace, "_LATE", 0.1)
    told, said = Pace(clock.report), threading.Event()
    report = told._report
    told._report = lambda line: (report(line), said.set())
    with told.during("evaluating"):
        tick = told.counting("evaluating")
        clock.now += 0.35  # time for a line, which the other thread does not take
        assert not said.wait(1.0)
        tick(100, 40_000)
        assert said.is_set()
        said.clear()
        clock.now += 0.5
        assert said.wait(60)
    lines = [line for _, line in clock.lines]
    assert lines == ["evaluating  100 of 40,000 rows, 2:19 left", "evaluating  100 of 40,000 rows, 0:00 so far"]


def test_work_that_ends_in_time_is_not_told_of(clock):
    with Pace(clock.report).during("t-SNE"):
        clock.now += pace.EVERY - 1
    with pytest.raises(KeyError), Pace(clock.report).during("t-SNE"):
        raise KeyError
    assert not clock.lines
