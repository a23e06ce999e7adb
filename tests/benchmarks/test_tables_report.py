# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The report of the benchmark of tables: paired differences, pooled over splits, and what is said of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.tables_report import accuracy, by_method, difference, picture, rmse, seconds_to, summary, table_of
from benchmarks.tables_scores import paired


def made(method, nats, table="t", seed=0, squared=(), hits=(), curve=(), data="d", validation=None):
    own = {"table": table, "seed": seed, "data": data, "method": method, "nats": nats, "squared": list(squared)}
    own["validation"] = validation
    own |= {"hits": list(hits), "curve": list(curve), "parameters": 7, "cpu": 1.0, "wall": 2.0, "threads": 1}
    return own | {"chosen": "this"}


def test_paired_standard_errors():
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=40), random.normal(size=40)
    mean, error = paired(ours, theirs)
    assert mean == pytest.approx(ours.mean() - theirs.mean(), abs=1e-12)
    assert mean / error == pytest.approx(stats.ttest_rel(ours, theirs).statistic, abs=1e-10)


def test_rows_of_all_seeds_are_pooled():
    ours = [made("ours", [1.0, 2.0, 4.0], seed=0), made("ours", [0.0, 1.0], seed=1)]
    theirs = [made("x", [0.5, 2.5, 1.0], seed=0), made("x", [0.0, -1.0], seed=1)]
    assert difference(ours, theirs) == paired([1.0, 2.0, 4.0, 0.0, 1.0], [0.5, 2.5, 1.0, 0.0, -1.0])
    assert difference(ours, [made("x", None, seed=seed) for seed in (0, 1)]) is None
    of_two = [made("x", [], squared=[1.0, 4.0], hits=[1.0]), made("x", [], squared=[4.0], hits=[0.0, 0.0])]
    assert rmse(of_two) == pytest.approx(3**0.5) and accuracy(of_two) == pytest.approx(1 / 3)
    assert rmse(ours) is None and accuracy(ours) is None


def test_the_table():
    curve = [(1.0, -9.0, -9.5), (2.0, -7.0, -7.5), (3.0, -8.0, -8.5)]
    ours = made("ours", [1.0, 2.0], squared=[1.0], curve=[(4.0, -8.0, 0.0), (6.0, -6.5, 0.0)])
    lines = table_of([ours, made("x", [0.0, 3.0], squared=[4.0], hits=[1.0], curve=curve)], "t").splitlines()
    assert lines[2].startswith("| ours | 1.500 | - | 1.000 | - | 7 | 1.0 | 2.0 | 1 | - | this |")
    assert lines[3].startswith("| x | 1.500 | +0.000 ± 1.000 | 2.000 | 1.000 | 7 | 1.0 | 2.0 | 1 | 6, theirs 2 |")
    assert seconds_to(curve, -7.2) == 2.0 and seconds_to(curve, 0.0) is None


def test_validation_rows_tell_nothing_of_test_rows():
    records = [
        made("ours", [1.0, 2.0], squared=[1.0], hits=[1.0], validation=[5.0, 7.0]),
        made("x", [9.0, 9.0], squared=[4.0], validation=[4.0, 4.0]),
    ]
    lines = table_of(records, "t", "validation").splitlines()
    assert lines[2].startswith("| ours | 6.000 | - | - | - | 7 |")
    assert lines[3].startswith("| x | 4.000 | +2.000 ± 1.000 | - | - | 7 |")
    assert "t: +2.000 ± 1.000 nats to the best other, x" in summary(records, "validation")
    assert "t: -7.500 ± 0.500 nats to the best other, x" in summary(records)


def test_the_summary_compares_with_the_best():
    records = [
        made("ours", [1.0, 2.0, 2.0], "a", squared=[1.0]),
        made("weak", [0.0, 0.0, 0.0], "a"),
        made("strong", [3.0, 3.9, 4.0], "a"),
        made("iterative", None, "a", squared=[1.0]),
        made("ours", [1.0, 2.0, 2.0], "b", squared=[2.0]),
        made("weak", [0.0, 1.1, 1.0], "b"),
        made("ours wide=1", [9.0, 9.0, 9.0], "b"),
        made("iterative", None, "b", squared=[1.0]),
        made("ours", [1.0, 2.0, 2.0], "c"),
        made("strong", [2.0, 2.0, 1.2], "c"),
        made("mean", None, "d"),
    ]
    text = summary(records)
    assert "a: -1.967 ± 0.033 nats to the best other, strong" in text and "b: +0.967" in text
    assert "of 3 tables at least equal to the best other, within one standard error, on 2" in text
    assert "ahead on 1, by more than one standard error on 1" in text
    assert "of 2 tables an RMSE of at most IterativeImputer's on 1" in text
    assert list(by_method(records, "b")) == ["ours", "weak", "ours wide=1", "iterative"]


def test_the_picture(tmp_path):
    picture([made("ours", [0.0], curve=[(1.0, -3.0, 0.0), (2.0, -2.0, 0.0)])], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="there are 2 and 1 rows; as many"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="records of t by ours and x are of other seeds or data"):
        difference([made("ours", [0.0, 1.0])], [made("x", [0.0, 1.0], data="e")])
    with pytest.raises(ValueError, match="picture is asked for, but no contender has a curve"):
        picture([made("ours", [0.0])], tmp_path / "a.png")
