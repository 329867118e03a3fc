"""The worker's web server, asked over loopback, and what it says of health."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from streamproc.adapters.http import Check, HttpServer, live, ready
from streamproc.adapters.prometheus import PrometheusObserver
from streamproc.core.batch import START
from streamproc.core.errors import ConfigError
from streamproc.metrics.catalog import CATALOG
from streamproc.metrics.lag import LagObserver
from streamproc.ports.worker import Limits, Pulse, Standing
from tests.observability.plans import PLAN, busy_step

IDLE = Pulse("running", started_at=100.0, state_since=100.0, last_step_at=150.0)
WORKER = replace(IDLE, ticked_at=200.0, polled_at=200.0, reachable=True, reachable_since=110.0)


@dataclass
class World:
    """What the server is told, for tests to change: the worker's health, and the time."""

    pulse: Pulse = IDLE
    now: float = 200.0


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    type: str
    text: str

    @property
    def body(self) -> Any:
        """The answer as JSON."""
        return json.loads(self.text)


Ask = Callable[..., Answer]


@contextmanager
def serving(world: World, registry: CollectorRegistry | None = None, **more: Any) -> Iterator[Ask]:
    """A live server on a free port, and how to ask it."""
    server = HttpServer(
        "127.0.0.1",
        0,
        CollectorRegistry() if registry is None else registry,
        pulse=lambda: world.pulse,
        topology=lambda: {"name": "orders", "nodes": ["per_user"]},
        clock=lambda: world.now,
        **more,
    )
    host, port = server.start()

    async def get(path: str, headers: dict[str, str]) -> Answer:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}{path}", headers=headers) as answer,
        ):
            return Answer(answer.status, answer.headers["Content-Type"], await answer.text())

    try:
        yield lambda path, **headers: asyncio.run(get(path, headers))
    finally:
        server.stop()


def observed() -> PrometheusObserver:
    """An observer that has seen one step."""
    observer = PrometheusObserver("orders", CollectorRegistry())
    observer.planned(PLAN)
    observer.stepped("clicks-0", busy_step(), 10, 0.003)
    return observer


def names(families: Any) -> set[str]:
    """The names of all families."""
    return {family.name for family in families}


