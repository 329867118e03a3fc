"""How a web site answers: requests by status and minute, and the share that failed in each hour.

    streamproc run topologies.requests:topology --input requests=topologies/data/requests.jsonl.gz

Lines of the log are up to a minute out of order, so results wait for a minute.  A line that is no request goes to
`broken-requests` as it came.
"""

from datetime import datetime

import msgspec

from streamproc import Count, Mean, Sum, Topology, Tumbling

CLIENT_ERROR, SERVER_ERROR = 400, 500


class Request(msgspec.Struct, frozen=True):
    """One line of the log; `size` in bytes."""

    time: datetime
    method: str
    status: int
    size: int


class Hour(msgspec.Struct, frozen=True):
    """The requests of one method in the hour before `until`; the shares are of those answered 4xx and 5xx."""

    method: str
    until: datetime
    requests: int
    client_errors: float
    server_errors: float
    bytes_sent: int


topology = Topology("requests", dead_letters="broken-requests")
requests = topology.source("requests", Request, event_time=lambda r: r.time, disorder="1m")

requests.key_by(lambda r: r.status).window(Tumbling("1m")).count(name="status_minutes").to("requests-per-status")

(
    requests.key_by(lambda r: r.method)
    .window(Tumbling("1h"))
    .agg(
        Count(),
        Mean(of=lambda r: CLIENT_ERROR <= r.status < SERVER_ERROR),
        Mean(of=lambda r: r.status >= SERVER_ERROR),
        Sum(of=lambda r: r.size),
        name="method_hours",
    )
    .map(lambda w: Hour(w.key, w.end, *w.value))
    .to("requests-per-hour")
)
