"""What tools read from brokers: topics to their present end, a plan for the partitions there are, a task's state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from streamproc.adapters import packing
from streamproc.adapters.kafka import KafkaBroker
from streamproc.core.batch import Headers
from streamproc.core.errors import StateError
from streamproc.core.plan import Graph, Plan, Stage, build
from streamproc.core.state import MemoryStore
from streamproc.ports.broker import Code, Fetched, Read, Refused, TopicPartition
from streamproc.runners.worker.changelog import FORMAT, Changelog, Restore
from streamproc.runners.worker.producing import patient

BYTES = 4_194_304
"""Bytes that are asked for at once."""
WAIT = 100
"""Milliseconds that a broker holds a read for which it has nothing."""
PATIENCE = 15.0
"""Seconds without anything new after which reading to an end is given up."""
MOVED = frozenset(
    {Code.NOT_LEADER, Code.LEADER_NOT_AVAILABLE, Code.KAFKA_STORAGE_ERROR, Code.UNKNOWN_TOPIC_OR_PARTITION}
)

POSITION = b"P"
"""The key of a task's position record."""


class Task(NamedTuple):
    """One task of a plan."""

    stage: Stage
    number: int

    @property
    def name(self) -> str:
        """Its name in logs and metrics."""
        return f"{self.stage.name}/{self.number}"

    def inputs(self) -> dict[str, TopicPartition]:
        """The partition that it reads of each topic."""
        return {inlet.topic: TopicPartition(inlet.topic, self.number) for inlet in self.stage.inlets}

    def changelog(self, plan: Plan) -> TopicPartition:
        """The partition that holds its state."""
        return TopicPartition(plan.changelog(self.stage), self.number)


def tasks(plan: Plan) -> list[Task]:
    """Every task of a plan, in order."""
    return [Task(stage, number) for stage in plan.stages for number in range(stage.partitions)]


def sources(graph: Graph) -> list[str]:
    """The topics that a topology declares as its sources."""
    return sorted({node.source.topic for node in graph.nodes if node.source})


async def counts(broker: KafkaBroker, topics: Collection[str]) -> dict[str, int]:
    """How many partitions there are of each topic that there is."""
    found = await patient(lambda: broker.metadata(topics)) if topics else {}
    for topic in topics:
        if found[topic].code not in {Code.NONE, Code.UNKNOWN_TOPIC_OR_PARTITION, Code.LEADER_NOT_AVAILABLE}:
            raise Refused(found[topic].code, f"describe topic {topic!r}")
    return {topic: len(found[topic].leaders) for topic in topics if found[topic].leaders}


async def planned(broker: KafkaBroker, graph: Graph) -> Plan:
    """The plan for as many partitions as the sources have; StateError for a source that is not there."""
    wanted = sources(graph)
    found = await counts(broker, wanted)
    if missing := [topic for topic in wanted if topic not in found]:
        raise StateError(
            f"topic {missing[0]!r}, which {graph.name} reads, does not exist: create it, or let "
            "`streamproc topics apply --partitions N` do it"
        )
    return build(graph, found)


async def behind(broker: KafkaBroker, place: TopicPartition, start: int, end: int) -> AsyncIterator[Fetched]:
    """What is committed in a partition from one offset up to another, or up to what was deleted.

    StateError if that end cannot be reached, as a transaction of somebody stays open.
    """
    clock = asyncio.get_running_loop().time
    node, at, moved = -1, start, clock()
    while at < end:
        if node < 0:
            described = await patient(lambda: broker.metadata([place.topic]))
            node = described[place.topic].leaders.get(place.partition, -1)
            if node < 0:
                await asyncio.sleep(WAIT / 1000)
        fetched = (
            (await broker.fetch(node, [Read(*place, at, BYTES)], WAIT, "read_committed"))[0] if node >= 0 else None
        )
        if fetched is not None and fetched.code == Code.OFFSET_OUT_OF_RANGE:
            first = await patient(lambda: broker.list_offsets([place], "start", "read_uncommitted"))
            if first[place] <= at:
                return
            at = first[place]
        elif fetched is not None and fetched.code in MOVED:
            node = -1
        elif fetched is not None and fetched.code:
            why = f" ({fetched.why})" if fetched.why else ""
            raise Refused(fetched.code, f"read topic {place.topic!r} partition {place.partition} at offset {at}{why}")
        elif fetched is not None and fetched.next_offset > at:
            at, moved = fetched.next_offset, clock()
            yield fetched
        if clock() - moved > PATIENCE:
            raise StateError(
                f"topic {place.topic!r} partition {place.partition}: nothing can be read from offset {at} on, and it "
                f"ends at {end}: a transaction has been open there for {PATIENCE:g} s"
            )


