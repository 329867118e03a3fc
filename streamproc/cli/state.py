"""Looking into the state that tasks keep in their changelogs; nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from streamproc.adapters.kafka import KafkaBroker
from streamproc.cli import reading
from streamproc.cli.reading import Kept, Task
from streamproc.core.batch import NEVER
from streamproc.core.errors import ConfigError
from streamproc.core.partition import partition
from streamproc.core.plan import Graph, Place, Plan
from streamproc.core.state import KeyId, byte_order, key_id


async def summary(broker: KafkaBroker, graph: Graph) -> AsyncIterator[dict[str, Any]]:
    """The nodes of each task with how many cells they have; also those that the topology no longer has."""
    plan = await reading.planned(broker, graph)
    for task in reading.tasks(plan):
        kept = await reading.restored(broker, plan, task)
        sizes = kept.store.size()
        for place in task.stage.places:
            if place.stateful:
                yield {"task": task.name, "node": place.name, "cells": sizes.get(place.name, 0)}
        for node, records in sorted(kept.changelog.orphans.items()):
            yield {"task": task.name, "node": node, "orphaned_records": records}


async def cells(broker: KafkaBroker, graph: Graph, node: str, key: str | None) -> AsyncIterator[dict[str, Any]]:
    """The cells of a node, of all keys or of one, in order of tasks, times and keys."""
    plan = await reading.planned(broker, graph)
    found = _place(plan, node)
    for task in reading.tasks(plan):
        if found not in task.stage.places:
            continue
        if key is not None and task.number != partition(key.encode(), task.stage.partitions):
            continue
        kept = await reading.restored(broker, plan, task)
        for cell in _cells(kept, found, task, key):
            yield cell


def _place(plan: Plan, node: str) -> Place:
    stateful = {place.name: place for place in plan.nodes if place.stateful}
    if node not in stateful:
        raise ConfigError(
            f"{plan.name} has no node {node!r} with state; it has {', '.join(sorted(stateful)) or 'none at all'}"
        )
    return stateful[node]


def _cells(kept: Kept, place: Place, task: Task, key: str | None) -> Iterator[dict[str, Any]]:
    for slot in range(int(getattr(place.operator, "slots", 1))):
        for at in sorted(kept.store.times(place.name, slot)):
            bucket = kept.store.bucket(place.name, slot, at)
            wanted: list[KeyId] = byte_order(bucket)
            if key is not None:
                wanted = [each for each in wanted if each == key_id(key.encode())]
            for each in wanted:
                entry = bucket[each]
                value = entry[1] if len(entry) == 2 else entry[1:]  # noqa: PLR2004 - a key and one value
                yield {
                    "task": task.name,
                    "at": None if at == NEVER else at,
                    **({"slot": slot} if slot else {}),
                    "key": entry[0],
                    "value": value,
                }
