"""A world: brokers, a network and processes, with all that befalls them drawn from one seed.

    with World(seed, ROUGH) as world:
        world.cluster.create_topic("in", 4)
        world.start("a", worker)                      # async def worker(broker, name): it ends when it is cancelled
        world.start("b", worker)
        world.always(lambda: None if fine() else "what is wrong")
        world.run(lambda: everything_is_done())

Until it heals, processes are killed and come back, freeze, stop and start, and messages fare as the weather is; the
checks are made every second.  Then nothing goes wrong any more, and within 300 s all must be done, no late message be
under way and no transaction be open.  What fails tells the seed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from random import Random
from types import TracebackType
from typing import Any, Self, TypeAlias

from streamproc.ports.broker import BrokerError, Outgoing, TopicPartition
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.loop import Loop, Process, current_process, running
from streamproc.testing.simulation.network import FAIR, Network, Weather

Worker: TypeAlias = Callable[[SimBroker, str], Coroutine[Any, Any, None]]
Check: TypeAlias = Callable[[], str | None]
"""What is wrong, or None."""

STOPPING = 60.0
"""A process that was asked to stop is killed after so many s."""
LIVENESS = 300.0
"""After so many s without faults all must be done."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What befalls a world until it heals, after `heal` s.

    kills, freezes and stops are per process and minute, outages per node and minute, compactions per minute; a process
    is frozen for one of `frozen` s, and is back after `back` s.  An outage lasts `outage` s; `silent` is the share of
    those that do not break connections but take everything and answer nothing.  Each process has a wall clock that is
    wrong by up to `skew` s either way; by how much changes `jumps` times per process and minute.
    """

    kills: float = 0.0
    freezes: float = 0.0
    stops: float = 0.0
    outages: float = 0.0
    compactions: float = 0.0
    frozen: tuple[float, ...] = (1.0, 12.0, 40.0)
    back: tuple[float, float] = (0.1, 10.0)
    outage: tuple[float, float] = (1.0, 20.0)
    silent: float = 0.5
    skew: float = 0.0
    jumps: float = 0.0
    weather: Weather = FAIR
    heal: float = 60.0


CALM = Faults(heal=0.0)
ROUGH = Faults(
    kills=2.0,
    freezes=1.0,
    stops=0.5,
    outages=0.3,
    compactions=2.0,
    skew=5.0,
    jumps=0.5,
    weather=Weather(
        slow_requests=0.005, slow_answers=0.003, lost_requests=0.003, lost_answers=0.005, doubled=0.02, moved=0.002
    ),
)
"""A bit of everything."""
LATE = replace(ROUGH, weather=replace(ROUGH.weather, slow_requests=0.03, tail=(0.3, 10.0), noticed=0.9))
"""Connections break, and what was sent through them arrives when the next transaction is open."""
FAR = replace(ROUGH, weather=replace(ROUGH.weather, latency=0.1, slow_requests=0.01))
"""Brokers at the other end of the world: much happens between a question and its answer."""
LOSSY = replace(ROUGH, kills=0.0, weather=replace(ROUGH.weather, lost_answers=0.03, lost_requests=0.02))
"""Nobody dies, and nobody hears what became of what."""
FROZEN = Faults(freezes=6.0)
"""Nothing but zombies."""


def of_all_kinds(seed: int) -> Faults:
    """Some faults for a seed: each kind finds bugs that others hardly ever do."""
    return (ROUGH, LATE, FAR, LOSSY, FROZEN, LATE)[seed % 6]


class Failed(AssertionError):
    """A world in which something went wrong, with all that is needed to see it again."""


@dataclass(slots=True)
class Life:
    """One worker by name, in its present process."""

    name: str
    worker: Worker
    process: Process
    main: asyncio.Task[None] | None = None
    stopping: bool = False


class World:
    """A world from a seed.  `replay` is the command that shows it again, with {seed} in it.

    `tolerated` are exceptions by which a worker may end: it is started again as after a crash.  `happened` counts.
    """

    def __init__(
        self,
        seed: int,
        faults: Faults = CALM,
        habits: Habits | None = None,
        *,
        replay: str = "",
        tolerated: tuple[type[Exception], ...] = (BrokerError,),
    ) -> None:
        self.seed = seed
        self.faults = faults
        self.loop = Loop(seed)
        self.cluster = Cluster(self.loop, seed + 1, habits)
        self.network = Network(self.loop, seed + 2, faults.weather)
        self.happened: Counter[str] = Counter()
        self.ends: list[tuple[str, BaseException]] = []
        """How workers ended that did not end well."""
        self._random = Random(seed + 3)
        self._replay = replay
        self._tolerated = tolerated
        self._lives: dict[str, Life] = {}
        self._checks: list[Check] = [self._offsets_never_fall]
        self._outputs: dict[str, dict[int, tuple[list[Outgoing], int]]] = {}
        self._skews: dict[Process, float] = {}
        self._offsets: dict[tuple[str, TopicPartition], int] = {}
        self._stack = ExitStack()
        self._wrong: str | None = None
        self._healed = False

    def __enter__(self) -> Self:
        self._stack.enter_context(running(self.loop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # what a test says before and while it runs

    def start(self, name: str, worker: Worker, *, at: float = 0.0) -> None:
        """Have a worker in this world, from a time on; whenever it dies it is started again."""
        if name not in self._lives:
            self._lives[name] = Life(name, worker, self.loop.process(name))
            self.loop.call_at(at, self._begin, self._lives[name], context=self.loop.outside)
            self._plan(self.faults.kills, self._kill, self._lives[name])
            self._plan(self.faults.freezes, self._freeze, self._lives[name])
            self._plan(self.faults.stops, self._stop, self._lives[name])
            self._plan(self.faults.jumps, self._jump, self._lives[name])

    def always(self, check: Check) -> None:
        """Check something every second: it tells what is wrong, or None."""
        self._checks.append(check)

    def at(self, seconds: float, action: Callable[..., object], *args: Any) -> None:
        """Do something at a time, in no process."""
        self.loop.call_at(seconds, action, *args, context=self.loop.outside)

    def fail(self, what: str) -> None:
        """Say that something is wrong; the world ends within a second."""
        self._wrong = self._wrong or what

    def wall(self) -> float:
        """The wall clock of the process that asks, in s since 1970; outside of one that of the brokers."""
        process = current_process()
        return self.cluster.wall() / 1000 + (0.0 if process is None else self._skews.get(process, 0.0))

    # what a test looks at

    def output(self, topic: str) -> Mapping[int, list[Outgoing]]:
        """All that a reader with read_committed has seen by now, by partition.

        The lists are the same each time, and longer; what is compacted or deleted meanwhile has been seen all the same.
        """
        seen = self._outputs.setdefault(topic, {})
        for log in self.cluster.topics[topic]:
            records, position = seen.get(log.partition, ([], 0))
            if position < log.stable:
                records.extend(record for _, record in log.records(position))
            seen[log.partition] = records, log.stable
        return {partition: records for partition, (records, _) in seen.items()}

    def offsets(self, group: str) -> Mapping[TopicPartition, int]:
        """The committed offsets of a group."""
        return self.cluster.groups.committed(group)

    def open_transactions(self) -> list[str]:
        """The transactional ids whose transaction is not at its end, and the partitions that still wait for one."""
        waiting = [f"{log.topic}/{log.partition}" for logs in self.cluster.topics.values() for log in logs if log.open]
        return [found.transactional_id for found in self.cluster.transactions.ongoing()] + waiting

    def process(self, name: str) -> Process:
        """The present process of a worker."""
        return self._lives[name].process

    # the run

    def run(self, done: Callable[[], bool]) -> None:
        """Let the world run until all is done; raises Failed if something is wrong, or is not done in time."""
        for node in range(self.cluster.habits.nodes):
            self._plan(self.faults.outages, self._outage, node)
        self._plan(self.faults.compactions, self._compact)
        self.loop.call_at(self.faults.heal, self._heal, context=self.loop.outside)
        self.loop.run_until_complete(self._watch(done))

    async def _watch(self, done: Callable[[], bool]) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._look()
            if done():
                self._heal()
                if self.loop.time() > self.network.quiet and not self.open_transactions():
                    return
            if self.loop.time() > self.faults.heal + LIVENESS:
                opened = ", ".join(self.open_transactions()) or "none"
                raise self._failed(f"not done {LIVENESS:.0f} s after the last fault; open transactions: {opened}")

    def _look(self) -> None:
        for error in self.loop.unseen(twice=True):
            raise self._failed(f"nobody waited for {error!r}") from error
        if self._wrong is not None:
            raise self._failed(self._wrong) from (self.ends[-1][1] if self.ends else None)
        for check in self._checks:
            wrong = check()
            if wrong is not None:
                raise self._failed(wrong)

    def _failed(self, what: str) -> Failed:
        lines = [
            what,
            f"at {self.loop.time():.3f} s, seed {self.seed}, trace {self.loop.trace:x}, {self.loop.steps} steps",
            f"{self.faults}",
            f"{self.cluster.habits}",
            f"happened: {dict(self.happened)}",
        ]
        if self._replay:
            lines.append(f"again: {self._replay.format(seed=self.seed)}")
        return Failed("\n".join(lines))

    def _offsets_never_fall(self) -> str | None:
        for group, offsets in self.cluster.groups.all_committed():
            for partition, offset in offsets.items():
                if offset < self._offsets.get((group, partition), 0):
                    before = self._offsets[group, partition]
                    return f"the offset of group {group} for {partition} fell from {before} to {offset}"
                self._offsets[group, partition] = offset
        return None

    # processes

    def _begin(self, life: Life) -> None:
        life.process = self.loop.process(life.name)
        life.stopping = False
        self._jump(life)
        broker = SimBroker(self.cluster, self.network, life.process)
        main = life.main = life.process.start(life.worker(broker, life.name))
        main.add_done_callback(lambda task: self._ended(life, task), context=self.loop.outside)

    def _ended(self, life: Life, task: asyncio.Task[None]) -> None:
        if life.main is not task or life.process.killed:
            return
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.ends.append((life.name, error))
            self.happened[f"ended by {type(error).__name__}"] += 1
            if not isinstance(error, self._tolerated):
                self.fail(f"{life.name} ended by {error!r}")
        elif not life.stopping:
            self.happened["ended"] += 1
        self._bury(life)

    def _bury(self, life: Life) -> None:
        """Its process is gone; another comes in its place."""
        life.process.kill()
        self.network.forget(life.process)
        life.main = None
        self.loop.later(self._random.uniform(*self.faults.back), self._begin, life)

    # faults

    def _plan(self, per_minute: float, fault: Callable[..., object], *args: Any) -> None:
        """Cause a fault again and again until the world heals."""
        if per_minute and not self._healed:
            wait = self._random.expovariate(per_minute / 60)
            if self.loop.time() + wait < self.faults.heal:
                self.loop.later(wait, self._cause, per_minute, fault, *args)

    def _cause(self, per_minute: float, fault: Callable[..., object], *args: Any) -> None:
        if not self._healed:
            fault(*args)
            self._plan(per_minute, fault, *args)

    def _kill(self, life: Life) -> None:
        """At one of the next things that it does."""
        if life.main is not None and life.process.frozen:
            self._killed(life)
        elif life.main is not None:
            life.process.after(self._random.randrange(50), lambda: self._killed(life))

    def _killed(self, life: Life) -> None:
        self.happened["kills"] += 1
        self._bury(life)

    def _freeze(self, life: Life) -> None:
        if life.main is not None:
            seconds = self._random.choice(self.faults.frozen)
            life.process.after(self._random.randrange(50), lambda: self._frozen(life.process, seconds))

    def _frozen(self, process: Process, seconds: float) -> None:
        self.happened["freezes"] += 1
        process.freeze(seconds)

    def _stop(self, life: Life) -> None:
        if life.main is not None and not life.stopping:
            self.happened["stops"] += 1
            life.stopping = True
            life.main.cancel()
            self.loop.later(STOPPING, self._lose_patience, life, life.main)

    def _lose_patience(self, life: Life, main: asyncio.Task[None]) -> None:
        if life.main is main:
            self.happened["did not stop"] += 1
            self._killed(life)

    def _jump(self, life: Life) -> None:
        if self.faults.skew:
            self._skews[life.process] = self._random.uniform(-self.faults.skew, self.faults.skew)

    def _outage(self, node: int) -> None:
        self.happened["outages"] += 1
        self.network.outage(node, silent=self._random.random() < self.faults.silent)
        self.loop.later(self._random.uniform(*self.faults.outage), self.network.recover, node)

    def _compact(self) -> None:
        for topic, logs in self.cluster.topics.items():
            if any(log.settings.compacted for log in logs):
                self.happened["compactions"] += 1
                self.cluster.compact(topic)

    def _heal(self) -> None:
        if not self._healed:
            self._healed = True
            self.faults = replace(self.faults, heal=self.loop.time())
            self.network.weather = FAIR
            for node in range(self.cluster.habits.nodes):
                self.network.recover(node)
