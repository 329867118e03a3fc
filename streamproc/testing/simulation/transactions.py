"""The transaction coordinator: who writes under a transactional id, in which incarnation, and how its work ends.

    EMPTY --> ONGOING --> ENDING --> ENDED --> ONGOING ...
                 an EndTxn is answered ^    ^ when all markers are written, a little later

Two protocols.  By the old one an incarnation lasts until the next InitProducerId, so a request of an earlier
transaction that arrives late counts for the one that is open.  By the new one (`bumps`) each end raises the epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import TypeAlias

from streamproc.ports.broker import Code, Refused, TopicPartition, Writer
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.loop import Loop

LONGEST = 900_000
"""A transaction may last so many ms at most."""
USUAL = 0.98

Mark: TypeAlias = Callable[[TopicPartition | str, int, int, bool], None]
"""Write a marker into a partition or among a group's offsets: producer id, epoch, and whether it commits."""


class State(Enum):
    """How far a transaction is."""

    EMPTY = auto()
    ONGOING = auto()
    ENDING = auto()
    ENDED = auto()


@dataclass(slots=True)
class Transaction:
    """The present transaction of one transactional id; `commit` is how it ended or ends."""

    transactional_id: str
    producer_id: int
    epoch: int
    timeout: float
    state: State = State.EMPTY
    commit: bool = False
    before: tuple[int, int] | None = None
    """Producer id and epoch of who ended it, where that made a new incarnation."""
    started: float = 0.0
    partitions: dict[TopicPartition, None] = field(default_factory=dict)
    groups: dict[str, None] = field(default_factory=dict)


