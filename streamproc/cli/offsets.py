"""How far a topology has read, and how to make it begin elsewhere.

Where a task reads on stands in two places that must agree: the offsets of the group, and the position record in its
changelog, which belongs to the state beside it.  So a reset writes both, and removes the state or keeps it, in one
transaction for each task, after whoever writes as that task has been shut out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias

from streamproc.adapters import packing
from streamproc.adapters.kafka import KafkaAdmin, KafkaBroker
from streamproc.cli import reading
from streamproc.cli.reading import Kept, Task
from streamproc.core.errors import ConfigError, StateError, StreamprocError
from streamproc.core.instants import instant
from streamproc.core.plan import Graph, Plan
from streamproc.ports.broker import Outgoing, TopicPartition
from streamproc.runners.worker.assigning import TaskId
from streamproc.runners.worker.changelog import FORMAT
from streamproc.runners.worker.hosting import transactional_id
from streamproc.runners.worker.producing import Forbidden, Lost, Transactions, Undone, Unwritable, patient

Target: TypeAlias = "Literal['earliest', 'latest'] | int | datetime"
"""Where to begin: an end of the log, an offset, or a time."""

NOBODY = frozenset({"Empty", "Dead"})
"""States of a group that nobody is in."""


def target(text: str) -> Target:
    """What `--to` says; ConfigError where it says nothing."""
    match text:
        case "earliest":
            return "earliest"
        case "latest":
            return "latest"
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(
            f"--to {text}: use earliest, latest, an offset, or a time with its zone such as 2026-03-01T12:00:00Z"
        )
    return moment


class Standing(NamedTuple):
    """Where one partition stands: for the group, and in the log."""

    task: str
    topic: str
    partition: int
    committed: int | None
    start: int
    end: int

    @property
    def lag(self) -> int:
        """Offsets between what is committed, or else the first there is, and the end."""
        return max(0, self.end - max(self.start, self.committed or 0))


async def standings(broker: KafkaBroker, graph: Graph) -> list[Standing]:
    """Where every partition stands that a topology reads, its own repartition topics included."""
    plan = await reading.planned(broker, graph)
    wanted = {place: task for task in reading.tasks(plan) for place in task.inputs().values()}
    there = await reading.counts(broker, sorted({place.topic for place in wanted}))
    if missing := sorted({place.topic for place in wanted} - set(there)):
        raise StateError(
            f"topic {missing[0]!r}, which {plan.name} needs for itself, does not exist: "
            "`streamproc topics apply` creates it"
        )
    committed = await patient(lambda: broker.offset_fetch(plan.app, list(wanted)))
    start = await reading.starts(broker, list(wanted))
    end = await reading.ends(broker, list(wanted), committed=False)
    return [
        Standing(task.name, *place, committed.get(place), start[place], end[place])
        for place, task in sorted(wanted.items())
    ]


@dataclass(frozen=True, slots=True)
class Move:
    """What a reset does to one task: the new offsets by topic, and the keys of the state that goes."""

    task: Task
    offsets: Mapping[str, int]
    before: Mapping[str, int | None]
    position: Mapping[str, Any]
    removed: Sequence[bytes]

    def rows(self) -> Iterator[dict[str, Any]]:
        """What is done, a row for each input."""
        for topic, offset in self.offsets.items():
            yield {
                "task": self.task.name,
                "topic": topic,
                "partition": self.task.number,
                "from": self.before[topic],
                "to": offset,
                "state_records_removed": len(self.removed),
            }


class Scope(NamedTuple):
    """Which inputs are moved: those of one topic and one partition, None for all."""

    topic: str | None = None
    partition: int | None = None

    def covers(self, place: TopicPartition) -> bool:
        """Whether an input is among them."""
        return self.topic in {None, place.topic} and self.partition in {None, place.partition}


EVERYWHERE = Scope()


@dataclass(frozen=True, slots=True)
class Reset:
    """Makes a topology begin elsewhere; nobody may be at work on it.

    `keep_state` moves the positions alone; else all state goes, and what was on its way in repartition topics is passed
    over, as it will come again.
    """

    graph: Graph
    to: Target
    keep_state: bool = False
    scope: Scope = EVERYWHERE

    def __post_init__(self) -> None:
        if self.scope != EVERYWHERE and not self.keep_state:
            raise ConfigError(
                "--topic and --partition need --keep-state: state comes from all inputs of a task, so that it cannot "
                "be taken back for some of them"
            )

    async def plan(self, broker: KafkaBroker, admin: KafkaAdmin) -> tuple[Plan, list[Move]]:
        """What there is to do; StateError while somebody is at work."""
        plan = await reading.planned(broker, self.graph)
        group = await admin.describe_group(plan.app)
        if group.state not in NOBODY:
            who = ", ".join(member.instance or f"{member.client} at {member.host}" for member in group.members)
            raise StateError(
                f"group {plan.app!r} is {group.state} with {who or 'members that are joining'}: stop all workers first"
            )
        return plan, [await self._move(broker, plan, task) for task in reading.tasks(plan)]

    async def _move(self, broker: KafkaBroker, plan: Plan, task: Task, *, fenced: bool = False) -> Move:
        kept = await reading.restored(broker, plan, task, committed=not fenced)
        committed = await patient(lambda: broker.offset_fetch(plan.app, list(task.inputs().values())))
        known = kept.position["offsets"] if kept.position is not None else {}
        before = {topic: known.get(topic, committed.get(place)) for topic, place in task.inputs().items()}
        crossed = {inlet.topic for inlet in task.stage.inlets if inlet.source is None}
        offsets = {}
        for topic, place in task.inputs().items():
            old = before[topic]
            if topic in crossed and not self.keep_state:
                offsets[topic] = (await reading.ends(broker, [place], committed=False))[place]
            elif (topic in crossed or not self.scope.covers(place)) and old is not None:
                offsets[topic] = old
            elif topic in crossed or not self.scope.covers(place):
                offsets[topic] = (await reading.starts(broker, [place]))[place]
            else:
                offsets[topic] = await self._offset(broker, place)
        return Move(task, offsets, before, self._position(plan, kept, offsets), self._removed(kept))

    async def _offset(self, broker: KafkaBroker, place: TopicPartition) -> int:
        """Where the target lies in one partition."""
        start = (await reading.starts(broker, [place]))[place]
        end = (await reading.ends(broker, [place]))[place]
        if self.to == "earliest":
            return start
        if self.to == "latest":
            return end
        if isinstance(self.to, datetime):
            at = instant(self.to)
            return (await patient(lambda: broker.list_offsets([place], at, "read_committed")))[place]
        if not start <= self.to <= end:
            raise ConfigError(
                f"--to {self.to}: topic {place.topic!r} partition {place.partition} has offsets {start} to {end}"
            )
        return self.to

    def _removed(self, kept: Kept) -> list[bytes]:
        return [] if self.keep_state else [key for key in kept.keys if key != reading.POSITION]

    def _position(self, plan: Plan, kept: Kept, offsets: Mapping[str, int]) -> dict[str, Any]:
        """The new position record.  The incarnation stays, so that the next one is greater than all before."""
        old = kept.position or {}
        if self.keep_state and kept.position is not None:
            task = old["task"]
            moved = None if task is None else {**task, "offsets": dict(offsets)}
            return {**old, "offsets": dict(offsets), "task": moved}
        return {
            "task": None,
            "offsets": dict(offsets),
            "incarnation": old.get("incarnation", 0),
            "layout": {},
            "plan": plan.hash,
        }

    async def apply(self, broker: KafkaBroker, plan: Plan, moves: Iterable[Move], lasting: float) -> None:
        """Do it, task by task; `lasting` is how many seconds one transaction may take."""
        for move in moves:
            await self._apply(broker, plan, move, lasting)

    async def _apply(self, broker: KafkaBroker, plan: Plan, move: Move, lasting: float) -> None:
        task = move.task
        name = transactional_id(plan.app, TaskId(task.stage.name, task.number))
        writer = Transactions(broker, name, plan.app, lasting, lambda _: None)
        place = task.changelog(plan)
        try:
            await writer.open()
            # Whoever wrote as this task is shut out now; what it has committed since is seen here.
            move = await self._move(broker, plan, task, fenced=True)
            value = bytes([FORMAT]) + packing.pack(dict(move.position))
            now = int(time.time() * 1000)
            records = [Outgoing(key, None, now) for key in move.removed]
            records.append(Outgoing(reading.POSITION, value, now))
            inputs = task.inputs()
            await writer.commit({place: records}, {inputs[topic]: offset for topic, offset in move.offsets.items()})
        except (Lost, Undone, Unwritable) as error:
            raise StreamprocError(
                f"task {task.name} was not reset ({error}); tasks before it were: do it again, it changes nothing twice"
            ) from error
        except Forbidden as error:
            raise ConfigError(str(error)) from error
        finally:
            writer.discard()
