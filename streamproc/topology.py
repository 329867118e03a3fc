"""What users write: a topology, and streams that stand for what flows through it.

    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts)
    clicks.key_by(lambda c: c.user).window(Tumbling("1m")).count(name="clicks_1m").to("clicks-per-user-1m")

Streams are immutable values; the topology notes the nodes made from them.  Importing one touches no broker, file or
clock.  Mistakes that types cannot see are raised as TopologyError where they are made, or when the plan is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

from streamproc.core import operators as ops
from streamproc.core.aggregates import Aggregate, Count, Reduce, folding
from streamproc.core.batch import Record
from streamproc.core.errors import TopologyError
from streamproc.core.instants import Duration, duration
from streamproc.core.joins import IntervalJoin
from streamproc.core.operators import Operator
from streamproc.core.plan import ACTIONS, NAME, REASONS, Graph, Node, Policy, SourceSpec
from streamproc.core.windowing import Folds, TrailingAggregate, WindowAggregate, WindowResult
from streamproc.core.windows import Hopping, Trailing, Tumbling

K = TypeVar("K")
V = TypeVar("V")
W = TypeVar("W")
T = TypeVar("T")
E = TypeVar("E")
R1 = TypeVar("R1")
R2 = TypeVar("R2")
R3 = TypeVar("R3")
R4 = TypeVar("R4")
R5 = TypeVar("R5")
R6 = TypeVar("R6")
R7 = TypeVar("R7")
R8 = TypeVar("R8")

EventTime: TypeAlias = int | datetime | None
How: TypeAlias = Literal["inner", "left", "outer"]
Emission: TypeAlias = Literal["on_close", "on_update"]
Then: TypeAlias = Literal["dead_letter", "skip", "fail"]
Reason: TypeAlias = Literal[
    "deserialization_error", "invalid_timestamp", "future_timestamp", "processing_error", "null_key", "null_value",
    "expectation_failed", "late", "serialization_error", "production_error",
]  # fmt: skip
"""The keys of `plan.REASONS`, as type checkers and editors see them."""


class Topology:
    """A named plan under construction.

    `name` is `[a-z0-9_]+` with `-` allowed, and `app` (the name unless set) the prefix of everything internal.  With
    `dead_letters`, every record that cannot be processed goes to that topic unless a node says otherwise (S42).  While
    all inputs are idle, `all_idle="hold"` leaves the watermark where it is, and `"advance"` lets it flow with the clock
    (S18).  A task with several inputs awaits one that has nothing more `max_wait` longer, None for ever (S39).
    """

    def __init__(
        self,
        name: str,
        *,
        app: str | None = None,
        dead_letters: str | None = None,
        all_idle: Literal["hold", "advance"] = "hold",
        max_wait: Duration | None = "0s",
    ) -> None:
        for what, given in (("name", name), ("app", app or name)):
            if not NAME.fullmatch(given.replace("-", "_")):
                raise TopologyError(f"topology {what}={given!r}: use small letters, digits, '_' and '-'")
        self.name = name
        self.app = app or name
        self.dead_letters = dead_letters
        if all_idle not in ("hold", "advance"):
            raise TopologyError(f'topology all_idle={all_idle!r}: use "hold" or "advance"')
        self.all_idle = all_idle
        self.max_wait = None if max_wait is None else duration("max_wait", max_wait)
        self._nodes: list[Node] = []
        self._policies: dict[int, tuple[Policy, ...]] = {}

    def __repr__(self) -> str:
        return f"Topology({self.name!r}, {len(self._nodes)} nodes)"

    @overload
    def source(
        self,
        topic: str,
        type: type[V],
        *,
        event_time: Callable[[V], EventTime] | None = None,
        disorder: Duration = "0s",
        idle_timeout: Duration | None = "1m",
        max_future: Duration | None = "1h",
        start: Literal["earliest", "latest"] | datetime = "earliest",
    ) -> Stream[V]: ...

    @overload
    def source(
        self,
        topic: str,
        type: type[V],
        *,
        key: type[K],
        event_time: Callable[[V], EventTime] | None = None,
        disorder: Duration = "0s",
        idle_timeout: Duration | None = "1m",
        max_future: Duration | None = "1h",
        start: Literal["earliest", "latest"] | datetime = "earliest",
    ) -> Keyed[K, V]: ...

    def source(  # noqa: PLR0913 - each by name
        self,
        topic: str,
        type: type[V],  # noqa: A002
        *,
        event_time: Callable[[V], EventTime] | None = None,
        key: type[K] | None = None,
        disorder: Duration = "0s",
        idle_timeout: Duration | None = "1m",
        max_future: Duration | None = "1h",
        start: Literal["earliest", "latest"] | datetime = "earliest",
    ) -> Stream[V] | Keyed[K, V]:
        """The records of a topic, decoded as `type`.

        `event_time` gives the timestamp, an integer of ms or an aware datetime; without it the transport's own is
        taken, where there is one.  `disorder` bounds how far a record may be behind an earlier one and still be on
        time.  `key=T` says that the topic is partitioned by its record keys, which are read as T (S52).  A stamp more
        than `max_future` ahead of the clock is refused (S15); None accepts all.  A partition that could have delivered
        and did not for `idle_timeout` holds nobody back until its next record (S17); None waits for ever.
        """
        if start not in ("earliest", "latest") and (not isinstance(start, datetime) or start.tzinfo is None):
            raise TopologyError(f'source {topic!r}: start={start!r}: use "earliest", "latest" or an aware datetime')
        spec = SourceSpec(
            topic,
            type,
            event_time,
            key,
            duration("disorder", disorder),
            None if idle_timeout is None else duration("idle_timeout", idle_timeout, least=1),
            None if max_future is None else duration("max_future", max_future),
            start,
        )
        known = [n for n, node in enumerate(self._nodes) if node.source is not None and node.source.topic == topic]
        if known and self._nodes[known[0]].source != spec:
            raise TopologyError(
                f"source {topic!r} is declared twice with different arguments: declare it once and use the stream twice"
            )
        number = known[0] if known else self._add(ops.Keyed() if key is not None else ops.Pass(), (), source=spec)
        return Keyed(self, number) if key is not None else Stream(self, number)

    def graph(self) -> Graph:
        """What has been declared so far, as data for `streamproc.core.plan.build`."""
        return Graph(
            self.name,
            self.app,
            tuple(self._nodes),
            dict(self._policies),
            self.dead_letters,
            self.all_idle,
            self.max_wait,
        )

    def _add(
        self,
        operator: Any,
        parents: tuple[int, ...],
        *,
        name: str = "",
        source: SourceSpec | None = None,
        late: str | None = None,
    ) -> int:
        if name:
            if not NAME.fullmatch(name):
                raise TopologyError(f"name={name!r}: use small letters, digits and '_'")
            if any(node.name == name for node in self._nodes):
                raise TopologyError(f"two nodes are named {name!r}: a name is the identity of state, choose another")
        self._nodes.append(Node(operator, parents, name, source, late))
        return len(self._nodes) - 1

    def _govern(self, node: int, policy: Policy) -> None:
        self._policies[node] = (*self._policies.get(node, ()), policy)


@dataclass(frozen=True, slots=True, eq=False)
class Stream(Generic[V]):
    """Records of value V without a declared key."""

    topology: Topology
    node: int

    def _then(self, operator: Any, name: str = "") -> int:
        return self.topology._add(operator, (self.node,), name=name)  # noqa: SLF001

    def map(self, f: Callable[[V], W]) -> Stream[W]:
        """One value for each value."""
        return Stream(self.topology, self._then(ops.Map(f)))

    def filter(self, f: Callable[[V], object]) -> Stream[V]:
        """Only the values for which `f` is true."""
        return Stream(self.topology, self._then(ops.Filter(f)))

    def flat_map(self, f: Callable[[V], Iterable[W]]) -> Stream[W]:
        """Any number of values for each value, in order."""
        return Stream(self.topology, self._then(ops.FlatMap(f)))

    def key_by(self, f: Callable[[V], K | None], *, name: str = "", partitions: int | None = None) -> Keyed[K, V]:
        """Declare a key; a record for which it is None is refused (`null_key`).

        A stateful node behind it makes the records cross a repartition topic where there are several partitions.  That
        has as many `partitions`; unless said, as many as the topics it meets, or else as those it comes from.
        """
        return Keyed(self.topology, self._then(_key_by(f, partitions), name))

    def split(self, **branches: Callable[[V], object]) -> Mapping[str, Stream[V]]:
        """Named branches; a record takes the first whose predicate holds, and is counted if none does."""
        return {name: Stream(self.topology, node) for name, node in _split(self, branches).items()}

    def merge(self, *others: Stream[V]) -> Stream[V]:
        """The records of all streams, each in its order."""
        return Stream(self.topology, _merge(self, others))

    def on_error(
        self, *reasons: Reason, then: Then = "dead_letter", retry: int = 0, topic: str | None = None
    ) -> Stream[V]:
        """What the node before this does with records it cannot process (S42); no reasons mean all.

        `retry` repeats a failed call so many times first.  `dead_letter` needs `topic`, or one on the topology.
        """
        _govern(self, reasons, then, retry, topic)
        return self

    def records(self) -> Stream[Record[bytes | None, V]]:
        """Each record as a value, with its key bytes, time, headers and place."""
        return Stream(self.topology, self._then(ops.AsRecords()))

    def via(self, operator: Operator[V, W], *, name: str) -> Stream[W]:
        """An own operator; `name` is the identity of its state."""
        return Stream(self.topology, self._then(_own(operator), _named(name)))

    def to(
        self,
        topic: str | Callable[[V], str],
        *,
        topics: Iterable[str] = (),
        key: Callable[[V], Any] | None = None,
        headers: Callable[[V], Mapping[str, bytes]] | None = None,
        timestamp: Callable[[V], EventTime] | None = None,
    ) -> None:
        """Write to a topic: under the key of the record, at its time, with its headers, unless functions say other.

        A function as `topic` chooses among the declared `topics`.  What is written is S51.
        """
        _to(self, topic, topics, key, headers, timestamp)


@dataclass(frozen=True, slots=True, eq=False)
class Keyed(Generic[K, V]):
    """Records of value V, partitioned by a key K."""

    topology: Topology
    node: int

    def _then(self, operator: Any, name: str = "") -> int:
        return self.topology._add(operator, (self.node,), name=name)  # noqa: SLF001

    def map(self, f: Callable[[V], W]) -> Keyed[K, W]:
        """One value for each value, under the same key."""
        return Keyed(self.topology, self._then(ops.Map(f)))

    def filter(self, f: Callable[[V], object]) -> Keyed[K, V]:
        """Only the values for which `f` is true."""
        return Keyed(self.topology, self._then(ops.Filter(f)))

    def flat_map(self, f: Callable[[V], Iterable[W]]) -> Keyed[K, W]:
        """Any number of values for each value, in order, under the same key."""
        return Keyed(self.topology, self._then(ops.FlatMap(f)))

    def key_by(self, f: Callable[[V], T | None], *, name: str = "", partitions: int | None = None) -> Keyed[T, V]:
        """Another key, as `Stream.key_by`."""
        return Keyed(self.topology, self._then(_key_by(f, partitions), name))

    def split(self, **branches: Callable[[V], object]) -> Mapping[str, Keyed[K, V]]:
        """Named branches, as `Stream.split`."""
        return {name: Keyed(self.topology, node) for name, node in _split(self, branches).items()}

    def merge(self, *others: Keyed[K, V]) -> Keyed[K, V]:
        """The records of all streams, each in its order."""
        return Keyed(self.topology, _merge(self, others))

    def on_error(
        self, *reasons: Reason, then: Then = "dead_letter", retry: int = 0, topic: str | None = None
    ) -> Keyed[K, V]:
        """What the node before this does with records it cannot process, as `Stream.on_error`."""
        _govern(self, reasons, then, retry, topic)
        return self

    def records(self) -> Keyed[K, Record[K, V]]:
        """Each record as a value, with its key, time, headers and place."""
        return Keyed(self.topology, self._then(ops.AsRecords()))

    def via(self, operator: Operator[V, W], *, name: str) -> Keyed[K, W]:
        """An own operator with state per key; it must leave the key as it is.  `name` is the identity of its state."""
        return Keyed(self.topology, self._then(_own(operator), _named(name)))

    def to(
        self,
        topic: str | Callable[[V], str],
        *,
        topics: Iterable[str] = (),
        key: Callable[[V], Any] | None = None,
        headers: Callable[[V], Mapping[str, bytes]] | None = None,
        timestamp: Callable[[V], EventTime] | None = None,
    ) -> None:
        """Write to a topic, as `Stream.to`."""
        _to(self, topic, topics, key, headers, timestamp)

    @overload
    def window(self, window: Tumbling | Hopping, *, late: str | None = None) -> Windowed[K, V, None]: ...

    @overload
    def window(self, window: Trailing, *, late: str | None = None) -> Windowed[K, V, V]: ...

    def window(self, window: Tumbling | Hopping | Trailing, *, late: str | None = None) -> Windowed[K, V, Any]:
        """Windows over each key's records; records that all of them refuse go to the topic `late`, if given."""
        if not isinstance(window, Tumbling | Hopping | Trailing):
            raise TopologyError(f"window={window!r}: use Tumbling, Hopping or Trailing")
        return Windowed(self, window, late)

    @overload
    def join(
        self,
        right: Keyed[K, W],
        f: Callable[[V, W], T],
        *,
        before: Duration,
        after: Duration,
        name: str,
        how: Literal["inner"] = "inner",
        grace: Duration = "0s",
        late: str | None = None,
    ) -> Keyed[K, T]: ...

    @overload
    def join(
        self,
        right: Keyed[K, W],
        f: Callable[[V, W | None], T],
        *,
        before: Duration,
        after: Duration,
        name: str,
        how: Literal["left"],
        grace: Duration = "0s",
        late: str | None = None,
    ) -> Keyed[K, T]: ...

    @overload
    def join(
        self,
        right: Keyed[K, W],
        f: Callable[[V | None, W | None], T],
        *,
        before: Duration,
        after: Duration,
        name: str,
        how: Literal["outer"],
        grace: Duration = "0s",
        late: str | None = None,
    ) -> Keyed[K, T]: ...

    def join(  # noqa: PLR0913 - each by name
        self,
        right: Keyed[K, W],
        f: Callable[[Any, Any], T],
        *,
        name: str,
        before: Duration | None = None,
        after: Duration | None = None,
        how: How = "inner",
        grace: Duration = "0s",
        late: str | None = None,
    ) -> Keyed[K, T]:
        """Each pair of records of one key whose right one is between `before` earlier and `after` later (S27).

        `f(left, right)` is emitted with the second of the two, whichever that is, at the later of their times.  With
        `how="left"` or `"outer"` a record that closes without ever having met one is emitted once, with None for the
        other, when nobody can come any more: `grace` later than the interval says (S28).  A record that has closed when
        it comes is late (S29), and goes to the topic `late`, if given.  One of the bounds may be negative.
        """
        return Keyed(self.topology, _join(self, right, _interval(f, how, before, after, grace), name, late))


