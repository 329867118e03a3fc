"""Dead letters on Kafka: what is there, one of them in full, and sending them back where they came from.

A letter goes back with the key, value and headers of its input record, to the topic and partition it came from, with
one header more: how often it has been redriven.  If it fails again it becomes a dead letter with that header, and
after three times it stays.

Sending back and remembering how far are one transaction, so nothing is sent twice, however it ends.  What is
remembered is remembered for the same topic with the same filters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamproc.adapters.kafka import KafkaBroker
from streamproc.cli import reading
from streamproc.cli.reading import Row, ends, rows, starts
from streamproc.core.batch import Headers
from streamproc.core.errors import ConfigError, StreamprocError
from streamproc.core.partition import partition
from streamproc.ports.broker import Outgoing, TopicPartition
from streamproc.runners.worker.producing import Committer, Forbidden, Lost, Transactions, Undone, Unwritable, patient

TIMES = 3
"""How often a record may be redriven."""
REDRIVEN = "streamproc.redriven"
ADDED = ("__streams.errors.", "streamproc.errors.")
"""How the headers begin that a dead letter has beside those of its record (S43)."""
AT_ONCE = 500
"""Letters in one transaction at most."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, and what its headers say of it."""

    row: Row
    said: Mapping[str, str]

    @classmethod
    def of(cls, row: Row) -> Letter:
        """A record of a dead-letter topic."""
        said = {name: content.decode(errors="replace") for name, content in row.headers if name.startswith(ADDED)}
        return cls(row, said)

    @property
    def reason(self) -> str | None:
        return self.said.get("streamproc.errors.reason")

    @property
    def node(self) -> str | None:
        return self.said.get("streamproc.errors.node")

    @property
    def redriven(self) -> int:
        """How often its record has been sent back before."""
        found = dict(self.row.headers).get(REDRIVEN, b"0")
        return int(found) if found.isdigit() else 0

    @property
    def source(self) -> tuple[str, int, int] | None:
        """Topic, partition and offset of the record; None if it is none of a topic's but, say, a window's result."""
        found = [self.said.get(f"__streams.errors.{name}", "") for name in ("topic", "partition", "offset")]
        if not (found[0] and found[1].isdecimal() and found[2].isdecimal()):
            return None
        return found[0], int(found[1]), int(found[2])

    def summary(self) -> dict[str, Any]:
        """It in short: where it stands, why, and where it came from."""
        source = self.source
        return {
            "partition": self.row.place.partition,
            "offset": self.row.offset,
            "reason": self.reason,
            "node": self.node,
            "exception": self.said.get("__streams.errors.exception"),
            "source": None if source is None else {"topic": source[0], "partition": source[1], "offset": source[2]},
            "redriven": self.redriven,
        }

    def whole(self) -> dict[str, Any]:
        """All of it: bytes that are no text with escapes."""
        return {
            **self.summary(),
            "at": self.row.at,
            "key": _text(self.row.key),
            "value": _text(self.row.value),
            "headers": [[name, _text(content)] for name, content in self.row.headers],
        }

    def back(self, at: int) -> Outgoing:
        """Its record as it is sent back, stamped with its event time, or `at` if that is unknown or still to come."""
        headers: Headers = tuple(
            (name, content) for name, content in self.row.headers if not name.startswith(ADDED) and name != REDRIVEN
        )
        own = self.said.get("streamproc.errors.timestamp", "")
        return Outgoing(
            self.row.key,
            self.row.value,
            min(int(own), at) if own.isdecimal() else at,
            (*headers, (REDRIVEN, str(self.redriven + 1).encode())),
        )


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant: those of one reason and one node, None for all."""

    reason: str | None = None
    node: str | None = None

    def takes(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        return self.reason in {None, letter.reason} and self.node in {None, letter.node}

    def name(self, topic: str) -> str:
        """Under which name it is remembered how far letters were sent back, as a group and as a writer."""
        return "streamproc-dlq-" + ".".join(filter(None, (topic, self.reason, self.node)))


async def letters(broker: KafkaBroker, topic: str, chosen: Filter) -> AsyncIterator[Letter]:
    """The dead letters of a topic up to its present end."""
    places = await _places(broker, topic)
    start, end = await starts(broker, places), await ends(broker, places)
    for place in places:
        async for fetched in reading.behind(broker, place, start[place], end[place]):
            for row in rows(fetched, end[place]):
                if chosen.takes(letter := Letter.of(row)):
                    yield letter


async def letter_at(broker: KafkaBroker, topic: str, number: int, offset: int) -> Letter:
    """One letter; ConfigError if there is none at that place."""
    places = await _places(broker, topic)
    place = TopicPartition(topic, number)
    if place not in places:
        raise ConfigError(f"topic {topic!r} has no partition {number}; it has 0 to {len(places) - 1}")
    end = (await ends(broker, [place]))[place]
    async for fetched in reading.behind(broker, place, offset, min(end, offset + 1)):
        for row in rows(fetched, offset + 1):
            if row.offset == offset:
                return Letter.of(row)
    start = (await starts(broker, [place]))[place]
    raise ConfigError(
        f"topic {topic!r} partition {number} has no record at offset {offset}; it reaches from {start} to {end}"
    )


async def _places(broker: KafkaBroker, topic: str) -> list[TopicPartition]:
    count = (await reading.counts(broker, [topic])).get(topic)
    if count is None:
        raise ConfigError(f"there is no topic {topic!r}")
    return [TopicPartition(topic, number) for number in range(count)]


@dataclass(slots=True)
class Tally:
    """What came of a replay; letters that stay are counted by why they do."""

    sent: dict[str, int] = field(default_factory=dict)
    exhausted: int = 0
    sourceless: int = 0
    unreachable: dict[str, int] = field(default_factory=dict)

    def rows(self) -> Iterator[dict[str, Any]]:
        """It as rows."""
        for topic, count in sorted(self.sent.items()):
            yield {"topic": topic, "records": count}
        if self.exhausted:
            yield {"stays": self.exhausted, "why": f"redriven {TIMES} times already"}
        if self.sourceless:
            yield {"stays": self.sourceless, "why": "came from no input record"}
        for topic, count in sorted(self.unreachable.items()):
            yield {"stays": count, "why": f"topic {topic!r}, where it came from, does not exist"}


@dataclass(slots=True)
class Replay:
    """Sends letters back; `rate` is how many a second at most, `anew` begins with the first again.

    With `dry` nothing is sent and nothing remembered.
    """

    topic: str
    chosen: Filter
    rate: float | None = None
    dry: bool = False
    anew: bool = False
    lasting: float = 30.0
    tally: Tally = field(default_factory=Tally)
    _counts: dict[str, int] = field(init=False, default_factory=dict)

    async def run(self, broker: KafkaBroker, now: int) -> Tally:
        """Everything up to the present end; `now` stamps what has no time of its own, in ms."""
        places = await _places(broker, self.topic)
        name = self.chosen.name(self.topic)
        writer = Transactions(broker, name, name, self.lasting, lambda _: None)
        try:
            if not self.dry:
                await writer.open()  # and nobody else replays the same from here on
            known = {} if self.anew else await patient(lambda: broker.offset_fetch(name, places))
            first, end = await starts(broker, places), await ends(broker, places)
            for place in places:
                start = max(first[place], known.get(place, 0))
                async for fetched in reading.behind(broker, place, start, end[place]):
                    await self._send(broker, writer, rows(fetched, end[place]), fetched.next_offset, now)
        except (Lost, Undone, Unwritable) as error:
            raise StreamprocError(f"{error}: do it again, what was sent is not sent twice") from error
        except Forbidden as error:
            raise ConfigError(str(error)) from error
        finally:
            if not self.dry:
                writer.discard()
        return self.tally

    async def _send(self, broker: KafkaBroker, writer: Committer, found: list[Row], next_offset: int, now: int) -> None:
        size = AT_ONCE if self.rate is None else max(1, min(AT_ONCE, int(self.rate)))
        for index in range(0, len(found) or 1, size):
            part = found[index : index + size]
            last = index + size >= len(found)
            records = await self._records(broker, part, now)
            if self.dry:
                continue
            place = part[0].place if part else None
            if place is None:
                continue  # nothing but markers
            upto = next_offset if last else part[-1].offset + 1
            await writer.commit(records, {place: upto})
            if self.rate is not None:
                await asyncio.sleep(sum(map(len, records.values())) / self.rate)

    async def _records(self, broker: KafkaBroker, part: list[Row], now: int) -> dict[TopicPartition, list[Outgoing]]:
        """What is sent back of some rows, by where it goes."""
        found: dict[TopicPartition, list[Outgoing]] = {}
        for letter in filter(self.chosen.takes, map(Letter.of, part)):
            source = letter.source
            if source is None:
                self.tally.sourceless += 1
            elif letter.redriven >= TIMES:
                self.tally.exhausted += 1
            elif not (count := await self._count(broker, source[0])):
                self.tally.unreachable[source[0]] = self.tally.unreachable.get(source[0], 0) + 1
            else:
                number = source[1]
                if number >= count:  # the topic has been made anew, with fewer
                    number = partition(letter.row.key, count) if letter.row.key is not None else 0
                found.setdefault(TopicPartition(source[0], number), []).append(letter.back(now))
                self.tally.sent[source[0]] = self.tally.sent.get(source[0], 0) + 1
        return found

    async def _count(self, broker: KafkaBroker, topic: str) -> int:
        if topic not in self._counts:
            self._counts[topic] = (await reading.counts(broker, [topic])).get(topic, 0)
        return self._counts[topic]