async def position_of(broker: KafkaBroker, place: TopicPartition) -> Mapping[str, Any] | None:
    """The position record in a changelog, looked for from its end on backwards; None if there is none."""
    first = (await starts(broker, [place]))[place]
    stop = (await ends(broker, [place]))[place]
    step = 1_000
    while stop > first:
        start, found = max(first, stop - step), None
        async for fetched in behind(broker, place, start, stop):
            for row in rows(fetched, stop):
                if row.key == POSITION:
                    found = row.value
        if found is not None:
            return position_in(found, place)
        stop, step = start, 4 * step
    return None


def position_in(value: bytes, place: TopicPartition) -> Mapping[str, Any]:
    """A position record as plain data; StateError where it cannot be read."""
    if value[:1] != bytes([FORMAT]):
        raise StateError(f"topic {place.topic!r} partition {place.partition}: its position record has another format")
    found: Mapping[str, Any] = packing.unpack(value[1:])
    return found


class Row(NamedTuple):
    """One record with its place."""

    place: TopicPartition
    offset: int
    at: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def rows(fetched: Fetched, end: int) -> list[Row]:
    """The records of a fetch in front of an offset."""
    place = TopicPartition(fetched.topic, fetched.partition)
    headers = fetched.headers or [()] * len(fetched.offsets)
    columns = zip(fetched.offsets, fetched.stamps, fetched.keys, fetched.values, headers, strict=True)
    return [Row(place, *row) for row in columns if row[0] < end]


async def ends(
    broker: KafkaBroker, places: Collection[TopicPartition], *, committed: bool = True
) -> Mapping[TopicPartition, int]:
    """Where partitions end: behind what is committed, or behind everything."""
    if not places:
        return {}
    return await patient(
        lambda: broker.list_offsets(places, "end", "read_committed" if committed else "read_uncommitted")
    )


async def starts(broker: KafkaBroker, places: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
    """The first offset of each partition."""
    return await patient(lambda: broker.list_offsets(places, "start", "read_uncommitted")) if places else {}


@dataclass(slots=True)
class Kept:
    """What the changelog of a task holds: its cells, its position record, and the key of every live record."""

    store: MemoryStore
    changelog: Changelog
    position: Mapping[str, Any] | None = None
    keys: list[bytes] = field(default_factory=list)


async def restored(broker: KafkaBroker, plan: Plan, task: Task, *, committed: bool = True) -> Kept:
    """The state of a task as its changelog has it now; nothing is written.

    With `committed=False` everything up to the very end is waited for: right for whoever has fenced the task.
    """
    place = task.changelog(plan)
    end = (await ends(broker, [place], committed=committed))[place]
    first = (await starts(broker, [place]))[place]
    store, changelog = MemoryStore(), Changelog(packing)
    nodes = [each.name for each in task.stage.places if each.stateful]
    restore = Restore(changelog, store, nodes, packing)
    live: dict[bytes, bool] = {}
    try:
        async for fetched in behind(broker, place, first, end):
            restore.feed(fetched.keys, fetched.values)
            live |= {key: value is not None for key, value in zip(fetched.keys, fetched.values, strict=True) if key}
        restore.finish()
    except StateError as error:
        raise StateError(f"task {task.name}, topic {place.topic!r} partition {place.partition}: {error}") from error
    return Kept(store, changelog, restore.position, [key for key, there in live.items() if there])