@dataclass(frozen=True, slots=True, eq=False)
class Windowed(Generic[K, V, E]):
    """What stands between `.window(...)` and its aggregate; E is the type of `WindowResult.event`.

    `name` is required and the identity of the state.  `emit="on_close"` gives one final result per key and window,
    `"on_update"` the new value at every change (S23).
    """

    stream: Keyed[K, V]
    over: Tumbling | Hopping | Trailing
    late: str | None

    def count(self, *, name: str, emit: Emission = "on_close") -> Keyed[K, WindowResult[K, int, E]]:
        """The number of records."""
        return self._fold((Count(),), (), name, emit)

    def reduce(
        self, f: Callable[[V, V], V], *, name: str, emit: Emission = "on_close"
    ) -> Keyed[K, WindowResult[K, V, E]]:
        """The records folded two by two, beginning with the first; over trailing windows `f` must commute."""
        return self._fold((Reduce(f),), (), name, emit)

    @overload
    def agg(
        self, a1: Aggregate[V, Any, R1], /, *, name: str, emit: Emission = "on_close"
    ) -> Keyed[K, WindowResult[K, R1, E]]: ...

    @overload
    def agg(
        self, a1: Aggregate[V, Any, R1], a2: Aggregate[V, Any, R2], /, *, name: str, emit: Emission = "on_close"
    ) -> Keyed[K, WindowResult[K, tuple[R1, R2], E]]: ...

    @overload
    def agg(
        self,
        a1: Aggregate[V, Any, R1],
        a2: Aggregate[V, Any, R2],
        a3: Aggregate[V, Any, R3],
        /,
        *,
        name: str,
        emit: Emission = "on_close",
    ) -> Keyed[K, WindowResult[K, tuple[R1, R2, R3], E]]: ...

    @overload
    def agg(
        self,
        a1: Aggregate[V, Any, R1],
        a2: Aggregate[V, Any, R2],
        a3: Aggregate[V, Any, R3],
        a4: Aggregate[V, Any, R4],
        /,
        *,
        name: str,
        emit: Emission = "on_close",
    ) -> Keyed[K, WindowResult[K, tuple[R1, R2, R3, R4], E]]: ...

    @overload
    def agg(
        self,
        a1: Aggregate[V, Any, R1],
        a2: Aggregate[V, Any, R2],
        a3: Aggregate[V, Any, R3],
        a4: Aggregate[V, Any, R4],
        a5: Aggregate[V, Any, R5],
        /,
        *,
        name: str,
        emit: Emission = "on_close",
    ) -> Keyed[K, WindowResult[K, tuple[R1, R2, R3, R4, R5], E]]: ...

    @overload
    def agg(
        self,
        a1: Aggregate[V, Any, R1],
        a2: Aggregate[V, Any, R2],
        a3: Aggregate[V, Any, R3],
        a4: Aggregate[V, Any, R4],
        a5: Aggregate[V, Any, R5],
        a6: Aggregate[V, Any, R6],
        /,
        *,
        name: str,
        emit: Emission = "on_close",
    ) -> Keyed[K, WindowResult[K, tuple[R1, R2, R3, R4, R5, R6], E]]: ...

    @overload
    def agg(
        self,
        a1: Aggregate[V, Any, R1],
        a2: Aggregate[V, Any, R2],
        a3: Aggregate[V, Any, R3],
        a4: Aggregate[V, Any, R4],
        a5: Aggregate[V, Any, R5],
        a6: Aggregate[V, Any, R6],
        a7: Aggregate[V, Any, R7],
        /,
        *,
        name: str,
        emit: Emission = "on_close",
    ) -> Keyed[K, WindowResult[K, tuple[R1, R2, R3, R4, R5, R6, R7], E]]: ...

    @overload
    def agg(
        self,
        a1: Aggregate[V, Any, R1],
        a2: Aggregate[V, Any, R2],
        a3: Aggregate[V, Any, R3],
        a4: Aggregate[V, Any, R4],
        a5: Aggregate[V, Any, R5],
        a6: Aggregate[V, Any, R6],
        a7: Aggregate[V, Any, R7],
        a8: Aggregate[V, Any, R8],
        /,
        *,
        name: str,
        emit: Emission = "on_close",
    ) -> Keyed[K, WindowResult[K, tuple[R1, R2, R3, R4, R5, R6, R7, R8], E]]: ...

    @overload
    def agg(
        self, *, name: str, emit: Emission = "on_close", **fields: Aggregate[V, Any, Any]
    ) -> Keyed[K, WindowResult[K, Any, E]]: ...

    def agg(
        self,
        *aggregates: Aggregate[V, Any, Any],
        name: str,
        emit: Emission = "on_close",
        **fields: Aggregate[V, Any, Any],
    ) -> Keyed[K, WindowResult[K, Any, E]]:
        """Aggregates in one pass: one gives its value, several a tuple, named ones a record with those fields."""
        if bool(aggregates) == bool(fields):
            raise TopologyError(f"agg(name={name!r}): give aggregates by position or by name, not both and not none")
        return self._fold((*aggregates, *fields.values()), tuple(fields), name, emit)

    def _fold(
        self, aggregates: tuple[Aggregate[V, Any, Any], ...], names: tuple[str, ...], name: str, emit: Emission
    ) -> Keyed[K, WindowResult[K, Any, E]]:
        if emit not in ("on_close", "on_update"):
            raise TopologyError(f'emit={emit!r}: use "on_close" or "on_update"')
        try:
            for aggregate in aggregates:
                folding(aggregate)
        except TypeError as error:
            raise TopologyError(f"{name!r}: {error}") from error
        folds = Folds(aggregates, names)
        updates = emit == "on_update"
        operator: WindowAggregate | TrailingAggregate = (
            TrailingAggregate(self.over, folds, updates)
            if isinstance(self.over, Trailing)
            else WindowAggregate(self.over, folds, updates)
        )
        node = self.stream.topology._add(operator, (self.stream.node,), name=_named(name), late=self.late)  # noqa: SLF001
        return Keyed(self.stream.topology, node)


