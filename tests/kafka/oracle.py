"""What a batch program makes of a log of events, written apart from the engine: loops, dicts and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from tests.kafka.topologies import DISORDER, SIZE

Row: TypeAlias = tuple[str, int, int, int, int]
"""Key, start, end, count, sum."""


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
        at = 1_700_000_000_000 + n * step
        kind = chance.random()
        if kind < 0.01:
            at -= 20 * DISORDER + chance.randrange(SIZE)
        elif kind < 0.11:
            at -= chance.randrange(DISORDER)
        user = f"u{chance.randrange(users)}"
        event = {"ts": at, "user": user, "shop": f"s{chance.randrange(shops)}", "n": n}
        messages.append(Message(user.encode(), json.dumps(event).encode()))
    return messages


LAST = json.dumps({"ts": 1_700_003_600_000, "user": "nobody", "shop": "nowhere", "n": 7}).encode()
"""The event that closes everything: sent to every partition, and filtered out."""


def keyed(partitions: Iterable[Sequence[bytes]]) -> Verdict:
    """The rows of `topologies.keyed` over what stands in each partition of its source."""
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
    """The rows of `topologies.rekeyed`, without the events that were reported late, and those that might be.

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
