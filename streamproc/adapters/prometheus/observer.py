"""The observer that turns what a runner did into Prometheus metrics.

One registry per worker.  All children are bound when the plan is known; a step then adds to bound children
only, once per batch and node, and never looks a label up.
"""

from __future__ import annotations

import platform
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from operator import itemgetter
from typing import Any

from prometheus_client import CollectorRegistry

from streamproc.adapters.prometheus.group import Group
from streamproc.adapters.prometheus.instruments import Instruments, new_registry
from streamproc.adapters.prometheus.partitions import Partitions, instant
from streamproc.core.batch import START, DeadLetter, Emit, Step
from streamproc.metrics.catalog import (
    CATALOG,
    DROP_REASONS,
    EMISSIONS,
    ERROR_REASONS,
    FUTURE_REASON,
    LATE_ACTIONS,
    LATE_REASON,
    LEVELS,
    OUTCOMES,
    STATES,
)
from streamproc.ports import Commit
from streamproc.ports.worker import Event, Ownership, Standing, Waiting


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker is, as far as its metrics name it.

    On Kafka partitions come and go, and nothing is owned until `happened` says so.  Without `per_partition` the series
    of partitions are folded into one a topic.
    """

    client: str = "embedded"
    revision: str = "unknown"
    guarantee: str = "exactly_once"
    backend: str = "memory"
    mode: str = "live"
    kafka: bool = False
    per_partition: bool = True


_KEY, _VALUE, _AT, _HEADERS = itemgetter(0), itemgetter(1), itemgetter(2), itemgetter(3)


def weigh(rows: Sequence[Emit]) -> int:
    """Bytes of keys, values and headers, before compression; no Python per row without headers."""
    total = sum(map(len, filter(None, map(_KEY, rows)))) + sum(map(len, filter(None, map(_VALUE, rows))))
    for headers in filter(None, map(_HEADERS, rows)):
        total += sum(len(name.encode()) + len(value) for name, value in headers)
    return total


def _version() -> str:
    try:
        return metadata.version("streamproc")
    except metadata.PackageNotFoundError:
        return "unknown"


class PrometheusObserver:
    """An `Observer` whose metrics are those of the catalogue, in `registry`.

    `clock` is the wall clock in seconds, `cpu` the CPU time of the process in seconds.
    """

    def __init__(
        self,
        topology: str,
        registry: CollectorRegistry | None = None,
        worker: Worker | None = None,
        clock: Callable[[], float] = time.time,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.registry = new_registry() if registry is None else registry
        self._worker = Worker() if worker is None else worker
        self._clock = clock
        catalog = [metric for metric in CATALOG if self._worker.kafka or not metric.kafka]
        self._instruments = Instruments(topology, self.registry, cpu, catalog)
        self._partitions = Partitions(self._instruments, each=self._worker.per_partition)
        self._build_gauges()
        self._build_counters()
        histograms = self._instruments.histograms
        self._step_duration = histograms["streamproc_step_duration_seconds"].at()
        self._step_batch = histograms["streamproc_step_batch_records"].at()
        self._commit_duration = histograms["streamproc_commit_duration_seconds"].at()
        self._topics: dict[str, str] = {}  # the topic that a source node reads
        self._unmeasured: frozenset[str] = frozenset()  # topics whose records are no results
        self._marks: dict[str, dict[str, int]] = {}
        self._open: Tally[tuple[str, str]] = Tally()
        self._entries: Tally[tuple[str, str]] = Tally()
        self._group = Group(self._instruments, clock) if self._worker.kafka else None
        self._start()

    def _build_gauges(self) -> None:
        gauges = self._instruments.gauges
        self._worker_state = gauges["streamproc_worker_state"]
        self._topic_partitions = gauges["streamproc_topic_partitions"]
        self._assigned = gauges["streamproc_assigned_partitions"]
        self._watermark = gauges["streamproc_watermark_timestamp_seconds"]
        self._windows_open = gauges["streamproc_windows_open"]
        self._state_entries = gauges["streamproc_state_entries"]
        self._last_success = gauges["streamproc_commit_last_success_timestamp_seconds"].at()

    def _build_counters(self) -> None:
        counters = self._instruments.counters
        self._log_messages = counters["streamproc_log_messages_total"]
        self._consumed_records = counters["streamproc_consumed_records_total"]
        self._consumed_bytes = counters["streamproc_consumed_bytes_total"]
        self._future = counters["streamproc_future_records_total"]
        self._records_in = counters["streamproc_records_in_total"]
        self._records_out = counters["streamproc_records_out_total"]
        self._errors = counters["streamproc_record_errors_total"]
        self._retries = counters["streamproc_retries_total"]
        self._dropped = counters["streamproc_records_dropped_total"]
        self._dlq = counters["streamproc_dlq_records_total"]
        self._emitted = counters["streamproc_windows_emitted_total"]
        self._late = counters["streamproc_late_records_total"]
        self._refusals = counters["streamproc_window_refusals_total"]
        self._produced_records = counters["streamproc_produced_records_total"]
        self._produced_bytes = counters["streamproc_produced_bytes_total"]
        self._commits = counters["streamproc_commits_total"]

    def _start(self) -> None:
        build = self._instruments.gauges["streamproc_build_info"]
        build.at(_version(), platform.python_version(), self._worker.client, self._worker.revision).set(1)
        for level in LEVELS:
            self._log_messages.at(level)
        for outcome in OUTCOMES:
            self._commits.at(outcome)
        self.state("starting")

    def planned(self, plan: Any) -> None:
        """Binds every child that the plan makes possible, so that all of them stand at zero."""
        worker = self._worker
        information = self._instruments.gauges["streamproc_topology_info"]
        information.at(plan.hash, worker.guarantee, worker.backend, worker.mode).set(1)
        for stage in plan.stages:
            self._plan_inlets(plan, stage)
        self._plan_outputs(plan)
        for node in plan.nodes:
            self._plan_node(node)
            if not self._worker.kafka:
                self._watermark.at(node.name).set(instant(START))
        if self._group is not None:
            self._group.planned(stage.name for stage in plan.stages)

    def _plan_inlets(self, plan: Any, stage: Any) -> None:
        """What a stage reads; what crosses between stages exists in memory only where there is no Kafka."""
        for inlet in stage.inlets:
            self._topics[stage.places[inlet.place].name] = inlet.topic
            if inlet.topic in plan.sources:
                self._future.at(inlet.topic)
                if self._worker.kafka:
                    self._instruments.delays.at(inlet.topic)
            if self._worker.kafka or inlet.topic in plan.sources:
                self._plan_input(inlet.topic, stage.partitions)

    def _plan_outputs(self, plan: Any) -> None:
        for topic in (*plan.sinks, *plan.dead_letters):
            self._produced_records.at(topic)
            self._produced_bytes.at(topic)
        for topic in plan.dead_letters:
            self._dlq.at(topic)
        late = {node.late for node in plan.nodes if node.late}
        self._unmeasured = frozenset((*plan.dead_letters, *late, *self._topics.values()))
        for topic in sorted(set(plan.sinks) - self._unmeasured):
            self._instruments.latencies.at(topic)

    def _plan_input(self, topic: str, partitions: int) -> None:
        self._consumed_records.at(topic)
        self._consumed_bytes.at(topic)
        self._topic_partitions.at(topic).set(partitions)
        self._assigned.at(topic).set(0 if self._worker.kafka else partitions)
        if not self._worker.kafka:
            for partition in range(partitions):
                self._partitions.move(topic, partition, 0)
            self._partitions.mark({(topic, partition): START for partition in range(partitions)})

    def _plan_node(self, node: Any) -> None:
        for counters in (self._records_in, self._records_out, self._retries):
            counters.at(node.name)
        for reason, action in node.reasons.items():
            if reason in ERROR_REASONS:
                self._errors.at(node.name, reason, action)
            elif reason in DROP_REASONS:
                self._dropped.at(node.name, reason, action)
        if node.windowed or LATE_REASON in node.reasons:
            for action in LATE_ACTIONS:
                self._late.at(node.name, action)
        if node.windowed:
            self._windows_open.at(node.name)
            self._refusals.at(node.name)
            for kind in EMISSIONS:
                self._emitted.at(node.name, kind)
        if node.stateful:
            self._state_entries.at(node.name)

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None:
        """Adds to what was consumed, and moves the position."""
        self._consumed_records.at(topic).inc(records)
        self._consumed_bytes.at(topic).inc(size)
        self._partitions.move(topic, partition, position)

    def stepped(self, task: str, step: Step, records: int, seconds: float) -> None:
        """Adds the counts of one step, per node."""
        self._step_duration.observe(seconds)
        self._step_batch.observe(records)
        counts = step.counts
        for node, number in counts.records_in.items():
            self._records_in.at(node).inc(number)
        for node, number in counts.records_out.items():
            self._records_out.at(node).inc(number)
        for node, number in counts.retries.items():
            self._retries.at(node).inc(number)
        for (node, reason, action), number in counts.errors.items():
            if reason == FUTURE_REASON:
                self._future.at(self._topics.get(node, node)).inc(number)
            else:
                self._errors.at(node, reason, action).inc(number)
        for (node, reason, action), number in counts.dropped.items():
            self._dropped.at(node, reason, action).inc(number)
        self._stepped_windows(task, step)
        for node, watermark in step.watermarks.items():
            self._mark(task, node, watermark)

    def _stepped_windows(self, task: str, step: Step) -> None:
        counts = step.counts
        for node, number in counts.opened.items():
            self._open[task, node] += number
            self._windows_open.at(node).inc(number)
        for node, number in counts.closed.items():
            self._open[task, node] -= number
            self._windows_open.at(node).dec(number)
            self._emitted.at(node, "final").inc(number)
        for node, number in counts.updated.items():
            self._emitted.at(node, "update").inc(number)
        for (node, action), number in counts.late.items():
            self._late.at(node, action).inc(number)
        for node, number in counts.refused.items():
            self._refusals.at(node).inc(number)

    def _mark(self, task: str, node: str, watermark: int) -> None:
        marks = self._marks.setdefault(node, {})
        if marks.get(task) != watermark:
            marks[task] = watermark
            self._watermark.at(node).set(instant(min(marks.values())))

    def committed(self, commit: Commit, dead: Sequence[DeadLetter], seconds: float) -> None:
        """Adds what was written; a commit that is told of has succeeded."""
        now = self._clock()
        for (topic, _), rows in commit.emits.items():
            self._produced_records.at(topic).inc(len(rows))
            self._produced_bytes.at(topic).inc(weigh(rows))
            if topic not in self._unmeasured:
                self._instruments.latencies.observe(topic, map(_AT, rows), int(now * 1000))
        for letter in dead:
            self._dlq.at(letter.topic).inc()
        self._commits.at("ok").inc()
        self._commit_duration.observe(seconds)
        self._last_success.set(now)

    def progressed(
        self,
        watermarks: Mapping[tuple[str, int], int],
        held_by: tuple[str, int] | None,  # noqa: ARG002 - the smallest watermark says it
    ) -> None:
        """Sets the watermark of each partition."""
        self._partitions.mark(watermarks)

    def counted(self, task: str, windows: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """Corrects what the steps have added up to."""
        for node, number in windows.items():
            self._windows_open.at(node).inc(number - self._open[task, node])
            self._open[task, node] = number
        for node, number in entries.items():
            self._state_entries.at(node).inc(number - self._entries[task, node])
            self._entries[task, node] = number

    def state(self, name: str) -> None:
        """Sets one state to 1 and all others to 0."""
        for state in STATES:
            self._worker_state.at(state).set(state == name)

    def happened(self, event: Event) -> None:
        """Counts what happens to a worker; series of what is not owned any more go."""
        if isinstance(event, Ownership):
            self._own(event)
        if self._group is not None:
            self._group.happened(event)

    def _own(self, change: Ownership) -> None:
        self._partitions.own(change.owned)
        for topic in {*self._topics.values(), *change.owned}:
            self._assigned.at(topic).set(len(change.owned.get(topic, ())))
        if change.how != "assigned":
            for task in change.tasks:
                self._forget(task)

    def _forget(self, task: str) -> None:
        """What a task that is gone has added to the sums over all tasks."""
        for gauge, tally in ((self._windows_open, self._open), (self._state_entries, self._entries)):
            for place in [place for place in tally if place[0] == task]:
                gauge.at(place[1]).dec(tally.pop(place))
        for node, marks in self._marks.items():
            if marks.pop(task, None) is not None and marks:
                self._watermark.at(node).set(instant(min(marks.values())))
            elif not marks:
                self._watermark.drop(node)

    def lagged(self, standings: Mapping[tuple[str, int], Standing]) -> None:
        """Sets the series of the partitions."""
        self._partitions.stand(standings)
        if self._group is not None:
            self._group.stalled.set(sum(standing.stalled for standing in standings.values()))

    def polled(self, waited: Mapping[Waiting, float]) -> None:
        """Adds what was waited for, and sets the instant."""
        if self._group is not None:
            self._group.polled(waited)

    def ticked(self, late: float) -> None:
        """Adds one tick."""
        if self._group is not None:
            self._group.loop_lag.observe(late)

    def answered(self, api: str, seconds: float) -> None:
        """A broker has answered a request."""
        if self._group is not None:
            self._group.answered(api, seconds)

    def logged(self, level: str) -> None:
        """One line was logged, or would have been but for rate limiting."""
        self._log_messages.at(level).inc()
