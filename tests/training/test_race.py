# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The race of candidates for tables of which nothing is said, and runs that it decides."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae.data import load_data
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.training import job as job_module
from pyro_spvae.training import pace as pace_module
from pyro_spvae.training import race as race_module
from pyro_spvae.training.candidates import Candidate, candidates
from pyro_spvae.training.config import TrainConfig, read_config
from pyro_spvae.training.interruption import Interrupted
from pyro_spvae.training.race import race
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.run import open_run
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import plan, resume, train
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import assert_same_outcome, stopped_after, table
from tests.training.test_candidates import frame

CPU = torch.device("cpu")
OPEN = TrainConfig(epochs=2, samples=5, device="cpu")
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)


@pytest.fixture
def people(tmp_path):
    """A table in a file."""
    frame(120).to_csv(tmp_path / "people.csv", index=False)
    return dataclasses.replace(OPEN, data=str(tmp_path / "people.csv"))


@pytest.fixture
def unraced(monkeypatch):
    """Whoever holds a race from here on fails."""

    def forbid():
        monkeypatch.setattr(job_module, "race", lambda *args: pytest.fail("a race is held"))

    return forbid


@pytest.fixture
def any_size(monkeypatch):
    """Tables have as many entries as any model could wish for."""
    monkeypatch.setattr(race_module, "_entries", lambda *args: 10**9)


def untimed(lines):
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def record(path):
    return json.loads((path / "data.json").read_text())


def one(name, **options):
    return Candidate(name, {"structure": "whole", "leaf": "factorized", "units": 1, "weights": "full"} | options)


@pytest.fixture
def scripted(monkeypatch):
    """A race whose candidates, their bounds and what they are refused for are given."""

    def script(*bounds):
        found = [one(f"number {place}", leaves=place + 1, batch_size=10) for place in range(len(bounds))]
        monkeypatch.setattr(race_module, "candidates", lambda *args: found)

        def trained(entry, candidate, device, pace):
            bound = bounds[found.index(candidate)]
            if isinstance(bound, str):
                raise ValueError(bound)
            return {"bound": bound, "epochs": 1}

        monkeypatch.setattr(race_module, "_trained", trained)

    return script


