"""The worker itself in a simulated world: a load that comes in over time, and the batch oracle at every second.

    with Scene(seed, "rekeyed") as scene: scene.run()

What runs is what runs in production, but for the broker behind the port, the clock and the engine's thread.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from itertools import chain
from random import Random
from types import TracebackType
from typing import Any, Literal, Self

from streamproc.adapters import packing
from streamproc.adapters.codecs import JsonSerde
from streamproc.core.partition import partition
from streamproc.core.plan import Graph, Plan, build
from streamproc.ports.broker import Membership, Outgoing
from streamproc.runners.worker.worker import Settings, Worker
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.logs import Settings as LogSettings
from streamproc.testing.simulation.world import FAR, FROZEN, LATE, LOSSY, ROUGH, Faults, World
from tests.simulation import jobs

PARTITIONS = 3
KINDS: tuple[jobs.Kind, ...] = ("keyed", "rekeyed")
PART = 25
"""Seeds that one process searches at a time."""
REPLAY = "python -m tests.simulation.workers {topology} {seed}"


class Silent:
    """Nobody watches."""

    def planned(self, plan: Any) -> None: ...

    def read(self, topic: str, partition: int, records: int, size: int, position: int) -> None: ...

    def stepped(self, task: str, step: Any, records: int, seconds: float) -> None: ...

    def committed(self, commit: Any, dead: Any, seconds: float) -> None: ...

    def progressed(self, watermarks: Any, held_by: Any) -> None: ...

    def counted(self, task: str, windows: Any, entries: Any) -> None: ...

    def state(self, name: str) -> None: ...

    def happened(self, event: Any) -> None: ...

    def lagged(self, standings: Any) -> None: ...

    def polled(self, waited: Any) -> None: ...

    def ticked(self, late: float) -> None: ...


async def inline(work: Callable[[], Any]) -> Any:
    """Compute here and now: a simulated world has one thread."""
    return work()


async def live(
    world: World, broker: SimBroker, graph: Graph, settings: Settings, ended: Callable[[str], object] = lambda _: None
) -> None:
    """One worker's life in a world, until its process ends or it does; `ended` is told how."""
    worker = Worker(
        [node.source.topic for node in graph.nodes if node.source is not None],
        lambda counts: build(graph, counts),
        broker=broker,
        serde=JsonSerde(),
        packing=packing,
        observer=Silent(),
        compute=inline,
        clock=world.wall,
        stopwatch=lambda: 0.0,
        settings=settings,
    )
    running = asyncio.ensure_future(worker.run())
    try:
        ended(await asyncio.shield(running))
    except asyncio.CancelledError:  # as a user's SIGTERM asks it to
        worker.stop()
        await running


def create_topics(world: World, plan: Plan, *topics: str) -> None:
    """Some topics as a load needs them, and all that a plan needs for itself."""
    for topic in topics:
        world.cluster.create_topic(topic, PARTITIONS)
    for repartition in plan.repartitions:
        world.cluster.create_topic(repartition.topic, repartition.partitions)
    for stage in plan.stages:
        world.cluster.create_topic(plan.changelog(stage), stage.partitions, LogSettings(compacted=True))


