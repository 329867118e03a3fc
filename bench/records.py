"""State and crossings as records, in a process of its own: `python -m bench.records WHAT FILE SIZE` prints JSON.

    events --20,000 a commit--> changes --> changelog --> records --> restore --> store
    events --500 a slice--> crossings --> values --> parallel lists

Everything is made before the clock starts but what is measured; then the answer is summed up from what came out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from bench.measure import COMMIT_EACH, Spent, timed
from bench.workload import BEGIN, Answer, Event, Row, Work, by_force, summed
from streamproc.adapters import packing
from streamproc.core.batch import NEVER, Change, Crossing
from streamproc.core.feed import SLICE, Slice
from streamproc.core.state import MemoryStore
from streamproc.runners.worker import crossing
from streamproc.runners.worker.changelog import Changelog, ChangelogRecord, Restore

NODE = "totals"
FETCHED = 1_048_576
"""Bytes of a portion of the log."""


def events(path: Path) -> list[Event]:
    """The events of a file."""
    decode = msgspec.json.Decoder(Event).decode
    return list(map(decode, path.read_bytes().splitlines()))


def commits(path: Path, size: int, *, ending: bool) -> Iterator[list[Change]]:
    """Count, sum, min and max of each user in tumbling windows, as changes; none of the windows ever closes.

    Without an `ending`, state is kept as if no watermark made it due, each window in a slot of its own.
    """
    windows: dict[int, dict[str, list[Any]]] = {}
    every = events(path)
    for begin in range(0, len(every), COMMIT_EACH):
        touched: dict[int, dict[Any, list[Any] | None]] = {}
        for event in every[begin : begin + COMMIT_EACH]:
            start, user, amount = event.ts // size * size, event.user, event.amount
            window = windows.setdefault(start, {})
            _, count, total, least, most = window.get(user, (user, 0, 0.0, amount, amount))
            window[user] = entry = [user, count + 1, total + amount, min(least, amount), max(most, amount)]
            touched.setdefault(start, {})[user] = entry
        yield [
            Change(NODE, 0 if ending else slot(start, size), start if ending else NEVER, wiped=False, cells=cells)
            for start, cells in touched.items()
        ]


def slot(start: int, size: int) -> int:
    """The number of a window."""
    return start // size - BEGIN // size + 1


def held(store: MemoryStore, size: int, *, ending: bool) -> Answer:
    """The answer that a store holds."""

    def rows() -> Iterator[Row]:
        if ending:
            starts = [(0, at, at) for at in store.times(NODE, 0)]
        else:
            starts = [(number, NEVER, (number - 1 + BEGIN // size) * size) for number in range(1 << 10)]
        for number, at, start in starts:
            for user, count, total, least, most in store.bucket(NODE, number, at).values():
                yield user, start, start + size, count, total, least, most

    return summed(rows())


Portion: TypeAlias = "tuple[list[bytes | None], list[bytes | None]]"
"""Keys and values, as a fetch gives them."""


def restored(log: Iterable[Portion]) -> MemoryStore:
    """The store that a log makes, read in portions."""
    store = MemoryStore()
    restore = Restore(Changelog(packing), store, [NODE], packing)
    for keys, values in log:
        restore.feed(keys, values)
    restore.finish()
    return store


def portions(log: Iterable[ChangelogRecord]) -> Iterator[Portion]:
    """A log as it is fetched."""
    keys: list[bytes | None] = []
    values: list[bytes | None] = []
    size = 0
    for key, value in log:
        keys.append(key)
        values.append(value)
        size += len(key) + len(value or b"")
        if size > FETCHED:
            yield keys, values
            keys, values, size = [], [], 0
    yield keys, values


def written(course: Iterable[list[Change]]) -> list[ChangelogRecord]:
    """The records of all commits; the stores' part of a commit is in it."""
    changelog, store, log = Changelog(packing), MemoryStore(), []
    for changes in course:
        draft = changelog.records(changes, {}, store)
        store.apply(changes)
        changelog.committed(draft)
        log += draft.records
    return log


def write(path: Path, size: int, *, ending: bool) -> tuple[Spent, int]:
    """Changes to records, counted in cells touched."""
    course = list(commits(path, size, ending=ending))

    def run() -> Callable[[], Answer]:
        log = written(course)
        return lambda: held(restored(portions(log)), size, ending=ending)

    return timed(run), sum(len(change.cells) for changes in course for change in changes)


def restore(path: Path, size: int, *, ending: bool) -> tuple[Spent, int]:
    """A compacted log to a store, counted in cells that are live in the end."""
    log = written(commits(path, size, ending=ending))
    last = {record.key: number for number, record in enumerate(log)}
    fetched = list(portions(record for number, record in enumerate(log) if last[record.key] == number))

    def run() -> Callable[[], Answer]:
        store = restored(fetched)
        return lambda: held(store, size, ending=ending)

    spent = timed(run)
    return spent, spent.answer.rows


def crossings(path: Path) -> list[list[Crossing]]:
    """Events on their way to another partition, in slices."""
    rows = [
        Crossing(event.user, event, event.ts, (), ("events", 0, offset), event.user.encode())
        for offset, event in enumerate(events(path))
    ]
    return [rows[start : start + SLICE] for start in range(0, len(rows), SLICE)]


def encode(path: Path, size: int) -> tuple[Spent, int]:
    """Records to values of a repartition topic."""
    slices = crossings(path)

    def run() -> Callable[[], Answer]:
        encoded = [crossing.encode(rows, 0, 1, packing) for rows in slices]
        return lambda: crossed(map(landed, encoded), size)

    return timed(run), sum(map(len, slices))


def decode(path: Path, size: int) -> tuple[Spent, int]:
    """And back, as far as a feed takes them."""
    slices = crossings(path)
    fetched: list[Any] = [list(zip(*crossing.encode(rows, 0, 1, packing), strict=True)) for rows in slices]

    def run() -> Callable[[], Answer]:
        read = [
            crossing.decode(range(len(keys)), keys, values, packing).slices(0, [1], len(keys))
            for keys, values in fetched
        ]
        return lambda: crossed(read, size)

    return timed(run), sum(map(len, slices))


def landed(messages: list[tuple[bytes, bytes]]) -> list[Slice]:
    """What comes out of a repartition topic."""
    keys, values = [key for key, _ in messages], [value for _, value in messages]
    return crossing.decode(range(len(keys)), keys, values, packing).slices(0, [1], len(keys))


def crossed(read: Iterable[list[Slice]], size: int) -> Answer:
    """The answer that events give which have crossed."""
    values = (event for slices in read for one in slices for event in one.values)
    return by_force(((event.user, event.ts, event.amount) for event in values), Work("tumbling", size))


KINDS: dict[str, Callable[[Path, int], tuple[Spent, int]]] = {
    "write blocks": lambda path, size: write(path, size, ending=True),
    "write cells": lambda path, size: write(path, size, ending=False),
    "restore blocks": lambda path, size: restore(path, size, ending=True),
    "restore cells": lambda path, size: restore(path, size, ending=False),
    "encode crossings": encode,
    "decode crossings": decode,
}
"""What can be measured, by name."""


if __name__ == "__main__":
    what, file, length = sys.argv[1:]
    print(json.dumps([*KINDS[what](Path(file), int(length))]))
