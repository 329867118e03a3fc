"""A client of a broker, in a process of its own: `python -m bench.clients WHAT JSON` prints JSON.

work     a worker as `streamproc run` has it:    says it is there --a line--> runs --a line--> says what it took
fill     lines of a file, or cells of as many users, to a topic by key; then what closes all windows
consume  the values of a topic and nothing else;      getmany  the same by the consumer of aiokafka
pace     so many events a second, their time being now; says how many there are in each second
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from itertools import accumulate, islice
from pathlib import Path
from time import monotonic, process_time
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as Assigned

from bench.workload import BEGIN, SEED, topology
from streamproc import config as settings
from streamproc.adapters import logs
from streamproc.adapters.kafka import Access, KafkaBroker
from streamproc.cli import kafka as command
from streamproc.cli.brokers import broker_of, connect
from streamproc.core.partition import partition
from streamproc.ports.broker import NOBODY, Outgoing, Read, TopicPartition
from streamproc.runners.collector import tuned_collector
from streamproc.runners.worker.producing import in_batches

PATIENCE = 10.0
"""Seconds until a broker must answer."""
AT_ONCE = 5_000
"""Events of a request to one partition, on average; four partitions at most get so many at once."""
PAUSE = 0.005
"""Seconds between two requests of a paced client."""


def say(**what: Any) -> None:
    """Tell whoever has started this process."""
    print(json.dumps(what), flush=True)


def peak() -> float:
    """The most memory that this process has held, in MB.  `ru_maxrss` begins with that of its parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


async def work(given: Mapping[str, Any]) -> None:
    """A worker as the command line makes it, but for the web server; told by lines when to begin and when to end."""
    flags = {
        "kafka.bootstrap_servers": given["bootstrap"],
        "guarantee": given["guarantee"],
        "log.format": "json",
    }
    config = settings.load(flags, {}, Path(__file__).parent)
    command.STRETCH = given["stretch"]
    graph = topology("tumbling", given["size"], 0, **given["topology"]).graph()
    watched = command.Watched(graph, config)
    form: Any = config.log_format
    logs.configure(config.log_level, form, context={"topology": graph.name}, counted=watched.metrics.logged)
    broker = broker_of(config)
    worker = command.worker_of(graph, config, broker, watched, lambda _: None)
    await connect(broker, config)
    say(ready=True)
    await asyncio.to_thread(sys.stdin.readline)
    begun, used = monotonic(), process_time()
    with tuned_collector():
        running = asyncio.create_task(worker.run())
        told = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
        say(begun=begun, cpu=process_time() - used, rss=peak())
        worker.stop()
        await running
    await broker.close()


async def fill(given: Mapping[str, Any], broker: KafkaBroker) -> None:
    """Lines to a topic, by key; only the requests are timed."""
    topic, partitions = given["topic"], given["partitions"]
    lines: Iterator[bytes] = _users(given["cells"]) if "cells" in given else _lines(Path(given["path"]))
    lines = islice(lines, given.get("most"))
    places: dict[bytes, int] = {}
    count, wall, cpu = 0, 0.0, 0.0
    while part := list(islice(lines, AT_ONCE * min(partitions, 4))):
        count += len(part)
        rows: list[list[Outgoing]] = [[] for _ in range(partitions)]
        for line in part:
            key = line[line.index(b'"user-') + 1 :].partition(b'"')[0]
            place = places.get(key)
            if place is None:
                place = places[key] = partition(key, partitions)
            rows[place].append(Outgoing(key, line, BEGIN))
        begun, used = monotonic(), process_time()
        await _append(broker, topic, rows)
        cpu, wall = cpu + process_time() - used, wall + monotonic() - begun
    if "closing" in given:
        line = json.dumps({"ts": given["closing"], "user": "closing", "amount": 0.0}).encode()
        await _append(broker, topic, [[Outgoing(b"closing", line, BEGIN)] for _ in range(partitions)])
    say(cpu=cpu, wall=wall, rss=peak(), count=count)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip()


