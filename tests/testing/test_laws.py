"""`verify`: what it finds out, each with the smallest operator that breaks it."""

# ruff: noqa: ARG002, FBT003 - own operators have two hooks, whether they need all of them or not

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some

from streamproc import NEVER, Cell, Context, Hopping, Record, Sum, Topology, Trailing, Tumbling, WindowResult
from streamproc.testing import verify


class Tick(msgspec.Struct, frozen=True):
    """An event with a number."""

    ts: int
    n: int = 1
    key: str = "a"


Ticks = Iterable[Record[Any, Any]]
Results = Iterable[Record[Any, Any]]
TICKS = [
    ("ticks", Tick(ts, n, key)) for ts, n, key in ((1, 5, "a"), (2, 6, "b"), (2, 5, "a"), (9, 7, "b"), (4, 5, "a"))
]


def of(operator: Any) -> Topology:
    """A topology that is little more than one operator."""
    topology = Topology("one")
    topology.source("ticks", Tick, event_time=lambda t: t.ts).key_by(lambda t: t.key).via(operator, name="own").to(
        "out"
    )
    return topology


def windows(disorder: str = "0s", *, dead_letters: str | None = "dead") -> Topology:
    """Windows of every kind there is, in branches of one stream."""
    topology = Topology("windows", dead_letters=dead_letters)
    ticks = topology.source("ticks", Tick, event_time=lambda t: t.ts, disorder=disorder).filter(lambda t: t.n)
    keyed = ticks.key_by(lambda t: t.key)
    keyed.window(Tumbling("10ms", grace="3ms"), late="late").agg(Sum(of=lambda t: t.n), name="sums").to("sums")
    keyed.window(Hopping("10ms", advance="4ms")).count(name="hops").to("hops")
    keyed.window(Hopping("6ms", advance="3ms")).count(name="news", emit="on_update").to("news")
    keyed.window(Trailing("5ms")).count(name="trail").to("trail")
    return topology


@dataclass(frozen=True, slots=True)
class Firsts:
    """The first record of each key, forgotten `ttl` ms later: an operator as it should be."""

    ttl: int

    def on_run(self, run: Ticks, ctx: Context) -> Results:
        for record in run:
            if ctx.get(NEVER, record.key) is None:
                ctx.put(NEVER, record.key, True)
                ctx.put(record.at + self.ttl, record.key, True)
                yield record

    def on_due(self, cell: Cell, ctx: Context) -> Results:
        ctx.drop(NEVER, cell.key)
        return ()


@dataclass(frozen=True, slots=True)
class PerRun:
    """Wrong: adds to each record the length of the run it happened to be in."""

    def on_run(self, run: Ticks, ctx: Context) -> Results:
        records = list(run)
        for record in records:
            yield record._replace(value=[record.value.n, len(records)])

    def on_due(self, cell: Cell, ctx: Context) -> Results:
        return ()


@dataclass(frozen=True)
class Remembers:
    """Wrong: counts in itself instead of in cells."""

    counted: dict[str, int] = field(default_factory=dict)

    def on_run(self, run: Ticks, ctx: Context) -> Results:
        for record in run:
            self.counted[record.key] = self.counted.get(record.key, 0) + 1
            yield record._replace(value=self.counted[record.key])

    def on_due(self, cell: Cell, ctx: Context) -> Results:
        return ()


@dataclass(frozen=True)
class Forgets:
    """Wrong: counts in itself, anew whenever it sees W at its very beginning, so that two calm runs agree."""

    counted: dict[str, int] = field(default_factory=dict)

    def on_run(self, run: Ticks, ctx: Context) -> Results:
        for record in run:
            if ctx.get(NEVER, "begun") is None:
                self.counted.clear()
                ctx.put(NEVER, "begun", True)
            self.counted[record.key] = self.counted.get(record.key, 0) + 1
            yield record._replace(value=self.counted[record.key])

    def on_due(self, cell: Cell, ctx: Context) -> Results:
        return ()


