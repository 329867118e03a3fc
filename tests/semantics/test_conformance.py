"""The tables of the semantics, case by case: what is committed beside this must be there word for word.

A step of a case is given to a task as a record or as a mark of its input.  Each case is run by the plain meaning of the
operators and by generated loops, all steps in one batch and one step a batch; the answer must be the same.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamproc import Collect, Count, Hopping, Topology, TopologyError, Trailing, Tumbling, WindowResult
from streamproc.core.batch import START, Batch, Idle, Said
from streamproc.core.feed import Landed
from streamproc.core.partition import partition
from streamproc.core.plan import build
from streamproc.core.progress import Silence
from streamproc.core.state import MemoryStore
from streamproc.core.windows import FixedWindow
from streamproc.ports import Run
from streamproc.testing import TestDriver
from tests.semantics.batch_job import Event, final_trailing
from tests.semantics.dense import KEY, TS, Beat, ms, source
from tests.semantics.scripts import Mark, Rec, Script, Step, bench_of, commit, play, task_of

Case = dict[str, Any]
FILE = Path(__file__).parent.parent / "data" / "conformance.jsonl"
CASES: list[Case] = list(map(json.loads, FILE.read_text().splitlines()))
LAWLESS = 2**60
"""A disorder so great that records move no watermark that matters; only marks do."""

FUSED = pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
AT_ONCE = pytest.mark.parametrize("at_once", [False, True], ids=["one_by_one", "at_once"])


def cases(*checks: str) -> pytest.MarkDecorator:
    """The cases of some checks, by name."""
    chosen = [case for case in CASES if case["check"] in checks]
    return pytest.mark.parametrize("case", chosen, ids=[case["id"] for case in chosen])


def window_of(kind: str, *parameters: int, grace: int = 0, **named: Any) -> Any:
    """A window as a case names it: its parameters are in the order of section 2."""
    makers: dict[str, Callable[..., Any]] = {
        "tumbling": lambda size, offset=0: Tumbling(ms(size), offset=ms(offset), grace=ms(grace)),
        "hopping": lambda size, advance, offset=0, allow_gaps=False: Hopping(
            ms(size), advance=ms(advance), offset=ms(offset), grace=ms(grace), allow_gaps=allow_gaps
        ),
        "trailing": lambda d: Trailing(ms(d), grace=ms(grace)),
    }
    return makers[kind](*parameters, **named)


def script_of(steps: Iterable[list[Any]]) -> Script:
    """The steps of a case: records, and ["W", n]."""
    return [Mark(0, step[1]) if step[0] == "W" else Rec(0, step[0], step[1]) for step in steps]


def cuts(at_once: bool) -> list[int] | None:  # noqa: FBT001 - it is the parameter of a test
    """No cut, or one in front of every step."""
    return [] if at_once else None


def test_the_cases_are_those_of_the_semantics(reference_data: Path) -> None:
    """Each committed case stands in the semantics as it is, so that neither can change alone."""
    lines = (reference_data.parent / "semantics.md").read_text().splitlines()
    known = {case["id"]: case for case in map(json.loads, filter(lambda line: line.startswith('{"id":'), lines))}
    assert {case["id"]: case for case in CASES} == {case["id"]: known.get(case["id"]) for case in CASES}


# --- assignment and what is refused at build time -----------------------------------------------------------


@cases("assign")
def test_windows_of_an_instant(case: Case) -> None:
    """Every instant is in exactly the windows of the table, and `span` is how far that answer holds."""
    named = {name: case[name] for name in ("size", "advance", "offset", "allow_gaps") if name in case}
    window: FixedWindow = window_of(case["window"], **named)
    assert [[[window.start(end), end] for end in window.ends(ts)] for ts in case["ts"]] == case["windows"]
    for ts in case["ts"]:
        low, high = window.span(ts)
        assert low <= ts < high
        assert {window.ends(at) for at in range(low, high)} == {window.ends(ts)}
        assert window.ends(low - 1) != window.ends(ts) != window.ends(high)


@cases("reject")
def test_nonsense_is_refused_when_the_topology_is_built(case: Case) -> None:
    """A size of nothing, half a millisecond, a gap nobody asked for, a negative grace: each is a TopologyError."""
    refused = 0
    for each in case["each"]:
        kind, given = each.get("window"), {name: text(value) for name, value in each.items() if name != "window"}
        if kind == "tumbling":
            with pytest.raises(TopologyError):
                Tumbling(given.pop("size"), **given)
            refused += 1
        elif kind == "hopping":
            with pytest.raises(TopologyError):
                Hopping(given.pop("size"), **given)
            refused += 1
    assert refused
    with pytest.raises(TopologyError):
        Tumbling(timedelta(microseconds=500))


def text(duration: int | str) -> Any:
    """A duration of a case as users write it."""
    return duration if isinstance(duration, str) else ms(duration)


@cases("partition")
def test_partitions_are_those_of_the_java_client(case: Case) -> None:
    """The partition of a key is what Kafka's own client takes."""
    assert [partition(key.encode(), case["partitions"]) for key in case["keys"]] == case["out"]


