"""The catalogue as live metrics of one registry, and those that the client library cannot count for us.

Children are looked up once and then kept, so that nobody who adds to one looks a label up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from streamproc.metrics.catalog import CATALOG, Metric

T = TypeVar("T", Counter, Gauge, Histogram)

CPU = "streamproc_cpu_seconds_total"
LATENCY, DELAY = "streamproc_end_to_end_latency_seconds", "streamproc_event_delay_seconds"


class Bound(Generic[T]):
    """The children of one metric within one topology, each looked up once and then kept."""

    __slots__ = ("_children", "_family", "_topology")

    def __init__(self, family: T, topology: str) -> None:
        self._family: T = family
        self._topology = topology
        self._children: dict[tuple[str, ...], T] = {}

    def at(self, *labels: str) -> T:
        """The child with these labels, in the order of the catalogue; at zero from the first call on."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._family.labels(self._topology, *labels)
        return child

    def drop(self, *labels: str) -> None:
        """Remove the child with these labels, so that it is not exported any more; harmless where there is none."""
        if self._children.pop(labels, None) is not None:
            self._family.remove(self._topology, *labels)


class CpuTime(Collector):
    """CPU time of the process, read when it is scraped, so that an idle worker shows its cost too."""

    def __init__(self, metric: Metric, topology: str, clock: Callable[[], float]) -> None:
        self._metric = metric
        self._topology = topology
        self._clock = clock

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Yields the one metric."""
        family = CounterMetricFamily(self._metric.name, self._metric.help, labels=("topology",))
        family.add_metric((self._topology,), self._clock())
        yield family


class Latencies(Collector):
    """A histogram that takes a whole commit's instants at once: sorted, then one search for each bound."""

    def __init__(self, metric: Metric, topology: str) -> None:
        self._metric = metric
        self._topology = topology
        self._bounds = [round(bound * 1000) for bound in metric.buckets]
        self._children: dict[str, tuple[tuple[int, ...], int]] = {}

    def at(self, topic: str) -> tuple[tuple[int, ...], int]:
        """The counts up to each bound and in all, and the sum in ms; zeros from the first call on."""
        return self._children.setdefault(topic, ((0,) * (len(self._bounds) + 1), 0))

    def observe(self, topic: str, instants: Iterable[int], now: int) -> None:
        """Add the ages at `now` of so many instants, all in ms; those ahead of it are as old as it."""
        counts, total = self.at(topic)
        rising = sorted(instants)
        past = bisect_right(rising, now)
        added = [len(rising) - bisect_left(rising, now - bound) for bound in self._bounds]
        counts = tuple(before + more for before, more in zip(counts, (*added, len(rising)), strict=True))
        self._children[topic] = counts, total + past * now - sum(rising[:past])

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Yields the one metric."""
        family = HistogramMetricFamily(self._metric.name, self._metric.help, labels=("topology", "topic"))
        bounds = [*map(floatToGoString, self._metric.buckets), "+Inf"]
        for topic, (counts, total) in tuple(self._children.items()):
            family.add_metric((self._topology, topic), list(zip(bounds, counts, strict=True)), total / 1000)
        yield family


def new_registry() -> CollectorRegistry:
    """A registry with the client's own metrics of the process, the platform and the garbage collector."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class Instruments:
    """Every metric of the catalogue in one registry, by name; those of Kafka where there is Kafka."""

    def __init__(
        self, topology: str, registry: CollectorRegistry, cpu: Callable[[], float], catalog: Sequence[Metric] = CATALOG
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.counters: dict[str, Bound[Counter]] = {}
        self.gauges: dict[str, Bound[Gauge]] = {}
        self.histograms: dict[str, Bound[Histogram]] = {}
        for metric in catalog:
            self._build(metric, topology, registry, cpu)

    def _build(self, metric: Metric, topology: str, registry: CollectorRegistry, cpu: Callable[[], float]) -> None:
        labels = ("topology", *metric.labels)
        if metric.name == CPU:
            registry.register(CpuTime(metric, topology, cpu))
        elif metric.name == LATENCY:
            self.latencies = Latencies(metric, topology)
            registry.register(self.latencies)
        elif metric.name == DELAY:
            self.delays = Latencies(metric, topology)
            registry.register(self.delays)
        elif metric.kind == "counter":
            self.counters[metric.name] = Bound(Counter(metric.name, metric.help, labels, registry=registry), topology)
        elif metric.kind == "gauge":
            self.gauges[metric.name] = Bound(Gauge(metric.name, metric.help, labels, registry=registry), topology)
        else:
            histogram = Histogram(metric.name, metric.help, labels, registry=registry, buckets=metric.buckets)
            self.histograms[metric.name] = Bound(histogram, topology)
