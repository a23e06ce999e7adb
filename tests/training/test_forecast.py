# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How long a run will take: steps, validations and evaluation, as often as there are, each as it was measured."""

from __future__ import annotations

import dataclasses

import pytest

from pyro_spvae.training import cost, forecast
from pyro_spvae.training.forecast import Forecast
from pyro_spvae.training.job import Job
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import built, images

STEP, BOUND, MEANS, SAMPLE = (0.5, 0.01), (0.25, 0.02), (0.0, 0.125), 0.001  # seconds of a call and of a row
PREPARED, BEFORE = 7.0, 3.0


def job_of(**options):
    spvae, data, config = built(images(rows=400), **options)
    return Job(config, data, data, spvae, {})


@pytest.fixture
def calls(monkeypatch):
    """A clock that each piece of work moves by what it takes, and with how many rows it was done."""
    now, rows = [0.0], {"step": [], "bounds": []}

    def takes(seconds, number=0):
        now[0] += seconds[0] + seconds[1] * number

    def step(self, x, observed=None):
        rows["step"].append(len(x))
        takes(STEP, len(x))

    def bounds(spvae, elbo, of, seed):
        rows["bounds"].append(len(of))
        takes(BOUND, len(of))

    monkeypatch.setattr(cost, "clock", lambda: now[0])
    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(forecast, "mean_bounds", bounds)
    monkeypatch.setattr(forecast, "mean_variances", lambda spvae, of, seed: takes(MEANS, len(of)))
    monkeypatch.setattr(forecast, "prepare_evaluation", lambda *args: takes((PREPARED, 0.0)))
    monkeypatch.setattr(forecast, "before_validation", lambda *args: takes((BEFORE, 0.0)))
    monkeypatch.setattr(cost, "sample_seconds", lambda spvae, of, chunk, samples: SAMPLE)
    return rows


def seconds(rows, of):
    return of[0] + of[1] * rows


@pytest.mark.parametrize(("every", "validations"), [(None, 4), (5, 8), (7, 6)])
def test_is_what_each_part_takes_as_often_as_it_is_done(calls, every, validations):
    """200 rows to train by in batches of 20: 10 steps an epoch; 100 to validate and 100 to test by."""
    job = job_of(epochs=4, batch_size=20, validate_every=every, samples=30)
    found = forecast.forecast(job)
    training = 40 * seconds(20, STEP) + validations * (BEFORE + seconds(100, BOUND))
    evaluation = PREPARED + seconds(100, BOUND) + seconds(100, MEANS) + 100 * 30 * SAMPLE
    assert found.training == pytest.approx(training) and found.evaluation == pytest.approx(evaluation)
    assert found.total == found.training + found.evaluation


def test_long_blocks_are_not_measured_but_inferred(calls):
    """Of 100 rows that would take longer than a second no more than 32 are tried, and what a call takes counts once."""
    found = forecast.forecast(job_of(epochs=1, batch_size=100, samples=5))
    assert calls["step"] == [8, 8, 32] and max(calls["bounds"]) == 32
    assert found.training == pytest.approx(2 * seconds(100, STEP) + BEFORE + seconds(100, BOUND))


def test_rows_that_are_watched_and_tested_may_be_others(calls):
    job = job_of(epochs=1, batch_size=20, samples=5, test_rows=10)
    watched, own = forecast.forecast(job, job.data.train), forecast.forecast(job)
    assert watched.training - own.training == pytest.approx(0.02 * 100)
    expected = PREPARED + seconds(10, BOUND) + seconds(10, MEANS) + 10 * 5 * SAMPLE
    assert watched.evaluation == pytest.approx(expected) and own.evaluation == pytest.approx(expected)


def test_measures_a_model(tmp_path, monkeypatch):
    """A real one, without a trace in files."""
    monkeypatch.chdir(tmp_path)
    found = forecast.forecast(job_of(samples=5))
    assert isinstance(found, Forecast) and found.training > 0 and found.evaluation > 0
    assert not list(tmp_path.iterdir())


def test_samples_must_be_known():
    with pytest.raises(ValueError, match="^samples is left to the time of training; a number is needed$"):
        forecast.forecast(job_of(samples=None))


def test_evaluated_rows_are_the_first():
    job = job_of(test_rows=7)
    assert (job.test[:] == job.data.test[:7]).all() and len(job.test) == 7 and len(job.data.test) == 100
    for rows in (None, 100, 1000):
        assert dataclasses.replace(job, config=dataclasses.replace(job.config, test_rows=rows)).test is job.data.test
