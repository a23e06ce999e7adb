# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Configuration of the site that ``make docs`` builds, which needs no network."""

from __future__ import annotations

import shutil
from pathlib import Path

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


def copy_pages() -> None:
    """Makes pages of what stands beside this folder, under the same relative addresses: notebooks and benchmarks."""
    for name, pattern in (("notebooks", "*.ipynb"), ("benchmarks", "README.md")):
        shown = DOCS / name
        shutil.rmtree(shown, ignore_errors=True)
        shown.mkdir()
        for page in sorted((DOCS.parent / name).glob(pattern)):
            shutil.copy(page, shown)


copy_pages()
