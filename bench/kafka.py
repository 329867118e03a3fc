"""From Kafka to Kafka: `python -m bench --kafka [--quick]`.  One real broker, topics filled once a load.

    events ──> 1 or 2 workers, a process each ──> totals ──read_committed──> the clock stops with the last result

A worker has its state and commits to write meanwhile, and the broker runs on the same machine.  The processor's time is
that of the workers, from when they begin to when the last result is there; starting a process is not in it.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import monotonic, time
from typing import Any, Self, TypeVar

from bench.workload import BEGIN, Answer, Load, Taken, W, Work, WrongAnswer, topology, written
from streamproc.adapters.kafka import Access, KafkaAdmin, KafkaBroker
from streamproc.adapters.kafka.admin import Topic
from streamproc.core.plan import build
from streamproc.ports.broker import Read, Refused, TopicPartition
from tests.kafka.brokers import KafkaProcess, missing

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0
"""Seconds that a run may take before it counts as stuck."""
LOOK = 0.005
"""Seconds between two questions for what is committed, in take-overs."""
FOREVER = {"log.retention.ms": -1}
"""The events are of 2023, and brokers delete by the time in records."""
WINDOW = 1_010
"""Milliseconds of a window where latency is measured: no multiple of the tick, so that one ends in each phase of it."""
STRETCH = 10
"""How many times the tick a worker waits with a commit while it is behind, unless told otherwise."""

T = TypeVar("T")
_numbers = count()


@dataclass(slots=True)
class Brokers:
    """A broker of this run, and what topics it has been filled with."""

    folder: Path
    process: KafkaProcess = field(default_factory=lambda: KafkaProcess(properties=FOREVER))
    filled: dict[tuple[Load, int], str] = field(default_factory=dict)

    @property
    def bootstrap(self) -> str:
        """Where it is."""
        return self.process.bootstrap

    def events(self, load: Load, partitions: int) -> str:
        """The topic with a load; it is filled where it is not there yet."""
        topic = self.filled.get((load, partitions))
        if topic is None:
            topic = self.filled[load, partitions] = f"events-{partitions}-{next(_numbers)}"
            self.create([Topic(topic, partitions)])
            closing = BEGIN + load.events // load.per_ms + 60_000
            self.ask("fill", path=str(load.file(self.folder)), topic=topic, partitions=partitions, closing=closing)
        return topic

    def create(self, topics: Sequence[Topic]) -> None:
        """Create topics."""
        asyncio.run(self._administered(lambda admin: admin.create_topics(topics)))

    def delete(self, topics: Sequence[str]) -> None:
        """Delete topics: the disk is not for ever."""
        asyncio.run(self._administered(lambda admin: admin.delete_topics(topics)))

    async def _administered(self, work: Callable[[KafkaAdmin], Awaitable[Any]]) -> None:
        admin = KafkaAdmin(Access(self.bootstrap))
        await admin.connect(10)
        try:
            await work(admin)
        finally:
            await admin.close()

    def client(self, what: str, **given: Any) -> Client:
        """Start a client."""
        log = self.folder / f"{what}-{next(_numbers)}.log"
        return Client(what, {"bootstrap": self.bootstrap, **given}, log)

    def ask(self, what: str, **given: Any) -> dict[str, Any]:
        """Run a client to its end, and what it says then."""
        with self.client(what, **given) as client:
            return client.hear()


class Client:
    """A process of `bench.clients`, of which one hears by lines; `log` is where the others go that it writes."""

    def __init__(self, what: str, given: Mapping[str, Any], log: Path) -> None:
        self._what = what
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-m", "bench.clients", what, json.dumps(given)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # nothing happens to one that has ended
        self.process.communicate()

    def hear(self) -> dict[str, Any]:
        """The next line."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise WrongAnswer(f"client {self._what!r} ended; the last of its log:\n{self.log()}")
        heard: dict[str, Any] = json.loads(line)
        return heard

    def tell(self) -> None:
        """Go on."""
        if self.process.stdin:
            self.process.stdin.write("\n")
            self.process.stdin.flush()

    def log(self) -> str:
        """The end of what else it has written."""
        return self._log.read_text()[-2_000:]

    def end(self) -> None:
        """Wait until it has ended, in good order."""
        if self.process.wait(PATIENCE):
            raise WrongAnswer(f"client {self._what!r} ended with {self.process.returncode}:\n{self.log()}")


