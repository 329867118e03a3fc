"""Results beyond what their topic takes: dead letters before anything is sent, by generated loops and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from streamproc import Topology, Tumbling
from streamproc.adapters.codecs import JsonSerde
from streamproc.core.batch import DeadLetter, Emit
from streamproc.core.errors import TaskFailed
from streamproc.core.plan import build
from streamproc.core.site import Bounds
from streamproc.core.state import MemoryStore
from streamproc.ports import Run
from streamproc.runners.bench import Bench, codecs_of
from tests.laws import Event

FAR = 10**13
FREE = Bounds(10**6, 10**15)


def done(
    topology: Topology, bounds: Callable[[str], Bounds], *events: Event, fused: bool
) -> tuple[dict[str, list[Emit]], list[DeadLetter]]:
    """What comes of events, and what cannot be written of it."""
    plan = build(topology.graph())
    bench = Bench(plan, plan.stages[0], 0, codecs_of(plan, JsonSerde(), bounds), MemoryStore(), None, fused=fused)
    messages: list[bytes | None] = [json.dumps({"ts": e.ts, "key": e.key, "x": e.x}).encode() for e in events]
    bench.offer("in", Run(0, range(len(events)), messages, next_offset=len(events)), None)
    bench.end("in")
    emits: dict[str, list[Emit]] = {}
    dead: list[DeadLetter] = []
    while (step := bench.work()) is not None:
        for topic, rows in step.emits.items():
            emits.setdefault(topic, []).extend(rows)
        dead += step.dead
    return emits, dead


def events_of(topology: Topology) -> Any:
    """Events by their own time, however far ahead."""
    return topology.source("in", Event, event_time=lambda e: e.ts, disorder="1h", max_future=None)


def mapped(topology: Topology) -> None:
    """Each record is a result."""
    events_of(topology).map(lambda e: "x" * e.x).to("out")


def parted(topology: Topology) -> None:
    """Each record goes one way or the other."""
    ways = events_of(topology).map(lambda e: "x" * e.x).split(few=lambda v: len(v) < 5, many=lambda _: True)
    ways["few"].to("out")
    ways["many"].to("out2")


def keyed(topology: Topology) -> None:
    """Results with a key and a time that are chosen for them."""
    events_of(topology).to("out", key=lambda e: e.key, timestamp=lambda e: e.ts)


def windowed(topology: Topology) -> None:
    """Results at the close of a window go to two topics."""
    totals = events_of(topology).key_by(lambda e: e.key).window(Tumbling("1s")).count(name="n")
    totals.to("out")
    totals.to("out2")


@pytest.mark.parametrize("shape", [mapped, keyed, windowed])
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
def test_a_stamp_too_far_ahead_is_a_dead_letter_and_the_others_are_written(
    fused: bool,  # noqa: FBT001
    shape: Callable[[Topology], None],
) -> None:
    """With the reason production_error, and the window it is of; another topic does not get it either."""
    topology = Topology("far", dead_letters="dead")
    shape(topology)
    events = [Event(1, "a", 1), Event(2, "c", 3), Event(FAR, "b", 2)]
    emits, dead = done(
        topology, lambda topic: Bounds(10**6, FAR - 1 if topic == "out" else FAR * 2), *events, fused=fused
    )
    for rows in emits.values():
        assert [row.at < FAR for row in rows] == [True, True]
    (letter,) = dead
    assert (letter.reason, letter.exception, letter.stage) == ("production_error", "TooFarAhead", "produce")
    assert str(FAR - 1) in letter.message
    if shape is windowed:
        assert letter.window == (FAR, FAR + 1000)
        assert json.loads(letter.value or b"")["key"] == "b"
    else:
        assert json.loads(letter.value or b"") == {"ts": FAR, "key": "b", "x": 2}
        assert letter.offset == 2


@pytest.mark.parametrize("shape", [mapped, parted, windowed])
@pytest.mark.parametrize("bounds", [Bounds(5, 10**15), Bounds(10**6, 2), Bounds(40, 2), FREE])
def test_nobody_can_tell_generated_loops_by_what_they_do_not_write(
    shape: Callable[[Topology], None], bounds: Bounds
) -> None:
    """Whatever a topic takes."""

    def outcome(*, fused: bool) -> Any:
        topology = Topology("same", dead_letters="dead")
        shape(topology)
        events = [Event(n % 7, "abc"[n % 3], n % 10) for n in range(40)]
        emits, dead = done(topology, lambda topic: bounds if topic == "out" else FREE, *events, fused=fused)
        return emits, [letter._replace(stacktrace="") for letter in dead]

    assert outcome(fused=True) == outcome(fused=False)


def test_a_dead_letter_holds_no_result_that_its_topic_does_not_take() -> None:
    """It says what there was all the same."""
    topology = Topology("large", dead_letters="dead")
    windowed(topology)
    emits, (letter,) = done(topology, lambda _: Bounds(10, 10**15), Event(1, "a", 1), fused=True)
    assert (emits, letter.value, letter.key, letter.exception) == ({}, None, b"a", "TooLarge")


def test_without_dead_letters_it_stops_the_task() -> None:
    """As any error does, with what to do."""
    topology = Topology("far")
    mapped(topology)
    with pytest.raises(TaskFailed, match=r"production_error .* offset 0"):
        done(topology, lambda _: Bounds(10**6, 5), Event(9, "a", 1), fused=True)
