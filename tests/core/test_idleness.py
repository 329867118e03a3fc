"""Inputs that fall silent: what a clock decides of them, and that nothing decided is ever taken back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from streamproc import Topology, TopologyError, Tumbling
from streamproc.core.batch import END, START, Crossing, Said
from streamproc.core.feed import Landed
from streamproc.core.plan import build
from streamproc.ports import Run
from streamproc.runners.bench import Bench
from streamproc.testing import TestDriver
from tests.laws import Event
from tests.semantics.scripts import bench_of

MINUTE = 60_000


def two(**how: Any) -> Topology:
    """Two sources that meet in a window of 10 ms."""
    topology = Topology("two", dead_letters="dead", **how)
    first, second = (topology.source(f"in{n}", Event, event_time=lambda e: e.ts, max_future=None) for n in (0, 1))
    first.merge(second).key_by(lambda e: e.key).window(Tumbling("10ms")).count(name="w").to("out")
    return topology


def alone(topology: Topology, partitions: int = 1) -> Bench:
    """The task that ends a plan."""
    plan = build(topology.graph(), partitions)
    return bench_of(plan, plan.stages[-1])


def run_of(*times: int) -> Run:
    """Events at these times."""
    values: list[bytes | None] = [json.dumps({"ts": ts, "key": "a", "x": 1}).encode() for ts in times]
    return Run(0, range(len(times)), values)


def worked(bench: Bench) -> int:
    """W of the window after all that can be done, and how many records that were."""
    while bench.work() is not None:
        pass
    return bench.task.sites[-1].combined.watermark


# --- under a driver -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [False, True])
def test_a_silent_source_holds_nobody(restarts: bool) -> None:  # noqa: FBT001
    """After its timeout a source that never delivered lets the others go on; a restart does not revise that."""
    with TestDriver(two(), clock=0) as t:
        t.send("in0", Event(5, "a", 1))
        t.advance_wall(MINUTE - 1)
        t.send("in0", Event(6, "a", 1))
        assert t.watermark("w") == START
        t.advance_wall(1)
        if restarts:
            t.restart()
        t.send("in0", Event(20, "a", 1))
        assert (t.watermark("w"), [row.value for row in t.read("out")]) == (20, [2])
        t.send("in1", Event(8, "a", 1))
        assert (t.watermark("w"), t.late("w")) == (20, 1)
        t.send("in0", Event(25, "a", 1))
        assert t.watermark("w") == 25
        t.send("in1", Event(30, "a", 1))
        t.send("in0", Event(50, "a", 1))
        assert t.watermark("w") == 30


def test_a_decision_that_was_not_committed_is_taken_again() -> None:
    """The commit after the silence fails, and the silence still counts."""
    with TestDriver(two(), clock=0) as t:
        t.send("in0", Event(5, "a", 1))
        t.fail_next_commit()
        t.advance_wall(MINUTE)
        t.send("in0", Event(20, "a", 1))
        assert t.watermark("w") == 20


def test_time_stands_still_while_all_are_silent() -> None:
    """With `all_idle="hold"`, the default, nothing closes by the clock alone."""
    with TestDriver(two(), clock=0) as t:
        t.send("in0", Event(5, "a", 1))
        t.send("in1", Event(7, "a", 1))
        t.advance_wall(10 * MINUTE)
        assert (t.watermark("w"), t.read("out")) == (5, [])


@pytest.mark.parametrize("partitions", [1, 2])
def test_time_flows_while_all_are_silent(partitions: int) -> None:
    """With `all_idle="advance"` the last windows close too, behind a repartition as well, and stay closed."""
    with TestDriver(two(all_idle="advance"), partitions=partitions, clock=0) as t:
        t.send("in0", Event(5, "a", 1), partition=0)
        t.send("in1", Event(7, "a", 1), partition=0)
        t.advance_wall(MINUTE)
        assert (t.watermark("w"), [row.value for row in t.read("out")]) == (MINUTE + 5, [2])
        t.restart()
        assert t.watermark("w") == MINUTE + 5
        t.send("in1", Event(40, "a", 1), partition=0)
        assert (t.watermark("w"), t.late("w")) == (MINUTE + 5, 1)
        t.advance_wall(2 * MINUTE)
        assert t.watermark("w") >= 2 * MINUTE


def test_a_source_may_be_waited_for() -> None:
    """With `idle_timeout=None` an input is never idle."""
    topology = Topology("patient")
    how: dict[str, Any] = {"event_time": lambda e: e.ts, "max_future": None}
    first, second = topology.source("in0", Event, **how), topology.source("in1", Event, idle_timeout=None, **how)
    first.merge(second).key_by(lambda e: e.key).window(Tumbling("10ms")).count(name="w").to("out")
    with TestDriver(topology, clock=0) as t:
        t.send("in0", Event(5, "a", 1))
        t.advance_wall(10**9)
        t.send("in0", Event(6, "a", 1))
        assert t.watermark("w") == START


# --- alone --------------------------------------------------------------------------------------------------


def test_only_silence_that_is_known_counts() -> None:
    """Not the time with lag, of unknown lag, or in which records wait to be taken; a refused record is no sign."""
    bench = alone(two())
    now = 0

    def look(lag: int | None, span: int) -> bool:
        nonlocal now
        now += span
        bench.lags("in0", 0, now)
        bench.lags("in1", lag, now)
        worked(bench)
        return bench.task.times[1].idle

    assert not look(0, 0)
    assert not look(0, MINUTE - 10)
    assert not look(5, 10 * MINUTE)
    assert not look(0, 10 * MINUTE)  # for all that is known it was behind until just now
    assert not look(0, 9)
    bench.offer("in1", Run(0, [0], [b"{bad"]), None)
    assert not look(0, 1)  # it waits to be taken
    assert look(0, 1)

    bench.aborted()
    bench.offer("in1", run_of(5), None)  # waits for in0, which is awaited at first
    assert bench.work() is None
    bench.lags("in1", 0, 0)
    bench.lags("in1", 0, 5 * MINUTE)
    assert bench.work() is None
    bench.lags("in0", 0, 0)
    worked(bench)
    bench.lags("in1", 0, 5 * MINUTE + 100)
    worked(bench)
    assert not bench.task.times[1].idle


def test_an_idle_input_is_not_awaited() -> None:
    """However far its lag is known by then, the others go on without it (S39)."""
    bench = alone(two())
    for now in (0, MINUTE):
        bench.lags("in1", 0, now)
    worked(bench)
    bench.lags("in1", None, MINUTE)
    bench.offer("in0", run_of(5), None)
    bench.lags("in0", 0, MINUTE)
    assert worked(bench) == 5


def test_max_wait_awaits_an_input_that_has_nothing_more() -> None:
    """So long after its lag is 0, or for ever; an idle one is not awaited even then."""
    for max_wait, waits in (("0s", [False, False, False]), ("2s", [True, False, False]), (None, [True, True, False])):
        seen = []
        for now in (1_000, 3_000, MINUTE):
            bench = alone(two(max_wait=max_wait))
            bench.offer("in0", run_of(5), None)
            bench.lags("in0", 0, 0)
            bench.lags("in1", 0, 0)
            bench.lags("in1", 0, now)
            seen.append(bench.work() is None)
            if now == MINUTE:  # the decision is a step of its own
                seen[-1] = bench.task.offsets == {}
        assert seen == waits, max_wait


def test_max_wait_awaits_upstream_tasks_too() -> None:
    """Behind a topic, until all of them are idle or have ended."""
    topology = Topology("two", max_wait=None)
    how: dict[str, Any] = {"event_time": lambda e: e.ts, "max_future": None}
    first, second = topology.source("in0", Event, **how), topology.source("in1", Event, key=str, **how)
    first.key_by(lambda e: e.key).merge(second).window(Tumbling("10ms")).count(name="w").to("out")
    bench = alone(topology, 2)
    topic = next(topic for topic in bench.topics if topic != "in1")
    bench.offer("in1", Run(0, [0], run_of(5).values, [b"a"]), None)
    for now in (0, MINUTE):
        bench.lags("in1", None, now)
        bench.lags(topic, 0, now)
    assert bench.work() is None
    bench.land(topic, [Landed(0, 0, 1, Said(3, idle=True))], 1)
    bench.land(topic, [Landed(1, 1, 1, Said(END))], 2)
    worked(bench)
    assert bench.offset("in1") == 1


def test_upstream_tasks_that_are_all_idle_flow_on_together() -> None:
    """Behind a topic, with `advance`, W is the least of what idle tasks say; with `hold` it stays."""
    for all_idle, wanted in (("hold", 40), ("advance", 70)):
        bench = alone(two(all_idle=all_idle), 3)
        (topic,) = bench.topics
        said = [Said(100), Said(40), Said(START, idle=True), Said(100, idle=True), Said(40, idle=True)]
        rows = [Landed(n, (0, 1, 2, 0, 1)[n], 1, one) for n, one in enumerate(said)]
        bench.land(topic, rows, 5)
        assert worked(bench) == 40
        bench.land(topic, [Landed(5, 0, 1, Said(130, idle=True)), Landed(6, 1, 1, Said(70, idle=True))], 7)
        assert worked(bench) == wanted
        bench.land(topic, [Landed(7, 1, 1, Crossing("a", Event(1, "a", 1), 1, (), ("in0", 1, 1), b"a"))], 8)
        assert worked(bench) == wanted  # a record of the topic is no sign of life, its task's mark is


def test_those_that_hold_w_are_named() -> None:
    """Active and aligned inputs; while all are idle, all of them."""
    bench = alone(two())
    bench.offer("in0", run_of(50), None)
    bench.await_("in1", awaited=False)
    worked(bench)
    assert bench.task.holders() == {0, 1}
    for number in (1, 0):
        bench.task.times[number].falls_silent()
        bench.task.advance()
    assert bench.task.holders() == {0, 1}
    bench.offer("in1", run_of(20), None)
    worked(bench)
    assert (bench.task.holders(), bench.task.sites[-1].combined.watermark) == ({1}, 50)
    bench.offer("in0", run_of(60), None)
    worked(bench)
    assert bench.task.holders() == {0}


# --- what is said wrong -------------------------------------------------------------------------------------


def test_what_cannot_be_meant_is_refused() -> None:
    """Another policy, another start, a duration without a unit."""
    with pytest.raises(TopologyError, match="all_idle"):
        Topology("t", all_idle="stop")  # type: ignore[arg-type]
    with pytest.raises(TopologyError, match="max_wait"):
        Topology("t", max_wait=5)  # type: ignore[arg-type]
    for start in ("newest", 5):
        with pytest.raises(TopologyError, match="start="):
            Topology("t").source("in", Event, event_time=lambda e: e.ts, start=start)  # type: ignore[call-overload]
