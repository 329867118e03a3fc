"""A web site's log of some day, sent to Kafka as if it happened now: `python deploy/load.py --rate 200`.

The lines of the example's data, over and over.  In them the second of the minute is how far a line is out of order;
here it becomes how long ago it was, so that event time goes with the clock and is as disordered as it was.
"""

# ruff: noqa: INP001 - a program that is found by its path

from __future__ import annotations

import argparse
import asyncio
import gzip
import os
import signal
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path

from aiokafka import AIOKafkaProducer

DATA = Path(__file__).resolve().parent.parent / "topologies" / "data" / "requests.jsonl.gz"
TICKS = 10
"""Times a second that something is sent."""
BROKEN = b'{"time":"yesterday","method":"GET"}'
"""A line that is no request."""

_BEFORE = len(b'{"time":"')
_TIME = len("2015-05-17T10:05:03Z")
_SECOND = slice(-3, -1)


def moved(line: bytes, now: datetime) -> bytes:
    """The line as of so many seconds before `now` as its own time is into its minute."""
    time = line[_BEFORE : _BEFORE + _TIME].decode()
    at = now - timedelta(seconds=int(time[_SECOND]))
    return line[:_BEFORE] + at.strftime("%Y-%m-%dT%H:%M:%SZ").encode() + line[_BEFORE + _TIME :]


def spoilt(lines: Iterator[bytes], share: float) -> Iterator[bytes]:
    """The lines, with a broken one in place of so many of them, evenly."""
    due = 0.0
    for line in lines:
        due += share
        if due >= 1:
            due -= 1
            yield BROKEN
        else:
            yield line


async def send(producer: AIOKafkaProducer, topic: str, lines: Iterator[bytes], rate: float) -> None:
    """So many lines a second, until it is cancelled."""
    loop = asyncio.get_running_loop()
    started, sent = loop.time(), 0
    while True:
        now = datetime.now(UTC)
        wanted = int((loop.time() - started) * rate)
        for _, line in zip(range(wanted - sent), lines, strict=False):
            await producer.send(topic, line if line is BROKEN else moved(line, now))
        sent = max(sent, wanted)
        await asyncio.sleep(1 / TICKS)


async def run(servers: str, topic: str, rate: float, broken: float) -> None:
    """Send until a signal comes."""
    lines = spoilt(cycle(gzip.decompress(DATA.read_bytes()).splitlines()), broken)
    producer = AIOKafkaProducer(bootstrap_servers=servers, linger_ms=20)
    sending = asyncio.current_task()
    assert sending is not None  # noqa: S101 - this is a coroutine, so there is one
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, sending.cancel)
    async with producer:
        await send(producer, topic, lines, rate)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, and send."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--servers", default=os.environ.get("STREAMPROC_KAFKA__BOOTSTRAP_SERVERS", "localhost:9092"))
    parser.add_argument("--topic", default="requests")
    parser.add_argument("--rate", type=float, default=200.0, help="lines a second")
    parser.add_argument("--broken", type=float, default=0.0, help="the share of lines that are no request")
    given = parser.parse_args(arguments)
    try:
        asyncio.run(run(given.servers, given.topic, given.rate, given.broken))
    except asyncio.CancelledError:
        return


if __name__ == "__main__":
    main()
