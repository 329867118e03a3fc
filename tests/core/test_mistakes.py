"""Bugs that were found once, each as the smallest case that shows it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from streamproc import NEVER, Cell, Context, Count, Hopping, Record, Topology, TopologyError, Trailing, Tumbling
from streamproc.core.plan import build
from streamproc.testing import TestDriver
from tests.laws import Cut, Event, World, run


def lines(*events: Event) -> list[bytes]:
    """Events as messages."""
    return [json.dumps({"ts": e.ts, "key": e.key, "x": e.x}).encode() for e in events]


def values(outcome: Any, topic: str) -> list[Any]:
    """What was written to a topic, over all partitions."""
    rows = [row for (name, _), rows in sorted(outcome.rows.items()) if name == topic for row in rows]
    return sorted((json.loads(row.value) for row in rows), key=json.dumps)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_two_rekeys_that_meet_have_a_topic_each(fused: bool) -> None:  # noqa: FBT001
    """Two streams, each keyed anew and then merged, give on several partitions what they give on one."""

    def twice() -> Topology:
        topology = Topology("twice")
        first, second = (topology.source(f"in{n}", Event, event_time=lambda e: e.ts, disorder="1m") for n in (0, 1))
        first.key_by(lambda e: e.key).merge(second.key_by(lambda e: e.key)).window(Tumbling("10ms")).count(name="w").to(
            "out"
        )
        return topology

    log = lines(Event(1, "a", 1), Event(2, "b", 1), Event(12, "a", 1))
    logs = {"in0": log, "in1": log}
    cut = run(twice(), logs, Cut((2,), ("commit", "crash")), fused=fused, partitions=3)
    assert values(cut, "out") == values(run(twice(), logs), "out") != []
    topics = [inlet.topic for inlet in build(twice().graph(), 2).inlets if inlet.source is None]
    assert sorted(topics) == ["twice-w-repartition", "twice-w_2-repartition"]


def test_a_branch_may_have_several_consumers() -> None:
    """What a split sends to a branch may be used more than once."""
    topology = Topology("branches")
    branches = topology.source("in", Event, event_time=lambda e: e.ts).split(odd=lambda e: e.x % 2, even=lambda _: True)
    branches["odd"].map(lambda e: e.x).to("out")
    branches["odd"].key_by(lambda e: e.key).window(Tumbling("10ms")).count(name="odd").to("counts")
    outcome = run(topology, {"in": lines(Event(1, "a", 1), Event(2, "a", 2), Event(3, "a", 3))})
    assert values(outcome, "out") == [1, 3]
    assert [row["value"] for row in values(outcome, "counts")] == [2]


def test_ways_that_meet_again_count_twice() -> None:
    """A record that comes to a window by two ways counts twice, however each way is run."""

    def meeting() -> Topology:
        topology = Topology("meeting")
        events = topology.source("in", Event, event_time=lambda e: e.ts)
        twice = events.flat_map(lambda e: [e, e]).merge(events)
        twice.key_by(lambda e: e.key).window(Tumbling("10ms")).count(name="n").to("out")
        return topology

    log = {"in": lines(Event(1, "a", 1), Event(2, "a", 1))}
    assert run(meeting(), log) == run(meeting(), log, fused=False)
    assert [row["value"] for row in values(run(meeting(), log), "out")] == [6]


def test_an_event_time_that_raises_has_found_no_timestamp() -> None:
    """A record whose event time cannot be computed is a dead letter with `invalid_timestamp`, nothing else."""
    topology = Topology("stampless", dead_letters="dead")
    topology.source("in", dict, event_time=lambda e: e["ts"]).to("out")
    with TestDriver(topology) as driver:
        driver.send("in", {"ts": 1}, {"other": 1}, {"ts": 2})
        assert [(letter.reason, letter.offset) for letter in driver.dead_letters()] == [("invalid_timestamp", 1)]
        assert driver.read("out") == [{"ts": 1}, {"ts": 2}]


def test_a_record_from_the_future_tells_its_time() -> None:
    """The dead letter of a record too far ahead says how far: its event time is known."""
    topology = Topology("ahead", dead_letters="dead")
    topology.source("in", Event, event_time=lambda e: e.ts, max_future="5s").to("out")
    world = World(topology, {"in": lines(Event(9_999, "a", 1), Event(3, "a", 1))}, fused=True, partitions=1)
    world.offer("in", 2)
    assert [(letter.reason, letter.at) for letter in world.close().dead] == [("future_timestamp", 9_999)]


class Unwritable:
    """A key or value that nothing can encode."""


@pytest.mark.parametrize("partitions", [1, 2])
def test_what_cannot_be_written_is_a_dead_letter_wherever_it_would_be(partitions: int) -> None:
    """A key that has no bytes, at a crossing or at a window, and a late record without bytes, are dead letters."""
    topology = Topology("unwritable", dead_letters="dead")
    events = topology.source("in", Event, event_time=lambda e: e.ts)
    (
        events.map(lambda e: Unwritable() if e.x == 7 else e.x)
        .key_by(lambda x: "k" if (isinstance(x, int) and x < 5) or isinstance(x, Unwritable) else Unwritable())
        .window(Tumbling("10ms"), late="late")
        .count(name="n")
        .to("out")
    )
    log = lines(Event(1, "a", 1), Event(2, "a", 6), Event(30, "a", 2), Event(3, "a", 7), Event(31, "a", 3))
    outcome = run(topology, {"in": log}, partitions=partitions)
    assert {letter.reason for letter in outcome.dead} <= {"serialization_error", "processing_error"}
    assert len(outcome.dead) == (2 if partitions == 1 else 1)
    assert sum(row["value"] for row in values(outcome, "out")) >= 3


def test_a_failing_close_is_repeated_as_its_policy_says() -> None:
    """`retry` holds for what follows from a closing window, as for a record."""
    calls: list[int] = []

    def flaky(result: Any) -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("not yet")
        return int(result.value)

    topology = Topology("flaky", dead_letters="dead")
    counts = (
        topology.source("in", Event, event_time=lambda e: e.ts)
        .key_by(lambda e: e.key)
        .window(Tumbling("10ms"))
        .count(name="n")
    )
    counts.map(flaky).on_error("processing_error", then="dead_letter", retry=2).to("out")
    outcome = run(topology, {"in": lines(Event(1, "a", 1))}, fused=False)
    assert (values(outcome, "out"), outcome.dead) == ([1], [])
    assert outcome.counts["retries"] == {"map": 2}


def test_a_dead_letter_topic_is_no_source() -> None:
    """What is read cannot be written to, dead letters included: they would come back in."""
    for topology in (Topology("loop", dead_letters="in"), Topology("loop")):
        events = topology.source("in", Event, event_time=lambda e: e.ts)
        if topology.dead_letters is None:
            events.on_error(then="dead_letter", topic="in")
        events.to("out")
        with pytest.raises(TopologyError, match="'in' is read and written"):
            build(topology.graph())


def test_a_hopping_window_has_a_limit() -> None:
    """A record in a million windows at once is a mistake in the advance, and is said to be one."""
    with pytest.raises(TopologyError, match="3,600,000 windows"):
        Hopping("1h", advance="1ms")


def test_headers_are_bytes() -> None:
    """A header that is not bytes is refused where it is made, not where it is read."""
    topology = Topology("headers", dead_letters="dead")
    header: Any = "text"
    topology.source("in", Event, event_time=lambda e: e.ts).to("out", headers=lambda _: {"h": header})
    with TestDriver(topology) as driver:
        driver.send("in", Event(1, "a", 1))
        assert [(letter.reason, letter.exception) for letter in driver.dead_letters()] == [
            ("processing_error", "TypeError")
        ]


def test_trailing_windows_are_counted() -> None:
    """An event that waits is an open window; its result closes it."""
    topology = Topology("counted")
    keyed = topology.source("in", Event, event_time=lambda e: e.ts).key_by(lambda e: e.key)
    keyed.window(Trailing("10ms")).count(name="n").to("out")
    outcome = run(topology, {"in": lines(Event(1, "a", 1), Event(1, "a", 1), Event(5, "a", 1))})
    assert (outcome.counts["opened"], outcome.counts["closed"]) == ({"n": 3}, {"n": 3})


class Again:
    """An own operator that asks to be called again at an instant that has passed."""

    def on_run(self, run: Iterable[Record[Any, Event]], ctx: Context) -> Iterable[Record[Any, Event]]:
        """Keep the record until an instant before it."""
        for record in run:
            ctx.put(record.at - 5, record.key, record.value)
        return ()

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Record[Any, Event]]:
        """Pass it on."""
        assert ctx.get(NEVER, cell.key) is None
        yield Record(cell.key, cell.value, cell.at)


def test_a_timer_in_the_past_is_due_behind_its_record() -> None:
    """A cell whose time has come when it is put is due at once, whatever else is in the slice."""

    def late_timer() -> Topology:
        topology = Topology("timer")
        topology.source("in", Event, event_time=lambda e: e.ts).key_by(lambda e: e.key).via(Again(), name="again").map(
            lambda e: e.x
        ).to("out")
        return topology

    log = {"in": lines(*(Event(n, "a", n) for n in (10, 11, 9, 12)))}
    at_once, plain = run(late_timer(), log), run(late_timer(), log, Cut((1,), ("commit",)), fused=False)
    assert at_once == plain
    assert [json.loads(row.value) for row in at_once.rows["out", 0]] == [10, 11, 9, 12]


def test_named_counts() -> None:
    """Aggregates by name are counted and written as a record."""
    topology = Topology("named")
    keyed = topology.source("in", Event, event_time=lambda e: e.ts).key_by(lambda e: e.key)
    keyed.window(Tumbling("10ms")).agg(n=Count(), name="w").map(lambda w: w.value.n).to("out")
    assert values(run(topology, {"in": lines(Event(1, "a", 1))}), "out") == [1]
