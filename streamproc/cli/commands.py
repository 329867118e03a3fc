"""The commands, and how every one of them ends: with a code, and with one clear paragraph if badly."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter

from streamproc.cli import operating  # the commands of those who operate a topology on Kafka
from streamproc.cli.options import (
    Brokers,
    Debug,
    Drain,
    Follow,
    Format,
    Inputs,
    Interval,
    Json,
    KeepOpen,
    Level,
    NoHttp,
    Outputs,
    Partitions,
    Place,
    Port,
    Shape,
    Spec,
    State,
    UntilEnd,
    Workers,
    app,
    config,
    counted,
    on_kafka,
    settings,
    switch,
    topics,
)
from streamproc.cli.outcomes import CRASH, DONE, SECOND, UNFIT, UNREACHABLE, USAGE, Unreachable
from streamproc.config import Config, shown
from streamproc.core.errors import ConfigError, StateError, StreamprocError, TopologyError
from streamproc.ports.broker import BrokerError


@app.command
def run(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    input: Inputs = None,  # noqa: A002 - the flag's name
    output: Outputs = None,
    partitions: Partitions = 1,
    follow: Follow = False,
    keep_open: KeepOpen = False,
    until_end: UntilEnd = False,
    state: State = None,
    bootstrap_servers: Brokers = None,
    workers: Workers = None,
    port: Port = None,
    no_http: NoHttp = None,
    commit_interval: Interval = None,
    drain_timeout: Drain = None,
    log_level: Level = None,
    log_format: Format = None,
    debug: Debug = False,
) -> int:
    """Run a topology: over inputs until they end, or as a worker on Kafka until it is stopped or, if asked, the end."""
    flags = {
        "embedded.file": state,
        "kafka.bootstrap_servers": bootstrap_servers,
        "workers": workers,
        "http.port": port,
        "http.enabled": False if no_http else None,
        "commit.interval": commit_interval,
        "drain.timeout": drain_timeout,
        "log.level": log_level,
        "log.format": log_format,
    }
    found = settings(flags)
    if _runner(found, given=bool(input)) == "embedded":
        from streamproc.cli.running import Asked, execute

        if until_end:
            raise ConfigError(
                "--until-end is for runs on Kafka: one over --input ends by itself, unless it is told to go on"
            )
        if found.workers > 1:
            raise ConfigError(f"workers is {found.workers}, and one process reads --input: several need Kafka")
        return execute(spec, found, Asked(tuple(input or ()), tuple(output or ()), partitions, follow, keep_open))
    embedded = {
        "--input": input,
        "--output": output,
        "--partitions": partitions != 1,
        "--follow": follow,
        "--keep-open": keep_open,
        "--state": state,
    }
    if wrong := [name for name, value in embedded.items() if value]:
        raise ConfigError(f"{wrong[0]} is for runs over files, and this one is on Kafka: see the setting runner")
    if found.workers > 1:
        from streamproc.cli.supervisor import supervise

        more = [*(["--until-end"] if until_end else []), *(["--debug"] if debug else [])]
        return supervise(spec, found, flags, more)
    from streamproc.cli.kafka import execute as work

    return work(spec, found, until_end=until_end)


def _runner(found: Config, *, given: bool) -> str:
    """What runs a topology: as it is set, else Kafka where brokers are named and no input is `given`."""
    if found.runner == "auto":
        return "kafka" if found.kafka_bootstrap_servers is not None and not given else "embedded"
    if found.runner == "kafka" and found.kafka_bootstrap_servers is None:
        raise ConfigError(
            "runner is kafka, and no brokers are named: --bootstrap-servers HOST:PORT, or "
            "STREAMPROC_KAFKA__BOOTSTRAP_SERVERS"
        )
    return found.runner


@app.command
def dev(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    reload: Annotated[bool, switch("Start anew when a .py file changes.")] = False,
    input: Inputs = None,  # noqa: A002 - the flag's name
    output: Outputs = None,
    partitions: Partitions = 1,
    follow: Follow = False,
    keep_open: KeepOpen = False,
    state: State = None,
    port: Port = None,
    no_http: NoHttp = None,
    log_level: Level = None,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Run a topology while it is being written: settings from .env too, logs for people."""
    from streamproc.cli.running import Asked, execute, reloading

    if reload:
        return reloading()
    flags = {
        "embedded.file": state,
        "http.port": port,
        "http.enabled": False if no_http else None,
        "log.level": log_level,
        "log.format": "pretty",
    }
    found = settings(flags, dev=True)
    return execute(spec, found, Asked(tuple(input or ()), tuple(output or ()), partitions, follow, keep_open))


