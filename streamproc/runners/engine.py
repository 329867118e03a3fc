"""All tasks of a plan in one process, between a read and a commit.

    offer(runs) --> benches --> Steps --> commit: rows, state, positions of all of them together
                      └── crossings and marks --> benches of the next stage

What crosses a repartition topic is worked off before the commit; where it has to wait for another input, it is a part
of its task's position, so nothing is ever left in such a topic between two commits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from streamproc.core.batch import START, Crossing, DeadLetter, Emit, Flows, Headers, Idle, Said, Step
from streamproc.core.errors import TopologyError
from streamproc.core.partition import partition
from streamproc.core.plan import Plan
from streamproc.core.state import Store
from streamproc.core.task import Task
from streamproc.ports import Commit, Run, Serde
from streamproc.runners.bench import Bench, codecs_of


class Worked(NamedTuple):
    """One step that was taken: by which task, over how many records."""

    task: str
    step: Step
    records: int


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
        if not with_stamps:
            for inlet in plan.inlets:
                if inlet.source is not None and inlet.source.event_time is None:
                    raise TopologyError(
                        f"source {inlet.topic!r} has no event_time: JSON lines bear no timestamp of their own; "
                        "say event_time=lambda value: ..."
                    )
        codecs = codecs_of(plan, serde)
        self._benches: list[Bench] = []
        self._reading: dict[str, list[Bench]] = {}
        self._said: dict[tuple[str, str], Said] = {}
        for stage in plan.stages:
            for number in range(stage.partitions):
                name = f"{stage.name}/{number}"
                bench = Bench(plan, stage, number, codecs, stores(name), positions(name), fused=fused)
                self._benches.append(bench)
                for topic in bench.topics:
                    self._reading.setdefault(topic, []).append(bench)
        self._placed = {count: _placing(count) for count in (plan.partitions, *(s.partitions for s in plan.stages))}
        self._emits: dict[tuple[str, int], list[Emit]] = {}
        self._dead: list[DeadLetter] = []

    # in

    def offer(self, topic: str, run: Run, now: int | None) -> None:
        """A run of messages of one partition is at hand; `now` is the clock in ms it was fetched at (S15)."""
        self._reading[topic][run.partition].offer(topic, run, now)

    def end(self, topic: str) -> None:
        """No more will come from a topic: the end stands behind the last message of each partition (S49)."""
        for bench in self._reading[topic]:
            bench.end(topic)

    def mark(self, topic: str, number: int, watermark: int) -> None:
        """The watermark of a partition is said to be here, behind all that is at hand; it never falls."""
        self._reading[topic][number].mark(topic, watermark)

    def await_(self, topic: str, *, awaited: bool) -> None:
        """Whether a topic may have more than is at hand: lag above 0 or unknown, not 0 (S39)."""
        for bench in self._reading[topic]:
            bench.await_(topic, awaited=awaited)

    def lags(self, topic: str, number: int, lag: int | None, now: int) -> None:
        """By how much a partition is behind its end, None where that is not known; `now` is a monotonic clock in ms.

        What follows from what is said again and again: whether it is awaited, and what the clock decides (S17, S18).
        """
        self._reading[topic][number].lags(topic, lag, now)

    def idle(self, topic: str, number: int) -> None:
        """A partition is said to be idle, by whoever holds the clock (S17)."""
        bench = self._reading[topic][number]
        bench.decide(Idle(bench.input(topic)))

    def flow(self, topic: str, number: int, watermark: int) -> None:
        """A partition that is idle is said to have flown with the clock to here (S18)."""
        bench = self._reading[topic][number]
        bench.decide(Flows(bench.input(topic), watermark))

    def hungry(self, topic: str) -> bool:
        """Whether a queue of this topic is empty, so that reading on may help."""
        return any(bench.hungry(topic) for bench in self._reading[topic])

    def position(self, topic: str, number: int) -> int:
        """The next offset of a partition, as far as it has been processed."""
        return self._reading[topic][number].offset(topic) or 0

    # through

    def work(self) -> Iterator[Worked]:
        """Take steps until nothing that is at hand may be taken; one batch a task in turn, so that W stays level."""
        moving = True
        while moving:
            moving = False
            for bench in self._benches:
                step = bench.work()
                if step is None:
                    continue
                moving = True
                self._take_over(bench, step)
                yield Worked(bench.name, step, step.records)

    def _take_over(self, bench: Bench, step: Step) -> None:
        place, many = self._placed[self.plan.partitions], self.plan.partitions
        for topic, rows in step.emits.items():
            if many == 1:
                self._emits.setdefault((topic, 0), []).extend(rows)
                continue
            for emit in rows:
                number = bench.number % many if emit.route is None else place(emit.route)
                self._emits.setdefault((topic, number), []).append(emit)
        self._dead += step.dead
        for topic, said in step.said.items():
            self._cross(bench, topic, step.crossings.get(topic, []), said)

    def _cross(self, bench: Bench, topic: str, rows: list[Crossing], said: Said) -> None:
        """Hand records to the next stage, and a mark behind them to every partition of the topic (S46)."""
        news = self._said.get((bench.name, topic), Said(START)) != said
        self._said[bench.name, topic] = said
        place = self._placed[len(self._reading[topic])]
        shares: dict[int, list[Crossing]] = {}
        for row in rows:
            shares.setdefault(place(row.route), []).append(row)
        for after in self._reading[topic]:
            if news or after.number in shares:
                after.arrive(topic, bench.number, shares.get(after.number, []), said)

    # out

    def pending(self, now: int) -> Commit:
        """Everything since the last commit, to be made durable in one transaction; `now` stamps dead letters (S43)."""
        commit = Commit(emits=dict(self._emits))
        for letter in self._dead:
            number = letter.partition % self.plan.partitions if letter.partition >= 0 else 0
            emit = Emit(letter.key, letter.value, now, dead_letter_headers(letter, self.plan.hash), letter.key)
            commit.emits.setdefault((letter.topic, number), []).append(emit)
        for bench in self._benches:
            if changes := bench.changes():
                commit.changes[bench.name] = changes
            commit.positions[bench.name] = bench.position()
        return commit

    def committed(self, commit: Commit) -> list[DeadLetter]:
        """The transaction succeeded: the stores take over.  What became a dead letter is returned."""
        for bench in self._benches:
            bench.committed(commit.changes.get(bench.name, ()), commit.positions[bench.name])
        dead, self._dead, self._emits = self._dead, [], {}
        return dead

    @property
    def ended(self) -> bool:
        """Whether every input of every task has ended and nothing waits."""
        return all(bench.ended for bench in self._benches)

    def watermarks(self) -> dict[tuple[str, int], int]:
        """The watermark of each partition of each source."""
        return {
            (one.topic, one.partition): time.watermark
            for bench in self._benches
            for one, time in zip(bench.task.inputs, bench.task.times, strict=True)
            if bench.stage.inlets[one.inlet].source is not None
        }

    def holder(self) -> tuple[str, int] | None:
        """The source partition that holds back the rest: of those that count, the one with the least watermark."""
        held = [
            (bench.task.times[number].watermark, one.topic, one.partition)
            for bench in self._benches
            for number in bench.task.holders()
            if bench.stage.inlets[(one := bench.task.inputs[number]).inlet].source is not None
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


def _placing(partitions: int) -> Callable[[bytes], int]:
    """The partition of a key, with those that were asked for lately at hand."""
    return lru_cache(maxsize=100_000)(lambda key: partition(key, partitions))


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
