"""The headline: workers are killed over and over under load, and not one of 300,000 records is lost or there twice.

STREAMPROC_TEST_RECORDS, STREAMPROC_TEST_KILLS and STREAMPROC_TEST_RATE make it smaller, or faster.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from tests.kafka.brokers import Kafka
from tests.kafka.oracle import load
from tests.kafka.runs import KILLED, Scene, measured

RECORDS = int(os.environ.get("STREAMPROC_TEST_RECORDS", "300000"))
KILLS = int(os.environ.get("STREAMPROC_TEST_KILLS", "200"))
RATE = int(os.environ.get("STREAMPROC_TEST_RATE", "400"))
WORKERS = 3
STEPS = (
    "after_init_pid",
    "mid_restore",
    "after_produce",
    "after_offsets",
    "before_endtxn",
    "after_endtxn",
    "before_fold",
)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
async def test_workers_are_killed_at_random_and_at_each_step(
    kafka: Kafka, prefix: str, tmp_path: Path, topology: str
) -> None:
    """One to three of three workers at a time, at an instant or at a step of a commit; others start in their place."""
    chance = random.Random(RECORDS)
    kills = KILLS if topology == "keyed" else KILLS // 4
    records = RECORDS if topology == "keyed" else RECORDS // 4
    partitions = 12
    faults: list[tuple[float, int]] = []
    async with Scene(kafka.bootstrap, prefix, topology, tmp_path, partitions=partitions) as scene:
        for _ in range(WORKERS):
            scene.worker()
        killed = 0

        def another() -> None:
            """In the place of one that was killed; one in three will end by itself at a step."""
            steps = f"{chance.choice(STEPS)}:{chance.randrange(1, 60)}"
            scene.worker(**({"CRASH_AT": steps} if chance.random() < 0.33 else {}))

        async with scene.sending(load(3, records, users=20_000, step=10), rate=RATE, whole=True):
            began = time.monotonic()
            while killed < kills and time.monotonic() - began < records / RATE:
                await asyncio.sleep(chance.uniform(3.0, 8.0))
                scene.watcher.check()
                for worker in chance.sample(scene.running, min(len(scene.running), chance.choice((0, 1, 1, 2, 3)))):
                    worker.kill()
                faults.append((time.monotonic(), killed))
                killed = sum(worker.code == KILLED for worker in scene.workers)
                assert {worker.code for worker in scene.workers} <= {None, KILLED}
                while len(scene.running) < WORKERS:
                    another()
            for worker in scene.running:  # those that have still to crash make place for others that do not
                worker.kill()
            scene.worker()
        await scene.finish(limit=300)
        arrivals = scene.watcher.arrivals.values()
        times = []
        for at, _ in faults:
            nexts = [next((each for each in one if each > at), None) for one in arrivals]
            if None not in nexts:
                times.append(max(each for each in nexts if each is not None) - at)
        times.sort()
        seen = sum(map(len, scene._sent)) - partitions  # noqa: SLF001
        half, most = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.95))]
        measured(
            f"F1 {topology}: {killed} kills over {seen:,} records at {RATE}/s: all {seen:,} right; until every "
            f"partition went on: p50 {half:.1f} s, p95 {most:.1f} s, longest {times[-1]:.1f} s of {len(times)}"
        )


@pytest.mark.timeout(1800)
async def test_workers_are_killed_one_after_the_other(kafka: Kafka, prefix: str, tmp_path: Path) -> None:
    """Each when all is well again: how long it takes until every partition goes on."""
    chance = random.Random(KILLS)
    async with Scene(kafka.bootstrap, prefix, "keyed", tmp_path, partitions=12) as scene:
        for _ in range(WORKERS):
            scene.worker()
        times = []
        async with scene.sending(load(4, RECORDS, users=20_000, step=20), rate=500):
            await scene.flowing()
            for _ in range(max(1, KILLS // 10)):
                await scene.shared(*scene.running)
                chance.choice(scene.running).kill()
                scene.fault()
                scene.worker()
                times.append(await scene.recovered("F1 kill -9 of one of three, another starts"))
        await scene.finish()
        times.sort()
        half, most = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.95))]
        measured(f"F1 one after the other: {len(times)} kills: p50 {half:.1f} s, p95 {most:.1f} s")
