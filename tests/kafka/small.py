"""A small topology for tools: counts per user and window, whose size and node name a test may change."""

from __future__ import annotations

import sys
import threading

import msgspec

from streamproc import Topology, Tumbling


class Seen(msgspec.Struct, frozen=True):
    """Somebody was seen at an instant in ms."""

    ts: int
    user: str


def counting(prefix: str, size: str = "10s", node: str = "counts", *, faulty: bool = False) -> Topology:
    """Counts per user; with `faulty` it fails at every user whose name begins with x."""

    def named(seen: Seen) -> Seen:
        if faulty and seen.user.startswith("x"):
            raise ValueError(seen.user)
        return seen

    topology = Topology(f"{prefix}-counting", dead_letters=f"{prefix}-dead")
    (
        topology.source(f"{prefix}-seen", Seen, key=str, event_time=lambda s: s.ts, max_future=None)
        .map(named)
        .window(Tumbling(size))
        .count(name=node)
        .to(f"{prefix}-counts")
    )
    return topology


def rekeyed(prefix: str) -> Topology:
    """The same, by a key that has to cross a repartition topic."""
    topology = Topology(f"{prefix}-rekeyed")
    (
        topology.source(f"{prefix}-seen", Seen, event_time=lambda s: s.ts)
        .key_by(lambda s: s.user)
        .window(Tumbling("10s"))
        .count(name="counts")
        .to(f"{prefix}-counts")
    )
    return topology


def strict(prefix: str) -> Topology:
    """The same without a dead-letter topic: what cannot be processed stops the task."""
    topology = Topology(f"{prefix}-strict")
    topology.source(f"{prefix}-seen", Seen, event_time=lambda s: s.ts).to(f"{prefix}-counts")
    return topology


def stuck(prefix: str) -> Topology:
    """A topology whose first step never ends, and says so."""

    def wait(seen: Seen) -> Seen:
        sys.stderr.write("stuck\n")
        sys.stderr.flush()
        threading.Event().wait()
        return seen

    topology = Topology(f"{prefix}-stuck")
    topology.source(f"{prefix}-seen", Seen, event_time=lambda s: s.ts).map(wait).to(f"{prefix}-counts")
    return topology
