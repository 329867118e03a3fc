"""Where the scripts of the contract play: the model here, a real broker in tests/kafka."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from streamproc.ports.broker import Broker, TopicPartition
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.logs import Settings
from streamproc.testing.simulation.world import World
from tests.simulation.contract import Script


class SimStage:
    """The model."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._names = 0

    async def client(self) -> Broker:
        """A client in the one process that there is."""
        return SimBroker(self._world.cluster, self._world.network, object())

    async def topic(self, partitions: int = 1, *, compacted: bool = False) -> str:
        """A new topic."""
        name = self.name()
        self._world.cluster.create_topic(name, partitions, Settings(compacted=compacted))
        return name

    async def delete_records(self, partition: TopicPartition, before: int) -> None:
        """At once."""
        self._world.cluster.delete_records(partition, before)

    def name(self) -> str:
        """A counted name."""
        self._names += 1
        return f"name-{self._names}"

    def now(self) -> int:
        """The cluster's clock."""
        return self._world.cluster.wall()


def simulated(script: Script, seed: int, habits: Habits) -> object:
    """What the model answers; where segments end is nobody's business here."""
    with World(seed, habits=replace(habits, rolls=0.0)) as world:

        async def play() -> object:
            async with asyncio.timeout(120):
                return await script(SimStage(world))

        return world.loop.run_until_complete(world.loop.process("script").start(play()))
