"""Kafka answers every script of the contract as its model does.

A difference is a fault of the model until shown otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from streamproc.adapters.kafka import Access, KafkaAdmin, KafkaBroker, Topic
from streamproc.ports.broker import Broker, TopicPartition
from streamproc.testing.simulation.habits import Habits
from tests.kafka.brokers import Kafka
from tests.simulation.contract import SCRIPTS, SLOW, Script, settled
from tests.simulation.stages import simulated

AS_LONG_AS_POSSIBLE = {"segment.ms": str(10**15), "retention.ms": "-1"}
"""Stamps of 1970 would have the broker begin a new segment, where a fetch ends, or delete the records."""


class RealStage:
    """A broker, and clients that are closed in the end."""

    def __init__(self, access: Access, prefix: str) -> None:
        self._access = access
        self._admin = KafkaAdmin(access)
        self._clients: list[KafkaBroker] = []
        self._prefix = prefix
        self._names = 0

    async def client(self) -> Broker:
        """A client, connected."""
        client = KafkaBroker(self._access)
        self._clients.append(client)
        await client.connect()
        return client

    async def topic(self, partitions: int = 1, *, compacted: bool = False) -> str:
        """A new topic, led."""
        name = self.name()
        policy = {"cleanup.policy": "compact"} if compacted else {}
        await self._admin.create_topics([Topic(name, partitions, 1, {**AS_LONG_AS_POSSIBLE, **policy})])
        return name

    async def delete_records(self, partition: TopicPartition, before: int) -> None:
        """As an admin."""
        await self._admin.delete_records({partition: before})

    def name(self) -> str:
        """A name of this test alone."""
        self._names += 1
        return f"{self._prefix}-{self._names}"

    def now(self) -> int:
        """This machine's clock is the broker's."""
        return int(time.time() * 1000)

    async def close(self) -> None:
        """Let go of everything."""
        for client in self._clients:
            await client.close()
        await self._admin.close()


@pytest.fixture
async def stage(kafka: Kafka, prefix: str) -> AsyncIterator[RealStage]:
    """A stage at the broker of this run, which makes the topic of its groups when it is asked for the first."""
    made = RealStage(Access(kafka.bootstrap), prefix)
    client, group = await made.client(), made.name()
    await settled(lambda: client.offset_fetch(group, [TopicPartition(group, 0)]))
    yield made
    await made.close()


@pytest.fixture(scope="session")
def habits(kafka: Kafka) -> Habits:
    """Those of the broker of this run."""
    return Habits() if not kafka.version.startswith("3.") else Habits(bumps=False, forgetful=True)


async def _compare(script: Script, stage: RealStage, habits: Habits) -> None:
    async with asyncio.timeout(60):
        real = await script(stage)
    # In a thread, since one loop cannot run inside of another.
    assert real == await asyncio.to_thread(simulated, script, 0, habits)


@pytest.mark.parametrize("name", SCRIPTS)
async def test_kafka_and_its_model_answer_alike(stage: RealStage, habits: Habits, name: str) -> None:
    """Answers, error codes and what can be read are equal."""
    await _compare(SCRIPTS[name], stage, habits)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
async def test_kafka_and_its_model_wait_alike(stage: RealStage, habits: Habits, name: str) -> None:
    """So they are after sessions, rebalances and transactions have timed out."""
    await _compare(SLOW[name], stage, habits)
