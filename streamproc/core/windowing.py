"""Windowed aggregates: the results, the fold over fixed windows, and the fold that trails each event.

    record --> open windows of its time --> one entry [key, accumulator, ...] per (close, key) --> result at W >= close

A cell stands at the instant that closes its window, `end + grace`, so what is due is what has closed (S19).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from streamproc.core.aggregates import Aggregate, Folding, folding
from streamproc.core.batch import Cell, Position, Record
from streamproc.core.instants import instant, moment
from streamproc.core.operators import AnyRecord, Context, Run
from streamproc.core.state import Entry, KeyId
from streamproc.core.windows import FixedWindow, Trailing

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    K = TypeVar("K", covariant=True)
    R = TypeVar("R", covariant=True)
    E = TypeVar("E", covariant=True, default=None)
else:
    from typing import TypeVar

    K, R, E = TypeVar("K"), TypeVar("R"), TypeVar("E")


class WindowResult(Generic[K, R, E]):
    """The value of one window of one key, not to be changed.

    `start` and `end` are aware UTC datetimes made on demand from `start_ms` and `end_ms`, since S4 allows instants
    that no datetime can show.  `event` is the record's value for a trailing window, else None.  `nth` numbers the
    results of a trailing window that share an instant, and `updates` says that later results of the window replace
    this one; neither is compared.  Not a dataclass, so that every codec asks `as_json`.
    """

    __slots__ = ("end_ms", "event", "final", "key", "nth", "op", "pane", "start_ms", "timing", "updates", "value")
    __state_fields__ = __slots__

    key: K
    start_ms: Final[int]
    end_ms: Final[int]
    value: R
    event: E
    pane: Final[int]
    timing: Final[str]
    final: Final[bool]
    op: Final[str]
    updates: Final[bool]
    nth: Final[int]

    def __init__(  # noqa: PLR0913 - one parameter a field, most by name
        self,
        key: K,
        start: int | datetime,
        end: int | datetime,
        value: R,
        event: E = None,  # type: ignore[assignment]
        *,
        pane: int = 0,
        timing: str = "on_time",
        final: bool = True,
        op: str = "+",
        updates: bool = False,
        nth: int = -1,
    ) -> None:
        self.key = key
        self.start_ms = start if type(start) is int else instant(start)
        self.end_ms = end if type(end) is int else instant(end)
        self.value = value
        self.event = event
        self.pane = pane
        self.timing = timing
        self.final = final
        self.op = op
        self.updates = updates
        self.nth = nth

    def __class_getitem__(cls, parameters: Any) -> GenericAlias:
        """`WindowResult[K, R]` is `WindowResult[K, R, None]` for type checkers, and either will do when run."""
        return GenericAlias(cls, parameters)

    def _compared(self) -> tuple[Any, ...]:
        return (
            self.key, self.start_ms, self.end_ms, self.value, self.event,
            self.pane, self.timing, self.final, self.op,
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return self._compared() == other._compared() if isinstance(other, WindowResult) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._compared())

    def __repr__(self) -> str:
        shown = f"{self.key!r}, {self.start_ms}, {self.end_ms}, {self.value!r}"
        event = "" if self.event is None else f", {self.event!r}"
        rest = [
            f"{name}={getattr(self, name)!r}"
            for name, usual in (("pane", 0), ("timing", "on_time"), ("final", True), ("op", "+"))
            if getattr(self, name) != usual
        ]
        return f"WindowResult({shown}{event}{''.join(', ' + one for one in rest)})"

    @property
    def start(self) -> datetime:
        """The first instant of the window."""
        return moment(self.start_ms)

    @property
    def end(self) -> datetime:
        """The first instant after the window."""
        return moment(self.end_ms)

    def as_json(self) -> dict[str, Any]:
        """The object that is written (S51)."""
        shown = {"key": self.key, "start": self.start_ms, "end": self.end_ms, "value": self.value}
        return shown if self.nth < 0 else shown | {"event": self.event}

    def written_key(self) -> Any:
        """The record key it is written under: its key, or what tells updates of different windows apart (S51)."""
        if not self.updates:
            return self.key
        place = [self.key, self.start_ms, self.end_ms]
        return place if self.nth < 0 else [*place, self.nth]


class Fields:
    """The result of several aggregates that were given names: a record with those fields, not to be changed."""

    __slots__ = ("_values",)
    __state_fields__ = __slots__

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no aggregate was named {name!r}; there are {', '.join(self._values)}") from None

    def __eq__(self, other: object) -> bool:
        return self._values == other._values if isinstance(other, Fields) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Fields({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def as_json(self) -> dict[str, Any]:
        """The object that is written."""
        return self._values


@dataclass(frozen=True, slots=True)
class Folds:
    """Several aggregates folded in one pass: entries `[key, accumulator, ...]` and the shape of their result.

    `names` is empty for one aggregate (its value) or several (a tuple), else the fields of the result.
    """

    aggregates: tuple[Aggregate[Any, Any, Any], ...]
    names: tuple[str, ...] = ()
    foldings: tuple[Folding, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "foldings", tuple(map(folding, self.aggregates)))

    def items(self, value: Any, at: int, position: Position) -> list[Any]:
        """What each aggregate takes from a record; runs user code."""
        return [f.item(value, at, position) for f in self.foldings]

    def add(self, key: Any, entry: Entry | None, items: list[Any]) -> Entry:
        """A new entry with the items folded in; the old one is left as it was."""
        if entry is None:
            return [key, *(f.add(f.zero(), item) for f, item in zip(self.foldings, items, strict=True))]
        return [entry[0], *(f.add(a, item) for f, a, item in zip(self.foldings, entry[1:], items, strict=True))]

    def folded(self, key: Any, taken: Sequence[list[Any]]) -> Entry:
        """The entry of all these items at once, each aggregate in their order."""
        columns = zip(self.foldings, zip(*taken, strict=True), strict=True)
        return [key, *(folding.whole(items) for folding, items in columns)]

    def result(self, entry: Entry) -> Any:
        """The result of an entry in the shape that was asked for."""
        results = [f.result(a) for f, a in zip(self.foldings, entry[1:], strict=True)]
        if self.names:
            return Fields(dict(zip(self.names, results, strict=True)))
        return results[0] if len(results) == 1 else tuple(results)


class FoldContext(Context, Protocol):
    """What a windowed aggregate sees of its node besides: whole entries under canonical keys."""

    def key_id(self, key: Any) -> KeyId:
        """The canonical form of a key (S1)."""
        ...

    def entry(self, at: int, key: KeyId) -> Entry | None:
        """An entry as it is stored; it must not be changed in place."""
        ...

    def store(self, at: int, key: KeyId, entry: Entry) -> None:
        """Put a new entry."""
        ...

    def count(self, what: str) -> None:
        """Count one of `opened`, `closed` or `updated`: a window, an event that waits for its own, a changed result."""
        ...


def position_of(record: AnyRecord) -> Position:
    """What orders records of equal timestamps (S13)."""
    return record.topic, record.partition, record.offset


def result_record(result: WindowResult[Any, Any, Any], at: int) -> AnyRecord:
    """A window result as a record for what follows: its key, its time, and the window's start for a place."""
    return Record(result.key, result, at, (), "", -1, result.start_ms)


