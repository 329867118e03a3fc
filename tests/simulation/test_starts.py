"""Where a topology begins to read of which nothing is committed yet (S48)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from streamproc import Topology
from streamproc.ports.broker import Membership, Outgoing, TopicPartition
from streamproc.runners.worker.worker import Settings
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.logs import Settings as LogSettings
from streamproc.testing.simulation.world import World
from tests.simulation.workers import live


@pytest.mark.parametrize(
    ("start", "seen"),
    [("earliest", [0, 1, 2, 3, 4]), ("latest", []), (datetime.fromtimestamp(3, UTC), [3, 4])],
)
def test_start_says_where_to_begin_and_who_comes_after_does_not_begin_again(start: Any, seen: list[int]) -> None:
    """The beginning, the end, or the first record at or behind an instant; what comes later is read in any case."""
    topology = Topology("s")
    topology.source("in", int, start=start).to("out")
    graph = topology.graph()

    async def life(broker: SimBroker, _: str) -> None:
        await live(world, broker, graph, Settings(Membership("s", "streamproc", 6_000, 30_000)))

    with World(1, tolerated=()) as world:
        world.cluster.create_topic("in", 1)
        world.cluster.create_topic("out", 1)
        world.cluster.create_topic("s-in-changelog", 1, LogSettings(compacted=True))
        world.cluster.append("in", 0, [Outgoing(None, b"%d" % n, n * 1000) for n in range(5)])
        world.start("a", life)
        world.at(5.0, lambda: world.process("a").kill())
        world.start("b", life, at=6.0)
        world.at(6.0, world.cluster.append, "in", 0, [Outgoing(None, b"5", 5000)])
        world.run(lambda: world.offsets("s").get(TopicPartition("in", 0), 0) > 5)
        assert [int(record.value or b"") for record in world.output("out")[0]] == [*seen, 5]
