# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes against one; two that are killed and resumed are in test_resume."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae import distributed
from pyro_spvae.evaluating import lean
from pyro_spvae.training.evaluation import log_likelihoods, mean_bounds
from tests.cli_cases import Forked
from tests.training import worker
from tests.training.cases import same


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each of two processes left."""
    folder = tmp_path_factory.mktemp("two")
    Forked(worker.main, folder, number=2).succeed()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_gradients_are_those_of_the_whole_batch(two, monkeypatch):
    trainer, _ = worker.make()
    index = trainer.batches.index(0, 0)
    assert len(index) % 2 == 1, "shares of different size"
    with lean():
        for rank in range(2):  # the same rows and noise, one share after the other
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(distributed, "world", lambda: 2)
            x, _ = trainer.batches(0, 0)
            monkeypatch.undo()
            torch.manual_seed(100 + rank)
            (trainer.objective(x.double()) / len(index)).backward()
    for ours, theirs, other in zip(trainer.spvae.parameters(), two[0]["gradients"], two[1]["gradients"], strict=True):
        torch.testing.assert_close(theirs, ours.grad, rtol=1e-10, atol=1e-12)
        assert torch.equal(theirs, other)


def test_one_process_acts_and_all_are_told(two):
    assert [result["ran"] for result in two] == [[0], []]
    assert [result["told"] for result in two] == ["told", "told"]


def test_replicas_stay_identical(two):
    assert two[0]["world"] == 2 and two[0]["elbo"] == two[1]["elbo"]
    assert same(two[0]["parameters"], two[1]["parameters"]) and same(two[0]["em"], two[1]["em"])
    assert same(two[0]["online"], two[1]["online"])


def test_processes_have_noise_of_their_own(two):
    assert len(set(two[0]["seeds"] + two[1]["seeds"])) == 2 * len(two[0]["seeds"]) > 0
    trainer, _ = worker.make()
    alone = trainer.run()
    assert alone[0]["elbo"] != two[0]["elbo"][0]
    assert alone[0]["elbo"] == pytest.approx(two[0]["elbo"][0], rel=0.05)


@pytest.mark.parametrize("name", ["em", "online"])
def test_em_is_that_of_one_process(two, name):
    trainer, _ = worker.make(**{"em": worker.EM, "online": worker.ONLINE}[name])
    before = {key: value.clone() for key, value in trainer.spvae.state_dict().items()}
    trainer.run()
    for key, value in trainer.spvae.state_dict().items():
        torch.testing.assert_close(two[0][name][key], value, rtol=1e-9, atol=1e-12)
    assert any((value - before[key]).abs().max() > 0.1 for key, value in trainer.spvae.state_dict().items())


def test_em_that_was_stopped_in_the_middle_of_an_epoch_is_as_if_it_never_had_been(two):
    """The rows of all processes count, also those that were seen before; writing a checkpoint changes nothing."""
    for result in two:
        whole, stopped, resumed = result["em_resumed"]
        assert same(stopped, whole)
        for key, value in whole.items():
            torch.testing.assert_close(resumed[key], value, rtol=1e-9, atol=1e-12)
        assert same(resumed, two[0]["em_resumed"][2])


def test_validation_sees_the_mean_of_running_statistics(two):
    (own, validated), (others, same_validated) = (result["statistics"] for result in two)
    assert own and not same(own, others) and same(validated, same_validated)
    for name, value in validated.items():
        torch.testing.assert_close(value, (own[name] + others[name]) / 2)


def test_averaged_weights_are_the_same_with_the_mean_of_running_statistics(two):
    one, other = (result["averaged"] for result in two)
    assert same(one["parameters"], other["parameters"]) and same(one["parameters"], one["resumed"])
    assert same(one["resumed"], other["resumed"])
    of_each = one["processes"]
    assert of_each[0] and not same(*of_each)
    for name, value in of_each[0].items():
        mean = (value + of_each[1][name]) / 2
        torch.testing.assert_close(one["parameters"][name.removeprefix("average.")], mean)


def test_evaluation_is_that_of_one_process(two):
    trainer, test = worker.make()
    trainer.spvae.load_state_dict(two[0]["parameters"])
    assert len(test) % 2 == 1
    alone = log_likelihoods(trainer.spvae, test, samples=40, chunk_size=8, seed=3)
    assert torch.equal(two[0]["log_likelihoods"], alone) and torch.equal(two[1]["log_likelihoods"], alone)
    bounds = mean_bounds(trainer.spvae, trainer.elbo, test, seed=3)
    assert two[0]["bounds"] == two[1]["bounds"] == bounds


@pytest.mark.parametrize("name", ["exact", "hidden", "tree"])
def test_tables_with_holes_are_trained_as_by_one_process(two, name):
    """Leaves without latent variables draw nothing, so that rows and what is hidden are shared out alone."""
    trainer, _ = worker.mixed(**worker.TABLES[name])
    assert len(trainer.batches.index(0, 0)) % 2 == 1 and trainer.batches.rows.missing
    before = {key: value.clone() for key, value in trainer.spvae.state_dict().items()}
    trainer.run()
    for key, value in trainer.spvae.state_dict().items():
        torch.testing.assert_close(two[0]["tables"][name]["parameters"][key], value, rtol=1e-9, atol=1e-12)
    assert any((value - before[key]).abs().max() > 0.01 for key, value in trainer.spvae.state_dict().items())


@pytest.mark.parametrize("name", worker.TABLES)
def test_evaluation_of_tables_with_holes_is_that_of_one_process(two, name):
    (own, other), (trainer, test) = (result["tables"][name] for result in two), worker.mixed(**worker.TABLES[name])
    assert same(own["parameters"], other["parameters"])
    trainer.spvae.load_state_dict(own["parameters"])
    assert len(test) % 2 == 1 and test.missing
    alone = log_likelihoods(trainer.spvae, test, samples=20, chunk_size=8, seed=3)
    assert torch.equal(own["log_likelihoods"], alone) and torch.equal(other["log_likelihoods"], alone)
    assert own["bounds"] == other["bounds"] == mean_bounds(trainer.spvae, trainer.elbo, test, seed=3)


def test_all_choose_the_same_candidate_as_one_process(two):
    (config, lines), others = worker.raced(), [result["raced"] for result in two]
    assert others[0] == others[1] and others[0][0] == config
    exact = 0
    for line, other in zip(lines, others[0][1], strict=True):
        assert line.keys() == other.keys() and line.get("parameters") == other.get("parameters")
        if "bound" in line:
            assert other["bound"] == pytest.approx(line["bound"], rel=1e-9)
            exact += 1
    assert exact > 3


def test_one_process_needs_no_launcher():
    assert (distributed.rank(), distributed.world(), distributed.is_main()) == (0, 1, True)
