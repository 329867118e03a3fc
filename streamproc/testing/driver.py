"""A topology under test: no broker, no sleeping, time that the test moves.

    with TestDriver(topology) as t:
        t.send("clicks", Click("ann", at("12:00:10")))
        t.restart()                                      # a crash
        t.advance_watermark(at("12:01"))
        assert t.read("clicks-per-user-1m") == [WindowResult("ann", at("12:00"), at("12:01"), 1)]

What is sent is encoded and decoded, what is written is encoded, and state passes through bytes at a restart, all as in
production.  What is read is what was committed.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

from streamproc.adapters.codecs import JsonSerde
from streamproc.adapters.packing import pack, unpack
from streamproc.core.batch import Counts, DeadLetter, Emit
from streamproc.core.errors import StreamprocError
from streamproc.core.instants import instant, moment
from streamproc.core.partition import partition
from streamproc.core.plan import Plan, SourceSpec, build
from streamproc.core.site import Site
from streamproc.ports import Codec
from streamproc.runners.memory import MemoryRunner, Message
from streamproc.topology import Topology

When = str | int | datetime
DAY = datetime(2024, 1, 1, tzinfo=UTC)
"""The day of a time that names none."""


def at(when: When) -> datetime:
    """An aware UTC datetime: of "12:00:10" on 1 January 2024, of an ISO text with its zone, of ms since 1970."""
    if isinstance(when, int):
        return moment(when)
    if isinstance(when, str):
        try:
            clock = time.fromisoformat(when)
        except ValueError:
            when = datetime.fromisoformat(when)
        else:
            when = datetime.combine(DAY, clock, clock.tzinfo or UTC)
    if when.tzinfo is None:
        raise StreamprocError(f'{when} has no time zone: write one, as in at("{when.isoformat()}Z")')
    return when.astimezone(UTC)


def ms(when: When) -> int:
    """An instant as the engine has it, in ms since 1970; takes what `at` takes."""
    return when if isinstance(when, int) else instant(at(when))


class Written(NamedTuple):
    """One record of an output topic: its key as text (bytes where they are none), and its value as it was encoded."""

    key: str | bytes | None
    value: Any
    at: int
    headers: dict[str, bytes]
    partition: int


class Encoded(bytes):
    """The bytes of a value, with the value; to everybody else they are bytes."""

    value: Any


class ObjectSerde:
    """JSON as it is written everywhere, where the bytes of a value remember what they were made from."""

    def __init__(self) -> None:
        self._json = JsonSerde()

    def encode(self, value: Any) -> bytes:
        """The bytes of a value, as `JsonSerde.encode`."""
        encoded = Encoded(self._json.encode(value))
        encoded.value = value
        return encoded

    def encode_key(self, key: Any) -> bytes:
        """The bytes of a key, as `JsonSerde.encode_key`."""
        return self._json.encode_key(key)

    def decoder(self, type_: Any) -> Codec:
        """The codec of values of this type."""
        return self._json.decoder(type_)

    def key_decoder(self, type_: Any) -> Codec:
        """The codec of keys of this type."""
        return self._json.key_decoder(type_)


class TestDriver:
    """A topology on so many partitions, with everything about it in the hands of a test.

    `partitions` may say it for each source topic.  Each call processes what is at hand and commits it; with
    `autocommit=False` it waits for `commit`.  `clock` is the instant of the reference clock for `max_future`; without
    one every timestamp is accepted.  `fused=False` keeps to the plain meaning of every operator.
    """

    __test__ = False

    def __init__(
        self,
        topology: Topology,
        *,
        partitions: int | Mapping[str, int] = 1,
        fused: bool = True,
        autocommit: bool = True,
        clock: When | None = None,
    ) -> None:
        self.plan: Plan = build(topology.graph(), partitions)
        self._autocommit = autocommit
        self._clock = None if clock is None else ms(clock)
        self._serde = ObjectSerde()
        self._runner = MemoryRunner(self.plan, self._serde, pack, unpack, fused=fused)
        self._read: dict[str, int] = {}
        self._failing = False
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The test is over; nothing can be sent any more, while what was written can still be read."""
        self._closed = True

    # in

    def send(
        self,
        topic: str,
        *values: Any,
        key: Any = None,
        partition: int | None = None,
        headers: Mapping[str, bytes] | None = None,
        timestamp: When | None = None,
    ) -> None:
        """Messages arrive in a source topic and are processed.

        A value is encoded as JSON; bytes and text are the raw message, None is a tombstone.  Without a partition a
        message goes to that of its key, and without a key the n-th of its topic goes to n mod partitions.  `timestamp`
        is the transport's own, which counts where a source has no `event_time`.  TaskFailed where a record meets the
        action `fail`: it is then met again by whatever is done next.
        """
        self._open()
        spec = known("source", topic, sources(self.plan))
        if topic in self._runner.ended:
            raise StreamprocError(f"{topic!r} has ended: send before end(), or use another TestDriver")
        if spec.event_time is None and timestamp is None:
            raise StreamprocError(f"source {topic!r} has no event_time: say send({topic!r}, ..., timestamp=at(...))")
        if partition is not None and not 0 <= partition < self.plan.counts[topic]:
            raise StreamprocError(f"there is no partition {partition}: say TestDriver(..., partitions={partition + 1})")
        stamp = None if timestamp is None else ms(timestamp)
        for value in values:
            message = message_of(self._serde, value, key)._replace(headers=tuple((headers or {}).items()), stamp=stamp)
            number = place_of(self._runner, topic, message) if partition is None else partition
            self._runner.send(topic, number, message, self._clock)
        self._go_on()

    def advance_watermark(self, to: When) -> None:
        """The watermark of every source input moves here, unless it is further; what is due closes."""
        self._open()
        for topic in self.plan.sources:
            if topic not in self._runner.ended:
                self._runner.mark(topic, ms(to))
        self._go_on()

    def advance_wall(self, by: int | timedelta) -> None:
        """The clock goes on by so many ms, in which nothing comes: inputs fall idle (S17)."""
        self._open()
        if self._clock is None:
            raise StreamprocError('there is no clock to advance: say TestDriver(..., clock=at("12:00"))')
        span = by if isinstance(by, int) else by // timedelta(milliseconds=1)
        self._clock += span
        self._runner.wait(span)
        self._go_on()

    def end(self) -> None:
        """All inputs end, so that everything closes (S49)."""
        self._open()
        for topic in self.plan.sources:
            self._runner.end(topic)
        self._go_on()

    # commits and crashes

    def commit(self) -> bool:
        """Process and commit all that is at hand; False if the commit failed, as `fail_next_commit` wants it."""
        self._open()
        self._runner.work()
        if self._failing:
            self._failing = False
            self._runner.restart(self._clock)
            return False
        self._runner.commit(self._clock or 0)
        return True

    def fail_next_commit(self) -> None:
        """The next commit is aborted: all since the last one is undone, and done again at the next call."""
        self._failing = True

    def restart(self) -> None:
        """A crash: what was not committed is lost and read again; state returns from its bytes."""
        self._open()
        self._runner.restart(self._clock)
        self._go_on()

    def _go_on(self) -> None:
        if self._autocommit:
            self.commit()
        else:
            self._runner.work()

    def _open(self) -> None:
        if self._closed:
            raise StreamprocError("this TestDriver is closed: use it inside its `with` block")

    # out

    def read(self, topic: str) -> list[Any]:
        """The values written to a topic since the last call, as the objects they were; dead letters as raw bytes."""
        found = self.records(topic)
        start, self._read[topic] = self._read.get(topic, 0), len(found)
        return [record.value for record in found[start:]]

    def records(self, topic: str) -> list[Written]:
        """Everything ever written to a topic."""
        rows = known("output topic", topic, self._runner.outputs)
        raw = topic not in self.plan.sinks
        return [record_of(row, number, raw=raw) for number, row in rows]

    def dead_letters(self) -> list[DeadLetter]:
        """Every dead letter there ever was, with its reason."""
        return list(self._runner.dead)

    def late(self, node: str) -> int:
        """The number of records that a node refused as late."""
        self._sites(node)
        return sum(number for (name, _), number in self.counts.late.items() if name == node)

    @property
    def counts(self) -> Counts:
        """What all committed steps did, per node."""
        return self._runner.counts

    def watermark(self, node: str) -> int:
        """W of a node in ms, the least of its tasks; START before anything is known, END when all has ended."""
        return min(site.combined.watermark for site in self._sites(node))

    def state(self, name: str) -> dict[Any, Any]:
        """The cells of a node, committed or not: {(at, key): value}, or {(slot, at, key): value} if it has many slots.

        `at` is the instant in ms at which the cell is due, of a window `end + grace`.  The value of an aggregate is its
        accumulator, or a tuple of several.
        """
        found = known("stateful node", name, {site.place.name: site for site in all_sites(self._runner, stateful=True)})
        many = len(found.cells) > 1
        cells = {}
        for site in self._sites(name):
            for slot in site.cells:
                for (when, _), entry in slot.live().items():
                    value = entry[1] if len(entry) == 2 else tuple(entry[1:])  # noqa: PLR2004 - a key and one value
                    cells[(slot.slot, when, entry[0]) if many else (when, entry[0])] = value
        return cells

    def _sites(self, name: str) -> list[Site]:
        found = all_sites(self._runner)
        known("node", name, {site.place.name: site for site in found})
        return [site for site in found if site.place.name == name]