# --- watermarks ---------------------------------------------------------------------------------------------


@FUSED
@cases("watermark")
def test_the_watermark_after_each_step(case: Case, fused: bool) -> None:  # noqa: FBT001
    """W is the least of the active, aligned inputs' greatest timestamps less B, and never falls."""
    task = task_of(plain(case["B"]), case["inputs"], fused=fused, settled=restored(case))
    node = task.stage.places[0].name
    seen = []
    for step in case["in"]:
        if step[0] == "idle":
            made = task.step(nothing(), [Idle(step[1])])
        else:
            (made,) = play(task, [Rec(step[1], "a", step[2])])
        seen.append(None if made.watermarks[node] == START else made.watermarks[node])
    assert seen == case["W"]


@FUSED
@cases("watermark")
def test_the_watermark_after_a_batch(case: Case, fused: bool) -> None:  # noqa: FBT001
    """Wherever a batch ends, W is what it would be record by record."""
    task = task_of(plain(case["B"]), case["inputs"], fused=fused, settled=restored(case))
    node = task.stage.places[0].name
    script: list[Rec] = []
    for number, step in enumerate(case["in"]):
        if step[0] == "rec":
            script.append(Rec(step[1], "a", step[2]))
        if step[0] == "idle" or number == len(case["in"]) - 1:
            if script:
                play(task, script, [])
                script = []
            if step[0] == "idle":
                task.step(nothing(), [Idle(step[1])])
    watermark = task.step(nothing()).watermarks[node]
    assert (None if watermark == START else watermark) == case["W"][-1]


@FUSED
@cases("clock")
def test_time_flows_with_the_clock_while_all_are_idle(case: Case, fused: bool) -> None:  # noqa: FBT001
    """With `all_idle="advance"` each input that has delivered flows on from its last record, and W is the least."""
    topology = Topology("w", all_idle="advance")
    inputs = [
        topology.source(f"in{n}", Beat, event_time=TS, disorder=ms(case["B"]), idle_timeout="30ms")
        for n in range(case["inputs"])
    ]
    inputs[0].merge(*inputs[1:]).key_by(KEY).window(Tumbling("10ms")).count(name="w").to("out")
    plan = build(topology.graph())
    store = MemoryStore()
    bench = bench_of(plan, plan.stages[0], store=store, fused=fused)
    seen, settled = [], None
    for number, (what, *step) in enumerate(case["in"]):
        if what == "rec":
            which, ts = step[:2]
            bench.offer(f"in{which}", Run(0, [number], [msgspec.json.encode(Beat(ts, "a", 1, number))]), None)
        for topic in bench.topics:
            bench.lags(topic, 0, step[-1])
        while bench.work() is not None:
            pass
        watermark = bench.task.sites[-1].combined.watermark
        seen.append(None if watermark == START else watermark)
        settled = bench.position()
        bench.committed(bench.changes(), settled)
        again = bench_of(plan, plan.stages[0], store=store, settled=settled, fused=fused)
        assert again.position() == settled
    assert seen == case["W"]


