"""What happens to a worker on Kafka, as Prometheus sees it."""

import math
from typing import Any

from prometheus_client import CollectorRegistry

from streamproc.adapters.kafka.connections import APIS as KAFKAS_APIS
from streamproc.adapters.prometheus import PrometheusObserver, Worker
from streamproc.core.batch import Emit, Step
from streamproc.metrics.catalog import APIS, CATALOG, VALUES
from streamproc.ports import Commit
from streamproc.ports.worker import (
    Changelog,
    Delays,
    Failure,
    Ownership,
    Reachability,
    Rebalanced,
    Restored,
    Restoring,
    Standing,
    Uncommitted,
)
from tests.observability.plans import PLAN, Inlet, Node, Plan, Stage
from tests.observability.test_prometheus import scrape

NOW = 1_000.0
BUSY = Standing(10, 30, 2.5, committed=8)


def member(**other: Any) -> PrometheusObserver:
    """The observer of a worker on Kafka, its plan known and nothing owned yet."""
    worker = Worker(client="aiokafka", backend="changelog", kafka=True, **other)
    observer = PrometheusObserver("orders", CollectorRegistry(), worker, clock=lambda: NOW, cpu=lambda: 6.5)
    observer.planned(PLAN)
    return observer


def own(observer: PrometheusObserver, *numbers: int, how: Any = "assigned", tasks: Any = ()) -> None:
    """From now on these partitions of clicks are owned."""
    observer.happened(Ownership(how, tasks, {"clicks": numbers}))


def test_nothing_is_owned_before_the_group_says_so() -> None:
    """All counters stand at zero; what is of a partition or a task has no series yet, as nothing is known of it."""
    got = scrape(member())
    later = {metric.name for metric in CATALOG if "partition" in metric.labels}
    later.add("streamproc_watermark_timestamp_seconds")
    exported = {metric.name for metric in CATALOG if metric.kind != "histogram"} - later
    assert exported <= set(got)
    assert not later & set(got)
    assert got["streamproc_assigned_partitions"] == {("clicks",): 0}
    assert got["streamproc_topic_partitions"] == {("clicks",): 2}
    assert got["streamproc_restore_remaining_records"] == {("clicks",): 0}
    for (name, label), values in VALUES.items():
        metric = next(metric for metric in CATALOG if metric.name == name)
        if metric.labels == (label,):
            series = f"{name}_count" if metric.kind == "histogram" else name
            assert set(got[series]) == {(value,) for value in values}, name


def test_topics_between_stages_are_read_too() -> None:
    """A repartition topic is owned and read like any other, but its records cannot come from the future."""
    first = Stage((Node("source_clicks"),), (Inlet("clicks", 0),))
    second = Stage((Node("landing"),), (Inlet("orders-landing-repartition", 0),), "landing", 3)
    observer = PrometheusObserver("orders", CollectorRegistry(), Worker(kafka=True))
    observer.planned(Plan((first, second)))
    observer.happened(Ownership("assigned", ["landing/1"], {"orders-landing-repartition": [1]}))
    got = scrape(observer)
    assert got["streamproc_assigned_partitions"] == {("clicks",): 0, ("orders-landing-repartition",): 1}
    assert got["streamproc_topic_partitions"] == {("clicks",): 2, ("orders-landing-repartition",): 3}
    assert set(got["streamproc_future_records_total"]) == {("clicks",)}


