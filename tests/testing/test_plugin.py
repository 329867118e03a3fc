"""The pytest plugin: its fixtures and its option, as another project sees them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import streamproc.testing.plugin

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from streamproc import Topology

drivers = []

def doubled():
    topology = Topology("doubled")
    topology.source("n", int, event_time=lambda n: n).map(lambda n: n * 2).to("out")
    return topology

def test_a_driver(streamproc_driver):
    drivers.append(streamproc_driver(doubled(), partitions=1))
    drivers[0].send("n", 1, 2)
    assert drivers[0].read("out") == [2, 4]

def test_it_was_closed():
    with pytest.raises(Exception, match="closed"):
        drivers[0].send("n", 1)

def test_verify(streamproc_verify):
    assert streamproc_verify.keywords == {"seeds": 7}
    assert streamproc_verify(doubled(), given={"n": [1, 2]}) == {"out": [2, 4]}
"""


def test_fixtures_and_option(pytester: pytest.Pytester) -> None:
    """Drivers are made by a fixture and closed by it, and `--streamproc-seeds` reaches `streamproc_verify`."""
    pytester.makepyfile(TESTS)
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nasyncio_default_fixture_loop_scope = "function"\n')
    given = ("-p", "no:streamproc", "-p", "streamproc.testing.plugin", "-p", "no:randomly", "-p", "no:cacheprovider")
    result = pytester.runpytest_inprocess(*given, "--streamproc-seeds", "7")
    result.assert_outcomes(passed=3)


def test_the_plugin_is_found_where_the_package_is_installed() -> None:
    """The entry point names this module."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"streamproc": streamproc.testing.plugin.__name__}
