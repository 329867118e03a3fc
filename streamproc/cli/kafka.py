"""One worker on Kafka: a plan, brokers, observers, the web server and signals.

main thread     the worker's event loop: brokers, the group, commits
engine thread   steps, one at a time
web thread      metrics and health
watchdog        all stacks, when one of the others does not get on
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

from streamproc.adapters import logs, packing
from streamproc.adapters.codecs import JsonSerde
from streamproc.adapters.http import HttpServer
from streamproc.adapters.kafka import KafkaBroker
from streamproc.adapters.prometheus import PrometheusObserver
from streamproc.adapters.prometheus.observer import Worker as Described
from streamproc.cli.brokers import broker_of, connect, told
from streamproc.cli.loading import load
from streamproc.cli.outcomes import DONE, TOO_LATE
from streamproc.cli.running import STRETCH
from streamproc.cli.serving import served
from streamproc.cli.signals import Ladder
from streamproc.cli.supervisor import SUPERVISED
from streamproc.cli.topic_limits import topic_limits_of
from streamproc.cli.watchdog import Watchdog
from streamproc.config import Config
from streamproc.core.describe import outline
from streamproc.core.errors import ConfigError, StreamprocError
from streamproc.core.plan import Graph, Plan, build
from streamproc.metrics.lag import LagObserver
from streamproc.metrics.observers import Observers
from streamproc.ports.broker import BrokerError, Membership
from streamproc.ports.worker import Limits, Pulse
from streamproc.runners.collector import tuned_collector
from streamproc.runners.worker.fetching import Unreadable
from streamproc.runners.worker.producing import Forbidden, Unwritable
from streamproc.runners.worker.worker import Settings, Worker

STEPS = (
    "after_init_pid",
    "mid_restore",
    "after_produce",
    "after_offsets",
    "before_endtxn",
    "after_endtxn",
    "before_fold",
)
"""Where STREAMPROC_CRASH_AT may end a worker."""

TURN = 0.0005
"""Seconds for which the engine's thread may keep the interpreter while the event loop waits for it.

Python's own 5 ms would pass after each call of the system: with it, one partition ran at 0.6 to 0.7 of the rate.
"""

SLACK = 1.0
"""Seconds beyond the time for a drain after which a process leaves whatever it is doing."""


ENDED = {
    "ended": "done: the sources have been read as far as they reached at the beginning, and all windows are closed",
    "complete": "nothing to do: the sources have been read to their end before; `streamproc offsets reset` begins anew",
    "grown": (
        "nothing done: the sources have grown since they were read to their end, and all windows are closed. Without "
        "--until-end what is new is read, with everything that belongs into a closed window counted as late; "
        "`streamproc offsets reset` begins anew"
    ),
}
"""How a run with an end came to it, in words."""


def execute(spec: str, config: Config, *, until_end: bool = False) -> int:
    """Run a worker until it is stopped, or `until_end` to the end of its sources, and say how it went."""
    graph = load(spec).graph()
    build(graph, 1)  # what is wrong with it, whatever the brokers have
    crash = Crash.planned(os.environ.get("STREAMPROC_CRASH_AT", ""))
    watched = Watched(graph, config)
    form: Any = config.log_format
    logs.configure(config.log_level, form, context={"topology": graph.name}, counted=watched.metrics.logged)
    try:
        sys.setswitchinterval(TURN)
        with tuned_collector():
            outcome = asyncio.run(_run(graph, config, watched, crash, until_end=until_end))
    except BrokerError as error:
        raise told(error) from error
    except Forbidden as error:
        raise ConfigError(str(error)) from error
    except (Unreadable, Unwritable) as error:
        raise StreamprocError(str(error)) from error
    if outcome in ENDED:
        print(ENDED[outcome], file=sys.stderr)
        return DONE
    if outcome == "drained":
        return DONE
    print(f"streamproc: {outcome}; what was not committed will be read again", file=sys.stderr)
    return TOO_LATE


async def _run(graph: Graph, config: Config, watched: Watched, crash: Callable[[str], None], *, until_end: bool) -> str:
    broker = broker_of(config, watched.metrics.answered)
    try:
        worker = worker_of(graph, config, broker, watched, crash, until_end=until_end)
        watched.pulse = lambda: worker.pulse
        with (
            served(config, partial(_server, config, watched)) as address,
            _stopping(worker, config) as early,
            Watchdog(watched.pulse, _limits(config), asyncio.get_running_loop()),
        ):
            if address is not None:
                print(f"metrics at {address}/metrics", file=sys.stderr, flush=True)
            connecting = asyncio.create_task(connect(broker, config))
            asked = asyncio.create_task(early.wait())
            await asyncio.wait({connecting, asked}, return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
            if not connecting.done():
                connecting.cancel()
                return "drained"
            await connecting
            return await worker.run()
    finally:
        with suppress(BrokerError):
            await broker.close()


@dataclass(slots=True)
class Watched:
    """Who watches a worker, and what the web server shows of it."""

    graph: Graph
    config: Config
    metrics: PrometheusObserver = field(init=False)
    lag: LagObserver = field(init=False, default_factory=LagObserver)
    plan: Plan | None = None
    pulse: Callable[[], Pulse] = field(init=False)

    def __post_init__(self) -> None:
        client = f"aiokafka {metadata.version('aiokafka')}"
        worker = Described(client=client, guarantee=self.config.guarantee, kafka=True)
        self.metrics = PrometheusObserver(self.graph.name, worker=worker)

    def planned(self, counts: Mapping[str, int]) -> Plan:
        """The plan for so many partitions of each source."""
        self.plan = build(self.graph, counts)
        return self.plan

    def outline(self) -> Any:
        """The plan as data; until brokers have told how many partitions there are, for one."""
        return outline(build(self.graph, 1) if self.plan is None else self.plan)


def worker_of(  # noqa: PLR0913 - everything a worker is made of
    graph: Graph,
    config: Config,
    broker: KafkaBroker,
    watched: Watched,
    crash: Callable[[str], None],
    *,
    until_end: bool = False,
) -> Worker:
    """A worker as the settings have it."""
    sources = sorted({node.source.topic for node in graph.nodes if node.source})
    observers = (watched.metrics, logs.LogObserver(counted=watched.metrics.logged), watched.lag)
    tick = config.commit_interval / 1000
    guarantee: Any = config.guarantee
    tell = logging.getLogger("streamproc.worker").info
    membership = Membership(
        graph.app,
        "streamproc",
        config.group_session_timeout,
        config.group_rebalance_timeout,
        config.group_instance_id,
    )
    settings = Settings(
        membership,
        guarantee,
        tick=tick,
        stretched=max(tick, min(1.0, tick * STRETCH)),
        lasting=config.transaction_timeout / 1000,
        drain=config.drain_timeout / 1000,
        heartbeat=config.group_heartbeat_interval / 1000,
        stall_after=config.stall_after / 1000,
        topic_limits=topic_limits_of(config, tell),
        until_end=until_end,
    )
    return Worker(
        sources,
        watched.planned,
        broker=broker,
        serde=JsonSerde(),
        packing=packing,
        observer=Observers(observers),
        compute=Engine(asyncio.get_running_loop()),
        clock=time.time,
        stopwatch=time.perf_counter,
        settings=settings,
        tell=tell,
        crash=crash,
    )


class _Work(NamedTuple):
    function: Callable[[], Any]
    done: asyncio.Future[Any]


class Engine:
    """A thread that runs one function after the other.  A process that ends does not wait for it.

    A pool of the standard library would be waited for, so that a step without an end would keep a process that has
    been told to leave.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: SimpleQueue[_Work] = SimpleQueue()
        Thread(target=self._turn, name="streamproc-engine", daemon=True).start()

    async def __call__(self, function: Callable[[], Any]) -> Any:
        """What the function gives or raises."""
        work = _Work(function, self._loop.create_future())
        self._queue.put(work)
        return await work.done

    def _turn(self) -> None:
        while True:
            self._do(self._queue.get())

    def _do(self, work: _Work) -> None:
        result, error = None, None
        try:
            result = work.function()
        except BaseException as raised:  # noqa: BLE001 - it is raised where the work was asked for
            error = raised
        with suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, work.done, result, error)