class Scene:
    """Two workers, a source that fills while everything goes wrong, and what has to come of it.

    Without `faults` the seed chooses those too.  Nothing ever comes in the partitions that are `silent`, and
    with `shifted` the producer of the source has a partitioner of its own.
    """

    def __init__(  # noqa: PLR0913 - half of them by name
        self,
        seed: int,
        topology: jobs.Kind,
        faults: Faults | None = None,
        *,
        count: int = 400,
        silent: frozenset[int] = frozenset(),
        shifted: bool = False,
        guarantee: Literal["exactly_once", "at_least_once"] = "exactly_once",
    ) -> None:
        chance = Random(seed)
        habits = Habits(
            bumps=chance.random() < 0.5,
            stable_reads=chance.random() < 0.5,
            forgetful=chance.random() < 0.2,
            nodes=chance.choice((1, 1, 3)),
            last_epoch=chance.choice((32_766, 32_766, 3)),
        )
        faults = faults or replace(chance.choice((ROUGH, ROUGH, LATE, FAR, LOSSY, FROZEN)), heal=40.0)
        again = REPLAY.format(topology=topology, seed="{seed}")
        self.topology = topology
        self.world = World(seed, faults, habits, replay=again, tolerated=())
        self._graph = jobs.topology(topology).graph()
        self._count = count
        self._silent = silent
        self._shift = int(shifted)
        self._guarantee = guarantee
        self._chance = chance
        self._loads: list[list[Outgoing]] = []
        self.rows: dict[str, list[jobs.Row]] = {}
        """The results by key, in the order in which a reader sees them."""
        self.late: list[int] = []
        """The numbers of the events that were reported late."""
        self._taken = {topic: [0] * PARTITIONS for topic in ("t-totals", "t-late")}
        self._fresh: set[str] = set()
        self._expected: jobs.Verdict | None = None

    def __enter__(self) -> Self:
        self.world.__enter__()
        plan = build(self._graph, {"t-events": PARTITIONS})
        create_topics(self.world, plan, "t-events", "t-totals", "t-late", "t-dead")
        self._load()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.world.__exit__(kind, error, trace)

    def _load(self) -> None:
        """Have the source filled while faults happen, in portions of a few records."""
        self._loads = [[] for _ in range(PARTITIONS)]
        for message in jobs.load(self.world.seed, self._count, users=12, shops=7, step=200):
            number = (partition(message.key, PARTITIONS) + self._shift) % PARTITIONS
            self._loads[number].append(Outgoing(message.key, message.value, 1))
        for number in self._silent:
            self._loads[number].clear()
        span = self.world.faults.heal
        for number, rows in enumerate(self._loads):
            if number in self._silent:
                continue
            last = Outgoing(None, jobs.LAST, 1)
            stays = 40.0 if self._silent else 12.0  # till then the others give signs of life, and nothing else
            for n in range(8 if self._silent else 0):
                sign = Outgoing(None, jobs.SIGN, 1)
                self.world.at(span + 5.0 * n, self.world.cluster.append, "t-events", number, [sign])
            self.world.at(span + stays, self.world.cluster.append, "t-events", number, [last])
            start = 0
            while start < len(rows):
                stop = start + self._chance.randrange(1, 30)
                at = span * start / len(rows) + start * 1e-6  # in order, even if all comes at once
                self.world.at(at, self.world.cluster.append, "t-events", number, rows[start:stop])
                start = stop
            rows.append(last)

    def worker(self, broker: SimBroker, _: str) -> Coroutine[Any, Any, None]:
        """One worker's life in the world."""
        settings = Settings(Membership(self._graph.app, "streamproc", 6_000, 30_000), self._guarantee)
        return live(self.world, broker, self._graph, settings)

    # what is there

    def _read(self) -> None:
        """Take note of what has become visible since this was last asked."""
        for topic, taken in self._taken.items():
            for number, records in self.world.output(topic).items():
                for record in records[taken[number] :]:
                    assert record.value is not None
                    if topic == "t-late":
                        self.late.append(json.loads(record.value)["n"])
                        self._expected = None
                    else:
                        row = jobs.row(record.value)
                        self.rows.setdefault(row[0], []).append(row)
                        self._fresh.add(row[0])
                taken[number] = len(records)

    def verdict(self) -> jobs.Verdict:
        """What there has to be in the end, given what was late."""
        if self._expected is None:
            values = [[row.value or b"" for row in rows] for rows in self._loads]
            late = set(self.late)
            self._expected = jobs.keyed(values) if self.topology == "keyed" else jobs.rekeyed(values, late)
        return self._expected

    def run(self, workers: Sequence[str] = ("a", "b")) -> None:
        """Run the world until the output is whole; Failed if it never is, or is not what it has to be."""
        for name in workers:
            self.world.start(name, self.worker)
        if self._guarantee == "at_least_once":
            self.world.run(self._done)
            assert {row for rows in self.rows.values() for row in rows} == {*chain(*self.verdict().rows.values())}
            return
        self.world.always(self._wrong)
        self.world.run(self._done)
        expected, late, found = self.verdict(), self.late, self.rows
        again = f"again: {REPLAY.format(topology=self.topology, seed=self.world.seed)}"
        wrong = [key for key in sorted({*found, *expected.rows}) if found.get(key) != expected.rows.get(key)]
        assert not wrong, f"{wrong[0]!r}: {found.get(wrong[0])} instead of {expected.rows.get(wrong[0])}; {again}"
        assert len(late) == len(set(late)), f"reported late more than once: {sorted(late)}; {again}"
        assert set(late) <= expected.late, f"late, and was not: {sorted(set(late) - expected.late)}; {again}"

    def _done(self) -> bool:
        self._read()
        expected = self.verdict()
        if self._guarantee == "at_least_once":  # results may repeat
            found = {row for rows in self.rows.values() for row in rows}
            return found >= {row for rows in expected.rows.values() for row in rows} and set(self.late) >= expected.late
        whole = sum(map(len, self.rows.values())) >= sum(map(len, expected.rows.values()))
        return whole and (self.topology == "rekeyed" or len(self.late) >= len(expected.late))

    def _wrong(self) -> str | None:
        """For every key, the results so far are the first of those that there will be; at least, none comes twice."""
        self._read()
        fresh, self._fresh = sorted(self._fresh), set()
        for key in fresh:
            found = self.rows[key]
            if self.topology == "keyed":
                if found != list(self.verdict().rows.get(key, ()))[: len(found)]:
                    return f"{key!r} has {found}, and a calm run gives {self.verdict().rows.get(key)}"
            elif len({row[1] for row in found}) != len(found):
                return f"{key!r} has one window twice: {found}"
        return None


def played(topology: jobs.Kind, seeds: Iterable[int]) -> Iterator[Scene]:
    """Play the worlds of some seeds, each to its end; AssertionError from the first that goes wrong."""
    for seed in seeds:
        with Scene(seed, topology) as scene:
            scene.run()
            yield scene


def _search(topology: jobs.Kind, first: int, until: int) -> Counter[str]:
    happened: Counter[str] = Counter()
    for scene in played(topology, range(first, until)):
        happened += scene.world.happened
    return happened


def main() -> int:
    """Show the worlds of some seeds, or search many by several processes; 1 if one goes wrong."""
    parser = argparse.ArgumentParser(description="simulated worlds with real workers in them")
    parser.add_argument("topology", choices=(*KINDS, "all"))
    parser.add_argument("first", type=int, help="the first seed")
    parser.add_argument("until", type=int, nargs="?", help="the seed behind the last; without it there is only one")
    parser.add_argument("--jobs", type=int, help="processes that search; without it each world is shown")
    given = parser.parse_args()
    until = given.first + 1 if given.until is None else given.until
    kinds = KINDS if given.topology == "all" else (given.topology,)
    if given.jobs is None:
        for kind in kinds:
            for scene in played(kind, range(given.first, until)):
                print(kind, scene.world.seed, f"{scene.world.loop.time():.1f} s", dict(scene.world.happened))  # noqa: T201
        return 0
    parts = [(kind, at, min(at + PART, until)) for at in range(given.first, until, PART) for kind in kinds]
    happened: Counter[str] = Counter()
    with ProcessPoolExecutor(given.jobs) as pool:
        for done in as_completed([pool.submit(_search, *part) for part in parts]):
            if (error := done.exception()) is not None:
                print(error, file=sys.stderr)  # noqa: T201
                pool.shutdown(cancel_futures=True)
                return 1
            happened += done.result()
    print(f"{(until - given.first) * len(kinds)} worlds, all right: {dict(happened)}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
