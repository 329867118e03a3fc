"""One run: a plan, its inputs and outputs, a state file, observers, the web server, signals, and a view."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from streamproc.adapters import logs
from streamproc.adapters.codecs import JsonSerde
from streamproc.adapters.prometheus import PrometheusObserver
from streamproc.cli import wiring
from streamproc.cli.loading import load
from streamproc.cli.screen import Screen, View, drawing, terminal
from streamproc.cli.serving import served
from streamproc.cli.signals import Ladder
from streamproc.config import Config
from streamproc.core.describe import outline
from streamproc.core.errors import ConfigError, StateError, StreamprocError
from streamproc.core.plan import Plan, build
from streamproc.metrics.observers import Observers
from streamproc.runners.embedded import EmbeddedRunner, Outcome, Settings, Stop

if TYPE_CHECKING:
    from streamproc.adapters.http import HttpServer

DONE = 0
STRETCH = 10
"""While catching up, the time between commits is up to so many times the tick."""

LIVE_STRETCH = 2
"""The same while somebody watches."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line says of one run, apart from settings."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    partitions: int
    follow: bool
    keep_open: bool


def execute(spec: str, config: Config, asked: Asked) -> int:
    """Run a topology to its end, and say how it went."""
    if asked.follow and asked.keep_open:
        raise ConfigError("--follow never comes to an end, so that --keep-open has nothing to keep open: take one")
    if asked.partitions < 1:
        raise ConfigError(f"--partitions {asked.partitions}: at least 1")
    plan = build(load(spec).graph(), asked.partitions)
    inputs = wiring.inputs(asked.inputs, plan)
    outputs = wiring.outputs(asked.outputs, plan)
    state = wiring.state_file(config, plan, inputs)
    try:
        return _run(plan, config, asked, inputs, outputs, state)
    finally:
        state.remove()


def _run(  # noqa: PLR0913, PLR0917 - everything a run is made of
    plan: Plan,
    config: Config,
    asked: Asked,
    inputs: Sequence[wiring.Input],
    outputs: dict[str, str],
    state: wiring.StateFile,
) -> int:
    serde = JsonSerde()
    stop = Stop()
    sources = [wiring.source_of(one, plan, serde, follow=asked.follow) for one in inputs]
    stream = sys.stderr if wiring.STANDARD in outputs.values() else sys.stdout
    with ExitStack() as held:
        held.enter_context(Ladder(stop, config.drain_timeout / 1000, state.remove))
        log = held.enter_context(state.opened(plan))
        for source in sources:
            held.callback(source.close)
        written = {topic: wiring.output_of(path) for topic, path in outputs.items()}
        for output in written.values():
            held.callback(output.close)
        metrics = PrometheusObserver(plan.name)
        screen = Screen(sources, frozenset(plan.sinks), time.monotonic, None)
        runner = EmbeddedRunner(
            plan,
            log=log,
            sources=sources,
            outputs=written,
            serde=serde,
            observer=Observers((metrics, logs.LogObserver(counted=metrics.logged), screen)),
            clock=time.time,
            monotonic=time.monotonic,
            settings=_settings(config, asked, watched=terminal(stream) and not outputs),
            stop=stop,
        )
        screen.drawing, place = drawing(stream, time.monotonic(), beside=stream is sys.stderr, results=not outputs)
        with place, _logged(screen, config, plan.name, metrics):
            screen.address = held.enter_context(served(config, partial(_server, config, metrics, runner, plan)))
            if screen.address is not None and not isinstance(screen.drawing, View):
                print(f"metrics at {screen.address}/metrics", file=sys.stderr, flush=True)
            outcome = _ran(runner)
        print(_words(outcome, state, screen), file=stream)
    return DONE


def _settings(config: Config, asked: Asked, *, watched: bool) -> Settings:
    tick = config.commit_interval / 1000
    stretched = max(tick, min(1.0, tick * (LIVE_STRETCH if watched else STRETCH)))
    return Settings(tick, stretched, asked.follow, asked.keep_open)


def _ran(runner: EmbeddedRunner) -> Outcome:
    """Run; state that fails on the way, unlike state that does not fit, may be no trouble to a later run."""
    try:
        return runner.run()
    except StateError as error:
        if runner.pulse.last_step_at is None:
            raise
        raise StreamprocError(str(error)) from error


@contextmanager
def _logged(screen: Screen, config: Config, name: str, metrics: PrometheusObserver) -> Iterator[None]:
    """Logs as they are asked for; above a view that says the rest only what is wrong, unless asked for."""
    view = screen.drawing if isinstance(screen.drawing, View) else None
    level = "warning" if view is not None and config.is_default("log.level") else config.log_level
    form: Any = config.log_format
    logs.configure(level, form, context={"topology": name}, counted=metrics.logged)
    yield
    if view is not None and screen.tally.read:
        view.draw(screen)


def _server(config: Config, metrics: PrometheusObserver, runner: EmbeddedRunner, plan: Plan, port: int) -> HttpServer:
    from streamproc.adapters.http import HttpServer  # slow to import, and not always wanted

    return HttpServer(config.http_host, port, metrics.registry, lambda: runner.pulse, lambda: outline(plan))


def _words(outcome: Outcome, state: wiring.StateFile, screen: Screen) -> str:
    """How a run ended, for people."""
    match outcome.how:
        case "complete":
            return (
                f"nothing to do: {state.path} says that these inputs have been read to their end; "
                "name another --state to read them again"
            )
        case "grown":
            return (
                f"nothing done: {', '.join(outcome.grown)} has grown since it was read to its end, and all windows are "
                "closed. --follow reads on, with everything that is older counted as late; another --state reads "
                "all of it anew"
            )
        case "stopped":
            return f"stopped, to go on from here: {screen.summary()}"
        case "left_open":
            return f"all read, nothing closed: {screen.summary()}"
        case "ended":
            return f"done: {screen.summary()}"


def reloading() -> int:
    """Run this command line without --reload in a child process, anew whenever a .py file changes."""
    try:
        from watchfiles import PythonFilter, run_process
    except ImportError as error:
        raise ConfigError('--reload needs watchfiles: pip install "streamproc[cli]"') from error
    arguments = [each for each in sys.argv[1:] if each != "--reload"]
    with suppress(KeyboardInterrupt):
        run_process(
            ".",
            target=_quoted([sys.executable, "-m", "streamproc", *arguments]),
            target_type="command",
            watch_filter=PythonFilter(),
            callback=lambda _: print("a file changed: starting anew", file=sys.stderr),
        )
    return DONE


def _quoted(words: Sequence[str]) -> str:
    import shlex

    return shlex.join(words)
