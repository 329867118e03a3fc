"""The log of one partition: batches, markers, and who may append.

    offset   0 1 2 3 4 5 6 7
             a a b b A c c B      a, b, c: records of three writers; A, B: markers that end what the first two wrote
                       ^   ^
                  stable   end    while c is open

What readers with read_committed see ends at the first offset of the oldest open transaction.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from streamproc.core.batch import Headers
from streamproc.ports.broker import Code, Fetched, Outgoing, Refused

MARKER_SIZE = 78
OVERHEAD = 61
RECORD_OVERHEAD = 8
REMEMBERED = 5
"""Batches of one writer that a repeated one is recognised by."""


class Fate:
    """What became of a transaction in one partition; `committed` is None while it is open."""

    __slots__ = ("committed", "first")

    def __init__(self, first: int) -> None:
        self.first = first
        self.committed: bool | None = None


@dataclass(slots=True)
class Batch:
    """Records that were appended together, or a marker; offsets up to `last` belong to it, whether kept or not.

    One that `rolls` is the first of a segment.
    """

    base: int
    last: int
    written: float
    fate: Fate | None
    marker: bool = False
    rolls: bool = False
    size: int = MARKER_SIZE
    offsets: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)


@dataclass(slots=True)
class ProducerState:
    """What a partition knows of one writer."""

    epoch: int
    last: int = -1
    recent: deque[tuple[int, int, int]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    fate: Fate | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Those of a topic: whether it is compacted, the greatest batch, and how far ahead a stamp may be (ms)."""

    compacted: bool = False
    largest: int = 1_048_588
    ahead: int | None = 3_600_000


