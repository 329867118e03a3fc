"""Long outages: frozen workers, a broker that is away, a network that swallows everything, an output that crawls."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest

from tests.kafka.brokers import Kafka, OwnKafka, free_port
from tests.kafka.oracle import load
from tests.kafka.proxy import Api, Message, Proxy
from tests.kafka.runs import Scene, measured

pytestmark = pytest.mark.timeout(900)

RATE = 1_000
MEBI = 1 << 20


@pytest.mark.parametrize("seconds", [30, 60])
@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
async def test_a_worker_is_frozen_for_long(
    kafka: Kafka, prefix: str, tmp_path: Path, topology: str, seconds: int
) -> None:
    """Others have its tasks within ten seconds; when it goes on, nothing of what it had begun is seen."""
    async with Scene(kafka.bootstrap, prefix, topology, tmp_path, partitions=12) as stage:
        zombie, *others = [stage.worker() for _ in range(3)]
        async with stage.sending(load(5, 300_000, users=20_000, step=10), rate=RATE):
            await stage.flowing()
            await stage.shared(zombie, *others)
            zombie.freeze()
            stage.fault()
            await stage.recovered(f"F2 {topology}: SIGSTOP of one of three")
            await asyncio.sleep(max(0.0, seconds - stage.since_fault))
            zombie.thaw()
            stage.fault()
            await stage.recovered(f"F2 {topology}: SIGCONT after {seconds} s")
            await stage.shared(zombie, *others)
            measured(f"F2 {topology}: the zombie has its share again {stage.since_fault:.1f} s after SIGCONT")
        await stage.finish(120)


@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
async def test_the_broker_is_away_for_long(own_kafka: OwnKafka, prefix: str, tmp_path: Path, topology: str) -> None:
    """Killed, and back after 70 seconds: longer than sessions and transactions last."""
    broker = await asyncio.to_thread(own_kafka)
    async with Scene(broker.bootstrap, prefix, topology, tmp_path, partitions=12) as stage:
        stage.worker(), stage.worker()
        async with stage.sending(load(6, 300_000, users=20_000, step=10), rate=RATE):
            await stage.flowing()
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(70)
            assert len(stage.running) == 2
            await asyncio.to_thread(broker.start)
            stage.fault()
            await stage.recovered(f"F4 {topology}: kill -9 of the broker, back after 70 s", limit=120)
        await stage.finish(120)


@pytest.mark.parametrize("seconds", [20, 60])
@pytest.mark.parametrize("way", ["both", "request", "answer"])
async def test_the_network_swallows_everything(
    own_kafka: OwnKafka, prefix: str, tmp_path: Path, way: str, seconds: int
) -> None:
    """Both ways, or only what workers send, or only what they would hear: they go on when it is over."""
    port = free_port()
    broker = await asyncio.to_thread(own_kafka, advertised_port=port)
    scene = Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=12)
    async with Proxy(broker.port, port=port) as proxy, scene as stage:
        stage.worker(), stage.worker()
        async with stage.sending(load(7, 300_000, users=20_000, step=10), rate=RATE):
            await stage.flowing()
            match way:
                case "request":
                    hole = proxy.drop(times=None, side="request", when=_ours)
                case "answer":
                    hole = proxy.drop(times=None, side="answer", when=_ours)
                case _:
                    hole = proxy.black_hole(when=_ours)
            await asyncio.sleep(seconds)
            hole.lift()
            stage.fault()
            await stage.recovered(f"F6 {way} swallowed for {seconds} s")
        await stage.finish(120)


async def test_a_line_that_is_slow_and_breaks(own_kafka: OwnKafka, prefix: str, tmp_path: Path) -> None:
    """All that workers say takes 200 ms, and one message in a hundred breaks its connection instead, for a minute."""
    port, chance = free_port(), random.Random(5)
    broker = await asyncio.to_thread(own_kafka, advertised_port=port)
    scene = Scene(broker.bootstrap, prefix, "rekeyed", tmp_path, partitions=12)
    async with Proxy(broker.port, port=port) as proxy, scene as stage:
        stage.worker(), stage.worker()
        async with stage.sending(load(10, 300_000, users=20_000, step=10), rate=RATE):
            await stage.flowing()
            breaks = proxy.cut(times=None, when=lambda message: _ours(message) and chance.random() < 0.01)
            slow = proxy.delay(0.2, side="request", when=_ours)
            stage.fault()
            await asyncio.sleep(60)
            stage.pause("F5 200 ms and one reset in a hundred messages, for 60 s")
            breaks.lift()
            slow.lift()
            measured(f"F5 {len(breaks.struck)} resets")
            stage.fault()
            await stage.recovered("F5 afterwards")
        await stage.finish(120)


async def test_an_output_that_crawls_is_no_reason_to_swell(own_kafka: OwnKafka, prefix: str, tmp_path: Path) -> None:
    """Each Produce takes a second, for ten minutes: what waits stays in Kafka, memory is bounded, all is caught up."""
    port = free_port()
    broker = await asyncio.to_thread(own_kafka, advertised_port=port)
    scene = Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=12)
    async with Proxy(broker.port, port=port) as proxy, scene as stage:
        worker = stage.worker()
        async with stage.sending(load(8, 700_000, users=20_000, step=10), rate=RATE):
            await stage.flowing()
            base = most = worker.resident
            slow = proxy.delay(1.0, Api.PRODUCE, when=_ours)
            for _ in range(600):
                await asyncio.sleep(1)
                most = max(most, worker.resident)
            slow.lift()
            stage.fault()
            await stage.recovered("F17 Produce delayed by a second for 600 s")
            most = max(most, worker.resident)
            measured(f"F17 memory {base // MEBI} MiB before, {most // MEBI} MiB at most")
            assert most < base + 256 * MEBI
        await stage.finish(120)


async def test_workers_with_names_are_restarted_one_by_one(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    """With instance ids and a long session a restart moves no task: nobody rebalances."""
    names = ("one", "two", "three")
    scene = Scene(kafka.bootstrap, prefix, "keyed", tmp_path, partitions=12, GROUP__SESSION_TIMEOUT="30s")
    async with scene as stage:
        workers = {name: stage.worker(GROUP__INSTANCE_ID=name) for name in names}
        async with stage.sending(load(9, 300_000, users=20_000, step=10), rate=RATE):
            await stage.flowing()
            await stage.shared(*workers.values())
            owned = {name: stage.tasks(worker) for name, worker in workers.items()}
            generations = {name: _generations(worker.said) for name, worker in workers.items()}
            for name in names:
                stage.fault()
                assert await workers[name].stop() == 0
                workers[name] = stage.worker(GROUP__INSTANCE_ID=name)
                await stage.until(lambda name=name: stage.tasks(workers[name]), f"{name} is back")
                await stage.recovered(f"F20 restart of {name}, with its instance id")
                stage.pause(f"F20 restart of {name}")
                others = [other for other in names if other != name]
                assert {other: stage.tasks(workers[other]) for other in others} == {
                    other: owned[other] for other in others
                }
            moved = {name: _generations(worker.said) - generations[name] for name, worker in workers.items()}
            measured(f"F20 new generations seen by each: {moved}")
            assert {name: sorted(stage.tasks(worker)) for name, worker in workers.items()} == {
                name: sorted(tasks) for name, tasks in owned.items()
            }
        await stage.finish(120)


def _generations(said: str) -> set[int]:
    return {int(text) for text in re.findall(r'"generation (\d+):', said)}


def _ours(message: Message) -> bool:
    return message.client_id.startswith("streamproc")
