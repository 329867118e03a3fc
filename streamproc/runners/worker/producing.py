"""Making the work of one task durable: outputs, changelog and offsets, in one transaction or none.

    open     fence whoever wrote before, and end what it had begun
    commit   partitions, records, offsets, end: every answer is awaited before the next request is sent
    discard  after any error: nothing is ever sent again by this incarnation

No request is repeated once it may have arrived: a late copy would be taken for a part of the next transaction.  What
may be repeated is what the broker has definitely refused because it is not ready, and what never left.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from streamproc.ports.broker import (
    NOBODY,
    Appending,
    Broker,
    BrokerError,
    Code,
    Outgoing,
    Refused,
    TopicPartition,
    Unanswered,
    Unsent,
    Writer,
)

T = TypeVar("T")

NOT_READY = frozenset(
    {
        Code.CONCURRENT_TRANSACTIONS,
        Code.NOT_COORDINATOR,
        Code.COORDINATOR_LOADING,
        Code.COORDINATOR_NOT_AVAILABLE,
    }
)
"""Refusals that pass by themselves: nothing has happened, and the same request may be made again."""
PASSING = NOT_READY | {
    Code.LEADER_NOT_AVAILABLE,
    Code.NOT_LEADER,
    Code.UNSTABLE_OFFSET_COMMIT,
    Code.REQUEST_TIMED_OUT,
    Code.NOT_ENOUGH_REPLICAS,
    Code.KAFKA_STORAGE_ERROR,
}
"""Refusals of a question that pass by themselves."""
FENCED = frozenset(
    {
        Code.INVALID_PRODUCER_EPOCH,
        Code.PRODUCER_FENCED,
        Code.INVALID_PRODUCER_ID_MAPPING,
        Code.UNKNOWN_PRODUCER_ID,
        Code.ILLEGAL_GENERATION,
        Code.UNKNOWN_MEMBER_ID,
        Code.TRANSACTION_COORDINATOR_FENCED,
    }
)
"""Refusals that say that somebody else writes as this task now, or that its transaction has timed out."""
UNWRITABLE = frozenset(
    {
        Code.MESSAGE_TOO_LARGE,
        Code.RECORD_LIST_TOO_LARGE,
        Code.INVALID_TIMESTAMP,
        Code.INVALID_RECORD,
        Code.POLICY_VIOLATION,
        Code.INVALID_TOPIC,
    }
)
"""Refusals of records for what they are: the same records would be refused for ever."""
FORBIDDEN = frozenset(
    {
        Code.TOPIC_AUTHORIZATION_FAILED,
        Code.GROUP_AUTHORIZATION_FAILED,
        Code.CLUSTER_AUTHORIZATION_FAILED,
        Code.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        Code.INVALID_TRANSACTION_TIMEOUT,
    }
)
"""Refusals that only somebody who changes permissions or settings can mend."""

FIRST_PAUSE, LONGEST_PAUSE = 0.02, 0.5
"""Seconds before a request that was not ready, or never left, is made again; they double."""

BATCH_BYTES = 900_000
"""Most bytes of records in one batch: brokers refuse more than about 1 MB unless told otherwise."""
Most: TypeAlias = Callable[[str], int]
"""The most bytes of records in one batch of a topic."""
RECORD_OVERHEAD = 32
"""Bytes that a record takes beside its key, value and headers, at most."""


def usual(_: str) -> int:
    """What every topic takes that is not set otherwise."""
    return BATCH_BYTES


class Lost(Exception):
    """Somebody else writes as this task: nothing of what is not committed may be."""


class Undone(Exception):
    """A commit did not succeed, or it is not known whether it did: begin anew from what is committed."""

    def __init__(self, why: BrokerError, *, unknown: bool) -> None:
        super().__init__(str(why))
        self.why = why
        self.unknown = unknown


class Unwritable(Exception):
    """A broker refuses records for what they are; it would do so again."""


class Forbidden(Exception):
    """A broker does not let us do what has to be done; says what."""


class Committed(NamedTuple):
    """What a commit has come to: the offset of the first record of each partition in this transaction."""

    first_offsets: Mapping[TopicPartition, int]


class Committer(Protocol):
    """How one task makes its work durable.  After an error other than of `open` it must be opened again.

    An `eager` one is given results by `append` as soon as there are any, before the commit that covers them.
    """

    eager: bool

    async def open(self) -> None:
        """From here on nobody else can write as this task, and nothing of the last owner is open."""
        ...

    async def append(self, records: Mapping[TopicPartition, Sequence[Outgoing]]) -> None:
        """Write results that may be written again.  Raises as `commit` does."""
        ...

    async def commit(
        self, records: Mapping[TopicPartition, Sequence[Outgoing]], offsets: Mapping[TopicPartition, int]
    ) -> Committed:
        """Make records and offsets durable.  Raises Lost, Undone, Unwritable or Forbidden."""
        ...

    def discard(self) -> None:
        """Never send anything again that is still on its way."""
        ...


@dataclass(slots=True)
class Transactions:
    """One task's transactions: exactly once.  Times in seconds; `lasting` is the most that one may last.

    No batch has more than `most` bytes.
    """

    broker: Broker
    transactional_id: str
    group: str
    lasting: float
    crash: Callable[[str], None]
    most: Most = usual
    eager: bool = False
    _writer: Writer | None = None
    _sequences: dict[TopicPartition, int] = field(default_factory=dict)

    async def open(self) -> None:
        self.discard()
        writer = await patient(lambda: self.broker.init_producer(self.transactional_id, int(self.lasting * 1000)))
        self._sequences = {}
        self._writer = writer

    async def append(self, records: Mapping[TopicPartition, Sequence[Outgoing]]) -> None:
        """Nothing leaves before its transaction does."""
        raise NotImplementedError(f"{len(records)} partitions outside of a transaction")

    async def commit(
        self, records: Mapping[TopicPartition, Sequence[Outgoing]], offsets: Mapping[TopicPartition, int]
    ) -> Committed:
        writer, self._writer = self._writer, None  # whatever is not finished in here is discarded
        if writer is None:
            raise AssertionError("a commit without a writer: open() comes first")
        with _told_apart():
            async with asyncio.timeout(self.lasting):
                if records:
                    await _ready(lambda: self.broker.add_partitions(writer, list(records)))
                first_offsets: dict[TopicPartition, int] = {}
                for batches in in_batches(records, self._sequences, self.most):
                    for partition, offset in (await self.broker.produce(writer, batches)).items():
                        first_offsets.setdefault(partition, offset)
                self.crash("after_produce")
                if offsets:
                    await _ready(lambda: self.broker.add_offsets(writer, self.group))
                    await _ready(lambda: self.broker.txn_offsets(writer, self.group, offsets))
                self.crash("after_offsets")
                self.crash("before_endtxn")
                following = await _ready(lambda: self.broker.end_txn(writer, commit=True))
                self.crash("after_endtxn")
        if following != writer:
            self._sequences = {}
        self._writer = following
        return Committed(first_offsets)

    def discard(self) -> None:
        self._writer = None
        self.broker.discard(self.transactional_id)


@dataclass(slots=True)
class Appends:
    """Results at least once: they are written at once, and state and offsets follow in a transaction of their own.

    So state is counted once, whatever dies; results that were written may be written again.
    """

    broker: Broker
    changelog: TopicPartition
    transactions: Transactions
    eager: bool = True

    async def open(self) -> None:
        await self.transactions.open()

    async def append(self, records: Mapping[TopicPartition, Sequence[Outgoing]]) -> None:
        with _told_apart():
            async with asyncio.timeout(self.transactions.lasting):
                for batches in in_batches(records, {}, self.transactions.most):
                    await self.broker.produce(NOBODY, batches)

    async def commit(
        self, records: Mapping[TopicPartition, Sequence[Outgoing]], offsets: Mapping[TopicPartition, int]
    ) -> Committed:
        own = {place: rows for place, rows in records.items() if place == self.changelog}
        await self.append({place: rows for place, rows in records.items() if place != self.changelog})
        return await self.transactions.commit(own, offsets)

    def discard(self) -> None:
        self.transactions.discard()


class _told_apart:  # noqa: N801 - a context manager reads as a verb
    """Turns what came of a request into what the task has to do about it."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        match error:
            case Refused(code=code) if code in FENCED:
                raise Lost(str(error)) from error
            case Refused(code=code) if code in UNWRITABLE:
                raise Unwritable(str(error)) from error
            case Refused(code=code) if code in FORBIDDEN:
                raise Forbidden(str(error)) from error
            case BrokerError():
                raise Undone(error, unknown=isinstance(error, Unanswered)) from error
            case TimeoutError():
                raise Undone(Unanswered("the commit took longer than a transaction may"), unknown=True) from error


