# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What README and the site's pages show runs as it stands there, and what they name is there."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys

import pyro
import pytest
import torch

from pyro_spvae.commands.app import app
from pyro_spvae.commands.reproducing import group
from tests.page_checks import CHECKS
from tests.pages import PAGES, ROOT, SNIPPETS, run

# of torchrun, SLURM, pip, benchmarks and the service of examples/
OTHERS = {"max-restarts", "nnodes", "no-python", "node-rank", "nproc-per-node", "standalone"}
OTHERS |= {"rdzv-backend", "rdzv-conf", "rdzv-endpoint", "rdzv-id"}
OTHERS |= {
    "cpus-per-task",
    "gpus-per-node",
    "job-name",
    "kill-on-bad-exit",
    "nodes",
    "ntasks-per-node",
    "requeue",
    "time",
}
OTHERS |= {"config-settings", "port", "tables"}


@pytest.fixture
def as_users_have_it(monkeypatch, tmp_path):
    """An empty folder, and torch as it starts."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    yield
    pyro.clear_param_store()


@pytest.mark.parametrize("page", SNIPPETS)
def test_snippets_of_a_page_run_in_order(page, as_users_have_it):
    pyro.set_rng_seed(0)
    for snippet, names in run(page):
        for text, check in CHECKS.items():
            if text in snippet:
                check(names)
        tensors = [value for value in names.values() if isinstance(value, torch.Tensor)]
        assert len(names) > 2 and not any(value.isinf().any() for value in tensors)


def test_every_check_is_of_one_snippet():
    snippets = [snippet for page in SNIPPETS.values() for snippet in page]
    assert {text: sum(text in snippet for snippet in snippets) for text in CHECKS} == dict.fromkeys(CHECKS, 1)


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)", PAGES[page]):
        path = (ROOT / page).parent / target
        assert path.resolve().exists(), f"{page} links to {target}"
        if path.suffix == ".png":
            assert path.stat().st_size < 300_000, target


def commands() -> dict:
    """Parameters by name of command, those of experiments after ``reproduce``."""
    found = {command.name or command.callback.__name__: command.callback for command in app.registered_commands}
    found |= {f"reproduce {command.name}": command.callback for command in group.registered_commands}
    return {name: set(inspect.signature(callback).parameters) for name, callback in found.items()}


def shown(text: str) -> list[tuple[str, set[str]]]:
    """Command lines of a text: the command and its options."""
    lines = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"pyro[-_]spvae ((?:reproduce )?[a-z][\w-]*)([^`\n]*)", lines)
    return [(command, set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", rest.split(" #")[0]))) for command, rest in found]


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    known = commands()
    for command, options in shown(PAGES[page]):
        if command in {"import", "reproduce"}:
            continue
        assert command in known, f"{page} shows {command}"
        unknown = {option for option in options if option.replace("-", "_") not in known[command]} - {"help"}
        assert not unknown, f"{page}: {command} has no {unknown}"


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page):
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", PAGES[page]))
    known = {name.replace("_", "-") for names in commands().values() for name in names} | OTHERS | {"help"}
    assert named <= known, named - known


def test_every_command_is_shown():
    text = "".join(PAGES.values())
    assert all(re.search(rf"pyro-spvae {name}\b|`{name}`", text) for name in commands())


@pytest.mark.parametrize("page", [page for page, found in SNIPPETS.items() if "class Test" in "".join(found)])
def test_inherited_tests_on_a_page_pass(page, tmp_path):
    path = tmp_path / "test_page.py"
    path.write_text("\n".join(["import torch\n", "torch.set_default_dtype(torch.float64)", *SNIPPETS[page]]))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path.name]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) passed", ended.stdout)
    assert ended.returncode == 0 and passed and int(passed[1]) >= 8, ended.stdout[-2000:]
