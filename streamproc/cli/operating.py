"""The commands of those who operate a topology on Kafka: topics, lag, offsets, state, dead letters, health.

What reads writes rows, as JSON lines with --json; what changes something says it first and asks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from streamproc.cli.options import (
    Brokers,
    Debug,
    DryRun,
    Json,
    Spec,
    Yes,
    app,
    dlq,
    offsets,
    on_kafka,
    several,
    state,
    switch,
    topics,
)
from streamproc.cli.outcomes import CRASH, DONE, UNFIT
from streamproc.config import Config
from streamproc.core.errors import ConfigError

if TYPE_CHECKING:
    from streamproc.adapters.kafka import KafkaAdmin, KafkaBroker
    from streamproc.cli.checks import Finding
    from streamproc.core.plan import Graph

T = TypeVar("T")

At = Annotated[list[str] | None, several("--at", "HOST:PORT of a worker or a supervisor; may be said more than once.")]
Reason = Annotated[str | None, Parameter(help="Only letters with this reason.")]
Node = Annotated[str | None, Parameter(help="Only letters of this node.")]


def _graph(spec: str) -> Graph:
    from streamproc.cli.loading import load

    return load(spec).graph()


def _ask(settings: Config, question: Callable[[KafkaBroker], Awaitable[T]]) -> T:
    from streamproc.cli.brokers import ask

    return ask(settings, question)


def _administer(settings: Config, question: Callable[[KafkaBroker, KafkaAdmin], Awaitable[T]]) -> T:
    """What comes of a question that needs administration too."""
    from streamproc.cli.brokers import administered

    async def both(broker: KafkaBroker) -> T:
        async with administered(settings) as admin:
            return await question(broker, admin)

    return _ask(settings, both)


def _rows(rows: Iterable[dict[str, Any]], *, as_json: bool) -> None:
    for row in rows:
        if as_json:
            print(json.dumps(row, ensure_ascii=False, default=repr))
        else:
            print("  ".join(f"{name} {_shown(value)}" for name, value in row.items() if value is not None))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)


def _agreed(question: str, *, yes: bool) -> bool:
    """Whether it shall be done; ConfigError where nobody can be asked."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ConfigError("nobody can be asked here: say --yes to do it, or --dry-run to see what it would be")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def online(settings: Config, graph: Graph) -> list[Finding]:
    """What `check` finds on the brokers."""
    from streamproc.cli.online import findings

    return _administer(settings, lambda broker, admin: findings(broker, admin, graph, settings))


# topics

Sourced = Annotated[int | None, Parameter(help="Sources that do not exist get so many partitions.")]
Replication = Annotated[int | None, Parameter(help="Replicas of new topics: 3, or 1 on fewer than 3 brokers.")]


