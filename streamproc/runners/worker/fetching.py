"""Reading ahead: what is committed in the partitions of this worker's tasks, kept at hand until a task takes it.

    node 1 ── fetch ──> partition a  [run][run]   room left: asked again
                        partition b  [run][run][run]   full: left out until its task has taken some
    node 2 ── fetch ──> ...

There is one read under way for each node.  A partition that is full is left out of it and loses nothing; while one is
left out the others are not waited for long.  What was asked for before a partition was added anew is passed over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from streamproc.ports.broker import (
    Broker,
    BrokerError,
    Code,
    Described,
    Fetched,
    Read,
    Refused,
    TopicPartition,
    Unanswered,
    Unsent,
)
from streamproc.ports.worker import Failure

WAIT, SHORT_WAIT = 100, 5
"""Milliseconds that a broker holds a read for which it has nothing; the second while a partition is left out."""
ROOM = 4_194_304
"""Bytes that may wait for a task in one partition, and one answer more."""
ROOM_IN_ALL = 134_217_728
"""Bytes that may wait in all partitions together; each has its share."""
LEAST_ROOM = 262_144
LONGEST_SILENCE = 1.0
"""Seconds after which a loop that has nothing to ask for shows that it is alive."""
FRESH = 1.0
"""Seconds for which the end of a log is taken for known."""
TRIES = 3
"""How often what cannot be read is asked for before its partition is given up."""
PAUSE = 0.1
"""Seconds before a node that cannot be reached, or a leader that is not known, is tried again."""


class Unreadable(Exception):
    """A partition cannot be read on; says why and what to do."""


class Gone(Unreadable):
    """What should be read next was deleted, by nobody who should, or behind one who reads it in our place."""


@dataclass(slots=True)
class _Shelf:
    """One partition: what is at hand, where to read on, and what the broker last said of its end."""

    partition: TopicPartition
    position: int
    wake: Callable[[], None]
    node: int = -1
    runs: deque[Fetched] = field(default_factory=deque)
    size: int = 0
    end: int = -1
    answered_at: float | None = None
    refused: int = 0
    trouble: Exception | None = None


class Fetcher:
    """Reads the partitions that were added, from all their leaders, until it is cancelled.

    `polled` is called after each answer, and `failed` is told of a read that had none.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        polled: Callable[[], None] = lambda: None,
        failed: Callable[[Failure], None] = lambda _: None,
    ) -> None:
        self._broker = broker
        self._polled = polled
        self._failed = failed
        self._shelves: dict[TopicPartition, _Shelf] = {}
        self._unled = asyncio.Event()
        self._loops: dict[int, asyncio.Event] = {}

    # what tasks ask

    def add(self, partition: TopicPartition, offset: int, wake: Callable[[], None]) -> None:
        """Read a partition from an offset on; `wake` is called when there is news of it."""
        self._shelves[partition] = _Shelf(partition, offset, wake)
        self._unled.set()

    def remove(self, partition: TopicPartition) -> None:
        """Read a partition no longer, and forget what is at hand of it."""
        self._shelves.pop(partition, None)

    def take(self, partition: TopicPartition) -> Fetched | None:
        """The next run of a partition, None while there is none.  Raises Unreadable where there will be none."""
        shelf = self._shelves[partition]
        if not shelf.runs:
            if shelf.trouble is not None:
                raise shelf.trouble
            return None
        was_full = shelf.size >= self._room
        run = shelf.runs.popleft()
        shelf.size -= run.size
        if was_full and shelf.node in self._loops:
            self._loops[shelf.node].set()
        return run

    def lag(self, partition: TopicPartition) -> int | None:
        """Offsets between what was taken and the end of the log, None while that is not known.

        What a broker said some time ago is not known now: this process may have stood still, or the broker be gone.
        """
        shelf = self._shelves.get(partition)
        if shelf is None or shelf.answered_at is None or shelf.end < 0:
            return None
        if asyncio.get_running_loop().time() - shelf.answered_at > FRESH:
            return None
        taken = shelf.position if not shelf.runs else first_offset(shelf.runs[0])
        return max(0, shelf.end - taken)

    def refresh(self, partition: TopicPartition) -> None:
        """Ask again who leads a partition, and read on from there."""
        shelf = self._shelves.get(partition)
        if shelf is not None:
            shelf.node = -1
            self._unled.set()

    def next_stamp(self, partition: TopicPartition) -> int | None:
        """Kafka's timestamp of the next record at hand, in ms; None while there is none."""
        shelf = self._shelves.get(partition)
        if shelf is None:
            return None
        return next((run.stamps[0] for run in shelf.runs if run.stamps), None)

    def holds(self, partition: TopicPartition) -> bool:
        """Whether something is at hand of a partition."""
        shelf = self._shelves.get(partition)
        return shelf is not None and bool(shelf.runs)

    @property
    def _room(self) -> int:
        return max(LEAST_ROOM, min(ROOM, ROOM_IN_ALL // max(1, len(self._shelves))))

    # the loops

    async def run(self) -> None:
        """One loop for each node that leads a partition; more come when they are needed."""
        async with asyncio.TaskGroup() as loops:
            while True:
                self._unled.clear()
                await self._find_leaders()
                for node in sorted({shelf.node for shelf in self._shelves.values()} - self._loops.keys() - {-1}):
                    self._loops[node] = asyncio.Event()
                    loops.create_task(self._read(node, self._loops[node]), name=f"fetch-{node}")
                unled = any(shelf.node == -1 and shelf.trouble is None for shelf in self._shelves.values())
                await _heard(self._unled, PAUSE if unled else None)

    async def _find_leaders(self) -> None:
        """Ask who leads the partitions of which that is not known."""
        unled = [shelf for shelf in self._shelves.values() if shelf.node == -1 and shelf.trouble is None]
        if not unled:
            return
        try:
            known = await self._broker.metadata(sorted({shelf.partition.topic for shelf in unled}))
        except BrokerError:
            return
        for shelf in unled:
            topic, number = shelf.partition
            described = known.get(topic, Described({}, Code.UNKNOWN_TOPIC_OR_PARTITION))
            code = described.code
            if code == Code.NONE and number not in described.leaders:
                code = Code.UNKNOWN_TOPIC_OR_PARTITION
            if code in {Code.UNKNOWN_TOPIC_OR_PARTITION, Code.TOPIC_AUTHORIZATION_FAILED, Code.INVALID_TOPIC}:
                self._refused(shelf, code)
            elif code == Code.NONE and described.leaders[number] != -1:
                shelf.node = described.leaders[number]
                if shelf.node in self._loops:
                    self._loops[shelf.node].set()

    async def _read(self, node: int, room_made: asyncio.Event) -> None:
        """Ask one node, over and over, for what there is room for."""
        while True:
            room_made.clear()
            mine = [shelf for shelf in self._shelves.values() if shelf.node == node and shelf.trouble is None]
            room = self._room
            wanted = [shelf for shelf in mine if shelf.size < room]
            if not wanted:
                self._polled()
                await _heard(room_made, LONGEST_SILENCE)
                continue
            reads = [Read(*shelf.partition, shelf.position) for shelf in wanted]
            wait = WAIT if len(wanted) == len(mine) else SHORT_WAIT
            try:
                answers = await self._broker.fetch(node, reads, wait, "read_committed")
            except (Unsent, Refused) as error:
                self._failed(Failure("connection", str(error)))
                await self._lost_sight(mine)
                continue
            except Unanswered as error:
                self._failed(Failure("timeout", str(error)))
                continue
            self._polled()
            asked = {shelf.partition: shelf for shelf in wanted}
            for fetched in answers:
                shelf = asked[TopicPartition(fetched.topic, fetched.partition)]
                if self._shelves.get(shelf.partition) is shelf:
                    self._put(shelf, fetched)

    async def _lost_sight(self, shelves: list[_Shelf]) -> None:
        """A node cannot be reached: ask after a while who leads its partitions now."""
        for shelf in shelves:
            shelf.node = -1
            shelf.answered_at = None
        await asyncio.sleep(PAUSE)
        self._unled.set()

    def _put(self, shelf: _Shelf, fetched: Fetched) -> None:
        """Take note of an answer about one partition."""
        match fetched.code:
            case Code.NONE:
                shelf.refused = 0
                shelf.end, shelf.answered_at = fetched.end, asyncio.get_running_loop().time()
                if fetched.next_offset > shelf.position:
                    shelf.position = fetched.next_offset
                    shelf.runs.append(fetched)
                    shelf.size += fetched.size
                    shelf.wake()
            case Code.CORRUPT_MESSAGE | Code.OFFSET_OUT_OF_RANGE | Code.TOPIC_AUTHORIZATION_FAILED:
                self._refused(shelf, fetched.code, fetched.why)
            case _:  # a leader that is one no longer, or not yet; asked at once, it would be named again
                shelf.node = -1
                shelf.answered_at = None
                asyncio.get_running_loop().call_later(PAUSE, self._unled.set)

    def _refused(self, shelf: _Shelf, code: int, why: str = "") -> None:
        """Count a refusal; one that comes again and again is final."""
        shelf.refused += 1
        if shelf.refused >= TRIES:
            self._give_up(shelf, code, why)

    def _give_up(self, shelf: _Shelf, code: int, why: str) -> None:
        topic, number = shelf.partition
        place = f"topic {topic!r} partition {number} offset {shelf.position}"
        match code:
            case Code.OFFSET_OUT_OF_RANGE:
                text = (
                    f"{place}: the log no longer holds this offset, so records were deleted that were never read. "
                    "To go on from what is left, say so with `streamproc offsets reset`"
                )
            case Code.TOPIC_AUTHORIZATION_FAILED:
                text = f"{place}: not allowed to read it: give this principal READ and DESCRIBE on the topic"
            case Code.UNKNOWN_TOPIC_OR_PARTITION | Code.INVALID_TOPIC:
                text = (
                    f"{place}: this partition does not exist (any more). Create the topic again or restore it; "
                    "`streamproc topics plan` tells what is expected"
                )
            case _:
                text = (
                    f"{place}: a batch cannot be read: {why or 'it is corrupt'}. After {TRIES} tries its task stops; "
                    "repair the log, or pass over it with `streamproc offsets reset`"
                )
        shelf.trouble = Gone(text) if code == Code.OFFSET_OUT_OF_RANGE else Unreadable(text)
        shelf.wake()


async def _heard(news: asyncio.Event, seconds: float | None) -> None:
    """Wait for news, but no longer than so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            await news.wait()
    except TimeoutError:
        return


def first_offset(run: Fetched) -> int:
    """The offset of the first record of a run; where it has none, of what stands behind it."""
    return run.offsets[0] if run.offsets else run.next_offset
