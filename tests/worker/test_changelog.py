"""Changelogs: whatever compaction has left of one, and wherever a restore begins, state comes back as it was."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproc.adapters import packing
from streamproc.core.batch import NEVER, START, Change
from streamproc.core.errors import StateError
from streamproc.core.state import KeyId, MemoryStore
from streamproc.runners.worker.changelog import FORMAT, Changelog, ChangelogRecord, Draft, Place, Restore

NODES = ("a", "b")
PLACES = [Place("a", 0, 0), Place("a", 0, 5), Place("a", 1, -1), Place("b", 0, NEVER), Place("b", 1, NEVER)]
KEYS: list[KeyId] = ["x", "y", "", "\ud800", b"\xff", b"\xed\xa0\x80"]
"""Among them a text that UTF-8 cannot write, and the bytes that it would be."""

Log = list[ChangelogRecord]


class Touch(NamedTuple):
    """What one commit does to one place: cells are put, and removed where they are None."""

    place: int
    wiped: bool
    cells: dict[KeyId, list[Any] | None]


class Turn(NamedTuple):
    """One transaction; whether it succeeds, and whether another owner goes on from the log afterwards."""

    touches: list[Touch]
    succeeds: bool
    moves: bool


entries = st.builds(lambda n, text: [text, n], st.integers(0, 9), st.sampled_from(["", "long " * 4]))
touches = st.builds(
    Touch,
    st.sampled_from([0, 0, 0, 0, *range(len(PLACES))]),
    st.sampled_from([False, False, True]),
    st.dictionaries(st.sampled_from(KEYS[:2] * 3 + KEYS), entries | st.none(), max_size=4),
)
turns = st.builds(
    Turn,
    st.lists(touches, max_size=3, unique_by=lambda touch: touch.place),
    st.sampled_from([True, True, True, False]),
    st.sampled_from([False, False, False, True]),
)
courses = st.lists(turns, max_size=30)
limits = st.sampled_from([1, 60, 900_000])
mosts = st.sampled_from([1, 5])


def change(touch: Touch, store: MemoryStore) -> Change | None:
    """What a task would report of it: nothing is removed that is not there."""
    place = PLACES[touch.place]
    held = store.bucket(*place)
    wiped = touch.wiped and bool(held)
    cells = {key: entry for key, entry in touch.cells.items() if entry is not None or (key in held and not wiped)}
    return Change(*place, wiped, cells) if wiped or cells else None


def cells_of(store: MemoryStore) -> dict[Place, Mapping[KeyId, Any]]:
    """All that a store holds."""
    places = {*PLACES, *(Place(node, slot, at) for node in NODES for slot in (0, 1) for at in store.times(node, slot))}
    return {place: dict(store.bucket(*place)) for place in places if store.bucket(*place)}


def compacted(log: Log, rng: random.Random, tombstones_from: int = 0) -> list[tuple[int, ChangelogRecord]]:
    """What may be left of a log, with offsets; a tombstone may go once what it removed is gone, if it is old enough.

    The last record of each key stays; each of the others is there or not.
    """
    last = {record.key: offset for offset, record in enumerate(log)}
    share = rng.choice([0, 0.3, 0.7, 1])
    left: list[tuple[int, ChangelogRecord]] = []
    seen: set[bytes] = set()
    for offset, record in enumerate(log):
        is_last = last[record.key] == offset
        expired = record.value is None and record.key not in seen and offset < tombstones_from
        if (is_last and not expired) or (not is_last and rng.random() > share) or (expired and rng.random() > share):
            left.append((offset, record))
            seen.add(record.key)
    return left


@dataclass
class Owner:
    """A task's state, and how its changelog stands."""

    store: MemoryStore = field(default_factory=MemoryStore)
    changelog: Changelog = field(default_factory=lambda: Changelog(packing, most=1))
    position: Mapping[str, Any] | None = None

    def take(self, records: Iterable[ChangelogRecord], rng: random.Random) -> Owner:
        """Go on from here by what stands in the log behind it, read in any portions."""
        rows, budget = list(records), rng.choice([0, 50, 10_000])
        restore = Restore(self.changelog, self.store, NODES, packing, position=self.position, budget=budget)
        while rows:
            size = rng.randint(1, len(rows))
            restore.feed([key for key, _ in rows[:size]], [value for _, value in rows[:size]])
            rows = rows[size:]
        restore.finish()
        self.position = restore.position
        return self

    def books(self) -> dict[Place, Any]:
        """All that the writer knows of its log."""
        return self.changelog._spans  # noqa: SLF001 - when it writes a time whole depends on all of it

    def draft(self, turn: Turn, number: int) -> tuple[list[Change], Draft]:
        """The changes of a turn and their records."""
        changes = [made for touch in turn.touches if (made := change(touch, self.store)) is not None]
        return changes, self.changelog.records(changes, {"n": number, "times": (START, NEVER)}, self.store)