class PartitionLog:
    """One partition.  `on_news` is called whenever its end or its stable offset moved."""

    def __init__(self, topic: str, partition: int, settings: Settings, rolls: Callable[[], bool]) -> None:
        self.topic = topic
        self.partition = partition
        self.settings = settings
        self._rolls = rolls
        self.batches: list[Batch] = []
        self.start = 0
        self.end = 0
        self.producers: dict[int, ProducerState] = {}
        self.open: dict[int, Fate] = {}
        self.attempts: dict[int, tuple[int, int]] = {}
        """Of writers without a transaction here yet: the epoch and the least sequence that they have tried."""
        self.waiters: list[Callable[[], None]] = []

    @property
    def stable(self) -> int:
        """The last stable offset."""
        for fate in self.open.values():  # in the order of their first offsets
            return fate.first
        return self.end

    def check(self, records: Sequence[Outgoing], wall: int) -> int:
        """The size of a batch, if it may be appended at all."""
        size = OVERHEAD
        ahead = self.settings.ahead
        for record in records:
            size += RECORD_OVERHEAD + len(record.key or b"") + len(record.value or b"")
            for name, value in record.headers:
                size += len(name) + len(value) + 2
            if ahead is not None and record.at > wall + ahead:
                raise Refused(Code.INVALID_TIMESTAMP, f"a record for {self.topic}/{self.partition}")
            if self.settings.compacted and record.key is None:
                raise Refused(Code.INVALID_RECORD, f"a record for {self.topic}/{self.partition}")
        if size > self.settings.largest:
            raise Refused(Code.MESSAGE_TOO_LARGE, f"a batch for {self.topic}/{self.partition}")
        return size

    def check_epoch(self, producer: int, epoch: int) -> None:
        """Refuse a writer of an earlier incarnation than is known here."""
        state = self.producers.get(producer)
        if state is not None and epoch < state.epoch:
            raise Refused(Code.INVALID_PRODUCER_EPOCH, f"a batch for {self.topic}/{self.partition}")

    def attempt(self, producer: int, epoch: int, sequence: int) -> None:
        """A writer is about to open its transaction here; a later batch of it must not come before this one."""
        before, least = self.attempts.get(producer, (epoch, sequence))
        self.attempts[producer] = (epoch, min(least, sequence) if before == epoch else sequence)
        if sequence > self.attempts[producer][1]:
            raise Refused(Code.OUT_OF_ORDER_SEQUENCE, f"a batch for {self.topic}/{self.partition}")

    def known(self, producer: int, epoch: int, sequence: int, count: int) -> int | None:
        """Where a writer's batch already is, if it comes again; refused if it is out of turn."""
        state = self.producers.get(producer)
        if state is None:
            return None
        if epoch > state.epoch:
            if sequence:
                raise Refused(Code.OUT_OF_ORDER_SEQUENCE, f"a batch for {self.topic}/{self.partition}")
            return None
        for first, last, base in state.recent:
            if (first, last) == (sequence, sequence + count - 1):
                return base
        if sequence != state.last + 1:
            raise Refused(Code.OUT_OF_ORDER_SEQUENCE, f"a batch for {self.topic}/{self.partition}")
        return None

    def append(
        self, records: Sequence[Outgoing], size: int, now: float, writer: tuple[int, int, int] | None = None
    ) -> int:
        """Append a batch, and where; `writer` is producer id, epoch and sequence of one with a transaction."""
        fate = None
        base, last = self.end, self.end + len(records) - 1
        if writer is not None:
            producer, epoch, sequence = writer
            state = self.producers.get(producer)
            if state is None:
                state = self.producers[producer] = ProducerState(epoch)
            elif epoch > state.epoch:
                state.epoch, state.last = epoch, -1
                state.recent.clear()
            state.last = sequence + len(records) - 1
            state.recent.append((sequence, state.last, base))
            fate = state.fate
            if fate is None:
                self.attempts.pop(producer, None)
                fate = state.fate = self.open[producer] = Fate(base)
        self.batches.append(
            Batch(
                base,
                last,
                now,
                fate,
                marker=False,
                rolls=self._rolls(),
                size=size,
                offsets=list(range(base, last + 1)),
                keys=[record.key for record in records],
                values=[record.value for record in records],
                stamps=[record.at for record in records],
                headers=[record.headers for record in records],
            )
        )
        self.end = last + 1
        self.tell()
        return base

    def mark(self, producer: int, epoch: int, now: float, *, commit: bool) -> None:
        """End the transaction of a writer here."""
        state = self.producers.get(producer)
        if state is None:
            state = self.producers[producer] = ProducerState(epoch)
        elif epoch < state.epoch:
            return
        elif epoch > state.epoch:
            state.epoch, state.last = epoch, -1
            state.recent.clear()
        if state.fate is not None:
            state.fate.committed = commit
            state.fate = None
            del self.open[producer]
        self.batches.append(Batch(self.end, self.end, now, None, marker=True, rolls=self._rolls()))
        self.end += 1
        self.tell()

    def tell(self) -> None:
        """Let those look again who wait for news."""
        if self.waiters:
            waiters, self.waiters = self.waiters, []
            for waiter in waiters:
                waiter()

    def read(self, offset: int, limit: int, *, committed: bool) -> Fetched:
        """What a fetch from `offset` brings."""
        upper = self.stable if committed else self.end
        if not self.start <= offset <= self.end:
            return Fetched(self.topic, self.partition, Code.OFFSET_OUT_OF_RANGE)
        got = Fetched(self.topic, self.partition, Code.NONE, offset, self.end, self.stable, self.start)
        if offset >= upper:
            return got
        offsets: list[int] = []
        keys: list[bytes | None] = []
        values: list[bytes | None] = []
        stamps: list[int] = []
        headers: list[Headers] = []
        batches = self.batches
        for index in range(bisect_left(batches, offset, key=_last), len(batches)):
            batch = batches[index]
            if batch.base >= upper or (got.size and (batch.rolls or got.size + batch.size > limit)):
                break
            got.size += batch.size
            got.next_offset = batch.last + 1
            if batch.offsets and not (committed and batch.fate is not None and not batch.fate.committed):
                skip = bisect_left(batch.offsets, offset) if batch.base < offset else 0
                offsets += batch.offsets[skip:]
                keys += batch.keys[skip:]
                values += batch.values[skip:]
                stamps += batch.stamps[skip:]
                headers += batch.headers[skip:]
        got.offsets, got.keys, got.values, got.stamps = offsets, keys, values, stamps
        if any(headers):
            got.headers = headers
        return got

    def at(self, instant: int, *, committed: bool) -> int:
        """The first offset stamped at or after an instant, else the end."""
        upper = self.stable if committed else self.end
        for batch in self.batches:
            for offset, stamp in zip(batch.offsets, batch.stamps, strict=True):
                if self.start <= offset < upper and stamp >= instant:
                    return offset
        return upper

    def records(self, start: int = 0) -> Iterator[tuple[int, Outgoing]]:
        """What a reader with read_committed sees by now, from an offset on, with offsets."""
        start, stable = max(start, self.start), self.stable
        for index in range(bisect_left(self.batches, start, key=_last), len(self.batches)):
            batch = self.batches[index]
            if batch.base >= stable:
                return
            if batch.fate is None or batch.fate.committed:
                for offset, key, value, at, headers in zip(
                    batch.offsets, batch.keys, batch.values, batch.stamps, batch.headers, strict=True
                ):
                    if offset >= start:
                        yield offset, Outgoing(key, value, at, headers)

    def compact(self, now: float, retention: float) -> None:
        """Keep the last value of each key below the stable offset; tombstones and markers go after `retention` s."""
        stable = self.stable
        latest: dict[bytes | None, int] = {}
        for batch in self.batches:
            if batch.last < stable and (batch.fate is None or batch.fate.committed):
                latest.update(zip(batch.keys, batch.offsets, strict=True))
        kept = []
        for batch in self.batches:
            if batch.last >= stable:
                kept.append(batch)
                continue
            expired = batch.written + retention <= now
            aborted = batch.fate is not None and not batch.fate.committed
            stay = [
                not aborted and latest[key] == offset and not (value is None and expired)
                for key, offset, value in zip(batch.keys, batch.offsets, batch.values, strict=True)
            ]
            if not all(stay):
                for name in ("offsets", "keys", "values", "stamps", "headers"):
                    column = getattr(batch, name)
                    column[:] = [item for item, stays in zip(column, stay, strict=True) if stays]
            if batch.offsets or (batch.marker and not expired) or batch is self.batches[-1]:
                kept.append(batch)  # the last one stays, though empty: it is what tells readers where they are
        self.batches = kept

    def truncate(self, offset: int) -> None:
        """Delete what is below an offset."""
        if not 0 <= offset <= self.end:
            raise Refused(Code.OFFSET_OUT_OF_RANGE, f"{self.topic}/{self.partition}, to be cut at {offset}")
        self.start = max(self.start, offset)
        del self.batches[: bisect_right(self.batches, self.start - 1, key=_last)]


def _last(batch: Batch) -> int:
    return batch.last
