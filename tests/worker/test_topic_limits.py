"""What topics take, and what a worker does with a result that is beyond it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pytest

from streamproc import Topology
from streamproc.adapters.kafka import Topic
from streamproc.cli.topic_limits import takes
from streamproc.core.site import Bounds
from streamproc.ports.broker import Membership, Outgoing, TopicPartition
from streamproc.runners.worker.topic_limits import HOUR, LARGEST, Takes, bounds_of
from streamproc.runners.worker.worker import Settings
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.logs import Settings as LogSettings
from streamproc.testing.simulation.world import World
from tests.simulation.workers import live

FOREVER = str(2**63 - 1)


@pytest.mark.parametrize(
    ("configs", "found"),
    [
        ({}, Takes(LARGEST, None)),
        ({"max.message.bytes": "2000000", "message.timestamp.after.max.ms": "3600000"}, Takes(2_000_000, HOUR)),
        ({"message.timestamp.after.max.ms": FOREVER, "message.timestamp.difference.max.ms": "1000"}, Takes(ahead=1000)),
        ({"message.timestamp.after.max.ms": FOREVER}, Takes(ahead=None)),
        ({"message.timestamp.after.max.ms": "1", "message.timestamp.type": "LogAppendTime"}, Takes(ahead=None)),
    ],
)
def test_what_configs_say(configs: dict[str, str], found: Takes) -> None:
    """Brokers of every version have one name or the other; a topic that stamps by itself takes any stamp."""
    assert takes(Topic("t", configs=configs)) == found


def test_bounds_leave_room() -> None:
    """For key and headers, and for a broker's clock that is behind; a topic nobody knows takes the usual."""
    bounds = bounds_of({"large": Takes(2_000_000, None), "small": Takes(1_000, 500)}, lambda: 10_000.0)
    assert bounds("large") == Bounds(1_951_412, 2**63 - 1)
    assert bounds("small") == Bounds(500, 10_000_450)
    assert bounds("other") == Bounds(1_000_000, 10_000_000 + HOUR - 60_000)


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_a_result_stamped_a_century_ahead_is_a_dead_letter(guarantee: Any) -> None:
    """A broker would refuse it for ever: it never gets to see it, and all around it is written."""
    with World(1, tolerated=()) as world:
        for topic in ("out", "dead"):
            world.cluster.create_topic(topic, 1)
        far = 10**13
        copied(world, [Outgoing(None, b"%d" % n, far if n == 2 else 1000 + n) for n in range(5)], guarantee)
        assert [json.loads(record.value or b"") for record in world.output("out")[0]] == [0, 1, 3, 4]
        (letter,) = world.output("dead")[0]
        assert letter.value == b"2"
        assert b"production_error" in dict(letter.headers).values()


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_a_topic_of_small_batches_is_given_small_ones(guarantee: Any) -> None:
    """What goes to it in one commit is cut by what it takes."""
    with World(1, tolerated=()) as world:
        world.cluster.create_topic("out", 1, LogSettings(largest=2_000))
        world.cluster.create_topic("dead", 1)
        copied(world, [Outgoing(None, b"%d" % n, 1000 + n) for n in range(500)], guarantee, {"out": Takes(2_000)})
        assert [json.loads(record.value or b"") for record in world.output("out")[0]] == list(range(500))


def copied(world: World, rows: list[Outgoing], guarantee: Any, limits: Mapping[str, Takes] | None = None) -> None:
    """One worker copies numbers from a topic to `out`, to the last of them."""
    topology = Topology("f", dead_letters="dead")
    topology.source("in", int, max_future=None).to("out")
    graph = topology.graph()

    async def asked(_: Collection[str]) -> Mapping[str, Takes]:
        return limits or {}

    async def life(broker: SimBroker, _: str) -> None:
        membership = Membership("f", "streamproc", 6_000, 30_000)
        await live(world, broker, graph, Settings(membership, guarantee, topic_limits=asked))

    world.cluster.create_topic("in", 1, LogSettings(ahead=None))
    world.cluster.create_topic("f-in-changelog", 1, LogSettings(compacted=True))
    world.cluster.append("in", 0, rows)
    world.start("a", life)
    world.run(lambda: world.offsets("f").get(TopicPartition("in", 0), 0) >= len(rows))