@dataclass
class Course:
    """The log that a course of transactions has written, and where each stood at which of its ends."""

    log: Log
    owner: Owner
    ends: list[int]


def run(course: Sequence[Turn], limit: int, most: int, rng: random.Random) -> Course:
    """One transaction after another; whoever goes on from the log does so from what compaction may have left."""
    log: Log = []
    owner = Owner(changelog=Changelog(packing, limit=limit, most=most))
    ends = [0]
    for number, turn in enumerate(course):
        changes, draft = owner.draft(turn, number)
        if turn.succeeds:
            log += draft.records
            owner.store.apply(changes)
            owner.changelog.committed(draft)
            owner.position = {"n": number, "times": (START, NEVER)}
            ends.append(len(log))
        if turn.moves:
            left = [record for _, record in compacted(log, rng, len(log))]
            owner = Owner(changelog=Changelog(packing, limit=limit, most=most)).take(left, rng)
    return Course(log, owner, ends)


@given(courses, limits, mosts, st.randoms(use_true_random=False))
def test_state_comes_back_whatever_compaction_has_left(
    course: list[Turn], limit: int, most: int, rng: random.Random
) -> None:
    """Cells, position and what is live in the log; failed transactions and other owners in between are not seen."""
    done = run(course, limit, most, rng)
    restored = Owner().take([record for _, record in compacted(done.log, rng, len(done.log))], rng)
    assert cells_of(restored.store) == cells_of(done.owner.store)
    assert restored.position == done.owner.position
    assert restored.books() == done.owner.books()


@given(courses, limits, mosts, st.randoms(use_true_random=False))
def test_what_was_restored_once_is_topped_up(course: list[Turn], limit: int, most: int, rng: random.Random) -> None:
    """From any earlier end of the log on, while the tombstones since are there."""
    done = run(course, limit, most, rng)
    parked = rng.choice(done.ends)
    owner = Owner().take(done.log[:parked], rng)
    left = compacted(done.log, rng, parked)
    owner.take([record for offset, record in left if offset >= parked], rng)
    assert cells_of(owner.store) == cells_of(done.owner.store)
    assert owner.position == done.owner.position
    assert owner.books() == done.owner.books()


@given(courses, limits, mosts, st.randoms(use_true_random=False))
def test_a_log_holds_nothing_but_what_is_live(course: list[Turn], limit: int, most: int, rng: random.Random) -> None:
    """Once all is compacted: the position, a record a cell, and blocks of times that have cells, few enough."""
    done = run(course, limit, most, rng)
    live = {key for key, value in {record.key: record.value for record in done.log}.items() if value is not None}
    held = cells_of(done.owner.store)
    blocks = done.owner.changelog.live()
    assert sum(key[:1] == b"P" for key in live) == (len(done.ends) > 1)
    assert sum(key[:1] in b"CS" for key in live) == sum(
        len(cells) for place, cells in held.items() if place.at == NEVER
    )
    assert blocks.keys() == {place for place in held if place.at != NEVER}
    assert sum(key[:1] == b"B" for key in live) == sum(map(len, blocks.values()))
    for numbers in blocks.values():
        assert len(numbers) <= len(KEYS) + 17 * len(KEYS)


@given(courses, limits, mosts, st.randoms(use_true_random=False))
def test_a_draft_changes_nothing(course: list[Turn], limit: int, most: int, rng: random.Random) -> None:
    """Drawn up twice it is the same, so that a transaction that failed leaves no trace."""
    owner = run(course[:-1], limit, most, rng).owner
    for turn in course[-1:]:
        assert owner.draft(turn, 0) == owner.draft(turn, 0)


def commit(owner: Owner, changes: list[Change], drop: Iterable[str] = ()) -> Log:
    """One transaction."""
    draft = owner.changelog.records(changes, {}, owner.store, drop)
    owner.store.apply(changes)
    owner.changelog.committed(draft)
    return draft.records[:-1]


