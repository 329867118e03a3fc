"""What type checkers tell those who write topologies: nothing about `good`, and the marked lines of `bad`, no others.

Both checkers are asked as a user's editor would, strictly and without this project's own settings; a lambda never needs
an annotation, and `assert_type` in `good` pins what is inferred.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import pytest

from streamproc import Keyed, Stream, Topology, Windowed
from streamproc.core.plan import ACTIONS, REASONS, build
from streamproc.topology import Reason, Then

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
GOOD, BAD = sorted((HERE / "good").glob("*.py")), sorted((HERE / "bad").glob("*.py"))
MARK = "# error"


class Line(NamedTuple):
    """A line that a checker complains about, or should."""

    path: Path
    number: int

    def __str__(self) -> str:
        """The line with its place."""
        return f"{self.path.relative_to(ROOT)}:{self.number}: {self.path.read_text().splitlines()[self.number - 1]}"


Complaints: TypeAlias = dict[Line, str]


@cache
def mypy() -> Complaints:
    """The errors of mypy --strict in all examples."""
    flags = ["--config-file=", "--strict", "--python-version=3.11", "--explicit-package-bases", "--output=json"]
    cache_dir = f"--cache-dir={ROOT / '.mypy_cache' / 'examples'}"
    found = _run([sys.executable, "-m", "mypy", *flags, cache_dir, *map(str, GOOD + BAD)])
    rows: list[dict[str, Any]] = [json.loads(line) for line in found.splitlines()]
    return {Line(ROOT / row["file"], row["line"]): row["message"] for row in rows if row["severity"] == "error"}


@cache
def pyright() -> Complaints:
    """The errors of pyright, strict as `pyrightconfig.json` beside this file says, in all examples."""
    beside = Path(sys.executable).with_name("pyright")
    if not beside.exists() and not os.environ.get("CI"):
        pytest.skip("pyright is not installed beside this Python: pip install -e '.[dev]'")
    found = json.loads(_run([str(beside), "-p", str(HERE), "--pythonpath", sys.executable, "--outputjson"]))
    assert found["summary"]["filesAnalyzed"] >= len(GOOD + BAD)
    return {
        Line(Path(row["file"]), row["range"]["start"]["line"] + 1): row["message"]
        for row in found["generalDiagnostics"]
        if row["severity"] != "information"
    }


def _run(command: list[str]) -> str:
    """What a checker says; it must have come to an end, with errors (1) or without."""
    quiet = os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


CHECKERS = [pytest.param(checker, id=checker.__name__) for checker in (mypy, pyright)]


def marked() -> set[Line]:
    """The lines of `bad` that say that they are wrong."""
    return {
        Line(path, number)
        for path in BAD
        for number, text in enumerate(path.read_text().splitlines(), 1)
        if text.endswith(MARK)
    }


@pytest.mark.parametrize("checker", CHECKERS)
def test_what_is_right_is_not_complained_about(checker: Callable[[], Complaints]) -> None:
    """Every example in `good` passes, and has the types that it asserts."""
    complaints = checker()
    assert [f"{line}\n    {said}" for line, said in complaints.items() if line.path in GOOD] == []


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_mistake_is_an_error_where_it_is_made(checker: Callable[[], Complaints]) -> None:
    """A checker complains about the marked lines and no others."""
    complaints = {line: said for line, said in checker().items() if line.path in BAD}
    missed = [f"not an error: {line}" for line in sorted(marked() - complaints.keys())]
    other = [
        f"an error, and not marked: {line}\n    {said}" for line, said in complaints.items() if line not in marked()
    ]
    assert [*missed, *other] == []


@pytest.mark.parametrize(
    "path", [path for path in GOOD if "topology =" in path.read_text()], ids=lambda path: path.stem
)
def test_what_passes_can_be_built(path: Path) -> None:
    """The examples are topologies that run, not only types that fit."""
    module = importlib.import_module(f"tests.typing.good.{path.stem}")
    assert build(module.topology.graph(), 1).sources


@pytest.mark.parametrize("of", [Topology, Stream, Keyed, Windowed])
def test_every_method_is_used(of: type) -> None:
    """Nothing public is without an example."""
    text = "\n".join(path.read_text() for path in GOOD)
    names = [name for name, _ in inspect.getmembers(of, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in names if f".{name}(" not in text and name != "graph"] == []


def test_types_know_what_the_plan_knows() -> None:
    """The reasons and actions that type checkers accept are those that a topology accepts."""
    assert (get_args(Reason), get_args(Then)) == (tuple(REASONS), ACTIONS)
