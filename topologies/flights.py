"""How late flights leave New York: over the last three hours of each airline and airport, and hour by hour.

    streamproc run topologies.flights:topology --input departures=topologies/data/flights.jsonl.gz

A flight is heard of when it leaves but belongs to the time it was planned for, so the late ones arrive out of order.
Results wait three hours, enough for 99 in 100; what finds its hour closed all the same goes to `late-departures`.
"""

from datetime import datetime

import msgspec

from streamproc import Count, Keyed, Mean, Quantile, Topology, Trailing, Tumbling, WindowResult

NOTABLE = 15
"""From so many minutes on, a departure is called delayed."""


class Departure(msgspec.Struct, frozen=True):
    """A flight that has left; `delay` in minutes, below zero if it left early."""

    scheduled: datetime
    carrier: str
    flight: int
    origin: str
    dest: str
    delay: int


class Delays(msgspec.Struct, frozen=True):
    """Delays in minutes: the mean of some flights, and what nine in ten of them stay below."""

    mean: float
    p90: int
    flights: int


def last_hours(flights: Keyed[str, Departure], name: str) -> Keyed[str, WindowResult[str, Delays]]:
    """One result per departure: the delays of its airline or airport in the three hours up to it."""
    trailing = flights.window(Trailing("3h")).agg(
        Mean(of=lambda d: d.delay), Quantile(0.9, of=lambda d: d.delay, error=0.001), Count(), name=name
    )
    return trailing.map(lambda w: WindowResult(w.key, w.start, w.end, delays(*w.value)))


def delays(mean: float, p90: float, flights: int) -> Delays:
    """The figures as people read them."""
    return Delays(round(mean, 1), round(p90), flights)


topology = Topology("flights")
departures = topology.source("departures", Departure, event_time=lambda d: d.scheduled, disorder="3h")
airports = departures.key_by(lambda d: d.origin)

last_hours(departures.key_by(lambda d: d.carrier), "carrier_delays").to("carrier-delays")
last_hours(airports, "airport_delays").to("airport-delays")

hours = airports.window(Tumbling("1h"), late="late-departures")
hours.agg(flights=Count(), delayed=Mean(of=lambda d: d.delay >= NOTABLE), name="airport_hours").to("airport-hours")