def course_of(cells: int, size: int) -> tuple[int, float, float]:
    """A time with so many cells, so many of them touched each time.

    Gives its blocks at most, how many times over they held its cells at most, and the cells written for each touched.
    """
    owner = Owner(changelog=Changelog(packing))
    names = [f"k{n:05}" for n in range(cells)]
    log = commit(owner, [Change("a", 0, 0, wiped=False, cells={name: [name, 0] for name in names})])
    sizes = {key: 0 if value is None else len(packing.unpack(value[2:])) for key, value in log}
    most = heaviest = written = touched = 0
    for turn in range(600):
        some: dict[KeyId, Any] = {names[(turn * size + n) % cells]: ["", turn] for n in range(size)}
        records = commit(owner, [Change("a", 0, 0, wiped=False, cells=some)])
        new = {key: 0 if value is None else len(packing.unpack(value[2:])) for key, value in records}
        written += sum(new.values())
        touched += len(some)
        sizes |= new
        most = max(most, len(owner.changelog.live()[Place("a", 0, 0)]))
        heaviest = max(heaviest, sum(sizes.values()))
    return most, heaviest / (cells + 32), written / touched


@pytest.mark.parametrize(
    ("cells", "size", "blocks"), [(1, 1, 17), (50, 5, 17), (200, 200, 2), (1_000, 100, 11), (3_000, 30, 101)]
)
def test_a_time_is_written_whole_neither_too_seldom_nor_too_often(cells: int, size: int, blocks: int) -> None:
    """Its blocks are few and at most about twice what is live, and all in all about twice what changed is written."""
    most, weight, factor = course_of(cells, size)
    assert most == blocks
    assert weight <= 2
    assert factor <= 2


def test_a_large_time_that_hardly_changes_has_a_bounded_number_of_blocks() -> None:
    """They hold next to nothing, but each of them is a record, and a tombstone in the end."""
    most, _, _ = course_of(10_000, 10)
    assert most == 257


def test_blocks_are_applied_by_number_wherever_compaction_has_left_their_keys() -> None:
    """Number 0 of a time that was opened anew stands behind what is left of number 1 of the closed one."""
    owner = Owner(changelog=Changelog(packing))
    put: list[dict[KeyId, list[Any] | None]] = [{"x": ["old"]}, {"y": ["old"]}, {"x": ["first"]}, {"x": ["second"]}]
    log = [record for cells in put[:2] for record in commit(owner, [Change("a", 0, 0, wiped=False, cells=cells)])]
    log += commit(owner, [Change("a", 0, 0, wiped=True, cells={})])
    log += [record for cells in put[2:] for record in commit(owner, [Change("a", 0, 0, wiped=False, cells=cells)])]
    store = MemoryStore()
    restore = Restore(Changelog(packing), store, NODES, packing)
    restore.feed([key for key, _ in log[1:]], [value for _, value in log[1:]])
    restore.finish()
    assert cells_of(store) == {Place("a", 0, 0): {"x": ["second"]}}


def test_a_time_that_shrinks_is_written_whole() -> None:
    """What was removed one by one does not stay in the log until the time closes."""
    owner = Owner(changelog=Changelog(packing))
    log = commit(owner, [Change("a", 0, 0, wiped=False, cells={f"{n}": [f"{n}"] for n in range(500)})])
    for n in range(490):
        log += commit(owner, [Change("a", 0, 0, wiped=False, cells={f"{n}": None})])
    last = {record.key: record.value for record in log}
    assert sum(len(packing.unpack(value[2:])) for value in last.values() if value) <= 2 * 10 + 64 + 10
    for n in range(490, 500):
        log += commit(owner, [Change("a", 0, 0, wiped=False, cells={f"{n}": None})])
    assert not any({record.key: record.value for record in log}.values())


def test_a_block_stays_below_the_limit_unless_one_cell_is_larger() -> None:
    """Parts are numbered, and nothing is lost; the broker refuses what cannot be split."""
    owner = Owner(changelog=Changelog(packing, limit=1_000))
    cells: dict[KeyId, list[Any] | None] = {f"{n}": [f"{n}", "." * (n * 7 % 90)] for n in range(200)}
    log = commit(owner, [Change("a", 0, 0, wiped=False, cells=cells)])
    assert len(log) > 10
    assert max(len(value or b"") for _, value in log) <= 1_000
    large = {**cells, "large": ["." * 2_000]}
    log += commit(owner, [Change("a", 0, 0, wiped=True, cells=large)])
    assert sum(len(value or b"") > 1_000 for _, value in log) == 1
    assert cells_of(Owner().take(log, random.Random(1)).store) == {Place("a", 0, 0): large}


