"""Joins of two streams: the cases of the semantics, and a batch program that goes by the words of S27 to S30.

    steps: records of either side, and marks of both --> one task, in any cuts --> rows (step, left, right, time)

A value is its own timestamp and number, so that a row says which records met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproc import Keyed, Topology, TopologyError, Tumbling
from streamproc.core import batch as values
from streamproc.core.batch import Batch, Step
from tests.laws import Event, ms, run
from tests.semantics.real import Oracle, compare, oracles, there
from tests.semantics.scripts import commit, task_of
from tests.semantics.test_conformance import LAWLESS, Case, cases
from tests.semantics.ways import WAYS, Lines

Row = list[Any]
PADDED = {"inner": "", "left": "l", "outer": "lr"}
"""The sides of which a record that closes alone is emitted."""


class One(NamedTuple):
    """A step of a script: a record of side "l" or "r", or a mark "W" of both."""

    what: str
    key: str | None
    at: int


def paired(left: Any, right: Any) -> list[Any]:
    """A pair as it is."""
    return [left, right]


def sides(topology: Topology) -> Iterator[Keyed[Any, Any]]:
    """Two sources that are keyed by whatever their records bear, by null as well."""
    for topic in ("in0", "in1"):
        source = topology.source(topic, list, event_time=lambda v: v[0], disorder=ms(LAWLESS))
        yield Keyed(topology, source.node)


def joined(  # noqa: PLR0913 - each by name
    how: Any, before: int, after: int, grace: int, *, late: str | None = None, self_join: bool = False
) -> Topology:
    """A topology with one interval join; keys are those that its records bear, null ones too."""
    topology = Topology("j")
    streams = sides(topology)
    left = next(streams)
    right = left if self_join else next(streams)
    left.join(right, paired, how=how, before=ms(before), after=ms(after), grace=ms(grace), name="j", late=late).to(
        "out"
    )
    return topology


def play(
    topology: Topology, script: Sequence[One], cuts: Iterable[int], *, fused: bool, crash: bool = False
) -> list[Step]:
    """A script in batches; with `crash`, each is done twice, the first time without a commit."""
    task = task_of(topology, fused=fused)
    made = []
    places = [0, *sorted(set(cuts) - {0, len(script)}), len(script)]
    for start, stop in pairwise(places):
        batch = _batch(script, start, stop, len(task.inputs))
        if crash:
            task.step(batch)
            task.aborted()
        made.append(task.step(batch))
        commit(task)
    return made


def _batch(script: Sequence[One], start: int, stop: int, inputs: int) -> Batch:
    batch = Batch([], [], [], list[int](), keys=[])
    for number, one in enumerate(script[start:stop], start):
        if one.what == "W":
            batch.marks += [values.Mark(len(batch.values), each, one.at) for each in range(inputs)]
            continue
        batch.inputs.append(0 if one.what == "l" else 1)  # type: ignore[union-attr]
        batch.values.append([one.at, number])
        batch.times.append(one.at)
        batch.offsets.append(number)  # type: ignore[attr-defined]
        batch.keys.append(one.key)  # type: ignore[union-attr]
    return batch


def rows(step: Step) -> list[Row]:
    """What went to a topic, as (left, right, time)."""
    return [[*msgspec.json.decode(emit.value or b""), emit.at] for emit in step.emits.get("out", [])]


# --- the cases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@cases("join")
def test_the_results_of_each_step(case: Case, fused: bool) -> None:  # noqa: FBT001
    """Step by step, what is emitted, what is late, and what is refused for its key."""
    script = [One("W", None, step[1]) if step[0] == "W" else One(*step) for step in case["in"]]
    topology = joined(case["join"], case["before"], case["after"], case["grace"])
    made = play(topology, script, range(1, len(script)), fused=fused)
    stamps = [
        [number, *(None if side is None else side[0] for side in row[:2]), row[2]]
        for number, step in enumerate(made)
        for row in rows(step)
    ]
    assert stamps == case["out"]
    assert [number for number, step in enumerate(made) if step.counts.late] == case["late"]
    refused = [[number, reason] for number, step in enumerate(made) for _, reason, _ in step.counts.dropped]
    assert refused == case.get("drop", [])


# --- a batch program ----------------------------------------------------------------------------------------


def batch_join(script: Sequence[One], how: str, before: int, after: int, grace: int) -> tuple[list[Row], list[int]]:
    """Rows (left, right, time) in their order, and the numbers of the late, by the words of S27 to S30."""
    lasts = {"l": max(after, 0) + 1 + grace, "r": max(before, 0) + 1 + grace}
    padded, others = PADDED[how], {"l": "r", "r": "l"}
    watermark, made, late = -(2**62), list[Row](), list[int]()
    open_: list[tuple[One, int]] = []
    met: set[int] = set()

    def alone(one: One, number: int) -> Row:
        named = [one.at, number]
        return [named, None, one.at] if one.what == "l" else [None, named, one.at]

    for number, one in enumerate(script):
        if one.what == "W":
            watermark = max(watermark, one.at)
            done = [(each, n) for each, n in open_ if each.at + lasts[each.what] <= watermark]
            open_ = [pair for pair in open_ if pair not in done]
            done.sort(
                key=lambda pair: (pair[0].at + lasts[pair[0].what], pair[0].at, pair[0].what, pair[0].key, pair[1])
            )
            made += [alone(each, n) for each, n in done if n not in met and each.what in padded]
            continue
        if one.key is None and one.what not in padded:
            continue
        if one.at + lasts[one.what] <= watermark:
            late.append(number)
            continue
        if one.key is None:
            made.append(alone(one, number))
            continue
        back, ahead = (before, after) if one.what == "l" else (after, before)
        near = [(other.at, n) for other, n in open_ if one.at - back <= other.at <= one.at + ahead]
        for at, n in sorted(
            (at, n) for at, n in near if (script[n].what, script[n].key) == (others[one.what], one.key)
        ):
            pair = [[one.at, number], [at, n]]
            made.append([*(pair if one.what == "l" else reversed(pair)), max(one.at, at)])
            met |= {n, number}
        open_.append((one, number))
    return made, late


KEYS = st.sampled_from(["a", "b", "10", "9", None])
STEPS = st.one_of(
    st.builds(One, st.sampled_from("lr"), KEYS, st.integers(-4, 16)),
    st.builds(One, st.just("W"), st.none(), st.integers(-4, 24)),
)
SCRIPTS = st.lists(STEPS, min_size=1, max_size=40)
BOUNDS = st.tuples(st.integers(-6, 8), st.integers(-6, 8)).filter(lambda bounds: sum(bounds) >= 0)
HOW = st.sampled_from(["inner", "left", "outer"])


@given(
    script=SCRIPTS,
    how=HOW,
    bounds=BOUNDS,
    grace=st.integers(0, 3),
    cuts=st.sets(st.integers(0, 40)),
    fused=st.booleans(),
    crash=st.booleans(),
)
@settings(max_examples=600)
def test_an_interval_join_is_the_batch_join(  # noqa: PLR0913, PLR0917
    script: list[One],
    how: str,
    bounds: tuple[int, int],
    grace: int,
    cuts: set[int],
    fused: bool,  # noqa: FBT001
    crash: bool,  # noqa: FBT001
) -> None:
    """However ordered, cut and crashed: the rows, their order, and the late are those of the batch program."""
    expected, late = batch_join(script, how, *bounds, grace)
    cuts = {cut for cut in cuts if cut < len(script)}
    made = play(joined(how, *bounds, grace, late="late"), script, cuts, fused=fused, crash=crash)
    assert [row for step in made for row in rows(step)] == expected
    said = [msgspec.json.decode(emit.value or b"")[1] for step in made for emit in step.emits.get("late", [])]
    assert said == late


@given(script=SCRIPTS, how=HOW, bounds=BOUNDS, grace=st.integers(0, 3))
@settings(max_examples=200)
def test_an_accepted_record_meets_or_is_padded_once(
    script: list[One], how: str, bounds: tuple[int, int], grace: int
) -> None:
    """One pad or some pairs, never both; and once W has passed all, nothing is left (laws 13 and 18)."""
    script = [*script, One("W", None, 1_000)]
    topology = joined(how, *bounds, grace)
    made = [row for step in play(topology, script, (), fused=False) for row in rows(step)]
    late = set(batch_join(script, how, *bounds, grace)[1])
    for side, what in ((0, "l"), (1, "r")):
        pads = Counter(row[side][1] for row in made if row[side] is not None and row[1 - side] is None)
        pairs = {row[side][1] for row in made if row[side] is not None and row[1 - side] is not None}
        assert not pads.keys() & pairs
        assert all(count == 1 for count in pads.values())
        if what in PADDED[how]:
            accepted = {number for number, one in enumerate(script) if one.what == what} - late
            assert accepted == pads.keys() | pairs


@given(script=SCRIPTS, how=st.sampled_from(["inner", "outer"]), bounds=BOUNDS, grace=st.integers(0, 3))
@settings(max_examples=200)
def test_exchanging_the_sides_mirrors_the_results(
    script: list[One], how: str, bounds: tuple[int, int], grace: int
) -> None:
    """Left is right, before is after, and every row is turned round (law 14)."""
    turned = [one._replace(what={"l": "r", "r": "l"}.get(one.what, "W")) for one in script]
    there = play(joined(how, *bounds, grace), script, (), fused=True)
    back = play(joined(how, *bounds[::-1], grace), turned, (), fused=True)
    mirrored = [[row[1], row[0], row[2]] for step in back for row in rows(step)]
    assert Counter(map(str, mirrored)) == Counter(str(row) for step in there for row in rows(step))


def test_of_those_that_close_together_the_older_come_first() -> None:
    """By time, and only then left before right: whichever side lasts longer (S28)."""
    script = [One("l", "a", 10), One("r", "b", 0), One("l", "c", 10), One("W", None, 50)]
    (step,) = play(joined("outer", 10, 0, 0), script, (), fused=True)
    assert [row[2] for row in rows(step)] == [0, 10, 10]
    turned = [One("r", "a", 10), One("l", "b", 0), One("r", "c", 10), One("W", None, 50)]
    (step,) = play(joined("outer", 0, 10, 0), turned, (), fused=True)
    assert [row[2] for row in rows(step)] == [0, 10, 10]


def test_a_record_meets_itself_in_a_self_join() -> None:
    """Each record is first left, then right: all ordered pairs within the interval, itself among them (S30)."""
    script = [One("l", "k", 1), One("l", "k", 2)]
    made = play(joined("inner", 5, 5, 0, self_join=True), script, (), fused=True)
    assert [[left[0], right[0]] for step in made for left, right, _ in rows(step)] == [[1, 1], [2, 1], [1, 2], [2, 2]]


def test_a_function_that_fails_on_a_pad_takes_no_other_with_it() -> None:
    """Records that close together are padded one by one: each is a unit of its own (S44)."""
    topology = Topology("j", dead_letters="dead")
    left, right = sides(topology)
    left.join(right, lambda v, _: 1 // (v[1] - 1), how="left", before="1ms", after="1ms", name="j").to("out")
    script = [One("l", "k", 1), One("l", "k", 1), One("l", "k", 1), One("W", None, 50)]
    (step,) = play(topology, script, (), fused=True)
    assert len(step.emits["out"]) == 2
    assert [letter.reason for letter in step.dead] == ["processing_error"]


@given(script=SCRIPTS, bounds=BOUNDS, grace=st.integers(0, 3), size=st.integers(1, 6))
@settings(max_examples=150)
def test_nothing_of_a_join_is_late_for_a_window_behind_it(
    script: list[One], bounds: tuple[int, int], grace: int, size: int
) -> None:
    """The watermark behind a join stays behind its results (law 9)."""
    topology = Topology("j")
    left, right = sides(topology)
    both = left.join(right, paired, how="outer", before=ms(bounds[0]), after=ms(bounds[1]), grace=ms(grace), name="j")
    both.filter(lambda _: True).key_by(lambda _: "one").window(Tumbling(ms(size))).count(name="w").to("out")
    made = play(topology, [*script, One("W", None, 1_000)], (), fused=True)
    assert not any(name == "w" for step in made for name, _ in step.counts.late)
    counted = sum(
        msgspec.json.decode(emit.value or b"")["value"] for step in made for emit in step.emits.get("out", [])
    )
    assert counted == len(batch_join([*script, One("W", None, 1_000)], "outer", *bounds, grace)[0])


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize(("how", "padded"), [("inner", []), ("left", [1]), ("outer", [1, 2])])
def test_key_by_lets_null_keys_pass_to_joins_that_pad_them(how: Any, padded: list[int], partitions: int) -> None:
    """Where only such joins follow; the other side, and a key_by that windows follow too, refuse them (S30)."""
    topology = Topology("j")
    left, right = (
        topology.source(topic, Event, event_time=lambda v: v.ts).key_by(lambda v: v.key) for topic in ("in0", "in1")
    )
    joined = left.join(right, lambda a, b: [a and a.x, b and b.x], how=how, before="0s", after="0s", name="j")
    joined.to("out")
    logs = {f"in{n}": [msgspec.json.encode(Event(5, None, n + 1))] for n in (0, 1)}
    outcome = run(topology, logs, partitions=partitions)
    rows = [msgspec.json.decode(emit.value) for (topic, _), emits in outcome.rows.items() for emit in emits]
    assert sorted(number for row in rows for number in row if number is not None) == padded


# --- what cannot be -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "two streams need bounds"),
        ({"before": "1s"}, "two streams need bounds"),
        ({"before": "-5ms", "after": "4ms"}, "sum must be 0 or more"),
        ({"before": "1s", "after": "1s", "how": "right"}, "a right join is a left one"),
        ({"before": "1s", "after": "1s", "grace": "-1s"}, "grace"),
        ({"before": "1s", "after": "1s", "name": ""}, "needs a name"),
    ],
)
def test_a_join_that_cannot_be_says_what_to_do(given_: dict[str, Any], said: str) -> None:
    """Bounds, kinds and names are looked at when the join is declared."""
    topology = Topology("j")
    left, right = (topology.source(topic, list, key=str) for topic in ("a", "b"))
    with pytest.raises(TopologyError, match=said):
        left.join(right, paired, **({"name": "j"} | given_))


def test_sides_need_keys_and_one_topology() -> None:
    """A stream without a key, or one of another topology, cannot be joined."""
    topology, other = Topology("j"), Topology("k")
    left = topology.source("a", list, key=str)
    with pytest.raises(TopologyError, match="has no key"):
        left.join(topology.source("b", list), paired, before="1s", after="1s", name="j")  # type: ignore[call-overload]
    with pytest.raises(TopologyError, match="different topologies"):
        left.join(other.source("b", list, key=str), paired, before="1s", after="1s", name="j")


# --- other people's joins -----------------------------------------------------------------------------------

ORACLES = [
    ("nycflights_jan_feb", "interval_sched_dep"),
    ("nycflights_jan_feb", "interval_turnaround"),
    ("nycflights_jan_feb", "ks_window_join"),
    ("apache_logs", "interval_page_asset"),
]
STAMPS = {"ts": itemgetter("ts"), "arrival_ts": itemgetter("arrival_ts")}


def topology_of(oracle: Oracle) -> Topology:
    """The full join of an oracle: by its field, on its timestamps, padded both ways."""
    said = oracle.parameters
    (key,) = said["on"]
    topology = Topology("joins")

    def side(name: str) -> Any:
        stamp, wanted = said[f"{name}_ts"], said.get(f"{name}_filter", {})
        source = topology.source(said[name], dict, event_time=STAMPS[stamp], disorder="1d", max_future=None)
        return source.filter(lambda v: all(v[f] == x for f, x in wanted.items())).key_by(itemgetter(key))

    side("left").join(
        side("right"),
        lambda left, right: {"left_seq": left and left["seq"], "right_seq": right and right["seq"]},
        how="outer",
        before=ms(-said["lower_ms"]),
        after=ms(said["upper_ms"]),
        name="pairs",
    ).to("out")
    return topology


@pytest.mark.parametrize(("way", "partitions"), [("memory", 1), ("memory", 3), ("embedded", 1), ("embedded", 3)])
@pytest.mark.parametrize(("data", "name"), ORACLES)
def test_pairs_and_pads_of_real_streams(reference_data: Path, data: str, name: str, way: str, partitions: int) -> None:
    """Row by row what other engines gave: every pair, and every record that met nobody, once."""
    oracle = oracles(reference_data / data)[name]
    streams = {oracle.parameters[side] for side in ("left", "right")}
    files = {stream: Lines(there(oracle.folder, stream)) for stream in streams}
    ran = WAYS[way](topology_of(oracle), files, partitions)
    assert compare(oracle.expected(), ran.rows["out"], oracle.ids, ()) == len(oracle.expected())
