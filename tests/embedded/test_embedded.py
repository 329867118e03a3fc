"""The embedded runner: what it reads, when it commits, and where it goes on after any kind of end."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from streamproc import Count, StateError, TaskFailed, Topology, Tumbling
from streamproc.adapters.jsonlines import JsonLinesOutput
from streamproc.core.batch import START
from streamproc.runners.collector import THRESHOLDS
from streamproc.runners.embedded import AT_ONCE, Outcome, Stop
from tests.embedded.machine import Item, Machine, Script
from tests.embedded.topologies import Click, counting, strict

BASE = 1_700_000_000_000


def click(ms: int, user: str = "u", partition: int = 0, n: int = 0) -> tuple[int, bytes]:
    """A click so many ms after BASE."""
    return partition, json.dumps({"user": user, "ts": BASE + ms, "n": n}).encode()


def result(user: str, second: int, count: int, last: int = 0) -> bytes:
    """The line of one window of `counting`."""
    start = BASE + 1000 * second
    whole = {"key": user, "start": start, "end": start + 1000, "value": {"n": count, "last": last}}
    return json.dumps(whole, separators=(",", ":")).encode()


PORTIONS: list[list[Item]] = [[click(100), click(200)], [click(1500), click(300)], [(0, b"bad"), click(9000)]]
RESULTS = [result("u", 0, 3), result("u", 1, 1), result("u", 9, 1)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that counts."""
    return Machine(tmp_path, counting(), outputs=["counts"])


def test_a_run_ends_with_its_inputs(machine: Machine) -> None:
    """When all inputs have ended every window closes, and file and topic hold the same rows."""
    assert machine.run(Script("clicks", PORTIONS)) == Outcome("ended")
    assert machine.lines("counts") == RESULTS
    assert machine.rows("counts") == [(0, each) for each in RESULTS]
    assert machine.rows("dead") == [(0, b"bad")]


def test_a_second_run_over_complete_inputs_does_nothing(machine: Machine) -> None:
    """What has been read to its end is not read again."""
    machine.run(Script("clicks", PORTIONS))
    again = Script("clicks", PORTIONS)
    assert machine.run(again) == Outcome("complete")
    assert (again.at, machine.lines("counts")) == (0, RESULTS)


def test_inputs_that_have_grown_are_named(machine: Machine) -> None:
    """A source that is more than it was when it ended is said to have grown, and nothing is done."""
    machine.run(Script("clicks", PORTIONS))
    assert machine.run(Script("clicks", [*PORTIONS, [click(50_000)]])) == Outcome("grown", ("clicks",))
    assert machine.lines("counts") == RESULTS


def test_following_what_had_ended_refuses_what_came_since(machine: Machine) -> None:
    """An end, once committed, stands: what is appended later is late, however new it is."""
    machine.run(Script("clicks", PORTIONS))
    machine.run(Script("clicks", [*PORTIONS, [click(50_000)], [machine.ask]], endless=True), follow=True)
    assert machine.lines("counts") == RESULTS
    assert machine.rows("late") == [
        (0, json.dumps({"user": "u", "ts": BASE + 50_000, "n": 0}, separators=(",", ":")).encode())
    ]


def test_a_run_that_is_kept_open_goes_on_later(machine: Machine) -> None:
    """With keep_open nothing is closed at the end of the inputs, and a later run goes on from there."""
    assert machine.run(Script("clicks", PORTIONS[:2]), keep_open=True) == Outcome("left_open")
    assert machine.lines("counts") == []
    later = Script("clicks", PORTIONS)
    assert machine.run(later) == Outcome("ended")
    assert (later.opened_at, machine.lines("counts")) == (4, RESULTS)


def test_a_stop_drains(machine: Machine) -> None:
    """A stop ends reading, and what was read is processed and committed; a later run needs nothing of it again."""
    portions: list[list[Item]] = [PORTIONS[0], [*PORTIONS[1], machine.ask], PORTIONS[2]]
    first = Script("clicks", portions)
    assert machine.run(first) == Outcome("stopped")
    assert machine.seen.states == ["starting", "restoring", "running", "draining", "stopped"]
    assert first.at == 2
    machine.run(Script("clicks", PORTIONS))
    assert machine.seen.reads == [("clicks", 0, 2, 3 + len(click(9000)[1]), 6)]
    assert machine.lines("counts") == RESULTS