AnyStream: TypeAlias = Stream[Any] | Keyed[Any, Any]


def _named(name: str) -> str:
    if not name:
        raise TopologyError('name="": a stateful node needs a name, the identity of its state')
    return name


def _interval(
    f: Callable[[Any, Any], Any], how: str, before: Duration | None, after: Duration | None, grace: Duration
) -> IntervalJoin:
    if how not in ("inner", "left", "outer"):
        raise TopologyError(
            f'join(how={how!r}): use "inner", "left" or "outer"; a right join is a left one with its sides exchanged'
        )
    if before is None or after is None:
        raise TopologyError(
            "join: two streams need bounds, or all of both would have to be kept for ever; say before= and after=, "
            'as in before="0s", after="10m"'
        )
    low, high = duration("before", before, least=-(2**60)), duration("after", after, least=-(2**60))
    if low + high < 0:
        raise TopologyError(
            f"join(before={before!r}, after={after!r}): nothing can be between them; their sum must be 0 or more"
        )
    return IntervalJoin(f, how, low, high, duration("grace", grace))


def _join(left: Keyed[Any, Any], right: Any, operator: object, name: str, late: str | None) -> int:
    if not isinstance(right, Keyed):
        raise TopologyError(f"join {name!r}: the right side has no key; say stream.key_by(...) first")
    if right.topology is not left.topology:
        raise TopologyError(f"join {name!r}: the streams belong to different topologies")
    topology = left.topology
    sides = tuple(topology._add(ops.Side(number), (stream.node,)) for number, stream in enumerate((left, right)))  # noqa: SLF001
    return topology._add(operator, sides, name=_named(name), late=late)  # noqa: SLF001


def _key_by(f: Callable[[Any], Any], partitions: int | None) -> ops.KeyBy:
    if partitions is not None and (type(partitions) is not int or partitions < 1):
        raise TopologyError(f"key_by(partitions={partitions!r}): a number of partitions, at least 1")
    return ops.KeyBy(f, partitions)


def _own(operator: object) -> object:
    if not callable(getattr(operator, "on_run", None)) or not callable(getattr(operator, "on_due", None)):
        raise TopologyError(f"via({operator!r}): an operator has on_run(run, ctx) and on_due(cell, ctx)")
    return operator


def _split(stream: AnyStream, branches: Mapping[str, Callable[[Any], object]]) -> dict[str, int]:
    if not branches:
        raise TopologyError("split(): name at least one branch, as in split(big=lambda o: o.amount > 1000)")
    split = stream._then(ops.Split(tuple(branches.items())))  # noqa: SLF001
    return {name: stream.topology._add(ops.Branch(name), (split,)) for name in branches}  # noqa: SLF001


def _merge(stream: AnyStream, others: Iterable[AnyStream]) -> int:
    streams = (stream, *others)
    if any(other.topology is not stream.topology for other in streams):
        raise TopologyError("merge: the streams belong to different topologies")
    if len({other.node for other in streams}) < len(streams):
        raise TopologyError("merge: a stream cannot be merged with itself")
    return stream.topology._add(ops.Pass(), tuple(other.node for other in streams))  # noqa: SLF001


