"""One call that runs a topology in every way there is, and finds that nobody can tell which it was.

    all at once, one by one, in random cuts, with a crash before and after every commit; generated loops and plain ones

This is semantics as a test (batching is invisible, restart is invisible), for every topology and own operator.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import unified_diff
from typing import Any, NamedTuple, TypeAlias

from streamproc.adapters.packing import pack, unpack
from streamproc.core.batch import DeadLetter, Emit
from streamproc.core.errors import StreamprocError
from streamproc.core.plan import Plan, build
from streamproc.runners.memory import MemoryRunner, Message
from streamproc.testing.driver import ObjectSerde, all_sites, known, message_of, place_of, record_of, sources
from streamproc.testing.runs import listening
from streamproc.topology import Topology

Given: TypeAlias = Iterable[tuple[Any, ...]] | Mapping[str, Iterable[Any]]
Seen: TypeAlias = dict[str, list[str]]
LINES = 40
"""Longest difference that is shown, in lines."""

CUTS = (
    "An operator's results depend on where its input was cut, or on something that it keeps outside of ctx: "
    "on_run must give the same for a run as for its parts, and hold everything it remembers in cells."
)
CRASH = (
    "Something that an operator remembers is not in its cells, so a crash does not take it back, or a value from "
    "ctx.get was changed in place, or it is no longer the same after it was stored as bytes."
)
AGAIN = (
    "Two equal runs differ: a function of the topology asks a clock or chance, or an operator keeps something outside "
    "of ctx."
)
LOOPS = (
    "The generated loop differs from the plain meaning of the operators: a function has side effects, or it is a bug."
)
CROSSED = (
    "This plan crosses a repartition topic, where only records within the source's disorder and folds that commute "
    "have one result: see whether some were late."
)


class _Sent(NamedTuple):
    """One message in its place."""

    topic: str
    partition: int
    message: Message


@dataclass(frozen=True, slots=True)
class _Course:
    """One way to run: how the messages are cut, and whether the process dies before and after each commit."""

    name: str
    hint: str
    cuts: Callable[[Sequence[_Sent]], Iterable[Sequence[_Sent]]]
    fused: bool = False
    dies: Callable[[], bool] = lambda: False
    ends_early: bool = False


def verify(  # noqa: PLR0913 - each by name
    topology: Topology,
    *,
    given: Given,
    expect: Mapping[str, list[Any]] | None = None,
    partitions: int | Mapping[str, int] = 1,
    seeds: int | Iterable[int] = 3,
    empty_at_end: bool = True,
) -> dict[str, list[Any]]:
    """The values that a topology writes for some input, the same however it runs; AssertionError where it is not.

    `given` are (topic, value) or (topic, value, key) in order of arrival, or the values of each topic, with values as
    for `TestDriver.send`.  They are processed all at once, one by one, in random cuts (a seed each) and with a crash
    before and after every commit, by generated loops and without.  All rows, late records, dead letters and counts
    must agree to the byte; behind a repartition topic, where their order is not promised, as sets.  Then the inputs
    end, and no state may be left; `empty_at_end=False` is for operators that remember for ever.

    With `expect`, the outputs must be these: all topics that were written to, and of several partitions in any order.
    """
    plan = build(topology.graph(), partitions)
    messages = list(_sent(plan, given))
    calm = _Course("plain, all at once", "", lambda all_: [all_], ends_early=True)
    heard, listeners = listening(plan)
    runner = _run(heard, messages, calm)
    first = _seen(runner)
    for course in _courses(range(seeds) if isinstance(seeds, int) else seeds):
        _compare(plan, calm.name, first, course, _seen(_run(plan, messages, course)))
    for listener in listeners:
        for single, whole in listener.cut_here_and_there(ObjectSerde().encode_key):
            _same(
                f"node {listener.name!r} gives other results for runs of many records than for single ones",
                {"results": list(map(repr, single))},
                {"results": list(map(repr, whole))},
                CUTS,
            )
    if empty_at_end:
        _nothing_left(runner)
    outputs = _outputs(runner)
    if expect is not None:
        _expected(outputs, expect, ordered=all(stage.partitions == 1 for stage in plan.stages))
    return outputs


def _courses(seeds: Iterable[int]) -> Iterator[_Course]:
    yield _Course("plain, all at once, a second time", AGAIN, lambda all_: [all_], ends_early=True)
    for fused in (False, True):
        how = "generated loops" if fused else "plain"
        if fused:
            yield _Course(f"{how}, all at once", LOOPS, lambda all_: [all_], fused=True)
        yield _Course(f"{how}, one by one", CUTS, lambda all_: [[one] for one in all_], fused=fused)
        yield _Course(
            f"{how}, with a crash before and after every commit",
            CRASH,
            lambda all_: [[one] for one in all_],
            fused=fused,
            dies=lambda: True,
        )
    for seed in seeds:
        chance = random.Random(seed)  # noqa: S311 - a seed is meant to be guessed
        yield _Course(
            f"in random cuts (seed {seed})",
            f"{CUTS}\n{CRASH}",
            lambda all_, chance=chance: _cut(_shuffled(all_, chance), chance),  # type: ignore[misc]
            fused=chance.random() < 0.5,  # noqa: PLR2004 - a coin
            dies=lambda chance=chance: chance.random() < 0.3,  # type: ignore[misc]  # noqa: PLR2004
        )


def _shuffled(messages: Sequence[_Sent], chance: random.Random) -> list[_Sent]:
    """Another arrival of the same logs: each topic in its order, as the processing order is a function of the logs."""
    queues = {topic: [one for one in messages if one.topic == topic] for topic in {one.topic: 0 for one in messages}}
    turns = [one.topic for one in messages]
    chance.shuffle(turns)
    return [queues[topic].pop(0) for topic in turns]


def _cut(messages: Sequence[_Sent], chance: random.Random) -> Iterator[Sequence[_Sent]]:
    start = 0
    while start < len(messages):
        stop = start + chance.choice((1, 2, 3, 5, 8, len(messages)))
        yield messages[start:stop]
        start = stop


def _sent(plan: Plan, given: Given) -> Iterator[_Sent]:
    """The messages, each with its partition."""
    serde = ObjectSerde()
    known_sources = sources(plan)
    scratch = MemoryRunner(plan, serde, pack, unpack, fused=False)
    pairs: Iterable[tuple[Any, ...]] = (
        ((topic, value) for topic, values in given.items() for value in values) if isinstance(given, Mapping) else given
    )
    for topic, value, *key in pairs:
        if known("source", topic, known_sources).event_time is None:
            raise StreamprocError(f"source {topic!r} has no event_time: verify() sends no timestamps, use a TestDriver")
        message = message_of(serde, value, key[0] if key else None)
        one = _Sent(topic, place_of(scratch, topic, message), message)
        scratch.send(*one)
        yield one


def _run(plan: Plan, messages: Sequence[_Sent], course: _Course) -> MemoryRunner:
    runner = MemoryRunner(plan, ObjectSerde(), pack, unpack, fused=course.fused, awaited=True)
    cuts = list(course.cuts(messages))
    for cut in cuts if not course.ends_early else ():
        for one in cut:
            runner.send(*one)
        _committed(runner, course)
    for cut in cuts if course.ends_early else ():
        for one in cut:
            runner.send(*one)
    for topic in plan.sources:
        runner.end(topic)
    _committed(runner, course)
    return runner


def _committed(runner: MemoryRunner, course: _Course) -> None:
    """Process what is at hand and commit it, and die where the course says so."""
    runner.work()
    if course.dies():
        runner.restart()
        runner.work()
    runner.commit(0)
    if course.dies():
        runner.restart()


# what is compared


def _seen(runner: MemoryRunner) -> Seen:
    """All that can be told from outside, as lists of lines by name."""
    plan = runner.plan
    crossed = {stage.name for stage in plan.stages if any(inlet.source is None for inlet in stage.inlets)}
    rows: dict[str, list[str]] = {}
    for worked in runner.steps:
        for topic, emits in worked.step.emits.items():
            rows.setdefault(f"topic {topic!r} by task {worked.task}", []).extend(map(_row, emits))
    ordered = {name: _in_order(name.rpartition(" ")[2], found, crossed) for name, found in rows.items()}
    for topic, placed in runner.outputs.items():
        if topic in plan.sinks:
            ordered[f"topic {topic!r} by partition"] = sorted(f"{number}: {_row(row)}" for number, row in placed)
    letters: dict[str, list[str]] = {}
    for letter in runner.dead:
        letters.setdefault(f"dead letters from {letter.source!r}/{letter.partition}", []).append(
            _letter(letter, timeless=bool(crossed))
        )
    ordered |= {name: sorted(found) if crossed else found for name, found in letters.items()}
    ordered["counts"] = sorted(
        f"{what} {name} {number}" for what, found in asdict(runner.counts).items() for name, number in found.items()
    )
    ordered["state"] = _state(runner)
    return ordered


def _in_order(task: str, rows: list[str], crossed: set[str]) -> list[str]:
    return sorted(rows) if task.rpartition("/")[0] in crossed else rows


def _row(row: Emit) -> str:
    value = None if row.value is None else bytes(row.value)
    return f"key={row.key!r} value={value!r} at={row.at} headers={row.headers!r}"


def _letter(letter: DeadLetter, *, timeless: bool) -> str:
    """All of a dead letter but its stack trace; `timeless` leaves out W, where that depends on the pace of marks."""
    bare = letter._replace(stacktrace="", watermark=0 if timeless else letter.watermark)
    value = None if letter.value is None else bytes(letter.value)
    return repr(bare._replace(value=value))


def _cells(runner: MemoryRunner) -> dict[str, list[str]]:
    """What is left in state, by node."""
    found: dict[str, list[str]] = {}
    for site in all_sites(runner, stateful=True):
        for slot in site.cells:
            for (when, key), entry in slot.live().items():
                found.setdefault(site.place.name, []).append(f"slot={slot.slot} at={when} {key!r}: {entry!r}")
    return found


def _state(runner: MemoryRunner) -> list[str]:
    cells = _cells(runner)
    alive = sum(map(len, cells.values()))
    if alive != runner.kept():
        raise AssertionError(f"{alive} cells are alive and {runner.kept()} are stored: this is a bug in streamproc")
    return sorted(f"{node} {cell}" for node, found in cells.items() for cell in found)


def _compare(plan: Plan, name: str, first: Seen, course: _Course, then: Seen) -> None:
    crossed = any(stage.crossings for stage in plan.stages)
    _same(f"{course.name} differs from {name}", first, then, f"{course.hint}\n{CROSSED}" if crossed else course.hint)


def _same(what: str, first: Seen, then: Seen, hint: str) -> None:
    for name in sorted(first.keys() | then.keys(), key=lambda name: (name == "counts", name)):
        one, other = first.get(name, []), then.get(name, [])
        if one != other:
            raise AssertionError(f"{what}, in {name}:\n{_difference(one, other)}\n\n{hint}")


def _difference(one: list[str], other: list[str]) -> str:
    lines = list(unified_diff(one, other, lineterm="", n=2))[2:]
    more = [f"... {len(lines) - LINES} more lines"] if len(lines) > LINES else []
    return "\n".join([*lines[:LINES], *more])


def _nothing_left(runner: MemoryRunner) -> None:
    for node, cells in _cells(runner).items():
        shown = "\n".join(f"  {cell}" for cell in cells[:5])
        raise AssertionError(
            f"all inputs have ended, and {len(cells)} cells of node {node!r} are left:\n{shown}\n\n"
            "Drop what is no longer needed with ctx.drop, or say empty_at_end=False if it is kept for ever on purpose."
        )


def _outputs(runner: MemoryRunner) -> dict[str, list[Any]]:
    """The values of every topic that has any, partition by partition."""
    found = {}
    for topic, rows in runner.outputs.items():
        raw = topic not in runner.plan.sinks
        records = [record_of(row, number, raw=raw) for number, row in rows]
        if records:
            found[topic] = [record.value for record in sorted(records, key=lambda record: record.partition)]
    return found


def _expected(outputs: Mapping[str, list[Any]], expect: Mapping[str, list[Any]], *, ordered: bool) -> None:
    for topic in sorted(outputs.keys() | expect.keys()):
        got, wanted = outputs.get(topic, []), list(expect.get(topic, []))
        if got == wanted or (not ordered and _as_sets(got, wanted)):
            continue
        shown = _difference([repr(value) for value in wanted], [repr(value) for value in got])
        raise AssertionError(f"topic {topic!r} has other values than expected (-expected, +written):\n{shown}")


def _as_sets(got: list[Any], wanted: list[Any]) -> bool:
    rest = list(wanted)
    for value in got:
        if value not in rest:
            return False
        rest.remove(value)
    return not rest
