"""The batch programs that streams are compared with: written from the definitions, by search, and knowing no engine.

    final       all records at hand, window by window       nothing is late
    judged      record by record, with one watermark        what a stream keeps, refuses and has open

An event is (key, at, item).  Keys here are text, and are ordered by their bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Event(NamedTuple):
    """One record of a keyed stream."""

    key: str
    at: int
    item: Any


class Fixed(NamedTuple):
    """Windows `[s, s + size)` for every s that is congruent to the offset modulo the advance."""

    size: int
    advance: int
    offset: int = 0
    grace: int = 0


Place = tuple[str, int, int]
"""A window of a key: (key, start, end)."""


def ordered(places: Iterable[Place]) -> list[Place]:
    """Windows in the order of their results: end, start, key bytes."""
    return sorted(places, key=lambda place: (place[2], place[1], place[0].encode()))


def windows_of(window: Fixed, at: int) -> list[tuple[int, int]]:
    """The windows that hold an instant, by their starts from the first that may be."""
    first = at - window.size + 1
    first += (window.offset - first) % window.advance
    return [(start, start + window.size) for start in range(first, at + 1, window.advance)]


def final(window: Fixed, events: Sequence[Event]) -> dict[Place, list[Any]]:
    """What every window of every key holds when all is known; by going through the windows, not the records."""
    if not events:
        return {}
    low, high = min(event.at for event in events), max(event.at for event in events)
    starts = [s for s in range(low - window.size + 1, high + 1) if (s - window.offset) % window.advance == 0]
    keys = {event.key for event in events}
    found = {
        (key, start, start + window.size): [
            event.item for event in events if event.key == key and start <= event.at < start + window.size
        ]
        for start in starts
        for key in keys
    }
    return {place: found[place] for place in ordered(found) if found[place]}


class Behind(NamedTuple):
    """The result of one event over what is behind it."""

    event: Event
    members: list[Any]


def final_trailing(d: int, events: Sequence[Event]) -> list[Behind]:
    """For each event all items of its key in [at - d, at], in the order of results: (at, key bytes, arrival)."""
    return [
        Behind(event, [other.item for other in events if other.key == event.key and 0 <= event.at - other.at <= d])
        for event in sorted(events, key=lambda event: (event.at, event.key.encode()))
    ]


@dataclass
class Judged:
    """What becomes of records in order of arrival: `results` in the order in which windows close, and `open` ones."""

    results: list[tuple[Place, list[Any]]] = field(default_factory=list)
    open: dict[Place, list[Any]] = field(default_factory=dict)
    late: list[Any] = field(default_factory=list)
    gaps: list[Any] = field(default_factory=list)
    refusals: list[tuple[Any, tuple[int, int], int]] = field(default_factory=list)


def judged(window: Fixed, disorder: int, events: Sequence[Event], *, end: bool = True) -> Judged:
    """The fold of one input over fixed windows, with lateness: W is the greatest time so far less the disorder."""
    found = Judged()

    def close(watermark: float) -> None:
        for place in ordered(place for place in found.open if place[2] + window.grace <= watermark):
            found.results.append((place, found.open.pop(place)))

    for event, watermark in with_watermarks(disorder, events):
        close(watermark)
        windows = windows_of(window, event.at)
        open_ = [(start, end) for start, end in windows if end + window.grace > watermark]
        found.refusals += [(event.item, one, watermark) for one in windows if one not in open_]
        if not windows:
            found.gaps.append(event.item)
        elif not open_:
            found.late.append(event.item)
        for start, end_ in open_:
            found.open.setdefault((event.key, start, end_), []).append(event.item)
    if end:
        close(float("inf"))
    return found


@dataclass
class JudgedBehind:
    """What becomes of the records of a trailing window: results, records that wait for theirs, and late ones."""

    results: list[Behind] = field(default_factory=list)
    waiting: list[Event] = field(default_factory=list)
    late: list[Any] = field(default_factory=list)
    refused: int = 0


def judged_trailing(d: int, grace: int, disorder: int, events: Sequence[Event], *, end: bool = True) -> JudgedBehind:
    """The fold over what is behind each event, with lateness."""
    found = JudgedBehind()
    accepted: list[Event] = []

    def close(watermark: float) -> None:
        due = [event for event in found.waiting if event.at + 1 + grace <= watermark]
        for event in sorted(due, key=lambda event: (event.at, event.key.encode())):
            found.waiting.remove(event)
            members = [other.item for other in accepted if other.key == event.key and 0 <= event.at - other.at <= d]
            found.results.append(Behind(event, members))

    for event, watermark in with_watermarks(disorder, events):
        close(watermark)
        if event.at + 1 + grace > watermark:
            found.waiting.append(event)
            accepted.append(event)
            continue
        found.refused += 1
        if any(other.key == event.key and 0 <= other.at - event.at <= d for other in found.waiting):
            accepted.append(event)
        else:
            found.late.append(event.item)
    if end:
        close(float("inf"))
    return found


def with_watermarks(disorder: int, events: Sequence[Event]) -> Iterator[tuple[Event, int]]:
    """Each event with the watermark it meets."""
    top = None
    for event in events:
        top = event.at if top is None or event.at > top else top
        yield event, top - disorder


def within(disorder: int, events: Sequence[Event]) -> list[Event]:
    """The events that keep a bound of disorder, the others left out."""
    kept: list[Event] = []
    top = None
    for event in events:
        if top is None or event.at >= top - disorder:
            kept.append(event)
            top = event.at if top is None or event.at > top else top
    return kept
