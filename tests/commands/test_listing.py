# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One table of runs, read from text files alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from pyro_spvae.commands.details import columns_of, details
from pyro_spvae.commands.listing import info, shown, table
from pyro_spvae.data.column import Column
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.run_folder import RunFolder

RESULTS = {"log_likelihood": -86.391, "standard_error": 0.782, "bits_per_dim": 1.9482, "samples": 5000}
RESULTS |= {"parameters": 89888, "seconds": 61.6}


def write_run(path, results=None, steps=(), data="digits", **options):
    """A folder with the text files of a run."""
    path.mkdir(parents=True)
    known = {"structure": "poon-domingos", "delta": 4, "leaves": 2, "preprocess": "integers", "units": 2}
    config = TrainConfig(data=data or "digits", **(known | options))
    (path / "config.json").write_text(json.dumps(config.to_dict()))
    (path / "data.json").write_text(json.dumps({"name": data}))
    (path / "metrics.jsonl").write_text("".join(json.dumps({"step": step}) + "\n" for step in steps))
    if results is not None:
        (path / "results.json").write_text(json.dumps(results))
    return path


def test_a_finished_run(tmp_path):
    run = write_run(tmp_path / "run", RESULTS, [11, 22], hidden=(32, 16), latent_dim=5)
    model = "poon-domingos 4 2x2, latent 5, hidden 32,16"
    known = {"run": str(run), "data": "digits", "preprocess": "integers", "model": model, "status": "finished"}
    options = json.loads((run / "config.json").read_text())
    assert info([run]) == [known | RESULTS | {"options": options, "race": None}]


def test_the_table_is_aligned_and_has_units(tmp_path):
    runs = [write_run(tmp_path / "a", RESULTS), write_run(tmp_path / "longer", steps=[7], data="mine")]
    head, first, second = table(info(runs))
    assert "log-likelihood (nats)" in head and "bits/dim" in head and "seconds" in head
    assert "-86.39 +- 0.78" in first and "89,888" in first and "1.948" in first and first.endswith(" 62")
    assert "stopped at step 7" in second and second.rstrip().endswith("-")
    for heading in ("data", "model", "status"):  # texts begin below their heading, numbers end there
        assert first[head.index(heading) - 1] == second[head.index(heading) - 1] == " "
        assert first[head.index(heading)] != " " and second[head.index(heading)] != " "
    for heading in ("parameters", "log-likelihood (nats)", "bits/dim", "seconds"):
        end = head.index(heading) + len(heading)
        assert first[end - 1] != " " and first[end : end + 1] in (" ", "")
        assert second[end - 1] == "-"


def test_the_best_on_the_same_data_comes_first(tmp_path):
    likelihoods = {"worse": -90.0, "best": -80.0, "positive": 5.0, "middle": -85.0}
    for name, value in likelihoods.items():
        write_run(tmp_path / name, RESULTS | {"log_likelihood": value}, data="b" if name != "positive" else "a")
    write_run(tmp_path / "running", steps=[1], data="b")
    write_run(tmp_path / "noisy", RESULTS | {"log_likelihood": 10.0}, data="b", preprocess="paper")
    names = [row["run"].rsplit("/", 1)[1] for row in info([tmp_path])]
    assert names == ["positive", "best", "middle", "worse", "running", "noisy"]
    assert "b (paper)" in table(info([tmp_path]))[-1], "never one group with another preprocessing"


def test_a_cut_off_line_of_metrics_does_not_count(tmp_path):
    run = write_run(tmp_path / "run", steps=[11, 22])
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 33, "el')
    assert info([run])[0]["status"] == "stopped at step 22"
    (run / "metrics.jsonl").unlink()
    assert info([run])[0]["status"] == "stopped at step 0"


