"""Processes that are killed, again and again, at places in their own work that a seed chooses.

    child(args, at):  streamproc's own main, with a SIGKILL planted at the nth passing of a place
    relentless(...):  the same command line until it comes through, with what every child did

Nothing is told of the kill before it happens: no handler runs, no buffer is flushed, no file is closed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from streamproc.adapters.jsonlines import JsonLinesOutput, JsonLinesSource
from streamproc.adapters.sqlite import SqliteLog
from streamproc.cli import main as streamproc
from streamproc.core.task import Task

Method: TypeAlias = Callable[..., Any]

ROOT = Path(__file__).parent.parent.parent

PLACES = (
    "reading",  # after some messages were read, before they are processed
    "processing",  # inside a step
    "half written",  # an output has the first half of what it was to get
    "written",  # it has all of it, and nothing is committed
    "synced",
    "inside the transaction",
    "committed",  # the log knows it, and nobody else does
)
"""Where a child may be killed."""


@dataclass(frozen=True)
class Death:
    """A place, and at which passing of it."""

    place: str
    passing: int

    def __str__(self) -> str:
        return f"{self.place}:{self.passing}"


def deaths(seed: int, count: int, most: int) -> Iterator[Death]:
    """So many deaths, each place about equally often, at one of its first `most` passings."""
    chance = random.Random(seed)
    for number in range(count):
        yield Death(PLACES[(number + seed) % len(PLACES)], chance.randint(1, most))


def command(*arguments: str, death: Death | None = None) -> list[str]:
    """The command line of one child."""
    return [sys.executable, "-m", "tests.embedded.kills", str(death or ""), *arguments]


def environment() -> dict[str, str]:
    """What a child sees: this checkout, and none of the developer's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMPROC_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def run(
    folder: Path, *arguments: str, death: Death | None = None, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """One child to its end, in a folder of its own."""
    return subprocess.run(
        command(*arguments, death=death),
        cwd=folder,
        env=environment(),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


@dataclass(frozen=True)
class Life:
    """How the children of one command line fared: where they were killed, in order, and what the last one said."""

    killed: list[str]
    last: subprocess.CompletedProcess[bytes]


def relentless(folder: Path, *arguments: str, planned: Iterator[Death]) -> Life:
    """Run a command line under one planned death after the other, until a child lives or no death is left."""
    killed: list[str] = []
    for death in planned:
        done = run(folder, *arguments, death=death)
        if done.returncode != -signal.SIGKILL:
            return Life(killed, done)
        killed.append(death.place)
    return Life(killed, run(folder, *arguments))


# in the child


def _after(count: int) -> Callable[[], None]:
    """Something to call at each passing; the nth does not return."""
    left = [count]

    def pass_by() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return pass_by


def plant(death: Death) -> None:
    """Change this process so that it dies at a place of its work."""
    owner, name, wrap = _METHODS[death.place]
    setattr(owner, name, wrap(getattr(owner, name), _after(death.passing)))


def _behind(original: Method, pass_by: Callable[[], None]) -> Method:
    """The method, and then the place is passed."""

    def method(self: Any, *arguments: Any) -> Any:
        answer = original(self, *arguments)
        pass_by()
        return answer

    return method


def _halfway(original: Method, pass_by: Callable[[], None]) -> Method:
    """The method in two halves, with the place between them."""

    def method(self: Any, items: list[Any]) -> None:
        original(self, items[: len(items) // 2])
        pass_by()
        original(self, items[len(items) // 2 :])

    return method


_METHODS: dict[str, tuple[Any, str, Callable[[Method, Callable[[], None]], Method]]] = {
    "reading": (JsonLinesSource, "read", _behind),
    "processing": (Task, "advance", _behind),
    "half written": (JsonLinesOutput, "append", _halfway),
    "written": (JsonLinesOutput, "append", _behind),
    "synced": (JsonLinesOutput, "sync", _behind),
    "inside the transaction": (SqliteLog, "_change", _behind),
    "committed": (SqliteLog, "commit", _behind),
}


def main() -> int:
    """Plant what is asked for, and be `streamproc`."""
    planned, *arguments = sys.argv[1:]
    if planned:
        place, _, passing = planned.rpartition(":")
        plant(Death(place, int(passing)))
    return streamproc(arguments)


if __name__ == "__main__":
    sys.exit(main())
