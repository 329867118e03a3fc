"""The test driver: what is promised to those who test a topology with it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from streamproc import StreamprocError, TaskFailed, Topology, Trailing, Tumbling, WindowResult
from streamproc.core.batch import END, START
from streamproc.core.partition import partition
from streamproc.testing import TestDriver, at, ms


class Click(msgspec.Struct, frozen=True):
    """An event of a user."""

    user: str
    ts: datetime


class Tick(msgspec.Struct, frozen=True):
    """An event with a number."""

    ts: int
    n: int = 1


OUT = "clicks-per-user-1m"


def clicks_per_minute(*, disorder: str = "0s", dead_letters: str | None = "dead") -> Topology:
    """Clicks per user and minute, with half a minute of grace."""
    topology = Topology("demo", dead_letters=dead_letters)
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts, disorder=disorder)
    per_user = clicks.key_by(lambda c: c.user)
    per_user.window(Tumbling("1m", grace="30s"), late="late").count(name="clicks_1m").to(OUT)
    return topology


def click(when: str, user: str = "ann") -> Click:
    """A click of a user at a time of the day."""
    return Click(user, at(when))


def doubled() -> Topology:
    """Each tick with its number doubled; a number 13 cannot be."""

    def double(tick: Tick) -> int:
        if tick.n == 13:
            raise ValueError("unlucky")
        return tick.n * 2

    topology = Topology("doubled")
    topology.source("ticks", Tick, event_time=lambda t: t.ts).map(double).to("out")
    return topology


def test_disorder_and_a_crash_change_nothing() -> None:
    """A minute's count is final 30 s after its end, whatever the order and however often we die."""
    with TestDriver(clicks_per_minute(disorder="5s")) as t:
        t.send("clicks", click("12:00:10"), click("12:00:05"))
        t.restart()
        t.advance_watermark(at("12:01:29"))
        assert t.read(OUT) == []
        t.advance_watermark(at("12:01:30"))
        assert t.read(OUT) == [WindowResult("ann", at("12:00"), at("12:01"), 2)]
        assert t.state("clicks_1m") == {}


def test_what_is_read_is_read_once() -> None:
    """Each call of `read` goes on where the last one of that topic stopped; `records` always has everything."""
    with TestDriver(doubled()) as t:
        t.send("ticks", Tick(1, 1), Tick(2, 2))
        assert t.read("out") == [2, 4]
        t.send("ticks", Tick(3, 3))
        assert t.read("out") == [6]
        assert t.read("out") == []
        assert [record.value for record in t.records("out")] == [2, 4, 6]


def test_nothing_is_read_before_it_is_committed() -> None:
    """With `autocommit=False` outputs, dead letters and counts appear with the commit, state at once."""
    with TestDriver(clicks_per_minute(), autocommit=False) as t:
        t.send("clicks", click("12:00:10"), b"poison")
        t.advance_watermark("12:05")
        assert (t.read(OUT), t.dead_letters(), t.counts.closed) == ([], [], {})
        assert t.state("clicks_1m") == {}
        assert t.commit()
        assert t.read(OUT) == [WindowResult("ann", at("12:00"), at("12:01"), 1)]
        assert [letter.reason for letter in t.dead_letters()] == ["deserialization_error"]
        assert t.counts.closed == {"clicks_1m": 1}


def test_a_failed_commit_leaves_no_trace_and_is_made_up_for() -> None:
    """What was since the last commit is undone and done again by the next call, exactly once."""
    with TestDriver(clicks_per_minute()) as t:
        t.send("clicks", click("12:00:10"))
        t.fail_next_commit()
        t.send("clicks", click("12:00:20"))
        assert t.counts.records_in["clicks_1m"] == 1
        t.advance_watermark("12:01:30")
        assert t.read(OUT) == [WindowResult("ann", at("12:00"), at("12:01"), 2)]
        assert t.counts.records_in["clicks_1m"] == 2


def test_a_failed_commit_says_so() -> None:
    """`commit` is False if it was made to fail, once."""
    with TestDriver(doubled(), autocommit=False) as t:
        t.send("ticks", Tick(1))
        t.fail_next_commit()
        assert [t.commit(), t.commit()] == [False, True]
        assert t.read("out") == [2]


def test_a_mark_survives_a_failed_commit() -> None:
    """A watermark that the test advanced is part of the input, where it stood: it is not lost with a commit."""
    with TestDriver(clicks_per_minute()) as t:
        t.send("clicks", click("12:00:10"))
        t.fail_next_commit()
        t.advance_watermark("12:01:30")
        t.send("clicks", click("12:00:20"))
        assert t.read(OUT) == [WindowResult("ann", at("12:00"), at("12:01"), 1)]
        assert t.read("late") == [click("12:00:20")]
        assert t.late("clicks_1m") == 1


