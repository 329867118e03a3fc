"""What can be found wrong with a topology before it runs on the brokers there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

from streamproc.adapters.kafka import KafkaAdmin, KafkaBroker, Topic
from streamproc.cli import provisioning, reading
from streamproc.cli.checks import Finding
from streamproc.config import Config
from streamproc.core.errors import TopologyError
from streamproc.core.partition import partition, strays
from streamproc.core.plan import Graph, Plan, build
from streamproc.ports.broker import TopicPartition
from streamproc.runners.worker.takeover import layout

SAMPLE = 500
"""Offsets at the end of each partition whose keys are looked at."""
SAFE = 2
"""The least min.insync.replicas that survives the loss of a broker."""


async def findings(broker: KafkaBroker, admin: KafkaAdmin, graph: Graph, config: Config) -> list[Finding]:
    """Everything found, in the order of codes."""
    found = list(settings_refused(config, await admin.broker_configs()))
    return sorted([*found, *await _found(broker, admin, graph)], key=lambda one: one.code)


def settings_refused(config: Config, brokers: Mapping[str, str]) -> Iterator[Finding]:
    """Settings beyond what brokers allow, which they would refuse when a worker begins."""
    for name, value, least, most in (
        ("transaction.timeout", config.transaction_timeout, "", "transaction.max.timeout.ms"),
        (
            "group.session_timeout",
            config.group_session_timeout,
            "group.min.session.timeout.ms",
            "group.max.session.timeout.ms",
        ),
    ):
        low, high = brokers.get(least), brokers.get(most)
        if high is not None and value > int(high):
            yield Finding("SP206", "error", name, f"{name} is {value} ms, and brokers allow at most {most}={high}")
        elif low is not None and value < int(low):
            yield Finding("SP206", "error", name, f"{name} is {value} ms, and brokers want at least {least}={low}")


async def _found(broker: KafkaBroker, admin: KafkaAdmin, graph: Graph) -> list[Finding]:
    sources = await admin.describe_topics(reading.sources(graph))
    missing = [topic for topic in reading.sources(graph) if topic not in sources]
    if missing:
        return [
            Finding("SP201", "error", topic, f"topic {topic!r} is read and does not exist: create it")
            for topic in missing
        ]
    try:
        plan = build(graph, {topic: found.partitions for topic, found in sources.items()})
    except TopologyError as error:
        return [Finding("SP202", "error", graph.name, str(error))]
    wanted = provisioning.needed(plan)
    there = await admin.describe_topics([each.name for each in wanted])
    found = list(_topics(wanted, there))
    found += _copies(wanted, there, await admin.brokers())
    found += [one async for one in _keys(broker, plan)]
    found += [one async for one in _state(broker, plan, there)]
    return found


def _topics(wanted: Sequence[provisioning.Needed], there: Mapping[str, Topic]) -> Iterator[Finding]:
    for each in wanted:
        topic = there.get(each.name)
        if topic is None:
            yield Finding(
                "SP201",
                "error",
                each.name,
                f"topic {each.name!r} ({each.kind}) does not exist: `streamproc topics apply` creates it",
            )
        elif each.own:
            if topic.partitions != each.partitions:
                yield Finding("SP202", "error", each.name, f"topic {each.name!r}: {each.miscounted(topic)}")
            for why in each.misconfigured(topic):
                yield Finding("SP204", "error", each.name, f"topic {each.name!r}: {why}")


def _copies(wanted: Sequence[provisioning.Needed], there: Mapping[str, Topic], brokers: int) -> Iterator[Finding]:
    """Where the loss of one broker would lose what is promised to be kept."""
    if brokers < provisioning.REPLICATION:
        return
    for each in wanted:
        topic = there.get(each.name)
        if topic is None or not each.own:
            continue
        least = int(topic.configs.get("min.insync.replicas", "1"))
        if topic.replication < provisioning.REPLICATION or least < SAFE:
            yield Finding(
                "SP205",
                "warning",
                each.name,
                f"topic {each.name!r} has {topic.replication} replicas and min.insync.replicas={least}: with fewer "
                f"than {provisioning.REPLICATION} and {SAFE} the loss of a broker can lose state",
            )


async def _keys(broker: KafkaBroker, plan: Plan) -> AsyncIterator[Finding]:
    """Whether the records of keyed sources are where their keys belong, as far as a sample shows."""
    for inlet in plan.inlets:
        if inlet.source is None or inlet.source.key is None:
            continue
        count = plan.counts[inlet.topic]
        looked, wrong, example = 0, 0, ""
        for number in range(count):
            place = TopicPartition(inlet.topic, number)
            rows = [row async for row in _newest(broker, place) if row.key is not None]
            astray = [rows[at] for at in strays((row.key for row in rows), number, count)]
            looked += len(rows)
            wrong += len(astray)
            for row in astray[:1]:
                right = partition(row.key or b"", count)
                example = example or f"the key at offset {row.offset} of partition {number} belongs to {right}"
        if wrong:
            yield Finding(
                "SP203",
                "error",
                inlet.topic,
                f"topic {inlet.topic!r} is read as keyed, and {wrong} of {looked} of its newest records are not in "
                f"the partition of their key ({example}): its producer has another partitioner than Kafka's default, "
                "or partitions were added. Use that partitioner (librdkafka: partitioner=murmur2_random), or leave "
                "out key= and say key_by",
            )


async def _newest(broker: KafkaBroker, place: TopicPartition) -> AsyncIterator[reading.Row]:
    start = (await reading.starts(broker, [place]))[place]
    end = (await reading.ends(broker, [place]))[place]
    async for fetched in reading.behind(broker, place, max(start, end - SAMPLE), end):
        for row in reading.rows(fetched, end):
            yield row


async def _state(broker: KafkaBroker, plan: Plan, there: Mapping[str, Topic]) -> AsyncIterator[Finding]:
    """Whether state that is there can be read by the nodes that there are."""
    for stage in plan.stages:
        topic = there.get(plan.changelog(stage))
        if topic is None or topic.partitions != stage.partitions:
            continue  # there is no state, or it has been found already
        written: dict[str, str] = {}
        for task in (reading.Task(stage, number) for number in range(stage.partitions)):
            position = await reading.position_of(broker, task.changelog(plan))
            written |= position["layout"] if position is not None else {}
        now = layout(stage)
        for node, was in sorted(written.items()):
            if node not in now:
                yield Finding(
                    "SP104",
                    "warning",
                    node,
                    f"there is state of node {node!r}, which {plan.name} no longer has: it is kept, and not read",
                )
            elif now[node] != was:
                yield Finding(
                    "SP103",
                    "error",
                    node,
                    f"the state of node {node!r} was written by {was}, and it is {now[node]} now: give it a new name, "
                    "or begin anew with `streamproc offsets reset`",
                )
