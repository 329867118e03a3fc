"""What the load generator sends."""

import asyncio
import itertools
import json
from datetime import UTC, datetime

import pytest

from deploy.load import BROKEN, DATA, moved, send, spoilt
from topologies.requests import topology

LINE = b'{"time":"2015-05-17T10:05:43Z","method":"GET","status":200,"size":171717}'
NOW = datetime(2026, 11, 25, 12, 0, 3, tzinfo=UTC)


def test_a_line_is_moved_to_now() -> None:
    """It happened as many seconds ago as it was into its minute; the rest of it is as it was."""
    assert moved(LINE, NOW) == b'{"time":"2026-11-25T11:59:20Z","method":"GET","status":200,"size":171717}'
    assert json.loads(moved(LINE.replace(b":43Z", b":00Z"), NOW))["time"] == "2026-11-25T12:00:03Z"


def test_some_lines_are_broken() -> None:
    """The share that was asked for, evenly; none if none was."""
    assert list(spoilt(iter([LINE] * 8), 0.25)) == [LINE, LINE, LINE, BROKEN] * 2
    assert list(spoilt(iter([LINE] * 8), 0.0)) == [LINE] * 8


class Sent(list[tuple[str, bytes]]):
    """A producer that keeps what it is given, and stops the sender when that is enough."""

    async def send(self, topic: str, value: bytes) -> None:
        """Keep it."""
        self.append((topic, value))
        if len(self) == 5:
            raise asyncio.CancelledError


async def test_lines_go_to_the_topic_as_of_now() -> None:
    """Good ones are moved, broken ones are sent as they are, at the pace of the clock."""
    producer = Sent()
    with pytest.raises(asyncio.CancelledError):
        await send(producer, "requests", spoilt(itertools.repeat(LINE), 0.2), rate=100_000)  # type: ignore[arg-type]
    assert {topic for topic, _ in producer} == {"requests"}
    assert [value == BROKEN for _, value in producer] == [False, False, False, False, True]
    assert datetime.fromisoformat(json.loads(producer[0][1])["time"]).year >= 2026


def test_it_sends_what_the_topology_reads() -> None:
    """The data is that of the example, and the example's topic is where it goes by default."""
    assert DATA.is_file()
    assert topology.name == "requests"
