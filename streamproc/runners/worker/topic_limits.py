"""What the topics take that a worker writes to: brokers refuse a whole batch for one record beyond it, and for ever.

So a result is held against it before it is sent, and its record is a dead letter of the topology's own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import NamedTuple, TypeAlias

from streamproc.core.batch import NEVER
from streamproc.core.site import Bounds
from streamproc.runners.worker.producing import BATCH_BYTES, Most

HOUR = 3_600_000
LARGEST = 1_048_588
"""`max.message.bytes` where nothing is set."""
ROOM = 48_588
"""Bytes of a batch that are kept for its header, and for key and headers of a record; at most half of it."""
SKEW = 60_000
"""By how many ms a broker's clock may be behind ours; at most a tenth of how far ahead a timestamp may be."""


class Takes(NamedTuple):
    """What a topic takes: bytes of a batch, and how many ms a timestamp may be ahead of its broker's clock, if any."""

    size: int = LARGEST
    ahead: int | None = HOUR


TopicLimits: TypeAlias = Callable[[Collection[str]], Awaitable[Mapping[str, Takes]]]
"""Asks what topics take; of one that is left out it is what brokers take from 4.0 on where nothing is set."""


async def usual(_: Collection[str]) -> Mapping[str, Takes]:
    """Nobody is asked."""
    return {}


def most_of(limits: Mapping[str, Takes]) -> Most:
    """The most bytes of records that go into one batch of a topic."""
    return lambda topic: min(BATCH_BYTES, _largest((limits.get(topic) or Takes()).size))


def _largest(size: int) -> int:
    return max(size - ROOM, size // 2)


def bounds_of(limits: Mapping[str, Takes], clock: Callable[[], float]) -> Callable[[str], Bounds]:
    """What can be written to a topic now; `clock` is the wall clock in seconds."""

    def bounds(topic: str) -> Bounds:
        size, ahead = limits.get(topic) or Takes()
        largest = _largest(size)
        if ahead is None:
            return Bounds(largest, NEVER)
        return Bounds(largest, int(clock() * 1000) + ahead - min(SKEW, ahead // 10))

    return bounds
