"""What a runner did, as Prometheus sees it."""

import itertools
import math
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from streamproc.adapters.prometheus import PrometheusObserver, Worker
from streamproc.core.batch import END, START, Emit, Step
from streamproc.metrics.catalog import CATALOG, STATES, Metric
from streamproc.ports import Commit, Observer
from tests.observability.plans import PLAN, busy_step, full_commit, letter


def watched(**other: Any) -> PrometheusObserver:
    """An observer of the small plan with clocks that stand still."""
    observer = PrometheusObserver("orders", CollectorRegistry(), Worker(**other), clock=lambda: 1234.5, cpu=lambda: 6.5)
    observer.planned(PLAN)
    return observer


def catalogue(*, kafka: bool) -> list[Metric]:
    """What is exported with Kafka, or without."""
    return [metric for metric in CATALOG if kafka or not metric.kafka]


def scrape(observer: PrometheusObserver) -> dict[str, dict[tuple[str, ...], float]]:
    """Every sample by name and label values, without the topology, in the order of the labels' names."""
    samples: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(observer.registry).decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("topology") == "orders"
            values = tuple(value for _, value in sorted(labels.items()))
            samples.setdefault(sample.name, {})[values] = sample.value
    return samples


def test_the_observer_is_one() -> None:
    """The class satisfies the protocol of observers."""
    observer: Observer = watched()
    assert observer is not None


def test_every_metric_stands_at_its_beginning_once_the_plan_is_known() -> None:
    """All series that the plan makes possible exist before the first record, at zero or at -Inf."""
    got = scrape(watched())
    once = {
        "streamproc_build_info",
        "streamproc_topology_info",
        "streamproc_worker_state",
        "streamproc_cpu_seconds_total",
        "streamproc_topic_partitions",
        "streamproc_assigned_partitions",
    }
    unknown = {"streamproc_watermark_timestamp_seconds", "streamproc_partition_watermark_timestamp_seconds"}
    for metric in catalogue(kafka=False):
        if metric.kind == "histogram":
            assert set(got[metric.name + "_bucket"].values()) == {0.0}
        elif metric.name not in once:
            expected = -math.inf if metric.name in unknown else 0.0
            assert set(got[metric.name].values()) == {expected}, metric.name
        assert metric.kind == "histogram" or metric.name in got


def test_the_label_combinations_are_those_of_the_plan() -> None:
    """Errors and drops are split by the reasons and actions possible at their node, and by no other."""
    got = scrape(watched())
    assert set(got["streamproc_record_errors_total"]) == {
        ("dead_letter", "source_clicks", "deserialization_error"),
        ("dead_letter", "per_user", "processing_error"),
        ("fail", "to_totals", "serialization_error"),
    }
    assert set(got["streamproc_records_dropped_total"]) == {("skip", "per_user", "null_key")}
    assert set(got["streamproc_late_records_total"]) == {
        ("late_stream", "per_user"),
        ("dead_letter", "per_user"),
        ("skip", "per_user"),
    }
    assert set(got["streamproc_consumer_position_offset"]) == {("0", "clicks"), ("1", "clicks")}
    assert set(got["streamproc_produced_records_total"]) == {("totals",), ("poison",)}
    assert got["streamproc_topic_partitions"] == {("clicks",): 2.0}


def test_labels_are_those_of_the_catalogue() -> None:
    """Each metric bears the labels that the catalogue gives it, and the topology."""
    observer = watched()
    labels: dict[str, set[str]] = {}
    for family in observer.registry.collect():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for metric in catalogue(kafka=False):
        name = metric.name + "_count" if metric.kind == "histogram" else metric.name
        assert labels[name] == {"topology", *metric.labels}


def test_nothing_is_exported_that_the_catalogue_does_not_know() -> None:
    """The names in a registry of the observer's own are those of the catalogue, without `_created`."""
    parts = ("_bucket", "_sum", "_count")
    known = {
        metric.name + part
        for metric in catalogue(kafka=False)
        for part in (parts if metric.kind == "histogram" else ("",))
    }
    assert set(scrape(watched())) == known