def test_the_watermark_survives_a_crash() -> None:
    """After a restart a record that was late before it is late still (S14)."""
    with TestDriver(clicks_per_minute()) as t:
        t.send("clicks", click("12:01:30"))
        t.restart()
        assert t.watermark("clicks_1m") == ms("12:01:30")
        t.send("clicks", click("12:00:59"))
        assert t.read("late") == [click("12:00:59")]


def test_a_crash_loses_only_what_was_not_committed() -> None:
    """A restart reads again from the committed positions, no earlier and no later."""
    with TestDriver(clicks_per_minute(), autocommit=False) as t:
        t.send("clicks", click("12:00:10"))
        t.commit()
        t.send("clicks", click("12:00:20"))
        t.restart()
        t.restart()
        t.end()
        t.commit()
        assert t.read(OUT) == [WindowResult("ann", at("12:00"), at("12:01"), 2)]


def test_poison_is_a_dead_letter_byte_for_byte() -> None:
    """Raw bytes and text are sent as they are, and a dead letter is read as the raw bytes it was."""
    with TestDriver(clicks_per_minute()) as t:
        t.send("clicks", b"\xff", "{", click("12:00:10"), key="k")
        assert t.read("dead") == [b"\xff", b"{"]
        assert [record.key for record in t.records("dead")] == ["k", "k"]
        assert {letter.reason for letter in t.dead_letters()} == {"deserialization_error"}


def test_a_failing_record_stops_the_task_until_it_is_gone() -> None:
    """Without a dead-letter topic a failure is raised, nothing of its batch is committed, and it is met again."""
    with TestDriver(doubled()) as t:
        t.send("ticks", Tick(1))
        with pytest.raises(TaskFailed, match="unlucky"):
            t.send("ticks", Tick(2, 13))
        with pytest.raises(TaskFailed, match="unlucky"):
            t.send("ticks", Tick(3))
        assert t.read("out") == [2]


def test_the_end_closes_everything() -> None:
    """When all inputs end W is +inf, open windows are emitted, and nothing is left (S49)."""
    with TestDriver(clicks_per_minute()) as t:
        assert t.watermark("clicks_1m") == START
        t.send("clicks", click("12:00:10", "bob"), click("12:00:10", "ann"))
        assert t.state("clicks_1m") == {(ms("12:01:30"), "ann"): 1, (ms("12:01:30"), "bob"): 1}
        t.end()
        assert [result.key for result in t.read(OUT)] == ["ann", "bob"]
        assert (t.state("clicks_1m"), t.watermark("clicks_1m")) == ({}, END)
        with pytest.raises(StreamprocError, match="has ended"):
            t.send("clicks", click("12:00:10"))


def test_an_end_survives_a_crash() -> None:
    """A restart after the end has nothing more to say."""
    with TestDriver(clicks_per_minute()) as t:
        t.send("clicks", click("12:00:10"))
        t.fail_next_commit()
        t.end()
        t.restart()
        t.restart()
        assert t.read(OUT) == [WindowResult("ann", at("12:00"), at("12:01"), 1)]


def test_a_clock_refuses_the_future() -> None:
    """With a clock a stamp beyond `max_future` is refused, until the clock has gone on; without one none is (S15)."""
    far = click("13:00:00.001")
    with TestDriver(clicks_per_minute(), clock=at("12:00")) as t:
        t.send("clicks", far)
        assert [letter.reason for letter in t.dead_letters()] == ["future_timestamp"]
        t.advance_wall(timedelta(milliseconds=1))
        t.send("clicks", far)
        assert len(t.dead_letters()) == 1
    with TestDriver(clicks_per_minute()) as t:
        t.send("clicks", far)
        assert t.dead_letters() == []
        with pytest.raises(StreamprocError, match="clock="):
            t.advance_wall(1)


def test_partitions_are_chosen_as_in_production() -> None:
    """A key goes to its murmur2 partition, the n-th message without one to n mod N, and what is said is done."""
    topology = Topology("where")
    source = topology.source("ticks", Tick, event_time=lambda t: t.ts)
    source.records().map(lambda r: [r.value.n, r.partition]).to("out")
    with TestDriver(topology, partitions=3) as t:
        t.send("ticks", Tick(1, 0), Tick(1, 1), Tick(1, 2), Tick(1, 3))
        assert sorted(t.read("out")) == [[0, 0], [1, 1], [2, 2], [3, 0]]
        t.send("ticks", Tick(1), key="ann")
        assert t.read("out") == [[1, partition(b"ann", 3)]]
        t.send("ticks", Tick(1), partition=2)
        assert t.read("out") == [[1, 2]]
        with pytest.raises(StreamprocError, match="partitions=4"):
            t.send("ticks", Tick(1), partition=3)