def test_a_scrape_has_every_metric_of_the_catalogue() -> None:
    """/metrics is the text format by default, and every metric of the catalogue is in it."""
    with serving(World(), observed().registry) as ask:
        answer = ask("/metrics")
    assert (answer.status, answer.type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert names(text_string_to_metric_families(answer.text)) == {
        metric.name.removesuffix("_total") for metric in CATALOG if not metric.kafka
    }


def test_a_scrape_is_openmetrics_when_asked() -> None:
    """A scraper that accepts OpenMetrics gets it, to its end mark, with the same metrics."""
    with serving(World(), observed().registry) as ask:
        answer = ask("/metrics", Accept="application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert answer.type.startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")
    families = openmetrics(answer.text)  # type: ignore[no-untyped-call]
    assert names(families) == {metric.name.removesuffix("_total") for metric in CATALOG if not metric.kafka}


def test_the_topology_is_json() -> None:
    """/topology answers with what the callable gives."""
    with serving(World()) as ask:
        answer = ask("/topology")
    assert (answer.status, answer.body) == (200, {"name": "orders", "nodes": ["per_user"]})


def test_nothing_else_is_served() -> None:
    """An unknown path is not found, and no path can be written to."""
    with serving(World()) as ask:
        assert ask("/secrets").status == 404


def test_liveness_follows_a_step_over_its_limit() -> None:
    """A worker is alive up to sixty seconds into a step, then dead, and alive again when it has ended."""
    world = World()
    with serving(world) as ask:
        world.pulse = replace(IDLE, stepping_since=200.0)
        world.now = 260.0
        within = ask("/healthz")
        world.now = 260.001
        beyond = ask("/healthz")
        world.pulse = replace(IDLE, last_step_at=260.002)
        ended = ask("/healthz")
    assert [within.status, beyond.status, ended.status] == [200, 503, 200]
    assert beyond.body == {
        "status": "unavailable",
        "checks": [{"name": "step", "ok": False, "value": "stepping", "since": "1970-01-01T00:03:20.000Z"}],
    }
    assert ended.body == {
        "status": "ok",
        "checks": [{"name": "step", "ok": True, "value": "idle", "since": "1970-01-01T00:04:20.002Z"}],
    }


def test_readiness_is_running() -> None:
    """Only a running worker is ready; a draining one is not, at once, though it is alive."""
    world = World()
    ready = {}
    with serving(world) as ask:
        for state in ("starting", "restoring", "running", "draining", "stopped", "failed"):
            world.pulse = replace(IDLE, state=state, state_since=160.0)
            answer = ask("/readyz")
            ready[state] = answer.status
            assert ask("/healthz").status == 200
            assert answer.body["checks"] == [
                {
                    "name": "state",
                    "ok": state == "running",
                    "value": state,
                    "since": "1970-01-01T00:02:40.000Z",
                }
            ]
    assert ready == {
        "starting": 503,
        "restoring": 503,
        "running": 200,
        "draining": 503,
        "stopped": 503,
        "failed": 503,
    }


@pytest.mark.parametrize(
    ("pulse", "now", "expected"),
    [
        (Pulse("starting", 100.0, 100.0), 9000.0, Check("step", ok=True, value="idle", since=100.0)),
        (IDLE, 9000.0, Check("step", ok=True, value="idle", since=150.0)),
        (replace(IDLE, stepping_since=150.0), 210.0, Check("step", ok=True, value="stepping", since=150.0)),
        (replace(IDLE, stepping_since=150.0), 211.0, Check("step", ok=False, value="stepping", since=150.0)),
        (replace(IDLE, stepping_since=120.0), 205.0, Check("step", ok=True, value="stepping", since=150.0)),
    ],
)
def test_a_runner_is_alive_while_it_is_idle_or_moves(pulse: Pulse, now: float, expected: Check) -> None:
    """Silence while idle is no fault; in a step, the limit runs from its start or the last step finished."""
    assert live(pulse, Limits(), now) == [expected]


LIMITS = Limits(tick=5, step=60, poll=600, rebalance=120, stall=180)


@pytest.mark.parametrize(
    ("changes", "after", "dead"),
    [
        ({}, 5, set()),
        ({}, 5.1, {"tick"}),
        ({"ticked_at": 900.0}, 600, set()),
        ({"ticked_at": 900.0}, 600.1, {"poll"}),
        ({"stepping_since": 205.0}, 5, set()),
        ({"stepping_since": 140.0, "last_step_at": 144.9}, 5, {"step"}),
        ({"rebalancing_since": 85.0}, 5, set()),
        ({"rebalancing_since": 84.9}, 5, {"rebalance"}),
        ({"stalled_since": 25.0}, 5, set()),
        ({"stalled_since": 24.9}, 5, {"partitions"}),
    ],
)
def test_a_worker_is_dead_when_one_of_five_things_stands_still(
    changes: dict[str, Any], after: float, dead: set[str]
) -> None:
    """Tick, poll loop, step, rebalance and partitions: each has its limit, and within it the worker is alive."""
    checks = live(replace(WORKER, **changes), LIMITS, 200.0 + after)
    assert {check.name for check in checks if not check.ok} == dead


def test_an_outage_of_brokers_is_no_reason_to_restart() -> None:
    """While brokers are unreachable only the worker's own tick and step count; it says why, and it is not ready."""
    stuck = replace(WORKER, reachable=False, polled_at=1.0, rebalancing_since=1.0, stalled_since=1.0)
    checks = live(replace(stuck, ticked_at=8999.0), LIMITS, 9000.0)
    assert [(check.name, check.ok) for check in checks] == [
        ("step", True),
        ("tick", True),
        ("poll", True),
        ("rebalance", True),
        ("partitions", True),
    ]
    assert checks[2].value == "polling, brokers unreachable"
    late = live(replace(stuck, ticked_at=8000.0), LIMITS, 9000.0)
    assert [check.name for check in late if not check.ok] == ["tick"]
    assert [check.name for check in ready(stuck) if not check.ok] == ["brokers"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({}, []),
        ({"state": "rebalancing"}, ["state"]),
        ({"state": "draining"}, ["state"]),
        ({"restoring": 3}, ["restore"]),
        ({"reachable": False}, ["brokers"]),
        ({"state": "starting", "reachable": False, "restoring": 1}, ["state", "restore", "brokers"]),
    ],
)
def test_a_worker_is_ready_when_it_runs_has_its_state_and_reaches_brokers(
    changes: dict[str, Any], missing: list[str]
) -> None:
    """Nothing else counts: a worker without a partition has nothing to restore, and is ready."""
    assert [check.name for check in ready(replace(WORKER, **changes)) if not check.ok] == missing


