"""The brokers: topics, transactions, groups, and the habits of one release or another.

`Cluster` is what all clients share.  Its methods are requests as they are done on arrival, each in no time; a test
looks into it and feeds it by the same methods.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from random import Random
from typing import Literal
from zlib import crc32

from streamproc.ports.broker import (
    Appending,
    BrokerError,
    Code,
    Described,
    Fetched,
    Isolation,
    Outgoing,
    Read,
    Refused,
    TopicPartition,
    Writer,
)
from streamproc.testing.simulation.groups import Groups
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.logs import PartitionLog, Settings
from streamproc.testing.simulation.loop import Loop
from streamproc.testing.simulation.network import Parked
from streamproc.testing.simulation.transactions import Transactions

EPOCH = 1_700_000_000_000
"""The wall clock in ms when the world begins."""


class Cluster:
    """All that the brokers know."""

    def __init__(self, loop: Loop, seed: int = 0, habits: Habits | None = None) -> None:
        self.loop = loop
        self.habits = habits or Habits()
        self._random = Random(seed)
        self.topics: dict[str, list[PartitionLog]] = {}
        self.transactions = Transactions(loop, self.habits, self._random, self._mark)
        self.groups = Groups(loop, self.habits, self.transactions.verify, self.exists)

    # what a test does

    def create_topic(self, name: str, partitions: int = 1, settings: Settings | None = None) -> None:
        """Create a topic, or give it more partitions."""
        logs = self.topics.setdefault(name, [])
        for number in range(len(logs), partitions):
            logs.append(PartitionLog(name, number, settings or Settings(), self._rolls))

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all that is in it."""
        for log in self.topics.pop(name, []):
            log.tell()

    def delete_records(self, partition: TopicPartition, offset: int) -> None:
        """Delete what lies below an offset."""
        self.log(partition).truncate(offset)

    def trim(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Delete what lies before an offset of each partition."""
        for partition, offset in before.items():
            self._leads(self.log(partition))
            self.delete_records(partition, offset)
        return dict(before)

    def compact(self, topic: str, retention: float = 86_400.0) -> None:
        """Have the cleaner run over a topic; tombstones and markers older than `retention` s go, too."""
        for log in self.topics[topic]:
            log.compact(self.loop.time(), retention)

    def append(self, topic: str, partition: int, records: Sequence[Outgoing]) -> None:
        """Append records as somebody without transactions would."""
        log = self.log(TopicPartition(topic, partition))
        log.append(records, log.check(records, self.wall()), self.loop.time())

    def committed(self, topic: str, partition: int) -> Iterator[tuple[int, Outgoing]]:
        """What a reader with read_committed sees by now, with offsets."""
        return self.log(TopicPartition(topic, partition)).records()

    def wall(self) -> int:
        """The brokers' wall clock in ms."""
        return EPOCH + int(self.loop.time() * 1000)

    def log(self, partition: TopicPartition) -> PartitionLog:
        """The log of a partition; refused if there is none."""
        if not self.exists(partition):
            raise Refused(Code.UNKNOWN_TOPIC_OR_PARTITION, str(partition))
        return self.topics[partition.topic][partition.partition]

    def exists(self, partition: TopicPartition) -> bool:
        """Whether there is such a partition."""
        return 0 <= partition.partition < len(self.topics.get(partition.topic, ()))

    # where things are

    def leader(self, partition: TopicPartition) -> int:
        """The node that leads a partition."""
        return partition.partition % self.habits.nodes

    def coordinator(self, name: str) -> int:
        """The node that coordinates a group or a transactional id."""
        return crc32(name.encode()) % self.habits.nodes

    # requests

    def metadata(self, topics: Collection[str]) -> dict[str, Described]:
        """Metadata."""
        return {
            topic: Described({log.partition: self._leads(log) for log in self.topics[topic]})
            if topic in self.topics
            else Described({}, Code.UNKNOWN_TOPIC_OR_PARTITION)
            for topic in topics
        }

    def list_offsets(
        self, partitions: Collection[TopicPartition], at: Literal["start", "end"] | int, isolation: Isolation
    ) -> dict[TopicPartition, int]:
        """ListOffsets."""
        committed = isolation == "read_committed"
        found = {}
        for partition in partitions:
            log = self.log(partition)
            if at == "start":
                found[partition] = log.start
            elif at == "end":
                found[partition] = log.stable if committed else log.end
            else:
                found[partition] = log.at(at, committed=committed)
        return found

    def fetch(self, node: int, reads: Sequence[Read], wait: int, isolation: Isolation) -> list[Fetched] | Parked:
        """Fetch."""
        committed = isolation == "read_committed"
        got = [self._read(node, read, committed=committed) for read in reads]
        if not wait or any(each.size or each.code for each in got):
            return got
        return self._await_news(node, reads, wait / 1000, committed=committed)

    def produce(self, writer: Writer, batches: Sequence[Appending]) -> dict[TopicPartition, int]:
        """Produce: each batch for itself; the first refusal is raised in the end."""
        appended: dict[TopicPartition, int] = {}
        first: BrokerError | None = None
        for batch in batches:
            partition = TopicPartition(batch.topic, batch.partition)
            try:
                appended[partition] = self._append(writer, partition, batch)
            except BrokerError as refusal:
                first = first or refusal
        if first is not None:
            raise first
        return appended

    def add_partitions(self, writer: Writer, partitions: Collection[TopicPartition]) -> None:
        """AddPartitionsToTxn."""
        for partition in partitions:
            if not all(map(self.exists, partitions)):  # none is added, and the others are told so
                there = self.exists(partition)
                code = Code.OPERATION_NOT_ATTEMPTED if there else Code.UNKNOWN_TOPIC_OR_PARTITION
                raise Refused(code, str(partition))
        self.transactions.add(writer, list(partitions))

    def add_offsets(self, writer: Writer, group: str) -> None:
        """AddOffsetsToTxn."""
        self.transactions.add(writer, [], group)

    # what the coordinators do

    def _mark(self, place: TopicPartition | str, producer: int, epoch: int, commit: bool) -> None:  # noqa: FBT001
        """Write the marker of a transaction into a partition or among a group's offsets."""
        if isinstance(place, str):
            self.groups.mark(place, producer, epoch, commit=commit)
        elif place.topic in self.topics:
            self.log(place).mark(producer, epoch, self.loop.time(), commit=commit)

    def _rolls(self) -> bool:
        return self._random.random() < self.habits.rolls

    def _leads(self, log: PartitionLog) -> int:
        return log.partition % self.habits.nodes

    def _append(self, writer: Writer, partition: TopicPartition, batch: Appending) -> int:
        log, records, now = self.log(partition), batch.records, self.loop.time()
        if writer.transactional_id is None:
            return log.append(records, log.check(records, self.wall()), now)
        log.check_epoch(writer.producer_id, writer.epoch)
        if writer.producer_id not in log.open:
            self.transactions.verify(writer, partition)
            log.attempt(writer.producer_id, writer.epoch, batch.sequence)
        size = log.check(records, self.wall())
        known = log.known(writer.producer_id, writer.epoch, batch.sequence, len(records))
        if known is not None:
            return known
        return log.append(records, size, now, (writer.producer_id, writer.epoch, batch.sequence))

    def _read(self, node: int, read: Read, *, committed: bool) -> Fetched:
        logs = self.topics.get(read.topic, ())
        if not 0 <= read.partition < len(logs):
            return Fetched(read.topic, read.partition, Code.UNKNOWN_TOPIC_OR_PARTITION)
        if read.partition % self.habits.nodes != node:
            return Fetched(read.topic, read.partition, Code.NOT_LEADER)
        return logs[read.partition].read(read.offset, read.limit, committed=committed)

    def _await_news(self, node: int, reads: Sequence[Read], wait: float, *, committed: bool) -> Parked:
        parked = Parked()
        over = self.loop.time() + wait
        logs = [self.topics[read.topic][read.partition] for read in reads]

        def look() -> None:
            if parked.resolved:
                return
            got = [self._read(node, read, committed=committed) for read in reads]
            if any(each.size or each.code for each in got) or self.loop.time() >= over:
                timer.cancel()
                parked.resolve(got)
            else:
                watch(look)

        def watch(waiter: Callable[[], None]) -> None:
            for log in logs:
                if waiter not in log.waiters:
                    log.waiters.append(waiter)

        timer = self.loop.later(wait, look)
        watch(look)
        return parked
