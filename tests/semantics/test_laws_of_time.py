"""Laws of time: W never falls, and neither interleaving nor repartition can be seen where inputs keep their bounds."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc.core.batch import END, START, Batch
from streamproc.core.state import MemoryStore
from streamproc.testing import TestDriver
from tests.semantics.batch_job import Fixed, final, within
from tests.semantics.dense import (
    BEATS,
    FIXED,
    MOMENTS,
    TRAILING,
    WAYS,
    Beat,
    Behind,
    Outcome,
    Way,
    counted,
    events,
    numbers,
    ran,
    results,
    windowed,
)
from tests.semantics.scripts import Mark, Rec, batch_of, commit, play, task_of

BOUNDS = st.integers(0, 20)


def bounded(log: list[Beat], disorder: int) -> list[Beat]:
    """The beats that keep a bound."""
    return [log[event.item] for event in within(disorder, events(log))]


def as_set(outcome: Outcome) -> list[tuple[Any, ...]]:
    """All results, in an order of their own and with their members in one of their own."""
    return sorted(
        (one.key, one.start, one.end, sorted(one.numbers), one.n, one.sum, one.at, one.event)
        for one in results(outcome)
    )


# --- 4, 20: interleaving and repartition --------------------------------------------------------------------


@given(first=BEATS, second=BEATS, bounds=st.tuples(BOUNDS, BOUNDS), window=FIXED | TRAILING, way=WAYS, data=st.data())
@settings(max_examples=150)
def test_interleaving_is_invisible(  # noqa: PLR0913, PLR0917 - what is drawn
    first: list[Beat], second: list[Beat], bounds: tuple[int, int], window: Any, way: Way, data: st.DataObject
) -> None:
    """If each of two inputs keeps its bound, every way to merge them gives the same final windows, and none is late."""
    bound = max(bounds)
    logs = [bounded(first, bounds[0]), bounded(second, bounds[1])]
    logs[1] = [Beat(beat.ts, beat.key, beat.x, beat.n + 100) for beat in logs[1]]
    seen = []
    for order in (data.draw(merged(len(logs[0]), len(logs[1]))), data.draw(merged(len(logs[0]), len(logs[1])))):
        with TestDriver(windowed(window, disorder=bound, topics=2), fused=way.fused, autocommit=False) as t:
            rest = [iter(log) for log in logs]
            for number in order:
                t.send(f"in{number}", next(rest[number]))
            t.end()
            t.commit()
            assert t.late("w") == 0
            assert t.counts.refused.get("w", 0) == 0
            seen.append(
                sorted(
                    (one.key, one.start_ms, one.end_ms, one.value.numbers, one.event.n if one.event else None)
                    for one in t.read("out")
                )
            )
    assert seen[0] == seen[1]
    if isinstance(window, Fixed):
        everything = final(window, events([*logs[0], *logs[1]]))
        assert [(*place, sorted(members)) for place, members in sorted(everything.items())] == [
            one[:4] for one in seen[0]
        ]


def merged(first: int, second: int) -> st.SearchStrategy[list[int]]:
    """A way to merge two inputs of these lengths."""
    return st.permutations([0] * first + [1] * second)


@given(log=BEATS, bound=BOUNDS, window=FIXED | TRAILING, way=WAYS)
@settings(max_examples=150)
def test_repartition_is_invisible(log: list[Beat], bound: int, window: Fixed | Behind, way: Way) -> None:
    """If each input keeps its bound, three partitions and a repartition topic give the final windows of one task."""
    kept = bounded(log, bound)
    topology = windowed(window, disorder=bound)
    one = ran(topology, kept, way=way)
    three = ran(windowed(window, disorder=bound), kept, way=way, partitions=3)
    assert as_set(three) == as_set(one)
    assert (numbers(one), numbers(three), counted(three, "refused"), three.left) == ([], [], 0, {})


@given(log=BEATS, window=FIXED | TRAILING, way=WAYS)
@settings(max_examples=100)
def test_behind_a_repartition_nothing_is_silent(log: list[Beat], window: Fixed | Behind, way: Way) -> None:
    """Whether a record that was late at its source is refused may differ; it is counted or reported all the same."""
    outcome = ran(windowed(window), log, way=way, partitions=3)
    gaps = counted(outcome, "dropped")
    everywhere = {n for one in results(outcome) for n in one.numbers}
    late = numbers(outcome)
    assert len(set(late)) == len(late)
    assert not everywhere & set(late)
    assert len(everywhere) + len(late) + gaps == len(log)
    places = [(one.key, one.start, one.end, one.event) for one in results(outcome)]
    assert len(set(places)) == len(places)


# --- 7: time is monotone ------------------------------------------------------------------------------------


ACTS = st.lists(
    st.tuples(st.just("send"), st.integers(0, 2), MOMENTS)
    | st.tuples(st.just("mark"), st.integers(0, 2), MOMENTS)
    | st.tuples(st.sampled_from(["commit", "crash", "crash", "fail"]), st.just(0), st.just(0)),
    min_size=5,
    max_size=50,
)


@given(
    acts=ACTS,
    window=FIXED | TRAILING,
    disorder=st.sampled_from([0, 5]),
    partitions=st.sampled_from([1, 3]),
    way=WAYS,
)
@settings(max_examples=150)
def test_time_never_falls(
    acts: list[tuple[str, int, int]], window: Fixed | Behind, disorder: int, partitions: int, way: Way
) -> None:
    """W of no node falls within a life, and the committed W of no node falls across lives, commits and crashes."""
    with TestDriver(windowed(window, disorder=disorder), partitions=partitions, fused=way.fused, autocommit=False) as t:
        lived: dict[tuple[str, str], int] = {}
        kept: dict[tuple[str, str], int] = {}
        for n, (act, number, at) in enumerate(acts):
            match act:
                case "send":
                    t.send("in0", Beat(at, "abc"[number], 1, n), partition=number % partitions)
                case "mark":
                    t.advance_watermark(at)
                case "commit":
                    assert t.commit()
                case "fail":
                    t.fail_next_commit()
                    assert not t.commit()
                    lived = kept
                case "crash":
                    t.restart()
                    lived = kept
            now = {
                (name, site.place.name): site.combined.watermark
                for name, task in t._runner.engine.tasks()  # noqa: SLF001 - what a task knows, node by node
                for site in task.sites
            }
            assert all(now[place] >= before for place, before in lived.items())
            lived = now
            if act == "commit":
                assert all(now[place] >= before for place, before in kept.items())
                kept = now
        t.end()
        t.commit()


@given(log=BEATS, lives=st.lists(st.tuples(st.integers(1, 15), st.integers(0, 12)), min_size=1, max_size=8), way=WAYS)
@settings(max_examples=150)
def test_time_never_falls_when_the_disorder_changes(log: list[Beat], lives: list[tuple[int, int]], way: Way) -> None:
    """Each life may have another disorder: W goes on from where it was committed, and closed windows stay closed."""
    window = Fixed(5, 5)
    store, settled = MemoryStore(), None
    watermark, top = START, None
    left = log
    seen: set[tuple[str, int]] = set()
    while left:
        for many, disorder in lives:
            part, left = left[:many], left[many:]
            task = task_of(windowed(window, disorder=disorder), fused=way.fused, store=store, settled=settled)
            for beat in part:
                (step,) = play(task, [Rec(0, beat.key, beat.ts)])
                if top is None or beat.ts > top:
                    top = beat.ts
                    watermark = max(watermark, top - disorder)
                assert step.watermarks["w"] == watermark
                closed = [(row.route.decode(), row.at) for row in step.emits.get("out", []) if row.route is not None]
                assert not seen & set(closed)
                assert len(set(closed)) == len(closed)
                seen |= set(closed)
                end = beat.ts - beat.ts % 5 + 5
                assert bool(step.counts.late) == (end <= watermark)
            settled = commit(task)


@given(
    log=BEATS,
    marks=st.lists(st.tuples(st.integers(0, 60), MOMENTS), max_size=10),
    window=FIXED | TRAILING,
    way=WAYS,
    cuts=st.sets(st.integers(0, 70)),
)
@settings(max_examples=150)
def test_marks_stand_where_they_stand(
    log: list[Beat], marks: list[tuple[int, int]], window: Fixed | Behind, way: Way, cuts: set[int]
) -> None:
    """However records and marks are cut into batches, results, late records and W are the same."""
    script: list[Rec | Mark] = [Rec(0, beat.key, beat.ts) for beat in log]
    for place, watermark in marks:
        script.insert(place, Mark(0, watermark))
    seen = []
    for how, where in ((False, None), (way.fused, sorted(cuts)), (True, [])):
        task = task_of(windowed(window, disorder=3), fused=how)
        steps = play(task, script, where)
        rows = {topic: [row for step in steps for row in step.emits.get(topic, [])] for topic in ("out", "late")}
        refused = sum(step.counts.refused.get("w", 0) for step in steps)
        seen.append((rows, refused, steps[-1].watermarks))
    assert seen[0] == seen[1] == seen[2]


class Combining:
    """Two inputs that may be idle, combined as S16 has it, one change at a time."""

    def __init__(self, disorder: int) -> None:
        self.disorder = disorder
        self.watermark = START
        self.own = [START, START]
        self.idle = [False, False]
        self.aligned = [True, True]

    def silent(self, number: int) -> int:
        """An input is found to be idle."""
        self.idle[number], self.aligned[number] = True, False
        return self._combined()

    def saw(self, number: int, at: int) -> int:
        """An input delivers a record."""
        self.own[number] = max(self.own[number], at - self.disorder)
        self.idle[number] = False
        self.aligned[number] = self.aligned[number] or self.own[number] >= self.watermark
        return self._combined()

    def _combined(self) -> int:
        counting = [own for own, aligned in zip(self.own, self.aligned, strict=True) if aligned]
        self.watermark = max(self.watermark, min(counting, default=START))
        return self.watermark


@given(
    drawn=st.lists(st.tuples(MOMENTS, st.sampled_from("ab"), st.integers(0, 1)), min_size=1, max_size=40),
    window=FIXED | TRAILING,
    idle=st.dictionaries(st.integers(0, 40), st.integers(0, 1)),
    way=WAYS,
)
@settings(max_examples=150)
def test_idle_inputs_hold_nobody_and_never_turn_time_back(
    drawn: list[tuple[int, str, int]], window: Fixed | Behind, idle: dict[int, int], way: Way
) -> None:
    """Two inputs fall silent and return at any time: W is the least of the active and aligned, and never falls."""
    task = task_of(windowed(window, disorder=2), 2, fused=way.fused)
    model = Combining(2)
    for number, (at, key, which) in enumerate(drawn):
        if number in idle:
            task.times[idle[number]].falls_silent()
            assert task.step(Batch(0, [], [], [])).watermarks["w"] == model.silent(idle[number])
        (step,) = play(task, [Rec(which, key, at)])
        assert step.watermarks["w"] == model.saw(which, at)
    ending = task.step(batch_of([Mark(0, END), Mark(1, END)], 0, 2))
    assert ending.watermarks["w"] == END
    assert not any(cells.live() for site in task.stateful for cells in site.cells)
