"""The series of partitions: one for each partition that is owned, gone when it is not, or folded into one a topic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

from prometheus_client import Gauge

from streamproc.adapters.prometheus.instruments import Bound, Instruments
from streamproc.core.batch import END, START
from streamproc.ports.worker import Standing

ALL = "all"
"""The partition of a series that stands for all partitions of its topic."""

PLACES = (
    "streamproc_consumer_position_offset",
    "streamproc_consumer_committed_offset",
    "streamproc_consumer_end_offset",
    "streamproc_consumer_lag_records",
    "streamproc_consumer_lag_seconds",
    "streamproc_partition_paused",
    "streamproc_partition_idle",
    "streamproc_partition_watermark_timestamp_seconds",
)
"""Every metric with the label `partition`."""


def instant(watermark: int) -> float:
    """A watermark in ms as seconds; the infinite ones as infinities."""
    if watermark == START:
        return float("-inf")
    return float("inf") if watermark == END else watermark / 1000


class Partitions:
    """What is said of partitions, each by topic and number.

    Until `own` is called all partitions count as owned: a runner that shares with nobody never calls it.
    """

    def __init__(self, instruments: Instruments, *, each: bool) -> None:
        self._each = each
        self._gauges = {name: instruments.gauges[name] for name in PLACES if name in instruments.gauges}
        self._owned: frozenset[tuple[str, int]] | None = None
        self._marks: dict[tuple[str, int], int] = {}

    def own(self, owned: Mapping[str, Collection[int]]) -> None:
        """From now on these and no others are owned; the series of others are removed."""
        after = frozenset((topic, number) for topic, numbers in owned.items() for number in numbers)
        before, self._owned = self._owned or frozenset(), after
        self._marks = {place: mark for place, mark in self._marks.items() if place in after}
        gone = {(topic, str(number)) for topic, number in before - after}
        gone |= {(topic, ALL) for topic, _ in before} - {(topic, ALL) for topic, _ in after}
        for gauge in self._gauges.values():
            for topic, label in gone:
                gauge.drop(topic, label)

    def owns(self, topic: str, number: int) -> bool:
        """Whether a partition is owned now."""
        return self._owned is None or (topic, number) in self._owned

    def move(self, topic: str, number: int, position: int) -> None:
        """The next offset to process; of folded partitions there is none."""
        if self._each and self.owns(topic, number):
            self._gauge("streamproc_consumer_position_offset").at(topic, str(number)).set(position)

    def mark(self, watermarks: Mapping[tuple[str, int], int]) -> None:
        """The watermark of each; of folded ones the smallest."""
        gauge = self._gauge("streamproc_partition_watermark_timestamp_seconds")
        known = {place: watermark for place, watermark in watermarks.items() if self.owns(*place)}
        if self._each:
            for (topic, number), watermark in known.items():
                gauge.at(topic, str(number)).set(instant(watermark))
            return
        self._marks |= known
        least: dict[str, int] = {}
        for (topic, _), watermark in self._marks.items():
            least[topic] = min(watermark, least.get(topic, END))
        for topic, watermark in least.items():
            gauge.at(topic, ALL).set(instant(watermark))

    def stand(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Where each stands; of folded ones the greatest lag in seconds, and the sums of the rest."""
        known = {place: standing for place, standing in standings.items() if self.owns(*place)}
        if self._each:
            for (topic, number), standing in known.items():
                self._stand_alone(topic, str(number), standing)
            return
        topics: defaultdict[str, list[Standing]] = defaultdict(list)
        for (topic, _), standing in known.items():
            topics[topic].append(standing)
        for topic, group in topics.items():
            self._set(topic, ALL, "streamproc_consumer_lag_records", sum(each.lag_records for each in group))
            self._set(topic, ALL, "streamproc_consumer_lag_seconds", max(each.lag_seconds for each in group))
            self._set(topic, ALL, "streamproc_partition_paused", sum(each.paused for each in group))
            self._set(topic, ALL, "streamproc_partition_idle", sum(each.idle for each in group))

    def _stand_alone(self, topic: str, label: str, standing: Standing) -> None:
        self._set(topic, label, "streamproc_consumer_position_offset", standing.position)
        self._set(topic, label, "streamproc_consumer_lag_records", standing.lag_records)
        self._set(topic, label, "streamproc_consumer_lag_seconds", standing.lag_seconds)
        self._set(topic, label, "streamproc_partition_paused", standing.paused)
        self._set(topic, label, "streamproc_partition_idle", standing.idle)
        if standing.end is not None:
            self._set(topic, label, "streamproc_consumer_end_offset", standing.end)
        if standing.committed is not None:
            self._set(topic, label, "streamproc_consumer_committed_offset", standing.committed)

    def _set(self, topic: str, label: str, name: str, value: float) -> None:
        self._gauges[name].at(topic, label).set(value)

    def _gauge(self, name: str) -> Bound[Gauge]:
        return self._gauges[name]
