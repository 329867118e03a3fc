"""The four boards, as data, and as JSON for Grafana: `python deploy/dashboards.py` writes deploy/grafana/dashboards.

A board is a list of panels, a panel its queries in PromQL.  `S` in a query stands for the selection of the variables on
top of the board, `[R]` for the interval that fits scrapes and zoom.  The same boards give the same bytes.
"""

# ruff: noqa: INP001 - a program that is found by its path

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    gauge,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as models
from grafana_foundation_sdk.models import dashboard as settings
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).resolve().parent / "grafana" / "dashboards"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
SELECTION = 'job=~"$job",topology=~"$topology",instance=~"$instance"'
INTERVAL = "$__rate_interval"
WIDE, HALF, THIRD, QUARTER = 24, 12, 8, 6
TALL = 8

Look: TypeAlias = Literal["series", "stacked", "stat", "gauge", "bars", "table", "heatmap", "timeline"]


class Query(NamedTuple):
    """One expression, and how its series are named."""

    expr: str
    legend: str

    @property
    def text(self) -> str:
        """The expression as Grafana gets it."""
        return self.expr.replace("{S", "{" + SELECTION).replace("[R]", f"[{INTERVAL}]")


@dataclass(frozen=True, slots=True)
class Panel:
    """A title, what it tells, the unit of its values, and where they come from."""

    title: str
    text: str
    unit: str
    queries: tuple[Query, ...]
    look: Look = "series"
    span: int = HALF


@dataclass(frozen=True, slots=True)
class Board:
    """One page of panels, from left to right and from top to bottom."""

    name: str
    title: str
    panels: tuple[Panel, ...]

    @property
    def uid(self) -> str:
        """What links and the file are named by."""
        return f"streamproc-{self.name}"