def test_a_step_is_counted_per_node() -> None:
    """What a step counts arrives under its node, reason and action."""
    observer = watched()
    observer.stepped("clicks-0", busy_step(), 10, 0.003)
    observer.stepped("clicks-0", busy_step(), 10, 0.003)
    got = scrape(observer)
    assert got["streamproc_records_in_total"] == {
        ("source_clicks",): 20,
        ("per_user",): 16,
        ("to_totals",): 0,
    }
    assert got["streamproc_records_out_total"] == {
        ("source_clicks",): 16,
        ("per_user",): 4,
        ("to_totals",): 0,
    }
    assert got["streamproc_windows_open"] == {("per_user",): 6}
    assert got["streamproc_windows_emitted_total"] == {("final", "per_user"): 4, ("update", "per_user"): 8}
    assert got["streamproc_late_records_total"]["skip", "per_user"] == 6
    assert got["streamproc_window_refusals_total"] == {("per_user",): 12}
    assert got["streamproc_records_dropped_total"] == {("skip", "per_user", "null_key"): 2}
    assert got["streamproc_record_errors_total"]["dead_letter", "source_clicks", "deserialization_error"] == 4
    assert got["streamproc_retries_total"]["per_user",] == 2
    assert got["streamproc_step_duration_seconds_count"] == {(): 2}
    assert got["streamproc_step_batch_records_sum"] == {(): 20}


def test_a_record_from_the_future_is_counted_under_its_topic() -> None:
    """A refused future timestamp is no error of a node but a fact about a topic."""
    observer = watched()
    observer.stepped("clicks-0", busy_step(), 10, 0.003)
    got = scrape(observer)
    assert got["streamproc_future_records_total"] == {("clicks",): 1}
    assert all("future_timestamp" not in labels for labels in got["streamproc_record_errors_total"])


def test_reading_counts_and_moves_the_position() -> None:
    """Records and bytes add up per topic; the position is the last one told."""
    observer = watched()
    observer.read("clicks", 1, 10, 300, 10)
    observer.read("clicks", 1, 5, 200, 15)
    got = scrape(observer)
    assert got["streamproc_consumed_records_total"] == {("clicks",): 15}
    assert got["streamproc_consumed_bytes_total"] == {("clicks",): 500}
    assert got["streamproc_consumer_position_offset"] == {("0", "clicks"): 0, ("1", "clicks"): 15}


def test_a_commit_counts_what_it_made_durable() -> None:
    """Rows, bytes of keys, values and headers, dead letters, the outcome and the instant."""
    observer = watched()
    observer.committed(full_commit(), [letter(), letter()], 0.02)
    got = scrape(observer)
    assert got["streamproc_produced_records_total"] == {("totals",): 2, ("poison",): 0}
    assert got["streamproc_produced_bytes_total"] == {("totals",): 14, ("poison",): 0}
    assert got["streamproc_dlq_records_total"] == {("poison",): 2}
    assert got["streamproc_commits_total"]["ok",] == 1
    assert got["streamproc_commit_duration_seconds_sum"] == {(): 0.02}
    assert got["streamproc_commit_last_success_timestamp_seconds"] == {(): 1234.5}


def test_the_watermark_of_a_node_is_the_least_of_its_tasks() -> None:
    """A task that is behind holds the node's watermark, and lets it go when it is ended."""
    observer = watched()

    def seen(task: str, watermark: int) -> float:
        observer.stepped(task, Step(watermarks={"per_user": watermark}), 1, 0.001)
        return scrape(observer)["streamproc_watermark_timestamp_seconds"]["per_user",]

    told = [("a", 3000), ("b", 1500), ("a", 4000), ("b", END), ("a", END), ("c", START)]
    assert [seen(task, watermark) for task, watermark in told] == [3.0, 1.5, 1.5, 4.0, math.inf, -math.inf]


def test_the_watermark_of_a_partition_is_in_seconds() -> None:
    """Milliseconds become seconds, and no watermark yet is -Inf."""
    observer = watched()
    observer.progressed({("clicks", 0): 1500, ("clicks", 1): START}, ("clicks", 1))
    got = scrape(observer)["streamproc_partition_watermark_timestamp_seconds"]
    assert got == {("0", "clicks"): 1.5, ("1", "clicks"): -math.inf}


