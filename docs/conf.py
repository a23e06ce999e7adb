# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of the site that ``make docs`` builds, which needs no network."""

from __future__ import annotations

import shutil
from pathlib import Path

from sphinx.application import Sphinx

from pyro_spvae import __version__

DOCS = Path(__file__).parent

project = "pyro-spvae"
author = "Contributors to the pyro-spvae project"
project_copyright = author
version = release = __version__

extensions = [
    "myst_nb",  # pages in Markdown, and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are kept with their outputs, which the suite checks

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # types stand in the descriptions of the parameters
autodoc_inherit_docstrings = True

html_theme = "furo"
html_title = f"pyro-spvae {__version__}"
html_show_sphinx = False


#: folders beside this one, what of them are pages, and what these link to
BESIDE = {"notebooks": ("*.ipynb",), "benchmarks": ("README.md", "*twin.py")}


def copy_pages() -> None:
    """Makes pages of what stands beside this folder."""
    for name, patterns in BESIDE.items():
        shown = DOCS / name
        shutil.rmtree(shown, ignore_errors=True)
        shown.mkdir()
        for pattern in patterns:
            for page in (DOCS.parent / name).glob(pattern):
                shutil.copy(page, shown)


def lead_to_copies(app: Sphinx, page: str, source: list[str]) -> None:
    """Links of pages lead to files of the repository; those to what was copied shall lead to its page."""
    up = "../" * page.count("/")
    for name in BESIDE:
        source[0] = source[0].replace(f"]({up}../{name}/", f"]({up}{name}/")
        if page.startswith(f"{name}/"):
            source[0] = source[0].replace("](../docs/", "](../")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    copy_pages()
    app.connect("source-read", lead_to_copies)