def quantile(q: float, by: str, metric: str) -> str:
    """A quantile of a histogram."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{S}}[R])))"


E2E = "streamproc_end_to_end_latency_seconds"
WATERMARK = "streamproc_watermark_timestamp_seconds{S} > -Inf"

OVERVIEW = Board(
    "overview",
    "streamproc / overview",
    (
        Panel(
            "Freshness",
            "From the instant that a result bears to the commit that made it readable. High during any catch-up: read "
            "it beside the lag. A window's result bears the end of the window.",
            "s",
            tuple(
                Query(quantile(q, "topology", E2E), f"{{{{topology}}}} p{round(100 * q)}") for q in (0.5, 0.95, 0.99)
            ),
        ),
        Panel(
            "Lag, worst partition",
            "Age of the next record to be processed, by the broker's clock.",
            "s",
            (Query("max by (topology, topic) (streamproc_consumer_lag_seconds{S})", "{{topology}} {{topic}}"),),
        ),
        Panel(
            "Watermark age, worst node",
            "How far event time is behind the clock. It cannot be less than the disorder that the sources allow.",
            "s",
            (Query(f"time() - min by (topology) ({WATERMARK})", "{{topology}}"),),
            "stat",
            QUARTER,
        ),
        Panel(
            "Time to catch up",
            "At the present pace. Empty: nothing is caught up with.",
            "s",
            (
                Query(
                    "sum by (topology) (streamproc_consumer_lag_records{S})"
                    " / (sum by (topology) (rate(streamproc_consumed_records_total{S}[5m]))"
                    " - sum by (topology) (deriv(streamproc_consumer_end_offset{S}[5m])) > 0)",
                    "{{topology}}",
                ),
            ),
            "stat",
            QUARTER,
        ),
        Panel(
            "Error budget left, 30 days",
            "Of the one record in a thousand that may fail for good. Needs a retention of more than 30 days.",
            "percentunit",
            (
                Query(
                    '1 - sum_over_time(topology:streamproc_record_errors:rate5m{topology=~"$topology"}[30d])'
                    ' / (0.001 * sum_over_time(topology:streamproc_records_in:rate5m{topology=~"$topology"}[30d]))',
                    "{{topology}}",
                ),
            ),
            "gauge",
            QUARTER,
        ),
        Panel(
            "CPU-seconds per million records",
            "What a record costs, over an hour.",
            "s",
            (
                Query(
                    "1e6 * sum by (topology) (rate(streamproc_cpu_seconds_total{S}[1h]))"
                    " / sum by (topology) (rate(streamproc_consumed_records_total{S}[1h]))",
                    "{{topology}}",
                ),
            ),
            "stat",
            QUARTER,
        ),
        Panel(
            "Throughput",
            "Records read and handed to a step, and records written and committed.",
            "cps",
            (
                Query("sum by (topology) (rate(streamproc_consumed_records_total{S}[R]))", "{{topology}} in"),
                Query("sum by (topology) (rate(streamproc_produced_records_total{S}[R]))", "{{topology}} out"),
            ),
        ),
        Panel(
            "Errors and late records",
            "Shares of what is read: failed for good, and refused as late by all their windows.",
            "percentunit",
            (
                Query('topology:streamproc_errors:ratio5m{topology=~"$topology"}', "{{topology}} failed"),
                Query(
                    "sum by (topology) (rate(streamproc_late_records_total{S}[R]))"
                    " / sum by (topology) (rate(streamproc_consumed_records_total{S}[R]))",
                    "{{topology}} late",
                ),
            ),
        ),
        Panel(
            "Dead letters",
            "Records written to dead-letter topics.",
            "cps",
            (Query("sum by (topology, topic) (rate(streamproc_dlq_records_total{S}[R]))", "{{topology}} {{topic}}"),),
        ),
        Panel(
            "Workers by state",
            "How many workers are in each state.",
            "short",
            (Query("sum by (state) (streamproc_worker_state{S})", "{{state}}"),),
            "bars",
            QUARTER,
        ),
        Panel(
            "Firing alerts",
            "Each has a page in docs/runbooks.",
            "short",
            (Query('ALERTS{alertname=~"Streamproc.*",alertstate="firing"}', "{{alertname}}"),),
            "table",
            QUARTER,
        ),
    ),
)

TOPOLOGY = Board(
    "topology",
    "streamproc / topology",
    (
        Panel(
            "Records into nodes",
            "What entered each node.",
            "cps",
            (Query("sum by (node) (rate(streamproc_records_in_total{S}[R]))", "{{node}}"),),
        ),
        Panel(
            "Records out of nodes",
            "What each node returned.",
            "cps",
            (Query("sum by (node) (rate(streamproc_records_out_total{S}[R]))", "{{node}}"),),
        ),
        Panel(
            "What the poll loop waits for",
            "Share of its time, per worker. Waiting for fetch alone is an idle worker.",
            "percentunit",
            (
                Query(
                    "sum by (reason) (rate(streamproc_blocked_seconds_total{S}[R]))"
                    " / ignoring (reason) group_left count(streamproc_poll_last_timestamp_seconds{S})",
                    "{{reason}}",
                ),
            ),
            "stacked",
        ),
        Panel(
            "Watermark age of nodes",
            "How far the event time of each node is behind the clock.",
            "s",
            (Query(f"time() - min by (node) ({WATERMARK})", "{{node}}"),),
        ),
        Panel(
            "End-to-end latency",
            "From the instant that a result bears to its commit, in results a bucket.",
            "s",
            (Query(f"sum by (le) (increase({E2E}_bucket{{S}}[R]))", "{{le}}"),),
            "heatmap",
        ),
        Panel(
            "Step duration",
            "Time of one step over one batch, in steps a bucket.",
            "s",
            (Query("sum by (le) (increase(streamproc_step_duration_seconds_bucket{S}[R]))", "{{le}}"),),
            "heatmap",
        ),
        Panel(
            "Event delay",
            "By how much records came after their events: choose disorder and grace by it.",
            "s",
            tuple(
                Query(quantile(q, "topic", "streamproc_event_delay_seconds"), f"{{{{topic}}}} p{100 * q:g}")
                for q in (0.5, 0.999)
            ),
        ),
        Panel(
            "Errors, drops and retries",
            "Records that failed for good, records refused without an error, and attempts that were repeated.",
            "cps",
            (
                Query(
                    "sum by (node, reason, action) (rate(streamproc_record_errors_total{S}[R])) > 0",
                    "{{node}} {{reason}} {{action}}",
                ),
                Query(
                    "sum by (node, reason, action) (rate(streamproc_records_dropped_total{S}[R])) > 0",
                    "{{node}} {{reason}} {{action}}",
                ),
                Query("sum by (node) (rate(streamproc_retries_total{S}[R])) > 0", "{{node}} retries"),
            ),
        ),
        Panel(
            "Records from the future",
            "Refused because their time was too far ahead of the clock.",
            "cps",
            (Query("sum by (topic) (rate(streamproc_future_records_total{S}[R]))", "{{topic}}"),),
        ),
    ),
)

STATE = Board(
    "state",
    "streamproc / state and windows",
    (
        Panel(
            "Open windows",
            "One for each key and window that has not been closed.",
            "short",
            (Query("sum by (node) (streamproc_windows_open{S})", "{{node}}"),),
        ),
        Panel(
            "Window results",
            "Final results and updates.",
            "cps",
            (Query("sum by (node, kind) (rate(streamproc_windows_emitted_total{S}[R]))", "{{node}} {{kind}}"),),
            "stacked",
        ),
        Panel(
            "Late records",
            "Refused as late by all their windows, by what was done with them.",
            "cps",
            (Query("sum by (node, action) (rate(streamproc_late_records_total{S}[R]))", "{{node}} {{action}}"),),
        ),
        Panel(
            "Watermark spread",
            "Between the partitions of a topic that are farthest ahead and farthest behind.",
            "s",
            (
                Query(
                    "max by (topic) (streamproc_partition_watermark_timestamp_seconds{S} < +Inf)"
                    " - min by (topic) (streamproc_partition_watermark_timestamp_seconds{S} > -Inf)",
                    "{{topic}}",
                ),
            ),
        ),
        Panel(
            "Who holds the watermark",
            "The five partitions that are farthest behind.",
            "dateTimeAsIso",
            (
                Query(
                    "1000 * bottomk(5, streamproc_partition_watermark_timestamp_seconds{S} > -Inf)",
                    "{{topic}}/{{partition}}",
                ),
            ),
            "table",
        ),
        Panel(
            "Idle partitions",
            "Silent, and left out of watermarks.",
            "short",
            (Query("sum by (topic) (streamproc_partition_idle{S})", "{{topic}}"),),
        ),
        Panel(
            "State entries",
            "What the stores hold.",
            "short",
            (Query("sum by (store) (streamproc_state_entries{S})", "{{store}}"),),
        ),
        Panel(
            "Changelogs",
            "Bytes written for each stage.",
            "Bps",
            (Query("sum by (stage) (rate(streamproc_changelog_bytes_total{S}[R]))", "{{stage}}"),),
        ),
        Panel(
            "Restores: records left",
            "Of the changelogs of tasks that do not work yet.",
            "short",
            (Query("sum by (stage) (streamproc_restore_remaining_records{S})", "{{stage}}"),),
            "series",
            THIRD,
        ),
        Panel(
            "Restores: time left",
            "At the present pace.",
            "s",
            (
                Query(
                    "sum by (stage) (streamproc_restore_remaining_records{S})"
                    " / sum by (stage) (rate(streamproc_restore_records_total{S}[R]))",
                    "{{stage}}",
                ),
            ),
            "series",
            THIRD,
        ),
        Panel(
            "Restores: duration p99",
            "From the assignment of a task until it works.",
            "s",
            (Query(quantile(0.99, "topology", "streamproc_restore_duration_seconds"), "{{topology}}"),),
            "series",
            THIRD,
        ),
        Panel(
            "Commit duration p99",
            "From flushing to the acknowledged commit.",
            "s",
            (Query(quantile(0.99, "topology", "streamproc_commit_duration_seconds"), "{{topology}}"),),
        ),
        Panel(
            "Commit age",
            "Since the last commit of each worker. An idle worker has nothing to commit.",
            "s",
            (
                Query(
                    "time() - min by (instance) (streamproc_commit_last_success_timestamp_seconds{S} > 0)",
                    "{{instance}}",
                ),
            ),
        ),
    ),
)

WORKERS = Board(
    "workers",
    "streamproc / workers and Kafka",
    (
        Panel(
            "Worker state",
            "The state of each worker over time.",
            "short",
            (Query("max by (instance, state) (streamproc_worker_state{S}) == 1", "{{instance}} {{state}}"),),
            "timeline",
        ),
        Panel(
            "Partitions",
            "Those that each worker owns, and those that nobody does.",
            "short",
            (
                Query("sum by (instance) (streamproc_assigned_partitions{S})", "{{instance}}"),
                Query(
                    "sum(max by (topology, topic) (streamproc_topic_partitions{S}))"
                    " - sum(streamproc_assigned_partitions{S})",
                    "nobody",
                ),
            ),
        ),
        Panel(
            "Rebalances",
            "By what became of a worker's partitions. Flat while members restart that the group knows by name.",
            "short",
            (Query("sum by (kind) (increase(streamproc_rebalances_total{S}[R]))", "{{kind}}"),),
            "stacked",
        ),
        Panel(
            "Rebalance duration p99",
            "From when work is held back until the first fetch afterwards.",
            "s",
            (Query(quantile(0.99, "topology", "streamproc_rebalance_duration_seconds"), "{{topology}}"),),
        ),
        Panel(
            "Lag, worst 25 partitions",
            "Records between position and end of log.",
            "short",
            (
                Query(
                    "topk(25, max by (topic, partition) (streamproc_consumer_lag_records{S}))",
                    "{{topic}}/{{partition}}",
                ),
            ),
            "bars",
        ),
        Panel(
            "Read rate against write rate",
            "Where the second is the larger one, lag grows.",
            "cps",
            (
                Query("sum by (topic) (rate(streamproc_consumed_records_total{S}[R]))", "{{topic}} read"),
                Query("sum by (topic) (deriv(streamproc_consumer_end_offset{S}[5m]))", "{{topic}} written"),
            ),
        ),
        Panel(
            "Stalled and paused partitions",
            "Stalled: records wait and nothing moves. Paused: held back on purpose.",
            "short",
            (
                Query("sum(streamproc_stalled_partitions{S})", "stalled"),
                Query("sum(streamproc_partition_paused{S})", "paused"),
            ),
        ),
        Panel(
            "Commits by outcome",
            "All but ok are repeated, here or by whoever takes over.",
            "cps",
            (Query("sum by (outcome) (rate(streamproc_commits_total{S}[R]))", "{{outcome}}"),),
            "stacked",
        ),
        Panel(
            "Answers of brokers",
            "p99 of the time to an answer by API; fetch and join_group wait at the broker on purpose.",
            "s",
            (Query(quantile(0.99, "api", "streamproc_broker_request_duration_seconds"), "{{api}}"),),
            span=THIRD,
        ),
        Panel(
            "Client errors",
            "Requests and connections that failed, whether or not they are tried again.",
            "cps",
            (Query("sum by (kind) (rate(streamproc_client_errors_total{S}[R]))", "{{kind}}"),),
            span=THIRD,
        ),
        Panel(
            "Brokers reachable",
            "1 while brokers answer a worker.",
            "short",
            (Query("min by (instance) (streamproc_broker_reachable{S})", "{{instance}}"),),
            span=THIRD,
        ),
        Panel(
            "Event loop lag p99",
            "By how much ticks come late: something holds up the loop.",
            "s",
            (Query(quantile(0.99, "instance", "streamproc_event_loop_lag_seconds"), "{{instance}}"),),
        ),
        Panel(
            "CPU",
            "Cores that each worker uses.",
            "short",
            (Query("sum by (instance) (rate(streamproc_cpu_seconds_total{S}[R]))", "{{instance}}"),),
        ),
        Panel(
            "Resident memory",
            "Of each worker's process.",
            "bytes",
            (Query('process_resident_memory_bytes{job=~"$job",instance=~"$instance"}', "{{instance}}"),),
            "series",
            THIRD,
        ),
        Panel(
            "Garbage collections",
            "By generation.",
            "cps",
            (
                Query(
                    "sum by (instance, generation)"
                    ' (rate(python_gc_collections_total{job=~"$job",instance=~"$instance"}[R]))',
                    "{{instance}} {{generation}}",
                ),
            ),
            "series",
            THIRD,
        ),
        Panel(
            "File descriptors",
            "Share of those that a process may have.",
            "percentunit",
            (
                Query(
                    'process_open_fds{job=~"$job",instance=~"$instance"}'
                    ' / process_max_fds{job=~"$job",instance=~"$instance"}',
                    "{{instance}}",
                ),
            ),
            "series",
            THIRD,
        ),
    ),
)

BOARDS = (OVERVIEW, TOPOLOGY, STATE, WORKERS)


def _series(*, stacked: bool = False) -> timeseries.Panel:
    built = (
        timeseries.Panel().legend(_legend()).tooltip(common.VizTooltipOptions().mode(models.TooltipDisplayMode.MULTI))
    )
    if stacked:
        stacking = common.StackingConfig().mode(models.StackingMode.NORMAL)
        built = built.stacking(stacking).fill_opacity(30)
    return built


def _legend() -> common.VizLegendOptions:
    shown = common.VizLegendOptions().show_legend(True)  # noqa: FBT003 - the library's own signature; it is hidden if not said
    return shown.display_mode(models.LegendDisplayMode.LIST).placement(models.LegendPlacement.BOTTOM)


_LOOKS: Mapping[Look, Callable[[], Any]] = {
    "series": _series,
    "stacked": lambda: _series(stacked=True),
    "stat": stat.Panel,
    "gauge": lambda: gauge.Panel().min(0).max(1),
    "bars": lambda: bargauge.Panel().orientation(models.VizOrientation.HORIZONTAL),
    "table": table.Panel,
    "heatmap": heatmap.Panel,
    "timeline": lambda: statetimeline.Panel().legend(_legend()),
}


def _panel(panel: Panel) -> Any:
    built = _LOOKS[panel.look]().title(panel.title).description(panel.text).unit(panel.unit)
    built = built.datasource(SOURCE).span(panel.span).height(TALL)
    for number, query in enumerate(panel.queries):
        target = prometheus.Dataquery().datasource(SOURCE).expr(query.text).legend_format(query.legend)
        target = target.ref_id(chr(ord("A") + number))
        if panel.look == "table":
            target = target.instant().format(PromQueryFormat.TABLE)
        elif panel.look in {"stat", "gauge", "bars"}:
            target = target.instant()
        elif panel.look == "heatmap":
            target = target.range().format(PromQueryFormat.HEATMAP)
        else:
            target = target.range()
        built = built.with_target(target)
    return built


def _variable(name: str, query: str) -> Any:
    built = dashboard.QueryVariable(name).label(name).datasource(SOURCE).query(query)
    built = built.refresh(settings.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(settings.VariableSort.ALPHABETICAL_ASC)
    everything = settings.VariableOption(text="All", value="$__all")
    return built.multi(True).include_all(True).all_value(".*").current(everything)  # noqa: FBT003 - the library's own


def built(board: Board) -> settings.Dashboard:
    """A board in Grafana's own terms."""
    made = dashboard.Dashboard(board.title).uid(board.uid).tags(["streamproc"]).refresh("10s").time("now-1h", "now")
    made = made.readonly().timezone("browser").tooltip(settings.DashboardCursorSync.CROSSHAIR)
    made = made.with_variable(dashboard.DatasourceVariable("datasource").label("datasource").type("prometheus"))
    made = made.with_variable(_variable("job", "label_values(streamproc_worker_state, job)"))
    made = made.with_variable(_variable("topology", 'label_values(streamproc_worker_state{job=~"$job"}, topology)'))
    chosen = 'streamproc_worker_state{job=~"$job",topology=~"$topology"}'
    made = made.with_variable(_variable("instance", f"label_values({chosen}, instance)"))
    links = dashboard.DashboardLink("streamproc").type(settings.DashboardLinkType.DASHBOARDS).tags(["streamproc"])
    made = made.link(links.as_dropdown(False).include_vars(True).keep_time(True))  # noqa: FBT003 - the library's own
    for number, panel in enumerate(board.panels, 1):
        made = made.with_panel(_panel(panel).id(number))
    return made.build()


def encoded(made: settings.Dashboard) -> str:
    """A board as the JSON that is committed."""
    for link in made.links or ():
        link.placement = None  # type: ignore[assignment]  # on top, where people look, and not in a menu
    return JSONEncoder(sort_keys=True, indent=2).encode(made) + "\n"


def main() -> None:
    """Write all boards."""
    for board in BOARDS:
        (FOLDER / f"{board.uid}.json").write_text(encoded(built(board)), encoding="utf-8")


if __name__ == "__main__":
    main()
