"""Instants and durations: integer milliseconds inside, text and aware datetimes at the edge (S2, S3).

A bare number is refused everywhere, since it has no unit; nothing is ever rounded.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from streamproc.core.batch import FARTHEST
from streamproc.core.errors import InvalidTimestamp, TopologyError

Duration: TypeAlias = str | timedelta
"""`"250ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"`, or a timedelta of whole milliseconds."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
LONGEST = 2**60
UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_TEXT = re.compile(r"(-?\d+)(ms|s|m|h|d)", re.ASCII)


def duration(what: str, given: object, *, least: int = 0) -> int:
    """Milliseconds of a duration called `what`; TopologyError unless it is whole, has a unit and is >= `least`."""
    if isinstance(given, timedelta):
        if given % MILLISECOND:
            raise TopologyError(f"{what}={given!r}: a duration is a whole number of milliseconds, nothing is rounded")
        ms = given // MILLISECOND
    elif isinstance(given, str):
        match = _TEXT.fullmatch(given.strip())
        if match is None:
            raise TopologyError(f'{what}={given!r}: write a whole number and a unit: "250ms", "30s", "5m", "1h", "7d"')
        ms = int(match[1]) * UNITS[match[2]]
    else:
        raise TopologyError(
            f'{what}={given!r}: a bare number has no unit; write "{given}ms", "{given}s" or a timedelta'
        )
    if ms < least:
        raise TopologyError(f"{what}={given!r}: must be at least {least} ms")
    if abs(ms) > LONGEST:
        raise TopologyError(f"{what}={given!r}: longer than 2**60 ms")
    return ms


def text(ms: int) -> str:
    """A duration as the shortest text that `duration` reads back."""
    for unit in ("d", "h", "m", "s"):
        if ms and ms % UNITS[unit] == 0:
            return f"{ms // UNITS[unit]}{unit}"
    return f"{ms}ms"


def instant(given: Any) -> int:
    """The instant of an event time: an integer as it is, an aware datetime floored to the millisecond (S2, S4)."""
    if type(given) is int:
        ms = given
    elif isinstance(given, datetime) and given.tzinfo is not None:
        ms = (given - EPOCH) // MILLISECOND
    elif isinstance(given, datetime):
        raise InvalidTimestamp("the event time is a datetime without a time zone: make it aware")
    else:
        kind = "missing" if given is None else f"a {type(given).__name__}"
        raise InvalidTimestamp(f"the event time is {kind}, not an integer of milliseconds or an aware datetime")
    if not -FARTHEST <= ms <= FARTHEST:
        raise InvalidTimestamp("the event time is beyond 2**62 ms")
    return ms


def moment(ms: int) -> datetime:
    """An instant as an aware UTC datetime; OverflowError where no datetime can show it."""
    return EPOCH + ms * MILLISECOND
