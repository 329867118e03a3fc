"""Tests of a topology, as users write them."""

from typing import Any, assert_type

from streamproc import TaskFailed, TopologyError, WindowResult
from streamproc.testing import TestDriver, Written, at, ms, verify
from tests.typing.good.events import Click
from tests.typing.good.windows import topology


def test_disorder_and_a_crash_change_nothing() -> None:
    """A minute's count is final 30 s after its end, whatever the order and however often we die."""
    with TestDriver(topology, partitions=1, clock=at("12:00")) as t:
        t.send("clicks", Click("ann", "a", at("12:00:10")), Click("ann", "a", at("12:00:05")), key="ann", partition=0)
        t.restart()
        t.fail_next_commit()
        t.advance_watermark(at("12:01:30"))
        assert t.read("clicks-per-user-1m") == [WindowResult("ann", at("12:00"), at("12:01"), 2)]
        assert t.state("clicks_1m") == {}
        assert_type(t.records("clicks-per-user-1m"), list[Written])
        assert_type(t.late("clicks_1m"), int)
        assert t.dead_letters() == []
        t.advance_wall(1000)
        t.commit()
        t.end()


def test_it_is_the_same_however_it_runs() -> None:
    """All at once, one by one, with crashes: nobody can tell."""
    written = verify(topology, given={"clicks": [Click("ann", "a", at(ms("12:00")))]}, partitions=2, seeds=[1, 2])
    assert_type(written, dict[str, list[Any]])
    assert not issubclass(TaskFailed, TopologyError)
