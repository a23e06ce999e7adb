# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One table of runs, read from text files alone."""

from __future__ import annotations

import json

import pytest

from pyro_spvae.commands.listing import info, table
from pyro_spvae.training.config import TrainConfig

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
    assert info([run]) == [known | RESULTS | {"options": options}]


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


def test_a_damaged_run_is_an_error_by_name_and_a_line_in_a_folder(tmp_path):
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
