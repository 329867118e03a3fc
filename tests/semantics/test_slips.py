"""Where implementations slip: the named tests of the semantics, one for each mistake that was seen somewhere."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import msgspec
import pytest

from streamproc import (
    Cell,
    Collect,
    Context,
    Count,
    Hopping,
    Record,
    Reduce,
    Sum,
    Topology,
    Trailing,
    Tumbling,
    WindowResult,
)
from streamproc.core.batch import START
from streamproc.core.partition import partition
from streamproc.core.state import MemoryStore
from streamproc.testing import TestDriver
from tests.laws import Cut, run
from tests.semantics.dense import KEY, SPAN, Beat, N, Way, numbered, numbers, ran, results, source, windowed
from tests.semantics.scripts import Mark, Rec, commit, play, task_of

FUSED = pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
SIZES = pytest.mark.parametrize("size", [1, 2, 3, 1000])


def fails(beat: Beat) -> Beat:
    """A function of a user that raises for x = 7."""
    if beat.x == 7:
        raise ValueError("x is 7")
    return beat


@FUSED
@SIZES
def test_a_filtered_record_still_closes_windows(fused: bool, size: int) -> None:  # noqa: FBT001
    """W is moved by every acceptable record, whatever a filter, a function or a window does to it afterwards."""
    topology = Topology("t", dead_letters="dead")
    kept = source(topology).filter(lambda beat: beat.x != 1).map(fails)
    kept.key_by(KEY).window(Tumbling("10ms"), late="late").agg(Count(), name="w").to("out")
    beats = numbered([(1, "a", 0), (10, "a", 1), (2, "a", 0), (12, "a", 0), (20, "a", 7), (13, "a", 0), (21, "a", 0)])
    outcome = ran(topology, beats, way=Way(fused, cut=Cut((size,))))
    found = [msgspec.json.decode(row.value) for row in outcome.rows["out", 0]]
    assert [(row["start"], row["value"]) for row in found] == [(0, 1), (10, 1), (20, 1)]
    assert numbers(outcome) == [2, 5]


@FUSED
@SIZES
def test_a_window_opened_in_a_slice_closes_in_it(fused: bool, size: int) -> None:  # noqa: FBT001
    """Windows that open, close and refuse within one batch do so as they would record by record."""
    beats = numbered([(1, "a", 0), (11, "a", 0), (2, "a", 0), (21, "a", 0), (31, "b", 0), (12, "a", 0)])
    outcome = ran(windowed(Tumbling("10ms")), beats, way=Way(fused, cut=Cut((size,))))
    assert [(one.key, one.start, one.numbers) for one in results(outcome)] == [
        ("a", 0, [0]), ("a", 10, [1]), ("a", 20, [3]), ("b", 30, [4]),
    ]  # fmt: skip
    assert numbers(outcome) == [2, 5]


@FUSED
@pytest.mark.parametrize("failing", ["map", "fold", "key_by", "own operator", "sink"])
@pytest.mark.parametrize("first", [True, False], ids=["failing_first", "failing_last"])
def test_a_failing_branch_takes_the_record_out_of_every_branch(fused: bool, failing: str, first: bool) -> None:  # noqa: FBT001
    """A record that fails in one branch is counted in none: it leaves one dead letter and nothing else."""
    topology = Topology("t", dead_letters="dead")
    beats = source(topology)

    def bad() -> None:
        match failing:
            case "map":
                beats.map(fails).to("bad")
            case "fold":
                beats.key_by(KEY).window(Tumbling("10ms")).agg(Sum(of=lambda b: fails(b).x), name="bad").to("bad")
            case "key_by":
                beats.key_by(lambda b: fails(b).key).to("bad")
            case "own operator":
                beats.key_by(KEY).via(Touching(), name="bad").to("bad")
            case "sink":
                beats.to("bad", key=lambda b: fails(b).key)

    if first:
        bad()
    beats.to("copy")
    beats.key_by(KEY).window(Tumbling("10ms")).agg(Collect(of=N), name="w", emit="on_close").to("out")
    beats.key_by(KEY).window(Trailing("10ms")).agg(Collect(of=N), name="t").to("behind")
    if not first:
        bad()
    log = numbered([(1, "a", 0), (2, "a", 7), (3, "a", 1), (4, "b", 7), (5, "a", 7), (6, "b", 2)])
    outcome = ran(topology, log, way=Way(fused))
    assert [(letter.reason, letter.offset) for letter in outcome.dead] == [
        ("processing_error", 1), ("processing_error", 3), ("processing_error", 4),
    ]  # fmt: skip
    assert numbers(outcome, "copy") == [0, 2, 5]
    members = [msgspec.json.decode(row.value or b"")["value"] for row in outcome.rows["out", 0]]
    assert members == [[0, 2], [5]]
    behind = [msgspec.json.decode(row.value)["value"] for row in outcome.rows["behind", 0]]
    assert behind == [[0], [0, 2], [5]]
    assert outcome.left == {}


class Touching:
    """An own operator that fails after it has touched its state."""

    def on_run(self, run: Iterable[Record[Any, Beat]], ctx: Context) -> Iterable[Record[Any, Beat]]:
        for record in run:
            ctx.put(record.at + 1, record.key, record.at)
            fails(record.value)
            yield record

    def on_due(self, cell: Cell, ctx: Context) -> Iterable[Record[Any, Beat]]:  # noqa: ARG002
        return ()


@FUSED
@SIZES
@pytest.mark.parametrize("window", [Tumbling("10ms"), Trailing("5ms")], ids=str)
def test_late_comes_before_error(fused: bool, size: int, window: Any) -> None:  # noqa: FBT001
    """A late record whose fold would raise is late, and nothing else."""
    topology = Topology("t", dead_letters="dead")
    folded = source(topology).key_by(KEY).window(window).agg(Sum(of=lambda b: fails(b).x), name="w")
    folded.to("out")
    beats = numbered([(1, "a", 0), (20, "a", 0), (2, "a", 7), (21, "b", 7), (3, "a", 7)])
    outcome = ran(topology, beats, way=Way(fused, cut=Cut((size,))))
    assert [(letter.reason, letter.stage, letter.offset) for letter in outcome.dead] == [
        ("late", "late", 2), ("processing_error", "process", 3), ("late", "late", 4),
    ]  # fmt: skip


@FUSED
@SIZES
@pytest.mark.parametrize("window", [Tumbling("10ms"), Trailing("5ms")], ids=str)
def test_no_husk_is_left(fused: bool, size: int, window: Any) -> None:  # noqa: FBT001
    """A first record that fails, in its function or in the fold, leaves no cell, no window and no result."""

    def never(left: Beat, right: Beat) -> Beat:  # noqa: ARG001
        raise ValueError("they do not go together")

    topology = Topology("t", dead_letters="dead")
    keyed = source(topology).key_by(KEY)
    keyed.window(window).agg(Sum(of=lambda b: fails(b).x), Count(), name="w").to("out")
    keyed.window(window).agg(Count(), Reduce(never), name="r").to("reduced")
    beats = numbered([(1, "a", 7), (2, "b", 7), (3, "a", 7)])
    with TestDriver(topology, fused=fused) as t:
        t.send("in0", *beats)
        assert (t.state("w"), t.state("r"), t.counts.opened) == ({}, {}, {})
        t.advance_watermark(100)
        assert (t.read("out"), t.read("reduced"), t.counts.closed) == ([], [], {})
    outcome = ran(topology, beats, way=Way(fused, cut=Cut((size,), ("commit",))))
    assert {place: rows for place, rows in outcome.rows.items() if rows} == {}
    assert len(outcome.dead) == 3


class Odd(msgspec.Struct, frozen=True):
    """A record whose key is of any type."""

    ts: int
    key: Any


@FUSED
@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("window", [Tumbling("10ms"), Trailing("5ms")], ids=str)
def test_keys_are_their_bytes(fused: bool, partitions: int, window: Any) -> None:  # noqa: FBT001
    """1 and "1" are one key, 1, 1.0 and true are three, and the integer 10 comes before 9."""
    topology = Topology("t")
    stream = topology.source("in", Odd, event_time=lambda odd: odd.ts)
    stream.key_by(lambda odd: odd.key).window(window).agg(Count(), name="w").to("out")
    texts = ["1", "é", "z", "\U0001f600", "\uffff", "user_1", "user_12"]
    keys = [9, 1, True, 1.0, 10, [1], {"b": 1, "a": 2}, {"a": 2, "b": 1}, *texts]
    with TestDriver(topology, partitions=partitions, fused=fused) as t:
        t.send("in", *(Odd(1, key) for key in keys))
        t.end()
        found = t.read("out")
    counts: dict[bytes, int] = {}
    for result in found:
        as_json = msgspec.json.encode(result.key, order="deterministic")
        written = result.key.encode() if isinstance(result.key, str) else as_json
        counts[written] = max(counts.get(written, 0), result.value)
    assert counts == {
        b"9": 1, b"1": 2, b"true": 1, b"1.0": 1, b"10": 1, b"[1]": 1, b'{"a":2,"b":1}': 2,
        "é".encode(): 1, b"z": 1, "\U0001f600".encode(): 1, "\uffff".encode(): 1, b"user_1": 1, b"user_12": 1,
    }  # fmt: skip
    if partitions == 1:
        assert list(counts) == sorted(counts)
        assert list(counts).index(b"10") < list(counts).index(b"9")


@FUSED
@pytest.mark.parametrize("after", [("commit",), ("", "commit"), ("commit", "crash"), ("",)])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("window", [Tumbling("50ms"), Trailing("50ms")], ids=str)
def test_float_sums_ignore_commits(fused: bool, after: tuple[str, ...], size: int, window: Any) -> None:  # noqa: FBT001
    """The grouping of a float sum follows from the records alone, so that its last bit does not tell of commits."""
    parts = [1e16, 1.0, -1e16, 0.1, 0.2, 0.3, 1e-9, 1e8, -0.6, 3.3, 1.0, 1e16, 1.0, 1.0, -1e16]

    def topology() -> Topology:
        made = Topology("t")
        source(made).key_by(KEY).window(window).agg(Sum(of=lambda b: parts[b.n]), name="w").to("out")
        return made

    beats = numbered([(n, "a", 0) for n in range(len(parts))])
    calm = ran(topology(), beats, way=Way(fused=False))
    assert ran(topology(), beats, way=Way(fused, cut=Cut((size,), after))).rows == calm.rows
    arrival = 0.0
    for part in parts:
        arrival += part
    assert msgspec.json.decode(calm.rows["out", 0][-1].value or b"")["value"] == arrival


@FUSED
def test_a_record_refused_by_some_windows_is_not_late(fused: bool) -> None:  # noqa: FBT001
    """Refusing windows are counted one by one; the record is late only if all of them refuse it."""
    topology = windowed(Hopping("12ms", advance="5ms"), disorder=SPAN * 10)
    task = task_of(topology, fused=fused)
    (step,) = play(task, [Rec(0, "a", 21), Mark(0, 25), Rec(0, "a", 20), Mark(0, 32), Rec(0, "a", 20)], [])
    assert step.counts.refused == {"w": 1 + 3}
    assert step.counts.late == {("w", "late_stream"): 1}
    assert [msgspec.json.decode(row.value or b"")["n"] for row in step.emits["late"]] == [4]


def interleavings(*queues: list[Any]) -> Iterable[list[Any]]:
    """All ways to merge some queues."""
    if not any(queues):
        yield []
    for number, queue in enumerate(queues):
        if queue:
            rest = [one[1:] if other == number else one for other, one in enumerate(queues)]
            for tail in interleavings(*rest):
                yield [queue[0], *tail]


@FUSED
def test_an_input_that_returns_does_not_hold_again_until_it_is_aligned(fused: bool) -> None:  # noqa: FBT001
    """In every interleaving of a returning input with another, W never falls and only the aligned hold it."""
    disorder, ends = 5, set()
    first = [("rec", 0, 120), ("rec", 0, 130), ("rec", 0, 150)]
    second = [("rec", 1, 82), ("rec", 1, 119), ("rec", 1, 131)]
    for order in interleavings(first, second):
        task = task_of(windowed(Tumbling("10ms"), disorder=disorder), 2, fused=fused)
        play(task, [Rec(0, "a", 100), Rec(1, "a", 80)])
        task.times[1].falls_silent()
        expected, own, aligned = 95, {0: 95, 1: 75}, {0}
        for _, number, at in order:
            (step,) = play(task, [Rec(number, "a", at)])
            own[number] = max(own[number], at - disorder)
            aligned |= {number} if own[number] >= expected else set()
            expected = max(expected, min(own[one] for one in aligned))
            assert step.watermarks["w"] == expected, order
        ends.add(expected)
    assert ends == {126, 145}  # held by the second, or by the first alone where the second never caught up


@FUSED
@pytest.mark.parametrize("at_once", [False, True], ids=["one_by_one", "at_once"])
def test_an_input_that_returns_with_an_old_record_counts_at_once(fused: bool, at_once: bool) -> None:  # noqa: FBT001
    """An idle input is active again with its next record, also with one that is older than its newest."""
    task = task_of(windowed(Tumbling("10ms")), 2, fused=fused)
    play(task, [Rec(0, "a", 20)])
    task.times[0].falls_silent()
    play(task, [Rec(1, "a", 10)])
    task.times[1].falls_silent()
    steps = play(task, [Rec(0, "a", 15), Rec(0, "b", 20)], [] if at_once else None)
    assert [step.watermarks["w"] for step in steps] == ([20] if at_once else [20, 20])
    assert [msgspec.json.decode(row.value or b"")["n"] for step in steps for row in step.emits.get("late", [])] == [0]


@FUSED
@pytest.mark.parametrize("disorders", list(product([0, 5, 20], repeat=2)))
def test_the_watermark_survives_another_disorder(fused: bool, disorders: tuple[int, int]) -> None:  # noqa: FBT001
    """W is restored with the greatest timestamp: with another B it stays, and goes on where that B would have it."""
    before, after = disorders
    store = MemoryStore()
    task = task_of(windowed(Tumbling("10ms"), disorder=before), fused=False, store=store)
    play(task, [Rec(0, "a", 100), Rec(0, "a", 103)])
    settled = commit(task)
    assert settled["inputs"]["in0/0"][:2] == [103, 103 - before]
    task = task_of(windowed(Tumbling("10ms"), disorder=after), fused=fused, store=store, settled=settled)
    assert task.sites[-1].combined.watermark == 103 - before
    steps = play(task, [Rec(0, "a", 97), Rec(0, "a", 104), Rec(0, "a", 140)])
    assert [step.watermarks["w"] for step in steps] == [
        103 - before, max(103 - before, 104 - after), max(103 - before, 140 - after),
    ]  # fmt: skip
    assert steps[0].counts.late == ({("w", "late_stream"): 1} if before <= 3 else {})


def test_what_was_late_before_a_restart_is_late_after_it() -> None:
    """A crash takes neither W nor the closed windows back, with or without a record since."""
    with TestDriver(windowed(Tumbling("10ms"))) as t:
        t.send("in0", Beat(1, "a", 0, 0), Beat(10, "a", 0, 1))
        for number in (2, 3):
            t.restart()
            t.send("in0", Beat(number, "a", 0, number))
        t.end()
        assert [(one.start_ms, one.value.n) for one in t.read("out")] == [(0, 1), (10, 1)]
        assert [one.n for one in t.read("late")] == [2, 3]


@FUSED
def test_marks_reach_an_empty_partition(fused: bool) -> None:  # noqa: FBT001
    """Every task behind a repartition topic hears of W, also one that no record ever came to."""
    with TestDriver(windowed(Tumbling("10ms")), partitions=3, fused=fused) as t:
        assert t.watermark("w") == START
        for number in range(3):
            t.send("in0", Beat(5 + number, "a", 0, number), partition=number)
        assert t.watermark("w") == 5
        t.send("in0", *(Beat(12, "a", 0, 3 + number) for number in range(3)))
        assert [(one.key, one.start_ms, one.value.numbers) for one in values(t)] == [("a", 0, [0, 1, 2])]
        tasks = {name: task for name, task in t._runner.engine.tasks() if name.startswith("w/")}  # noqa: SLF001
        assert {name: task.sites[-1].combined.watermark for name, task in tasks.items()} == dict.fromkeys(tasks, 12)
        held = {name: any(site.cells[0].live() for site in task.stateful) for name, task in tasks.items()}
        assert sorted(held.values()) == [False, False, True]
        assert held[f"w/{partition(b'a', 3)}"]


def values(t: TestDriver) -> list[WindowResult[str, Any, Any]]:
    """What was written since the last look."""
    return t.read("out")


@FUSED
@SIZES
def test_a_mark_stands_behind_the_records_it_covers(fused: bool, size: int) -> None:  # noqa: FBT001
    """What an upstream task sends before its mark is on time downstream, in every cut."""
    beats = numbered([(ts, key, 0) for ts in range(0, 90, 3) for key in ("a", "b", "c")])
    outcome = ran(windowed(Tumbling("10ms")), beats, way=Way(fused, cut=Cut((size,))), partitions=3)
    assert numbers(outcome) == []
    assert sum(one.n for one in results(outcome)) == len(beats)


@FUSED
@SIZES
def test_two_documents_and_a_blank(fused: bool, size: int) -> None:  # noqa: FBT001
    """A value of two documents and an empty one are two dead letters, and their neighbours stay what they are."""
    topology = windowed(Tumbling("10ms"))
    good = [msgspec.json.encode(Beat(ts, "a", ts, number)) for number, ts in enumerate([1, 2, 3, 4, 5, 6])]
    log = [good[0], good[1] + good[2], b"", good[3], b"[" + good[4], good[5] + b"]", good[4]]
    outcome = run(topology, {"in0": log}, Cut((size,)), fused=fused)
    assert [(letter.reason, letter.offset, letter.value) for letter in outcome.dead] == [
        ("deserialization_error", number, log[number]) for number in (1, 2, 4, 5)
    ]
    assert [(one.numbers, one.sum) for one in results(outcome)] == [([0, 3, 4], 1 + 4 + 5)]