@dataclass(frozen=True)
class ChangesInPlace:
    """Wrong: changes a value that it got from its cells, where nobody can undo or store it."""

    def on_run(self, run: Ticks, ctx: Context) -> Results:
        for record in run:
            held = ctx.get(NEVER, record.key)
            if held is None:
                ctx.put(NEVER, record.key, [record.value.n])
            else:
                held.append(record.value.n)
            yield record._replace(value=list(ctx.get(NEVER, record.key)))

    def on_due(self, cell: Cell, ctx: Context) -> Results:
        return ()


@pytest.mark.parametrize("partitions", [1, 3])
def test_windows_are_the_same_however_they_run(partitions: int) -> None:
    """The windows of this library pass, and leave nothing behind."""
    found = verify(windows("10ms"), given=TICKS, partitions=partitions)
    assert sorted(result.value for result in found["sums"]) == [13, 15]


def test_late_records_and_poison_are_the_same_too() -> None:
    """Late records, dead letters and tombstones come out alike, and are part of what is returned."""
    found = verify(windows(), given=[*TICKS, ("ticks", Tick(99)), ("ticks", Tick(3)), ("ticks", b"{"), ("ticks", b"1")])
    assert found["late"] == [Tick(3)]
    assert b"{" in found["dead"]


ticks = some.builds(Tick, some.integers(0, 30), some.integers(0, 2), some.sampled_from("ab"))


@given(some.lists(ticks | some.just(b"poison"), max_size=20))
def test_any_input_at_all(found: list[Any]) -> None:
    """No input makes any way of running the windows differ from another."""
    verify(windows(), given={"ticks": found}, seeds=1)


def two_sources() -> Topology:
    """A merge of two sources, where the processing order decides about first, last and late."""
    topology = Topology("two", dead_letters="dead")
    a = topology.source("a", Tick, event_time=lambda t: t.ts)
    b = topology.source("b", Tick, event_time=lambda t: t.ts)
    both = a.merge(b).key_by(lambda t: t.key)
    both.via(Firsts(3), name="firsts").to("firsts")
    both.window(Tumbling("5ms"), late="late").count(name="counts").to("counts")
    a.to("a-out")
    return topology


@given(some.lists(some.tuples(some.sampled_from("ab"), ticks | some.just(b"poison")), max_size=16))
def test_two_sources_have_one_order(found: list[Any]) -> None:
    """The processing order of several inputs is a function of their logs, so all ways to run agree."""
    verify(two_sources(), given=found, seeds=2, empty_at_end=True)


@given(some.lists(some.tuples(some.sampled_from("ab"), ticks), max_size=16), some.integers(1, 3))
def test_two_sources_of_several_partitions(found: list[Any], partitions: int) -> None:
    """Co-partitioned sources by key need no crossing, and have one order in each of their tasks."""
    topology = Topology("two", dead_letters="dead")
    a = topology.source("a", Tick, event_time=lambda t: t.ts, key=str)
    b = topology.source("b", Tick, event_time=lambda t: t.ts, key=str, disorder="5ms")
    a.merge(b).window(Hopping("6ms", advance="2ms", grace="1ms"), late="late").count(name="counts").to("counts")
    verify(topology, given=[(topic, tick, tick.key) for topic, tick in found], partitions=partitions, seeds=2)


