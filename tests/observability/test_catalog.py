"""The catalogue obeys the naming rules, and the page about it is up to date."""

import itertools
import re
from pathlib import Path

import pytest

from streamproc.metrics.catalog import CATALOG, VALUES, Metric
from streamproc.metrics.document import page

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
VAGUE = {"rate", "avg", "mean", "max", "min", "p50", "p95", "p99", "ms", "millis", "minutes", "age"}
UNBOUNDED = {"key", "user", "member", "host", "window", "error", "message", "offset", "worker", "topology"}


def faults(metric: Metric) -> list[str]:
    """What is wrong with a metric by the naming rules."""
    words = metric.name.split("_")
    stem = metric.name.removesuffix("_total")
    checks = {
        "a name is streamproc_ and small words": re.fullmatch(r"streamproc(_[a-z]+)+", metric.name) is not None,
        "counters, and only they, end in _total": (metric.kind == "counter") == metric.name.endswith("_total"),
        "seconds and bytes end the name": metric.unit not in ("seconds", "bytes", "ratio")
        or stem.endswith("_" + metric.unit),
        "records stand in the name": metric.unit != "records" or "record" in metric.name,
        "an offset ends the name": metric.unit != "offset" or stem.endswith("_offset"),
        "no unit that is not meant": metric.unit in ("seconds", "bytes", "ratio")
        or words[-1] not in ("seconds", "bytes", "ratio"),
        "an instant is a gauge of seconds": "timestamp" not in words
        or (metric.kind == "gauge" and metric.name.endswith("_timestamp_seconds")),
        "a constant is a gauge": words[-1] != "info" or metric.kind == "gauge",
        "queries are no names": not VAGUE & set(words),
        "labels are bounded by the plan": not UNBOUNDED & set(metric.labels),
        "labels differ": len(set(metric.labels)) == len(metric.labels),
        "a histogram has bounds, nothing else has": (metric.kind == "histogram") == bool(metric.buckets),
        "bounds rise": all(low < high for low, high in itertools.pairwise(metric.buckets)),
        "help is one sentence": re.fullmatch(r"[A-Z0-9][^.\n]*\.", metric.help) is not None,
    }
    return [rule for rule, kept in checks.items() if not kept]


@pytest.mark.parametrize("metric", CATALOG, ids=lambda metric: metric.name)
def test_every_metric_obeys_the_naming_rules(metric: Metric) -> None:
    """Names, units, labels, bounds and help of every metric follow the rules."""
    assert faults(metric) == []


@pytest.mark.parametrize(
    "metric",
    [
        Metric("streamproc_reads", "counter", (), "1", "Reads."),
        Metric("streamproc_wait_ms_total", "counter", (), "seconds", "Waits."),
        Metric("streamproc_lag_seconds", "gauge", ("user",), "seconds", "Lag."),
        Metric("streamproc_step_seconds", "histogram", (), "seconds", "Steps."),
        Metric("streamproc_open", "gauge", (), "1", "no sentence"),
    ],
    ids=lambda metric: metric.name,
)
def test_the_rules_catch_a_bad_metric(metric: Metric) -> None:
    """Each planted bad metric breaks a rule."""
    assert faults(metric) != []


def test_names_are_unique() -> None:
    """No two metrics bear one name."""
    names = [metric.name for metric in CATALOG]
    assert sorted(set(names)) == sorted(names)


def test_closed_lists_belong_to_a_metric() -> None:
    """Every closed list of values is that of a label in the catalogue."""
    labels = {(metric.name, label) for metric in CATALOG for label in metric.labels}
    assert set(VALUES) <= labels


def test_the_page_is_up_to_date() -> None:
    """docs/metrics.md is what the catalogue says now."""
    assert PAGE.read_text(encoding="utf-8") == page()
