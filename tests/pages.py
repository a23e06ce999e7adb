# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The pages that users read: the README and those of the site, without what other tests run (notebooks, the API)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
_DOCS = ROOT / "docs"
COPIED = ("notebooks", "benchmarks", "_build")  # folders that building the site fills
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        *(page for page in sorted(_DOCS.rglob("*.md")) if page.relative_to(_DOCS).parts[0] not in COPIED),
    )
}
SNIPPETS = {
    name: found
    for name, text in PAGES.items()
    if (found := re.findall(r"^```(?:py|python)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
}


def run(page: str) -> Iterator[tuple[str, dict]]:
    """
    Runs the snippets of a page one after the other.

    :param str page: its path in the repository.
    :returns: after each its text and the names that are there.
    """
    names: dict = {"__name__": page}
    for number, snippet in enumerate(SNIPPETS[page], 1):
        exec(compile(snippet, f"{page}, snippet {number}", "exec"), names)
        yield snippet, names
