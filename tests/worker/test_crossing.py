"""Crossing a repartition topic: whatever state can hold comes out as it went in, and damage is named."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.adapters import packing
from streamproc.core.batch import END, FARTHEST, START, Crossing, Said
from streamproc.core.errors import StateError
from streamproc.core.feed import SLICE, Landed, Slice, read_back
from streamproc.runners.worker.crossing import Crossed, decode, encode, mark


class Order(msgspec.Struct, frozen=True):
    """A record as users have them."""

    ts: int
    user: Any
    amount: float = 0.0


texts = st.text(st.characters(), max_size=4)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary(max_size=4)
values = st.recursive(
    plain | st.builds(Order, st.integers(0, 9), plain),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=6,
)
names = st.text(max_size=3)
crossings = st.builds(
    Crossing,
    key=values,
    value=values | st.builds(Order, st.integers(), st.text(max_size=3)),
    at=st.integers(-FARTHEST, FARTHEST) | st.sampled_from([-1, 0, 1]),
    headers=st.just(()) | st.lists(st.tuples(names, st.binary(max_size=3)), max_size=2).map(tuple),
    position=st.tuples(names, st.integers(-1, 9), st.integers(-(2**63), 2**63 - 1)),
    route=st.binary(max_size=3),
)
alike = st.lists(
    st.builds(
        Crossing,
        key=st.text(max_size=3),
        value=st.builds(Order, st.integers(0, 9), st.text(max_size=3)),
        at=st.integers(-5, 5),
        headers=st.just(()),
        position=st.tuples(st.just("orders"), st.integers(0, 3), st.integers(0, 9)),
        route=st.binary(max_size=3),
    ),
    max_size=6,
)
says = st.builds(Said, st.integers(START, END), st.booleans())
Message = tuple[bytes | None, bytes | None]


def written(rows: Sequence[Crossing], task: int = 3, incarnation: int = 7) -> list[Message]:
    """Records as messages."""
    return [*encode(rows, task, incarnation, packing)]


def read(messages: Sequence[Message], offsets: Sequence[int] | None = None) -> Crossed:
    """Messages as they are fetched."""
    return decode(
        range(len(messages)) if offsets is None else offsets,
        [key for key, _ in messages],
        [value for _, value in messages],
        packing,
    )


class Part(NamedTuple):
    """What one incarnation of one task has sent in one go."""

    task: int
    incarnation: int
    what: Any


runs = st.lists(
    st.builds(Part, st.integers(0, 2), st.integers(1, 2), alike | st.lists(crossings, max_size=3) | says), max_size=6
)


def sent(parts: Iterable[Part]) -> tuple[list[Message], list[Landed]]:
    """A run of messages, and what it ought to be."""
    messages: list[Message] = []
    rows: list[Landed] = []
    for task, incarnation, what in parts:
        if isinstance(what, Said):
            messages.append((None, mark(what, task, incarnation, packing)))
            rows.append(Landed(len(rows), task, incarnation, what))
        else:
            messages += written(what, task, incarnation)
            rows += [Landed(len(rows) + n, task, incarnation, one) for n, one in enumerate(what)]
    return messages, rows


@given(runs)
def test_what_was_written_is_read(parts: list[Part]) -> None:
    """Records with all that is known of them, of the same types, and marks just where they stood."""
    messages, rows = sent(parts)
    crossed = read(messages)
    assert crossed.rows() == rows
    records = [row.what for row in rows if isinstance(row.what, Crossing)]
    assert [list(map(type, one)) for one in zip(crossed.keys, crossed.values, strict=True)] == [
        [type(one.key), type(one.value)] for one in records
    ]
    assert len(crossed) == len(records)
    assert [one.before for one in crossed.marks] == [
        sum(isinstance(other.what, Crossing) for other in rows[:n])
        for n, row in enumerate(rows)
        if isinstance(row.what, Said)
    ]


def flat(slices: Iterable[Slice]) -> list[Any]:
    """Everything in slices, in order, whatever their cuts."""
    found: list[Any] = []
    for one in slices:
        marks = list(one.marks)
        count = len(one.values)
        inputs = [one.inputs] * count if isinstance(one.inputs, int) else one.inputs
        headers = one.headers if one.headers is not None else [()] * count
        rows = zip(inputs, one.values, one.times, one.offsets, one.keys or (), headers, one.places or (), strict=True)
        for n, row in enumerate([*rows, None]):
            while marks and marks[0].before == n:
                found.append(marks.pop(0)._replace(before=0))
            found += [] if row is None else [row]
        assert not marks
        assert one.origins == range(count)
    return found


@given(runs, st.lists(st.integers(1, 2), min_size=3, max_size=3))
def test_slices_are_what_rows_give_one_by_one(parts: list[Part], known: list[int]) -> None:
    """Also where a task speaks in another incarnation."""
    messages, rows = sent(parts)
    heard, again = known[:], known[:]
    slices = read(messages).slices(4, heard, len(rows) + 5)
    assert flat(slices) == flat([read_back(4, rows, again, len(rows) + 5)])
    assert heard == again
    assert slices[-1].next_offset == len(rows) + 5


def test_a_task_that_cannot_be_is_refused() -> None:
    """Its input had more partitions once."""
    for task, words in ((3, "task 3, and there are 3"), (-1, "task -1")):
        for message in (
            *written([Crossing("k", 1, 0, (), ("t", 0, 0), b"k")], task),
            (None, mark(Said(1), task, 1, packing)),
        ):
            with pytest.raises(StateError, match=words):
                read([message]).slices(0, [1, 1, 1], 1)


def test_a_long_run_is_cut_into_slices() -> None:
    """Each of them knows where to read on behind it, and holds the marks up to there."""
    one = Crossing("k", 1, 0, (), ("t", 0, 0), b"k")
    count = 2 * SLICE
    tick: list[Message] = [(None, mark(Said(1), 0, 1, packing))]
    messages = [*tick, *written([one] * SLICE, 0, 1), *tick, *written([one] * SLICE, 0, 1), *tick]
    slices = read(messages, range(0, 2 * len(messages), 2)).slices(0, [1], 5_000)
    assert [len(each.values) for each in slices] == [SLICE, SLICE]
    assert [[each.before for each in one.marks] for one in slices] == [[0], [0, SLICE]]
    assert [each.next_offset for each in slices] == [2 * SLICE + 1, 5_000]
    assert len(messages) == count + 3


@given(st.lists(crossings, max_size=4))
def test_how_a_run_was_cut_cannot_be_seen(rows: list[Crossing]) -> None:
    """A record is the same bytes alone and among others."""
    assert encode(rows, 1, 2, packing) == [message for row in rows for message in encode([row], 1, 2, packing)]


def test_special_floats_cross_as_they_are() -> None:
    """NaN and minus zero."""
    rows = [Crossing(None, each, 0, (), ("t", 0, 0), b"") for each in (math.nan, -0.0, math.inf)]
    assert [struct.pack("d", each) for each in read(written(rows)).values] == [
        struct.pack("d", row.value) for row in rows
    ]


GOOD: list[Any] = [1, 3, 7, -5, "orders", 0, 42, ["h", b"1"], "key", "value"]


def changed(index: int, part: Any) -> bytes:
    """A record with one part of another kind."""
    return packing.pack([*GOOD[:index], part, *GOOD[index + 1 :]])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "cannot be read"),
        (None, "cannot be read"),
        (packing.pack(GOOD)[:-1], "cannot be read"),
        (packing.pack(7), "no record: it is damaged"),
        (packing.pack([]), "no record: it is damaged"),
        (packing.pack(GOOD[:-1]), "has 9 parts and not 10"),
        (changed(0, 2), "has format 2, and this streamproc knows format 1"),
        (changed(0, "1"), "its format is none"),
        (changed(0, part=True), "its format is none"),
        (changed(1, None), "its task is none"),
        (changed(2, 1.0), "its incarnation is none"),
        (changed(3, "x"), "its time is none"),
        (changed(4, b"orders"), "its topic is none"),
        (changed(5, part=False), "its partition is none"),
        (changed(6, None), "its offset is none"),
        (changed(7, "h1"), "its headers are none"),
        (changed(7, ["h"]), "its headers are none"),
        (changed(7, [b"h", b"1"]), "its headers are none"),
        (changed(7, ["h", "1"]), "its headers are none"),
        (mark(Said(5), 1, 1, packing), "has 5 parts and not 10"),
    ],
)
def test_a_damaged_record_is_named(value: bytes | None, words: str) -> None:
    """By its place in the run and what is wrong with it."""
    good, tick = (b"", packing.pack(GOOD)), (None, mark(Said(5), 1, 1, packing))
    with pytest.raises(StateError, match=f"offset 7 of a repartition topic.*{words}"):
        read([good, tick, good, (b"", value), good], [3, 4, 6, 7, 9])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "cannot be read"),
        (packing.pack(GOOD), "has 10 parts and not 5"),
        (packing.pack([2, 1, 1, 5, False]), "format 2"),
        (packing.pack([1, "1", 1, 5, False]), "its task is none"),
        (packing.pack([1, 1, True, 5, False]), "its incarnation is none"),
        (packing.pack([1, 1, 1, 5.0, False]), "its watermark is none"),
        (packing.pack([1, 1, 1, 5, 0]), "its idle is none"),
    ],
)
def test_a_damaged_mark_is_named(value: bytes, words: str) -> None:
    """In the same way."""
    with pytest.raises(StateError, match=f"offset 5 of a repartition topic.*{words}"):
        read([(b"", packing.pack(GOOD)), (None, value)], [4, 5])


@given(st.lists(crossings, min_size=1, max_size=3), st.data())
def test_any_changed_byte_gives_messages_or_a_state_error(rows: list[Crossing], data: st.DataObject) -> None:
    """Damage is one kind of error."""
    values = [value for _, value in encode(rows, 0, 1, packing)]
    which = data.draw(st.integers(0, len(values) - 1))
    broken = bytearray(values[which])
    broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    values[which] = bytes(broken)
    with suppress(StateError):
        assert len(read([(b"", value) for value in values])) == len(rows)


def test_what_cannot_be_packed_says_what_to_do() -> None:
    """As for state."""
    with pytest.raises(StateError, match="use a dataclass"):
        encode([Crossing("k", object(), 0, (), ("t", 0, 0), b"")], 0, 1, packing)
