"""One node of a task at work: it takes records, keeps cells, and lets its operator do what it may.

    record --> accept --> operator.on_run --> results --> accept of every child, depth first
    W      --> close_due --> cells whose time has come --> the task closes each as a unit

Splits, sinks and crossings are known here, since they are no more than a way to go on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from streamproc.core.batch import NEVER, START, Cell, Crossing, Emit, Encode, Headers
from streamproc.core.errors import StreamprocError, TaskFailed, TooFarAhead, TooLarge
from streamproc.core.instants import instant
from streamproc.core.operators import AnyRecord, Cross, Run, Side, Sink, Split
from streamproc.core.plan import Action, Place
from streamproc.core.progress import Combined
from streamproc.core.state import Cells, Entry, Journal, KeyId, Store
from streamproc.core.windowing import WindowAggregate, WindowResult, position_of


class Bounds(NamedTuple):
    """The most that a topic takes: bytes of a value, and a timestamp in ms."""

    size: int
    latest: int


class Writer(NamedTuple):
    """How values and keys become bytes (S51); `bounds` of a topic are those of now, None where all is taken."""

    value: Encode
    key: Encode
    bounds: Callable[[str], Bounds] | None = None


class Failed(Exception):
    """A node failed on a record; carries where and why to the end of the unit."""

    def __init__(self, site: Site, error: Exception, reason: str = "processing_error") -> None:
        super().__init__(site.place.name)
        self.site = site
        self.error = error
        self.reason = reason


class Owner(Protocol):
    """What a node needs of the task it belongs to.

    `noted` is what is to be counted if the unit at hand stands; `outs` and `crossings` are rows by topic.
    """

    journal: Journal
    noted: list[tuple[str, Any]]
    outs: dict[str, list[Emit]]
    crossings: dict[str, list[Crossing]]
    writer: Writer

    def key_id(self, key: Any) -> KeyId:
        """The canonical form of a key."""
        ...

    def close(self, site: Site, cell: Cell) -> None:
        """Give a due cell to its operator, as a unit."""
        ...

    def give_up(  # noqa: PLR0913 - two of them by name
        self,
        site: Site,
        record: AnyRecord,
        reason: str,
        error: Exception | None,
        action: Action,
        *,
        window: tuple[int, int] | None = None,
    ) -> None:
        """Write a dead letter, or stop the task."""
        ...


class Site:
    """One node of a task at work: its cells, its watermark, and what its operator may do (a `FoldContext`)."""

    __slots__ = (
        "accept", "cells", "children", "closer", "combined", "forgets",
        "number", "one_by_one", "operator", "place", "task", "watermark", "whole",
    )  # fmt: skip

    def __init__(self, task: Owner, number: int, place: Place, store: Store, combined: Combined) -> None:
        self.task = task
        self.number = number
        self.place = place
        self.operator = place.operator
        self.combined = combined
        self.watermark = START
        self.children: tuple[Site, ...] = ()
        self.whole = isinstance(place.operator, WindowAggregate)
        by_key = bool(getattr(place.operator, "by_key", False))
        slots = int(getattr(place.operator, "slots", 1)) if place.stateful else 0
        self.cells = tuple(Cells(store, place.name, slot, task.journal, by_key=by_key) for slot in range(slots))
        accepts: dict[type, Callable[[AnyRecord], None]] = {
            Split: self._route,
            Sink: self._write,
            Cross: self._cross,
            Side: self._enter,
        }
        self.accept = accepts.get(type(place.operator), self._run)
        self.forgets: tuple[int, ...] = getattr(place.operator, "forgets", ())
        self.one_by_one = bool(getattr(place.operator, "one_by_one", False))
        self.closer: Callable[[int, list[tuple[KeyId, Entry]]], None] | None = None

    # what the task asks of it

    def _run(self, record: AnyRecord) -> None:
        """Feed a record to the operator and its results to everything behind, depth first."""
        self._feed(self.operator.on_run, (record,))

    def _enter(self, record: AnyRecord) -> None:
        """Feed a record to the joins behind, by this side of them."""
        side = self.operator.number
        self.task.noted += [("records_in", self.place.name), ("records_out", self.place.name)]
        for join in self.children:
            join.meet(side, record)

    def meet(self, side: int, record: AnyRecord) -> None:
        """Feed a record to a join."""
        self._feed(self.operator.on_side, side, record)

    def _feed(self, hook: Callable[..., Run], *given: Any) -> None:
        self.task.noted.append(("records_in", self.place.name))
        try:
            for result in hook(*given, self):
                self.pass_on(result)
        except (Failed, TaskFailed):
            raise
        except Exception as error:
            raise Failed(self, error) from error

    def pass_on(self, result: AnyRecord) -> None:
        """Give a result to everything behind."""
        self.task.noted.append(("records_out", self.place.name))
        for child in self.children:
            child.accept(result)

    def _route(self, record: AnyRecord) -> None:
        self.task.noted.append(("records_in", self.place.name))
        try:
            chosen = self.operator.choose(record.value)
        except Exception as error:
            raise Failed(self, error) from error
        if chosen is None:
            self.task.noted.append(("dropped", (self.place.name, "unmatched", "skip")))
        else:
            self.task.noted.append(("records_out", self.place.name))
            self.children[chosen].accept(record)

    def _write(self, record: AnyRecord) -> None:
        sink, writer = self.operator, self.task.writer
        self.task.noted.append(("records_in", self.place.name))
        try:
            topic = sink.chosen(record.value)
            key = sink.key(record.value) if sink.key is not None else record.key
            headers = _headers(sink.headers(record.value)) if sink.headers is not None else record.headers
            at = instant(sink.timestamp(record.value)) if sink.timestamp is not None else record.at
        except Exception as error:
            raise Failed(self, error) from error
        emit = written(writer, self, topic, key, record.value, at, headers, given=sink.key is not None)
        self.task.outs[topic].append(emit)
        self.task.noted.append(("records_out", self.place.name))

    def _cross(self, record: AnyRecord) -> None:
        self.task.noted.append(("records_in", self.place.name))
        try:
            route = self.task.writer.key(record.key)
        except Exception as error:
            raise Failed(self, error, "serialization_error") from error
        crossing = Crossing(record.key, record.value, record.at, record.headers, position_of(record), route)
        self.task.crossings[self.operator.topic].append(crossing)
        self.task.noted.append(("records_out", self.place.name))

    def close_due(self) -> None:
        """Take out and close every cell whose time has come, in order (time, slot, key bytes)."""
        while True:
            at, slot = min((cells.next_due(), cells.slot) for cells in self.cells)
            if at > self.watermark:
                return
            taken = self.cells[slot].take(at)
            if slot in self.forgets:
                continue
            if self.closer is not None:
                self.closer(at, taken)
                continue
            for _, entry in taken:
                if self.one_by_one:
                    for one in entry[1]:
                        self.task.close(self, Cell(at, entry[0], one, slot))
                else:
                    self.task.close(self, Cell(at, entry[0], entry if self.whole else entry[1], slot))

    def due(self) -> int:
        """The least time of its cells, NEVER without any."""
        return min((cells.next_due() for cells in self.cells), default=NEVER)

    # what the operator asks of it: Context and FoldContext

    def get(self, at: int, key: Any, *, slot: int = 0) -> Any:
        entry = self.cells[slot].get(at, self.task.key_id(key))
        return None if entry is None else entry[1]

    def put(self, at: int, key: Any, value: Any, *, slot: int = 0) -> None:
        self.cells[slot].put(at, self.task.key_id(key), [key, value])

    def drop(self, at: int, key: Any, *, slot: int = 0) -> None:
        self.cells[slot].drop(at, self.task.key_id(key))

    def scan(self, key: Any, low: int, high: int, *, slot: int = 0) -> list[Cell]:
        found = self.cells[slot].scan(self.task.key_id(key), low, high)
        new = tuple.__new__
        return [new(Cell, (at, entry[0], entry[1], slot)) for at, entry in found]

    def key_id(self, key: Any) -> KeyId:
        return self.task.key_id(key)

    def entry(self, at: int, key: KeyId) -> Entry | None:
        return self.cells[0].get(at, key)

    def store(self, at: int, key: KeyId, entry: Entry) -> None:
        if self.cells[0].get(at, key) is None:
            self.task.noted.append(("opened", self.place.name))
        self.cells[0].put(at, key, entry)

    def count(self, what: str) -> None:
        self.task.noted.append((what, self.place.name))

    def late(self, record: AnyRecord, window: tuple[int, int] | None = None) -> None:
        name = self.place.name
        if self.place.late is not None:
            late, writer = self.place.late, self.task.writer
            self.task.outs[late].append(
                written(writer, self, late, record.key, record.value, record.at, record.headers)
            )
            self.task.noted.append(("late", (name, "late_stream")))
            return
        self._refused(record, "late", window)
        self.task.noted.append(("late", (name, self.place.actions["late"].then)))

    def refuse(self, windows: int) -> None:
        self.task.noted += [("refused", self.place.name)] * windows

    def skip(self, record: AnyRecord, reason: str) -> None:
        self._refused(record, reason, None)
        then = self.place.actions[reason].then if reason in self.place.actions else "skip"
        self.task.noted.append(("dropped", (self.place.name, reason, then)))

    def _refused(self, record: AnyRecord, reason: str, window: tuple[int, int] | None) -> None:
        action = self.place.actions.get(reason)
        if action is not None and action.then != "skip":
            self.task.give_up(self, record, reason, None, action, window=window)


def written(  # noqa: PLR0913, PLR0917 - the parts of a record
    writer: Writer, site: Site, topic: str, key: Any, value: Any, at: int, headers: Headers, *, given: bool = False
) -> Emit:
    """A record as it is written to a topic (S51); with `given`, the key was chosen by the caller of `to`."""
    try:
        route = None if key is None else writer.key(key)
        under = route
        if not given and type(value) is WindowResult and value.updates and value.key == key:
            under = writer.key(value.written_key())
        emit = Emit(under, None if value is None else writer.value(value), at, headers, route)
    except Exception as error:
        raise Failed(site, error, "serialization_error") from error
    if writer.bounds is not None:
        refused = _beyond(writer.bounds(topic), topic, emit)
        if refused is not None:
            raise Failed(site, refused, "production_error")
    return emit


def _beyond(bounds: Bounds, topic: str, emit: Emit) -> StreamprocError | None:
    """Why a topic would refuse a result, if it would."""
    size = len(emit.value or b"")
    if size > bounds.size:
        return TooLarge(f"the value has {size:,} bytes, and topic {topic!r} takes at most {bounds.size:,}")
    if emit.at > bounds.latest:
        return TooFarAhead(f"its timestamp is {emit.at} ms, and topic {topic!r} takes at most {bounds.latest} now")
    return None


def _headers(given: Mapping[Any, Any]) -> Headers:
    """Headers as they are kept; TypeError unless they map text to bytes."""
    for name, content in given.items():
        if not isinstance(name, str) or not isinstance(content, bytes):
            raise TypeError(f"header {name!r} is {type(content).__name__}: headers map text to bytes")
    return tuple(given.items())
