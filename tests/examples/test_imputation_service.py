# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The service of examples/imputation_service.py answers over HTTP, from several threads, what its model says."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from pyro_spvae import SPVAE
from tests.examples.scripts import Run

pytestmark = pytest.mark.usefixtures("single")
LENGTH, WIDTH, TARGET = "petal length (cm)", "petal width (cm)", "target"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What the script prints by itself, and the folder of its model."""
    folder = tmp_path_factory.mktemp("service")
    run = Run("imputation_service")
    run.names["Service"].spvae.save(folder)
    return json.loads("".join(run.lines)), folder


@pytest.fixture
def ask(saved, monkeypatch):
    """Posts bytes, or rows as JSON, to the script that serves the saved model; the status and the reply."""
    started: list[ThreadingHTTPServer] = []
    serve = ThreadingHTTPServer.serve_forever
    monkeypatch.setattr(ThreadingHTTPServer, "serve_forever", lambda server: started.append(server))
    run = Run("imputation_service", saved[1], "--port", 0)
    monkeypatch.setattr(run.names["Service"], "log_message", lambda *args: None)
    (server,) = started
    thread = threading.Thread(target=serve, args=(server, 0.01))
    thread.start()

    def post(body, **headers):
        connection = HTTPConnection(*server.server_address)
        connection.request("POST", "/", body if isinstance(body, bytes) else json.dumps(body).encode(), headers)
        response = connection.getresponse()
        found = response.status, json.loads(response.read())
        connection.close()
        return found

    yield post
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_it_prints_by_itself(saved):
    ((reply,), _) = saved
    assert reply["completed"][LENGTH] == 1.4 and LENGTH not in reply["spread"]
    assert reply["completed"][TARGET] == "0" and reply["spread"][TARGET]["0"] > 0.9  # petals of setosa are short
    assert 4.5 < reply["completed"]["sepal length (cm)"] < 5.5


def test_the_answer_is_the_models(saved, ask):
    """Log-likelihoods are exact; draws have the conditional distribution that these imply."""
    spvae = SPVAE.load(saved[1])
    rows = [{LENGTH: 4.9, TARGET: None}, {WIDTH: 2.0, TARGET: 2}, {}]
    status, replies = ask(rows)
    assert status == 200 and [set(reply["draws"]) for reply in replies] == [
        {column.name for column in spvae.columns} - {name for name, value in row.items() if value is not None}
        for row in rows
    ]
    assert all(
        reply["completed"] | {k: v for k, v in row.items() if v is not None} == reply["completed"]
        for reply, row in zip(replies, rows, strict=True)
    )

    def log_p(**columns):
        number = max(map(len, columns.values()))
        names = {"length": LENGTH, "width": WIDTH, "target": TARGET}
        given = {names[name]: np.broadcast_to(values, number) for name, values in columns.items()}
        return spvae.log_likelihood(pd.DataFrame(given).reindex(columns=[column.name for column in spvae.columns]))

    first, second, third = replies
    assert first["log_likelihood"] == pytest.approx(float(log_p(length=[4.9])), abs=1e-5)
    assert second["log_likelihood"] == pytest.approx(float(log_p(width=[2.0], target=[2])), abs=1e-5)
    assert third["log_likelihood"] == pytest.approx(0, abs=1e-5)  # nothing is seen

    probabilities = (log_p(length=[4.9], target=[0, 1, 2]) - log_p(length=[4.9])).exp().tolist()
    assert 0.2 < probabilities[1] < 0.98
    for name, probability in enumerate(probabilities):  # of 99 draws
        error = (probability * (1 - probability) / 99) ** 0.5
        assert first["spread"][TARGET].get(str(name), 0) == pytest.approx(probability, abs=4 * error + 0.01)

    points = np.linspace(2, 9, 1401)
    density = (log_p(length=points, width=[2.0], target=[2]) - log_p(width=[2.0], target=[2])).exp().double().numpy()
    below = np.cumsum(density) * (points[1] - points[0])
    assert below[-1] == pytest.approx(1, abs=0.01)
    for level, value in second["spread"][LENGTH].items():
        error = (float(level) * (1 - float(level)) / 99) ** 0.5
        assert np.interp(value, points, below) == pytest.approx(float(level), abs=4 * error + 0.01)
    assert second["completed"][LENGTH] == second["spread"][LENGTH]["0.5"] and len(second["draws"][LENGTH]) == 5


BAD = [
    (b"", "JSONDecodeError: Expecting value"),
    (b"[{", "JSONDecodeError: "),
    (b"\xff\xff[]", "UnicodeDecodeError: "),
    (b"[" * 100_000, "RecursionError: "),
    ({LENGTH: 1.4}, "the request is no list of objects with keys among sepal length"),
    ([], "the request is no list of objects"),
    ([1.4], "the request is no list of objects"),
    ([{"colour": 1}], "x has the unknown column 'colour'; the columns are sepal length"),
    ([{TARGET: 7}], "holds '7' in row 0; its categories are 0, 1, 2"),
    ([{LENGTH: 1.4}, {LENGTH: "long"}], "the real column 'petal length (cm)' of x holds the text 'long' in row 1"),
    ([{LENGTH: [1.4]}], "holds the text '[1.4]'"),
    (b'[{"petal length (cm)": 1e999}]', "finite values are needed"),
]


def test_bad_input_is_400_and_a_sentence(ask):
    for body, expected in BAD:
        status, reply = ask(body)
        assert status == 400 and list(reply) == ["error"], body
        assert expected in reply["error"] and "\n" not in reply["error"], reply
    status, reply = ask(b"[]", **{"Content-Length": "two"})
    assert status == 400 and "two" in reply["error"]
    assert ask([{LENGTH: 1.4}])[0] == 200  # and goes on


def test_requests_of_several_threads(saved, ask):
    rows = [{LENGTH: 1 + 0.5 * number} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda row: ask([row, row]), rows))
    for row, (status, both) in zip(rows, replies, strict=True):
        ((_, (alone,)),) = [ask([row])]
        assert status == 200 and [reply["completed"][LENGTH] for reply in both] == [row[LENGTH]] * 2
        assert [reply["log_likelihood"] for reply in both] == pytest.approx([alone["log_likelihood"]] * 2, abs=1e-5)
