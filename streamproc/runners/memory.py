"""A plan at work in memory: topics are lists, and what is committed is kept as bytes.

    send --> engine --work, commit--> outputs, dead letters, counts; state and positions, packed
               ^                                                            |
               └------------- restart: all is read again from there <-------┘

Nothing that was not committed survives a restart, and nothing that was is anything but bytes until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from streamproc.core.batch import Change, Counts, DeadLetter, Emit, Headers
from streamproc.core.plan import Plan
from streamproc.core.state import KeyId, MemoryStore
from streamproc.ports import Run, Serde
from streamproc.runners.engine import Engine, Worked


class Message(NamedTuple):
    """One message of an input topic; `stamp` is the transport's own timestamp in ms, if it has one."""

    value: bytes | None
    key: bytes | None = None
    headers: Headers = ()
    stamp: int | None = None


@dataclass(slots=True)
class _Log:
    """One partition of an input topic; a mark (offset, watermark) stands before the message of that offset."""

    messages: list[Message] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)


class MemoryRunner:
    """An engine with its topics and its committed state; `pack` and `unpack` turn state to bytes and back.

    `outputs` are (partition, row) per topic, `steps`, `dead` and `counts` what was done, all of it as committed.
    With `awaited`, an input without a message at hand is waited for until it ends, so that the processing order is
    a function of the logs (S39); otherwise what is at hand is taken.
    """

    def __init__(  # noqa: PLR0913 - what it is made from, and two that are rarely said
        self,
        plan: Plan,
        serde: Serde,
        pack: Callable[[Any], bytes],
        unpack: Callable[[bytes], Any],
        *,
        fused: bool = True,
        awaited: bool = False,
    ) -> None:
        self.plan = plan
        self.outputs: dict[str, list[tuple[int, Emit]]] = {topic: [] for topic in (*plan.sinks, *plan.dead_letters)}
        self.steps: list[Worked] = []
        self.dead: list[DeadLetter] = []
        self.counts = Counts()
        self.ended: set[str] = set()
        self._serde = serde
        self._pack = pack
        self._unpack = unpack
        self._fused = fused
        self._awaited = awaited
        self._logs = {topic: [_Log() for _ in range(count)] for topic, count in plan.counts.items()}
        self._since: list[Worked] = []
        self._cells: dict[str, dict[tuple[str, int, int], dict[KeyId, bytes]]] = {}
        self._positions: dict[str, bytes] = {}
        self._wall = 0
        self._silent = 0
        self.engine = self._started()

    def messages(self, topic: str) -> int:
        """The number of messages an input topic has had."""
        return sum(len(log.messages) for log in self._logs[topic])

    def send(self, topic: str, partition: int, message: Message, now: int | None = None) -> None:
        """Append a message to a partition; `now` is the clock in ms it is fetched at (S15), None for no clock."""
        log = self._logs[topic][partition]
        log.messages.append(message)
        self._silent = 0
        self._offer(topic, partition, len(log.messages) - 1, len(log.messages), now)

    def mark(self, topic: str, watermark: int) -> None:
        """Say of every partition of a topic that its watermark is here, behind its last message."""
        for number, log in enumerate(self._logs[topic]):
            log.marks.append((len(log.messages), watermark))
            self.engine.mark(topic, number, watermark)

    def wait(self, by: int) -> None:
        """So many ms pass in which no input has anything."""
        for span in (0, by):
            self._wall += span
            for topic, count in self.plan.counts.items():
                for number in range(count) if topic not in self.ended else ():
                    self.engine.lags(topic, number, 0, self._wall)
                    self.engine.await_(topic, awaited=self._awaited)
        self._silent += by

    def end(self, topic: str) -> None:
        """No more will come from a topic (S49)."""
        self.ended.add(topic)
        self.engine.end(topic)

    def work(self) -> None:
        """Process all that is at hand.  If that fails, what was not committed is lost and waits to be read again."""
        try:
            self._since.extend(self.engine.work())
        except Exception:
            self.restart()
            raise

    def commit(self, now: int) -> None:
        """Make what was done since the last commit durable; `now` stamps dead letters."""
        commit = self.engine.pending(now)
        packed = {task: list(map(self._packed, changes)) for task, changes in commit.changes.items()}
        self._positions |= {task: self._pack(dict(position)) for task, position in commit.positions.items()}
        for task, changes in packed.items():
            for change in changes:
                self._keep(self._cells.setdefault(task, {}), change)
        for (topic, number), rows in commit.emits.items():
            self.outputs.setdefault(topic, []).extend((number, row) for row in rows)
        self.dead += self.engine.committed(commit)
        for worked in self._since:
            add_counts(self.counts, worked.step.counts)
        self.steps += self._since
        self._since = []
        self._silent = 0

    def restart(self, now: int | None = None) -> None:
        """A crash: a new engine begins where the last commit ended, with the state it had as bytes."""
        self._since = []
        self.engine = self._started()
        for topic, logs in self._logs.items():
            for number, log in enumerate(logs):
                at = self.engine.position(topic, number)
                for offset, watermark in log.marks:
                    if offset >= at:  # one that was committed already moves nothing
                        self._offer(topic, number, at, offset, now)
                        self.engine.mark(topic, number, watermark)
                        at = offset
                self._offer(topic, number, at, len(log.messages), now)
        for topic in sorted(self.ended):
            self.engine.end(topic)
        if self._silent:  # what was decided since the last message, and not committed
            silent, self._silent = self._silent, 0
            self.wait(silent)

    def kept(self) -> int:
        """The number of committed cells."""
        return sum(len(cells) for places in self._cells.values() for cells in places.values())

    def _started(self) -> Engine:
        engine = Engine(self.plan, self._serde, self._restored, self._position, fused=self._fused, with_stamps=True)
        for topic in self.plan.sources:
            if not self._awaited:
                engine.await_(topic, awaited=False)
        return engine

    def _offer(self, topic: str, number: int, start: int, stop: int, now: int | None) -> None:
        if start >= stop:
            return
        found = self._logs[topic][number].messages[start:stop]
        stamps = [message.stamp for message in found if message.stamp is not None]
        run = Run(
            number,
            range(start, stop),
            [message.value for message in found],
            [message.key for message in found],
            [message.headers for message in found],
            stamps if len(stamps) == len(found) else None,
        )
        self.engine.offer(topic, run, now)

    def _packed(self, change: Change) -> tuple[Change, dict[KeyId, bytes | None]]:
        return change, {key: None if entry is None else self._pack(entry) for key, entry in change.cells.items()}

    @staticmethod
    def _keep(
        places: dict[tuple[str, int, int], dict[KeyId, bytes]], packed: tuple[Change, dict[KeyId, bytes | None]]
    ) -> None:
        change, entries = packed
        place = (change.node, change.slot, change.at)
        if change.wiped:
            places.pop(place, None)
        cells = places.setdefault(place, {})
        for key, entry in entries.items():
            if entry is None:
                cells.pop(key, None)
            else:
                cells[key] = entry
        if not cells:
            del places[place]

    def _restored(self, task: str) -> MemoryStore:
        store = MemoryStore()
        store.apply(
            Change(*place, wiped=False, cells={key: self._unpack(entry) for key, entry in cells.items()})
            for place, cells in self._cells.get(task, {}).items()
        )
        return store

    def _position(self, task: str) -> Mapping[str, Any] | None:
        packed = self._positions.get(task)
        return None if packed is None else self._unpack(packed)


def add_counts(total: Counts, more: Counts) -> None:
    """Add what one step did to what was done before it."""
    for each in fields(Counts):
        sums = getattr(total, each.name)
        for what, number in getattr(more, each.name).items():
            sums[what] = sums.get(what, 0) + number
