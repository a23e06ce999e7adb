# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Snippets of README and of the site's pages run as they stand there, and what commands and links name is there."""

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

# and pages without snippets that run as they stand
TEXTS = PAGES | {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "benchmarks/README.md")
}

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


@pytest.mark.parametrize("page", TEXTS)
def test_links(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)", TEXTS[page]):
        path = (ROOT / page).parent / target
        assert path.resolve().exists(), f"{page} links to {target}"
        if path.suffix == ".png":
            assert path.stat().st_size < 300_000, target


@pytest.mark.parametrize("page", TEXTS)
def test_rows_of_a_table_have_as_many_cells_as_its_header(page):
    prose = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n)+", prose, flags=re.MULTILINE):
        header, *rows = (len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines())
        assert rows and set(rows) == {header}, table


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


@pytest.mark.parametrize("page", TEXTS)
def test_commands_exist(page):
    known = commands()
    for command, options in shown(TEXTS[page]):
        if command in {"import", "project", "reproduce"}:
            continue
        assert command in known, f"{page} shows {command}"
        unknown = {option for option in options if option.replace("-", "_") not in known[command]} - {"help"}
        assert not unknown, f"{page}: {command} has no {unknown}"


def trainings(text: str) -> list[str]:
    """Arguments of ``pyro-spvae train`` in blocks of code, and between backticks, also over several lines."""
    lines = re.sub(r"\\\n\s*", " ", text)
    block = re.compile(r"^```.*?^```|^    [^\n]*", flags=re.DOTALL | re.MULTILINE)
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", block.sub("", lines))]
    found = [rest for code in block.findall(lines) + spans for rest in re.findall(r"pyro[-_]spvae train\b(.*)", code)]
    return [rest.split(" #")[0].strip() for rest in found]


def goes_somewhere(arguments: str) -> bool:
    """Whether a training would start, is the command's name alone, or marks what is left out by dots or ``"$@"``."""
    ends = re.search(r"(?<![\w-])--(out|dry-run|resume|help)\b", arguments)
    return not arguments or ends is not None or " .." in f" {arguments}" or '"$' in arguments


@pytest.mark.parametrize("page", TEXTS)
def test_trainings_say_where_they_go(page):
    assert [arguments for arguments in trainings(TEXTS[page]) if not goes_somewhere(arguments)] == []


def test_trainings_are_found_wherever_they_are_shown():
    text = "a `pyro-spvae train x --lr 1\n--out y` and\n\n    pyro-spvae train digits \\\n        --seed 0\n\n"
    text += '```bash\npython -m pyro_spvae train "$@"\npyro-spvae train --resume y  # on\n```\n`pyro-spvae train`'
    assert sorted(trainings(text)) == ["", '"$@"', "--resume y", "digits  --seed 0", "x --lr 1 --out y"]
    assert [arguments for arguments in trainings(text) if not goes_somewhere(arguments)] == ["digits  --seed 0"]


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_options_in_the_text_exist(page):
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z-]+)", TEXTS[page]))
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
