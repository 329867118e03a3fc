"""Laws of windows: what comes out is what a batch program says, nothing is silent, and nothing is late for the next.

Every law is tried on the plain and the generated loops, on random cuts, with commits and crashes, from a tiny dense
domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc import Count, Hopping, Topology, Tumbling
from streamproc.core.state import MemoryStore
from tests.laws import POISON, Outcome, run
from tests.semantics import batch_job
from tests.semantics.batch_job import Fixed, final, final_trailing, judged, judged_trailing, within
from tests.semantics.dense import (
    BEATS,
    FIXED,
    KEY,
    SPAN,
    TRAILING,
    WAYS,
    Beat,
    Behind,
    Got,
    Way,
    counted,
    declared,
    encoded,
    events,
    ms,
    numbers,
    ran,
    results,
    source,
    windowed,
)
from tests.semantics.scripts import Mark, Rec, commit, play, task_of

DISORDERS = st.sampled_from([0, 0, 2, 5, 30])


def folded(log: Sequence[Beat], members: Sequence[int]) -> tuple[list[int], int, int]:
    """What a window shows of some members: their numbers, how many, and the sum of their x."""
    return sorted(members), len(members), sum(log[n].x for n in members)


def shown(one: Got) -> tuple[list[int], int, int]:
    """What a result shows of its members."""
    return sorted(one.numbers), one.n, one.sum


# --- 1: the batch program -----------------------------------------------------------------------------------


@given(log=BEATS, window=FIXED, way=WAYS)
@settings(max_examples=200)
def test_final_windows_are_those_of_a_batch_program(log: list[Beat], window: Fixed, way: Way) -> None:
    """With everything on time, fixed windows hold what a search finds, and come in order (end, start, key bytes)."""
    outcome = ran(windowed(window, disorder=SPAN, inline=way.inline), log, way=way)
    expected = final(window, events(log))
    found = results(outcome)
    assert [(one.key, one.start, one.end) for one in found] == list(expected)
    assert [shown(one) for one in found] == [folded(log, members) for members in expected.values()]
    assert [one.at for one in found] == [one.end - 1 for one in found]
    assert (counted(outcome, "refused"), numbers(outcome), outcome.left) == (0, [], {})


@given(log=BEATS, window=TRAILING, way=WAYS)
@settings(max_examples=200)
def test_trailing_results_are_those_of_a_batch_program(log: list[Beat], window: Behind, way: Way) -> None:
    """With everything on time, every event has one result over all that is behind it, in order (time, key, arrival)."""
    outcome = ran(windowed(window, disorder=SPAN), log, way=way)
    expected = final_trailing(window.d, events(log))
    found = results(outcome)
    assert [(one.key, one.at, one.event) for one in found] == [
        (e.event.key, e.event.at, e.event.item) for e in expected
    ]
    assert [shown(one) for one in found] == [folded(log, one.members) for one in expected]
    assert [(one.start, one.end) for one in found] == [(one.at - window.d, one.at + 1) for one in found]
    assert (counted(outcome, "refused"), numbers(outcome), outcome.left) == (0, [], {})


# --- 5, 6, 8: lateness --------------------------------------------------------------------------------------


@given(log=BEATS, window=FIXED, disorder=DISORDERS, way=WAYS)
@settings(max_examples=300)
def test_every_record_is_counted_or_reported_once(log: list[Beat], window: Fixed, disorder: int, way: Way) -> None:
    """A record is in its open windows, or is late, or in a gap; each window gives one result, of what it accepted."""
    outcome = ran(windowed(window, disorder=disorder, inline=way.inline), log, way=way)
    expected = judged(window, disorder, events(log))
    found = results(outcome)
    assert [(one.key, one.start, one.end) for one in found] == [place for place, _ in expected.results]
    assert [shown(one) for one in found] == [folded(log, members) for _, members in expected.results]
    assert numbers(outcome) == expected.late
    assert counted(outcome, "refused") == len(expected.refusals)
    assert counted(outcome, "dropped") == len(expected.gaps)
    assert counted(outcome, "late") == len(expected.late)
    assert counted(outcome, "closed") == counted(outcome, "opened") == len(expected.results)
    everywhere = {n for one in found for n in one.numbers} | set(expected.late) | set(expected.gaps)
    assert everywhere == set(range(len(log)))
    assert len({(one.key, one.start, one.end) for one in found}) == len(found)


@given(log=BEATS, window=TRAILING, disorder=DISORDERS, way=WAYS)
@settings(max_examples=300)
def test_every_event_has_one_result_or_is_in_one_or_is_late(
    log: list[Beat], window: Behind, disorder: int, way: Way
) -> None:
    """An event past its own window has no result; it counts in those that wait, and where there are none it is late."""
    outcome = ran(windowed(window, disorder=disorder), log, way=way)
    expected = judged_trailing(window.d, window.grace, disorder, events(log))
    found = results(outcome)
    assert [(one.at, one.key, one.event) for one in found] == [
        (one.event.at, one.event.key, one.event.item) for one in expected.results
    ]
    assert [shown(one) for one in found] == [folded(log, one.members) for one in expected.results]
    assert (numbers(outcome), counted(outcome, "refused")) == (expected.late, expected.refused)
    everywhere = {n for one in found for n in one.numbers} | set(expected.late)
    assert everywhere == set(range(len(log)))


@given(log=BEATS, window=FIXED | TRAILING, disorder=st.integers(0, 20), way=WAYS)
@settings(max_examples=150)
def test_on_time_is_never_late(log: list[Beat], window: Fixed | Behind, disorder: int, way: Way) -> None:
    """A record that is not older than W when it arrives is accepted by every window that holds it."""
    kept = [log[event.item] for event in within(disorder, events(log))]
    outcome = ran(windowed(window, disorder=disorder), kept, way=way)
    assert (numbers(outcome), counted(outcome, "refused"), counted(outcome, "late")) == ([], 0, 0)


# --- 18: emptiness ------------------------------------------------------------------------------------------


@given(log=BEATS, window=FIXED, disorder=DISORDERS, way=WAYS, stops=st.sets(st.integers(0, 60)), data=st.data())
@settings(max_examples=150)
def test_state_holds_the_open_windows_and_nothing_else(  # noqa: PLR0913, PLR0917 - what is drawn
    log: list[Beat], window: Fixed, disorder: int, way: Way, stops: set[int], data: st.DataObject
) -> None:
    """At every commit the store holds exactly the windows that are open, and the records they hold, at their closes."""
    store = MemoryStore()
    task = task_of(windowed(window, disorder=disorder), fused=way.fused, store=store)
    script = [Rec(0, beat.key, beat.ts) for beat in log]
    at = 0
    for stop in sorted({stop for stop in stops if stop < len(log)} | {len(log)}):
        play(task, script[at:stop], data.draw(st.sets(st.integers(0, 60))))
        commit(task)
        at = stop
        open_ = judged(window, disorder, events(log[:stop]), end=False).open
        kept = {
            (entry[0], close - window.grace - window.size, close - window.grace): len(entry[3])
            for close in store.times("w", 0)
            for entry in store.bucket("w", 0, close).values()
        }
        assert kept == {place: len(members) for place, members in open_.items()}


@given(log=BEATS, window=TRAILING, disorder=DISORDERS, way=WAYS)
@settings(max_examples=100)
def test_a_trailing_window_forgets_what_nothing_can_need(
    log: list[Beat], window: Behind, disorder: int, way: Way
) -> None:
    """Records wait until W >= t + 1 + g, and are remembered until W >= t + d + 1 + g; no cell is empty."""
    store = MemoryStore()
    task = task_of(windowed(window, disorder=disorder), fused=way.fused, store=store)
    top = None
    for number, beat in enumerate(log):
        play(task, [Rec(0, beat.key, beat.ts)])
        commit(task)
        top = beat.ts if top is None else max(top, beat.ts)
        judgement = judged_trailing(window.d, window.grace, disorder, events(log[: number + 1]), end=False)
        waiting = {
            (entry[0], at - 1 - window.grace): len(entry[1])
            for at in store.times("w", 0)
            for entry in store.bucket("w", 0, at).values()
        }
        expected: dict[tuple[str, int], int] = {}
        for event in judgement.waiting:
            expected[event.key, event.at] = expected.get((event.key, event.at), 0) + 1
        assert waiting == expected
        held = [at for at in store.times("w", 1) for _ in store.bucket("w", 1, at).values()]
        assert all(at > top - disorder for at in held)
        assert all(entry[1] for at in store.times("w", 1) for entry in store.bucket("w", 1, at).values())


# --- 9: windows of windows ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tower:
    """Windows over windows, each re-keyed or not."""

    windows: tuple[Fixed | Behind, ...]
    rekeyed: tuple[bool, ...]
    disorder: int

    def build(self) -> Topology:
        """The topology; every result bears how many records are in it, by the results it was made of."""
        topology = Topology("tower", dead_letters="dead")
        stream: Any = source(topology, self.disorder).key_by(KEY)
        for floor, (window, again) in enumerate(zip(self.windows, self.rekeyed, strict=True)):
            if floor and again:
                stream = stream.key_by(lambda result: str(result.end_ms % 2))
            stream = stream.window(declared(window), late=f"late{floor}").agg(Count(), name=f"w{floor}")
            stream.to(f"out{floor}")
        return topology


TOWERS = st.builds(
    Tower,
    windows=st.lists(FIXED.filter(lambda window: window.advance <= window.size) | TRAILING, min_size=3, max_size=3).map(
        tuple
    ),
    rekeyed=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    disorder=DISORDERS,
)


@given(log=BEATS, tower=TOWERS, way=WAYS, partitions=st.sampled_from([1, 1, 3]))
@settings(max_examples=200)
def test_windows_of_windows_lose_nothing(log: list[Beat], tower: Tower, way: Way, partitions: int) -> None:
    """No result of a window is late for the next, at any depth, for any disorder, grace and number of partitions."""
    outcome = ran(tower.build(), log, way=way, partitions=partitions)
    for floor in (1, 2):
        assert (counted(outcome, "late", f"w{floor}"), counted(outcome, "refused", f"w{floor}")) == (0, 0)
        assert counted(outcome, "records_in", f"w{floor}") == counted(outcome, "records_out", f"w{floor - 1}")
    assert outcome.left == {}


@given(log=BEATS, tower=TOWERS, way=WAYS)
@settings(max_examples=100)
def test_the_second_window_folds_all_results_of_the_first(log: list[Beat], tower: Tower, way: Way) -> None:
    """Each floor is the batch program over what the floor below wrote."""
    outcome = ran(tower.build(), log, way=way)
    for floor in (1, 2):
        below = [(msgspec.json.decode(row.value or b""), row) for row in outcome.rows.get((f"out{floor - 1}", 0), [])]
        made = [
            batch_job.Event(str(shown["end"] % 2) if tower.rekeyed[floor] else shown["key"], row.at, shown)
            for shown, row in below
        ]
        above = [msgspec.json.decode(row.value or b"") for row in outcome.rows.get((f"out{floor}", 0), [])]
        window = tower.windows[floor]
        if isinstance(window, Behind):
            expected = [
                (one.event.key, one.event.at - window.d, one.event.at + 1, len(one.members))
                for one in final_trailing(window.d, made)
            ]
        else:
            expected = [(*place, len(members)) for place, members in final(window, made).items()]
        assert sorted((one["key"], one["start"], one["end"], one["value"]) for one in above) == sorted(expected)


# --- 11: updates --------------------------------------------------------------------------------------------


@given(log=BEATS, window=FIXED | TRAILING, disorder=DISORDERS, way=WAYS)
@settings(max_examples=200)
def test_the_last_update_is_the_final_value(log: list[Beat], window: Fixed | Behind, disorder: int, way: Way) -> None:
    """Under each written key the last `on_update` value is what `on_close` writes, and the same records are late."""
    closed = ran(windowed(window, disorder=disorder), log, way=way)
    updated = ran(windowed(window, disorder=disorder, emit="on_update"), log, way=way)
    last = {row.key: row.value for row in updated.rows.get(("out", 0), [])}
    assert {written(row, window, n): row.value for n, row in nth(closed, window)} == last
    assert updated.rows.get(("late", 0)) == closed.rows.get(("late", 0))
    assert counted(updated, "refused") == counted(closed, "refused")


def nth(outcome: Outcome, window: Fixed | Behind) -> list[tuple[int, Any]]:
    """The final rows, each with its number among those of equal key and window."""
    seen: dict[tuple[Any, int], int] = {}
    found: list[tuple[int, Any]] = []
    for row in outcome.rows.get(("out", 0), []):
        place = (row.key, row.at) if isinstance(window, Behind) else (row.key, -len(found))
        seen[place] = seen.get(place, -1) + 1
        found.append((seen[place], row))
    return found


def written(row: Any, window: Fixed | Behind, n: int) -> bytes:
    """The record key that an update of this result is written under."""
    shown = msgspec.json.decode(row.value)
    place = [shown["key"], shown["start"], shown["end"]]
    return msgspec.json.encode([*place, n] if isinstance(window, Behind) else place)


# --- 15, 16, 17: shift, identities, isolation ---------------------------------------------------------------


@given(
    log=BEATS,
    window=FIXED | TRAILING,
    disorder=DISORDERS,
    emit=st.sampled_from(["on_close", "on_update"]),
    by=st.integers(-60, 60) | st.sampled_from([10**12, -(10**15), 2**61, -(2**61)]),
    way=WAYS,
)
@settings(max_examples=200)
def test_no_instant_is_special(  # noqa: PLR0913, PLR0917 - what is drawn
    log: list[Beat], window: Fixed | Behind, disorder: int, emit: str, by: int, way: Way
) -> None:
    """Adding c to all timestamps and to the offset adds c to all results, and changes nothing else."""
    moved = [Beat(beat.ts + by, beat.key, beat.x, beat.n) for beat in log]
    offset = window._replace(offset=(window.offset + by) % window.advance) if isinstance(window, Fixed) else window
    here = ran(windowed(window, disorder=disorder, emit=emit), log, way=way)
    there = ran(windowed(offset, disorder=disorder, emit=emit), moved, way=way)
    back = [one._replace(start=one.start - by, end=one.end - by, at=one.at - by) for one in results(there)]
    assert back == results(here)
    assert numbers(there) == numbers(here)
    assert there.counts == here.counts


@given(log=BEATS, size=st.integers(1, 12), offset=st.integers(-15, 15), grace=st.sampled_from([0, 3]), way=WAYS)
@settings(max_examples=100)
def test_hopping_by_its_size_is_tumbling(log: list[Beat], size: int, offset: int, grace: int, way: Way) -> None:
    """Hopping windows whose advance is their size are tumbling windows, whatever multiple the offset is off by."""
    hopping = Hopping(ms(size), advance=ms(size), offset=ms(offset), grace=ms(grace))
    tumbling = Tumbling(ms(size), offset=ms(offset % size), grace=ms(grace))
    assert ran(windowed(hopping), log, way=way) == ran(windowed(tumbling), log, way=way)


@given(log=BEATS, window=FIXED | TRAILING, disorder=DISORDERS, key=st.sampled_from(["a", "b", "10", "9"]), way=WAYS)
@settings(max_examples=150)
def test_keys_know_nothing_of_each_other(
    log: list[Beat], window: Fixed | Behind, disorder: int, key: str, way: Way
) -> None:
    """With the course of W kept, removing the records of other keys changes no result and no late record of a key."""
    whole = task_of(windowed(window, disorder=disorder), fused=way.fused)
    alone = task_of(windowed(window, disorder=disorder), fused=way.fused)
    full = [Rec(0, beat.key, beat.ts) for beat in log]
    lean: list[Rec | Mark] = [
        Rec(0, event.key, event.at) if event.key == key else Mark(0, watermark)
        for event, watermark in batch_job.with_watermarks(disorder, events(log))
    ]
    seen = [
        [
            (number, topic, row)
            for number, step in enumerate(play(task, script))
            for topic, rows in step.emits.items()
            for row in rows
            if row.route == key.encode()
        ]
        for task, script in ((whole, full), (alone, lean))
    ]
    assert seen[0] == seen[1]


# --- 21: poison ---------------------------------------------------------------------------------------------


@given(
    log=BEATS,
    window=FIXED | TRAILING,
    disorder=DISORDERS,
    poison=st.lists(st.tuples(st.integers(0, 60), POISON), max_size=8),
    way=WAYS,
)
@settings(max_examples=150)
def test_poison_is_harmless(
    log: list[Beat], window: Fixed | Behind, disorder: int, poison: list[tuple[int, bytes]], way: Way
) -> None:
    """Removing what is refused at stage deserialize changes no result and no late record."""
    clean = encoded(log)
    spoilt = clean[:]
    for place, message in poison:
        spoilt.insert(place, message)
    bad = run(windowed(window, disorder=disorder), {"in0": spoilt}, way.cut, fused=way.fused)
    good = run(windowed(window, disorder=disorder), {"in0": clean}, way.cut, fused=way.fused)
    assert (bad.rows, bad.left) == (good.rows, good.left)
    assert len(bad.dead) == len(poison) + len(good.dead)
    for name in ("closed", "opened", "late", "refused", "dropped", "updated"):
        assert bad.counts.get(name) == good.counts.get(name)
