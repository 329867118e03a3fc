"""What all tasks of a worker share, and what is kept of one between its takings-over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamproc.core.errors import StateError
from streamproc.core.plan import Plan
from streamproc.core.state import MemoryStore
from streamproc.ports import Observer, Packing
from streamproc.ports.broker import Broker, TopicPartition
from streamproc.runners.bench import Codecs
from streamproc.runners.worker.changelog import Changelog
from streamproc.runners.worker.fetching import Fetcher
from streamproc.runners.worker.producing import Committer

Compute = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function apart from the event loop, so that heartbeats go on meanwhile."""


class Incompatible(StateError):
    """What is stored does not fit what is to run: restarting cannot help."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often tasks commit, in seconds.

    A commit is due `tick` after the last while nothing waits to be read, `stretched` after it while something does.
    No transaction stays open longer than a third of what it may last.
    """

    tick: float = 0.1
    stretched: float = 1.0
    lasting: float = 10.0


@dataclass(frozen=True, slots=True)
class House:
    """What all tasks of a worker share.

    `partition` deals out keys, and remembers those it has seen; `counts` is the number of partitions of every topic
    that is read or written; `crash` is told each step of a commit (a test may end the process there); `committer` makes
    the way a task commits.  With `ends`, each source partition is read up to there and no further (S49); `finished` is
    called now and then by a task that has nothing left to do.
    """

    plan: Plan
    broker: Broker
    fetcher: Fetcher
    codecs: Codecs
    packing: Packing
    observer: Observer
    compute: Compute
    clock: Callable[[], float]
    stopwatch: Callable[[], float]
    partition: Callable[[bytes, int], int]
    counts: Mapping[str, int]
    group: str
    committer: Callable[[str, TopicPartition], Committer]
    pace: Callable[[], Pace]
    crash: Callable[[str], None]
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    finished: Callable[[], None] = lambda: None


@dataclass(slots=True)
class Kept:
    """The state of a task as of its last commit: what a take-over needs not read again.

    `restored_to` is an offset of the changelog below which everything is in it.
    """

    store: MemoryStore
    changelog: Changelog
    position: Mapping[str, Any] | None
    restored_to: int