@dataclass(slots=True)
class App:
    """One application on a topic with events: topics of its own, and workers."""

    brokers: Brokers
    events: str
    partitions: int
    keyed: bool = True
    size: int = W.size
    disorder: int | None = None
    name: str = field(default_factory=lambda: f"bench{next(_numbers)}")

    @property
    def totals(self) -> str:
        """Where the results go."""
        return f"{self.name}-totals"

    @property
    def topology(self) -> dict[str, Any]:
        """What the topology is made with."""
        given = {"app": self.name, "events": self.events, "totals": self.totals, "keyed": self.keyed}
        return given if self.disorder is None else {**given, "disorder": self.disorder}

    @contextmanager
    def topics(self) -> Iterator[None]:
        """Its topics, while it lasts."""
        plan = build(topology("tumbling", self.size, 0, **self.topology).graph(), {self.events: self.partitions})
        compact = {"cleanup.policy": "compact"}
        mine = [Topic(self.totals, self.partitions)]
        mine += [Topic(one.topic, one.partitions) for one in plan.repartitions]
        mine += [Topic(plan.changelog(stage), stage.partitions, configs=compact) for stage in plan.stages]
        self.brokers.create(mine)
        yield
        self.brokers.delete([topic.name for topic in mine])

    def worker(self, guarantee: str, stretch: int = STRETCH) -> Client:
        """A worker that waits to be told to begin."""
        given = {"guarantee": guarantee, "stretch": stretch, "size": self.size, "topology": self.topology}
        return self.brokers.client("work", **given)

    def committed(self, beyond: Mapping[int, int]) -> float:
        """When the offsets of all partitions were committed that far: an instant of `monotonic`."""
        places = {TopicPartition(self.events, number): offset for number, offset in beyond.items()}

        async def look(broker: KafkaBroker) -> float:
            while True:
                found: Mapping[TopicPartition, int] = {}
                with suppress(Refused):  # while a transaction has them
                    found = await broker.offset_fetch(self.name, list(places))
                if all(found.get(place, 0) >= offset for place, offset in places.items()):
                    return monotonic()
                await asyncio.sleep(LOOK)

        return asyncio.run(within(self.brokers.bootstrap, look))


async def within(bootstrap: str, work: Callable[[KafkaBroker], Awaitable[T]]) -> T:
    """Do something with a broker, in the time there is."""
    broker = KafkaBroker(Access(bootstrap))
    await broker.connect(10)
    try:
        async with asyncio.timeout(2 * PATIENCE):
            return await work(broker)
    finally:
        await broker.close()


class Results:
    """What a read_committed consumer sees of a topic."""

    def __init__(self, broker: KafkaBroker, topic: str, partitions: int) -> None:
        self._broker = broker
        self._topic = topic
        self._at = dict.fromkeys(range(partitions), 0)
        self.values: list[bytes | None] = []

    async def come(self) -> AsyncIterator[list[bytes | None]]:
        """Portion by portion, as they come; now and then an empty one."""
        leaders = (await self._broker.metadata([self._topic]))[self._topic].leaders
        (node,) = set(leaders.values())
        while True:
            reads = [Read(self._topic, number, offset) for number, offset in self._at.items()]
            news: list[bytes | None] = []
            for fetched in await self._broker.fetch(node, reads, 100, "read_committed"):
                self._at[fetched.partition] = fetched.next_offset
                news += fetched.values
            self.values += news
            yield news


@dataclass(frozen=True, slots=True)
class Workers:
    """Something to be measured: so many workers on a load."""

    name: str
    load: Load
    brokers: Brokers
    partitions: int
    guarantee: str
    stretch: int = STRETCH
    workers: int = 1
    keyed: bool = True
    work: Work = W
    bound: bool = False
    runs: list[Taken] = field(default_factory=list, compare=False)

    def right(self, folder: Path) -> Answer:
        """The right answer: that of all windows before the one of the record that closes them."""
        return answer_of(self.load, folder)

    def run(self, folder: Path) -> Taken:
        """Run once."""
        events = self.brokers.events(self.load, self.partitions)
        app = App(self.brokers, events, self.partitions, self.keyed)
        expected = self.right(folder).rows
        with app.topics():
            workers = [app.worker(self.guarantee, self.stretch) for _ in range(self.workers)]
            try:
                for worker in workers:
                    worker.hear()
                return asyncio.run(within(self.brokers.bootstrap, partial(self._taken, app, workers, expected)))
            finally:
                for worker in workers:
                    worker.__exit__()

    async def _taken(self, app: App, workers: Sequence[Client], expected: int, broker: KafkaBroker) -> Taken:
        results = Results(broker, app.totals, self.partitions)
        for worker in workers:
            worker.tell()
        latest = monotonic() + PATIENCE
        async for _ in results.come():
            if len(results.values) >= expected or any(worker.process.poll() is not None for worker in workers):
                break
            if monotonic() > latest:
                logs = "\n".join(worker.log() for worker in workers)
                raise WrongAnswer(
                    f"{self.name}: {len(results.values)} of {expected} results after all that time:\n{logs}"
                )
        finished = monotonic()
        for worker in workers:
            worker.tell()
        said = [worker.hear() for worker in workers]
        for worker in workers:
            await asyncio.to_thread(worker.end)
        async for news in results.come():  # what came too much
            if not news:
                break
        began = min(each["begun"] for each in said)
        cpu, rss = sum(each["cpu"] for each in said), max(each["rss"] for each in said)
        return Taken(cpu, finished - began, rss, written(results.values))


