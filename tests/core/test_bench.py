"""A task hosted alone, between logs that are read by offset: what moves its position, and what a crash leaves of it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from streamproc import Topology, Tumbling
from streamproc.core.batch import END, START, Crossing, Emit, Said
from streamproc.core.errors import StateError
from streamproc.core.feed import SLICE, Landed, Slice
from streamproc.core.partition import partition
from streamproc.core.plan import Plan, build
from streamproc.core.state import MemoryStore
from streamproc.ports import Run
from streamproc.runners.bench import Bench
from tests.laws import Cut, Event, run
from tests.semantics.scripts import bench_of


def counted(*, merged: bool = False, disorder: str = "1m", partitions: int | None = None) -> Topology:
    """Events counted by key; with `merged`, also those of a source that is partitioned by that key."""
    topology = Topology("law", dead_letters="dead")
    events: Any = topology.source("in0", Event, event_time=lambda e: e.ts, disorder=disorder, max_future="5s")
    events = events.key_by(lambda e: e.key, partitions=partitions)
    if merged:
        events = events.merge(topology.source("in1", Event, event_time=lambda e: e.ts, disorder=disorder, key=str))
    events.window(Tumbling("10ms")).count(name="w").to("out")
    return topology


def message(ts: int, key: str = "a") -> bytes:
    """An event as it is sent."""
    return json.dumps({"ts": ts, "key": key, "x": 1}).encode()


def crossing(ts: int, key: str = "a") -> Crossing:
    """An event on its way through a repartition topic."""
    return Crossing(key, Event(ts, key, 1), ts, (), ("in0", 0, ts), key.encode())


def first(plan: Plan, **how: Any) -> Bench:
    """Task 0 of the stage that begins a plan."""
    return bench_of(plan, plan.stages[0], **how)


def last(plan: Plan, **how: Any) -> Bench:
    """Task 0 of the stage that ends a plan."""
    return bench_of(plan, plan.stages[-1], **how)


TOPIC = "law-w-repartition"


# --- positions ----------------------------------------------------------------------------------------------


def test_a_run_says_where_to_read_on() -> None:
    """Markers behind the last record are passed over with it; a run of markers alone moves the position alone."""
    bench = first(build(counted().graph()))
    assert bench.offset("in0") is None
    bench.begin("in0", 7)
    assert bench.offset("in0") == 7
    bench.offer("in0", Run(0, [7, 9], [message(1), message(2)], next_offset=11), None)
    step = bench.work()
    assert step is not None
    assert (step.records, bench.offset("in0")) == (2, 11)
    bench.offer("in0", Run(0, [], [], next_offset=15), None)
    step = bench.work()
    assert step is not None
    assert (step.records, step.positions, bench.offset("in0")) == (0, {0: 15}, 15)
    assert bench.work() is None
    assert bench.position()["offsets"] == {"in0": 15}


def test_a_position_waits_for_what_stands_before_it() -> None:
    """Of a run that is cut into slices, only the end of the last one is where the run says to read on."""
    bench = first(build(counted().graph()))
    count = SLICE + 1
    bench.offer("in0", Run(0, range(count), [message(1)] * count, next_offset=count + 5), None)
    found = []
    while bench.work() is not None:
        found.append(bench.offset("in0"))
    assert found == [SLICE, count + 5]


def test_an_awaited_input_holds_no_marker_of_another() -> None:
    """While a merge waits for an input, records of another stay, and a run without records still moves its position."""
    bench = last(build(counted(merged=True).graph(), 2))
    bench.land(TOPIC, [], 4)
    assert bench.work() is not None
    assert bench.offset(TOPIC) == 4
    bench.land(TOPIC, [Landed(4, 0, 1, Said(3)), Landed(5, 0, 1, crossing(5)), Landed(6, 1, 1, Said(9))], 8)
    assert bench.work() is not None
    assert (bench.offset(TOPIC), bench.work()) == (5, None)
    bench.await_("in1", awaited=False)
    step = bench.work()
    assert step is not None
    assert (step.records, bench.offset(TOPIC), bench.offset("in1")) == (1, 8, None)


def test_a_mark_alone_moves_the_position() -> None:
    """Behind a repartition topic the position is that of the one partition, whoever wrote there."""
    bench = last(build(counted().graph(), 3))
    rows = [Landed(0, 2, 1, crossing(5)), Landed(1, 2, 1, Said(9)), Landed(3, 0, 1, Said(9)), Landed(5, 1, 1, Said(20))]
    seen = []
    for row in rows:
        bench.land(TOPIC, [row], row.offset + 2)
        step = bench.work()
        assert step is not None
        seen.append((step.watermarks["w"], bench.offset(TOPIC)))
    assert seen == [(START, 2), (START, 3), (START, 5), (9, 7)]
    assert bench.position()["offsets"] == {TOPIC: 7}
    assert "waiting" not in bench.position()


# --- upstream tasks -----------------------------------------------------------------------------------------


def test_what_a_replaced_incarnation_sent_is_passed_over() -> None:
    """From the first record of a higher incarnation on, records and marks of a lower one count nowhere."""
    plan = build(counted().graph(), 2)
    rows = [
        Landed(0, 0, 1, Said(3)),
        Landed(1, 0, 2, crossing(7)),
        Landed(2, 0, 1, crossing(8)),
        Landed(3, 0, 1, Said(50, idle=True)),
        Landed(4, 1, 1, Said(30)),
    ]
    for cut in range(len(rows) + 1):  # with a restart in front of any of them
        store, bench = MemoryStore(), last(plan)
        bench = last(plan, store=store)
        counts = 0
        for part in (rows[:cut], rows[cut:]):
            if part:
                bench.land(TOPIC, part, part[-1].offset + 1)
                step = bench.work()
                assert step is not None
                counts += step.counts.records_in.get("w", 0)
            position = bench.position()
            bench.committed(bench.changes(), position)
            bench = last(plan, store=store, settled=position)
        assert counts == 1
        assert bench.task.sites[-1].combined.watermark == 3
        assert bench.position()["inputs"][f"{TOPIC}/0"] == [START, 3, False, False, START, 2]


def test_an_upstream_task_that_should_not_be_is_refused() -> None:
    """A record of a task beyond those of the plan stops the task: the input had another number of partitions."""
    with pytest.raises(StateError, match="more than 2 upstream tasks"):
        last(build(counted().graph(), 2)).land(TOPIC, [Landed(0, 2, 1, crossing(1))], 1)


def test_what_is_wrong_with_slices_names_topic_and_partition() -> None:
    """Whoever makes them knows neither."""

    def slices(first: int, incarnations: list[int]) -> list[Slice]:
        raise StateError(f"{len(incarnations)} tasks from {first} on")

    bench = last(build(counted().graph(), 2))
    with pytest.raises(StateError, match=f"{TOPIC}/{bench.number}: 2 tasks"):
        bench.land_slices(TOPIC, slices, heard=True)


def test_a_task_says_idle_if_all_its_inputs_are() -> None:
    """The mark of a task that never had a record says so too, and holds nobody behind the topic."""
    plan = build(counted().graph(), 2)
    bench, after = first(plan), last(plan)
    assert bench.said() == {TOPIC: Said(START)}
    bench.task.times[0].falls_silent()
    assert bench.said() == {TOPIC: Said(START, idle=True)}
    after.land(TOPIC, [Landed(0, 1, 1, Said(40)), Landed(1, 0, 1, bench.said()[TOPIC])], 2)
    step = after.work()
    assert step is not None
    assert step.watermarks["w"] == 40


# --- commits ------------------------------------------------------------------------------------------------


def test_an_aborted_commit_puts_everything_back() -> None:
    """State, time, positions and what was at hand are those of the last commit, and reading goes on from there."""
    bench = first(build(counted(disorder="0ms").graph()))
    bench.offer("in0", Run(0, [0, 1], [message(1), message(12)]), None)
    bench.work()
    bench.committed(bench.changes(), bench.position())
    settled = bench.position()
    bench.offer("in0", Run(0, [2], [message(30)]), None)
    bench.work()
    bench.offer("in0", Run(0, [3], [message(40)]), None)
    bench.aborted()
    assert (bench.offset("in0"), bench.holds("in0"), bench.work(), bench.position()) == (2, 0, None, settled)
    bench.offer("in0", Run(0, [2], [message(30)]), None)
    step = bench.work()
    assert step is not None
    assert [json.loads(row.value or b"")["start"] for row in step.emits["out"]] == [10]


def test_a_log_that_dates_its_messages_is_the_clock_for_them() -> None:
    """With append times, a stamp is too far ahead of its own message's, whatever the clock shows at the reading."""
    bench = first(build(counted().graph()))
    values: list[bytes | None] = [message(1_000), message(6_000), message(6_001), message(9_000)]
    bench.offer("in0", Run(0, range(4), values, stamps=[1_000, 1_000, 1_000, 4_000], appended=True), 10**9)
    step = bench.work()
    assert step is not None
    assert [(letter.reason, letter.offset, letter.at) for letter in step.dead] == [("future_timestamp", 2, 6_001)]