@dataclass(frozen=True, slots=True)
class WindowAggregate:
    """The fold of a key's records in each fixed window; one result at close, or one per change (S22, S23)."""

    window: FixedWindow
    folds: Folds
    updates: bool = False

    @property
    def hold(self) -> int:
        """Results of a window are no older than W - grace when it closes (S26)."""
        return self.window.grace

    def closes(self, at: int) -> list[int]:
        """The closing instants of the windows that hold an instant, ascending."""
        return [end + self.window.grace for end in self.window.ends(at)]

    def on_run(self, run: Run, ctx: FoldContext) -> Iterator[AnyRecord]:
        for record in run:
            closes = self.closes(record.at)
            if not closes:
                ctx.skip(record, "gap")
                continue
            watermark = ctx.watermark
            accepting = [close for close in closes if close > watermark]
            if len(accepting) < len(closes):
                ctx.refuse(len(closes) - len(accepting))
            if not accepting:
                ctx.late(record, self.bounds(closes[-1]))
                continue
            key = ctx.key_id(record.key)
            items = self.folds.items(record.value, record.at, position_of(record))
            changed = [(close, self.folds.add(record.key, ctx.entry(close, key), items)) for close in accepting]
            for close, entry in changed:
                ctx.store(close, key, entry)
            if self.updates:
                for close, entry in changed:
                    ctx.count("updated")
                    yield self.result(close, entry)

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[AnyRecord]:
        return () if self.updates else (self.result(cell.at, cell.value),)

    def closing(self, cell: Cell) -> int:
        """How many windows close with a cell."""
        return 1

    def bounds(self, close: int) -> tuple[int, int]:
        """Start and end of the window with this closing instant."""
        end = close - self.window.grace
        return self.window.start(end), end

    def result(self, close: int, entry: Entry) -> AnyRecord:
        """The result of one entry, as a record."""
        start, end = self.bounds(close)
        return result_record(
            WindowResult(entry[0], start, end, self.folds.result(entry), updates=self.updates), end - 1
        )