def test_a_partition_has_series_while_it_is_owned() -> None:
    """They come with what is first known of it, and go with it; what is told of it afterwards brings none back."""
    observer = member()
    own(observer, 0, 1)
    observer.lagged({("clicks", 0): BUSY, ("clicks", 1): BUSY._replace(paused=True, end=None, committed=None)})
    observer.progressed({("clicks", 0): 1500, ("clicks", 1): 2500}, ("clicks", 0))
    got = scrape(observer)
    assert got["streamproc_consumer_position_offset"] == {("0", "clicks"): 10, ("1", "clicks"): 10}
    assert got["streamproc_consumer_end_offset"] == {("0", "clicks"): 30}
    assert got["streamproc_consumer_committed_offset"] == {("0", "clicks"): 8}
    assert got["streamproc_consumer_lag_records"] == {("0", "clicks"): 20, ("1", "clicks"): 0}
    assert got["streamproc_consumer_lag_seconds"] == {("0", "clicks"): 2.5, ("1", "clicks"): 2.5}
    assert got["streamproc_partition_paused"] == {("0", "clicks"): 0, ("1", "clicks"): 1}
    assert got["streamproc_partition_idle"] == {("0", "clicks"): 0, ("1", "clicks"): 0}
    own(observer, 1, how="revoked", tasks=["clicks/0"])
    observer.lagged({("clicks", 0): BUSY, ("clicks", 1): BUSY})
    observer.read("clicks", 0, 5, 50, 15)
    observer.progressed({("clicks", 0): 3500}, ("clicks", 0))
    got = scrape(observer)
    for metric in CATALOG:
        if "partition" in metric.labels:
            assert set(got[metric.name]) == {("1", "clicks")}, metric.name
    own(observer, how="lost", tasks=["clicks/1"])
    assert not {metric.name for metric in CATALOG if "partition" in metric.labels} & set(scrape(observer))


def test_partitions_can_be_folded_into_one_series_a_topic() -> None:
    """Greatest lag in seconds, least watermark, sums of records, paused and idle; no offsets; gone with the topic."""
    observer = member(per_partition=False)
    own(observer, 0, 1)
    observer.read("clicks", 0, 5, 50, 15)
    observer.lagged({("clicks", 0): BUSY, ("clicks", 1): Standing(5, 6, 9.5, paused=True, idle=True)})
    observer.progressed({("clicks", 0): 1500}, None)
    observer.progressed({("clicks", 1): 500}, None)
    got = scrape(observer)
    assert {name: values for name, values in got.items() if ("all", "clicks") in values} == {
        "streamproc_consumer_lag_records": {("all", "clicks"): 21},
        "streamproc_consumer_lag_seconds": {("all", "clicks"): 9.5},
        "streamproc_partition_paused": {("all", "clicks"): 1},
        "streamproc_partition_idle": {("all", "clicks"): 1},
        "streamproc_partition_watermark_timestamp_seconds": {("all", "clicks"): 0.5},
    }
    assert "streamproc_consumer_position_offset" not in got
    own(observer, 0, how="revoked", tasks=["clicks/1"])
    observer.progressed({("clicks", 0): 1500}, None)
    got = scrape(observer)
    assert got["streamproc_partition_watermark_timestamp_seconds"] == {("all", "clicks"): 1.5}
    own(observer, how="revoked", tasks=["clicks/0"])
    assert "streamproc_consumer_lag_records" not in scrape(observer)


def test_a_task_that_goes_takes_along_what_it_added_to_sums() -> None:
    """Open windows, entries and watermarks of a node are those of the tasks that are owned now."""
    observer = member()
    own(observer, 0, 1)
    for task, watermark in (("clicks/0", 1000), ("clicks/1", 2000)):
        observer.counted(task, {"per_user": 10}, {"per_user": 30})
        observer.stepped(task, Step(watermarks={"per_user": watermark}), 1, 0.001)
    assert scrape(observer)["streamproc_watermark_timestamp_seconds"] == {("per_user",): 1.0}
    own(observer, 1, how="revoked", tasks=["clicks/0"])
    got = scrape(observer)
    assert got["streamproc_windows_open"] == {("per_user",): 10}
    assert got["streamproc_state_entries"] == {("per_user",): 30}
    assert got["streamproc_watermark_timestamp_seconds"] == {("per_user",): 2.0}
    own(observer, how="lost", tasks=["clicks/1"])
    got = scrape(observer)
    assert got["streamproc_windows_open"] == {("per_user",): 0}
    assert "streamproc_watermark_timestamp_seconds" not in got
    own(observer, 1, tasks=["clicks/1"])
    observer.counted("clicks/1", {"per_user": 4}, {"per_user": 5})
    assert scrape(observer)["streamproc_windows_open"] == {("per_user",): 4}


