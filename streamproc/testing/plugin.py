"""Fixtures for pytest: drivers that are closed at the end, and `verify` with as many seeds as the command line says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from streamproc.testing.driver import TestDriver

# streamproc is imported by the fixtures, so that a test run that has it installed but not in use starts no slower.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what this plugin understands."""
    group = parser.getgroup("streamproc")
    group.addoption(
        "--streamproc-seeds",
        type=int,
        default=3,
        metavar="N",
        help="random cuts that the fixture streamproc_verify tries for each topology (default 3)",
    )


@pytest.fixture
def streamproc_driver() -> Iterator[Callable[..., TestDriver]]:
    """A function that makes a TestDriver; all of them are closed when the test is over."""
    from streamproc.testing.driver import TestDriver  # noqa: PLC0415

    made: list[TestDriver] = []

    def driver(*given: Any, **named: Any) -> TestDriver:
        made.append(TestDriver(*given, **named))
        return made[-1]

    yield driver
    for one in made:
        one.close()


@pytest.fixture
def streamproc_verify(request: pytest.FixtureRequest) -> Callable[..., dict[str, list[Any]]]:
    """`streamproc.testing.verify` with the seeds of `--streamproc-seeds`."""
    from streamproc.testing.laws import verify  # noqa: PLC0415

    return partial(verify, seeds=request.config.getoption("--streamproc-seeds"))
