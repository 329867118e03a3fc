"""What only a member of a group has to show: ownership, restores, commits that fail, a poll loop, brokers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import assert_never

from streamproc.adapters.prometheus.instruments import Instruments
from streamproc.metrics.catalog import APIS, FAILURES, OWNERSHIPS, WAITING
from streamproc.ports.worker import (
    Changelog,
    Delays,
    Event,
    Failure,
    Ownership,
    Reachability,
    Rebalanced,
    Restored,
    Restoring,
    Uncommitted,
    Waiting,
)


def stage_of(task: str) -> str:
    """The stage of a task by its name, stage/number."""
    return task.rpartition("/")[0]


class Group:
    """The metrics of a member; all that can be known beforehand stands at zero."""

    def __init__(self, instruments: Instruments, clock: Callable[[], float]) -> None:
        counters, gauges, histograms = instruments.counters, instruments.gauges, instruments.histograms
        self._clock = clock
        self._polled = gauges["streamproc_poll_last_timestamp_seconds"].at()
        self._waited = counters["streamproc_blocked_seconds_total"]
        self._changelog = counters["streamproc_changelog_bytes_total"]
        self._remaining = gauges["streamproc_restore_remaining_records"]
        self._restored = counters["streamproc_restore_records_total"]
        self._restore_duration = histograms["streamproc_restore_duration_seconds"].at()
        self._commits = counters["streamproc_commits_total"]
        self._rebalances = counters["streamproc_rebalances_total"]
        self._rebalance_duration = histograms["streamproc_rebalance_duration_seconds"].at()
        self._reachable = gauges["streamproc_broker_reachable"].at()
        self._failures = counters["streamproc_client_errors_total"]
        self._delays = instruments.delays
        self._answers = histograms["streamproc_broker_request_duration_seconds"]
        self._left: dict[str, int] = {}
        self.stalled = gauges["streamproc_stalled_partitions"].at()
        self.loop_lag = histograms["streamproc_event_loop_lag_seconds"].at()
        for reason in WAITING:
            self._waited.at(reason)
        for how in OWNERSHIPS:
            self._rebalances.at(how)
        for kind in FAILURES:
            self._failures.at(kind)
        for api in APIS:
            self._answers.at(api)

    def planned(self, stages: Iterable[str]) -> None:
        """All stages stand at zero."""
        for stage in stages:
            self._changelog.at(stage)
            self._remaining.at(stage)
            self._restored.at(stage)

    def polled(self, waited: Mapping[Waiting, float]) -> None:
        """A pass of the poll loop."""
        self._polled.set(self._clock())
        for reason, seconds in waited.items():
            self._waited.at(reason).inc(seconds)

    def answered(self, api: str, seconds: float) -> None:
        """A request was answered."""
        self._answers.at(api).observe(seconds)

    def happened(self, event: Event) -> None:  # noqa: C901 - one case for each kind
        """One event, told apart by its type."""
        match event:
            case Ownership():
                self._rebalances.at(event.how).inc()
                if event.how != "assigned":
                    for task in event.tasks:
                        self._leave(task, 0)
            case Rebalanced():
                self._rebalance_duration.observe(event.seconds)
            case Restoring() | Restored():
                self._restore(event)
            case Changelog():
                self._changelog.at(stage_of(event.task)).inc(event.size)
            case Uncommitted():
                self._commits.at(event.outcome).inc()
            case Delays():
                self._delays.observe(event.topic, (-delay for delay in event.delays), 0)
            case Failure():
                self._failures.at(event.kind).inc()
            case Reachability():
                self._reachable.set(event.reachable)
            case _:
                assert_never(event)

    def _restore(self, event: Restoring | Restored) -> None:
        if isinstance(event, Restoring):
            self._restored.at(stage_of(event.task)).inc(event.records)
            self._leave(event.task, event.remaining)
        else:
            self._restore_duration.observe(event.seconds)
            self._leave(event.task, 0)

    def _leave(self, task: str, remaining: int) -> None:
        """So many records of a task are left to be restored."""
        self._remaining.at(stage_of(task)).inc(remaining - self._left.pop(task, 0))
        if remaining:
            self._left[task] = remaining
