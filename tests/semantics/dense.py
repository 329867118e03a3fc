"""The tiny dense domain that the laws of semantics begin from, and how a topology is run on it.

    beats --> topology with one window, its records named by their arrival number --> what came out, by window

Whole milliseconds, four keys (of which one is a number's text), neighbouring instants and some big jumps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from streamproc import Collect, Count, Hopping, Sum, Topology, Trailing, Tumbling
from streamproc.core.batch import Emit
from tests.laws import CUTS, Cut, Outcome, ms, run
from tests.semantics.batch_job import Event, Fixed


class Beat(msgspec.Struct, frozen=True):
    """A record of the domain; `n` is its arrival number, by which tests name it."""

    ts: int
    key: str
    x: int
    n: int


MOMENTS = st.integers(-6, 14) | st.integers(10, 30) | st.sampled_from([-50, 40, 41])
SPAN = 100
"""Longer than the domain: with so much disorder nothing is late."""


def numbered(drawn: Sequence[tuple[int, str, int]]) -> list[Beat]:
    """Beats with their arrival numbers."""
    return [Beat(ts, key, x, n) for n, (ts, key, x) in enumerate(drawn)]


BEATS = st.lists(
    st.tuples(MOMENTS, st.sampled_from(["a", "b", "10", "9"]), st.integers(0, 9)), min_size=1, max_size=60
).map(numbered)


def events(beats: Sequence[Beat]) -> list[Event]:
    """Beats as the batch programs take them; the item is the arrival number."""
    return [Event(beat.key, beat.ts, beat.n) for beat in beats]


def encoded(beats: Sequence[Beat]) -> list[bytes]:
    """Beats as messages."""
    return list(map(msgspec.json.encode, beats))


# --- windows ------------------------------------------------------------------------------------------------


def tumbling(size: int, offset: int = 0, grace: int = 0) -> Fixed:
    """Tumbling windows as the batch programs have them."""
    return Fixed(size, size, offset, grace)


FIXED = st.builds(
    Fixed,
    size=st.integers(1, 12),
    advance=st.integers(1, 14),
    offset=st.integers(-15, 15),
    grace=st.sampled_from([0, 0, 1, 3, 10]),
) | st.builds(tumbling, st.integers(1, 12), st.integers(-15, 15), st.sampled_from([0, 0, 1, 3, 10]))
"""Hopping windows, with gaps and unevenly, and tumbling ones."""


class Behind(NamedTuple):
    """A trailing window."""

    d: int
    grace: int = 0


TRAILING = st.builds(Behind, st.integers(0, 12), st.sampled_from([0, 0, 1, 3, 10]))


def declared(window: Fixed | Behind) -> Tumbling | Hopping | Trailing:
    """The window as users declare it."""
    if isinstance(window, Behind):
        return Trailing(ms(window.d), grace=ms(window.grace))
    offset, grace = ms(window.offset), ms(window.grace)
    if window.size == window.advance:
        return Tumbling(ms(window.size), offset=offset, grace=grace)
    return Hopping(ms(window.size), advance=ms(window.advance), offset=offset, grace=grace, allow_gaps=True)


# --- topologies ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """An aggregate of a user's own: the arrival numbers, sorted."""

    def zero(self) -> list[int]:
        return []

    def add(self, acc: list[int], value: Beat, /) -> list[int]:
        return sorted([*acc, value.n])

    def merge(self, left: list[int], right: list[int], /) -> list[int]:
        return sorted(left + right)

    def result(self, acc: list[int], /) -> list[int]:
        return list(acc)


TS: Callable[[Beat], int] = lambda beat: beat.ts  # noqa: E731 - one object, so that plans are equal
KEY: Callable[[Beat], str] = lambda beat: beat.key  # noqa: E731
X: Callable[[Beat], int] = lambda beat: beat.x  # noqa: E731
N: Callable[[Beat], int] = lambda beat: beat.n  # noqa: E731


def source(topology: Topology, disorder: int = 0, topics: int = 1) -> Any:
    """The beats of some topics, in0, in1 and so on, as one stream."""
    streams: list[Any] = [
        topology.source(f"in{number}", Beat, event_time=TS, disorder=ms(disorder), max_future=None)
        for number in range(topics)
    ]
    return streams[0].merge(*streams[1:]) if topics > 1 else streams[0]


def windowed(
    window: Any, *, disorder: int = 0, topics: int = 1, emit: Any = "on_close", inline: bool = False
) -> Topology:
    """One window `w` over all beats by key; with `inline` all its folds are built in, so a loop has them inline."""
    topology = Topology("law", dead_letters="dead")
    keyed = source(topology, disorder, topics).key_by(KEY)
    numbers: Any = Collect(of=N) if inline else Numbers()
    given = declared(window) if isinstance(window, Fixed | Behind) else window
    keyed.window(given, late="late").agg(n=Count(), sum=Sum(of=X), numbers=numbers, name="w", emit=emit).to("out")
    return topology


# --- what came out ------------------------------------------------------------------------------------------


class Got(NamedTuple):
    """One result: of which window, the numbers of the records in it, their count and sum, and its own time."""

    key: str
    start: int
    end: int
    numbers: list[int]
    n: int
    sum: int
    at: int
    event: int | None = None


def got(row: Emit) -> Got:
    """A row as it was written."""
    assert row.value is not None
    shown = msgspec.json.decode(row.value)
    value, event = shown["value"], shown.get("event")
    number = event["n"] if event is not None else None
    return Got(shown["key"], shown["start"], shown["end"], value["numbers"], value["n"], value["sum"], row.at, number)


def results(outcome: Outcome, topic: str = "out") -> list[Got]:
    """All results, partition by partition."""
    return [got(row) for place in sorted(outcome.rows) if place[0] == topic for row in outcome.rows[place]]


def numbers(outcome: Outcome, topic: str = "late") -> list[int]:
    """The arrival numbers of the beats that went to a topic."""
    rows = [row for place in sorted(outcome.rows) if place[0] == topic for row in outcome.rows[place]]
    return [msgspec.json.decode(row.value, type=Beat).n for row in rows if row.value is not None]


def counted(outcome: Outcome, what: str, node: str = "w") -> int:
    """A count of a node, over all that it is counted by."""
    found = outcome.counts.get(what, {})
    return sum(number for name, number in found.items() if (name if isinstance(name, str) else name[0]) == node)


@dataclass(frozen=True)
class Way:
    """A way to run: generated loops or plain ones, folds that they have inline or not, and how the logs are cut."""

    fused: bool = True
    inline: bool = False
    cut: Cut = Cut()  # noqa: RUF009 - frozen


WAYS = st.builds(Way, fused=st.booleans(), inline=st.booleans(), cut=CUTS)


def ran(topology: Topology, *logs: Sequence[Beat], way: Way = Way(), partitions: int = 1) -> Outcome:
    """A whole run, to the end of all inputs."""
    named = {f"in{number}": encoded(log) for number, log in enumerate(logs)}
    return run(topology, named, way.cut, fused=way.fused, partitions=partitions)


__all__ = ["BEATS", "FIXED", "MOMENTS", "SPAN", "TRAILING", "WAYS", "Beat", "Behind", "Cut", "Event", "Fixed", "Got"]
__all__ += ["Outcome", "Way", "counted", "declared", "encoded", "events", "got", "ms", "numbered", "numbers", "ran"]
__all__ += ["results", "source", "tumbling", "windowed"]
