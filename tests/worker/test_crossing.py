"""Crossing a repartition topic: whatever state can hold comes out as it went in, and damage is named."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.adapters import packing
from streamproc.core.batch import END, FARTHEST, START, Crossing
from streamproc.core.errors import StateError
from streamproc.runners.worker.crossing import Spoken, decode, encode, mark


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
spoken = st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(START, END), st.booleans())
Message = tuple[bytes | None, bytes | None]


def written(rows: Sequence[Crossing], task: int = 3, incarnation: int = 7) -> list[Message]:
    """Records as messages."""
    return list(zip((row.route for row in rows), encode(rows, task, incarnation, packing), strict=True))


def said(what: tuple[int, int, int, bool]) -> Message:
    """A mark as a message."""
    task, incarnation, watermark, idle = what
    return None, mark(task, incarnation, watermark, packing, idle=idle)


@given(st.lists(alike | st.lists(crossings, max_size=4) | spoken, max_size=6), st.integers(0, 9), st.integers(0, 2**62))
def test_what_was_written_is_read(parts: list[Any], task: int, incarnation: int) -> None:
    """Records with all that is known of them, and marks just where they stood."""
    messages: list[Message] = []
    rows: list[Crossing] = []
    indexes: list[int] = []
    marks: list[Spoken] = []
    for part in parts:
        if isinstance(part, tuple):
            marks.append(Spoken(len(rows), len(messages), *part))
            messages.append(said(part))
        else:
            indexes += range(len(messages), len(messages) + len(part))
            messages += written(part, task, incarnation)
            rows += part
    read = decode([key for key, _ in messages], [value for _, value in messages], packing)
    assert list(read.indexes) == indexes
    assert (read.tasks, read.incarnations) == ([task] * len(rows), [incarnation] * len(rows))
    headers = read.headers if read.headers is not None else [()] * len(rows)
    found = zip(read.keys, read.values, read.times, headers, read.positions, strict=True)
    assert [(*one, row.route) for one, row in zip(found, rows, strict=True)] == rows
    assert [list(map(type, one)) for one in zip(read.keys, read.values, strict=True)] == [
        [type(row.key), type(row.value)] for row in rows
    ]
    assert read.marks == marks
    assert len(read) == len(rows)


@given(st.lists(crossings, max_size=4))
def test_how_a_run_was_cut_cannot_be_seen(rows: list[Crossing]) -> None:
    """A record is the same bytes alone and among others."""
    assert encode(rows, 1, 2, packing) == [value for row in rows for value in encode([row], 1, 2, packing)]


def test_special_floats_cross_as_they_are() -> None:
    """NaN and minus zero."""
    rows = [Crossing(None, each, 0, (), ("t", 0, 0), b"") for each in (math.nan, -0.0, math.inf)]
    read = decode([b""] * 3, encode(rows, 0, 1, packing), packing)
    assert [struct.pack("d", each) for each in read.values] == [struct.pack("d", row.value) for row in rows]


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
        (mark(1, 1, 5, packing, idle=False), "has 5 parts and not 10"),
    ],
)
def test_a_damaged_record_is_named(value: bytes | None, words: str) -> None:
    """By its place in the run and what is wrong with it."""
    good, tick = packing.pack(GOOD), mark(1, 1, 5, packing, idle=False)
    keys, values = [b"", None, b"", b"", b""], [good, tick, good, value, good]
    with pytest.raises(StateError, match=f"message 3 of a run from a repartition topic.*{words}"):
        decode(keys, values, packing)


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
    with pytest.raises(StateError, match=f"message 1 of a run.*{words}"):
        decode([b"", None], [packing.pack(GOOD), value], packing)


@given(st.lists(crossings, min_size=1, max_size=3), st.data())
def test_any_changed_byte_gives_messages_or_a_state_error(rows: list[Crossing], data: st.DataObject) -> None:
    """Damage is one kind of error."""
    values = encode(rows, 0, 1, packing)
    which = data.draw(st.integers(0, len(values) - 1))
    broken = bytearray(values[which])
    broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode([b""] * len(rows), [*values[:which], bytes(broken), *values[which + 1 :]], packing)
    except StateError:
        return
    assert len(read) == len(rows)


def test_what_cannot_be_packed_says_what_to_do() -> None:
    """As for state."""
    with pytest.raises(StateError, match="use a dataclass"):
        encode([Crossing("k", object(), 0, (), ("t", 0, 0), b"")], 0, 1, packing)