def test_rebalances_are_counted_by_what_became_of_the_partitions() -> None:
    """Each event is one, also one that moves nothing; how long the group took is a histogram."""
    observer = member()
    own(observer, 0, 1, tasks=["clicks/0"])
    own(observer, 0, 1)
    own(observer, how="lost", tasks=["clicks/0"])
    observer.happened(Rebalanced(3.5))
    got = scrape(observer)
    assert got["streamproc_rebalances_total"] == {("assigned",): 2, ("revoked",): 0, ("lost",): 1}
    assert got["streamproc_rebalance_duration_seconds_sum"] == {(): 3.5}
    assert got["streamproc_assigned_partitions"] == {("clicks",): 0}


def test_what_is_left_to_restore_is_a_sum_over_the_tasks_of_a_stage() -> None:
    """It falls as records are read, to nothing when all tasks are restored, also when one goes half-way."""
    observer = member()
    left = []
    for event in (
        Restoring("clicks/0", 0, 100),
        Restoring("clicks/1", 0, 50),
        Restoring("clicks/0", 60, 40),
        Restored("clicks/0", 100, 12.0),
        Ownership("revoked", ["clicks/0", "clicks/1"], {}),
    ):
        observer.happened(event)
        left.append(scrape(observer)["streamproc_restore_remaining_records"]["clicks",])
    got = scrape(observer)
    assert left == [100, 150, 90, 50, 0]
    assert got["streamproc_restore_records_total"] == {("clicks",): 60}
    assert got["streamproc_restore_duration_seconds_sum"] == {(): 12.0}


def test_every_commit_has_an_outcome() -> None:
    """Those that succeeded are told as commits, all others as what became of them."""
    observer = member()
    observer.committed(Commit(), [], 0.1)
    for outcome in ("aborted", "fenced", "unknown", "failed"):
        observer.happened(Uncommitted("clicks/0", outcome, 0.2))  # type: ignore[arg-type]
    got = scrape(observer)
    assert got["streamproc_commits_total"] == {
        ("ok",): 1,
        ("aborted",): 1,
        ("fenced",): 1,
        ("unknown",): 1,
        ("failed",): 1,
    }
    assert got["streamproc_commit_duration_seconds_count"] == {(): 1}


def test_brokers_and_what_failed_at_them() -> None:
    """Reachable is 0 until it is known; each failure counts under its kind; changelog bytes under their stage."""
    observer = member()
    assert scrape(observer)["streamproc_broker_reachable"] == {(): 0}
    observer.happened(Reachability(reachable=True))
    observer.happened(Failure("timeout"))
    observer.happened(Changelog("clicks/0", 2, 70))
    observer.happened(Changelog("clicks/1", 2, 30))
    got = scrape(observer)
    assert got["streamproc_broker_reachable"] == {(): 1}
    assert got["streamproc_client_errors_total"]["timeout",] == 1
    assert got["streamproc_changelog_bytes_total"] == {("clicks",): 100}


def test_the_loops_show_that_they_turn() -> None:
    """A pass sets its instant and adds what it waited for; a tick adds its delay; what is stalled is counted."""
    observer = member()
    own(observer, 0, 1)
    observer.polled({"fetch": 0.5, "commit": 0.25})
    observer.polled({})
    observer.ticked(0.03)
    observer.lagged({("clicks", 0): BUSY._replace(stalled=True), ("clicks", 1): BUSY})
    got = scrape(observer)
    assert got["streamproc_poll_last_timestamp_seconds"] == {(): NOW}
    assert got["streamproc_blocked_seconds_total"] == {
        ("fetch",): 0.5,
        ("commit",): 0.25,
        ("restore",): 0,
        ("throttle",): 0,
    }
    assert got["streamproc_event_loop_lag_seconds_sum"] == {(): 0.03}
    assert got["streamproc_stalled_partitions"] == {(): 1}