@cases("idle")
def test_an_input_falls_idle_by_silence_that_counts(case: Case) -> None:
    """Only time counts in which it was polled, not paused, and its lag known to be 0."""
    silence, seen = Silence(case["idle_timeout"]), []
    for what, *span in case["in"]:
        kind, _, lag = what.partition(" ")
        if kind == "rec":
            silence.heard()
        else:
            silence.passed(*span, polled=kind == "lag", lag=int(lag) if lag.isdigit() else None)
        seen.append(silence.idle)
    assert seen == case["idle"]


def nothing() -> Batch:
    """A batch without anything in it: a step in which only time may move."""
    return Batch(0, [], [], [])


def plain(disorder: int) -> Topology:
    """A topology that counts beats in some windows."""
    topology = Topology("w")
    source(topology, disorder).key_by(KEY).window(Tumbling("10ms")).count(name="w").to("out")
    return topology


def restored(case: Case) -> dict[str, Any] | None:
    """The position record of a task that had this watermark when it was committed."""
    if "restored" not in case:
        return None
    task = task_of(plain(case["B"]), fused=False)
    play(task, [Rec(0, "a", case["restored"] + case["B"])])
    return dict(commit(task))


@cases("guard")
def test_a_stamp_beyond_the_clock_is_refused_and_moves_nothing(case: Case) -> None:
    """A record too far ahead of the clock is a dead letter; it moves no watermark."""
    topology = Topology("w", dead_letters="dead")
    limit, disorder = ms(case["max_future"]), ms(case["B"])
    topology.source("in0", Beat, event_time=TS, disorder=disorder, max_future=limit).to("out")
    now = case["in"][0][1]
    with TestDriver(topology, clock=now) as t:
        seen = []
        for number, (ts, clock) in enumerate(case["in"]):
            t.advance_wall(clock - now)
            now = clock
            t.send("in0", Beat(ts, "a", 1, number))
            seen.append(t.watermark("source_in0"))
        assert seen == case["W"]
        assert [(letter.reason, letter.offset) for letter in t.dead_letters()] == [
            ("future_timestamp", number) for number in case["dead"]
        ]


@FUSED
@AT_ONCE
@cases("marks")
def test_marks_of_upstream_tasks_combine(case: Case, at_once: bool, fused: bool) -> None:  # noqa: FBT001
    """The latest marks of all upstream tasks combine as inputs do; one of a lower incarnation is ignored."""
    plan = build(plain(0).graph(), case["tasks"])
    bench = bench_of(plan, plan.stages[-1], fused=fused)
    (topic,) = bench.topics
    rows = [Landed(n, task, inc, Said(w, idle)) for n, (task, inc, w, idle) in enumerate(case["in"])]
    seen = []
    for part in [rows] if at_once else [[row] for row in rows]:
        bench.land(topic, part, part[-1].offset + 1)
        step = bench.work()
        assert step is not None
        seen.append(None if step.watermarks["w"] == START else step.watermarks["w"])
        assert bench.offset(topic) == part[-1].offset + 1
    assert seen == (case["W"][-1:] if at_once else case["W"])


# --- results ------------------------------------------------------------------------------------------------


def rows(step: Step, topic: str) -> list[dict[str, Any]]:
    """What a step wrote to a topic."""
    return [msgspec.json.decode(row.value) for row in step.emits.get(topic, []) if row.value is not None]


def aggregated(case: Case, *, stream: bool) -> Topology:
    """The aggregate of a case; late records go to a stream of their own, or become dead letters."""
    topology = Topology("case", dead_letters="dead")
    keyed = source(topology, case.get("B", LAWLESS)).key_by(KEY)
    window = window_of(*case["window"], grace=case["grace"])
    late: Any = {"late": "late"} if stream else {}
    folded = keyed.window(window, **late).agg(Collect(of=TS), name="w", emit=case.get("emit", "on_close"))
    folded.to("out")
    return topology


