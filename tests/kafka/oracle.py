"""What a batch program makes of a log of events, written apart from the engine: loops, dicts and nothing else."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from tests.kafka.topologies import DISORDER, SIZE

Row: TypeAlias = tuple[str, int, int, int, int]
"""Key, start, end, count, sum."""

START = 1_700_000_000_000
"""The instant of the first event, long ago."""
FUTURE = 4_000_000_000_000
"""An instant that is too far ahead to be believed, whenever this is run."""


class Message(NamedTuple):
    """One event as it is written: its partition follows from the key."""

    key: bytes
    value: bytes


class Verdict(NamedTuple):
    """What there has to be: rows by key in order, how often each late event, and the values of dead letters."""

    rows: Mapping[str, Sequence[Row]]
    late: Counter[int]
    dead: Counter[bytes]


def load(seed: int, count: int, *, users: int, shops: int = 40, step: int = 10) -> list[Message]:
    """Events in the order in which they are sent, `step` ms apart.

    One in ten is out of order by up to DISORDER, one in a hundred late, and one in a hundred is sent twice.  Late ones
    are so late that no commit interval makes them be on time.
    """
    chance = random.Random(seed)
    messages: list[Message] = []
    for n in range(count):
        at = START + n * step
        kind = chance.random()
        if kind < 0.01:
            at -= 20 * DISORDER + chance.randrange(SIZE)
        elif kind < 0.11:
            at -= chance.randrange(DISORDER)
        user = f"u{chance.randrange(users)}"
        message = event(n, at=at, user=user, shop=f"s{chance.randrange(shops)}")
        messages += [message, message] if chance.random() < 0.01 else [message]
    return messages[:count]


def event(n: int, *, at: int, user: str, shop: str = "s0", **more: Any) -> Message:
    """One event."""
    return Message(user.encode(), json.dumps({"ts": at, "user": user, "shop": shop, "n": n, **more}).encode())


LAST = event(7, at=START + 3 * 86_400_000, user="nobody", shop="nowhere").value
"""The event that closes everything: sent to every partition, and filtered out."""


def keyed(partitions: Iterable[Sequence[bytes]]) -> Verdict:
    """The rows of `topologies.keyed` over what stands in each partition of its source."""
    rows: dict[str, list[Row]] = {}
    late: Counter[int] = Counter()
    dead: Counter[bytes] = Counter()
    for values in partitions:
        watermark = -(10**18)
        windows: dict[tuple[int, str], tuple[int, int]] = {}
        for value in values:
            event = _read(value)
            if event is None:
                dead[value] += 1
                continue
            watermark = max(watermark, event["ts"] - DISORDER)
            if event["n"] % 10 == 7:
                continue
            start = event["ts"] // SIZE * SIZE
            if start + SIZE <= watermark:
                late[event["n"]] += 1
                continue
            count, total = windows.get((start, event["user"]), (0, 0))
            windows[start, event["user"]] = (count + 1, total + event["n"])
        for (start, user), (count, total) in sorted(windows.items()):
            rows.setdefault(user, []).append((user, start, start + SIZE, count, total))
    return Verdict(rows, late, dead)


def rekeyed(partitions: Iterable[Sequence[bytes]], reported_late: Counter[int]) -> Verdict:
    """The rows of `topologies.rekeyed`, without the events that were reported late, and those that might be.

    An event may be late behind a repartition topic only if it was late where it came from.
    """
    windows: dict[tuple[str, int], tuple[int, int]] = {}
    left_out = Counter(reported_late)
    late: Counter[int] = Counter()
    dead: Counter[bytes] = Counter()
    for values in partitions:
        watermark = -(10**18)
        for value in values:
            event = _read(value)
            if event is None:
                dead[value] += 1
                continue
            watermark = max(watermark, event["ts"] - DISORDER)
            if event["n"] % 10 == 7:
                continue
            start = event["ts"] // SIZE * SIZE
            if start + SIZE <= watermark:
                late[event["n"]] += 1
            if left_out[event["n"]]:
                left_out[event["n"]] -= 1
                continue
            count, total = windows.get((event["shop"], start), (0, 0))
            windows[event["shop"], start] = (count + 1, total + event["n"])
    rows: dict[str, list[Row]] = {}
    for (shop, start), (count, total) in sorted(windows.items()):
        rows.setdefault(shop, []).append((shop, start, start + SIZE, count, total))
    return Verdict(rows, late, dead)


def row(value: bytes) -> Row:
    """A result as the topic holds it."""
    result = json.loads(value)
    return (result["key"], result["start"], result["end"], *result["value"])


def _read(value: bytes) -> dict[str, Any] | None:
    """An event, None if it is none or comes from too far in the future."""
    try:
        event: dict[str, Any] = json.loads(value)
        kinds = (event["ts"], int), (event["n"], int), (event["user"], str), (event["shop"], str)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    good = all(type(given) is kind for given, kind in kinds) and event["ts"] < FUTURE
    return event if good else None