def test_a_stop_before_the_first_read_commits_nothing_of_the_input(machine: Machine) -> None:
    """A stop that is there from the start leaves the input to a later run."""
    with machine.log() as log:
        output = JsonLinesOutput(machine.folder / "counts.jsonl")
        runner = machine.runner(log, Script("clicks", PORTIONS), outputs={"counts": output})
        machine.stop.request()
        assert runner.run() == Outcome("stopped")
        output.close()
    machine.run(Script("clicks", PORTIONS))
    assert machine.lines("counts") == RESULTS


def test_a_task_that_fails_commits_nothing_from_there(tmp_path: Path) -> None:
    """The action fail stops the run; what was committed before stands, and the next run meets the record again."""
    machine = Machine(tmp_path, strict(), outputs=["counts"])
    portions: list[list[Item]] = [[click(100)], [click(1500)], [click(5000), click(6000, n=-1)]]
    for _ in range(2):
        with pytest.raises(TaskFailed, match="clicks partition 0 offset 3"):
            machine.run(Script("clicks", portions), tick=0.0, stretched=0.0)
        assert machine.seen.states[-1] == "failed"
        assert machine.lines("counts") == [b'{"key":"u","start":1700000000000,"end":1700000001000,"value":1}']


def test_a_broken_output_is_no_failure(machine: Machine) -> None:
    """Whoever read standard output may leave; the run is over, and no task has failed."""

    class Gone:
        def open(self, _: int | None) -> None:
            pass

        def sync(self) -> int:
            return 0

        def append(self, _: Any) -> None:
            raise BrokenPipeError

        def close(self) -> None:
            pass

    with machine.log() as log, pytest.raises(BrokenPipeError):
        machine.runner(log, Script("clicks", PORTIONS), outputs={"counts": Gone()}).run()
    assert machine.seen.states[-1] == "stopped"


def test_a_partition_goes_on_from_its_own_position(tmp_path: Path) -> None:
    """Of several partitions each passes over what it has committed, wherever reading begins again."""
    machine = Machine(tmp_path, counting(), partitions=2, outputs=["counts"])
    portions: list[list[Item]] = [
        [click(100, "a", 0), click(100, "b", 1), click(200, "a", 0)],
        [click(300, "a", 0), click(400, "b", 1)],
        [click(500, "b", 1)],
    ]
    calm = Machine(tmp_path / "calm", counting(), partitions=2, outputs=["counts"])
    calm.folder.mkdir()
    calm.run(Script("clicks", portions))
    machine.run(Script("clicks", portions[:1]), keep_open=True)
    machine.run(Script("clicks", portions[:2]), keep_open=True)
    assert machine.seen.reads == [("clicks", 0, 1, len(click(300)[1]), 4), ("clicks", 1, 1, len(click(300)[1]), 5)]
    machine.run(Script("clicks", portions))
    assert sorted(machine.lines("counts")) == sorted(calm.lines("counts")) == [result("a", 0, 3), result("b", 0, 3)]


def test_the_bookmark_is_the_least_that_is_unprocessed(tmp_path: Path) -> None:
    """Of two inputs the one that must wait is read again from its first message that was not processed."""
    topology = Topology("two")
    streams = [topology.source(each, Click, event_time=lambda c: c.ts) for each in ("ahead", "behind")]
    merged = streams[0].merge(streams[1]).key_by(lambda c: c.user)
    merged.window(Tumbling("1s")).agg(n=Count(), name="counts").to("counts")
    machine = Machine(tmp_path, topology)
    ahead, behind = Script("ahead", [[click(5), click(900)]]), Script("behind", [[click(10)], [click(20)]])
    assert machine.run(ahead, behind, keep_open=True) == Outcome("left_open")
    assert machine.seen.commits[-1].bookmarks == {"ahead": 1, "behind": 2}


def test_the_clock_decides_once_what_is_in_the_future(machine: Machine) -> None:
    """A stamp further ahead of the wall clock than max_future is a dead letter, by the clock at reading."""
    limit = 100_000 + 3_600_000
    machine.run(Script("clicks", [[click(limit), click(limit + 1)]]))
    assert [json.loads(value or b"")["ts"] - BASE for _, value in machine.rows("dead")] == [limit + 1]


