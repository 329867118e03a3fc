"""What has come of a task's steps since its last commit, as records of the topics they go to.

Step --> results, crossings, dead letters --> records by partition --> one transaction
marks behind them, changes of state, the position
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

from streamproc.core.batch import Crossing, DeadLetter, Emit, Headers, Said, Step
from streamproc.ports.broker import Outgoing, TopicPartition
from streamproc.runners.engine import dead_letter_headers
from streamproc.runners.worker import crossing
from streamproc.runners.worker.house import House

STAMP = "streamproc.timestamp"
"""Header with the true timestamp of a record whose own Kafka cannot carry (S4)."""

MANY_BYTES, MANY_ROWS = 16_777_216, 100_000
"""A transaction is closed early when it holds so much."""


@dataclass(slots=True)
class Outbox:
    """Records of one task, in one incarnation of it, that wait for their commit.

    `moved` says that there is something to commit, be it nothing but a position.  `emits` and `dead` are for those who
    watch.
    """

    house: House
    task: int
    incarnation: int
    moved: bool = False
    records: dict[TopicPartition, list[Outgoing]] = field(default_factory=dict)
    emits: dict[tuple[str, int], list[Emit]] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    _rows: int = 0
    _size: int = 0

    @property
    def full(self) -> bool:
        """Whether there is so much that it should be committed now."""
        return self._rows >= MANY_ROWS or self._size >= MANY_BYTES

    def add(self, topic: str, number: int, row: Outgoing) -> None:
        """A record for a partition."""
        self.records.setdefault(TopicPartition(topic, number), []).append(row)
        self._rows += 1
        self._size += len(row.value or b"")

    def take(self, step: Step, now: int) -> None:
        """What a step has caused; `now` is the wall clock in ms."""
        self.moved = True
        for topic, rows in step.emits.items():
            count = self.house.counts[topic]
            for emit in rows:
                number = self.task % count if emit.route is None else self.house.partition(emit.route, count)
                self._emit(topic, number, emit)
        for topic, crossed in step.crossings.items():
            self._cross(topic, crossed, now)
        for letter in step.dead:
            number = max(0, letter.partition) % self.house.counts[letter.topic]
            headers = dead_letter_headers(letter, self.house.plan.hash)
            self._emit(letter.topic, number, Emit(letter.key, letter.value, now, headers, letter.key))
        self.dead += step.dead

    def _emit(self, topic: str, number: int, emit: Emit) -> None:
        self.emits.setdefault((topic, number), []).append(emit)
        self.add(topic, number, outgoing(emit.key, emit.value, emit.at, emit.headers))

    def _cross(self, topic: str, crossed: Sequence[Crossing], now: int) -> None:
        """Records for a repartition topic; their partitions follow from their new keys."""
        count = self.house.counts[topic]
        if not crossed:
            return
        routes, values = zip(*crossing.encode(crossed, self.task, self.incarnation, self.house.packing), strict=True)
        rows = map(
            tuple.__new__, repeat(Outgoing), zip(routes, values, repeat(now), repeat(()))
        )  # a class call costs more
        found: list[list[Outgoing]] = [[] for _ in range(count)]
        for number, row in zip(map(self.house.partition, routes, repeat(count)), rows, strict=True):
            found[number].append(row)
        for number, mine in enumerate(found):
            if mine:
                self.records.setdefault(TopicPartition(topic, number), []).extend(mine)
        self._rows += len(crossed)
        self._size += sum(map(len, values))

    def mark(self, news: Mapping[str, Said], now: int) -> None:
        """How far the task is, behind what it has sent, for everyone who reads one of these topics (S46)."""
        for topic, said in news.items():
            value = crossing.mark(said, self.task, self.incarnation, self.house.packing)
            for number in range(self.house.counts[topic]):
                self.add(topic, number, Outgoing(None, value, now))


def outgoing(key: bytes | None, value: bytes | None, at: int, headers: Headers) -> Outgoing:
    """A record as it is sent; a time that Kafka cannot carry goes into a header (S4)."""
    if at >= 0:
        return Outgoing(key, value, at, headers)
    kept = tuple(header for header in headers if header[0] != STAMP)
    return Outgoing(key, value, 0, (*kept, (STAMP, str(at).encode())))
