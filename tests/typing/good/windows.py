"""Counts per minute, percentiles of the last hour, and windows of windows."""

from datetime import datetime, timedelta
from typing import assert_type

import msgspec

from streamproc import Count, Hopping, Keyed, Max, Quantile, Topology, Trailing, Tumbling, WindowResult
from tests.typing.good.events import Click, Latency


class P99(msgspec.Struct, frozen=True):
    """A percentile as it is written."""

    route: str
    until: datetime
    p99_ms: float
    n: int


topology = Topology("windows", app="shop", dead_letters="windows.dead")
clicks = topology.source("clicks", Click, event_time=lambda c: c.ts, disorder="5s", idle_timeout="1m")

per_minute = clicks.key_by(lambda c: c.user).window(Tumbling("1m", grace="30s")).count(name="clicks_1m")
assert_type(per_minute, Keyed[str, WindowResult[str, int]])
per_minute.to("clicks-per-user-1m")

(
    topology.source("http-latency", Latency, event_time=lambda r: r.ts, disorder=timedelta(seconds=5))
    .key_by(lambda r: r.route)
    .window(Hopping("1h", advance="5m", grace="30s"), late="http-latency.late")
    .agg(Quantile(0.99, of=lambda r: r.ms), Count(), name="p99_1h")
    .map(lambda w: P99(w.key, w.end, *w.value))
    .to("route-p99")
)

busiest = per_minute.window(Tumbling("1h", offset="30m")).agg(Max(of=lambda m: m.value), name="peak_minute_1h")
assert_type(busiest, Keyed[str, WindowResult[str, int]])
busiest.to("peak-minute-per-hour")

trailing = clicks.key_by(lambda c: c.ad).window(Trailing("1h")).count(name="ad_1h", emit="on_update")
assert_type(trailing, Keyed[str, WindowResult[str, int, Click]])
assert_type(trailing.map(lambda w: w.event), Keyed[str, Click])
trailing.map(lambda w: (w.key, w.event.user, w.value, w.start.isoformat(), w.end_ms - w.start_ms)).to("ad-clicks")

(
    clicks.key_by(lambda c: c.ad)
    .window(Hopping("1m", advance="2m", offset="10s", allow_gaps=True))
    .count(name="samples", emit="on_close")
    .map(lambda w: {"ad": w.key, "n": w.value, "final": w.final, "none": w.event is None})
    .to("samples")
)
