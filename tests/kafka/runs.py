"""Workers as processes on a real broker, and what their topics hold.

    async with Scene(bootstrap, prefix, "keyed", folder, partitions=4) as scene:
        worker = scene.worker()                       streamproc run, as a user starts it
        async with scene.sending(messages, rate=300):
            worker.kill() / .freeze() / .thaw()
            await scene.recovered()                   the next record of every output partition is there: RTO
        await scene.finish()                          the output equals the oracle's, and all else is as it must be

From its beginning to its end somebody watches the output, and finds at every moment the beginning of what has to come.
Topics are written and read by aiokafka's own producer and consumer, which share no code with the worker's protocol.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, redirect_stdout, suppress
from itertools import count, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError
from aiokafka.partitioner import murmur2

from streamproc.cli import main
from tests.kafka import oracle
from tests.kafka.oracle import LAST, Message, Row, Verdict

ROOT = Path(__file__).parent.parent.parent

SETTINGS = {
    "STREAMPROC_GROUP__SESSION_TIMEOUT": "6s",
    "STREAMPROC_GROUP__REBALANCE_TIMEOUT": "30s",
    "STREAMPROC_TRANSACTION__TIMEOUT": "10s",
    "STREAMPROC_HTTP__ENABLED": "false",
    "STREAMPROC_LOG__FORMAT": "json",
}
"""What a worker is told, unless a test says otherwise."""

KILLED = -signal.SIGKILL
HEALED = 30.0
"""Seconds after the healing of a fault within which no transaction may be open any more."""


class WorkerProcess:
    """One `streamproc run`, with its log in a file."""

    def __init__(
        self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, *, flags: Sequence[str] = ()
    ) -> None:
        self._log = log
        self.began = time.monotonic()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMPROC_")}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-m", "streamproc", *arguments],
                cwd=ROOT,
                env=kept | SETTINGS | dict(environment) | {"PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs; negative if it was killed by a signal."""
        return self._process.poll()

    @property
    def said(self) -> str:
        """Everything it has written so far."""
        return self._log.read_text()

    @property
    def conclusion(self) -> str:
        """The last line it has written: why it ended."""
        return self.said.splitlines()[-1].removeprefix("streamproc: ")

    @property
    def resident(self) -> int:
        """The bytes of memory that it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log with this event."""
        found = []
        for line in self.said.splitlines():
            with suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict) and content.get("event") == name:
                    found.append(content)
        return found

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

    async def stop(self, seconds: float = 45.0) -> int:
        """Ask it to drain, and wait for its end; its exit code."""
        self.ask()
        return await self.ended(seconds)

    async def ended(self, seconds: float = 60.0) -> int:
        """Its exit code once it has come to its end."""
        try:
            return await asyncio.to_thread(self._process.wait, seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it has not ended within {seconds:g} s:\n{self.said[-3000:]}") from None

    def end(self) -> None:
        """Whatever it does, it is gone afterwards."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Watcher:
    """Reads what is committed as it comes, and says at once if it is not the beginning of what has to be."""

    def __init__(self, scene: Scene) -> None:
        self.rows: dict[str, list[Row]] = {}
        self.late: Counter[int] = Counter()
        self.arrivals: dict[int, list[float]] = {number: [] for number in range(scene.partitions)}
        """When records came out of each output partition."""
        self._scene = scene
        self._seen: set[tuple[str, int]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def check(self) -> None:
        """AssertionError if it has seen what must not be."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()

    async def _watch(self) -> None:
        scene = self._scene
        async with scene.consumer("read_committed") as consumer:
            places = [
                TopicPartition(f"{scene.prefix}-{topic}", number)
                for topic in ("totals", "late")
                for number in range(scene.partitions)
            ]
            consumer.assign(places)
            while True:
                for place, records in (await consumer.getmany(timeout_ms=100, max_records=5_000)).items():
                    if place.topic.endswith("-late"):
                        self.late.update(json.loads(record.value)["n"] for record in records)
                    else:
                        self.arrivals[place.partition] += [time.monotonic()] * len(records)
                        for record in records:
                            self._row(oracle.row(record.value), place, record.offset)

    def _row(self, row: Row, place: TopicPartition, offset: int) -> None:
        """One more row, which must be the next of its key; behind a repartition topic, at least a new one."""
        key, start, *_ = row
        rows = self.rows.setdefault(key, [])
        rows.append(row)
        assert (key, start) not in self._seen, f"{place} offset {offset}: {row} is there a second time"
        self._seen.add((key, start))
        if self._scene.topology == "keyed":
            expected = self._scene.expected.rows.get(key, ())
            assert len(rows) <= len(expected), f"{place} offset {offset}: {row} is beyond what there can be"
            wanted = expected[len(rows) - 1]
            assert row == wanted, f"{place} offset {offset}: {row} instead of {wanted}"


class Scene:
    """A topology with topics of its own on a broker, its workers, and what has come of them."""

    def __init__(  # noqa: PLR0913 - each by name
        self,
        bootstrap: str,
        prefix: str,
        topology: str,
        folder: Path,
        *,
        partitions: int,
        watched: bool = True,
        topics: Mapping[str, Mapping[str, str]] | None = None,
        **settings: str,
    ) -> None:
        self.bootstrap = bootstrap
        self.prefix = prefix
        self.topology = topology
        self.partitions = partitions
        self.workers: list[WorkerProcess] = []
        self.expected = Verdict({}, Counter(), Counter())
        """What there has to be of all that was sent so far, for `keyed`."""
        self.watcher = Watcher(self)
        self._watched = watched
        self._configs = topics or {}
        self._settings = settings
        self._folder = folder
        self._sent: list[list[bytes]] = [[] for _ in range(partitions)]
        self._fault_at = 0.0
        self._numbers = count()

    async def __aenter__(self) -> Self:
        for topic in ("events", "totals", "late", "dead"):
            # Results bear event times of long ago, which retention would take for their age.
            configs = {"retention_ms": "-1", **self._configs.get(topic, {})}
            await self.create(f"{self.prefix}-{topic}", self.partitions, **configs)
        code, said = await self.command("topics", "apply", self.target, "--yes")
        assert code == 0, said
        if self._watched:
            self.watcher.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.watcher.stop()
        for worker in self.workers:
            worker.end()
        if error is not None:
            for number, worker in enumerate(self.workers):
                tail = "\n".join(worker.said.splitlines()[-25:])
                sys.stderr.write(f"\n--- worker {number} (exit code {worker.code}) ---\n{tail}\n")

    @property
    def target(self) -> str:
        """What `streamproc run` is given."""
        return f"tests.kafka.topologies:{self.topology}('{self.prefix}')"

    @property
    def app(self) -> str:
        """The name of the application: its group, and the beginning of its own topics."""
        return f"{self.prefix}-{'rekeyed' if self.topology == 'brisk' else self.topology}"

    @property
    def changelog(self) -> str:
        """The changelog of the tasks that read events."""
        return f"{self.app}-{self._stage}-changelog"

    def transactional_id(self, number: int) -> str:
        """Under which the task that reads so-and-so a partition of the events writes."""
        return f"{self.app}-{self._stage}-{number}"

    @property
    def _stage(self) -> str:
        return f"{self.prefix}-events".replace("-", "_")

    def tasks(self, worker: WorkerProcess) -> list[str]:
        """What a worker has said last that it owns, as stage/number; the stages of sources end with `_events`."""
        owned: list[str] = []
        for line in worker.said.splitlines():
            if line.startswith("{"):
                content = json.loads(line)
                match content["event"]:
                    case "partitions_assigned":
                        owned += content["tasks"]
                    case "partitions_revoked" | "partitions_lost":
                        owned = [task for task in owned if task not in content["tasks"]]
        return owned

    async def shared(self, *workers: WorkerProcess, limit: float = 60.0) -> None:
        """Wait until these workers, and nobody else, have all tasks among them, each about as many."""
        count = self.partitions + (5 if self.topology in {"rekeyed", "brisk"} else 0)

        def settled() -> bool:
            owned = [self.tasks(worker) for worker in workers]
            sizes = [len(tasks) for tasks in owned]
            everything = {task for tasks in owned for task in tasks}
            return len(everything) == sum(sizes) == count and max(sizes) - min(sizes) <= 1

        await self.until(settled, f"{len(workers)} workers share {count} tasks", limit)

    @property
    def running(self) -> list[WorkerProcess]:
        """The workers that have not ended."""
        return [worker for worker in self.workers if worker.code is None]

    # topics

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """A client for administration."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    @asynccontextmanager
    async def consumer(self, isolation: str) -> AsyncIterator[AIOKafkaConsumer]:
        """A reader from the beginning, in no group."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            isolation_level=isolation,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_partition_fetch_bytes=16 << 20,
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def create(self, topic: str, partitions: int, **configs: str) -> None:
        """A new topic; the settings' names with underscores for dots."""
        named = {name.replace("_", "."): value for name, value in configs.items()}
        async with self.admin() as admin:
            await admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=named)])

    async def configure(self, topic: str, **configs: str) -> None:
        """Set these of a topic's settings, and all others back."""
        async with self.admin() as admin:
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])

    async def compacted(self, topic: str) -> int:
        """The first offset that has a record in every partition of a topic; above 0 when compaction has been there."""
        found = await self.read(topic, (await self.topics())[topic])
        return min(records[0].offset if records else 0 for records in found)

    async def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Delete the records of partitions in front of offsets, -1 for all; even of a topic that is only compacted."""
        await self.configure(topic, **{"cleanup.policy": "delete,compact"})
        async with self.admin() as admin:
            places = {TopicPartition(topic, number): RecordsToDelete(offset) for number, offset in before.items()}
            await admin.delete_records(places)

    async def topics(self) -> dict[str, int]:
        """All topics of this scene with their numbers of partitions."""
        async with self.admin() as admin:
            names = [name for name in await admin.list_topics() if name.startswith(self.prefix)]
            return {one["topic"]: len(one["partitions"]) for one in await admin.describe_topics(names)}

    async def committed(self) -> dict[TopicPartition, int]:
        """The offsets of the group."""
        async with self.admin() as admin:
            try:
                found = await admin.list_consumer_group_offsets(self.app)
            except GroupCoordinatorNotAvailableError:  # nobody has ever committed anything on this broker
                return {}
            return {place: meta.offset for place, meta in found.items()}

    # workers

    def worker(self, *arguments: str, flags: Sequence[str] = (), **environment: str) -> WorkerProcess:
        """Start a worker; its settings by their names after STREAMPROC_."""
        settings = self._settings | environment
        started = WorkerProcess(
            arguments or ("run", self.target),
            {
                "STREAMPROC_KAFKA__BOOTSTRAP_SERVERS": self.bootstrap,
                **{f"STREAMPROC_{name}": value for name, value in settings.items()},
            },
            self._folder / f"{self.prefix}-{next(self._numbers)}.log",
            flags=flags,
        )
        self.workers.append(started)
        return started

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Another command of streamproc's: its code, and what it says on stdout."""
        out = io.StringIO()

        def work() -> int:
            with redirect_stdout(out):
                return main([*arguments, "--bootstrap-servers", self.bootstrap])

        return await asyncio.to_thread(work), out.getvalue()

    # the load

    async def produce(
        self,
        messages: Sequence[Message],
        *,
        rate: float | None = None,
        last: Collection[int] | None = None,
        enough: asyncio.Event | None = None,
    ) -> None:
        """Write events, so many a second if that is said, until there are enough.

        Behind the `last` ones comes what closes every window, in the partitions that are given.
        """
        placed = [(self.place(message.key), message) for message in messages]
        self.expected = oracle.keyed(
            [
                [*sent, *(message.value for place, message in placed if place == number)]
                for number, sent in enumerate(self._sent)
            ]
        )
        part = 500 if rate is None else max(1, int(rate / 20))
        began = time.monotonic()
        async with self._producer() as producer:
            for start in range(0, len(placed), part):
                if enough is not None and enough.is_set():
                    break
                waiting = await self._write(producer, placed[start : start + part])
                if rate is None:
                    await asyncio.gather(*waiting)
                else:
                    await asyncio.sleep(max(0.0, began + (start + part) / rate - time.monotonic()))
            await producer.flush()
            if last is not None:
                closing = [(number, Message(b"nobody", LAST)) for number in last]
                self.expected = oracle.keyed([*map(self._with_last(last), range(self.partitions))])
                await self._write(producer, closing)
                await producer.flush()

    def _with_last(self, last: Collection[int]) -> Callable[[int], list[bytes]]:
        return lambda number: [*self._sent[number], *([LAST] if number in last else [])]

    async def _write(self, producer: AIOKafkaProducer, placed: Sequence[tuple[int, Message]]) -> list[Any]:
        waiting = []
        for number, message in placed:
            self._sent[number].append(message.value)
            waiting.append(
                await producer.send(f"{self.prefix}-events", value=message.value, key=message.key, partition=number)
            )
        return waiting

    def _producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            client_id="load",
            enable_idempotence=True,  # else a broker that dies makes for duplicates in the input
            linger_ms=5,
            request_timeout_ms=150_000,
            max_request_size=32 << 20,
        )

    @asynccontextmanager
    async def sending(
        self,
        messages: Sequence[Message],
        *,
        rate: float,
        whole: bool = False,
        last: Collection[int] | None = None,
    ) -> AsyncIterator[asyncio.Task[None]]:
        """Write events at a rate while something happens; at the end of it the last one, or first all the others."""
        enough = asyncio.Event()
        last = range(self.partitions) if last is None else last
        work = self.produce(messages, rate=rate, last=last, enough=enough)
        sending = asyncio.create_task(work)
        try:
            yield sending
            assert whole or not sending.done(), "the load was over before the end of the test: give it more"
            if not whole:
                enough.set()
            await sending
        finally:
            sending.cancel()
            await asyncio.wait({sending})

    @property
    def ends(self) -> dict[int, int]:
        """How many events each partition has had."""
        return {number: len(sent) for number, sent in enumerate(self._sent)}

    def place(self, key: bytes) -> int:
        """Java's own default, by aiokafka's hash."""
        return int((murmur2(key) & 0x7FFFFFFF) % self.partitions)

    async def read(self, topic: str, partitions: int | None = None) -> list[list[Any]]:
        """All records of a topic, partition by partition, up to its present end."""
        async with self.consumer("read_committed") as consumer:
            places = [TopicPartition(topic, number) for number in range(partitions or self.partitions)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            found: list[list[Any]] = [[] for _ in places]
            while any([await consumer.position(place) < ends[place] for place in places]):
                for place, records in (await consumer.getmany(timeout_ms=200)).items():
                    found[place.partition] += [record for record in records if record.offset < ends[place]]
            return found

    # what has come of it

    def fault(self) -> None:
        """The fault, or its healing, is now: `recovered` counts from here."""
        self._fault_at = time.monotonic()

    @property
    def since_fault(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self._fault_at

    async def recovered(
        self, what: str = "", *, partitions: Collection[int] | None = None, limit: float = 60.0
    ) -> float:
        """Wait for the next record of every output partition since the fault; how long that took, in seconds."""
        wanted = range(self.partitions) if partitions is None else partitions
        waiting = set(wanted)
        while True:
            self.watcher.check()
            for number in list(waiting):
                times = self.watcher.arrivals[number]
                if times and times[-1] > self._fault_at:
                    waiting.discard(number)
            if not waiting:
                break
            self._none_has_crashed()
            took = time.monotonic() - self._fault_at
            assert took < limit, f"nothing from output partitions {sorted(waiting)} for {took:.0f} s"
            await asyncio.sleep(0.05)
        rto = max(
            min(at for at in self.watcher.arrivals[number] if at > self._fault_at) - self._fault_at for number in wanted
        )
        measured(f"{what or self.prefix}: RTO {rto:.1f} s")
        return rto

    def pause(self, what: str) -> float:
        """The longest time since the fault in which one of the output partitions had nothing new, in seconds."""
        now = time.monotonic()
        longest = 0.0
        for times in self.watcher.arrivals.values():
            marks = [self._fault_at, *(at for at in times if at > self._fault_at), now]
            longest = max(longest, *(after - before for before, after in pairwise(marks)))
        measured(f"{what}: longest pause {longest:.1f} s")
        return longest

    async def flowing(self, limit: float = 60.0) -> None:
        """Wait until every output partition has had a record, from now on."""
        self.fault()
        await self.recovered("from start to flow", limit=limit)

    async def until_committed(self, offsets: Mapping[int, int], limit: float = 60.0) -> None:
        """Wait until the group has come so far in partitions of the events."""
        began = time.monotonic()
        wanted = {TopicPartition(f"{self.prefix}-events", number): offset for number, offset in offsets.items()}
        while not wanted.items() <= (await self.committed()).items():
            self._none_has_crashed()
            assert time.monotonic() - began < limit, f"the group has not committed {wanted} within {limit:g} s"
            await asyncio.sleep(0.1)

    async def until(self, condition: Any, what: str, limit: float = 60.0) -> None:
        """Wait for something that a worker does."""
        began = time.monotonic()
        while not condition():
            self.watcher.check()
            assert time.monotonic() - began < limit, f"not within {limit:g} s: {what}"
            await asyncio.sleep(0.05)

    def _none_has_crashed(self) -> None:
        for worker in self.workers:
            assert worker.code in {None, 0, KILLED}, f"a worker ended with {worker.code}:\n{worker.said[-3000:]}"

    async def finish(self, limit: float = 60.0, *, ends: Collection[int] = (0, KILLED)) -> None:
        """Wait for the whole output, stop the workers, and look at all that C0 says of what is left.

        The output equals the oracle's; nothing was seen on the way that was not a part of it; nothing is left to be
        read; no transaction is open; no state is left, as all windows are closed; workers ended as they were told to.
        """
        healed = time.monotonic()
        await self.whole(limit)
        await self.nothing_open(healed)
        for worker in self.running:
            worker.ask()
        for worker in self.workers:
            code = await worker.ended()
            assert code in ends, f"a worker ended with {code}:\n{worker.said[-3000:]}"
        self.watcher.check()
        await self.equal()
        await self.nothing_unread()
        await self.nothing_kept()

    async def whole(self, limit: float) -> None:
        """Wait until as much has come as there has to be."""
        began = time.monotonic()
        expected = self.expected
        while True:
            self.watcher.check()
            self._none_has_crashed()
            watcher = self.watcher
            if self.topology != "keyed":
                expected = await asyncio.to_thread(oracle.rekeyed, self._sent, Counter(watcher.late))
            found, wanted = sum(map(len, watcher.rows.values())), sum(map(len, expected.rows.values()))
            if self.topology == "keyed":
                if (found, watcher.late.total()) >= (wanted, expected.late.total()) and found >= wanted:
                    return
            elif watcher.rows == expected.rows:
                return
            if time.monotonic() - began > limit:
                late = f"{watcher.late.total()} late of {expected.late.total()}"
                raise AssertionError(f"{found} of {wanted} rows after {limit:.0f} s, {late}")
            await asyncio.sleep(0.2)

    async def equal(self, *, repeated: bool = False) -> None:
        """What stands in the topics now is what the oracle makes of what stands in the source, or `repeated`."""
        source = [[record.value for record in partition] for partition in await self.read(f"{self.prefix}-events")]
        assert sorted(map(sorted, source)) == sorted(map(sorted, self._sent)), "the load itself is not as it was sent"
        late = Counter(json.loads(r.value)["n"] for rs in await self.read(f"{self.prefix}-late") for r in rs)
        expected = oracle.keyed(source) if self.topology == "keyed" else oracle.rekeyed(source, late)
        rows: dict[str, list[Row]] = {}
        for records in await self.read(f"{self.prefix}-totals"):
            for record in records:
                row = oracle.row(record.value)
                rows.setdefault(row[0], []).append(row)
        if repeated:
            measured(f"{self.prefix}: {sum(map(len, rows.values()))} rows, repeated ones included")
            rows = {key: sorted(set(found)) for key, found in rows.items()}
            late = Counter({n: min(count, expected.late[n]) for n, count in late.items()})
        assert rows == dict(expected.rows)
        assert late <= expected.late, "an event was late that was on time where it came from, or twice"
        if self.topology == "keyed":
            assert late == expected.late
        dead = Counter(r.value for rs in await self.read(f"{self.prefix}-dead") for r in rs)
        assert dead == expected.dead
        measured(f"{self.prefix}: {sum(map(len, source))} records in, {sum(map(len, rows.values()))} rows, all right")

    async def nothing_unread(self) -> None:
        """No record of what tasks read lies at or beyond the committed offset."""
        committed = await self.committed()
        counts = await self.topics()
        read = [f"{self.prefix}-events", *(name for name in counts if name.endswith("-repartition"))]
        for topic in read:
            for number, records in enumerate(await self.read(topic, counts[topic])):
                offset = committed.get(TopicPartition(topic, number), 0)
                assert all(r.offset < offset for r in records), f"{topic}/{number}: records beyond {offset}"

    async def nothing_open(self, healed: float, within: float = HEALED) -> None:
        """No transaction is open soon after the healing: the last stable offset of every partition is its end."""
        counts = await self.topics()
        places = [TopicPartition(topic, number) for topic, count in counts.items() for number in range(count)]
        busy: set[TopicPartition] = set(places)
        async with self.consumer("read_committed") as stable, self.consumer("read_uncommitted") as raw:
            while busy:
                asked = sorted(busy)
                stables, ends = await stable.end_offsets(asked), await raw.end_offsets(asked)
                busy = {place for place in asked if stables[place] < ends[place]}
                late = time.monotonic() - healed
                assert not busy or late < within, f"transactions are open after {late:.0f} s: {sorted(busy)}"
                if busy:
                    await asyncio.sleep(0.2)

    async def nothing_kept(self) -> None:
        """All windows are closed, so the state that a restore would give is empty, as the oracle's is."""
        code, said = await self.command("state", "ls", self.target, "--json")
        assert code == 0, said
        kept = [row for row in map(json.loads, said.splitlines()) if row.get("cells", 1)]
        assert kept == []

    async def usurp(self, transactional_id: str) -> None:
        """Fence whoever writes under a transactional id, as another process would that uses it by mistake."""
        impostor = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=transactional_id, transaction_timeout_ms=10_000
        )
        await impostor.start()
        with suppress(KafkaError):
            await impostor.stop()


def measured(text: str) -> None:
    """A figure, for whoever runs this by hand (pytest -s, or -rP)."""
    sys.stdout.write(f"\n    {text}")
    sys.stdout.flush()
    if report := os.environ.get("STREAMPROC_TEST_FIGURES"):
        with Path(report).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