@given(some.lists(ticks, max_size=20))
def test_a_failing_function_leaves_no_trace(found: list[Tick]) -> None:
    """A record that fails in one branch is undone in all of them, however it runs (S44)."""
    topology = Topology("fails", dead_letters="dead")
    keyed = topology.source("ticks", Tick, event_time=lambda t: t.ts).key_by(lambda t: t.key)
    keyed.window(Tumbling("4ms", grace="2ms")).agg(Sum(of=lambda t: 10 // t.n), name="sums").to("sums")
    keyed.window(Trailing("4ms")).count(name="trail").map(lambda r: 6 // (r.value - 2)).to("trail")
    keyed.via(Firsts(3), name="firsts").map(lambda t: 6 // (t.n - 1)).to("firsts")
    out = verify(topology, given={"ticks": found}, seeds=1)
    assert all(value is not None for value in out.get("sums", []))


def test_the_end_behind_waiting_records_moves_positions() -> None:
    """Records that waited for another input until it ended are committed with their positions, and read once."""
    given_ = [("a", Tick(1)), ("a", Tick(2)), ("b", Tick(3)), ("b", Tick(9, 0)), ("b", b"poison")]
    found = verify(two_sources(), given=given_)
    assert found["dead"] == [b"poison"]
    assert found["a-out"] == [Tick(1), Tick(2)]


def test_an_own_operator_that_keeps_the_rules_passes() -> None:
    """An operator whose memory is in cells gives the same, however it runs."""
    out = verify(of(Firsts(5)), given=TICKS)["out"]
    assert out == [Tick(1, 5, "a"), Tick(2, 6, "b"), Tick(9, 7, "b"), Tick(4, 5, "a")]


@pytest.mark.parametrize(
    ("operator", "says"),
    [
        (PerRun(), "runs of many records"),
        (Remembers(), "a second time differs"),
        (Forgets(), "with a crash before and after"),
        (ChangesInPlace(), "with a crash before and after"),
    ],
)
def test_an_operator_that_breaks_a_rule_is_found_out(operator: Any, says: str) -> None:
    """What depends on cuts, or is kept outside of cells, makes two ways to run differ, and the error says which."""
    with pytest.raises(AssertionError, match=says):
        verify(of(operator), given=TICKS, empty_at_end=False)


def test_what_is_left_behind_is_shown() -> None:
    """State that stays when all inputs have ended is an error, unless it is meant to."""
    with pytest.raises(AssertionError, match="cells of node 'own' are left"):
        verify(of(Keeps()), given=TICKS)
    verify(of(Keeps()), given=TICKS, empty_at_end=False)


@dataclass(frozen=True)
class Keeps:
    """Keeps the last record of each key for ever."""

    def on_run(self, run: Ticks, ctx: Context) -> Results:
        for record in run:
            ctx.put(NEVER, record.key, record.value)
            yield record

    def on_due(self, cell: Cell, ctx: Context) -> Results:
        return ()


def test_state_that_cannot_be_stored_is_found_out() -> None:
    """A value that is no longer the same after it was bytes is an error already in a test."""
    with pytest.raises(Exception, match="cannot be kept in state"):
        verify(of(KeepsAFunction()), given=TICKS, empty_at_end=False)


@dataclass(frozen=True)
class KeepsAFunction:
    """Wrong: puts into its cells what has no bytes."""

    def on_run(self, run: Ticks, ctx: Context) -> Results:
        for record in run:
            ctx.put(NEVER, record.key, lambda kept=record: kept)
            yield record

    def on_due(self, cell: Cell, ctx: Context) -> Results:
        return ()


def counts() -> Topology:
    """Ticks per key and 10 ms."""
    topology = Topology("counts")
    keyed = topology.source("ticks", Tick, event_time=lambda t: t.ts).key_by(lambda t: t.key)
    keyed.window(Tumbling("10ms")).count(name="counts").to("out")
    return topology


def test_what_is_expected_is_compared() -> None:
    """With `expect` the outputs must be those, of several partitions in any order; a difference is shown."""
    right = [WindowResult("a", 0, 10, 3), WindowResult("b", 0, 10, 2)]
    verify(counts(), given=TICKS, expect={"out": right})
    sorted_by_time = sorted(TICKS, key=lambda pair: pair[1].ts)
    verify(counts(), given=sorted_by_time, expect={"out": right[::-1]}, partitions=2)
    with pytest.raises(
        AssertionError, match=r"(?s)'out' has other values than expected.*-WindowResult.*\+WindowResult"
    ):
        verify(counts(), given=TICKS, expect={"out": [WindowResult("a", 0, 10, 2), right[1]]})
    with pytest.raises(AssertionError, match="'out' has other values"):
        verify(counts(), given=TICKS, expect={})


def test_an_input_that_does_not_exist_is_told_which_do() -> None:
    """An unknown topic names the sources."""
    with pytest.raises(Exception, match="there is ticks"):
        verify(counts(), given=[("tocks", Tick(1))])