def test_readiness_says_each_of_its_reasons() -> None:
    """/readyz of a worker has a row for state, restore and brokers, each with its value and since when."""
    world = World(replace(WORKER, restoring=2))
    with serving(world) as ask:
        answer = ask("/readyz")
    assert (answer.status, answer.body["checks"]) == (
        503,
        [
            {"name": "state", "ok": True, "value": "running", "since": "1970-01-01T00:01:40.000Z"},
            {"name": "restore", "ok": False, "value": "2 to restore", "since": "1970-01-01T00:01:40.000Z"},
            {"name": "brokers", "ok": True, "value": "reachable", "since": "1970-01-01T00:01:50.000Z"},
        ],
    )


def test_lag_is_json() -> None:
    """/lag has every owned partition: where it stands, what holds it, and which one holds the watermark back."""
    observer = LagObserver()
    observer.progressed({("clicks", 0): 5000, ("clicks", 1): START}, ("clicks", 1))
    observer.lagged(
        {("clicks", 1): Standing(10, 30, 2.5, committed=8, paused=True), ("clicks", 0): Standing(7, 7, 0.0)}
    )
    with serving(World(), lag=observer.table) as ask:
        answer = ask("/lag")
    still = {"paused": False, "idle": False, "stalled": False}
    assert answer.body == {
        "partitions": [
            {"topic": "clicks", "partition": 0, "position": 7, "end": 7, "committed": None}
            | {"lag_records": 0, "lag_seconds": 0.0, "watermark": 5000, "holds": False}
            | still,
            {"topic": "clicks", "partition": 1, "position": 10, "end": 30, "committed": 8}
            | {"lag_records": 20, "lag_seconds": 2.5, "watermark": None, "holds": True}
            | still
            | {"paused": True},
        ]
    }


def test_a_supervisor_lists_its_workers() -> None:
    """/sd names every worker at the host that was asked, as Prometheus wants it; a single worker has no such path."""
    with serving(World(), workers=lambda: (9401, 9402)) as ask:
        assert ask("/sd").body == [{"targets": ["127.0.0.1:9401", "127.0.0.1:9402"], "labels": {}}]
        assert ask("/sd", Host="worker.example:9400").body[0]["targets"] == [
            "worker.example:9401",
            "worker.example:9402",
        ]
    with serving(World()) as ask:
        assert ask("/sd").status == 404


def test_a_port_in_use_is_an_error_that_names_the_setting() -> None:
    """A used port stops the start with the flag and the variable that would choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = HttpServer("127.0.0.1", port, CollectorRegistry(), lambda: IDLE)
        with pytest.raises(ConfigError) as raised:
            server.start()
    assert str(raised.value) == (
        f"127.0.0.1 port {port} is in use: choose another by --port or STREAMPROC_HTTP__PORT (0: any free)"
    )
    server.stop()


def test_a_foreign_address_is_an_error_that_names_the_setting() -> None:
    """An address that is not this machine's stops the start with the variable to change."""
    server = HttpServer("192.0.2.1", 0, CollectorRegistry(), lambda: IDLE)
    with pytest.raises(ConfigError, match="STREAMPROC_HTTP__HOST"):
        server.start()


def test_a_port_that_cannot_be_is_an_error() -> None:
    """A port beyond 65535 is a mistake in the settings."""
    server = HttpServer("127.0.0.1", 70000, CollectorRegistry(), lambda: IDLE)
    with pytest.raises(ConfigError, match="--port"):
        server.start()


def test_stopping_frees_the_port_and_can_be_repeated() -> None:
    """After stop the port can be bound again, by the same server too; a second stop is harmless."""
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), lambda: IDLE)
    _, port = server.start()
    server.stop()
    server.stop()
    again = HttpServer("127.0.0.1", port, CollectorRegistry(), lambda: IDLE)
    assert again.start() == ("127.0.0.1", port)
    again.stop()


def test_stopping_does_not_wait_for_a_connection_that_is_kept() -> None:
    """An open connection of a client is closed by stop, which returns."""
    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), lambda: IDLE)
    with socket.create_connection(server.start()) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 200"
        server.stop()
        while client.recv(4096):
            pass