def test_the_latency_of_results_is_counted_a_commit_at_a_time() -> None:
    """Each bound counts what is no older, as if observed one by one; what is ahead of the clock has no latency."""
    observer = member()
    ats = [999_995, 999_990, 999_000, 1_000_500, 100_000, -(2**62)]
    rows = [Emit(None, b"x", at, (), None) for at in ats]
    observer.committed(Commit(emits={("totals", 0): rows[:3], ("totals", 1): rows[3:]}), [], 0.1)
    observer.committed(Commit(emits={("poison", 0): rows, ("clicks", 0): rows}), [], 0.1)
    got = scrape(observer)
    buckets = {bound: count for (bound, _), count in got["streamproc_end_to_end_latency_seconds_bucket"].items()}
    assert (buckets["0.005"], buckets["0.01"], buckets["0.5"], buckets["1.0"]) == (2, 3, 3, 4)
    assert (buckets["30.0"], buckets["900.0"], buckets["+Inf"]) == (4, 5, 6)
    assert got["streamproc_end_to_end_latency_seconds_count"] == {("totals",): 6}
    late = 0.005 + 0.01 + 1.0 + 900.0 + (NOW + 2**62 / 1000)
    assert math.isclose(got["streamproc_end_to_end_latency_seconds_sum"]["totals",], late)


def test_by_how_much_records_come_after_their_events() -> None:
    """Delays are counted a batch at a time; an event that is ahead of its record has none."""
    observer = member()
    observer.happened(Delays("clicks", [5, 400, -1000, 20_000]))
    got = scrape(observer)
    buckets = {bound: count for (bound, _), count in got["streamproc_event_delay_seconds_bucket"].items()}
    assert (buckets["0.005"], buckets["0.5"], buckets["10.0"], buckets["+Inf"]) == (2, 3, 3, 4)
    assert math.isclose(got["streamproc_event_delay_seconds_sum"]["clicks",], 20.405)


def test_answers_of_brokers_are_timed_by_api() -> None:
    """Every API that a worker uses is there from the beginning."""
    assert set(APIS) == set(KAFKAS_APIS.values())
    observer = member()
    observer.answered("fetch", 0.2)
    observer.answered("fetch", 0.1)
    got = scrape(observer)
    counts = got["streamproc_broker_request_duration_seconds_count"]
    assert counts == {(api,): 2 * (api == "fetch") for api in APIS}


def test_late_records_are_no_results() -> None:
    """A topic of late records has no latency: they would make every result look late."""
    node = Node("per_user", windowed=True, late="late-clicks")
    observer = PrometheusObserver("orders", CollectorRegistry(), Worker(kafka=True))
    observer.planned(Plan((Stage((node,), (Inlet("clicks", 0),)),), sinks=("late-clicks", "totals")))
    observer.committed(Commit(emits={("late-clicks", 0): [Emit(None, b"x", 0, (), None)]}), [], 0.1)
    got = scrape(observer)
    assert got["streamproc_end_to_end_latency_seconds_count"] == {("totals",): 0}
    assert got["streamproc_produced_records_total"]["late-clicks",] == 1


def test_a_large_worker_stays_below_two_thousand_series() -> None:
    """Twenty nodes, 64 partitions of four topics and six outputs are fewer, folded far fewer."""
    nodes = tuple(
        Node(f"node_{n}", windowed=n < 4, stateful=n < 6, reasons={"processing_error": "skip"}) for n in range(20)
    )
    stages = tuple(Stage(nodes[5 * n : 5 * n + 5], (Inlet(f"topic-{n}", 0),), f"stage_{n}", 16) for n in range(4))
    plan = Plan(stages, sources=("topic-0", "topic-1"), sinks=tuple(f"out-{n}" for n in range(6)), partitions=16)
    counts = []
    for per_partition in (True, False):
        observer = PrometheusObserver(
            "orders", CollectorRegistry(), Worker(kafka=True, per_partition=per_partition), cpu=lambda: 1.0
        )
        observer.planned(plan)
        places = {(f"topic-{n}", number): BUSY for n in range(4) for number in range(16)}
        observer.happened(Ownership("assigned", ["x/0"], {f"topic-{n}": range(16) for n in range(4)}))
        observer.lagged(places)
        observer.progressed(dict.fromkeys(places, 1000), None)
        for node in nodes:
            observer.stepped("x/0", Step(watermarks={node.name: 1}), 1, 0.1)
        counts.append(sum(map(len, scrape(observer).values())))
    assert 800 < counts[0] < 2000
    assert counts[1] < counts[0] - 400