@app.command
def describe(
    spec: Spec,
    /,
    *,
    format: Annotated[Shape, Parameter(help="How it is drawn; code is the generated loops.")] = "tree",  # noqa: A002
    partitions: Partitions = 1,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Show what a topology does, without running it."""
    from streamproc.cli.loading import load as load_topology
    from streamproc.core import describe as drawn
    from streamproc.core.plan import build

    plan = build(load_topology(spec).graph(), counted(partitions))
    if format == "json":
        print(json.dumps(drawn.outline(plan), indent=2, ensure_ascii=False))
    elif format == "code":
        from streamproc.core import fuse

        print(fuse.code(plan), end="")
    else:
        shapes = {"tree": drawn.tree, "mermaid": drawn.mermaid, "dot": drawn.dot}
        print(shapes[format](plan), end="")
    return DONE


@app.command
def check(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    offline: Annotated[bool, switch("Ask nobody: the plan alone.")] = False,
    format: Annotated[Literal["text", "json", "github"], Parameter(help="How findings are written.")] = "text",  # noqa: A002
    partitions: Partitions = 1,
    bootstrap_servers: Brokers = None,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Find mistakes in a topology before it runs; exit 3 if there is an error among them.

    Where brokers are named, they are asked too: for topics, keys, and state that is there.
    """
    from streamproc.cli.checks import findings, written
    from streamproc.cli.loading import load as load_topology

    found_settings = on_kafka(bootstrap_servers)
    brokers = found_settings.kafka_bootstrap_servers is not None
    found = findings(lambda: load_topology(spec), counted(partitions), stamped=brokers)
    if brokers and not offline and all(one.code != "SP100" for one in found):
        found += operating.online(found_settings, load_topology(spec).graph())
    for line in written(sorted(found, key=lambda one: one.code), format):
        print(line)
    return UNFIT if any(one.severity == "error" for one in found) else DONE


@topics.command
def ls(
    *,
    state: Place,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The topics of a state file, with how many records each partition has, as JSON lines."""
    from streamproc.cli.topics import counts

    for row in counts(state):
        print(json.dumps(row))
    return DONE


@topics.command
def read(
    topic: str,
    /,
    *,
    state: Place,
    partition: Annotated[int | None, Parameter(help="Only this partition.")] = None,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The records of a topic in a state file, as JSON lines."""
    from streamproc.cli.topics import records

    for row in records(state, topic, partition):
        print(json.dumps(row, ensure_ascii=False))
    return DONE


@config.command
def show(
    *,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Every setting, its value, and where that came from."""
    for row in shown(settings({})):
        if as_json:
            print(json.dumps(row))
        else:
            value = (
                "-"
                if row["value"] is None
                else str(row["value"]).lower()
                if row["value"] in (True, False)
                else row["value"]
            )
            print(f"{row['name']:24} {value!s:16} {row['origin']:24} {row['variable']}")
    return DONE


def run_command(arguments: Sequence[str]) -> int:
    """Run one command line; every error has become a paragraph on stderr and a code."""
    try:
        answer: Any = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt:
        return SECOND
    except Exception as error:  # noqa: BLE001 - the edge: what nobody expected is said, with where it happened
        return _said(error, _code(error), debug="--debug" in arguments)
    return answer if isinstance(answer, int) else DONE


def _code(error: Exception) -> int:
    if isinstance(error, CycloptsError | ConfigError):
        return USAGE
    if isinstance(error, Unreachable):
        return UNREACHABLE
    return UNFIT if isinstance(error, TopologyError | StateError) else CRASH


def _said(error: BaseException, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    words = str(error) if isinstance(error, StreamprocError | CycloptsError | BrokerError) else _unexpected(error)
    print(f"streamproc: {words}", file=sys.stderr)
    return code


def _unexpected(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name} line {last.lineno}"
    return f"{type(error).__name__}: {error} ({where}; --debug shows the whole way there)"


def _reader_gone() -> int:
    """Whoever read our output has seen enough; nothing more may be written to it, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE
