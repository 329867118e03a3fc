"""A run over sources as they are, with an end: what comes of it is what a run over lists gives (S49)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from streamproc.core.partition import partition
from streamproc.core.plan import build
from streamproc.ports.broker import Membership, Outgoing
from streamproc.runners.worker.worker import Settings
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.world import CALM, ROUGH, World
from tests.simulation import jobs
from tests.simulation.workers import PARTITIONS, create_topics, live

USERS = 12


class Scene:
    """Workers that end, over what is in the source when they begin."""

    def __init__(self, world: World, kind: jobs.Kind, *, instances: bool = False) -> None:
        self.world = world
        self.graph = jobs.topology(kind).graph()
        self.ends: list[str] = []
        self._instances = instances
        self._load: list[list[Outgoing]] = [[] for _ in range(PARTITIONS)]
        create_topics(world, build(self.graph, {"t-events": PARTITIONS}), "t-events", "t-totals", "t-late", "t-dead")

    def send(self, messages: list[jobs.Message]) -> None:
        """Fill the source."""
        for message in messages:
            number = partition(message.key, PARTITIONS)
            self._load[number].append(Outgoing(message.key, message.value, 1))
            self.world.cluster.append("t-events", number, [self._load[number][-1]])

    async def worker(self, broker: SimBroker, name: str) -> None:
        """One worker's life, to its end."""
        instance = name if self._instances else None
        membership = Membership(self.graph.app, "streamproc", 6_000, 30_000, instance)
        await live(self.world, broker, self.graph, Settings(membership, until_end=True), self.ends.append)

    def rows(self) -> dict[str, list[jobs.Row]]:
        """The results so far by key, in order."""
        found: dict[str, list[jobs.Row]] = {}
        for records in self.world.output("t-totals").values():
            for record in records:
                row = jobs.row(record.value or b"")
                found.setdefault(row[0], []).append(row)
        return found

    def late(self) -> set[int]:
        """The numbers of the events that were reported late so far."""
        return {json.loads(r.value or b"")["n"] for rows in self.world.output("t-late").values() for r in rows}

    def verdict(self) -> jobs.Verdict:
        """What there has to be."""
        values = [[record.value or b"" for record in rows] for rows in self._load]
        return jobs.keyed(values) if self.graph.name == "t-keyed" else jobs.rekeyed(values, self.late())


def ended(scene: Scene, count: int) -> Callable[[], bool]:
    """Whether so many lives have come to their end."""
    return lambda: len(scene.ends) >= count


@pytest.mark.parametrize("kind", ["keyed", "rekeyed"])
@pytest.mark.parametrize("seed", range(25))
def test_workers_that_die_on_the_way_end_with_what_calm_ones_give(kind: jobs.Kind, seed: int) -> None:
    """Killed, frozen and started again, they close every window once and leave when nothing is left to do."""
    with World(seed, replace(ROUGH, heal=40.0), tolerated=()) as world:
        scene = Scene(world, kind)
        scene.send(jobs.load(seed, 400, users=USERS, shops=7, step=200))
        for name in ("a", "b"):
            world.start(name, scene.worker)
        world.run(lambda: world.loop.time() > 45.0 and len(scene.ends) >= 2)
        assert scene.rows() == scene.verdict().rows
        assert scene.late() <= scene.verdict().late
        assert {"ended", "complete"} >= set(scene.ends)


def test_what_comes_later_is_not_read_and_a_second_run_says_so() -> None:
    """The end is where sources ended when the worker began; one that has grown since is named, and nothing is done."""
    with World(1, CALM, tolerated=()) as world:
        scene = Scene(world, "rekeyed")
        load = jobs.load(1, 300, users=USERS, shops=7, step=200)
        scene.send(load[:200])
        world.start("a", scene.worker)
        world.run(ended(scene, 2))
        first, verdict = scene.rows(), scene.verdict()
        assert first == verdict.rows
        assert scene.ends[:2] == ["ended", "complete"]
        scene.send(load[200:])
        world.run(ended(scene, len(scene.ends) + 2))
        assert scene.ends[-1] == "grown"
        assert scene.rows() == first


def test_one_with_a_name_of_its_own_leaves_for_good() -> None:
    """The tasks of a static member that has come to its end are dealt out at once: it will not be back."""
    with World(1, CALM, tolerated=()) as world:
        scene = Scene(world, "keyed", instances=True)
        scene.send(jobs.load(1, 300, users=USERS, shops=7, step=200))
        for name in ("a", "b"):
            world.start(name, scene.worker)
        world.run(ended(scene, 2))
        assert scene.rows() == scene.verdict().rows
