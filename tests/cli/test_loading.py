"""MODULE:VAR: what it may say, and what is said when it names no topology."""

import sys
from pathlib import Path

import pytest

from streamproc import ConfigError, Topology, TopologyError
from streamproc.cli.loading import Reference, load, reference

MODULE = """
from streamproc import Topology

topology = Topology("plain")
other = Topology("other")
number = 7

def build(name="made", *, n=1):
    return Topology(f"{name}-{n}")

def broken():
    return 1 / 0

def none():
    return None
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with modules that nobody else knows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("sample", "wrong", "raising", "needing", "mistyped"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "sample.py").write_text(MODULE)
    (tmp_path / "wrong.py").write_text("from streamproc import Topology\n\ntopology = Topology('No Good')\n")
    (tmp_path / "raising.py").write_text("x = {}\ny = x['gone']\n")
    (tmp_path / "needing.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "mistyped.py").write_text("def (\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sample", "plain"),
        ("sample:topology", "plain"),
        ("sample:other", "other"),
        ("sample:build", "made-1"),
        ("sample:build()", "made-1"),
        ("sample:build('east')", "east-1"),
        ("sample:build('east', n=-3)", "east--3"),
    ],
)
def test_a_topology_is_found_or_made(text: str, name: str) -> None:
    """A variable, a factory, or a factory with plain arguments, of a module in the current directory."""
    assert load(text).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sample:gone", "sample has no 'gone': it has other, topology"),
        ("sample:number", "sample:number is a int and not a Topology: it has other, topology"),
        ("sample:none", "sample:none is a NoneType and not a Topology: it has other, topology"),
        ("sample:topology()", "sample:topology cannot be called: it is a Topology"),
        ("sample:broken", "sample:broken: ZeroDivisionError: division by zero (sample.py line 12)"),
        ("sample:build(x)", "'build(x)' of 'sample:build(x)' is neither a name nor a call with plain values"),
        ("sample:build(*[])", "is neither a name nor a call with plain values"),
        ("sample:build(**{})", "is neither a name nor a call with plain values"),
        ("sample:a.b", "is neither a name nor a call with plain values"),
        ("sample:1+", "is neither a name nor a call with plain values"),
        ("sample.py", "'sample.py' is a path: name the module, as in sample:topology"),
        ("./dir/sample.py:build", "name the module, as in dir.sample:build"),
        ("", "'' names no topology: write MODULE:VAR"),
        ("a b:c", "'a b:c' names no topology: write MODULE:VAR"),
        ("nowhere_at_all", "there is no module 'nowhere_at_all' in "),
        ("sample.below", "there is no module 'sample.below' in "),
        ("raising", "importing raising: KeyError: 'gone' (raising.py line 2)"),
        ("needing", "importing needing: No module named 'a_module_that_is_not_there' (needing.py line 1)"),
        ("mistyped", "importing mistyped: SyntaxError: "),
    ],
)
def test_what_is_no_topology_is_explained(text: str, message: str) -> None:
    """The error says what there is instead, or where the user's own code failed."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in str(caught.value)


def test_a_topology_declared_wrongly_names_its_line() -> None:
    """A mistake in a topology is a TopologyError with the place of the declaration."""
    with pytest.raises(TopologyError, match=r"name='No Good'.*\(wrong.py line 3\)"):
        load("wrong")


def test_nothing_is_evaluated_to_read_a_reference() -> None:
    """Arguments are literals; a name or a call among them is refused before anything is imported."""
    assert reference("m:f('a', k={'b': [1, None]})") == Reference("m", "f", (["a"], {"k": {"b": [1, None]}}))
    with pytest.raises(ConfigError):
        reference("m:f(__import__('os'))")


def test_a_topology_may_be_called() -> None:
    """A Topology is taken as it is, even if somebody made it callable."""
    assert isinstance(load("sample"), Topology)
