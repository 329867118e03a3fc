"""Partitions without records, in runs that follow their inputs: the others go on without them."""

import json
from pathlib import Path
from typing import Any

from streamproc import Topology, Tumbling
from tests.embedded.machine import Machine, Script
from tests.embedded.topologies import Click

BASE = 1_700_000_000_000


class Clock:
    """A monotonic clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def after(self, seconds: float) -> list[Any]:
        """A portion in which time passes and nothing comes."""
        return [lambda: setattr(self, "now", self.now + seconds)]


def click(ms: int, partition: int = 0) -> tuple[int, bytes]:
    """A click so many ms after BASE."""
    return partition, json.dumps({"user": "a", "ts": BASE + ms}).encode()


def counted(**how: Any) -> Topology:
    """Clicks counted by user and second."""
    topology = Topology("counted", **how)
    clicks = topology.source("clicks", Click, event_time=lambda c: c.ts, idle_timeout="1m")
    clicks.key_by(lambda c: c.user).window(Tumbling("1s")).count(name="counts").to("counts")
    return topology


def followed(folder: Path, topology: Topology, clock: Clock, *portions: list[Any], offset: int = 0) -> list[int]:
    """All counts after a run in which these portions come one by one, from an offset on, to two partitions."""
    machine = Machine(folder, topology, partitions=2, monotonic=clock)
    stop: list[Any] = [lambda: machine.ask()]  # noqa: PLW0108 - the stop of this run, which is made when it begins
    machine.run(Script("clicks", [*portions, stop], endless=True, offset=offset), follow=True)
    return [json.loads(value or b"")["value"] for _, value in machine.rows("counts")]


def test_a_partition_without_records_does_not_hold_the_others(tmp_path: Path) -> None:
    """Only while it was looked for and nothing was there: it falls idle, and a restart finds it so."""
    clock = Clock()
    first = [[click(0), click(500)], clock.after(59), [click(900)], [click(1_500)], clock.after(0)]
    assert followed(tmp_path, counted(), clock, *first) == []
    then = [[click(1_600)], clock.after(30), clock.after(30), [click(2_500)]]
    assert followed(tmp_path, counted(), clock, *then, offset=4) == [3, 2]
    assert followed(tmp_path, counted(), clock, [click(3_500)], offset=6) == [3, 2, 1]


def test_a_run_whose_inputs_end_decides_nothing_by_the_clock(tmp_path: Path) -> None:
    """However long it takes, an input that has an end is waited for."""
    clock = Clock()
    machine = Machine(tmp_path, counted(), partitions=2, monotonic=clock)
    machine.run(Script("clicks", [[click(0)], clock.after(600), [click(1_500)], [click(0, 1)]]))
    assert [json.loads(value or b"")["value"] for _, value in machine.rows("counts")] == [2, 1]
    assert machine.seen.watermarks == {("clicks", 0): 2**63 - 2, ("clicks", 1): 2**63 - 2}


def test_the_last_windows_close_by_the_clock_where_that_is_wanted(tmp_path: Path) -> None:
    """With `all_idle="advance"` time flows on when nobody has anything more."""
    clock = Clock()
    portions = [[click(0), click(1, 1)], [], clock.after(30), clock.after(31)]
    assert followed(tmp_path, counted(all_idle="advance"), clock, *portions) == [2]
