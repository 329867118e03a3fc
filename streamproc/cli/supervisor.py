"""Several workers on one machine: each a process of its own, started again if it dies.

    supervisor  port      /sd, /healthz, /readyz
      worker 1  port + 1  metrics and health of its own
      worker 2  port + 2

    a worker ended with   1 or by a signal   it is started again, later each time; not for ever
                          4                  the same, for as long as brokers are away
                          2 or 3             starting again cannot help: all are stopped, and that is the code
                          0                  somebody has asked it to, or it has come to the end; it stays away

Workers are in a session of their own, so that a Ctrl-C comes to the supervisor alone, which asks each of them once.
Each has a pipe from the supervisor as its standard input: at its end they drain, however the supervisor went.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamproc.cli.loading import reference
from streamproc.cli.outcomes import CRASH, DONE, SECOND, TOO_LATE, UNFIT, UNREACHABLE, USAGE
from streamproc.config import SETTINGS, Config
from streamproc.ports.worker import Pulse

FINAL = frozenset({USAGE, UNFIT})
"""Codes after which a worker is not started again, and none of the others goes on."""
SUPERVISED = "STREAMPROC_SUPERVISED"
"""The variable that tells a worker that the end of its standard input means: drain."""
GRACE = 5.0
"""Seconds beyond the time for a drain until a worker is killed; it has left by itself long before."""

HURRY = 2.0
"""The same after the second signal, which has been sent to the workers too."""

_log = logging.getLogger("streamproc.supervisor")


class Command(NamedTuple):
    """How one worker is started."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a worker is started again: they double, and begin anew once it has run for `calm`.

    After `tries` deaths in a row, none of them after a calm time, it is given up.
    """

    first: float = 0.5
    most: float = 30.0
    calm: float = 60.0
    tries: int = 10

    def pause(self, deaths: int) -> float:
        """The pause after so many deaths, none of them after a calm time."""
        return min(self.most, self.first * 2.0 ** min(deaths - 1, 16))


@dataclass(slots=True)
class Supervisor:
    """Runs workers 1 to `count` until it is stopped or they cannot go on.

    `command` says how each is started, `drain` is how many seconds it may take to stop.
    """

    count: int
    command: Callable[[int], Command]
    drain: float
    backoff: Backoff = field(default_factory=Backoff)
    clock: Callable[[], float] = time.time
    pulse: Pulse = field(init=False)
    _processes: dict[int, asyncio.subprocess.Process] = field(init=False, default_factory=dict)
    _codes: dict[int, int] = field(init=False, default_factory=dict)
    _stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _idle: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _limit: asyncio.Timeout | None = field(init=False, default=None)
    _fatal: int | None = field(init=False, default=None)
    _asked: int = field(init=False, default=0)
    _active: int = field(init=False, default=0)
    _kept: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        now = self.clock()
        self.pulse = Pulse("starting", now, now)

    def stop(self) -> None:
        """Ask all workers to drain; the second time they and we leave at once."""
        self._asked += 1
        self._stopping.set()
        for process in self._processes.values():
            _signal(process, signal.SIGTERM)
        if self._asked > 1 and self._limit is not None:  # None: it has come to its end
            self._limit.reschedule(asyncio.get_running_loop().time() + HURRY)

    async def run(self) -> int:
        """Run the workers to their end; the exit code of all of them together."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        self._kept = self.count
        try:
            async with asyncio.TaskGroup() as group:
                for worker in range(1, self.count + 1):
                    group.create_task(self._keep(worker))
                group.create_task(self._deadline())
        finally:
            for process in self._processes.values():
                _signal(process, signal.SIGKILL)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
        self._enter("stopped")
        return self._outcome()

    def _outcome(self) -> int:
        if self._fatal is not None:
            return self._fatal
        if self._asked > 1:
            return SECOND
        codes = set(self._codes.values())
        if codes <= {DONE}:
            return DONE
        return TOO_LATE if codes <= {DONE, TOO_LATE, -signal.SIGKILL} else CRASH

    # one worker

    async def _keep(self, worker: int) -> None:
        """Run one worker, again and again until that has no use or nobody wants it."""
        deaths, failures = 0, 0
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            code = await self._once(worker)
            lasted = asyncio.get_running_loop().time() - began
            if self._stopping.is_set():
                self._codes[worker] = code
                return
            if code == DONE:
                _log.info("worker %d has ended well", worker)
                break
            if code in FINAL or (code == UNREACHABLE and deaths == 0):
                _log.error("worker %d ended with %d: starting it again cannot help, so all are stopped", worker, code)
                self._give_up(code)
                return
            deaths, failures = (0, 0) if lasted >= self.backoff.calm else (deaths, failures)
            deaths += 1
            failures += code != UNREACHABLE
            if failures >= self.backoff.tries:
                _log.error(
                    "worker %d %s, as %d times before it had run for %g s: starting it again does not help, so all are "
                    "stopped",
                    worker,
                    _words(code),
                    failures,
                    self.backoff.calm,
                )
                self._give_up(code)
                return
            pause = self.backoff.pause(deaths)
            _log.error("worker %d %s: it is started again in %g s", worker, _words(code), pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
        self._kept -= 1
        if not self._kept:
            self._stopping.set()

    def _give_up(self, code: int) -> None:
        """Stop all, with the code of the worker for which starting again is of no use."""
        self._fatal = self._fatal or (code if code > 0 else CRASH)
        self.stop()

    async def _once(self, worker: int) -> int:
        """Run a worker to its end; its exit code, negative for a signal."""
        arguments, environment = self.command(worker)
        self._active += 1
        self._idle.clear()
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments, env=dict(environment), stdin=asyncio.subprocess.PIPE, start_new_session=True
            )
            self._processes[worker] = process
            if self._stopping.is_set():  # while the process was being made
                _signal(process, signal.SIGTERM)
            _log.info("worker %d is process %d", worker, process.pid)
            self._count()
            return await process.wait()
        finally:
            self._processes.pop(worker, None)
            self._active -= 1
            if not self._active:
                self._idle.set()
            self._count()

    # stopping

    async def _deadline(self) -> None:
        """Once stopping has begun, kill what has not ended in time."""
        await self._stopping.wait()
        self._enter("draining")
        with suppress(TimeoutError):
            async with asyncio.timeout(self.drain + GRACE) as limit:
                self._limit = limit
                if self._active:
                    await self._idle.wait()
        self._limit = None
        for worker, process in list(self._processes.items()):
            _log.error("worker %d has not ended in time, and is killed", worker)
            _signal(process, signal.SIGKILL)

    def _count(self) -> None:
        if not self._stopping.is_set():
            self._enter("running" if len(self._processes) == self.count else "starting")

    def _enter(self, state: str) -> None:
        now = self.clock()
        if state != self.pulse.state:
            self.pulse = Pulse(state, self.pulse.started_at, now)


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _words(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def supervise(spec: str, config: Config, flags: Mapping[str, Any], more: Sequence[str] = ()) -> int:
    """Run the workers that the settings ask for.

    `flags` are the settings given on the command line, by dotted name, and `more` are the flags that are no settings.
    """
    from prometheus_client import CollectorRegistry

    from streamproc.adapters import logs
    from streamproc.adapters.http import HttpServer

    reference(spec)
    form: Any = config.log_format
    logs.configure(config.log_level, form)
    base = config.http_port or free_port(config.http_host)
    command = Workers(spec, dict(flags), config, base, more)

    async def run() -> int:
        supervisor = Supervisor(config.workers, command, config.drain_timeout / 1000)
        if not config.http_enabled:
            return await supervisor.run()
        ports = [base + worker for worker in range(1, config.workers + 1)]
        server = HttpServer(
            config.http_host, base, CollectorRegistry(), lambda: supervisor.pulse, workers=lambda: ports
        )
        host, port = server.start()
        print(f"workers at http://{host}:{port}/sd", file=sys.stderr, flush=True)
        try:
            return await supervisor.run()
        finally:
            server.stop()

    return asyncio.run(run())


@dataclass(frozen=True, slots=True)
class Workers:
    """How each worker is started: as we were, but alone, with a port and, where that is wished, a name of its own."""

    spec: str
    flags: Mapping[str, Any]
    config: Config
    base: int
    more: Sequence[str] = ()

    def __call__(self, worker: int) -> Command:
        """The command of a worker."""
        variables = {setting.name: setting.variable for setting in SETTINGS}
        said = {variables[name]: _said(value) for name, value in self.flags.items() if value is not None}
        said |= {
            variables["runner"]: "kafka",
            variables["workers"]: "1",
            variables["http.port"]: str(self.base + worker),
            SUPERVISED: str(os.getpid()),
        }
        if self.config.group_instance_id is not None:
            said[variables["group.instance_id"]] = f"{self.config.group_instance_id}-{worker}"
        arguments = [sys.executable, "-m", "streamproc", "run", self.spec, *self.more]
        return Command(arguments, {**os.environ, **said})


def _said(value: Any) -> str:
    """A value as the environment has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def free_port(host: str) -> int:
    """A port that nobody listens on just now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.bind((host, 0))
        return int(trial.getsockname()[1])