class Transactions:
    """All transactional ids of a cluster."""

    def __init__(self, loop: Loop, habits: Habits, random: Random, mark: Mark) -> None:
        self._loop = loop
        self._habits = habits
        self._random = random
        self._write_marker = mark
        self._known: dict[str, Transaction] = {}
        self._of_producer: dict[int, Transaction] = {}
        self._producers = 1000
        loop.later(habits.sweep, self._sweep)

    def ongoing(self) -> list[Transaction]:
        """Those that are not at their end."""
        return [found for found in self._known.values() if found.state in {State.ONGOING, State.ENDING}]

    # requests

    def init(self, transactional_id: str, lasting: int) -> Writer:
        """InitProducerId."""
        if not 0 < lasting <= LONGEST:
            raise Refused(Code.INVALID_TRANSACTION_TIMEOUT, f"transactional id {transactional_id}")
        found = self._known.get(transactional_id)
        if found is None:
            found = Transaction(transactional_id, self._new_producer(), -1, 0.0)
            self._known[transactional_id] = self._of_producer[found.producer_id] = found
        if found.state is State.ONGOING:
            self._fence(found)
        if found.state is State.ENDING:
            raise Refused(Code.CONCURRENT_TRANSACTIONS, f"transactional id {transactional_id}")
        self._raise(found)
        found.timeout = lasting / 1000
        found.state, found.before = State.EMPTY, None
        return Writer(transactional_id, found.producer_id, found.epoch)

    def add(self, writer: Writer, partitions: list[TopicPartition], group: str | None = None) -> None:
        """AddPartitionsToTxn and AddOffsetsToTxn."""
        found = self._writing(writer)
        if found.state is State.ENDING:
            raise Refused(Code.CONCURRENT_TRANSACTIONS, f"transactional id {writer.transactional_id}")
        if found.state is not State.ONGOING:
            found.state = State.ONGOING
            found.started = self._loop.time()
            found.partitions.clear()
            found.groups.clear()
        found.partitions.update(dict.fromkeys(partitions))
        if group is not None:
            found.groups[group] = None

    def verify(self, writer: Writer, place: TopicPartition | str) -> None:
        """What a partition asks before a transaction opens in it."""
        found = self._of_producer.get(writer.producer_id)
        if found is None:
            raise Refused(Code.INVALID_PRODUCER_ID_MAPPING, f"producer {writer.producer_id}")
        if found.epoch != writer.epoch:
            raise Refused(Code.INVALID_PRODUCER_EPOCH, f"transactional id {found.transactional_id}")
        if found.state is State.ENDING:
            raise Refused(Code.NOT_ENOUGH_REPLICAS, f"transactional id {found.transactional_id}")
        places: dict[TopicPartition, None] | dict[str, None]
        places = found.groups if isinstance(place, str) else found.partitions
        if found.state is not State.ONGOING or place not in places:
            raise Refused(Code.INVALID_TXN_STATE, f"transactional id {found.transactional_id}")

    def end(self, writer: Writer, commit: bool) -> Writer:  # noqa: FBT001  # as the request has it
        """EndTxn."""
        what = f"transactional id {writer.transactional_id}"
        bumps = self._habits.bumps
        found = self._known.get(writer.transactional_id or "")
        identity = (writer.producer_id, writer.epoch)
        again = found is not None and found.before == identity and found.state is not State.ONGOING
        if found is None or (found.producer_id != writer.producer_id and not again):
            raise Refused(Code.INVALID_PRODUCER_ID_MAPPING, what)
        if found.epoch != writer.epoch and not again:
            raise Refused(Code.PRODUCER_FENCED if bumps else Code.INVALID_PRODUCER_EPOCH, what)
        if found.state is State.ENDING:
            raise Refused(Code.CONCURRENT_TRANSACTIONS if commit == found.commit else Code.INVALID_TXN_STATE, what)
        if found.state is not State.ONGOING and bumps and not again and not commit:
            found.partitions.clear()  # there is nothing to abort, and yet it makes a new incarnation
            found.groups.clear()
        elif found.state is not State.ONGOING:
            if found.state is State.EMPTY or commit != found.commit or (bumps and not again):
                raise Refused(Code.INVALID_TXN_STATE, what)
            return Writer(found.transactional_id, found.producer_id, found.epoch)
        marker = identity
        if bumps:
            marker, found.before = (identity[0], identity[1] + 1), identity
            self._raise(found)
        self._end(found, marker, commit=commit)
        return Writer(found.transactional_id, found.producer_id, found.epoch)

    # what follows

    def _named(self, writer: Writer) -> Transaction:
        found = self._known.get(writer.transactional_id or "")
        if found is None or found.producer_id != writer.producer_id:
            raise Refused(Code.INVALID_PRODUCER_ID_MAPPING, f"transactional id {writer.transactional_id}")
        return found

    def _writing(self, writer: Writer) -> Transaction:
        found = self._named(writer)
        if found.epoch != writer.epoch:
            raise Refused(self._habits.fenced, f"transactional id {writer.transactional_id}")
        return found

    def _new_producer(self) -> int:
        self._producers += 1
        return self._producers

    def _raise(self, found: Transaction) -> None:
        """The next epoch, or a new producer where there is none."""
        if found.epoch >= self._habits.last_epoch:
            del self._of_producer[found.producer_id]
            found.producer_id, found.epoch = self._new_producer(), -1
            self._of_producer[found.producer_id] = found
        found.epoch += 1

    def _fence(self, found: Transaction) -> None:
        """Abort what is open, by an epoch that nobody writes with; with `bumps` its writer may abort it, too."""
        found.before = (found.producer_id, found.epoch) if self._habits.bumps else None
        found.epoch += 1
        self._end(found, (found.producer_id, found.epoch), commit=False)

    def _end(self, found: Transaction, marker: tuple[int, int], *, commit: bool) -> None:
        """Write the markers, not all at once, and be done with it."""
        found.state, found.commit = State.ENDING, commit
        places: list[TopicPartition | str] = [*found.partitions, *found.groups]
        self._random.shuffle(places)
        cut = self._random.randrange(len(places) + 1)
        early = self._marking()
        late = early + self._marking()
        self._loop.later(early, self._mark, marker, places[:cut], commit)
        self._loop.later(late, self._complete, found, marker, places[cut:], commit)

    def _mark(self, marker: tuple[int, int], places: list[TopicPartition | str], commit: bool) -> None:  # noqa: FBT001
        for place in places:
            self._write_marker(place, *marker, commit)

    def _complete(
        self,
        found: Transaction,
        marker: tuple[int, int],
        places: list[TopicPartition | str],
        commit: bool,  # noqa: FBT001
    ) -> None:
        self._mark(marker, places, commit)
        found.state = State.ENDED

    def _marking(self) -> float:
        """How long markers take: one time in fifty much longer than usual."""
        usual, greatest = self._habits.markers
        chance = self._random.random()
        return usual * chance if chance < USUAL else greatest * self._random.random()

    def _sweep(self) -> None:
        """Abort what has lasted too long."""
        now = self._loop.time()
        for found in self._known.values():
            if found.state is State.ONGOING and found.started + found.timeout < now:
                self._fence(found)
        self._loop.later(self._habits.sweep, self._sweep)