@FUSED
@AT_ONCE
@pytest.mark.parametrize("stream", [True, False], ids=["late_stream", "dead_letters"])
@cases("aggregate")
def test_results_and_refusals(case: Case, fused: bool, at_once: bool, stream: bool) -> None:  # noqa: FBT001
    """Results come at the steps of the table; late records and refusing windows are exactly those of the table."""
    task = task_of(aggregated(case, stream=stream), fused=fused)
    steps = play(task, script_of(case["in"]), cuts(at_once))
    found = [
        [number, row["key"], row["start"], row["end"], row["value"]]
        for number, step in enumerate(steps)
        for row in rows(step, "out")
    ]
    assert [one[1:] for one in found] == [one[1:] for one in case["out"]]
    assert at_once or found == case["out"]
    if stream:
        late = [row["n"] for step in steps for row in rows(step, "late")]
        assert [letter for step in steps for letter in step.dead] == []
    else:
        letters = [letter for step in steps for letter in step.dead]
        assert {(letter.reason, letter.stage) for letter in letters} <= {("late", "late")}
        late = [letter.offset for letter in letters]
    assert late == case["late"]
    refused: Counter[str] = sum((Counter(step.counts.refused) for step in steps), Counter())
    assert refused == Counter({"w": case["refused"]} if case["refused"] else {})
    counted: Counter[Any] = sum((Counter(step.counts.late) for step in steps), Counter())
    assert counted.total() == len(case["late"])


@FUSED
@AT_ONCE
@cases("whole")
def test_whole_inputs(case: Case, fused: bool, at_once: bool) -> None:  # noqa: FBT001
    """With nothing late, the results of an input are those of the table, and of a batch program."""
    whole = {"window": [case["window"], case["d"]], "grace": 0, "emit": "on_close"}
    task = task_of(aggregated(whole, stream=True), fused=fused)
    script: Script = [*(Rec(0, "a", ts) for ts in case["ts"]), Mark(0, max(case["ts"]) + case["d"] + 1)]
    steps = play(task, script, cuts(at_once))
    found = [[row["event"]["ts"], row["value"]] for step in steps for row in rows(step, "out")]
    assert found == case["windows"]
    batch = final_trailing(case["d"], [Event("a", ts, ts) for ts in case["ts"]])
    assert found == [[one.event.at, one.members] for one in batch]
    assert sum(step.counts.refused.get("w", 0) for step in steps) == 0


END: Callable[[WindowResult[Any, Any, Any]], int] = lambda result: result.end_ms - 1  # noqa: E731


@FUSED
@AT_ONCE
@cases("chain")
def test_windows_of_windows(case: Case, fused: bool, at_once: bool) -> None:  # noqa: FBT001
    """A window forwards W less its grace, so that what it still emits is on time for the next."""
    topology = Topology("chain", dead_letters="dead")
    keyed = source(topology, case["B"]).key_by(KEY)
    first = keyed.window(window_of(*case["first"], grace=case["grace"]), late="late").agg(Count(), name="first")
    first.to("mid")
    first.window(window_of(*case["second"]), late="late").agg(Collect(of=END), name="second").to("out")
    task = task_of(topology, fused=fused)
    steps = play(task, script_of(case["in"]), cuts(at_once))
    mid = [
        [number, row["start"], row["end"], emit.at]
        for number, step in enumerate(steps)
        for row, emit in zip(rows(step, "mid"), step.emits.get("mid", []), strict=True)
    ]
    out = [[number, row["start"], row["end"], row["value"]] for number, s in enumerate(steps) for row in rows(s, "out")]
    assert [one[1:] for one in mid] == [one[1:] for one in case["mid"]]
    assert [one[1:] for one in out] == [one[1:] for one in case["out"]]
    w_out = [step.watermarks["second"] for step in steps]
    if at_once:
        assert w_out == case["w_out"][-1:]
    else:
        assert (mid, out, w_out) == (case["mid"], case["out"], case["w_out"])
    assert [row for step in steps for row in rows(step, "late")] == case["late"]
    assert sum(sum(step.counts.refused.values()) for step in steps) == 0
