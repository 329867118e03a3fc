"""What a worker tells of itself: what happens to it, where its partitions stand, and the pulse its health is judged by.

    Event      now and then: partitions come and go, state is restored, a commit fails   -> Observer.happened
    Standing   every second or so, all partitions that are owned                         -> Observer.lagged
    Pulse      always there to be read, from any thread                                  -> /healthz and /readyz

All of it is plain, frozen and without a clock: durations are given, instants are seconds of the wall clock.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Waiting: TypeAlias = Literal["fetch", "commit", "restore", "throttle"]
"""What a pass of the poll loop waited for: records, room in a commit, state to be restored, a broker that slows us."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Tasks came to this worker, went in good order, or were lost: another may have them already.

    `tasks` are those that came or went, `owned` is all that is owned from now on, as partitions by topic.  One that
    changes nothing (no tasks) is an event too: this worker has taken part in a rebalance.
    """

    how: Literal["assigned", "revoked", "lost"]
    tasks: Collection[str]
    owned: Mapping[str, Collection[int]]


@dataclass(frozen=True, slots=True)
class Rebalanced:
    """The group has settled: `seconds` from when work was first held back to the first fetch afterwards."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Restoring:
    """A task reads its changelog: `records` since this was last told, 0 at the start, and how many are left."""

    task: str
    records: int
    remaining: int


@dataclass(frozen=True, slots=True)
class Restored:
    """A task has its state: `records` in all, `seconds` since it was assigned.  Told of tasks without state too."""

    task: str
    records: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Changelog:
    """Records and bytes that a commit has added to the changelog of a task."""

    task: str
    records: int
    size: int


@dataclass(frozen=True, slots=True)
class Uncommitted:
    """A commit that was begun and of which `Observer.committed` will not be told; `why` in words, without payloads.

    aborted: ended without effect, on purpose or by the coordinator.  fenced: another has the task.  unknown: no answer
    in time, so it may have happened; what comes of it is found out at the next take-over.  failed: refused otherwise.
    """

    task: str
    outcome: Literal["aborted", "fenced", "unknown", "failed"]
    seconds: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request or a connection that failed, whether or not it will be tried again."""

    kind: Literal["connection", "auth", "fenced", "timeout", "other"]
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reachability:
    """Brokers have become reachable or unreachable; told at the start, and whenever it changes."""

    reachable: bool


@dataclass(frozen=True, slots=True)
class Delays:
    """How many ms before the timestamps of their records some events of a topic happened; negative if after them."""

    topic: str
    delays: Sequence[int]


Event: TypeAlias = (
    Ownership | Rebalanced | Restoring | Restored | Changelog | Uncommitted | Failure | Reachability | Delays
)
"""Everything that happens to a worker now and then."""


class Standing(NamedTuple):
    """Where one partition stands that this worker owns.

    `position` is the next offset to process; `end` is the log's end, asked for apart from reading, None if not known
    yet; `committed` None before the first commit.  `lag_seconds` is the age of the next record to process by the
    broker's timestamp, 0.0 when there is none.  `paused`: not read just now (back-pressure, restore, alignment);
    `idle`: left out of watermarks; `stalled`: it has records, is not paused, and has not moved for `stall_after`.
    """

    position: int
    end: int | None
    lag_seconds: float
    committed: int | None = None
    paused: bool = False
    idle: bool = False
    stalled: bool = False

    @property
    def lag_records(self) -> int:
        """Offsets between position and end: an upper bound of records, as markers have offsets too."""
        return 0 if self.end is None else max(0, self.end - self.position)


@dataclass(frozen=True, slots=True)
class Pulse:
    """The progress of a runner, for those who ask from another thread; instants in seconds of the wall clock.

    What is None is not judged: a runner without brokers has no `reachable`, one without an event loop no `ticked_at`.
    A worker sets `ticked_at`, `polled_at` and `reachable` from its construction on.
    """

    state: str
    started_at: float
    state_since: float
    last_step_at: float | None = None
    stepping_since: float | None = None
    """Start of the step under way, None while the engine is idle."""
    stepping: str | None = None
    """The task whose step that is."""
    ticked_at: float | None = None
    """When the event loop last ran its tick of 100 ms."""
    polled_at: float | None = None
    """When the poll loop last finished a pass, with or without records."""
    rebalancing_since: float | None = None
    stalled_since: float | None = None
    """Since when the partition that has stalled longest has not moved although it was healed once; None for none."""
    restoring: int = 0
    """Owned tasks that do not have their state yet."""
    reachable: bool | None = None
    """Whether metadata was answered within the last 30 s."""
    reachable_since: float | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """How many seconds each kind of progress may take before a worker counts as stuck.

    poll: twice the longest time between two polls; rebalance: twice its timeout; stall: three times `stall_after`.
    """

    tick: float = 5.0
    step: float = 60.0
    poll: float = 600.0
    rebalance: float = 120.0
    stall: float = 180.0
