# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Kinds and names of columns as one writes them on the command line."""

from __future__ import annotations

import csv
import re

_KIND = re.compile(
    r'\s*(?:"(?P<quoted>(?:[^"]|"")+)"\s*|(?P<name>.+?))=\s*(?P<kind>[\w-]+)\s*(,(?P<rest>.*))?$', re.DOTALL
)
_NAMES = {"drop": ("names of columns", "id,name"), "na": ("texts", "n/a,NULL,?")}


def parse_kinds(text: str | None) -> dict[str, str]:
    """
    Kinds by name of column from ``age=count,sex=binary``. A name may hold commas and equals signs, and stand in double
    quotes.

    :raises ValueError: if it is written otherwise, or names a column twice.
    """
    kinds: dict[str, str] = {}
    rest = text
    while rest is not None:
        found = _KIND.match(rest)
        name = _name(found) if found else ""
        if found is None or not name or name in kinds:
            why = f", which names the column {name!r} twice" if name in kinds else ""
            raise ValueError(
                f"kinds is {text!r}{why}; name=kind is needed, separated by commas, as in age=count,sex=binary"
            )
        kinds[name], rest = found.group("kind"), found.group("rest")
    return kinds


def _name(found: re.Match[str]) -> str:
    quoted = found.group("quoted")
    return found.group("name").strip() if quoted is None else quoted.replace('""', '"').strip()


def parse_names(option: str, text: str | None) -> tuple[str, ...]:
    """
    Names of columns from ``id,name``, or texts; one that holds a comma stands in double quotes.

    :param str option: what they are given as, ``drop`` or ``na``.
    :raises ValueError: if one is empty.
    """
    if text is None:
        return ()
    names = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))
    if not names or not all(names):
        what, example = _NAMES[option]
        raise ValueError(f"{option} is {text!r}; {what} are needed, separated by commas, as in {example}")
    return names