def known(what: str, name: str, among: Mapping[str, Any]) -> Any:
    """What has this name; StreamprocError, with the names that exist, if nothing has."""
    if name not in among:
        raise StreamprocError(f"there is no {what} {name!r}: there is {', '.join(sorted(among)) or 'none at all'}")
    return among[name]


def sources(plan: Plan) -> dict[str, SourceSpec]:
    """The declared sources of a plan by topic."""
    return {inlet.topic: inlet.source for inlet in plan.inlets if inlet.source is not None}


def all_sites(runner: MemoryRunner, *, stateful: bool = False) -> list[Site]:
    """Every node of every task."""
    return [site for _, task in runner.engine.tasks() for site in (task.stateful if stateful else task.sites)]


def message_of(serde: ObjectSerde, value: Any, key: Any) -> Message:
    """A value and its key as they are sent."""
    if isinstance(value, str):
        raw: bytes | None = value.encode()
    else:
        raw = None if value is None else bytes(serde.encode(value))
    return Message(raw, None if key is None else serde.encode_key(key))


def place_of(runner: MemoryRunner, topic: str, message: Message) -> int:
    """The partition a message goes to: that of its key, else n mod partitions for the n-th of its topic (S52)."""
    many = runner.plan.counts[topic]
    return runner.messages(topic) % many if message.key is None else partition(message.key, many)


def record_of(row: Emit, number: int, *, raw: bool) -> Written:
    """A row as a test reads it; with `raw`, its value as bytes even if it is known what they were made from."""
    key: str | bytes | None = row.key
    if row.key is not None:
        try:
            key = row.key.decode()
        except UnicodeDecodeError:
            key = bytes(row.key)
    value = None if row.value is None else bytes(row.value)
    if isinstance(row.value, Encoded) and not raw:
        value = row.value.value
    return Written(key, value, row.at, dict(row.headers), number)
