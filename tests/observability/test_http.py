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

from streamproc.adapters.http import Check, Health, HttpServer
from streamproc.adapters.prometheus import PrometheusObserver
from streamproc.core.errors import ConfigError
from streamproc.metrics.catalog import CATALOG
from tests.observability.plans import PLAN, busy_step

IDLE = Health("running", started_at=100.0, last_step_at=150.0)


@dataclass
class World:
    """What the server is told, for tests to change: the worker's health, and the time."""

    health: Health = IDLE
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
def serving(world: World, registry: CollectorRegistry | None = None) -> Iterator[Ask]:
    """A live server on a free port, and how to ask it."""
    server = HttpServer(
        "127.0.0.1",
        0,
        CollectorRegistry() if registry is None else registry,
        health=lambda: world.health,
        topology=lambda: {"name": "orders", "nodes": ["per_user"]},
        clock=lambda: world.now,
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
        world.health = replace(IDLE, stepping_since=200.0)
        world.now = 260.0
        within = ask("/healthz")
        world.now = 260.001
        beyond = ask("/healthz")
        world.health = replace(IDLE, last_step_at=260.002)
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
            world.health = replace(IDLE, state=state, state_since=160.0)
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
    ("health", "now", "expected"),
    [
        (Health("starting", 100.0), 9000.0, Check("step", ok=True, value="idle", since=100.0)),
        (IDLE, 9000.0, Check("step", ok=True, value="idle", since=150.0)),
        (replace(IDLE, stepping_since=150.0), 210.0, Check("step", ok=True, value="stepping", since=150.0)),
        (replace(IDLE, stepping_since=150.0), 211.0, Check("step", ok=False, value="stepping", since=150.0)),
        (replace(IDLE, stepping_since=120.0), 205.0, Check("step", ok=True, value="stepping", since=150.0)),
        (
            replace(IDLE, stepping_since=150.0, step_limit=5.0),
            156.0,
            Check("step", ok=False, value="stepping", since=150.0),
        ),
    ],
)
def test_a_worker_is_alive_while_it_is_idle_or_moves(health: Health, now: float, expected: Check) -> None:
    """Silence while idle is no fault; in a step, the limit runs from its start or the last step finished."""
    assert health.live(now) == expected


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
