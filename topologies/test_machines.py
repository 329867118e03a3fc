"""Readings of machines, and which of them are odd."""

from streamproc.testing import TestDriver, at, verify
from topologies.machines import Load, Metric, topology


def reading(time: str, cpu: float, machine: str = "m1") -> Metric:
    """A reading of a machine."""
    return Metric(at(time), machine, cpu)


def steady(machine: str = "m1") -> list[Metric]:
    """An hour of readings that go up and down by one percent."""
    return [reading(f"12:{minute:02}", 50 + minute % 2, machine) for minute in range(0, 60, 5)]


def test_mean_and_deviation_of_what_was_just_before() -> None:
    """Each reading is shown beside the six hours that end with it; one that has no others deviates by nothing."""
    with TestDriver(topology) as t:
        t.send("metrics", reading("12:00", 10), reading("12:05", 20), reading("12:05", 30, "m2"), reading("18:05", 6))
        t.end()
        assert t.read("machine-loads") == [
            Load("m1", at("12:00"), 10, mean=10.0, deviation=0.0, odd=False),
            Load("m1", at("12:05"), 20, mean=15.0, deviation=7.07, odd=False),
            Load("m2", at("12:05"), 30, mean=30.0, deviation=0.0, odd=False),
            Load("m1", at("18:05"), 6, mean=13.0, deviation=9.9, odd=False),  # the one of 12:00 is older than six hours
        ]


def test_a_jump_is_odd() -> None:
    """More than three deviations from the mean, its own part in both included."""
    with TestDriver(topology) as t:
        t.send("metrics", *steady(), reading("13:00", 90), reading("13:05", 51))
        t.end()
        assert t.read("odd-loads") == [Load("m1", at("13:00"), 90, mean=53.54, deviation=10.97, odd=True)]


def test_few_readings_are_never_odd() -> None:
    """Nobody knows yet what is normal."""
    with TestDriver(topology) as t:
        t.send("metrics", reading("12:00", 1), reading("12:05", 1), reading("12:10", 99))
        t.end()
        assert t.read("odd-loads") == []


def test_it_is_the_same_however_it_runs() -> None:
    """All at once, one by one, with crashes: nobody can tell."""
    readings = [*steady(), *steady("m2"), reading("13:00", 90), reading("12:59:30", 51, "m2")]
    written = verify(topology, given={"metrics": readings})
    assert [(load.machine, load.cpu) for load in written["odd-loads"]] == [("m1", 90)]