class TestChoice:
    @pytest.mark.parametrize(
        ("bounds", "best"),
        [
            ((-3.0, -1.0, -2.0), 1),
            ((-3.0, -2.0, -1.0), 2),
            ((-1.0, -2.0, -3.0), 0),
            ((-2.0, -1.0, -1.0), 1),
            (("no", -1.0, 4.0, "never"), 2),
        ],
    )
    def test_the_best_bound_wins_and_the_first_of_equal_ones(self, scripted, bounds, best):
        scripted(*bounds)
        said = []
        config, lines = race(OPEN, table(rows=200), CPU, said.append)
        assert config.leaves == best + 1 and config.race == "none"
        assert said[0].startswith(f"race        of {len(bounds)} candidates, judged by 50 validation rows")
        assert said[-1] == f"best        number {best}" and len(said) == len(bounds) + 2
        for place, (line, bound) in enumerate(zip(lines, bounds, strict=True)):
            assert line["candidate"] == f"number {place}" and said[place + 1].split("  ")[1] == f"number {place}"
            assert (line["refused"] if isinstance(bound, str) else line["bound"]) == bound
            assert ("left out: " + bound if isinstance(bound, str) else f"{bound:.3f} nats") in said[place + 1]
            assert ("bound" in line) == ("parameters" in line) == ("seconds" in line) != ("refused" in line)

    def test_all_refused(self, scripted):
        scripted("first", "second")
        with pytest.raises(ValueError, match=r"^no candidate takes these data: first; name a structure and leaves$"):
            race(OPEN, table(), CPU)

    def test_what_is_given_is_at_fault(self, people):
        said = []
        with pytest.raises(ValueError, match=r"^likelihood is 'bernoulli', but the values of people.csv are not"):
            race(dataclasses.replace(people, likelihood="bernoulli"), load_data(people.data), CPU, said.append)
        assert not said, "refused at once"

    def test_no_more_parameters_than_entries(self):
        """Of 20 rows and 4 columns."""
        config, lines = race(OPEN, table(rows=40), CPU)
        for line in lines:
            assert ("80 entries" in line.get("refused", "")) != ("bound" in line)
            assert line.get("parameters", 0) <= 80
        assert any("refused" in line for line in lines)
        own = [candidate.of(OPEN) for candidate in candidates(OPEN, table(rows=40))]
        sizes = []
        for candidate in own:
            spvae = race_module._made(resolve(candidate, table(rows=40)), table(rows=40))
            sizes.append(sum(parameter.numel() for parameter in spvae.parameters()))
        assert [size > 80 for size in sizes] == ["refused" in line for line in lines] and config in own

    def test_entries_are_those_of_the_rows_that_are_used(self):
        data, config = table(rows=80), dataclasses.replace(OPEN, fraction=0.5)
        said = []
        lines = race(config, data, CPU, said.append)[1]
        assert any("more than the 80 entries" in line.get("refused", "") for line in lines)
        assert "judged by 10 validation rows" in said[0]
        assert untimed(lines) == untimed(race(OPEN, data.thinned(0.5), CPU)[1])

    def test_where_all_are_too_large_the_smallest_is_taken_and_said(self, monkeypatch, people):
        monkeypatch.setattr(race_module, "_entries", lambda *args: 7)
        data = load_data(people.data)
        entered = {one.name: race_module._entered(one, people, data).config for one in candidates(people, data)}
        said = []
        config, lines = race(people, data, CPU, said.append)
        lines = [line for line in lines if "without EM the same" not in line["refused"]]
        assert all("more than the 7 entries to train by" in line["refused"] for line in lines)
        smallest = min(lines, key=lambda line: int(line["refused"].split()[0].replace(",", "")))
        assert config == entered[smallest["candidate"]]
        assert said[-1].startswith(f"smallest    {smallest['candidate']}, of more parameters than")

    @pytest.mark.parametrize(("given", "notes"), [({}, 0), ({"leaf": "vae"}, 1)], ids=["raced", "given"])
    def test_a_run_says_so_too(self, people, tmp_path, given, notes):
        said = []
        results = train(dataclasses.replace(people, **given), tmp_path / "run", report=said.append)
        entries = record(tmp_path / "run")["rows"]["train"] * 4
        assert (results["parameters"] > entries) == bool(notes)
        assert (
            sum(f"has more parameters than the training rows have entries, {entries}" in one for one in said) == notes
        )

    def test_the_seed_decides(self):
        data = table(rows=120)
        first, again, other = (race(dataclasses.replace(OPEN, seed=seed), data, CPU) for seed in (1, 1, 2))
        assert (first[0], untimed(first[1])) == (again[0], untimed(again[1]))
        assert "Chow-Liu" in first[1][0]["candidate"] and first[1][0]["bound"] != other[1][0]["bound"]

    def test_other_generators_stay_what_they_are(self):
        states = random.getstate(), np.random.get_state()[1].tolist()
        race(OPEN, table(rows=60), CPU)
        assert states == (random.getstate(), np.random.get_state()[1].tolist())


