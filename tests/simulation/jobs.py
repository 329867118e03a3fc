"""What simulated workers run, and what a batch program makes of the same log: written apart from the engine.

keyed     one task a partition: every result and every late record is known beforehand
rekeyed   a second key behind a repartition topic of another size: three partitions in, five out
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec

from streamproc import Count, Sum, Topology, Tumbling

Kind: TypeAlias = Literal["keyed", "rekeyed"]

DISORDER, SIZE = 30_000, 10_000
"""Milliseconds: how far records may be out of order, and how long windows are."""
BEGIN = 1_700_000_000_000

Row: TypeAlias = tuple[str, int, int, int, int]
"""Key, start, end, count, sum."""


class Event(msgspec.Struct, frozen=True):
    """Something a user did at a shop; `n` numbers all events."""

    ts: int
    user: str
    shop: str
    n: int


def topology(kind: Kind) -> Topology:
    """Counts and sums per user, or per shop; one event in ten is filtered out."""
    made = Topology(f"t-{kind}", dead_letters="t-dead")
    source = made.source(
        "t-events",
        Event,
        event_time=lambda e: e.ts,
        disorder="30s",
        idle_timeout="15s",
        key=str if kind == "keyed" else None,
    )
    kept = source.filter(lambda e: e.n % 10 != 7)
    keyed = kept if kind == "keyed" else kept.key_by(lambda e: e.shop, partitions=5)
    keyed.window(Tumbling("10s"), late="t-late").agg(Count(), Sum(of=lambda e: e.n), name="totals").to("t-totals")
    return made


class Message(NamedTuple):
    """One event as it is written: its partition follows from the key."""

    key: bytes
    value: bytes


class Verdict(NamedTuple):
    """What there has to be: rows by key in order, and the numbers of the late events."""

    rows: Mapping[str, Sequence[Row]]
    late: set[int]


def load(seed: int, count: int, *, users: int, shops: int = 40, step: int = 10) -> list[Message]:
    """Events in the order in which they are sent: one in ten out of order by up to DISORDER, one in a hundred late.

    Late ones are so late that no commit interval makes them be on time.
    """
    chance = random.Random(seed)
    messages = []
    for n in range(count):
        at = BEGIN + n * step
        kind = chance.random()
        if kind < 0.01:
            at -= 20 * DISORDER + chance.randrange(SIZE)
        elif kind < 0.11:
            at -= chance.randrange(DISORDER)
        user = f"u{chance.randrange(users)}"
        event = {"ts": at, "user": user, "shop": f"s{chance.randrange(shops)}", "n": n}
        messages.append(Message(user.encode(), json.dumps(event).encode()))
    return messages


SIGN = json.dumps({"ts": BEGIN - 600_000, "user": "nobody", "shop": "nowhere", "n": 7}).encode()
"""An event that is filtered out and moves nothing, but shows that its producer lives."""
LAST = json.dumps({"ts": BEGIN + 1_800_000, "user": "nobody", "shop": "nowhere", "n": 7}).encode()
"""The event that closes everything; no clock of a simulated world goes so wrong that it lies in the future."""


def keyed(partitions: Iterable[Sequence[bytes]]) -> Verdict:
    """The rows of `keyed` over what stands in each partition of its source."""
    rows: dict[str, list[Row]] = {}
    late: set[int] = set()
    for values in partitions:
        watermark = -(10**18)
        windows: dict[tuple[int, str], tuple[int, int]] = {}
        for value in values:
            event = json.loads(value)
            watermark = max(watermark, event["ts"] - DISORDER)
            if event["n"] % 10 == 7:
                continue
            start = event["ts"] // SIZE * SIZE
            if start + SIZE <= watermark:
                late.add(event["n"])
                continue
            count, total = windows.get((start, event["user"]), (0, 0))
            windows[start, event["user"]] = (count + 1, total + event["n"])
        for (start, user), (count, total) in sorted(windows.items()):
            rows.setdefault(user, []).append((user, start, start + SIZE, count, total))
    return Verdict(rows, late)


def rekeyed(partitions: Iterable[Sequence[bytes]], reported_late: set[int]) -> Verdict:
    """The rows of `rekeyed`, without the events that were reported late, and those that might be.

    An event may be late behind a repartition topic only if it was late where it came from.
    """
    windows: dict[tuple[str, int], tuple[int, int]] = {}
    late: set[int] = set()
    for values in partitions:
        watermark = -(10**18)
        for value in values:
            event = json.loads(value)
            watermark = max(watermark, event["ts"] - DISORDER)
            if event["n"] % 10 == 7:
                continue
            start = event["ts"] // SIZE * SIZE
            if start + SIZE <= watermark:
                late.add(event["n"])
            if event["n"] not in reported_late:
                count, total = windows.get((event["shop"], start), (0, 0))
                windows[event["shop"], start] = (count + 1, total + event["n"])
    rows: dict[str, list[Row]] = {}
    for (shop, start), (count, total) in sorted(windows.items()):
        rows.setdefault(shop, []).append((shop, start, start + SIZE, count, total))
    return Verdict(rows, late)


def row(value: bytes) -> Row:
    """A result as the topic holds it."""
    result = json.loads(value)
    return (result["key"], result["start"], result["end"], *result["value"])
