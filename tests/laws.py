"""What the laws are tried on: random topologies, random logs from a tiny dense domain, and runs of one on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from hypothesis import strategies as st

from streamproc import (
    NEVER,
    Cell,
    Collect,
    Context,
    Count,
    Distinct,
    First,
    Hopping,
    Last,
    Max,
    Mean,
    Min,
    Quantile,
    Record,
    Reduce,
    Sum,
    TopK,
    Topology,
    Trailing,
    Tumbling,
    Variance,
)
from streamproc.adapters.codecs import JsonSerde
from streamproc.core.batch import START, Counts, DeadLetter
from streamproc.core.plan import build
from streamproc.core.state import MemoryStore
from streamproc.ports import Run
from streamproc.runners.engine import Engine


class Event(msgspec.Struct, frozen=True):
    """An event of the tiny domain: `x` decides what is filtered, refused or raises."""

    ts: int
    key: str | None
    x: int


def ms(n: int) -> str:
    """A duration of so many milliseconds."""
    return f"{n}ms"


# --- logs ---------------------------------------------------------------------------------------------------

EVENTS = st.builds(
    Event,
    ts=st.integers(-6, 14) | st.integers(10, 30) | st.sampled_from([-50, 40, 41]),
    key=st.sampled_from(["a", "b", "10", "9"]),
    x=st.integers(0, 9),
)
"""Few keys, neighbouring instants and some big jumps."""
POISON = st.sampled_from([b"{bad", b'{"ts":3,"key":"a"}', b'{"ts":9999,"key":"a","x":1}', b""])
MESSAGES = st.integers(0, 19).flatmap(lambda n: POISON if n == 19 else EVENTS.map(msgspec.json.encode))
LOGS = st.lists(MESSAGES, min_size=20, max_size=60)
SLOW_LOGS = st.lists(EVENTS.flatmap(lambda e: st.tuples(st.just(e), st.integers(0, 4))), min_size=20, max_size=60).map(
    lambda drawn: [msgspec.json.encode(Event(n // 2 + ahead, e.key, e.x)) for n, (e, ahead) in enumerate(drawn)]
)
"""Time goes on by half a millisecond a record, so that it matters where it is."""


# --- topologies ---------------------------------------------------------------------------------------------


def fails_on(number: int, f: Callable[[Event], Any]) -> Callable[[Event], Any]:
    """A function that raises for one value of x."""

    def function(event: Event) -> Any:
        if event.x == number:
            raise ValueError(f"x is {number}")
        return f(event)

    return function


@dataclass(frozen=True)
class Longest:
    """An aggregate of a user's own: the greatest x, as text; it refuses 8 when there is something already."""

    def zero(self) -> str:
        return ""

    def add(self, acc: str, value: Event, /) -> str:
        if acc and value.x == 8:
            raise ValueError("8 after another")
        return max(acc, str(value.x))

    def merge(self, left: str, right: str, /) -> str:
        return max(left, right)

    def result(self, acc: str, /) -> str:
        return acc


@dataclass(frozen=True)
class FirstPerKey:
    """The first record of a key passes; the key is forgotten some ms later; x = 6 fails after state was touched."""

    ttl: int

    def on_run(self, run: Iterable[Record[Any, Event]], ctx: Context) -> Iterable[Record[Any, Event]]:
        for record in run:
            if ctx.get(NEVER, record.key) is None:
                ctx.put(NEVER, record.key, 1)
                ctx.put(record.at + self.ttl, record.key, 1)
                if record.value.x == 6:
                    raise ValueError("x is 6")
                yield record

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Record[Any, Event]]:
        ctx.drop(NEVER, cell.key)
        return ()