_WAITING, _HELD = 0, 1


@dataclass(frozen=True, slots=True)
class TrailingAggregate:
    """One result per event: the fold of its key's accepted records in [t - d, t] (S11).

    Slot 0 holds the events that wait for their own window to close, at `t + 1 + grace`; slot 1 what the aggregates took
    from the records of a key and instant until no window can need it, at `t + d + 1 + grace`, and then just goes.
    """

    window: Trailing
    folds: Folds
    updates: bool = False
    slots: int = field(default=2, init=False, repr=False)
    by_key: bool = field(default=True, init=False, repr=False)
    forgets: tuple[int, ...] = field(default=(_HELD,), init=False, repr=False)

    @property
    def hold(self) -> int:
        """As of a fixed window (S26)."""
        return self.window.grace

    def on_run(self, run: Run, ctx: FoldContext) -> Iterator[AnyRecord]:
        d, lasts = self.window.d, self.window.d + 1 + self.window.grace
        for record in run:
            at, key = record.at, record.key
            own = at + 1 + self.window.grace
            waiting = own > ctx.watermark
            if not waiting:
                ctx.refuse(1)
                if not ctx.scan(key, own + 1, own + d, slot=_WAITING):
                    ctx.late(record, (at - d, at + 1))
                    continue
            items = self.folds.items(record.value, at, position_of(record))
            ctx.put(at + lasts, key, [*(ctx.get(at + lasts, key, slot=_HELD) or ()), items], slot=_HELD)
            if waiting:
                ctx.count("opened")
                ctx.put(own, key, [*(ctx.get(own, key, slot=_WAITING) or ()), record.value], slot=_WAITING)
            if self.updates:
                yield from self._changed(record, ctx)

    def on_due(self, cell: Cell, ctx: Context) -> Iterator[AnyRecord]:
        if not self.updates:
            yield from self._results(cell.at - 1 - self.window.grace, cell.key, cell.value, ctx)

    def closing(self, cell: Cell) -> int:
        """How many events stop waiting with a cell."""
        return len(cell.value)

    def _changed(self, record: AnyRecord, ctx: FoldContext) -> Iterator[AnyRecord]:
        own = record.at + 1 + self.window.grace
        for cell in ctx.scan(record.key, own, own + self.window.d, slot=_WAITING):
            for result in self._results(cell.at - 1 - self.window.grace, cell.key, cell.value, ctx):
                ctx.count("updated")
                yield result

    def _results(self, at: int, key: Any, events: Any, ctx: Context) -> Iterator[AnyRecord]:
        folds, lasts = self.folds, self.window.d + 1 + self.window.grace
        cells = ctx.scan(key, at - self.window.d + lasts, at + lasts, slot=_HELD)
        if not cells:
            return
        entry = folds.folded(key, [items for cell in cells for items in cell.value])
        for nth, value in enumerate(events):
            found = WindowResult(
                key, at - self.window.d, at + 1, folds.result(entry), value, updates=self.updates, nth=nth
            )
            yield result_record(found, at)