def test_records_cross_a_repartition_topic() -> None:
    """On several partitions a count by key is the same, and is written to the partition of its key."""
    with TestDriver(clicks_per_minute(disorder="1m"), partitions=3) as t:
        t.send("clicks", *(click("12:00:10", user) for user in ("ann", "bob", "ann", "cid", "ann")))
        t.restart()
        t.end()
        found = {record.key: (record.value.value, record.partition) for record in t.records(OUT)}
        assert found == {
            "ann": (3, partition(b"ann", 3)),
            "bob": (1, partition(b"bob", 3)),
            "cid": (1, partition(b"cid", 3)),
        }


def test_a_row_is_shown_whole() -> None:
    """`records` has the key as text, the value as an object, the instant, the headers and the partition."""
    topology = Topology("rows")
    ticks = topology.source("ticks", Tick, event_time=lambda t: t.ts)
    ticks.to("out", key=lambda t: b"\xff" if t.n else "zero", headers=lambda t: {"n": str(t.n).encode()})
    with TestDriver(topology) as t:
        t.send("ticks", Tick(5, 0), Tick(6, 1))
        assert [tuple(record) for record in t.records("out")] == [
            ("zero", Tick(5, 0), 5, {"n": b"0"}, 0),
            (b"\xff", Tick(6, 1), 6, {"n": b"1"}, 0),
        ]


def test_headers_and_timestamps_of_the_transport() -> None:
    """A source without an `event_time` has the transport's timestamp, which a test has to give."""
    topology = Topology("stamped")
    topology.source("ticks", Tick).to("out")
    with TestDriver(topology) as t:
        with pytest.raises(StreamprocError, match="timestamp="):
            t.send("ticks", Tick(0))
        t.send("ticks", Tick(0), timestamp=at("12:00"), headers={"trace": b"1"})
        assert [(record.at, record.headers) for record in t.records("out")] == [(ms("12:00"), {"trace": b"1"})]


def test_cells_of_several_slots_are_told_apart() -> None:
    """The state of an operator with slots is shown by slot, instant and key."""
    topology = Topology("trailing")
    ticks = topology.source("ticks", Tick, event_time=lambda t: t.ts).key_by(lambda _: "k")
    ticks.window(Trailing("10ms")).count(name="trailing").to("out")
    with TestDriver(topology) as t:
        t.send("ticks", Tick(5))
        assert sorted(t.state("trailing")) == [(0, 6, "k"), (1, 16, "k")]


def test_a_value_that_cannot_be_written_fails_as_in_production() -> None:
    """Results are really encoded, so a value that JSON cannot hold is a serialization error."""
    topology = Topology("sets", dead_letters="dead")
    topology.source("ticks", Tick, event_time=lambda t: t.ts).map(lambda _: object()).to("out")
    with TestDriver(topology) as t:
        t.send("ticks", Tick(1))
        assert [letter.reason for letter in t.dead_letters()] == ["serialization_error"]
        assert t.read("out") == []


@pytest.mark.parametrize(
    ("use", "names"),
    [
        (lambda t: t.send("klicks", click("12:00")), "clicks"),
        (lambda t: t.read("nothing"), f"{OUT}, dead, late"),
        (lambda t: t.state("clicks"), "clicks_1m"),
        (lambda t: t.watermark("clicks"), "clicks_1m, key_by, source_clicks"),
        (lambda t: t.late("clicks"), "clicks_1m"),
    ],
)
def test_a_wrong_name_is_told_the_right_ones(use: Callable[[TestDriver], object], names: str) -> None:
    """Whoever asks for what is not there learns what is."""
    with TestDriver(clicks_per_minute()) as t, pytest.raises(StreamprocError, match=names):
        use(t)


def test_a_closed_driver_is_only_read() -> None:
    """After its block a driver refuses input and can still be read."""
    with TestDriver(doubled()) as t:
        t.send("ticks", Tick(1))
    assert t.read("out") == [2]
    with pytest.raises(StreamprocError, match="closed"):
        t.send("ticks", Tick(1))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("12:00", datetime(2024, 1, 1, 12, tzinfo=UTC)),
        ("12:00:10.250", datetime(2024, 1, 1, 12, 0, 10, 250_000, tzinfo=UTC)),
        ("2026-03-29T12:00:00+02:00", datetime(2026, 3, 29, 10, tzinfo=UTC)),
        (1_000, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),
    ],
)
def test_instants_are_written_in_short(written: str | int | datetime, meant: datetime) -> None:
    """A time of the day is one of 1 January 2024 in UTC; all else says its day and zone, or is ms since 1970."""
    assert at(written) == meant
    assert at(written).tzinfo is UTC
    assert at(ms(written)) == meant


def test_an_instant_has_a_zone() -> None:
    """A day and time without a zone is refused, with the way to write it."""
    with pytest.raises(StreamprocError, match="2024-01-01T12:00:00Z"):
        at("2024-01-01T12:00")
