"""The seams between the core and the world: protocols of a handful of verbs, and the values they carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from streamproc.core.batch import Change, DeadLetter, Emit, Headers, Step
from streamproc.ports.worker import Event, Standing, Waiting


class Decoded(NamedTuple):
    """A slice of messages as values; where one could not be decoded its value is None and `failed` says why."""

    values: list[Any]
    failed: list[tuple[int, Exception]]


class Codec(Protocol):
    """How the messages of one topic become values: a whole slice in one call."""

    def decode(self, raws: Sequence[bytes | None]) -> Decoded:
        """Values parallel to `raws`; a None (a tombstone) stays None and is no failure."""
        ...


class Serde(Protocol):
    """How keys and results are written (S51), and how state is."""

    def encode(self, value: Any) -> bytes:
        """A value as JSON; bytes stay as they are.  Raises TypeError or ValueError where it cannot."""
        ...

    def encode_key(self, key: Any) -> bytes:
        """Text as UTF-8, bytes as they are, everything else as compact JSON."""
        ...

    def decoder(self, type_: Any) -> Codec:
        """The codec of values of this type."""
        ...

    def key_decoder(self, type_: Any) -> Codec:
        """The codec of record keys of this type."""
        ...


class Packing(Protocol):
    """State, and what crosses a repartition topic, as bytes and back: exact, and the same bytes for the same value.

    Raises StateError for what cannot be kept, and where bytes are damaged.
    """

    def pack(self, value: Any) -> bytes: ...

    def pack_each(self, values: Sequence[Any]) -> list[bytes]:
        """Each value as `pack` gives it."""
        ...

    def pack_rows(self, columns: Sequence[Sequence[Any]]) -> list[bytes]:
        """Each row of parallel columns as `pack` gives the list of its values."""
        ...

    def unpack(self, packed: bytes) -> Any: ...

    def unpack_each(self, packed: Iterable[bytes]) -> list[Any]:
        """What `unpack` gives for each."""
        ...


@dataclass(frozen=True, slots=True)
class Run:
    """A run of raw messages of one partition, in offset order; it may be empty and only say where to read on.

    `stamps` are the transport's own timestamps in ms, and `appended` says that the log itself set them when it took the
    messages.  `next_offset` is where to read on, None for just behind the last message: in a log with markers between
    its messages it may lie further.
    """

    partition: int
    offsets: Sequence[int]
    values: list[bytes | None]
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None
    stamps: Sequence[int] | None = None
    next_offset: int | None = None
    appended: bool = False


class Source(Protocol):
    """One topic to read.  Offsets need not be contiguous, but they rise within a partition."""

    @property
    def topic(self) -> str: ...

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to come, ever."""
        ...

    @property
    def read_bytes(self) -> int:
        """How far reading has come, in the unit of `total_bytes`."""
        ...

    @property
    def total_bytes(self) -> int | None:
        """What there is to read, None where that cannot be known."""
        ...

    def open(self, bookmark: Any | None) -> None:
        """Begin at a bookmark, or at the beginning.  Raises ConfigError where that place is gone."""
        ...

    def read(self, limit: int) -> list[Run]:
        """Up to about `limit` messages that are at hand now, without waiting; an empty list for none."""
        ...

    def bookmark(self, offset: int) -> Any:
        """A place, as plain data, from which reading gives every message at or beyond `offset` again."""
        ...

    def fingerprint(self) -> Any:
        """What tells whether a source that was read to its end has grown since, as plain data."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Commit:
    """What one transaction makes durable, all of it or nothing.

    `emits` are rows per (topic, partition); `changes` and `positions` are per task; `bookmarks` per source topic.
    """

    emits: dict[tuple[str, int], list[Emit]] = field(default_factory=dict)
    changes: dict[str, list[Change]] = field(default_factory=dict)
    positions: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    bookmarks: dict[str, Any] = field(default_factory=dict)


class Log(Protocol):
    """Topics, positions and state in one place with one transaction."""

    def positions(self, task: str) -> Mapping[str, Any] | None:
        """The position record of a task, None before its first commit."""
        ...

    def bookmark(self, topic: str) -> Any | None: ...

    def changes(self, task: str) -> Iterable[Change]:
        """The state of a task as changes to an empty store."""
        ...

    def commit(self, commit: Commit) -> None: ...

    def close(self) -> None: ...


class Observer(Protocol):
    """Who watches a runner.  Called once per step or commit, never per record; it must not raise, wait or be slow.

    All of it from the thread of the runner, or of the worker's event loop.  The last four are told by workers only.
    """

    def planned(self, plan: Any) -> None:
        """A plan is about to run: all label combinations are known now."""
        ...

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None: ...

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None: ...

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None: ...

    def progressed(self, watermarks: Mapping[tuple[str, int], int], held_by: tuple[str, int] | None) -> None:
        """The watermark of each (topic, partition), and the one that holds the others back."""
        ...

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """What a task holds per node, counted anew: after a restore, and now and then."""
        ...

    def state(self, name: str) -> None:
        """The worker is now starting, restoring, running, rebalancing, draining, stopped or failed."""
        ...

    def happened(self, event: Event) -> None:
        """Something that happens now and then: partitions come and go, state is restored, a commit fails."""
        ...

    def lagged(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Where every partition (topic, number) that is owned stands, all of them at once, every second or so."""
        ...

    def polled(self, waited: Mapping[Waiting, float]) -> None:
        """The poll loop has finished a pass, with the seconds it waited for something."""
        ...

    def ticked(self, late: float) -> None:
        """The event loop has run its tick of 100 ms, so many seconds later than it was due."""
        ...