async def patient(call: Callable[[], Awaitable[T]]) -> T:
    """Make a request until the broker is ready for it, for as long as the caller does not give up.

    Only for what may be done twice: questions, and the fencing of others.
    """
    return await _repeated(call, PASSING, (Unsent, Unanswered))


async def _ready(call: Callable[[], Awaitable[T]]) -> T:
    """Make a request of a transaction until the broker is ready for it; what may have arrived is not repeated."""
    return await _repeated(call, NOT_READY, (Unsent,))


async def _repeated(
    call: Callable[[], Awaitable[T]], passing: frozenset[Code], failures: tuple[type[BrokerError], ...]
) -> T:
    """Make a request again, later each time, after refusals that pass and failures that do no harm."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await call()
        except Refused as refused:
            if refused.code not in passing:
                raise
        except failures:
            pass
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def in_batches(
    records: Mapping[TopicPartition, Sequence[Outgoing]], sequences: dict[TopicPartition, int], most: Most = usual
) -> Sequence[Sequence[Appending]]:
    """Records as rounds of one batch a partition, none above `most` bytes; `sequences` counts them on."""
    rounds: list[list[Appending]] = []
    for partition, rows in records.items():
        for number, part in enumerate(_parts(rows, most(partition.topic))):
            if number == len(rounds):
                rounds.append([])
            sequence = sequences.get(partition, 0)
            rounds[number].append(Appending(partition.topic, partition.partition, sequence, part))
            sequences[partition] = (sequence + len(part)) % 2**31
    return rounds


def _parts(rows: Sequence[Outgoing], most: int) -> Collection[Sequence[Outgoing]]:
    """Runs of records of at most so many bytes each; a record that is larger stands alone."""
    ends = list(accumulate(_sizes(rows)))
    parts: list[Sequence[Outgoing]] = []
    start = before = 0
    while start < len(rows):
        stop = max(start + 1, bisect_right(ends, before + most, start))
        parts.append(rows[start:stop])
        start, before = stop, ends[stop - 1]
    return parts


def _sizes(rows: Sequence[Outgoing]) -> Iterable[int]:
    """What `size_of` gives for each; most records have a key, a value and no headers."""
    if not rows:
        return ()
    keys, values, _, headers = zip(*rows, strict=True)
    if any(headers) or None in keys or None in values:
        return map(size_of, rows)
    return map(sum, zip(map(len, keys), map(len, values), repeat(RECORD_OVERHEAD)))


def size_of(row: Outgoing) -> int:
    """The bytes of a record in a batch, at most."""
    size = RECORD_OVERHEAD + len(row.value or b"") + len(row.key or b"")
    for name, content in row.headers:
        size += 8 + len(name) * 4 + len(content)
    return size