def _users(count: int) -> Iterator[bytes]:
    """One event of each of so many users."""
    for user in range(count):
        yield b'{"ts":%d,"user":"user-%07d","amount":%d.25}' % (BEGIN, user, user % 1_000)


async def _append(broker: KafkaBroker, topic: str, rows: Iterable[list[Outgoing]]) -> None:
    records = {TopicPartition(topic, number): mine for number, mine in enumerate(rows) if mine}
    for batches in in_batches(records, {}):
        await broker.produce(NOBODY, batches)


async def consume(given: Mapping[str, Any], broker: KafkaBroker) -> None:
    """Values as our own fetches give them: their keys and timestamps are lists too, as a worker needs them."""
    topic, left = given["topic"], given["count"]
    described = (await broker.metadata([topic]))[topic]
    at = dict.fromkeys(described.leaders, 0)
    (node,) = set(described.leaders.values())
    begun, used = monotonic(), process_time()
    while left > 0:
        reads = [Read(topic, number, offset) for number, offset in at.items()]
        for fetched in await broker.fetch(node, reads, 100, "read_committed"):
            at[fetched.partition] = fetched.next_offset
            left -= len(fetched.values)
    say(cpu=process_time() - used, wall=monotonic() - begun, rss=peak(), count=given["count"])


async def getmany(given: Mapping[str, Any]) -> None:
    """Values as the consumer of aiokafka gives them."""
    topic, left = given["topic"], given["count"]
    places = [Assigned(topic, number) for number in range(given["partitions"])]
    consumer = AIOKafkaConsumer(bootstrap_servers=given["bootstrap"], enable_auto_commit=False)
    await consumer.start()
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    begun, used = monotonic(), process_time()
    while left > 0:
        for records in (await consumer.getmany(timeout_ms=100, max_records=500)).values():
            left -= len([record.value for record in records])
    say(cpu=process_time() - used, wall=monotonic() - begun, rss=peak(), count=given["count"])
    await consumer.stop()


async def pace(given: Mapping[str, Any], broker: KafkaBroker) -> None:
    """Events at a steady rate for some seconds."""
    topic, partitions, rate = given["topic"], given["partitions"], given["rate"]
    total = rate * given["seconds"]
    drawn = random.Random(SEED)
    weights = list(accumulate(1 / rank for rank in range(1, given["keys"] + 1)))
    users = [b"user-%05d" % user for user in drawn.choices(range(given["keys"]), cum_weights=weights, k=total)]
    places = {user: partition(user, partitions) for user in set(users)}
    windows: Counter[int] = Counter()
    begun, sent = monotonic(), 0
    while sent < total:
        await asyncio.sleep(PAUSE)
        due = min(total, int((monotonic() - begun) * rate))
        now = int(time.time() * 1000)
        rows: list[list[Outgoing]] = [[] for _ in range(partitions)]
        for user in users[sent:due]:
            line = b'{"ts":%d,"user":"%b","type":"click","amount":12.25,"page":"/products/00042.html"}' % (now, user)
            rows[places[user]].append(Outgoing(user, line, now))
        windows[now // given["size"] * given["size"]] += due - sent
        await _append(broker, topic, rows)
        sent = due
    say(windows=windows)


def main(what: str, given: Mapping[str, Any]) -> None:
    """Be one of the clients."""

    async def connected(client: Callable[[Mapping[str, Any], KafkaBroker], Awaitable[None]]) -> None:
        broker = KafkaBroker(Access(given["bootstrap"]))
        await broker.connect(PATIENCE)
        await client(given, broker)
        await broker.close()

    match what:
        case "work":
            asyncio.run(work(given))
        case "getmany":
            asyncio.run(getmany(given))
        case _:
            asyncio.run(connected({"fill": fill, "consume": consume, "pace": pace}[what]))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
