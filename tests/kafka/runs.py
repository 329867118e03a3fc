"""Workers as processes on a real broker, and what their topics hold.

    async with Scene(bootstrap, prefix, "keyed", partitions=4) as scene:
        await scene.produce(messages)
        worker = scene.worker()              streamproc run, as a user starts it
        worker.kill() / .freeze() / .thaw() / .stop()
        await scene.check(deadline=60)       until the output is whole; then it must equal the oracle's

Written and read by aiokafka's own producer and consumer, which share no code with the worker's protocol.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.kafka import oracle
from tests.kafka.oracle import LAST, Message, Verdict

ROOT = Path(__file__).parent.parent.parent

SETTINGS = {
    "STREAMPROC_GROUP__SESSION_TIMEOUT": "6s",
    "STREAMPROC_GROUP__REBALANCE_TIMEOUT": "30s",
    "STREAMPROC_TRANSACTION__TIMEOUT": "10s",
    "STREAMPROC_HTTP__ENABLED": "false",
    "STREAMPROC_LOG__FORMAT": "json",
}
"""What a worker is told, unless a test says otherwise."""


class WorkerProcess:
    """One `streamproc run`, with its log in a file."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMPROC_")}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "streamproc", *arguments],
                cwd=ROOT,
                env=kept | SETTINGS | dict(environment) | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs; negative if it was killed by a signal."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """Everything it has written so far."""
        return self._log.read_text()

    def kill(self) -> None:
        """Kill -9, and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Stop it in its tracks: it sends nothing and hears nothing, and does not know."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on as if nothing had been."""
        self._process.send_signal(signal.SIGCONT)

    def ask(self) -> None:
        """Ask it to drain."""
        self._process.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 40.0) -> int:
        """Ask it to drain, and wait for its end; its exit code."""
        self.ask()
        return self.wait(seconds)

    def wait(self, seconds: float) -> int:
        """Its exit code once it has come to its end."""
        return self._process.wait(seconds)

    def end(self) -> None:
        """Whatever it does, it is gone afterwards."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Scene:
    """A topology with topics of its own on a broker, its workers, and what has come of them."""

    def __init__(self, bootstrap: str, prefix: str, topology: str, folder: Path, *, partitions: int) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.topology = topology
        self.partitions = partitions
        self.workers: list[WorkerProcess] = []
        self._folder = folder
        self._flushed = False

    async def __aenter__(self) -> Self:
        await self.create(f"{self.prefix}-events", self.partitions)
        for topic in ("totals", "late", "dead"):
            await self.create(f"{self.prefix}-{topic}", self.partitions)
        applied = self.worker("topics", "apply", self.target, "--yes")
        code = await asyncio.to_thread(applied.wait, 60)
        assert code == 0, applied.said
        self.workers.clear()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            worker.end()
        if error is not None:
            for number, worker in enumerate(self.workers):
                tail = "\n".join(worker.said.splitlines()[-12:])
                sys.stderr.write(f"\n--- worker {number} (exit code {worker.code}) ---\n{tail}\n")

    @property
    def target(self) -> str:
        """What `streamproc run` is given."""
        return f"tests.kafka.topologies:{self.topology}('{self.prefix}')"

    async def create(self, topic: str, partitions: int, **configs: str) -> None:
        """A new topic."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=configs)])
        finally:
            await admin.close()

    def worker(self, *arguments: str, **environment: str) -> WorkerProcess:
        """Start a worker, or another command of streamproc's."""
        started = WorkerProcess(
            arguments or ("run", self.target),
            {"STREAMPROC_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap, **environment},
            self._folder / f"worker-{len(self.workers)}.log",
        )
        self.workers.append(started)
        return started

    async def produce(self, messages: Sequence[Message], *, rate: float | None = None, last: bool = True) -> None:
        """Write events, so many a second if that is said; and behind the `last` ones what closes every window."""
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, acks="all", linger_ms=5)
        await producer.start()
        topic = f"{self.prefix}-events"
        try:
            began = time.monotonic()
            for start in range(0, len(messages), 500):
                part = messages[start : start + 500]
                sent = [await producer.send(topic, value=m.value, key=m.key) for m in part]
                await asyncio.gather(*sent)
                if rate is not None:
                    await asyncio.sleep(max(0.0, began + (start + len(part)) / rate - time.monotonic()))
            if last:
                for number in range(self.partitions):
                    await producer.send_and_wait(topic, value=LAST, key=None, partition=number)
        finally:
            await producer.stop()

    async def read(self, topic: str, isolation: str = "read_committed") -> list[list[Any]]:
        """All records of a topic, partition by partition, up to its present end."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            isolation_level=isolation,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            count = len(consumer.partitions_for_topic(topic) or await self._partitions(consumer, topic))
            places = [TopicPartition(topic, number) for number in range(count)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            found: list[list[Any]] = [[] for _ in places]
            while any([await consumer.position(place) < ends[place] for place in places]):
                for place, records in (await consumer.getmany(timeout_ms=200)).items():
                    found[place.partition] += [record for record in records if record.offset < ends[place]]
            return found
        finally:
            await consumer.stop()

    @staticmethod
    async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
        await consumer._client.set_topics([topic])  # noqa: SLF001 - the only way to have it look before assigning
        return set(consumer.partitions_for_topic(topic) or ())

    async def verdict(self, late: set[int]) -> Verdict:
        """What there has to be, from what stands in the source topic."""
        values = [[record.value for record in partition] for partition in await self.read(f"{self.prefix}-events")]
        return oracle.keyed(values) if self.topology == "keyed" else oracle.rekeyed(values, late)

    async def check(self, deadline: float) -> float:
        """Wait until the output is whole, and compare it; the seconds that took."""
        began = time.monotonic()
        while True:
            late_rows = [record for partition in await self.read(f"{self.prefix}-late") for record in partition]
            late = [json.loads(record.value)["n"] for record in late_rows]
            expected = await self.verdict(set(late))
            rows: dict[str, list[oracle.Row]] = {}
            for partition in await self.read(f"{self.prefix}-totals"):
                for record in partition:
                    row = oracle.row(record.value)
                    rows.setdefault(row[0], []).append(row)
            self._is_a_prefix(rows, expected.rows)
            whole = sum(map(len, rows.values())) >= sum(map(len, expected.rows.values()))
            enough = self.topology == "rekeyed" or len(late) >= len(expected.late)
            if whole and enough:
                break
            if time.monotonic() - began > deadline:
                found, wanted = sum(map(len, rows.values())), sum(map(len, expected.rows.values()))
                raise AssertionError(f"{found} of {wanted} rows after {deadline:.0f} s, {len(late)} late")
            for worker in self.workers:
                assert worker.code in {None, 0, -signal.SIGKILL}, (
                    f"a worker ended with {worker.code}:\n{worker.said[-3000:]}"
                )
            await asyncio.sleep(0.2)
        assert rows == dict(expected.rows)
        assert len(late) == len(set(late)), "an event was reported late twice"
        assert set(late) <= expected.late, "an event was late that was on time where it came from"
        if self.topology == "keyed":
            assert set(late) == expected.late
        return time.monotonic() - began

    def _is_a_prefix(
        self, rows: Mapping[str, Sequence[oracle.Row]], expected: Mapping[str, Sequence[oracle.Row]]
    ) -> None:
        """What can be seen so far is the beginning of what has to be, for every key that is complete at its source."""
        if self.topology != "keyed":
            return  # what is late there is known only at the end
        for key, found in rows.items():
            assert list(found) == list(expected.get(key, ())[: len(found)]), f"key {key!r}: not what a calm run gives"
