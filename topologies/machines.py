"""Machines that behave unlike their last six hours: the trailing mean and deviation of each one's CPU load.

    streamproc run topologies.machines:topology --input metrics=topologies/data/metrics.jsonl.gz

The window of a reading ends with it, so it counts in its own mean: a jump shows, what lasts becomes the new normal.
"""

from datetime import datetime

import msgspec

from streamproc import Count, Mean, StdDev, Topology, Trailing, WindowResult

SIGMAS = 3
ENOUGH = 12
"""Fewer readings say nothing about what is normal."""


class Metric(msgspec.Struct, frozen=True):
    """One reading: the CPU load of a machine in percent."""

    time: datetime
    machine: str
    cpu: float


class Load(msgspec.Struct, frozen=True):
    """A reading, and the mean and standard deviation of all in the six hours up to it."""

    machine: str
    time: datetime
    cpu: float
    mean: float
    deviation: float
    odd: bool


def judged(w: WindowResult[str, tuple[float, float | None, int], Metric]) -> Load:
    """A reading beside what is normal; the deviation of a single one is not defined, and shown as 0."""
    mean, deviation, readings = w.value
    usual = deviation or 0.0
    odd = readings >= ENOUGH and abs(w.event.cpu - mean) > SIGMAS * usual
    return Load(w.key, w.event.time, w.event.cpu, round(mean, 2), round(usual, 2), odd)


topology = Topology("machines")
metrics = topology.source("metrics", Metric, event_time=lambda m: m.time, disorder="1m")

loads = (
    metrics.key_by(lambda m: m.machine)
    .window(Trailing("6h"))
    .agg(Mean(of=lambda m: m.cpu), StdDev(of=lambda m: m.cpu), Count(), name="cpu_6h")
    .map(judged)
)
loads.to("machine-loads")
loads.filter(lambda load: load.odd).to("odd-loads")