X: Callable[[Event], int] = lambda event: event.x  # noqa: E731 - one object, so that plans are equal
AGGREGATES: list[tuple[Any, ...]] = [
    (Count(),),
    (Count(), Sum(of=X), Min(of=X), Max(of=X)),
    (Sum(of=fails_on(7, lambda e: e.x)), Count()),
    (Quantile(0.5, of=X), Distinct(of=X), Mean(of=X), Variance(of=X)),
    (Collect(of=X), First(of=X), Last(of=X), TopK(2, of=X), Count()),
    (Longest(), Count()),
    (Count(), Longest(), Quantile(0.9, of=fails_on(3, lambda e: e.x))),
    (Reduce(lambda a, b: a if a.x >= b.x else b),),
]
"""What a random window folds: every built-in, one that fails in its function, one that fails in its fold."""


@dataclass(frozen=True)
class Shape:
    """A topology as choices, so that Hypothesis can print and shrink it."""

    sources: int = 1
    keyed: bool = False
    disorder: int = 0
    trunk: tuple[str, ...] = ()
    rejoin: str = ""
    split: bool = False
    branches: tuple[tuple[tuple[str, ...], str, int, int], ...] = ()
    chained: bool = False
    late: bool = False
    then: str = "dead_letter"
    grace: int = 0

    def build(self) -> Topology:
        """The topology itself."""
        topology = Topology("law", dead_letters="dead" if self.then == "dead_letter" else None)
        key: Any = {"key": str} if self.keyed else {}
        streams: list[Any] = [
            topology.source(
                f"in{number}", Event, event_time=lambda e: e.ts, disorder=ms(self.disorder), max_future="5s", **key
            ).on_error(then=self.then)
            for number in range(self.sources)
        ]
        stream = streams[0].merge(*streams[1:]) if len(streams) > 1 else streams[0]
        stream = self._chain(stream, self.trunk)
        if self.rejoin:
            stream = self._chain(stream, (self.rejoin,)).merge(self._chain(stream, ("map",)) if self.split else stream)
        parts: list[Any] = [stream] * len(self.branches)
        if self.split:
            tests = {f"b{n}": (lambda e, n=n: e.x % 3 >= n) for n in reversed(range(len(self.branches)))}
            parts = list(stream.split(**tests).values())
        for number, (part, (chain, end, window, folds)) in enumerate(zip(parts, self.branches, strict=True)):
            self._end(self._chain(part, chain), number, end, window, AGGREGATES[folds % len(AGGREGATES)])
        return topology

    def _chain(self, stream: Any, chain: tuple[str, ...]) -> Any:
        for step in chain:
            match step:
                case "filter":
                    stream = stream.filter(lambda e: e.x % 3 != 1)
                case "map":
                    stream = stream.map(fails_on(5, lambda e: Event(e.ts, e.key, e.x)))
                case "flat_map":
                    stream = stream.flat_map(lambda e: [e] * (e.x % 3))
                case "key_by":
                    stream = stream.key_by(lambda e: None if e.x == 4 else e.key)
                case "key_by_x":
                    stream = stream.key_by(lambda e: e.x % 4)
            stream = stream.on_error(then=self.then)
        return stream

    def _end(self, stream: Any, number: int, end: str, size: int, folds: tuple[Any, ...]) -> None:
        name = f"n{number}"
        late = {"late": "late"} if self.late else {}
        if end == "sink":
            stream.to("out")
            return
        keyed = stream.key_by(lambda e: None if e.x == 2 else e.key).on_error(then=self.then)
        grace = ms(self.grace)
        windows: dict[str, Any] = {
            "tumbling": Tumbling(ms(size), grace=grace, offset=ms(size // 2)),
            "tumbling_updates": Tumbling(ms(size), grace=grace),
            "hopping": Hopping(ms(size), advance=ms(max(1, size // 2)), grace=grace),
            "hopping_uneven": Hopping(ms(size + 1), advance=ms(3), grace=grace, allow_gaps=True),
            "trailing": Trailing(ms(size), grace=grace),
            "trailing_updates": Trailing(ms(size), grace=grace),
        }
        if end == "via":
            keyed.via(FirstPerKey(size), name=name).on_error(then=self.then).to("out")
            return
        emit = "on_update" if end.endswith("updates") else "on_close"
        results = keyed.window(windows[end], **late).agg(*folds, name=name, emit=emit)
        results = results.on_error("processing_error", "serialization_error", then=self.then)
        if self.chained:
            (
                results.filter(lambda w: w.end_ms % 2 == 0)
                .key_by(lambda w: str(w.end_ms % 3))
                .window(Tumbling(ms(7)), **late)
                .agg(Count(), Last(of=lambda w: w.end_ms), name=f"{name}_again")
                .to("again")
            )
        results.to("out")


STEPS = st.lists(st.sampled_from(["filter", "map", "flat_map", "key_by", "key_by_x"]), max_size=2).map(tuple)
ENDS = st.sampled_from(
    [
        "tumbling",
        "tumbling",
        "hopping",
        "hopping_uneven",
        "trailing",
        "tumbling_updates",
        "trailing_updates",
        "via",
        "sink",
    ]
)
SHAPES = st.builds(
    Shape,
    sources=st.sampled_from([1, 1, 2]),
    keyed=st.booleans(),
    disorder=st.sampled_from([0, 2, 5]),
    trunk=STEPS,
    rejoin=st.sampled_from(["", "", "", "map", "filter", "flat_map"]),
    split=st.booleans(),
    branches=st.lists(st.tuples(STEPS, ENDS, st.integers(1, 6), st.integers(0, 7)), min_size=1, max_size=3).map(tuple),
    chained=st.booleans(),
    late=st.booleans(),
    then=st.sampled_from(["dead_letter", "dead_letter", "skip"]),
    grace=st.sampled_from([0, 0, 3]),
)


# --- runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """How a run is cut: records at a time for each source in turn, and what comes after: nothing, a commit, a crash."""

    sizes: tuple[int, ...] = (10_000,)
    after: tuple[str, ...] = ("",)


CUTS = st.builds(
    Cut,
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6).map(tuple),
    after=st.lists(st.sampled_from(["", "commit", "commit", "crash"]), min_size=1, max_size=6).map(tuple),
)


Decided: TypeAlias = tuple[int, int | None]
"""What a clock decides of a topic when so many messages have been read: it is idle, or its time flows on by so much."""
DECISIONS = st.lists(st.tuples(st.integers(1, 60), st.none() | st.integers(0, 20)), max_size=6).map(
    lambda drawn: [one for place, flows in sorted(drawn, key=lambda d: d[0]) for one in _decided(place, flows)]
)


def _decided(place: int, flows: int | None) -> list[Decided]:
    """An input falls idle, and where it flows it does so then: only what is idle flows."""
    return [(place, None)] if flows is None else [(place, None), (place, flows)]


@dataclass
class Outcome:
    """Everything a run brought about."""

    rows: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    counts: dict[str, dict[Any, int]] = field(default_factory=dict)
    left: dict[str, dict[Any, Any]] = field(default_factory=dict)


def run(  # noqa: PLR0913 - four of them by name
    topology: Topology,
    logs: Mapping[str, list[bytes]],
    cut: Cut = Cut(),
    *,
    fused: bool = True,
    partitions: int = 1,
    decided: Mapping[str, list[Decided]] | None = None,
) -> Outcome:
    """Feed logs to a topology, cut as told, with commits and crashes, and close it all at the end."""
    world = World(topology, logs, fused=fused, partitions=partitions, decided=decided)
    turn = 0
    while any(world.read[topic] < len(logs[topic]) for topic in logs):
        for topic in logs:
            world.offer(topic, cut.sizes[turn % len(cut.sizes)])
            match cut.after[turn % len(cut.after)]:
                case "commit":
                    world.commit()
                case "crash":
                    world.crash()
            turn += 1
    return world.close()


class World:
    """A topology at work on logs, with what survives a crash: stores, positions, and what was committed."""

    def __init__(
        self,
        topology: Topology,
        logs: Mapping[str, list[bytes]],
        *,
        fused: bool,
        partitions: int,
        decided: Mapping[str, list[Decided]] | None = None,
    ) -> None:
        self.plan = build(topology.graph(), partitions)
        self.logs = logs
        self.decided = decided or {}
        self.fused = fused
        self.stores: dict[str, MemoryStore] = {}
        self.positions: dict[str, Any] = {}
        self.outcome = Outcome()
        self.read = dict.fromkeys(logs, 0)
        self.pending: list[Counts] = []
        self.engine = self._engine()

    def _engine(self) -> Engine:
        stores, positions = self.stores, self.positions
        return Engine(
            self.plan, JsonSerde(), lambda task: stores.setdefault(task, MemoryStore()), positions.get, fused=self.fused
        )

    def _work(self) -> None:
        self.pending.extend(worked.step.counts for worked in self.engine.work())

    def _offer(self, topic: str, first: Callable[[int], int], *, again: bool = False) -> None:
        """Everything that has been read from `first(partition)` on, line n in partition n mod N, and what was decided.

        A decision that stands just there counts when all is read `again`: it may not have been committed.
        """
        start = 0
        places = {number: first(number) for number in range(self.plan.partitions)}
        for place, flows in self.decided.get(topic, ()):
            if place <= self.read[topic]:
                self._read(topic, places, start, place)
                self._work()
                for number, begin in places.items():
                    if place > begin or (again and place == begin):
                        if flows is None:
                            self.engine.idle(topic, number)
                        else:
                            self._flow(topic, number, flows)
                self._work()
                start = place
        self._read(topic, places, start, self.read[topic])

    def _flow(self, topic: str, number: int, by: int) -> None:
        """An input that has delivered flows on from its own watermark."""
        watermark = self.engine.watermarks()[topic, number]
        if watermark != START:
            self.engine.flow(topic, number, watermark + by)

    def _read(self, topic: str, places: Mapping[int, int], start: int, stop: int) -> None:
        for number, begin in places.items():
            chosen = [n for n in range(max(start, begin), stop) if n % self.plan.partitions == number]
            if chosen:
                keys = [str(n % 3).encode() if n % 7 else None for n in chosen]
                self.engine.offer(topic, Run(number, chosen, [self.logs[topic][n] for n in chosen], keys), 0)

    def offer(self, topic: str, count: int) -> None:
        """So many more messages of a topic."""
        start = self.read[topic]
        self.read[topic] = min(len(self.logs[topic]), start + count)
        self._offer(topic, lambda _: start)
        self._work()

    def crash(self) -> None:
        """What was not committed is gone, and is read again."""
        self.pending.clear()
        self.engine = self._engine()
        for topic in self.logs:
            self._offer(topic, lambda number, topic=topic: self.engine.position(topic, number), again=True)  # type: ignore[misc]
        self._work()

    def commit(self) -> None:
        """What was done stands."""
        made = self.engine.pending(0)
        self.positions |= made.positions
        self.outcome.dead += [letter._replace(stacktrace="") for letter in self.engine.committed(made)]
        for place, rows in made.emits.items():
            if place[0] != "dead":
                self.outcome.rows.setdefault(place, []).extend(rows)
        for counts in self.pending:
            for name in Counts.__slots__:
                total = self.outcome.counts.setdefault(name, {})
                for what, number in getattr(counts, name).items():
                    total[what] = total.get(what, 0) + number
        self.pending.clear()

    def close(self) -> Outcome:
        """All inputs end, everything closes; what is left in state is told."""
        for topic in self.logs:
            self.engine.end(topic)
            self._work()
        self.commit()
        assert self.engine.ended
        for _, task in self.engine.tasks():
            for site in task.stateful:
                for cells in site.cells:
                    for (at, key), entry in cells.live().items():
                        self.outcome.left.setdefault(site.place.name, {})[cells.slot, at, key] = entry
        return self.outcome
