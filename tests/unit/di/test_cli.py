"""``nexgate di``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

GOOD = """\
from nexgate.di import Container

class Config: ...

class Database:
    def __init__(self, config: Config): ...

container = Container()
container.register(Config, Config())
container.register_factory(Database, Database)

def build():
    return container

broken = Container()
broken.register_factory(Database, Database)
other = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shop.py").write_text(GOOD)
    return tmp_path


def nexgate(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nexgate", "di", *argv],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", ["container", "build"])
def test_a_good_container_is_said_to_be_so(folder: Path, name: str) -> None:
    done = nexgate(folder, "check", f"shop:{name}")
    assert (done.returncode, done.stdout) == (0, "2 dependencies, no problems\n"), done.stderr


def test_problems_are_printed_and_the_exit_code_is_1(folder: Path) -> None:
    done = nexgate(folder, "check", "shop:broken")
    assert done.returncode == 1
    assert "problem: Database → Config ✗ is not registered" in done.stderr
    assert done.stderr.endswith("1 problem\n")


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("shop", 2, "is not the path of a Python object"),
        ("shop:nothing", 1, "shop has no nothing"),
        ("shop:other", 1, "is no container but int"),
        ("nowhere:x", 1, "nowhere:x: cannot import nowhere"),
    ],
)
def test_what_cannot_be_found_is_named(folder: Path, path: str, code: int, said: str) -> None:
    done = nexgate(folder, "check", path)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_graph_goes_to_stdout_or_to_a_file_that_says_its_form(folder: Path) -> None:
    assert nexgate(folder, "graph", "shop:container").stdout.startswith("flowchart TD\n")
    done = nexgate(folder, "graph", "shop:container", "--format", "svg")
    assert ElementTree.fromstring(done.stdout).tag.endswith("svg")
    assert nexgate(folder, "graph", "shop:container", "-o", "graph.svg").stdout == ""
    ElementTree.parse(folder / "graph.svg")
