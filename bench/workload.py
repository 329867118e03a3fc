"""The load: events from a seed, the topologies that are measured on them, and the answers by brute force.

    {"ts":1700000000123,"user":"user-00042","type":"click","amount":12.25,"page":"/products/00042.html"}

Amounts are quarters, so that their sums are exact in every order, and an answer is right or wrong.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

from streamproc import Count, Hopping, Max, Min, Sum, Topology, Trailing, Tumbling

BEGIN = 1_700_000_000_000
DISORDER = 2_000
SEED = 20_240_501
TYPES = ("click", "view", "cart", "order")

Kind: TypeAlias = Literal["tumbling", "hopping", "trailing"]


class Event(msgspec.Struct, gc=False):
    """The fields that are used: the others are skipped by the decoder."""

    ts: int
    user: str
    amount: float


@dataclass(frozen=True, slots=True)
class Load:
    """A file of events: how many, of how many users (by Zipf's law or all alike), how many in one ms."""

    events: int
    keys: int = 10_000
    zipf: bool = True
    per_ms: int = 20

    def file(self, folder: Path) -> Path:
        """The file, written if it is not there."""
        path = folder / f"{self.events}-{self.keys}-{'zipf' if self.zipf else 'even'}-{self.per_ms}.jsonl"
        if not path.exists():
            with path.open("w") as file:
                file.writelines(self._lines())
        return path

    def _lines(self) -> Iterator[str]:
        drawn = random.Random(SEED)
        weights = list(accumulate(1 / rank for rank in range(1, self.keys + 1))) if self.zipf else None
        users = drawn.choices(range(self.keys), cum_weights=weights, k=self.events)
        for n, user in enumerate(users):
            ts = BEGIN + n // self.per_ms - drawn.randrange(DISORDER)
            amount = drawn.randrange(4_000) / 4
            page = drawn.randrange(100_000)
            yield (
                f'{{"ts":{ts},"user":"user-{user:05}","type":"{TYPES[page % 4]}","amount":{amount},'
                f'"page":"/products/{page:05}.html"}}\n'
            )


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with events: count, sum, min and max of each user in windows of one kind, in ms."""

    kind: Kind
    size: int
    advance: int = 0

    @property
    def spec(self) -> str:
        """The topology as a command line names it."""
        return f"bench.workload:topology({self.kind!r}, {self.size}, {self.advance})"

    def topology(self) -> Topology:
        """The topology itself."""
        return topology(self.kind, self.size, self.advance)


W = Work("tumbling", 10_000)
"""The workload that systems are compared by."""


def topology(  # noqa: PLR0913 - topics are named by name
    kind: Kind,
    size: int,
    advance: int,
    *,
    app: str = "bench",
    events: str = "events",
    totals: str = "totals",
    keyed: bool = False,
    disorder: int = DISORDER,
) -> Topology:
    """Every function is a lambda, as users write them.  `keyed` says that records have their users as keys."""
    windows: dict[Kind, Any] = {
        "tumbling": lambda: Tumbling(f"{size}ms"),
        "hopping": lambda: Hopping(f"{size}ms", advance=f"{advance}ms"),
        "trailing": lambda: Trailing(f"{size}ms"),
    }
    made = Topology(app)
    source = made.source(events, Event, key=str if keyed else None, event_time=lambda e: e.ts, disorder=f"{disorder}ms")
    users = source if keyed else source.key_by(lambda e: e.user)
    (
        users.window(windows[kind]())
        .agg(
            Count(),
            Sum(of=lambda e: e.amount),
            Min(of=lambda e: e.amount),
            Max(of=lambda e: e.amount),
            name="totals",
        )
        .to(totals)
    )
    return made


class Answer(NamedTuple):
    """Results in no order, summed up: how many, and the sum of their checksums."""

    rows: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took: seconds of the processor and of the clock, peak RSS in MB where it is a whole process.

    `count` is what it went through, where that is not the events of the load.
    """

    cpu: float
    wall: float
    rss: float | None
    answer: Answer
    count: int | None = None


class WrongAnswer(Exception):
    """A run did not give what brute force gives."""


Row: TypeAlias = "tuple[str, int, int, int, float, float, float]"
"""User, start and end of the window, count, sum, min, max."""


def summed(rows: Iterable[Row]) -> Answer:
    """The answer that these rows are."""
    found = total = 0
    for row in rows:
        found += 1
        total += crc32(repr(row).encode())
    return Answer(found, total)


def written(values: Iterable[bytes | None]) -> Answer:
    """The answer that was written, row by row as JSON."""

    def rows() -> Iterator[Row]:
        for value in values:
            row = json.loads(value or b"null")
            count, total, least, most = row["value"]
            yield row["key"], row["start"], row["end"], count, float(total), least, most

    return summed(rows())


def expected(path: Path, work: Work) -> Answer:
    """The answer by brute force: no stream, no watermark, nothing of the engine."""
    return by_force(((e["user"], e["ts"], e["amount"]) for e in map(json.loads, path.open())), work)


def by_force(events: Iterable[tuple[str, int, float]], work: Work) -> Answer:
    """The answer for users, times and amounts."""
    if work.kind == "trailing":
        return summed(_trailing(events, work.size))
    advance = work.advance or work.size
    windows: dict[tuple[str, int], list[float]] = {}
    for user, ts, amount in events:
        start = ts // advance * advance
        while start > ts - work.size:
            windows.setdefault((user, start), []).append(amount)
            start -= advance
    return summed(
        (user, start, start + work.size, len(amounts), sum(amounts), min(amounts), max(amounts))
        for (user, start), amounts in windows.items()
    )


def _trailing(events: Iterable[tuple[str, int, float]], size: int) -> Iterator[Row]:
    users: dict[str, list[tuple[int, float]]] = {}
    for user, ts, amount in events:
        users.setdefault(user, []).append((ts, amount))
    for user, found in users.items():
        found.sort()
        times = [ts for ts, _ in found]
        for ts in times:
            amounts = [amount for _, amount in found[bisect_left(times, ts - size) : bisect_right(times, ts)]]
            yield user, ts - size, ts + 1, len(amounts), sum(amounts), min(amounts), max(amounts)