@topics.command
def plan(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    partitions: Sourced = None,
    replication: Replication = None,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The topics that a topology needs on Kafka: which exist, and which `apply` would create; 3 if one is wrong."""
    return _topics(spec, partitions, replication, on_kafka(bootstrap_servers), as_json=as_json, act=None)


@topics.command
def apply(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    partitions: Sourced = None,
    replication: Replication = None,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Create the topics that a topology needs on Kafka and that do not exist; nothing that exists is changed."""
    settings = on_kafka(bootstrap_servers)

    def agreed(count: int) -> bool:
        return not dry_run and _agreed(f"create {count} topics?", yes=yes)

    return _topics(spec, partitions, replication, settings, as_json=as_json, act=agreed)


def _topics(  # noqa: PLR0913 - what both commands take
    spec: str,
    partitions: int | None,
    replication: int | None,
    settings: Config,
    *,
    as_json: bool,
    act: Callable[[int], bool] | None,
) -> int:
    from streamproc.cli import provisioning

    graph = _graph(spec)

    async def work(_: KafkaBroker, admin: KafkaAdmin) -> int:
        found = await provisioning.findings(admin, graph, partitions, replication)
        for each in found:
            print(json.dumps(each.row()) if as_json else provisioning.text(each))
        missing = [each.topic() for each in found if each.state == "create"]
        if any(each.state == "wrong" for each in found):
            return UNFIT
        if act is not None and missing and act(len(missing)):
            created = await admin.create_topics(missing)
            print(f"created {', '.join(created) or 'nothing: they had come meanwhile'}", file=sys.stderr)
        return DONE

    return _administer(settings, work)


# lag, offsets


@app.command
def lag(
    spec: Spec,
    /,
    *,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """How far a topology is behind in each partition, as the brokers have it."""
    from streamproc.cli.offsets import standings

    graph = _graph(spec)
    found = _ask(on_kafka(bootstrap_servers), lambda broker: standings(broker, graph))
    rows = [
        {
            "topic": each.topic,
            "partition": each.partition,
            "committed": each.committed,
            "end": each.end,
            "lag": each.lag,
        }
        for each in found
    ]
    _rows(rows, as_json=as_json)
    return DONE


@offsets.command(name="show")
def show_offsets(
    spec: Spec,
    /,
    *,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """What is committed of each partition, and what there is, by task."""
    from streamproc.cli.offsets import standings

    graph = _graph(spec)
    found = _ask(on_kafka(bootstrap_servers), lambda broker: standings(broker, graph))
    _rows((each._asdict() | {"lag": each.lag} for each in found), as_json=as_json)
    return DONE


@offsets.command
def reset(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    /,
    *,
    to: Annotated[str, Parameter(help="earliest, latest, an offset, or a time such as 2026-03-01T12:00:00Z.")],
    keep_state: Annotated[bool, switch("Move the offsets alone, and keep all state.")] = False,
    topic: Annotated[str | None, Parameter(help="Only this source; with --keep-state.")] = None,
    partition: Annotated[int | None, Parameter(help="Only this partition; with --keep-state.")] = None,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Make a topology begin elsewhere, its state removed unless that is to be kept; all workers must be stopped."""
    from streamproc.cli.offsets import Reset, Scope, target

    settings, graph = on_kafka(bootstrap_servers), _graph(spec)
    wanted = Reset(graph, target(to), keep_state, Scope(topic, partition))

    async def work(broker: KafkaBroker, admin: KafkaAdmin) -> int:
        made, moves = await wanted.plan(broker, admin)
        _rows((row for move in moves for row in move.rows()), as_json=as_json)
        what = "state stays" if keep_state else "all state is removed"
        if not dry_run and _agreed(f"reset {len(moves)} tasks ({what})?", yes=yes):
            await wanted.apply(broker, made, moves, 60.0)
            print(f"reset {len(moves)} tasks", file=sys.stderr)
        return DONE

    return _administer(settings, work)


# state


@state.command(name="ls")
def list_state(
    spec: Spec,
    /,
    *,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The nodes with state, and how many cells each task has of them."""
    from streamproc.cli.state import summary

    graph = _graph(spec)

    async def work(broker: KafkaBroker) -> int:
        async for row in summary(broker, graph):
            _rows([row], as_json=as_json)
        return DONE

    return _ask(on_kafka(bootstrap_servers), work)


@state.command(name="get")
def get_state(  # noqa: PLR0913 - one parameter a flag
    spec: Spec,
    node: str,
    key: str | None = None,
    /,
    *,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The state of a node, of all keys or of one; `at` is the instant in ms at which a cell is due."""
    from streamproc.cli.state import cells

    graph = _graph(spec)

    async def work(broker: KafkaBroker) -> int:
        async for row in cells(broker, graph, node, key):
            _rows([row], as_json=as_json)
        return DONE

    return _ask(on_kafka(bootstrap_servers), work)


# dead letters


@dlq.command(name="ls")
def list_letters(  # noqa: PLR0913 - one parameter a flag
    topic: str,
    /,
    *,
    reason: Reason = None,
    node: Node = None,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """The dead letters of a topic in short: where each stands, why it is there, and where it came from."""
    from streamproc.cli.dlq import Filter, letters

    async def work(broker: KafkaBroker) -> int:
        async for letter in letters(broker, topic, Filter(reason, node)):
            _rows([letter.summary()], as_json=as_json)
        return DONE

    return _ask(on_kafka(bootstrap_servers), work)


@dlq.command(name="show")
def show_letter(  # noqa: PLR0913 - one parameter a flag
    topic: str,
    partition: int,
    offset: int,
    /,
    *,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """One dead letter with its key, value and all headers."""
    from streamproc.cli.dlq import letter_at

    letter = _ask(on_kafka(bootstrap_servers), lambda broker: letter_at(broker, topic, partition, offset))
    if as_json:
        _rows([letter.whole()], as_json=True)
        return DONE
    for name, value in letter.whole().items():
        if name != "headers":
            print(f"{name:10} {_shown(value)}")
    for name, content in letter.whole()["headers"]:
        print(f"{name}: {content}")
    return DONE


@dlq.command
def replay(  # noqa: PLR0913 - one parameter a flag
    topic: str,
    /,
    *,
    reason: Reason = None,
    node: Node = None,
    rate: Annotated[float | None, Parameter(help="How many records a second at most.")] = None,
    all_: Annotated[bool, switch("Begin with the first letter again, not behind the last replay.", "--all")] = False,
    bootstrap_servers: Brokers = None,
    as_json: Json = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Send dead letters back to the topics they came from, each three times at most."""
    from streamproc.cli.dlq import Filter, Replay

    if rate is not None and rate <= 0:
        raise ConfigError(f"--rate {rate:g}: more than 0")
    chosen, now = Filter(reason, node), int(time.time() * 1000)

    async def work(broker: KafkaBroker) -> int:
        tally = await Replay(topic, chosen, dry=True, anew=all_).run(broker, now)
        if dry_run or not tally.sent:
            _rows(tally.rows(), as_json=as_json)
            return DONE
        if _agreed(f"send {sum(tally.sent.values())} records back to {', '.join(sorted(tally.sent))}?", yes=yes):
            tally = await Replay(topic, chosen, rate, anew=all_).run(broker, now)
            _rows(tally.rows(), as_json=as_json)
        return DONE

    return _ask(on_kafka(bootstrap_servers), work)


# workers


@app.command
def status(
    *,
    at: At = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """What workers say of themselves: state, health, and where each partition stands; 1 if one does not answer."""
    from streamproc.cli import status as asking

    well = True
    for row in asking.status(list(_addresses(at))):
        well = well and row["live"]
        if as_json:
            print(json.dumps(row))
        else:
            print("\n".join(asking.text(row)))
    return DONE if well else CRASH


@app.command
def healthcheck(
    *,
    ready: Annotated[bool, switch("Ask whether it is ready, not whether it is alive.")] = False,
    at: Annotated[str | None, Parameter(help="HOST:PORT of the worker; as the settings have it unless said.")] = None,
    debug: Debug = False,  # noqa: ARG001 - read before anything is parsed
) -> int:
    """Whether the worker on this machine is alive: 0 if it is, else 1."""
    from streamproc.cli.status import healthy

    (address,) = _addresses(None if at is None else [at])
    well, why = healthy(address, ready=ready)
    print(why, file=sys.stdout if well else sys.stderr)
    return DONE if well else CRASH


def _addresses(at: list[str] | None) -> Iterator[str]:
    from streamproc.cli.options import settings
    from streamproc.cli.status import address

    if at:
        yield from map(address, at)
        return
    found = settings({})
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(found.http_host, found.http_host)  # noqa: S104 - what it listens on
    yield f"[{host}]:{found.http_port}" if ":" in host else f"{host}:{found.http_port}"