def _govern(stream: AnyStream, reasons: tuple[str, ...], then: str, retry: int, topic: str | None) -> None:
    if unknown := [reason for reason in reasons if reason not in REASONS]:
        raise TopologyError(f"on_error({unknown[0]!r}): unknown reason; there are {', '.join(REASONS)}")
    if then not in ACTIONS:
        raise TopologyError(f"on_error(then={then!r}): use one of {', '.join(ACTIONS)}")
    if retry < 0:
        raise TopologyError(f"on_error(retry={retry}): a number of repetitions, at least 0")
    stream.topology._govern(stream.node, Policy(reasons, then, retry, topic))  # noqa: SLF001


def _to(  # noqa: PLR0913, PLR0917 - the parameters of `to`
    stream: AnyStream,
    topic: str | Callable[[Any], str],
    topics: Iterable[str],
    key: Callable[[Any], Any] | None,
    headers: Callable[[Any], Mapping[str, bytes]] | None,
    timestamp: Callable[[Any], Any] | None,
) -> None:
    known = tuple(topics)
    if isinstance(topic, str):
        if not topic:
            raise TopologyError('to(""): a topic has a name')
        known = (topic,)
    elif not known:
        raise TopologyError('to(function): declare what it may choose with topics=["...", ...]')
    stream._then(ops.Sink(topic, known, key, headers, timestamp))  # noqa: SLF001
