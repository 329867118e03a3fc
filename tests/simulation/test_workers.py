"""The worker in worlds where everything goes wrong: what is committed equals a batch program's answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest

from streamproc.ports.broker import Appending, BrokerError, Outgoing, TopicPartition
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.world import CALM, ROUGH, Failed, Faults
from tests.simulation import jobs
from tests.simulation.workers import Scene, played


@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
def test_a_calm_world(topology: jobs.Kind) -> None:
    """Without faults two workers share the work, and the answer is right."""
    with Scene(1, topology, CALM) as scene:
        scene.run()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("topology", "first"), [("keyed", n) for n in range(0, 1300, 50)] + [("rekeyed", n) for n in range(0, 700, 50)]
)
def test_whatever_dies(topology: jobs.Kind, first: int) -> None:
    """Kills at any await, freezes, rebalances, lost and late messages, outages: the same answer, and nothing twice."""
    happened = sum((scene.world.happened for scene in played(topology, range(first, first + 50))), Counter[str]())
    assert happened["kills"]
    assert happened["freezes"]


@pytest.mark.parametrize("faults", [CALM, ROUGH], ids=["calm", "rough"])
@pytest.mark.parametrize("seed", range(6))
def test_a_partition_that_stays_silent_holds_nothing_back(seed: int, faults: Faults) -> None:
    """Where one partition never gets a record, its task says so, and windows behind the repartition topic close."""
    with Scene(seed, "rekeyed", faults, silent=frozenset({seed % 3})) as scene:
        scene.run()


def test_what_was_read_from_a_repartition_topic_is_deleted() -> None:
    """Nobody else reads it; what is not committed stays."""
    with Scene(1, "rekeyed", replace(CALM, heal=45.0)) as scene:
        scene.run()
        group = scene.world.offsets("t-rekeyed")
        logs = scene.world.cluster.topics["t-rekeyed-totals-repartition"]
        assert any(log.start > 0 for log in logs)
        assert all(log.start <= group[TopicPartition(log.topic, log.partition)] for log in logs)


def test_a_source_that_is_not_partitioned_by_its_keys_is_refused() -> None:
    """Where another hash has dealt out the keys, counts per key would be wrong without any error."""
    with Scene(1, "keyed", CALM, shifted=True) as scene, pytest.raises(Failed, match="murmur2"):
        scene.run()


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_at_least_once_loses_nothing(first: int) -> None:
    """Every result is there, some of them more than once; state counts each record once, so all of them are right."""
    for seed in range(first, first + 10):
        with Scene(seed, "keyed", guarantee="at_least_once") as scene:
            scene.run()


def test_two_who_write_as_one_task_do_not_fight_for_ever() -> None:
    """Who is fenced again and again, although the group says that the task is his, says so and stops."""

    async def intruder(broker: SimBroker, _: str) -> None:
        while True:
            await asyncio.sleep(1.5)
            with suppress(BrokerError):
                await broker.init_producer("t-keyed-t_events-0", 10_000)

    with Scene(1, "keyed", replace(CALM, heal=60.0)) as scene:
        scene.world.start("intruder", intruder)
        with pytest.raises(Failed, match="another process writes under"):
            scene.run()


def test_a_partition_that_does_not_move_ends_the_worker() -> None:
    """Behind a transaction that somebody never ends nothing can be read: the worker says so, and does not hang."""
    place = TopicPartition("t-events", 0)

    async def intruder(broker: SimBroker, _: str) -> None:
        writer = await broker.init_producer("somebody", 900_000)
        await broker.add_partitions(writer, [place])
        await broker.produce(writer, [Appending(*place, 0, [Outgoing(b"u1", b"{}", 1)])])
        await asyncio.Event().wait()

    with Scene(1, "keyed", CALM) as scene:
        scene.world.start("intruder", intruder)
        with pytest.raises(Failed, match=r"topic 't-events' partition 0 has not moved from offset \d+ for 1[89]\d s"):
            scene.run()