def test_commits_keep_to_the_tick(tmp_path: Path) -> None:
    """Caught up a commit is due each tick; behind, each stretched one."""
    time = iter(range(10_000))
    machine = Machine(tmp_path, counting(), monotonic=lambda: next(time) / 100)
    few: list[list[Item]] = [[click(1000 * second)] for second in range(60)]
    machine.run(Script("clicks", few), tick=0.1, stretched=10.0)
    caught_up = len(machine.seen.commits)
    many: list[list[Item]] = [[click(second)] * AT_ONCE for second in range(60)]
    behind = Machine(tmp_path / "behind", counting(), monotonic=lambda: next(time) / 100)
    behind.folder.mkdir()
    behind.run(Script("clicks", many), tick=0.1, stretched=1e9)
    assert caught_up > 10
    assert len(behind.seen.commits) == 1


def test_nothing_new_is_not_committed(machine: Machine) -> None:
    """A run that waits does not write."""
    empty: list[list[Item]] = [[] for _ in range(5)]
    machine.run(Script("clicks", [PORTIONS[0], *empty, [machine.ask]], endless=True), follow=True, tick=0.0)
    assert len(machine.seen.commits) == 1


def test_observers_hear_what_is_held(machine: Machine) -> None:
    """After a restore and at the end the entries and open windows of each task are counted anew."""
    machine.run(Script("clicks", PORTIONS), keep_open=True)
    assert machine.seen.counts == {"clicks/0": ({"counts": 1}, {"counts": 1})}
    assert machine.seen.watermarks == {("clicks", 0): BASE + 7000}
    machine.run(Script("clicks", PORTIONS))
    assert machine.seen.counts == {"clicks/0": ({"counts": 0}, {"counts": 0})}


def test_following_does_not_await_a_quiet_input(tmp_path: Path) -> None:
    """Of two followed inputs the one with nothing at hand, its lag 0, is not waited for."""
    topology = Topology("two")
    one, other = (topology.source(each, Click, event_time=lambda c: c.ts) for each in ("one", "other"))
    one.merge(other).to("all")
    machine = Machine(tmp_path, topology)
    quiet = Script("other", [], endless=True)
    busy = Script("one", [[click(1)], [click(2)], [], [machine.ask]], endless=True)
    machine.run(busy, quiet, follow=True)
    assert len(machine.rows("all")) == 2


def test_the_collector_is_as_it_was(machine: Machine) -> None:
    """While a run lasts the garbage collector has the runner's thresholds, and its own again after it."""
    before, during = gc.get_threshold(), []
    machine.run(Script("clicks", [[lambda: during.append(gc.get_threshold())], *PORTIONS]))
    assert (during, gc.get_threshold()) == ([THRESHOLDS], before)


def test_the_pulse_tells_how_a_run_fares(machine: Machine) -> None:
    """State, start and last step can be asked for at any time, from any thread."""
    pulses = []
    with machine.log() as log:
        script = Script("clicks", [PORTIONS[0], [lambda: pulses.append(runner.pulse)]])
        runner = machine.runner(log, script, outputs={})
        runner.run()
    assert [(each.state, each.last_step_at is None, each.stepping_since) for each in (pulses[0], runner.pulse)] == [
        ("running", False, None),
        ("stopped", False, None),
    ]


def test_a_full_disk_stops_before_anything_is_half_done(tmp_path: Path) -> None:
    """A log that cannot grow says so; what it holds is its last commit, and a run with space goes on from there."""
    machine = Machine(tmp_path, counting())
    portions: list[list[Item]] = [
        [click(ms, f"user {ms}" * 20) for ms in range(n, n + 500)] for n in range(0, 10_000, 500)
    ]
    with machine.log() as log:
        log._connection.execute("PRAGMA max_page_count = 60")  # noqa: SLF001 - a disk of 240 KiB
        with pytest.raises(StateError, match="the disk is full"):
            machine.runner(
                log,
                Script("clicks", portions),
                outputs={},
            ).run()
    machine.run(Script("clicks", portions))
    assert len({value for _, value in machine.rows("counts")}) == 10_000


def test_a_stop_wakes_who_waits() -> None:
    """A wait ends at once when a stop was or is requested."""
    stop = Stop()
    stop.wait(0.0)
    stop.request()
    stop.request()
    stop.wait(60.0)
    assert stop.requested


def test_before_anything_is_read_watermarks_are_unknown(machine: Machine) -> None:
    """A run over nothing commits that it has begun and ended."""
    assert machine.run(Script("clicks", [[]]), keep_open=True) == Outcome("left_open")
    assert machine.seen.watermarks == {("clicks", 0): START}
