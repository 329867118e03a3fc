"""Departures out of order, and what is made of them."""

from streamproc import WindowResult
from streamproc.testing import TestDriver, at, verify
from topologies.flights import Delays, Departure, topology


def left(planned: str, delay: int, carrier: str = "UA", origin: str = "EWR") -> Departure:
    """A flight that has left."""
    return Departure(at(planned), carrier, 1545, origin, "IAH", delay)


def span(key: str, start: str, end: str, value: Delays) -> WindowResult[str, Delays]:
    """A result; the window of a departure ends one millisecond after it."""
    return WindowResult(key, at(start), at(end), value)


def test_a_flight_that_left_late_counts_where_it_was_planned() -> None:
    """The 09:00 leaves after the 10:00, and is in the results of both."""
    with TestDriver(topology) as t:
        t.send("departures", left("10:00", 2), left("09:00", 90), left("08:30", -4, "B6"))
        assert t.read("carrier-delays") == []

        t.send("departures", left("13:00:01", 0, "DL"))  # three hours on
        assert t.read("carrier-delays") == [
            span("B6", "05:30", "08:30:00.001", Delays(mean=-4.0, p90=-4, flights=1)),
            span("UA", "06:00", "09:00:00.001", Delays(mean=90.0, p90=90, flights=1)),
            span("UA", "07:00", "10:00:00.001", Delays(mean=46.0, p90=90, flights=2)),
        ]
        assert [w.value.flights for w in t.read("airport-delays")] == [1, 2, 3]


def test_hours_of_an_airport() -> None:
    """An hour is counted when three more have passed; delayed is the share that left 15 minutes late or more."""
    with TestDriver(topology) as t:
        t.send("departures", left("10:00", 14), left("10:59", 15), left("10:30", 60), left("11:00", 99))
        t.restart()
        t.send("departures", left("10:15", 0), left("14:00", 0))
        (hour,) = t.read("airport-hours")
        assert (hour.key, hour.start, hour.end) == ("EWR", at("10:00"), at("11:00"))
        assert (hour.value.flights, hour.value.delayed) == (4, 0.5)


def test_a_flight_hours_late_is_not_lost() -> None:
    """Whoever leaves after the hour was counted is found in `late-departures`."""
    with TestDriver(topology) as t:
        t.send("departures", left("14:00", 0), left("11:00", 181), left("10:59", 182))
        assert t.read("late-departures") == [left("10:59", 182)]
        assert t.late("airport_hours") == 1


def test_it_is_the_same_however_it_runs() -> None:
    """All at once, one by one, with crashes: nobody can tell."""
    flights = [left("10:00", 2), left("09:00", 90, "B6", "JFK"), left("13:30", 0), left("08:30", -4), left("19:00", 5)]
    written = verify(topology, given={"departures": flights})
    assert written["late-departures"] == [left("08:30", -4)]
    assert len(written["carrier-delays"]) == len(flights) - 1