def _settle(done: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if done.done():  # cancelled
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


@dataclass(slots=True)
class Crash:
    """Ends this process at the nth time of a step, as if its machine had lost power; for tests."""

    step: str
    passing: int
    _seen: Counter[str] = field(default_factory=Counter)

    @classmethod
    def planned(cls, text: str) -> Callable[[str], None]:
        """What STREAMPROC_CRASH_AT says: a step, and `:n` for its nth time."""
        if not text:
            return lambda _: None
        step, _, passing = text.partition(":")
        if step not in STEPS or (passing and not passing.isdecimal()):
            raise ConfigError(f"STREAMPROC_CRASH_AT is {text!r}: use STEP or STEP:N with a step of {', '.join(STEPS)}")
        return cls(step, int(passing or 1))

    def __call__(self, step: str) -> None:
        """A step has been reached."""
        self._seen[step] += 1
        if step == self.step and self._seen[step] == self.passing:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class _Asking:
    """Brings a wish to stop from a signal handler into the event loop."""

    loop: asyncio.AbstractEventLoop
    worker: Worker
    early: asyncio.Event
    requested: bool = False

    def request(self) -> None:
        self.requested = True
        self.loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self.early.set()
        self.worker.stop()


@contextmanager
def _stopping(worker: Worker, config: Config) -> Iterator[asyncio.Event]:
    """Signals for the time of a run; the event says that one has come."""
    loop, early = asyncio.get_running_loop(), asyncio.Event()
    asking = _Asking(loop, worker, early)
    with Ladder(asking, config.drain_timeout / 1000 + SLACK, lambda: None), _tethered(loop, asking):
        yield early


@contextmanager
def _tethered(loop: asyncio.AbstractEventLoop, asking: _Asking) -> Iterator[None]:
    """With a supervisor, the end of standard input says that it is gone: drain."""
    if SUPERVISED not in os.environ:
        yield
        return
    stdin = sys.stdin.fileno()

    def heard() -> None:
        if not os.read(stdin, 4096):
            loop.remove_reader(stdin)
            asking.request()

    loop.add_reader(stdin, heard)
    try:
        yield
    finally:
        loop.remove_reader(stdin)


def _server(config: Config, watched: Watched, port: int) -> HttpServer:
    return HttpServer(
        config.http_host,
        port,
        watched.metrics.registry,
        watched.pulse,
        watched.outline,
        lag=watched.lag.table,
        limits=_limits(config),
    )


def _limits(config: Config) -> Limits:
    return Limits(rebalance=2 * config.group_rebalance_timeout / 1000, stall=3 * config.stall_after / 1000)