def test_runs_in_folders_are_found_once(tmp_path):
    write_run(tmp_path / "runs" / "demo" / "vae", RESULTS)
    run = write_run(tmp_path / "runs" / "digits", RESULTS)
    write_run(run / "nested", RESULTS)  # a run holds no runs
    write_run(tmp_path / "runs" / ".digits.partial", RESULTS)  # is being made
    rows = info([tmp_path / "runs", run, tmp_path / "runs" / "demo"])
    assert sorted(row["run"] for row in rows) == [str(tmp_path / "runs" / "demo" / "vae"), str(run)]


def test_a_damaged_run_is_an_error_alone_and_a_line_among_others(tmp_path):
    write_run(tmp_path / "good", RESULTS)
    bad = write_run(tmp_path / "bad", RESULTS)
    (bad / "results.json").write_text('{"log_likel')
    with pytest.raises(ValueError, match=r"bad/results.json"):
        info([bad])
    lines = []
    rows = info([tmp_path], report=lines.append)
    assert {row["run"].rsplit("/", 1)[1]: row["status"] for row in rows} == {"good": "finished", "bad": "damaged"}
    assert len(lines) == 1 and "bad/results.json" in lines[0]
    assert len(table(rows)) == 3
    assert info([tmp_path / "good", bad], report=lines.append) == rows  # as a shell lists what is in a folder
    (bad / "results.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"holds a list; an object is needed"):
        info([bad])


@pytest.mark.parametrize(
    "content", [{"hidden": 3}, {"data": 7}, {"units": {"a": 1}}, {"log_likelihood": "high", "parameters": True}, {}]
)
def test_odd_values_are_shown_and_break_nothing(tmp_path, content):
    run = write_run(tmp_path / "run", RESULTS | content)
    (run / "config.json").write_text(json.dumps(json.loads((run / "config.json").read_text()) | content))
    assert len(table(info([run, write_run(tmp_path / "other", RESULTS)]))) == 3


def test_runs_from_python(tmp_path):
    run = write_run(tmp_path / "run", steps=[4], data=None)
    (run / "config.json").write_text(json.dumps({"lr": 0.1}))
    (row,) = info([run])
    assert (row["data"], row["model"], row["preprocess"]) == ("(from Python)", None, None)
    assert " - " in table([row])[1]


def of(lines, name):
    """What is said of something."""
    (text,) = (line[len(name) :].strip() for line in lines if line.startswith(f"{name} "))
    return text


class TestDetails:
    def test_all_options_that_made_a_run(self, tmp_path):
        options = {
            **{"likelihood": "binomial", "decoder": "conv(channels=4)", "network": "se-resnet", "guide": "discrete"},
            **{"prior": "boltzmann-machine", "weights": "cp", "tie": "shape", "optimiser": "adamw", "lr": 0.02},
            **{"weight_decay": 0.1, "schedule": "cosine", "objective": "elbo", "kl": "analytic", "warmup": 3},
            **{"particles": 1, "epochs": 7, "patience": 5, "latent_dim": 6, "hidden": (16, 8), "seed": 11},
            **{"average": "ema", "average_decay": 0.99},
            **{"leaf": "discrete-vae", "clip": 2.5, "units": 3, "leaves": 2, "fraction": 0.5, "batch_size": 64},
        }
        run = write_run(tmp_path / "run", RESULTS, [5], **options)
        lines = details(info([run])[0])
        wanted = {
            "status": "finished",
            "data": "digits, preprocess integers, fraction 0.5",
            "structure": "poon-domingos, delta 4",
            "units": "3",
            "leaves": "2",
            "weights": "cp",
            "tie": "shape",
            "leaf": "discrete-vae, latent dim 6",
            "guide": "discrete",
            "prior": "boltzmann-machine",
            "likelihood": "binomial",
            "encoder": "se-resnet, hidden layers 16,8, softplus",
            "decoder": "conv(channels=4), hidden layers 16,8, softplus",
            "objective": "elbo, particles 1, kl analytic, warmup 3",
            "optimiser": "adamw, lr 0.02, schedule cosine, weight decay 0.1, clip 2.5, batch size 64, average ema, "
            "average decay 0.99",
            "epochs": "at most 7, patience 5",
            "seed": "11",
            "samples": "5,000",
        }
        assert {line.split()[0]: of(lines, line.split()[0]) for line in lines} == wanted
        starts = {len(line) - len(of([line], line.split()[0])) for line in lines}
        assert len(starts) == 1, "aligned"

    def test_leaves_without_latent_variables_have_no_prior_and_no_networks(self, tmp_path):
        exact = RESULTS | {"samples": 0}
        lines = details(info([write_run(tmp_path / "run", exact, leaf="factorized", guide="none")])[0])
        assert of(lines, "samples") == "exact" and of(lines, "guide") == "none"
        assert not [line for line in lines if line.startswith(("prior", "encoder", "decoder"))]
        assert of(lines, "objective") == "log-likelihood", "exact, whatever the number of particles"
        assert of(lines, "optimiser").startswith("adam, ")

    @pytest.mark.parametrize(
        "optimiser, wanted",
        [
            ("em", "em, smoothing 0.25"),
            ("online-em", "online-em, smoothing 0.25, step size 0.3, schedule plateau, batch size 64"),
        ],
    )
    def test_em_has_its_own_options_alone(self, tmp_path, optimiser, wanted):
        options = {"leaf": "factorized", "guide": "none", "lr": 0.03, "smoothing": 0.25, "batch_size": 64}
        run = write_run(tmp_path / "run", RESULTS | {"samples": 0}, optimiser=optimiser, **options)
        lines = details(info([run])[0])
        assert of(lines, "objective") == "log-likelihood" and of(lines, "optimiser") == wanted

    def test_a_race_is_shown_the_best_first(self, tmp_path):
        raced = [
            {"candidate": "a tree", "bound": -3.25, "parameters": 1234, "epochs": 40, "seconds": 2.0},
            {"candidate": "blocks of columns", "refused": "9 parameters are more than the 8 entries to train by"},
            {"candidate": "two Gaussians", "bound": -1.5, "parameters": 12, "epochs": 7, "seconds": 0.125},
        ]
        run = write_run(tmp_path / "run", RESULTS)
        plain = details(info([run])[0])
        (run / "data.json").write_text(json.dumps({"name": "wine.csv", "race": raced}))
        row = info([run])[0]
        assert row["race"] == raced
        lines = details(row)
        assert lines[: len(plain)] == [line.replace("digits", "wine.csv") for line in plain]
        assert lines[len(plain) :] == [
            "",
            "candidate          validation (nats)  parameters  epochs  seconds",
            "two Gaussians                 -1.500          12       7      0.1",
            "a tree                        -3.250       1,234      40      2.0",
            "blocks of columns  left out: 9 parameters are more than the 8 entries to train by",
        ]

    @pytest.mark.parametrize("damaged", ["no list", [], [3], [{}], [{"candidate": "one", "bound": "x"}]])
    def test_a_race_that_cannot_be_read_is_no_error(self, tmp_path, damaged):
        run = write_run(tmp_path / "run", RESULTS)
        (run / "data.json").write_text(json.dumps({"name": "wine.csv", "race": damaged}))
        raced = details(info([run])[0])
        (run / "data.json").write_text(json.dumps({"name": "wine.csv"}))
        assert raced == details(info([run])[0])

    def test_of_one_run_alone_and_below_its_line(self, tmp_path):
        runs = [write_run(tmp_path / name, RESULTS) for name in "ab"]
        rows = info(runs)
        assert shown(rows) == table(rows)
        one = info(runs[:1])
        assert shown(one) == [*table(one), "", *details(one[0])]
        (runs[0] / "results.json").write_text("[")
        damaged = [row for row in info([tmp_path]) if row["status"] == "damaged"]
        assert shown(damaged) == table(damaged)

    def test_what_is_not_usual_is_in_the_table_too(self, tmp_path):
        run = write_run(tmp_path / "run", RESULTS, decoder="pixelcnn", weights="cp", tie="shape", hidden=(8,))
        assert info([run])[0]["model"] == "poon-domingos 4 2x2, hidden 8, pixelcnn decoder, cp weights, shape tie"

    def test_the_columns_of_a_table(self, tmp_path, monkeypatch):
        """As the likelihood has them, whatever it is."""
        columns = (
            Column("age of a person", "count", location=41.26, scale=12.5),
            Column("income", "positive", location=10.5, scale=0.75),
            Column("sex", "binary", categories=("f", "m"), frequencies=(0.5, 0.5)),
            Column("town", "categorical", categories=tuple("abcdefgh")),
            Column("height", "real", "student-t", location=-0.00012345, scale=2e6),
        )
        spvae = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Module())
        spvae[0].columns = ("a", "b")  # something else of that name
        spvae[1].columns = columns
        run = write_run(tmp_path / "run", RESULTS)
        (run / "data.json").write_text(json.dumps({"name": "digits", "event_shape": [5], "rows": {"train": 1200}}))
        assert of(details(info([run])[0]), "data").endswith(", 1,200 train rows"), "no model yet"
        (run / "best.pt").touch()
        monkeypatch.setattr("pyro_spvae.training.run.open_run", lambda path: SimpleNamespace(spvae=spvae))
        assert columns_of(spvae) == columns and columns_of(spvae[0]) == ()
        lines = details(info([run])[0])
        assert lines[lines.index("") + 1 :] == [
            "column           kind         family             values",
            "age of a person  count        negative-binomial  41.26 +- 12.5",
            "income           positive     log-normal         logarithms 10.5 +- 0.75",
            "sex              binary       bernoulli          f, m",
            "town             categorical  categorical        a, b, c, d, e, f, .. (8)",
            "height           real         student-t          -0.0001234 +- 2e+06",
        ]
        del spvae[1].columns
        assert "" not in details(info([run])[0])

    def test_a_model_that_cannot_be_opened_is_said(self, tmp_path):
        run = write_run(tmp_path / "run", RESULTS)
        (run / "data.json").write_text(json.dumps({"name": "digits", "values": {}, "event_shape": [5]}))
        (run / "best.pt").write_bytes(b"damaged")
        assert details(info([run])[0])[-1].startswith(f"columns are not shown: the checkpoint {run / 'best.pt'}")