# --- all tasks of a plan, each alone ------------------------------------------------------------------------


@dataclass
class Hosted:
    """The tasks of a plan between logs: each transaction leaves a marker, some are aborted, and tasks die."""

    plan: Plan
    chance: random.Random
    logs: dict[tuple[str, int], list[Any]] = field(default_factory=dict)
    stores: dict[str, MemoryStore] = field(default_factory=dict)
    settled: dict[str, Any] = field(default_factory=dict)
    incarnations: dict[str, int] = field(default_factory=dict)
    rows: list[Emit] = field(default_factory=list)
    places: dict[str, dict[str, int]] = field(default_factory=dict)

    def hosts(self) -> Iterator[tuple[str, Bench]]:
        """Every task, as it is after its last commit."""
        for stage in self.plan.stages:
            for number in range(stage.partitions):
                name = f"{stage.name}/{number}"
                store = self.stores.setdefault(name, MemoryStore())
                self.incarnations[name] = self.incarnations.get(name, 0) + 1
                fused = self.chance.random() < 0.5
                settled = self.settled.get(name)
                bench = bench_of(self.plan, stage, number, store=store, settled=settled, fused=fused)
                self.read_again(name, bench)
                yield name, bench

    def read_again(self, name: str, bench: Bench) -> None:
        """Reading goes on where the last commit ended."""
        self.places[name] = {topic: bench.offset(topic) or 0 for topic in bench.topics}

    def read(self, bench: Bench, topic: str, most: int, at: int) -> int:
        """Give a bench some of a log from an offset on; where to read on."""
        log = self.logs.get((topic, bench.number), [])
        part = [(offset, one) for offset, one in enumerate(log[at : at + most], at) if one is not None]
        stop = min(len(log), at + most)
        source = next(inlet.source for inlet in bench.stage.inlets if inlet.topic == topic)
        if source is None:
            bench.land(topic, [Landed(offset, *one) for offset, one in part], stop)
        else:
            values = [one for _, one in part]
            run = Run(bench.number, [offset for offset, _ in part], values, [b"a"] * len(values), next_offset=stop)
            bench.offer(topic, run, None)
        bench.await_(topic, awaited=stop < len(log) or self.chance.random() < 0.3)
        return stop

    def turn(self, name: str, bench: Bench, *, end: bool) -> None:
        """Read, work, and commit or abort; with `end`, all there is, and then the sources end."""
        emits: list[Emit] = []
        crossed: list[tuple[str, int, Any]] = []
        places = self.places[name]
        for _ in range(1 if end else self.chance.randint(1, 4)):
            for topic, at in places.items():
                places[topic] = self.read(bench, topic, 10**6 if end else self.chance.randint(0, 9), at)
                if end and self.plan.counts.get(topic):
                    bench.end(topic)
                if end:
                    bench.await_(topic, awaited=False)
            while (step := bench.work()) is not None:
                emits += step.emits.get("out", [])
                for topic, rows in step.crossings.items():
                    crossed += [(topic, partition(row.route, self.count(topic)), row) for row in rows]
        if not end and self.chance.random() < 0.3:
            bench.aborted()
            self.read_again(name, bench)
        else:
            self.commit(name, bench, emits, crossed)

    def commit(self, name: str, bench: Bench, emits: list[Emit], crossed: list[tuple[str, int, Any]]) -> None:
        """A transaction that stands."""
        changes, position = bench.changes(), bench.position()
        me = (bench.number, self.incarnations[name])
        for topic, number, row in crossed:
            self.logs.setdefault((topic, number), []).append((*me, row))
        for topic, said in bench.said().items():
            for number in range(self.count(topic)):
                self.logs.setdefault((topic, number), []).extend([(*me, said), None])  # the marker of the transaction
        self.rows += emits
        self.settled[name] = position
        bench.committed(changes, position)

    def count(self, topic: str) -> int:
        """The partitions of a repartition topic."""
        return next(each.partitions for each in self.plan.repartitions if each.topic == topic)


