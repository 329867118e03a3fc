"""The worker's small web server: metrics, health, the plan and the lag, in a thread and an event loop of its own.

A busy step in the main thread does not silence it.  Health is progress, not opinion: a worker is alive while
what should move moves, whatever brokers, lag, restores or sinks do, as else an outage of theirs would become a
storm of restarts here.  It is ready while it is running, has its state and reaches its brokers.

The callables are called in the server's thread: they only read.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streamproc.core.errors import ConfigError
from streamproc.ports.worker import Limits, Pulse

_WITHIN = 5.0
_LAST_PORT = 65535


class Check(NamedTuple):
    """One thing that health depends on, what it is now, and since when, in seconds of the wall clock."""

    name: str
    ok: bool
    value: str
    since: float


def live(pulse: Pulse, limits: Limits, now: float) -> list[Check]:
    """Everything that should move, and whether it does; a runner without a loop or brokers has fewer of them.

    What cannot move without brokers is not held against a worker while it cannot reach them.
    """
    checks = [_step(pulse, limits, now)]
    if pulse.ticked_at is not None:
        checks.append(_within("tick", "ticking", pulse.ticked_at, limits.tick, now))
    if pulse.polled_at is not None:
        checks += _progress(pulse, pulse.polled_at, limits, now)
    return checks


def _progress(pulse: Pulse, polled_at: float, limits: Limits, now: float) -> list[Check]:
    """What only moves while brokers answer."""
    checks = [_within("poll", "polling", polled_at, limits.poll, now)]
    if pulse.rebalancing_since is not None:
        checks.append(_within("rebalance", "rebalancing", pulse.rebalancing_since, limits.rebalance, now))
    if pulse.stalled_since is not None:
        checks.append(_within("partitions", "stalled", pulse.stalled_since, limits.stall, now))
    if pulse.reachable is False:
        return [check._replace(ok=True, value=f"{check.value}, brokers unreachable") for check in checks]
    return checks


def _within(name: str, value: str, since: float, limit: float, now: float) -> Check:
    return Check(name, ok=now - since <= limit, value=value, since=since)


def _step(pulse: Pulse, limits: Limits, now: float) -> Check:
    """Whether the engine is idle or finished a step within the limit."""
    moved = pulse.started_at if pulse.last_step_at is None else pulse.last_step_at
    if pulse.stepping_since is None:
        return Check("step", ok=True, value="idle", since=moved)
    since = max(pulse.stepping_since, moved)
    return _within("step", "stepping", since, limits.step, now)


def ready(pulse: Pulse) -> list[Check]:
    """Whether it is running; on brokers, whether it reaches them and has the state of all it owns, be it nothing."""
    checks = [Check("state", ok=pulse.state == "running", value=pulse.state, since=pulse.state_since)]
    if pulse.reachable is not None:
        left = f"{pulse.restoring} to restore" if pulse.restoring else "restored"
        checks.append(Check("restore", ok=not pulse.restoring, value=left, since=pulse.state_since))
        since = pulse.started_at if pulse.reachable_since is None else pulse.reachable_since
        reached = "reachable" if pulse.reachable else "unreachable"
        checks.append(Check("brokers", ok=pulse.reachable, value=reached, since=since))
    return checks


def targets(host: str, ports: Sequence[int]) -> list[dict[str, Any]]:
    """Workers that listen on one host, as Prometheus' `http_sd` wants them."""
    named = f"[{host}]" if ":" in host else host
    return [{"targets": [f"{named}:{port}" for port in ports], "labels": {}}]


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _answer(checks: Sequence[Check]) -> web.Response:
    rows = [{"name": check.name, "ok": check.ok, "value": check.value, "since": _text(check.since)} for check in checks]
    good = all(check.ok for check in checks)
    body = {"status": "ok" if good else "unavailable", "checks": rows}
    return web.json_response(body, status=200 if good else 503, headers={"Cache-Control": "no-store"})


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, or a ConfigError that says which setting to change."""
    if not 0 <= port <= _LAST_PORT:
        raise ConfigError(f"{port} is no port: choose one of 0 to {_LAST_PORT} by --port or STREAMPROC_HTTP__PORT")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"cannot listen on {host!r}: {error}; set STREAMPROC_HTTP__HOST to a local address"
        ) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(_refusal(host, port, error)) from error
    return listener


def _refusal(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{host} port {port} is in use: choose another by --port or STREAMPROC_HTTP__PORT (0: any free)"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: set STREAMPROC_HTTP__HOST to one, such as 127.0.0.1"
    return f"cannot listen on {host} port {port}: {error}; choose another by --port or STREAMPROC_HTTP__PORT"


@dataclass(slots=True)
class HttpServer:
    """Serves `/metrics`, `/healthz`, `/readyz`, `/topology` and `/lag` from `start` to `stop`.

    `topology` and `lag` give plain data; `clock` is the wall clock in seconds.  One that has started several workers
    serves `/sd` too: `workers` gives their ports, and they are listed at the host that was asked.
    """

    host: str
    port: int
    registry: CollectorRegistry
    pulse: Callable[[], Pulse]
    topology: Callable[[], Any] = dict
    clock: Callable[[], float] = time.time
    lag: Callable[[], Any] = dict
    limits: Limits = field(default_factory=Limits)
    workers: Callable[[], Sequence[int]] | None = None
    _thread: threading.Thread | None = field(init=False, default=None)
    _halt: Callable[[], None] = field(init=False, default=lambda: None)

    def start(self) -> tuple[str, int]:
        """Binds, serves, and returns the address bound; raises ConfigError where it cannot be had."""
        if self._thread is not None:
            raise RuntimeError("the server is already running")
        listener = _listen(self.host, self.port)
        host, port = listener.getsockname()[:2]
        serving: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listener, serving)), name="streamproc-http", daemon=True
        )
        self._thread.start()
        serving.result(_WITHIN)
        return host, port

    def stop(self) -> None:
        """Closes the port and open connections, within five seconds; harmless when not running."""
        if self._thread is None:
            return
        self._halt()
        self._thread.join(_WITHIN)
        self._thread = None

    async def _serve(self, listener: socket.socket, serving: Future[None]) -> None:
        runner = web.AppRunner(self._app(), handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        halted = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._halt = lambda: None if loop.is_closed() else _wake(loop, halted)
        serving.set_result(None)
        await halted.wait()
        await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/topology", self._plan)
        app.router.add_get("/lag", self._lag)
        if self.workers is not None:
            app.router.add_get("/sd", self._sd)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        answer = web.Response(body=encode(self.registry), headers={"Content-Type": content_type})
        answer.enable_compression()
        return answer

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(live(self.pulse(), self.limits, self.clock()))

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(ready(self.pulse()))

    async def _plan(self, _: web.Request) -> web.Response:
        return web.json_response(self.topology(), dumps=_json)

    async def _lag(self, _: web.Request) -> web.Response:
        return web.json_response(self.lag(), dumps=_json, headers={"Cache-Control": "no-store"})

    async def _sd(self, request: web.Request) -> web.Response:
        ports = () if self.workers is None else self.workers()
        return web.json_response(targets(request.url.host or self.host, ports))


def _wake(loop: asyncio.AbstractEventLoop, halted: asyncio.Event) -> None:
    loop.call_soon_threadsafe(halted.set)


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
