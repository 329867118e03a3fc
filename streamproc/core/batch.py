"""The values that cross the core: what a task is fed, and what it answers with.

    Batch --> task.step(batch, decisions) --> Step

A batch is parallel lists, so that the hot path allocates nothing per record beyond the decoded value.  Instants are
integer milliseconds since 1970-01-01T00:00:00Z.  START and END are the watermarks -inf and +inf; NEVER is the time of a
cell that no watermark makes due.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

K = TypeVar("K", covariant=True)
V = TypeVar("V", covariant=True)

Headers: TypeAlias = tuple[tuple[str, bytes], ...]
Position: TypeAlias = tuple[str, int, int]
"""Breaks ties between equal timestamps (S13): (topic, partition, offset); of a window result ("", -1, start)."""
NOWHERE: Position = ("", -1, -1)
"""The position of what came from no record."""

START = -(2**63)
END = 2**63 - 2
NEVER = 2**63 - 1
FARTHEST = 2**62
"""The greatest instant, and the negative of the least, that a record may bear (S4)."""


def earlier(watermark: int, by: int) -> int:
    """The watermark `by` ms before another; the infinite ones stay what they are."""
    return watermark if watermark in {START, END} else watermark - by


class Record(NamedTuple, Generic[K, V]):
    """One record with all that is known of it: what `.records()` streams carry and own operators see.

    `key` is the declared key, or the input's key bytes (None without one) where none is declared; `at` its event time
    in ms; topic, partition and offset name the input record it came from.
    """

    key: K
    value: V
    at: int
    headers: Headers = ()
    topic: str = ""
    partition: int = -1
    offset: int = -1


class Cell(NamedTuple):
    """One piece of state, addressed by an instant in ms and a key, in one of an operator's slots."""

    at: int
    key: Any
    value: Any
    slot: int = 0


@dataclass(frozen=True, slots=True)
class Raw:
    """The undecoded messages of a batch, found by origin, and only when a record becomes a dead letter."""

    values: Sequence[bytes | None]
    keys: Sequence[bytes | None] | None = None
    headers: Sequence[Headers] | None = None

    def at(self, origin: int) -> tuple[bytes | None, bytes | None, Headers]:
        """Key, value and headers of the message at this index."""
        key = self.keys[origin] if self.keys is not None else None
        return key, self.values[origin], self.headers[origin] if self.headers is not None else ()


class Said(NamedTuple):
    """What a task says of itself to those behind a repartition topic: it will send nothing older than `watermark`.

    `idle` says that all its inputs are (S46).
    """

    watermark: int
    idle: bool = False


class Mark(NamedTuple):
    """What is said of an input just before the record `before` of a batch; `len(values)` stands behind the last.

    `watermark` is the input's own, END where it ends; `idle` is None where nothing is said of that.  `incarnation` is
    that of the upstream task that speaks, and `next_offset` where to read on behind the mark, if it was read.
    """

    before: int
    input: int
    watermark: int
    idle: bool | None = None
    incarnation: int = 0
    next_offset: int | None = None


class Refusal(NamedTuple):
    """A message that is refused before it is processed: it stands just in front of the record `before` of its batch.

    `at` is its event time where that is known, else START; `origin` indexes the raw messages of its input.
    """

    before: int
    input: int
    origin: int
    offset: int
    at: int
    error: Exception


@dataclass(slots=True)
class Batch:
    """A run of records of one task, in processing order (S39), as parallel lists.

    `inputs` is the input each record came from: one number when all agree.  `marks` and `refusals` are in the order of
    their places.  `ops` is None while there are no retractions (S24).  `offsets` are those of the input records, or
    `places` their whole positions where they have crossed a repartition topic; `origins` index into `raws` by input,
    None where they are the indexes.  `positions` is the next offset of each inlet, behind all that is in here; inlets
    without offsets have none.
    """

    inputs: int | list[int]
    values: list[Any]
    times: list[int]
    offsets: Sequence[int]
    keys: list[Any] | None = None
    headers: list[Headers] | None = None
    marks: list[Mark] = field(default_factory=list)
    ops: list[str] | None = None
    places: list[Position | None] | None = None
    origins: Sequence[int] | None = None
    raws: dict[int, Raw] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    positions: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)


class Ended(NamedTuple):
    """Time decision: an input has been read to its end and counts as +inf (S49)."""

    input: int


class Idle(NamedTuple):
    """Time decision: an input has been silent for so long that it holds nobody back until its next record (S17)."""

    input: int


class Flows(NamedTuple):
    """Time decision: while all are idle, an input's watermark counts as this one, which moves with the clock (S18)."""

    input: int
    watermark: int


Decision: TypeAlias = Ended | Idle | Flows
"""What a clock or the outside decides; it enters a step as a value and is committed with the positions (S41)."""


class Emit(NamedTuple):
    """One record for a topic, encoded.  `route` is the key that chooses the partition (S51), None for none."""

    key: bytes | None
    value: bytes | None
    at: int
    headers: Headers
    route: bytes | None


class Crossing(NamedTuple):
    """One record on its way through a repartition topic; `route` is its new key as bytes."""

    key: Any
    value: Any
    at: int
    headers: Headers
    position: Position
    route: bytes


class DeadLetter(NamedTuple):
    """One record that could not be processed, with everything S43 asks for; `topic` is where it goes."""

    topic: str
    reason: str
    stage: str
    node: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    source: str
    partition: int
    offset: int
    at: int | None
    watermark: int
    exception: str
    message: str = ""
    stacktrace: str = ""
    attempts: int = 1
    window: tuple[int, int] | None = None


class Change(NamedTuple):
    """State that changed since the last commit: the cells of one (node, slot, time), ready for a changelog.

    `cells` maps canonical keys to whole new entries, None for a removed cell.  With `wiped`, whatever the store holds
    at that time goes first.
    """

    node: str
    slot: int
    at: int
    wiped: bool
    cells: dict[Any, list[Any] | None]


@dataclass(slots=True)
class Counts:
    """What one step did, as integers per node; observers turn them into metrics."""

    records_in: dict[str, int] = field(default_factory=dict)
    records_out: dict[str, int] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)
    updated: dict[str, int] = field(default_factory=dict)
    late: dict[tuple[str, str], int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    dropped: dict[tuple[str, str, str], int] = field(default_factory=dict)
    errors: dict[tuple[str, str, str], int] = field(default_factory=dict)
    retries: dict[str, int] = field(default_factory=dict)
    opened: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Step:
    """Everything one batch caused.

    `emits` are rows per output topic and `crossings` per repartition topic, each in processing order; `records` is how
    many there were in the batch.  After the step, `watermarks` is the progress of each node, `said` what stands behind
    the records in each repartition topic (S46), and `positions` the next offset of each inlet that has any.
    """

    emits: dict[str, list[Emit]] = field(default_factory=dict)
    crossings: dict[str, list[Crossing]] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    watermarks: dict[str, int] = field(default_factory=dict)
    positions: dict[int, int] = field(default_factory=dict)
    said: dict[str, Said] = field(default_factory=dict)
    records: int = 0


Encode: TypeAlias = Callable[[Any], bytes]