@pytest.mark.parametrize("merged", [False, True], ids=["alone", "merged"])
@pytest.mark.parametrize("seed", range(12))
def test_tasks_that_are_hosted_alone_do_what_the_engine_does(seed: int, merged: bool) -> None:  # noqa: FBT001
    """Through logs with markers, aborts and crashes, the final results are those of one process (law 20)."""
    chance = random.Random(seed)
    topology = counted(merged=merged)
    logs = {
        topic: [message(chance.randint(0, 60), chance.choice("abcd")) for _ in range(60)]
        for topic in (["in0", "in1"] if merged else ["in0"])
    }
    if merged:
        logs["in1"] = [message(chance.randint(0, 60), "a") for _ in range(60)]
    plan = build(topology.graph(), {"in0": 3, "in1": 2})
    hosted = Hosted(plan, chance)
    for topic, log in logs.items():
        for n, value in enumerate(log):
            number = partition(b"a", plan.counts[topic]) if topic == "in1" else n % plan.counts[topic]
            hosted.logs.setdefault((topic, number), []).extend([value] if n % 5 else [value, None])
    for _ in range(6):  # processes that die
        benches = list(hosted.hosts())
        for _ in range(20):
            hosted.turn(*chance.choice(benches), end=False)
    for name, bench in hosted.hosts():
        hosted.turn(name, bench, end=True)
        assert bench.ended
        assert {watermark for _, watermark, *_ in bench.position()["inputs"].values()} == {END}
    results = [json.loads(row.value or b"") for row in hosted.rows]
    if not merged:
        wanted = run(topology, logs, Cut(), fused=False).rows.values()
        assert sorted(row.value or b"" for row in hosted.rows) == sorted(row.value or b"" for s in wanted for row in s)
    assert sum(result["value"] for result in results) == sum(map(len, logs.values()))
    assert len({(result["key"], result["start"]) for result in results}) == len(results)
