"""Every metric as data: code, docs, dashboards and rules are built from this tuple or checked against it.

The label `topology` is on every metric and is not repeated here. A new metric is a new row; to change a
name, a label or a unit is to break what users built on it. Instants are exported as timestamps, never as
ages: `time() - x` keeps growing when the worker is dead. The one exception is the lag of a partition, which is
an age by nature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Unit: TypeAlias = Literal["1", "seconds", "bytes", "records", "ratio", "offset"]

LAT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
"""Bounds in seconds for latencies from one end to the other: they go on where those of a web server stop."""
WORK = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds in seconds for work done inside the worker: steps, calls, commits."""
SLOW = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Bounds in seconds for what a worker does now and then: rebalances, restores."""
SIZE = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)
"""Bounds in records for the size of a batch."""

STATES = ("starting", "restoring", "running", "rebalancing", "draining", "stopped", "failed")
LEVELS = ("debug", "info", "warning", "error", "critical")
OUTCOMES = ("ok", "aborted", "fenced", "unknown", "failed")
WAITING = ("fetch", "commit", "restore", "throttle")
OWNERSHIPS = ("assigned", "revoked", "lost")
APIS = (
    "produce",
    "fetch",
    "list_offsets",
    "metadata",
    "offset_commit",
    "offset_fetch",
    "find_coordinator",
    "join_group",
    "heartbeat",
    "leave_group",
    "sync_group",
    "api_versions",
    "delete_records",
    "init_producer_id",
    "add_partitions_to_txn",
    "end_txn",
    "txn_offset_commit",
)
FAILURES = ("connection", "auth", "fenced", "timeout", "other")
EMISSIONS = ("final", "update")
LATE_ACTIONS = ("late_stream", "dead_letter", "skip")
ERROR_REASONS = (
    "deserialization_error",
    "invalid_timestamp",
    "processing_error",
    "serialization_error",
    "production_error",
)
DROP_REASONS = ("null_key", "null_value", "expectation_failed", "gap", "unmatched")
FUTURE_REASON = "future_timestamp"
LATE_REASON = "late"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: its full name, its labels besides `topology`, and one sentence on what it says.

    `buckets` are the bounds of a histogram; `adhoc` marks what no panel and no rule uses, `kafka` what only a worker
    on Kafka has. With the label `partition` a series lives only where the partition is owned.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    unit: Unit
    help: str
    buckets: tuple[float, ...] = ()
    adhoc: bool = False
    kafka: bool = False


CATALOG: tuple[Metric, ...] = (
    # worker
    Metric(
        "streamproc_build_info",
        "gauge",
        ("version", "python", "client", "revision"),
        "1",
        "What runs: streamproc, Python, the client library and the revision of the code; always 1.",
        adhoc=True,
    ),
    Metric(
        "streamproc_topology_info",
        "gauge",
        ("plan", "guarantee", "backend", "mode"),
        "1",
        "Hash of the plan, delivery guarantee, state backend and mode; always 1.",
        adhoc=True,
    ),
    Metric(
        "streamproc_worker_state",
        "gauge",
        ("state",),
        "1",
        "1 for the state the worker is in, 0 for all others.",
    ),
    Metric(
        "streamproc_event_loop_lag_seconds",
        "histogram",
        (),
        "seconds",
        "Delay of a tick of 100 ms on the event loop: something holds it up.",
        WORK,
        kafka=True,
    ),
    Metric(
        "streamproc_poll_last_timestamp_seconds",
        "gauge",
        (),
        "seconds",
        "Wall time of the last completed pass of the poll loop, 0 before the first.",
        kafka=True,
    ),
    Metric(
        "streamproc_blocked_seconds_total",
        "counter",
        ("reason",),
        "seconds",
        "Time that the poll loop has waited, by what for.",
        kafka=True,
    ),
    Metric(
        "streamproc_step_duration_seconds",
        "histogram",
        (),
        "seconds",
        "Time of one step over one batch, without input and output.",
        WORK,
    ),
    Metric(
        "streamproc_step_batch_records",
        "histogram",
        (),
        "records",
        "Records in the batch that was handed to a step.",
        SIZE,
        adhoc=True,
    ),
    Metric(
        "streamproc_cpu_seconds_total",
        "counter",
        (),
        "seconds",
        "User and system CPU time of this worker process.",
    ),
    Metric(
        "streamproc_log_messages_total",
        "counter",
        ("level",),
        "1",
        "Log lines by level, counted before rate limiting.",
        adhoc=True,
    ),
    # input
    Metric(
        "streamproc_consumed_records_total",
        "counter",
        ("topic",),
        "records",
        "Records read and handed to a step.",
    ),
    Metric(
        "streamproc_consumed_bytes_total",
        "counter",
        ("topic",),
        "bytes",
        "Bytes read: keys, values and headers, decompressed.",
        adhoc=True,
    ),
    Metric(
        "streamproc_consumer_position_offset",
        "gauge",
        ("topic", "partition"),
        "offset",
        "Offset of the next record to process.",
    ),
    Metric(
        "streamproc_consumer_committed_offset",
        "gauge",
        ("topic", "partition"),
        "offset",
        "Offset of the last commit: the next record to process after a crash.",
        adhoc=True,
        kafka=True,
    ),
    Metric(
        "streamproc_consumer_end_offset",
        "gauge",
        ("topic", "partition"),
        "offset",
        "End of the log, asked for apart from reading, so that a stuck reader cannot hide its lag.",
        kafka=True,
    ),
    Metric(
        "streamproc_consumer_lag_records",
        "gauge",
        ("topic", "partition"),
        "records",
        "End of the log less the position.",
        kafka=True,
    ),
    Metric(
        "streamproc_consumer_lag_seconds",
        "gauge",
        ("topic", "partition"),
        "seconds",
        "Age of the next record to process by the timestamp of the broker, 0 when there is none.",
        kafka=True,
    ),
    Metric(
        "streamproc_partition_paused",
        "gauge",
        ("topic", "partition"),
        "1",
        "1 while a partition is not read on purpose: back-pressure, restore or alignment.",
        kafka=True,
    ),
    Metric(
        "streamproc_stalled_partitions",
        "gauge",
        (),
        "1",
        "Partitions that are owned, have records, are not paused and have not moved for long.",
        kafka=True,
    ),
    Metric(
        "streamproc_topic_partitions",
        "gauge",
        ("topic",),
        "1",
        "Partitions that exist.",
    ),
    Metric(
        "streamproc_assigned_partitions",
        "gauge",
        ("topic",),
        "1",
        "Partitions that this worker owns.",
    ),
    # time
    Metric(
        "streamproc_watermark_timestamp_seconds",
        "gauge",
        ("node",),
        "seconds",
        "Event time that a node has reached, least of its tasks; -Inf at first, +Inf at the end of input.",
    ),
    Metric(
        "streamproc_partition_watermark_timestamp_seconds",
        "gauge",
        ("topic", "partition"),
        "seconds",
        "Event time that a partition has reached; the smallest one holds the others back.",
    ),
    Metric(
        "streamproc_partition_idle",
        "gauge",
        ("topic", "partition"),
        "1",
        "1 while a partition is silent and left out of watermarks.",
        kafka=True,
    ),
    Metric(
        "streamproc_future_records_total",
        "counter",
        ("topic",),
        "records",
        "Records refused because their time was too far ahead of the clock.",
    ),
    # nodes
    Metric(
        "streamproc_records_in_total",
        "counter",
        ("node",),
        "records",
        "Records that entered a node.",
    ),
    Metric(
        "streamproc_records_out_total",
        "counter",
        ("node",),
        "records",
        "Records that a node returned.",
    ),
    Metric(
        "streamproc_record_errors_total",
        "counter",
        ("node", "reason", "action"),
        "records",
        "Records that failed for good, with the reason and what was done with them.",
    ),
    Metric(
        "streamproc_retries_total",
        "counter",
        ("node",),
        "1",
        "Attempts that failed and were repeated.",
    ),
    Metric(
        "streamproc_records_dropped_total",
        "counter",
        ("node", "reason", "action"),
        "records",
        "Records that a node refused without an error, with the reason and what was done with them.",
    ),
    Metric(
        "streamproc_dlq_records_total",
        "counter",
        ("topic",),
        "records",
        "Records written to a dead-letter topic.",
    ),
    # windows
    Metric(
        "streamproc_windows_open",
        "gauge",
        ("node",),
        "1",
        "Windows, one per key and window, that have not been closed.",
    ),
    Metric(
        "streamproc_windows_emitted_total",
        "counter",
        ("node", "kind"),
        "1",
        "Window results by kind.",
    ),
    Metric(
        "streamproc_late_records_total",
        "counter",
        ("node", "action"),
        "records",
        "Records refused as late by all their windows, once per record.",
    ),
    Metric(
        "streamproc_window_refusals_total",
        "counter",
        ("node",),
        "1",
        "Pairs of a record and a window that was closed to it; other windows may have taken the record.",
        adhoc=True,
    ),
    # state
    Metric(
        "streamproc_state_entries",
        "gauge",
        ("store",),
        "1",
        "Entries that a store holds.",
    ),
    Metric(
        "streamproc_changelog_bytes_total",
        "counter",
        ("stage",),
        "bytes",
        "Bytes committed to the changelog of a stage.",
        kafka=True,
    ),
    Metric(
        "streamproc_restore_remaining_records",
        "gauge",
        ("stage",),
        "records",
        "Records of the changelog that are still to be read, 0 when all is restored.",
        kafka=True,
    ),
    Metric(
        "streamproc_restore_records_total",
        "counter",
        ("stage",),
        "records",
        "Records read from the changelog.",
        kafka=True,
    ),
    Metric(
        "streamproc_restore_duration_seconds",
        "histogram",
        (),
        "seconds",
        "Time from the assignment of a task until it has its state.",
        SLOW,
        kafka=True,
    ),
    # output and commit
    Metric(
        "streamproc_produced_records_total",
        "counter",
        ("topic",),
        "records",
        "Records written and committed.",
    ),
    Metric(
        "streamproc_produced_bytes_total",
        "counter",
        ("topic",),
        "bytes",
        "Bytes written and committed: keys, values and headers, before compression.",
        adhoc=True,
    ),
    Metric(
        "streamproc_event_delay_seconds",
        "histogram",
        ("topic",),
        "seconds",
        "Time from the instant of an event to the timestamp of its record, where events bear their own; of a sample.",
        LAT,
        kafka=True,
    ),
    Metric(
        "streamproc_end_to_end_latency_seconds",
        "histogram",
        ("topic",),
        "seconds",
        "Time from the instant that a result bears to the commit that made it readable.",
        LAT,
    ),
    Metric(
        "streamproc_commits_total",
        "counter",
        ("outcome",),
        "1",
        "Commits of outputs, state and positions, by outcome.",
    ),
    Metric(
        "streamproc_commit_duration_seconds",
        "histogram",
        (),
        "seconds",
        "Time from flushing to the acknowledged commit.",
        WORK,
    ),
    Metric(
        "streamproc_commit_last_success_timestamp_seconds",
        "gauge",
        (),
        "seconds",
        "Wall time of the last acknowledged commit, 0 before the first.",
    ),
    # group and client
    Metric(
        "streamproc_rebalances_total",
        "counter",
        ("kind",),
        "1",
        "Rebalances this worker took part in, by what became of its partitions.",
        kafka=True,
    ),
    Metric(
        "streamproc_rebalance_duration_seconds",
        "histogram",
        (),
        "seconds",
        "Time from when work is first held back until the first fetch afterwards.",
        SLOW,
        kafka=True,
    ),
    Metric(
        "streamproc_broker_reachable",
        "gauge",
        (),
        "1",
        "1 while brokers answer, 0 while they do not.",
        kafka=True,
    ),
    Metric(
        "streamproc_broker_request_duration_seconds",
        "histogram",
        ("api",),
        "seconds",
        "Time from a request to its answer by API; a fetch waits at the broker where there is nothing to read.",
        WORK,
        kafka=True,
    ),
    Metric(
        "streamproc_client_errors_total",
        "counter",
        ("kind",),
        "1",
        "Requests and connections that failed, by kind.",
        kafka=True,
    ),
)

VALUES: dict[tuple[str, str], tuple[str, ...]] = {
    ("streamproc_worker_state", "state"): STATES,
    ("streamproc_log_messages_total", "level"): LEVELS,
    ("streamproc_windows_emitted_total", "kind"): EMISSIONS,
    ("streamproc_late_records_total", "action"): LATE_ACTIONS,
    ("streamproc_record_errors_total", "reason"): ERROR_REASONS,
    ("streamproc_record_errors_total", "action"): ("dead_letter", "skip", "fail"),
    ("streamproc_records_dropped_total", "reason"): DROP_REASONS,
    ("streamproc_records_dropped_total", "action"): ("dead_letter", "skip", "fail"),
    ("streamproc_blocked_seconds_total", "reason"): WAITING,
    ("streamproc_commits_total", "outcome"): OUTCOMES,
    ("streamproc_rebalances_total", "kind"): OWNERSHIPS,
    ("streamproc_broker_request_duration_seconds", "api"): APIS,
    ("streamproc_client_errors_total", "kind"): FAILURES,
}
"""All values of the labels that are closed lists, by metric and label."""