class TestStatus:
    def test_words(self, tmp_path):
        run = write_run(tmp_path / "run", steps=[11, 22])

        def after(status=None, **results):
            for name, values in (("status", status), ("results", results)):
                if values:
                    (run / f"{name}.json").write_text(json.dumps(values))
            words = info([run])[0]["status"]
            assert RunFolder(run).status == words and RunFolder(run).is_finished == (words == "finished")
            return words

        assert after() == "stopped at step 22"
        assert after({"status": "trained", "parameters": 12}) == "trained, not evaluated"
        assert info([run])[0]["parameters"] == 12
        assert after({"status": "finished"}, **RESULTS, steps=22) == "finished"
        assert after({"status": "training"}) == "stopped at step 22 (results are of step 22)"
        assert info([run])[0]["log_likelihood"] == RESULTS["log_likelihood"], "the old one"
        (run / "metrics.jsonl").write_text('{"step": 33}\n')
        assert after({"status": "training"}) == "stopped at step 33 (results are of step 22)"
        assert after({"status": "trained"}) == "trained, not evaluated (results are of step 22)"
        (run / "status.json").unlink()
        assert after() == "finished", "of a run of former days"

    @pytest.mark.parametrize("content", ["{", "[]", "{}", '{"status": "fine"}', '{"status": ["trained"]}'])
    def test_a_damaged_one_is_named(self, tmp_path, content):
        run = write_run(tmp_path / "run", RESULTS)
        (run / "status.json").write_text(content)
        with pytest.raises(ValueError, match=r"^the file .*run/status.json (is no valid|has no status; training, tra)"):
            info([run])
        assert info([tmp_path])[0]["status"] == "damaged"
        with pytest.raises(ValueError, match="status.json"):
            assert RunFolder(run).is_finished
