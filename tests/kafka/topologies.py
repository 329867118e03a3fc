"""Topologies that are run through faults; each takes a prefix for its topics, so that runs do not meet.

keyed     one task a partition: every result and every late record is known beforehand
rekeyed   a second key behind a repartition topic of another size: three partitions in, five out
brisk     rekeyed, with partitions that are idle after two seconds
swollen   no state: each event becomes as many bytes as it asks for, stamped as it asks for
stubborn  no state: an event says whether its function fails, and how, or takes longer than a session
"""

from __future__ import annotations

import time

import msgspec

from streamproc import Count, Sum, Topology, Tumbling

DISORDER, SIZE = 30_000, 10_000
"""Milliseconds: how far records may be out of order, and how long windows are."""


class Event(msgspec.Struct, frozen=True):
    """Something a user did at a shop; `n` numbers all events."""

    ts: int
    user: str
    shop: str
    n: int


class Swollen(msgspec.Struct, frozen=True):
    """An event's number, and as much text as it asked for."""

    n: int
    text: str


def keyed(prefix: str) -> Topology:
    """Counts and sums per user."""
    topology = Topology(f"{prefix}-keyed", dead_letters=f"{prefix}-dead")
    (
        topology.source(f"{prefix}-events", Event, key=str, event_time=lambda e: e.ts, disorder="30s")
        .filter(lambda e: e.n % 10 != 7)
        .window(Tumbling("10s"), late=f"{prefix}-late")
        .agg(Count(), Sum(of=lambda e: e.n), name="totals")
        .to(f"{prefix}-totals")
    )
    return topology


def rekeyed(prefix: str, idle: str = "1m") -> Topology:
    """Counts and sums per shop."""
    topology = Topology(f"{prefix}-rekeyed", dead_letters=f"{prefix}-dead")
    (
        topology.source(f"{prefix}-events", Event, event_time=lambda e: e.ts, disorder="30s", idle_timeout=idle)
        .filter(lambda e: e.n % 10 != 7)
        .key_by(lambda e: e.shop, partitions=5)
        .window(Tumbling("10s"), late=f"{prefix}-late")
        .agg(Count(), Sum(of=lambda e: e.n), name="totals")
        .to(f"{prefix}-totals")
    )
    return topology


def brisk(prefix: str) -> Topology:
    """Counts and sums per shop, where nobody is waited for longer than two seconds."""
    return rekeyed(prefix, "2s")


NAP = 8
"""Seconds: longer than a session lasts."""


def stubborn(prefix: str) -> Topology:
    """The numbers of events whose shop lets their function return."""
    topology = Topology(f"{prefix}-stubborn", dead_letters=f"{prefix}-dead")
    topology.source(f"{prefix}-events", Event, event_time=lambda e: e.ts).map(_minded).to(f"{prefix}-totals")
    return topology


def _minded(event: Event) -> int:
    match event.shop:
        case "raises":
            raise LookupError(event.shop)
        case "recurses":
            return _minded(event)
        case "sleeps":
            time.sleep(NAP)
        case "computes":
            ends = time.monotonic() + NAP
            while time.monotonic() < ends:
                pass
    return event.n


def swollen(prefix: str) -> Topology:
    """Texts of the lengths that events name as their shops; stamps may lie as far ahead as they like."""
    topology = Topology(f"{prefix}-swollen", dead_letters=f"{prefix}-dead")
    (
        topology.source(f"{prefix}-events", Event, event_time=lambda e: e.ts, max_future=None)
        .map(lambda e: Swollen(e.n, "x" * int(e.shop)))
        .to(f"{prefix}-totals")
    )
    return topology
