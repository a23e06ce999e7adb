# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
An imputation service of one file: ``python examples/imputation_service.py RUN --port 8000`` answers whoever asks by
``curl -d '[{"age": 31, "income": null}]' localhost:8000``. Without a port it answers one question about an iris flower.
"""

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pandas as pd
from sklearn.datasets import load_iris

from pyro_spvae import SPVAE
from pyro_spvae.data.frames import decoded
from pyro_spvae.sklearn import SPVAEDensity


def complete(spvae: SPVAE, rows: object) -> list[dict]:
    """For each row log p(what is seen) in nats, the row with its holes filled in, how sure that is, and five draws."""
    names = [column.name for column in spvae.columns]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"the request is no list of objects with keys among {', '.join(names)}")
    x = pd.DataFrame(rows)
    x = x.reindex(columns=[*names, *x.columns.difference(names)])  # a key that is left out is a hole, as null is
    values = spvae.log_likelihood(x, num_samples=1000).tolist()
    drawn = decoded(spvae.impute(x, num_samples=99).flatten(0, 1), spvae.columns)  # draw after draw, row after row
    found = [{"log_likelihood": values[n], "completed": row, "spread": {}, "draws": {}} for n, row in enumerate(rows)]
    for n, place in zip(*x.isna().to_numpy().nonzero(), strict=True):
        own, name, coded = drawn.iloc[n :: len(rows), place], names[place], spvae.columns[place].is_coded
        spread = own.value_counts(normalize=True) if coded else own.quantile([0.05, 0.5, 0.95])  # most probable first
        found[n]["completed"] = found[n]["completed"] | {name: spread.index[0] if coded else spread[0.5]}
        found[n]["spread"][name], found[n]["draws"][name] = spread.to_dict(), own.tolist()[:5]
    return found


class Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # each in a thread of its own; answers of a model take turns by themselves
        try:
            body = self.rfile.read(max(0, int(self.headers.get("Content-Length", 0))))
            status, reply = 200, complete(self.spvae, json.loads(body))
        except (ValueError, TypeError, RecursionError) as error:  # what JSON, Unicode and the model refuse
            status, reply = 400, {"error": f"{type(error).__name__}: {error}"}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", help="folder of a model of a table, by pyro-spvae train or spvae.save")
    parser.add_argument("--port", type=int, help="where to serve, until Ctrl-C")
    args = parser.parse_args()
    fit = SPVAEDensity(structure="chow-liu", units=8, epochs=60, random_state=0).fit
    Service.spvae = SPVAE.load(args.run) if args.run else fit(load_iris(as_frame=True).frame).model_
    if args.port is None:
        print(json.dumps(complete(Service.spvae, [{"petal length (cm)": 1.4, "target": None}]), indent=2))
    else:
        ThreadingHTTPServer(("localhost", args.port), Service).serve_forever()
