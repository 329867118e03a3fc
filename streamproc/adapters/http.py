"""The worker's small web server: metrics, health and the plan, in a thread and an event loop of its own.

A busy step in the main thread does not silence it.  Health is progress, not opinion: a worker is alive while
it is idle or its last step is recent, whatever brokers, lag or sinks do; it is ready while it is running.

The two callables are called in the server's thread: they only read.
"""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from streamproc.core.errors import ConfigError

_WITHIN = 5.0
_LAST_PORT = 65535


class Check(NamedTuple):
    """One thing that health depends on, what it is now, and since when, in seconds of the wall clock."""

    name: str
    ok: bool
    value: str
    since: float


@dataclass(frozen=True, slots=True)
class Health:
    """What a worker knows of its own progress; instants in seconds of the wall clock.

    `stepping_since` is the start of the step under way, None while the engine is idle; `state_since` is when
    the state was entered, None for `started_at`.
    """

    state: str
    started_at: float
    last_step_at: float | None = None
    stepping_since: float | None = None
    step_limit: float = 60.0
    state_since: float | None = None

    def live(self, now: float) -> Check:
        """Whether the engine is idle or finished a step within the limit."""
        if self.stepping_since is None:
            return Check("step", ok=True, value="idle", since=self._moved())
        since = max(self.stepping_since, self._moved())
        return Check("step", ok=now - since <= self.step_limit, value="stepping", since=since)

    def ready(self) -> Check:
        """Whether the worker is running."""
        since = self.started_at if self.state_since is None else self.state_since
        return Check("state", ok=self.state == "running", value=self.state, since=since)

    def _moved(self) -> float:
        return self.started_at if self.last_step_at is None else self.last_step_at


def _text(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _answer(check: Check) -> web.Response:
    row = {"name": check.name, "ok": check.ok, "value": check.value, "since": _text(check.since)}
    body = {"status": "ok" if check.ok else "unavailable", "checks": [row]}
    return web.json_response(body, status=200 if check.ok else 503, headers={"Cache-Control": "no-store"})


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
    """Serves `/metrics`, `/healthz`, `/readyz` and `/topology` from `start` to `stop`.

    `topology` gives the plan as plain data; `clock` is the wall clock in seconds.
    """

    host: str
    port: int
    registry: CollectorRegistry
    health: Callable[[], Health]
    topology: Callable[[], Any] = dict
    clock: Callable[[], float] = time.time
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
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(",".join(request.headers.getall("Accept", [])))
        answer = web.Response(body=encode(self.registry), headers={"Content-Type": content_type})
        answer.enable_compression()
        return answer

    async def _healthz(self, _: web.Request) -> web.Response:
        return _answer(self.health().live(self.clock()))

    async def _readyz(self, _: web.Request) -> web.Response:
        return _answer(self.health().ready())

    async def _plan(self, _: web.Request) -> web.Response:
        return web.json_response(self.topology(), dumps=_json)


def _wake(loop: asyncio.AbstractEventLoop, halted: asyncio.Event) -> None:
    loop.call_soon_threadsafe(halted.set)


def _json(value: Any) -> str:
    return json.dumps(value, default=str)
