# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Our default for tables beside the tools that people would otherwise pick: log-likelihoods, imputation, sizes, seconds.

All contenders get the rows that ``pyro-spvae train --data FILE --seed SEED`` takes, each its own choices by validation
rows, and are compared on the same test rows in the same units. Run ``python -m benchmarks.tables --tables wine,iris``;
``--help`` lists the options.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from threadpoolctl import threadpool_limits

from benchmarks.tables_data import BINARY, TABLES, Split, make_split
from benchmarks.tables_densities import DENSITIES
from benchmarks.tables_imputers import IMPUTERS
from benchmarks.tables_ours import Ours
from benchmarks.tables_report import ROWS, Record, picture, summary, table_of
from benchmarks.tables_scores import Outcome, record
from benchmarks.tables_spflow import SPFLOW
from pyro_spvae.checkpoint import atomic_write
from pyro_spvae.training.json_file import read_json

SEEDS, BUDGET = 3, 120.0


class Contender(Protocol):
    """
    What is fitted to a split.

    :ivar str name: what reports call it.
    """

    name: str

    def applies(self, split: Split) -> bool:
        """Whether the table is one that it can be fitted to."""

    def run(self, split: Split, budget: float) -> Outcome:
        """Fits it in about so many CPU seconds at most, where it can be stopped."""


PEERS: dict[str, Contender] = {peer.name: peer for peer in (*DENSITIES, *IMPUTERS, *SPFLOW)}
SMALL = tuple(name for name, table in TABLES.items() if table.source == "scikit-learn")


def compare(
    tables: Sequence[str],
    contenders: Sequence[Contender],
    *,
    seeds: int = SEEDS,
    budget: float = BUDGET,
    threads: int = 1,
    debd: Path | None = None,
    known: Sequence[Record] = (),
) -> list[Record]:
    """
    Runs all contenders on all tables.

    :param tables: names; binary ones come with their split and have one seed.
    :param int seeds: splits of each of the others.
    :param float budget: CPU seconds of a contender that is trained.
    :param int threads: of every contender.
    :param debd: folder of the binary tables.
    :param known: records of earlier runs, which are not made again where their data are the same.
    :returns: a record of each, see :func:`benchmarks.tables_scores.record`; known ones among them.
    :raises ValueError: for unknown tables, and what is not installed.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    earlier = {(own["table"], own["seed"], own["data"], own["method"]): own for own in known}
    records: list[Record] = []
    try:
        with threadpool_limits(threads), tempfile.TemporaryDirectory() as folder:
            for table in tables:
                for seed in range(1 if table in BINARY else seeds):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of columns; the same for every contender
                        split = make_split(table, seed, Path(folder), debd)
                    for contender in contenders:
                        if not contender.applies(split):
                            continue
                        found = earlier.get((table, seed, split.data.fingerprint(), contender.name))
                        if found is None:
                            found = record(split, contender.name, contender.run(split, budget), threads)
                        records.append(found)
    finally:
        torch.set_num_threads(before)
    return records


def write(records: Sequence[Record], path: Path) -> None:
    """Records as JSON, at one go."""
    atomic_write(path, lambda file: file.write(json.dumps(list(records)).encode()))


def described(table: str, records: Sequence[Record], rows: str = "test") -> str:
    """A heading and a table."""
    own = [found for found in records if found["table"] == table]
    seeds = len({found["seed"] for found in own})
    return f"### {table}, {rows} rows of {seeds} split{'' if seeds == 1 else 's'}\n\n{table_of(own, table, rows)}"


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.strip().split("\n")[0])
    add = parser.add_argument
    add(
        "--tables",
        default=",".join(SMALL),
        help=f"of {', '.join((*TABLES, *BINARY))}; or all, binary if --debd is given",
    )
    add(
        "--peers",
        default=",".join(PEERS),
        help=f"of {', '.join(PEERS)}; or none. Those that a table does not fit are left out",
    )
    add(
        "--ours", action="append", default=[], help="a further configuration of ours, as in 'structure=learned units=8'"
    )
    add("--no-default", action="store_true", help="leave our default out")
    add("--seeds", type=int, default=SEEDS, help="splits of each table")
    add("--budget", type=float, default=BUDGET, help="CPU seconds of a contender that is trained")
    add(
        "--rows",
        choices=list(ROWS),
        default="test",
        help="whose likelihoods are compared",
    )
    add("--threads", type=int, default=1)
    add("--debd", type=Path, help="folder of binary tables, .npz files with the arrays train, validation and test")
    add("--known", type=Path, action="append", default=[], help="a file of --out, whose records are not made again")
    add("--out", type=Path, help="JSON file of all records")
    add("--picture", type=Path, help="PNG file: likelihoods against seconds")
    return parser.parse_args(words)


def chosen_contenders(peers: str, ours: Sequence[str], default: bool = True) -> list[Contender]:
    """
    :param str peers: names with commas, or ``none``.
    :param ours: further configurations.
    :raises ValueError: for unknown names or options.
    """
    names = [] if peers == "none" else peers.split(",")
    for name in names:
        if name not in PEERS:
            raise ValueError(f"peers has {name!r}; known are {', '.join(PEERS)}, and none")
    return [*([Ours()] if default else []), *map(Ours, ours), *(PEERS[name] for name in names)]


def main(words: Sequence[str] | None = None) -> str:
    """Runs and prints."""
    given = arguments(words)
    for name in ("seeds", "budget", "threads"):
        if not getattr(given, name) > 0:
            raise ValueError(f"{name} is {getattr(given, name)}; a number above 0 is needed")
    tables = given.tables.split(",")
    if tables == ["all"]:
        tables = [*TABLES, *(BINARY if given.debd else ())]
    unknown = [name for name in tables if name not in (*TABLES, *BINARY)]
    if unknown:
        raise ValueError(f"tables has {unknown[0]!r}; known are {', '.join((*TABLES, *BINARY))}, and all")
    contenders = chosen_contenders(given.peers, given.ours, not given.no_default)
    known: list[Any] = [own for path in given.known for own in read_json(path)]
    options = {"seeds": given.seeds, "budget": given.budget, "threads": given.threads, "debd": given.debd}
    records: list[Record] = []
    for table in tables:
        others = [own for own in known if own["table"] == table]
        records += compare([table], contenders, known=others, **options)
        print(described(table, records, given.rows), end="\n\n", flush=True)
        if given.out is not None:
            write(records, given.out)
    text = summary(records, given.rows) if not given.no_default else ""
    print(text)
    if given.picture is not None:
        picture(records, given.picture)
    return "\n\n".join([*(described(table, records, given.rows) for table in tables), text])


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
