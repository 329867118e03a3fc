"""All tasks of a plan in one process, between a read and a commit.

    offer(runs) --> feeds --> tasks --> Steps --> commit: rows, state, positions of all of them together
                               └── crossings and marks --> feeds of the next stage

What crosses a repartition topic is worked off before the commit; where it has to wait for another input, it is a part
of its task's position, so nothing is ever left in such a topic between two commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from streamproc.core.batch import START, Crossing, DeadLetter, Emit, Headers, Raw, Step
from streamproc.core.errors import TopologyError
from streamproc.core.feed import SLICE, Decoders, Feed, decoded, ended, landed, marked
from streamproc.core.fuse import fuse
from streamproc.core.partition import partition
from streamproc.core.plan import Inlet, Plan, Stage
from streamproc.core.site import Writer
from streamproc.core.state import Store
from streamproc.core.task import Input, Task
from streamproc.ports import Commit, Run, Serde


class Worked(NamedTuple):
    """One step that was taken: by which task, over how many records."""

    task: str
    step: Step
    records: int


@dataclass(slots=True)
class _Bench:
    """A task with its feed: `queues` are its inlets in the order of S39, `awaited` says which may still deliver."""

    name: str
    number: int
    stage: Stage
    task: Task
    feed: Feed
    queues: tuple[Inlet, ...]
    awaited: list[bool]
    marked: dict[str, int] = field(default_factory=dict)

    def waiting(self) -> dict[str, Any]:
        """What crossed to this task and waits there while another inlet is awaited: a part of its position."""
        topics = [inlet.topic for inlet in self.queues if inlet.source is None]
        waits = {topic: kept for topic in topics if (kept := self.feed.waiting(self.queue(topic)))}
        return {"waiting": waits} if waits else {}

    def queue(self, topic: str) -> int:
        """The number of the queue of a topic."""
        return next(n for n, inlet in enumerate(self.queues) if inlet.topic == topic)

    def input(self, topic: str, number: int) -> int:
        """The number of the input that is this partition, or this upstream task."""
        return next(n for n, one in enumerate(self.task.inputs) if one.topic == topic and one.partition == number)


class Engine:
    """The tasks of a plan and what is not committed yet.

    `stores` and `positions` give the state and the position record of a task by name; `fused=False` keeps to the plain
    meaning of every operator.
    """

    def __init__(  # noqa: PLR0913 - two of them by name
        self,
        plan: Plan,
        serde: Serde,
        stores: Callable[[str], Store],
        positions: Callable[[str], Mapping[str, Any] | None],
        *,
        fused: bool = True,
        with_stamps: bool = False,
    ) -> None:
        self.plan = plan
        self.serde = serde
        self._partition = lru_cache(maxsize=100_000)(lambda key: partition(key, plan.partitions))
        if not with_stamps:
            for inlet in plan.inlets:
                if inlet.source is not None and inlet.source.event_time is None:
                    raise TopologyError(
                        f"source {inlet.topic!r} has no event_time: JSON lines bear no timestamp of their own; "
                        "say event_time=lambda value: ..."
                    )
        writer = Writer(serde.encode, serde.encode_key)
        self._decoders = {
            inlet.topic: Decoders(
                serde.decoder(inlet.source.type).decode,
                None if inlet.source.key is None else serde.key_decoder(inlet.source.key).decode,
            )
            for inlet in plan.inlets
            if inlet.source is not None
        }
        self._benches: list[_Bench] = []
        for stage in plan.stages:
            queues = tuple(sorted(stage.inlets, key=lambda inlet: inlet.topic))
            for number in range(plan.partitions):
                name = f"{stage.name}/{number}"
                inputs = [
                    Input(stage.inlets.index(inlet), inlet.topic, each)
                    for inlet in queues
                    for each in ((number,) if inlet.source is not None else range(plan.partitions))
                ]
                task = Task(stage, inputs, stores(name), writer, positions(name))
                if fused:
                    fuse(task)
                awaited = [inlet.source is not None and not _ended(task, inlet, number) for inlet in queues]
                bench = _Bench(name, number, stage, task, Feed(len(queues)), queues, awaited)
                for topic, waits in (task.settled or {}).get("waiting", {}).items():
                    bench.feed.wait_again(bench.queue(topic), waits)
                self._benches.append(bench)
        self._emits: dict[tuple[str, int], list[Emit]] = {}
        self._dead: list[DeadLetter] = []

    # in

    def offer(self, topic: str, run: Run, now: int | None, stamps: list[int] | None = None) -> None:
        """A run of messages of one partition is at hand; `now` is the clock in ms it was fetched at (S15)."""
        for bench in self._reading(topic, run.partition):
            queue = bench.queue(topic)
            inlet = bench.queues[queue]
            number = bench.input(topic, run.partition)
            assert inlet.source is not None
            for start in range(0, len(run.values), SLICE):
                part = slice(start, start + SLICE)
                raw = Raw(
                    run.values[part],
                    run.keys[part] if run.keys is not None else None,
                    run.headers[part] if run.headers is not None else None,
                )
                one = decoded(
                    number,
                    inlet.source,
                    self._decoders[topic],
                    raw,
                    run.offsets[part],
                    now=now,
                    stamps=None if stamps is None else stamps[part],
                )
                bench.feed.add(queue, one)

    def end(self, topic: str) -> None:
        """No more will come from a topic: the end stands behind the last message of each partition (S49)."""
        for bench in self._reading(topic):
            queue = bench.queue(topic)
            if bench.awaited[queue] or not bench.task.times[bench.input(topic, bench.number)].ended:
                bench.feed.add(queue, ended(bench.input(topic, bench.number)))
                bench.awaited[queue] = False

    def mark(self, topic: str, number: int, watermark: int) -> None:
        """The watermark of a partition is said to be here, behind all that is at hand; it never falls."""
        for bench in self._reading(topic, number):
            bench.feed.add(bench.queue(topic), marked(bench.input(topic, number), watermark))

    def await_(self, topic: str, *, awaited: bool) -> None:
        """Whether a topic may have more than is at hand: lag above 0 or unknown, not 0 (S39)."""
        for bench in self._reading(topic):
            bench.awaited[bench.queue(topic)] = awaited

    def _reading(self, topic: str, number: int | None = None) -> Iterator[_Bench]:
        for bench in self._benches:
            reads = any(inlet.topic == topic and inlet.source is not None for inlet in bench.queues)
            if reads and (number is None or bench.number == number):
                yield bench

    def hungry(self, topic: str) -> bool:
        """Whether a queue of this topic is empty, so that reading on may help."""
        return any(not bench.feed.holds(bench.queue(topic)) for bench in self._reading(topic))

    def position(self, topic: str, number: int) -> int:
        """The next offset of a partition, as far as it has been processed."""
        return min((b.task.offsets[b.input(topic, number)] for b in self._reading(topic, number)), default=0)

    # through

    def work(self) -> Iterator[Worked]:
        """Take steps until nothing that is at hand may be taken; one batch a task in turn, so that W stays level."""
        moving = True
        while moving:
            moving = False
            for bench in self._benches:
                batch = bench.feed.next(bench.awaited)
                if batch is None:
                    continue
                moving = True
                step = bench.task.step(batch)
                self._take_over(bench, step)
                yield Worked(bench.name, step, len(batch))

    def _take_over(self, bench: _Bench, step: Step) -> None:
        for topic, rows in step.emits.items():
            if self.plan.partitions == 1:
                self._emits.setdefault((topic, 0), []).extend(rows)
                continue
            for emit in rows:
                number = bench.number if emit.route is None else self._partition(emit.route)
                self._emits.setdefault((topic, number), []).append(emit)
        self._dead += step.dead
        for place in bench.stage.places:
            if place.kind == "cross":
                topic = place.operator.topic
                self._cross(bench, topic, step.crossings.get(topic, []), step.watermarks[place.name])

    def _cross(self, bench: _Bench, topic: str, rows: list[Crossing], watermark: int) -> None:
        """Hand records to the next stage, and a mark behind them to every partition of the topic (S46)."""
        moved = bench.marked.get(topic, START) < watermark
        bench.marked[topic] = watermark
        shares: dict[int, list[Crossing]] = {}
        for row in rows:
            shares.setdefault(self._partition(row.route), []).append(row)
        for after in self._benches:
            lands = any(inlet.topic == topic and inlet.source is None for inlet in after.queues)
            if lands and (moved or after.number in shares):
                one = landed(after.input(topic, bench.number), shares.get(after.number, []), watermark)
                after.feed.add(after.queue(topic), one)

    # out

    def pending(self, now: int) -> Commit:
        """Everything since the last commit, to be made durable in one transaction; `now` stamps dead letters (S43)."""
        commit = Commit(emits=dict(self._emits))
        for letter in self._dead:
            number = letter.partition % self.plan.partitions if letter.partition >= 0 else 0
            emit = Emit(letter.key, letter.value, now, dead_letter_headers(letter, self.plan.hash), letter.key)
            commit.emits.setdefault((letter.topic, number), []).append(emit)
        for bench in self._benches:
            if changes := bench.task.changes():
                commit.changes[bench.name] = changes
            commit.positions[bench.name] = bench.task.position() | bench.waiting()
        return commit

    def committed(self, commit: Commit) -> list[DeadLetter]:
        """The transaction succeeded: the stores take over.  What became a dead letter is returned."""
        for bench in self._benches:
            bench.task.committed(commit.changes.get(bench.name, ()), commit.positions[bench.name])
        dead, self._dead, self._emits = self._dead, [], {}
        return dead

    @property
    def ended(self) -> bool:
        """Whether every input of every task has ended and nothing waits."""
        return all(
            bench.task.ended and not any(bench.feed.holds(queue) for queue in range(len(bench.queues)))
            for bench in self._benches
        )

    def watermarks(self) -> dict[tuple[str, int], int]:
        """The watermark of each partition of each source."""
        return {
            (one.topic, one.partition): time.watermark
            for bench in self._benches
            for one, time in zip(bench.task.inputs, bench.task.times, strict=True)
            if bench.stage.inlets[one.inlet].source is not None
        }

    def holder(self) -> tuple[str, int] | None:
        """The source partition that holds back the rest: the one with the least watermark that has not ended."""
        held = [
            (time.watermark, one.topic, one.partition)
            for bench in self._benches
            for one, time in zip(bench.task.inputs, bench.task.times, strict=True)
            if bench.stage.inlets[one.inlet].source is not None and not time.ended and not time.idle
        ]
        return min(held)[1:] if held else None

    def sizes(self) -> dict[str, int]:
        """Committed cells per node."""
        found: dict[str, int] = {}
        for bench in self._benches:
            for node, cells in bench.task.store.size().items():
                found[node] = found.get(node, 0) + cells
        return found

    def tasks(self) -> Iterator[tuple[str, Task]]:
        """Every task by name, for looking in."""
        for bench in self._benches:
            yield bench.name, bench.task


def _ended(task: Task, inlet: Inlet, number: int) -> bool:
    return any(
        time.ended
        for one, time in zip(task.inputs, task.times, strict=True)
        if one.topic == inlet.topic and one.partition == number
    )


def dead_letter_headers(letter: DeadLetter, plan: str) -> Headers:
    """The headers of a dead letter: those of its record, then what S43 adds."""
    added = {
        "__streams.errors.exception": letter.exception,
        "__streams.errors.message": letter.message or None,
        "__streams.errors.stacktrace": letter.stacktrace or None,
        "__streams.errors.topic": letter.source or None,
        "__streams.errors.partition": letter.partition if letter.partition >= 0 else None,
        "__streams.errors.offset": letter.offset if letter.partition >= 0 else None,
        "streamproc.errors.reason": letter.reason,
        "streamproc.errors.stage": letter.stage,
        "streamproc.errors.node": letter.node,
        "streamproc.errors.attempts": letter.attempts,
        "streamproc.errors.plan": plan,
        "streamproc.errors.timestamp": letter.at,
        "streamproc.errors.watermark": letter.watermark if letter.watermark != START else None,
        "streamproc.errors.window": None if letter.window is None else f"{letter.window[0]},{letter.window[1]}",
    }
    return (*letter.headers, *((name, str(given).encode()) for name, given in added.items() if given is not None))