def test_counting_anew_corrects_what_steps_added_up_to() -> None:
    """After a restore the open windows are those of the state, over all tasks; steps go on from there."""
    observer = watched()
    observer.counted("clicks-0", {"per_user": 10}, {"per_user": 30})
    observer.counted("clicks-1", {"per_user": 1}, {"per_user": 3})
    observer.stepped("clicks-0", busy_step(), 10, 0.003)
    assert scrape(observer)["streamproc_windows_open"] == {("per_user",): 14}
    observer.counted("clicks-0", {"per_user": 12}, {"per_user": 20})
    got = scrape(observer)
    assert got["streamproc_windows_open"] == {("per_user",): 13}
    assert got["streamproc_state_entries"] == {("per_user",): 23}


def test_exactly_one_state_is_set() -> None:
    """A worker is starting until it says otherwise, and is in one state at a time."""
    observer = watched()
    seen = []
    for name in ("starting", "restoring", "running", "draining", "stopped", "failed"):
        observer.state(name)
        got = scrape(observer)["streamproc_worker_state"]
        assert set(got) == {(state,) for state in STATES}
        seen.append([state for (state,), value in got.items() if value])
    assert seen == [["starting"], ["restoring"], ["running"], ["draining"], ["stopped"], ["failed"]]


def test_what_runs_is_in_the_infos() -> None:
    """Client, revision, plan, guarantee, backend and mode are labels of constants."""
    got = scrape(watched(client="embedded", revision="abc", guarantee="exactly_once", backend="memory"))
    ((client, _, revision, _),) = got["streamproc_build_info"]
    assert (client, revision) == ("embedded", "abc")
    assert got["streamproc_topology_info"] == {("memory", "exactly_once", "live", "c0ffee"): 1}
    assert got["streamproc_cpu_seconds_total"] == {(): 6.5}


def test_log_lines_are_counted_by_level() -> None:
    """Each line adds one to its level."""
    observer = watched()
    observer.logged("warning")
    got = scrape(observer)["streamproc_log_messages_total"]
    assert got == {("debug",): 0, ("info",): 0, ("warning",): 1, ("error",): 0, ("critical",): 0}


def test_the_hot_path_looks_no_label_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the plan is known, reading, stepping, committing and progressing use children that are bound."""
    observer = watched()
    looked_up: list[tuple[Any, ...]] = []
    labels = MetricWrapperBase.labels

    def counting(family: Any, *values: Any, **named: Any) -> Any:
        looked_up.append(values)
        return labels(family, *values, **named)

    monkeypatch.setattr(MetricWrapperBase, "labels", counting)
    for partition, offset in itertools.product((0, 1), (10, 20)):
        observer.read("clicks", partition, 10, 100, offset)
        observer.stepped(f"clicks-{partition}", busy_step(), 10, 0.001)
        observer.committed(full_commit(), [letter()], 0.001)
        observer.progressed({("clicks", partition): offset}, None)
        observer.counted(f"clicks-{partition}", {"per_user": 3}, {"per_user": 3})
        observer.logged("info")
        observer.state("running")
    assert looked_up == []


def test_what_the_plan_did_not_foresee_is_counted_all_the_same() -> None:
    """A topic chosen by a record gets its series with its first record."""
    observer = watched()
    observer.committed(Commit(emits={("late-comer", 0): [Emit(None, None, 0, (), None)]}), [], 0.1)
    got = scrape(observer)
    assert got["streamproc_produced_records_total"]["late-comer",] == 1
    assert got["streamproc_produced_bytes_total"]["late-comer",] == 0


def test_a_registry_of_its_own_has_the_metrics_of_the_process() -> None:
    """Without a registry given, the observer makes one with the client's own collectors in it."""
    names = {family.name for family in PrometheusObserver("orders").registry.collect()}
    assert {"python_info", "python_gc_collections", "streamproc_worker_state"} <= names


def test_two_workers_share_nothing() -> None:
    """What one observer counts does not appear in the other's registry."""
    one, other = watched(), watched()
    one.read("clicks", 0, 1, 1, 1)
    assert scrape(one)["streamproc_consumed_records_total"] == {("clicks",): 1}
    assert scrape(other)["streamproc_consumed_records_total"] == {("clicks",): 0}