def test_many_cells_of_little_size_are_several_blocks() -> None:
    """However large a record may be."""
    cells: dict[KeyId, list[Any] | None] = {f"{n}": [n] for n in range(20_000)}
    owner = Owner()
    log = commit(owner, [Change("a", 0, 0, wiped=False, cells=cells)])
    assert len(log) == 2
    assert cells_of(Owner().take(log, random.Random(1)).store) == {Place("a", 0, 0): cells}


def test_values_begin_with_the_format() -> None:
    """So that a later streamproc knows what it reads."""
    owner = Owner()
    changes = [Change(*place, wiped=False, cells={key: [key] for key in KEYS}) for place in PLACES]
    assert {value[0] for _, value in owner.changelog.records(changes, {}, owner.store).records if value} == {FORMAT}


def test_records_of_nodes_that_are_gone_are_left_aside_and_dropped_on_request() -> None:
    """They are counted, they outlive restores, and they go by tombstones in a transaction."""
    owner = Owner()
    gone = Place("gone", 0, 0), Place("gone", 0, NEVER)
    log = commit(owner, [Change(*place, wiped=False, cells={"x": ["x"], "y": ["y"]}) for place in (*PLACES, *gone)])
    owner = Owner().take(log, random.Random(1))
    assert owner.changelog.orphans == {"gone": 3}
    assert cells_of(owner.store) == {place: {"x": ["x"], "y": ["y"]} for place in PLACES}
    failed = owner.changelog.records([], {}, owner.store, ["gone"]).records
    assert owner.changelog.orphans == {"gone": 3}
    assert commit(owner, [], ["gone", "never there"]) == failed[:-1]
    assert owner.changelog.orphans == {}
    assert Owner().take([*log, *failed], random.Random(1)).changelog.orphans == {}


def damaged() -> Iterable[tuple[str, list[tuple[bytes | None, bytes | None]], str]]:
    """Logs that are no changelog of ours, and words of the error."""
    owner = Owner()
    block, cell, position = owner.changelog.records(
        [Change("a", 0, 0, wiped=False, cells={"x": ["x"]}), Change("b", 0, NEVER, wiped=False, cells={"x": ["x"]})],
        {},
        owner.store,
    ).records
    for name, record in (("block", block), ("cell", cell), ("position", position)):
        assert record.value is not None
        yield f"{name} of a newer format", [(record.key, b"\x09" + record.value[1:])], "format 9"
        yield f"{name} cut short", [(record.key, record.value[:-1])], "cannot be read"
        yield f"{name} without value", [(record.key, b"")], "without a value"
        skip = 2 if name == "block" else 1
        yield f"{name} of another kind", [(record.key, record.value[:skip] + packing.pack(7))], "that is none"
    yield "no key", [(None, b"")], "without a key"
    yield "an empty key", [(b"", b"")], "somebody else"
    yield "a foreign key", [(b"user-1", b"{}")], "kind"
    yield "a newer kind", [(b"Z" + block.key[1:], block.value)], "newer|does not know"
    yield "a key cut short", [(block.key[:8], block.value)], "somebody else|damaged"
    yield "a key with no number", [(block.key[:-1], block.value)], "without a number"
    yield "a place that is too long", [(b"C\xff\xff" + cell.key[3:], cell.value)], "damaged"
    yield "a place that is too short", [(b"C\x00\x04" + cell.key[3:], cell.value)], "damaged"
    yield "a node that is no text", [(cell.key.replace(b"b", b"\xff"), cell.value)], "damaged"
    yield "an odd key that is no text", [(b"S" + cell.key[1:] + b"\xff", cell.value)], "no text"
    yield "a later block alone", [(block.key, bytes([FORMAT, 0]) + (block.value or b"")[2:])], "lost a block"
    later = block.key[:-1] + b"\x02"
    yield "a gap", [(block.key, block.value), (later, bytes([FORMAT, 0]) + (block.value or b"")[2:])], "lost a block"


def restored(rows: list[tuple[bytes | None, bytes | None]]) -> None:
    """Read a whole log."""
    restore = Restore(Changelog(packing), MemoryStore(), NODES, packing)
    restore.feed([key for key, _ in rows], [value for _, value in rows])
    restore.finish()


@pytest.mark.parametrize(("rows", "words"), [pytest.param(*each, id=name) for name, *each in damaged()])
def test_what_is_no_changelog_is_refused(rows: list[tuple[bytes | None, bytes | None]], words: str) -> None:
    """With an error that says what was found and what to do."""
    with pytest.raises(StateError, match=words):
        restored(rows)
