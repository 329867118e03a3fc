"""The test driver: what is promised to those who test a topology with it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from streamproc import Topology, Tumbling, WindowResult
from streamproc.testing import TestDriver, at


class Click(msgspec.Struct, frozen=True):
    """An event of a user."""

    user: str
    ts: datetime


def clicks_per_minute() -> Topology:
    topology = Topology("demo", dead_letters="dead")
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts)
    counts = clicks.key_by(lambda c: c.user).window(Tumbling("1m", grace="30s"), late="late").count(name="clicks_1m")
    counts.to("clicks-per-user-1m")
    return topology


def test_disorder_and_a_crash_change_nothing() -> None:
    """A minute's count is final 30 s after its end, whatever the order and however often we die."""
    with TestDriver(clicks_per_minute()) as t:
        t.send("clicks", Click("ann", at("12:00:10")), Click("ann", at("12:00:05")))
        t.restart()
        t.advance_watermark(at("12:01:29"))
        assert t.read("clicks-per-user-1m") == []
        t.advance_watermark(at("12:01:30"))
        assert t.read("clicks-per-user-1m") == [WindowResult("ann", at("12:00"), at("12:01"), 2)]
        assert t.state("clicks_1m") == {}