class TestBudget:
    @pytest.fixture
    def trained(self, monkeypatch):
        """Configurations that are trained by; none trains."""
        found = []

        def made(spvae, rows, validation, config, **options):
            found.append(config)
            raise ValueError("not trained")

        monkeypatch.setattr(race_module, "Trainer", made)
        return found

    @pytest.mark.parametrize(
        ("batch_size", "epochs", "wanted"),
        [
            (10, 10_000, 250),  # a tenth is 4,000 steps of 4 batches
            (10, 1500, 150),
            (10, 400, 100),  # a tenth is 160 steps
            (10, 60, 60),
            (40, 400, 400),
            (40, 20_000, 1000),
            (16, 400, 134),
            (20, 1, 1),
        ],
    )
    def test_a_tenth_of_the_epochs_and_400_to_1000_steps(self, trained, batch_size, epochs, wanted):
        config = dataclasses.replace(OPEN, epochs=epochs, batch_size=batch_size)
        race(config, table(rows=80), CPU)
        assert {own.epochs for own in trained if own.optimiser == "adamw"} == {wanted}
        of_em = {own.epochs for own in trained if own.optimiser == "em"}
        assert of_em == {min(epochs, max(400, min(1000, epochs // 10 * -(-40 // batch_size))))}


class TestProgress:
    def test_what_takes_long_is_told_of(self, monkeypatch):
        quiet, said = [], []
        race(OPEN, table(rows=60), CPU, quiet.append)
        monkeypatch.setattr(pace_module, "EVERY", 0.0)
        race(OPEN, table(rows=60), CPU, said.append)
        names = [candidate.name for candidate in candidates(OPEN, table(rows=60))]
        between = [line for line in said if line.split(": ")[0].strip() in names]
        assert len(quiet) == len(names) + 2 and len(said) == len(quiet) + len(between) and not set(between) & set(quiet)
        ran = {line.split(": ")[0].strip() for line in between}
        assert ran == {line[2:54].strip() for line in quiet if " nats " in line} <= set(names)
        assert sum("left at most" in line for line in between) >= 2 * len(ran)


class TestRun:
    @pytest.fixture
    def raced(self, people, tmp_path):
        """A run, the lines that it said, and its configuration before."""
        said = []
        results = train(people, tmp_path / "run", report=said.append)
        return tmp_path / "run", said, results, people

    @staticmethod
    def entered(config, name):
        """The candidate of a name, as it takes part."""
        data = load_data(config.data)
        (chosen,) = (one for one in candidates(config, data) if one.name == name)
        return race_module._entered(chosen, config, data)

    def test_the_best_is_trained(self, raced):
        path, said, results, config = raced
        lines = record(path)["race"]
        best = max((line for line in lines if "bound" in line), key=lambda line: line["bound"])
        assert open_run(path).config == self.entered(config, best["candidate"]).resolved
        assert f"best        {best['candidate']}" in said and said[0].startswith("race        of")
        assert results["parameters"] == best["parameters"]
        # so few epochs are not made fewer in the race, so that it did all that the run does
        assert results["val_elbo"] == best["bound"] and results["epochs"] == best["epochs"] == 2

    def test_is_kept_in_the_log(self, raced):
        path, said, *_ = raced
        lines = (path / "log.txt").read_text().splitlines()
        assert lines == said[: len(lines)] and lines[0].startswith("race        of")

    def test_counts_among_the_seconds_of_the_run(self, raced):
        path, _, results, _ = raced
        lines = record(path)["race"]
        assert results["seconds"] > sum(line.get("seconds", 0.0) for line in lines) + results["train_seconds"]

    def test_is_that_of_the_options_of_the_best(self, raced, tmp_path, unraced):
        path, _, _, config = raced
        best = max((line for line in record(path)["race"] if "bound" in line), key=lambda line: line["bound"])
        unraced()
        chosen = dataclasses.replace(self.entered(config, best["candidate"]).config, race="auto")
        assert chosen.structure != "auto" and chosen.leaf != "auto"
        train(chosen, tmp_path / "again")
        assert_same_outcome(path, tmp_path / "again")
        assert "race" not in record(tmp_path / "again")

    def test_its_configuration_makes_it_again_without_a_race(self, raced, tmp_path, unraced):
        path, *_ = raced
        unraced()
        train(read_config(path / "config.json"), tmp_path / "again")
        assert_same_outcome(path, tmp_path / "again")

    def test_stopped_and_resumed_without_another_race(self, raced, tmp_path, monkeypatch, unraced):
        path, *_, config = raced
        advance = Trainer._advance
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted, match="continue with"):
            patch.setattr(
                Trainer,
                "_advance",
                lambda self, *args: advance(self, *args) or (self.folder is not None and self.epoch == 1),
            )
            train(config, tmp_path / "stopped")
        assert untimed(record(tmp_path / "stopped")["race"]) == untimed(record(path)["race"])
        kept = record(tmp_path / "stopped")
        unraced()
        resume(tmp_path / "stopped")
        assert_same_outcome(path, tmp_path / "stopped")
        assert record(tmp_path / "stopped") == kept == RunFolder(tmp_path / "stopped").load("last.pt")["data"]

    def test_ctrl_c_in_the_race_leaves_nothing(self, people, tmp_path):
        with stopped_after(1, Interrupted, match="stopped in the race of candidates, at the .*; nothing was written"):
            train(people, tmp_path / "run")
        assert [path.name for path in tmp_path.iterdir()] == ["people.csv"]

    def test_nor_does_it_touch_the_run_that_is_to_be_replaced(self, raced):
        path, *_, config = raced
        before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
        with stopped_after(1, Interrupted, match="nothing was written"):
            train(config, path, overwrite=True)
        assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before

    def test_without_a_race(self, people, tmp_path, unraced):
        unraced()
        train(dataclasses.replace(people, race="none"), tmp_path / "run")
        first = candidates(people, load_data(people.data))[0]
        assert open_run(tmp_path / "run").config == resolve(first.of(people), load_data(people.data))
        assert "race" not in record(tmp_path / "run")

    @pytest.mark.parametrize("given", [{"units": 2}, {"leaf": "factorized"}, {"objective": "elbo"}, {"latent_dim": 2}])
    def test_what_is_given_ends_it(self, people, tmp_path, unraced, given):
        unraced()
        train(dataclasses.replace(people, **given), tmp_path / "run")
        config = open_run(tmp_path / "run").config
        assert {name: getattr(config, name) for name in given} == given
        assert config.structure == "random-binary-tree" and "race" not in record(tmp_path / "run")

    def test_an_own_objective_is_for_vaes_as_one_that_is_named_is(self, people, tmp_path, unraced):
        unraced()
        train(people, tmp_path / "run", objective=CircuitELBO(3))
        config = open_run(tmp_path / "run").config
        named = resolve(dataclasses.replace(people, objective="elbo"), load_data(people.data))
        assert dataclasses.replace(config, objective="elbo") == named and config.leaf == "vae"
        assert "race" not in record(tmp_path / "run")

    def test_a_dry_run_lists_the_candidates_and_trains_none(self, people, monkeypatch):
        monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained"))
        said = []
        plan(people, said.append)
        found = candidates(people, load_data(people.data))
        assert json.loads(said[0]) == resolve(people, load_data(people.data)).to_dict()
        assert said[1] == f"race        of {len(found)} candidates, to be judged by 12 validation rows"
        for line, candidate in zip(said[2:], found, strict=False):
            assert line.startswith(f"  {candidate.name}  ") and "nats" not in line
            assert "parameters" in line or "without EM the same as" in line
        assert said[2 + len(found)] == "options above and model below are those of the first of them"
        said.clear()
        plan(dataclasses.replace(people, units=2), said.append)
        assert not any("race " in line for line in said)

    def test_one_epoch(self, people, tmp_path):
        results = train(dataclasses.replace(people, epochs=1), tmp_path / "run")
        assert results["epochs"] == 1 and {line.get("epochs", 1) for line in record(tmp_path / "run")["race"]} == {1}

    def test_a_table_of_one_column(self, people, tmp_path, unraced):
        frame(60)[["weight"]].to_csv(tmp_path / "one.csv", index=False)
        unraced()
        train(dataclasses.replace(people, data=str(tmp_path / "one.csv")), tmp_path / "run")
        assert open_run(tmp_path / "run").config.structure == "whole"

    def test_a_constant_column(self, people, tmp_path, recwarn):
        """Of which the model that is trained warns, if it learns a tree, and no other."""
        frame(120).assign(same=3).to_csv(tmp_path / "same.csv", index=False)
        results = train(dataclasses.replace(people, data=str(tmp_path / "same.csv")), tmp_path / "run")
        ran = [line["bound"] for line in record(tmp_path / "run")["race"] if "bound" in line]
        assert len(ran) > 3 and results["val_elbo"] == max(ran)
        assert len(recwarn) == (open_run(tmp_path / "run").config.structure == "chow-liu")


TABLES = {
    "real": lambda: frame(90)[["change", "weight"]].assign(more=frame(90, seed=1)["change"]),
    "bits": lambda: frame(90)[["visits", "change", "weight"]] > 1,
    "mixed": lambda: frame(90),
}


class TestMeetings:
    """Every candidate takes every table, and a run does what its race did."""

    @pytest.mark.parametrize("holes", [False, True], ids=["whole", "holes"])
    @pytest.mark.parametrize("kind", TABLES)
    def test_of_kinds_and_holes(self, tmp_path, any_size, kind, holes):
        self.check(tmp_path, kind, holes)

    @pytest.mark.parametrize(
        "given", [{"hide": 0.3}, {"fraction": 0.5}, {"validate_every": 1}, {"precision": "float64"}], ids="-".join
    )
    @pytest.mark.parametrize("kind", ["real", "mixed"])
    def test_of_options_and_holes(self, tmp_path, any_size, kind, given):
        self.check(tmp_path, kind, holes=True, **given)

    @staticmethod
    def check(folder, kind, holes, **given):
        data = TABLES[kind]()
        if holes:
            data = data.where(np.random.default_rng(2).random(data.shape) < 0.8)
        data.to_csv(folder / "table.csv", index=False)
        config = dataclasses.replace(OPEN, data=str(folder / "table.csv"), batch_size=30, seed=4, **given)
        results = train(config, folder / "run")
        lines = record(folder / "run")["race"]
        refused = {line["refused"].split(" as ")[0] for line in lines if "refused" in line}
        assert refused <= {"without EM the same"} and bool(refused) == bool({"hide", "validate_every"} & given.keys())
        lines = [line for line in lines if "refused" not in line]
        assert len(lines) > 2 and all(np.isfinite(line["bound"]) for line in lines)
        assert results["val_elbo"] == max(line["bound"] for line in lines)
        assert open_run(folder / "run").data().test.missing == holes

    def test_of_rows_to_validate_by(self, people, tmp_path):
        frame(33, seed=5).to_csv(tmp_path / "watched.csv", index=False)
        said = []
        config = dataclasses.replace(people, validation_data=str(tmp_path / "watched.csv"))
        results = train(config, tmp_path / "run", report=said.append)
        lines = record(tmp_path / "run")["race"]
        assert "judged by 33 validation rows" in said[0]
        assert results["val_elbo"] == max(line["bound"] for line in lines if "bound" in line)

    def test_mixtures_are_trained_by_em_whatever_the_other_columns_are(self, tmp_path, any_size):
        """Of a table with a count and a proportion beside two real columns."""
        torch.manual_seed(0)
        data = pd.DataFrame(torch.randn(80, 2).numpy(), columns=["a", "b"])
        data["visits"] = np.random.default_rng(0).negative_binomial(2, 0.1, 80)
        data["share"] = np.random.default_rng(1).beta(0.7, 2, 80)
        data.to_csv(tmp_path / "table.csv", index=False)
        config = dataclasses.replace(OPEN, data=str(tmp_path / "table.csv"))
        loaded = load_data(config.data)
        assert {str(column.family) for column in loaded.columns} == {"normal", "negative-binomial", "beta"}
        found = [race_module._entered(one, config, loaded).resolved for one in candidates(config, loaded)]
        assert {one.optimiser for one in found if one.structure == "whole"} == {"em"}
        _, lines = race(config, loaded, CPU)
        of_mixtures = [line for line in lines if "Gaussian" in line["candidate"]]
        assert len(of_mixtures) > 3 and all(math.isfinite(line["bound"]) for line in of_mixtures)


class TestGreyImages:
    @pytest.fixture
    def pictures(self, tmp_path):
        """Images of two patterns and 40 levels in a file."""
        generator = torch.Generator().manual_seed(0)
        pattern = torch.randint(39, (2, 4, 4), generator=generator)
        x = pattern[torch.randint(2, (160,), generator=generator)] + torch.randint(2, (160, 4, 4), generator=generator)
        x[0, 0, 0] = 39
        np.save(tmp_path / "pictures.npy", x.to(torch.uint8).numpy())
        return dataclasses.replace(OPEN, data=str(tmp_path / "pictures.npy"), batch_size=32)

    def test_all_are_judged_by_the_same_levels(self, pictures, tmp_path):
        lines = []
        result = train(pictures, tmp_path / "run", report=lines.append)
        *trees, vaes = record(tmp_path / "run")["race"]
        assert [tree["candidate"] for tree in trees] == [f"hidden Chow-Liu tree, {units} units" for units in (4, 16)]
        assert vaes["candidate"] == "sum-product VAE"
        assert all(tree["bound"] > vaes["bound"] for tree in trees)  # of probabilities of levels
        config = read_config(tmp_path / "run" / "config.json")
        assert (config.structure, config.likelihood, config.start) == ("chow-liu", "categorical", "clusters")
        assert result["log_likelihood"] > -16 * math.log(40)
        assert any(line.startswith("best        hidden Chow-Liu tree") for line in lines)

    def test_it_is_the_tree_that_the_option_gives(self, pictures, tmp_path):
        train(pictures, tmp_path / "race")
        units = read_config(tmp_path / "race" / "config.json").units
        train(dataclasses.replace(pictures, structure="chow-liu", units=units), tmp_path / "option")
        assert_same_outcome(tmp_path / "race", tmp_path / "option")

    @pytest.mark.parametrize(("epochs", "wanted"), [(4000, 100), (400, 50), (10, 10)])
    def test_a_tenth_of_the_epochs_and_200_to_400_steps(self, monkeypatch, pictures, epochs, wanted):
        found = []

        def made(spvae, rows, validation, config, **options):
            found.append((config.epochs, math.ceil(len(rows) / config.batch_size)))
            raise ValueError("not trained")

        monkeypatch.setattr(race_module, "Trainer", made)
        config = dataclasses.replace(pictures, epochs=epochs)
        with pytest.raises(ValueError, match="not trained"):
            race(config, load_data(config.data), CPU)
        assert found == [(wanted, 4)] * 3
