"""Operators that keep no state, and the seam that every operator stands behind.

An operator is a frozen value with `on_run(run, ctx)`: records in, records out, in order.  One that keeps state has
`on_due(cell, ctx)` too, for cells whose time has come.  What is written here is the plain meaning; `fuse` may generate
a loop that does the same faster, and a law says that nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from streamproc.core.batch import Cell, Record

In = TypeVar("In", contravariant=True)
Out = TypeVar("Out", covariant=True)
AnyRecord = Record[Any, Any]
Run = Iterable[AnyRecord]


class Context(Protocol):
    """What an operator may do besides passing records on; it belongs to one node of one task.

    Cells are addressed by an instant in ms and a key, in one of the operator's slots.  A cell is due once
    W >= its time: it is then taken out of the state and given to `on_due`, in the order (at, slot, key bytes).
    """

    @property
    def watermark(self) -> int:
        """W of this node, in ms; START before anything is known."""
        ...

    def get(self, at: int, key: Any, *, slot: int = 0) -> Any:
        """The value of a cell, None if there is none.  It must not be changed in place."""
        ...

    def put(self, at: int, key: Any, value: Any, *, slot: int = 0) -> None: ...

    def drop(self, at: int, key: Any, *, slot: int = 0) -> None: ...

    def scan(self, key: Any, low: int, high: int, *, slot: int = 0) -> list[Cell]:
        """The cells of a key with low <= at <= high, ascending; the operator must say `by_key = True`."""
        ...

    def late(self, record: AnyRecord, window: tuple[int, int] | None = None) -> None:
        """Refuse a record as late (S20); it leaves by the late output."""
        ...

    def refuse(self, windows: int) -> None:
        """Count (record, window) pairs that were refused."""
        ...

    def skip(self, record: AnyRecord, reason: str) -> None:
        """Refuse a record for another reason of S42, such as `null_key`."""
        ...


@runtime_checkable
class Operator(Protocol[In, Out]):
    """An own operator for `via`: a frozen value with two hooks.

    `on_run` gets a run of records in order and yields results in order; cutting a run in two must not change them.
    `on_due` gets each cell whose time has come, in order (at, key bytes).  Optional attributes: `by_key = True` for
    `ctx.scan`, `slots` for more than one state, `forgets` for the slots whose cells just go when their time has come,
    `hold` (ms) by which the watermark it passes on stays behind its own.
    """

    def on_run(self, run: Iterable[Record[Any, In]], ctx: Context) -> Iterable[Record[Any, Out]]: ...

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Record[Any, Out]]: ...


@dataclass(frozen=True, slots=True)
class Map:
    """One value for one value."""

    f: Callable[[Any], Any]

    def on_run(self, run: Run, ctx: Context) -> Run:
        for r in run:
            yield Record(r.key, self.f(r.value), r.at, r.headers, r.topic, r.partition, r.offset)


@dataclass(frozen=True, slots=True)
class Filter:
    """The records whose value satisfies `f`."""

    f: Callable[[Any], Any]

    def on_run(self, run: Run, ctx: Context) -> Run:
        return (r for r in run if self.f(r.value))


@dataclass(frozen=True, slots=True)
class FlatMap:
    """Any number of values for one value, in the order `f` gives them."""

    f: Callable[[Any], Iterable[Any]]

    def on_run(self, run: Run, ctx: Context) -> Run:
        for r in run:
            for value in self.f(r.value):
                yield Record(r.key, value, r.at, r.headers, r.topic, r.partition, r.offset)


@dataclass(frozen=True, slots=True)
class KeyBy:
    """A new key for each record; one that has none is refused (`null_key`).

    `partitions` is how many its repartition topic is to have, where it needs one.  With `nulls`, records without a key
    go on, since all that follows are joins that pad them (S30).
    """

    f: Callable[[Any], Any]
    partitions: int | None = None
    nulls: bool = field(default=False, repr=False)

    def on_run(self, run: Run, ctx: Context) -> Run:
        for r in run:
            key = self.f(r.value)
            if key is None and not self.nulls:
                ctx.skip(r, "null_key")
            else:
                yield Record(key, r.value, r.at, r.headers, r.topic, r.partition, r.offset)


@dataclass(frozen=True, slots=True)
class Keyed:
    """What stands behind a source that is partitioned by its record keys: null keys are refused (S52)."""

    def on_run(self, run: Run, ctx: Context) -> Run:
        for r in run:
            if r.key is None:
                ctx.skip(r, "null_key")
            else:
                yield r


@dataclass(frozen=True, slots=True)
class Pass:
    """Every record as it is: a source, a merge, the landing of a repartition."""

    def on_run(self, run: Run, ctx: Context) -> Run:
        return run


@dataclass(frozen=True, slots=True)
class AsRecords:
    """Each record as a value of its own, with key, time, headers and place."""

    def on_run(self, run: Run, ctx: Context) -> Run:
        for r in run:
            yield Record(r.key, r, r.at, r.headers, r.topic, r.partition, r.offset)


@dataclass(frozen=True, slots=True)
class Split:
    """Routes by predicates: a record takes the first branch whose predicate holds, or is counted as unmatched.

    The branches are the nodes behind it, in order; `choose` says which.
    """

    branches: tuple[tuple[str, Callable[[Any], Any]], ...]

    def choose(self, value: Any) -> int | None:
        """The number of the first branch that takes a value."""
        for number, (_, f) in enumerate(self.branches):
            if f(value):
                return number
        return None

    def on_run(self, run: Run, ctx: Context) -> Run:
        raise NotImplementedError("a split is asked to choose, not to run")


@dataclass(frozen=True, slots=True)
class Branch:
    """One way out of a split; it passes on what the split sends here."""

    name: str

    def on_run(self, run: Run, ctx: Context) -> Run:
        return run


@dataclass(frozen=True, slots=True)
class Sink:
    """A topic to write to, with what the caller wants to decide about it (S51).

    `topic` is a name, or a function of the value among `topics`; `key`, `headers` and `timestamp` are functions of the
    value that replace what the record bears.
    """

    topic: str | Callable[[Any], str]
    topics: tuple[str, ...]
    key: Callable[[Any], Any] | None = None
    headers: Callable[[Any], Mapping[str, bytes]] | None = None
    timestamp: Callable[[Any], Any] | None = None

    def chosen(self, value: Any) -> str:
        """The topic of a value."""
        if isinstance(self.topic, str):
            return self.topic
        topic = self.topic(value)
        if topic not in self.topics:
            raise ValueError(f"to() chose the topic {topic!r}, which is not among topics={list(self.topics)}")
        return topic

    def on_run(self, run: Run, ctx: Context) -> Run:
        raise NotImplementedError("a sink is written by the task")


@dataclass(frozen=True, slots=True)
class Side:
    """The way into a join: 0 is the left side, 1 the right."""

    number: int

    def on_run(self, run: Run, ctx: Context) -> Run:
        raise NotImplementedError("a side hands its records to the join")


@dataclass(frozen=True, slots=True)
class Cross:
    """The end of a stage: records leave through a repartition topic under their new key (S46).

    `partitions` is how many that topic is to have, None to have it as those that it meets, or those it comes from.
    """

    topic: str
    partitions: int | None = None

    def on_run(self, run: Run, ctx: Context) -> Run:
        raise NotImplementedError("a crossing is written by the task")


def hold(operator: object) -> int:
    """By how much the watermark an operator passes on stays behind its own (S26)."""
    return int(getattr(operator, "hold", 0))


def is_stateful(operator: object) -> bool:
    """Whether an operator has cells, and so needs a key and a name."""
    return hasattr(operator, "on_due")