@dataclass(frozen=True, slots=True)
class Bound:
    """What a client can do at most that does nothing else: `what` of `bench.clients`."""

    name: str
    load: Load
    brokers: Brokers
    partitions: int
    what: str
    work: Work = W
    bound: bool = True
    runs: list[Taken] = field(default_factory=list, compare=False)

    def right(self, _: Path) -> Answer:
        """As many as there are."""
        return Answer(self.load.events, 0)

    def run(self, folder: Path) -> Taken:
        """Run once."""
        brokers, partitions, events = self.brokers, self.partitions, self.load.events
        if self.what == "fill":
            topic = f"bench{next(_numbers)}-bound"
            brokers.create([Topic(topic, partitions)])
            path = str(self.load.file(folder))
            said = brokers.ask("fill", path=path, topic=topic, partitions=partitions)
            brokers.delete([topic])
        else:
            topic = brokers.events(self.load, partitions)
            said = brokers.ask(self.what, topic=topic, partitions=partitions, count=events)
        return Taken(said["cpu"], said["wall"], said["rss"], Answer(said["count"], 0))


_answers: dict[Load, Answer] = {}


def answer_of(load: Load, folder: Path) -> Answer:
    """The right answer by brute force, worked out in a process of its own, once."""
    if load not in _answers:
        command = [sys.executable, "-m", "bench.measure", "right", str(load.file(folder)), W.kind, str(W.size), "0"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - ourselves
        _answers[load] = Answer(*json.loads(done.stdout)[2])
    return _answers[load]


def throughput(brokers: Brokers, *, quick: bool) -> list[Workers | Bound]:
    """Workload W under each guarantee, on few and many partitions, by one and two workers; then what bounds them."""
    load = Load(200_000 if quick else 1_000_000)
    paces = {
        "exactly once": ("exactly_once", STRETCH),
        "exactly once, 100 ms": ("exactly_once", 1),
        "at least once": ("at_least_once", STRETCH),
    }
    found: list[Workers | Bound] = []
    for partitions, most in ((1, 1), (4, 2), (12, 2)):
        for workers in range(1, most + 1):
            for name, (guarantee, stretch) in paces.items():
                full = f"{name}, {partitions}p {workers}w"
                found.append(Workers(full, load, brokers, partitions, guarantee, stretch, workers))
    for name, (guarantee, stretch) in paces.items():
        found.append(Workers(f"re-keyed, {name}, 4p", load, brokers, 4, guarantee, stretch, keyed=False))
    return [
        *found,
        Bound("bound: fetch, 4p", load, brokers, 4, "consume"),
        Bound("bound: aiokafka getmany(500), 4p", load, brokers, 4, "getmany"),
        Bound("bound: produce, 4p", load, brokers, 4, "fill"),
    ]


def take_over(brokers: Brokers, rounds: int, *, quick: bool, show: Callable[[str], None]) -> list[dict[str, Any]]:
    """Seconds from the start of a worker to the first commit of each of its tasks, without state and with much."""
    found = []
    partitions = 4
    for cells in (0, 100_000 if quick else 1_000_000):
        topic = f"cells-{next(_numbers)}"
        brokers.create([Topic(topic, partitions)])
        if cells:
            brokers.ask("fill", topic=topic, partitions=partitions, cells=cells)
        ends = _ends(brokers, topic, partitions)
        app = App(brokers, topic, partitions, size=10**10)
        with app.topics():
            if cells:
                show(f"{cells:,} cells of state")
                with app.worker("exactly_once") as worker:
                    worker.hear()
                    worker.tell()
                    app.committed(ends)
                    worker.tell()
                    worker.end()
            spent, began = [], []
            for turn in range(rounds):
                show(f"round {turn + 1} of {rounds}: take-over with {cells:,} cells")
                if not cells:  # a new app each time, or there would be a position
                    app = App(brokers, topic, partitions, size=10**10)
                brokers.ask("fill", topic=topic, partitions=partitions, cells=0, closing=BEGIN)
                ends = {number: end + 1 for number, end in ends.items()}
                with app.topics() if not cells else _nothing():
                    started = monotonic()
                    with app.worker("exactly_once") as worker:
                        worker.hear()
                        worker.tell()
                        done = app.committed(ends)
                        worker.tell()
                        said = worker.hear()
                        worker.end()
                spent.append(done - started)
                began.append(done - said["begun"])
            found.append(
                {
                    "cells": cells,
                    "from_process_start": round(median(spent), 3),
                    "from_worker_start": round(median(began), 3),
                    "cells_per_second": round(cells / median(began)),
                    "rss_mb": round(said["rss"], 1),
                    "runs": spent,
                }
            )
    return found


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _ends(brokers: Brokers, topic: str, partitions: int) -> dict[int, int]:
    places = [TopicPartition(topic, number) for number in range(partitions)]

    async def ask(broker: KafkaBroker) -> dict[int, int]:
        found = await broker.list_offsets(places, "end", "read_committed")
        return {place.partition: end for place, end in found.items()}

    return asyncio.run(within(brokers.bootstrap, ask))


def latency(brokers: Brokers, *, quick: bool, show: Callable[[str], None]) -> list[dict[str, Any]]:
    """Milliseconds from the end of a window to the moment a consumer has the row, in a steady flow."""
    found = []
    for partitions in (1, 4):
        for guarantee in ("exactly_once", "at_least_once"):
            show(f"latency, {guarantee}, {partitions} partitions")
            topic = f"live-{next(_numbers)}"
            brokers.create([Topic(topic, partitions)])
            app = App(brokers, topic, partitions, size=WINDOW, disorder=0)
            given = {"rate": 20_000, "seconds": 6 if quick else 20, "keys": 10_000, "size": WINDOW}
            with app.topics(), app.worker(guarantee) as worker:
                worker.hear()
                worker.tell()
                with brokers.client("pace", topic=topic, partitions=partitions, **given) as pacing:
                    live = asyncio.run(within(brokers.bootstrap, partial(_live, app, pacing, given["seconds"])))
                worker.tell()
                said = worker.hear()
                worker.end()
            found.append(
                {
                    "guarantee": guarantee,
                    "partitions": partitions,
                    **live,
                    "rss_mb": round(said["rss"], 1),
                    "cpu": round(said["cpu"] / given["seconds"], 3),
                }
            )
    return found


async def _live(app: App, pacing: Client, seconds: int, broker: KafkaBroker) -> dict[str, Any]:
    results = Results(broker, app.totals, app.partitions)
    ended = asyncio.create_task(asyncio.to_thread(pacing.hear))
    until = monotonic() + seconds + 30
    came: list[tuple[float, list[bytes | None]]] = []
    async for news in results.come():
        if news:
            came.append((time() * 1000, news))
        elif (ended.done() and (not came or time() * 1000 - came[-1][0] > 1_500)) or monotonic() > until:
            break
    sent = (await ended)["windows"]
    waits, counts = [], Counter[int]()
    for at, values in came:
        for row in map(json.loads, filter(None, values)):
            counts[row["start"]] += row["value"][0]
            waits.append((row["start"], at - row["end"]))
    first = min(counts)
    whole = {int(start): number for start, number in sent.items() if int(start) in counts}
    if whole != counts or len(whole) < seconds - 2:
        raise WrongAnswer(f"live: {dict(counts)}, and {sent} were sent")
    steady = [wait for start, wait in waits if start >= first + 3 * WINDOW]
    points = quantiles(steady, n=100)
    return {
        "rows": len(steady),
        "p50": round(median(steady), 1),
        "p99": round(points[98], 1),
        "most": round(max(steady), 1),
    }


def tables(taken: Sequence[Mapping[str, Any]], live: Sequence[Mapping[str, Any]]) -> str:
    """Both for people."""
    lines = ["Take-over, 4 partitions: to the first commit of each task"]
    lines += [f"{'cells':>12}{'s from process':>16}{'s from worker':>16}{'k cells/s':>12}{'RSS MB':>8}"]
    lines += [
        f"{one['cells']:12,}{one['from_process_start']:16.2f}{one['from_worker_start']:16.2f}"
        f"{one['cells_per_second'] / 1000:12,.0f}{one['rss_mb']:8.0f}"
        for one in taken
    ]
    lines += ["", "Latency at 20,000 events/s, windows of 1 s: ms from a window's end to its rows"]
    lines += [f"{'guarantee':>16}{'partitions':>12}{'p50':>8}{'p99':>8}{'most':>8}{'rows':>9}{'cores':>8}{'RSS MB':>8}"]
    lines += [
        f"{one['guarantee']:>16}{one['partitions']:12}{one['p50']:8.0f}{one['p99']:8.0f}{one['most']:8.0f}"
        f"{one['rows']:9,}{one['cpu']:8.2f}{one['rss_mb']:8.0f}"
        for one in live
    ]
    return "\n".join(lines) + "\n"


@contextmanager
def running(folder: Path) -> Iterator[Brokers]:
    """A broker for this run.  SystemExit, with what there is none of, where it cannot be had."""
    lacking = missing()
    if lacking is not None:
        raise SystemExit(f"bench --kafka: {lacking}")
    brokers = Brokers(folder)
    with brokers.process:
        yield brokers
