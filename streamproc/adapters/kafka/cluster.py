"""Who is where: the brokers' addresses, the leader of each partition, the coordinators of groups and transactions.

Looked up when first needed and forgotten when it shows to be wrong.  A look-up changes nothing at the brokers, so one
that fails leaves the request it was made for unsent.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Literal, TypeAlias

from aiokafka.protocol.admin import DeleteRecordsRequest_v1
from aiokafka.protocol.coordination import FindCoordinatorRequest_v1
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.offset import OffsetRequest_v3

from streamproc.adapters.kafka.connections import Connections, Endpoint, Purpose
from streamproc.adapters.kafka.requests import Spoken
from streamproc.adapters.kafka.shapes import by_topic, check, flat
from streamproc.ports.broker import BrokerError, Code, Refused, TopicPartition, Unanswered, Unsent

Kind: TypeAlias = Literal["group", "transaction"]

ASK: Purpose = "ask"
"""What is answered at once: metadata, offsets of a log, administration."""

_KINDS: Mapping[Kind, int] = {"group": 0, "transaction": 1}
_MOVED = {Code.NOT_COORDINATOR, Code.COORDINATOR_NOT_AVAILABLE}
_MISLED = {Code.UNKNOWN_TOPIC_OR_PARTITION, Code.LEADER_NOT_AVAILABLE, Code.NOT_LEADER, Code.KAFKA_STORAGE_ERROR}


class Cluster:
    """What is known of the brokers."""

    def __init__(self, connections: Connections, bootstrap: Collection[Endpoint]) -> None:
        self._connections = connections
        self._bootstrap = set(bootstrap)
        self._addresses = list(bootstrap)
        self._nodes: dict[int, Endpoint] = {}
        self._leaders: dict[TopicPartition, int] = {}
        self._coordinators: dict[tuple[Kind, str], Endpoint] = {}
        self.controller = -1

    def address(self, node: int) -> Endpoint:
        """Where a broker is."""
        try:
            return self._nodes[node]
        except KeyError:
            raise Unsent(f"broker {node} is not known: ask for metadata first") from None

    def nodes(self) -> list[int]:
        """The brokers there are."""
        return list(self._nodes)

    async def connect(self, deadline: float) -> None:
        """Wait until one of the addresses answers; Unsent, naming them, if none does."""
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self.metadata((), deadline)
            except (Unsent, Unanswered) as error:
                if clock() + 0.1 >= deadline:
                    tried = ", ".join(f"{host}:{port}" for host, port in self._addresses)
                    raise Unsent(f"no broker answers at {tried}: {error}") from error
                await asyncio.sleep(0.1)
            else:
                return

    async def anywhere(self, request: Spoken, deadline: float) -> Any:
        """The answer to a request that any broker can give; the one that last gave one is asked first."""
        clock = asyncio.get_running_loop().time
        addresses = list(self._addresses)
        failure: Unsent | None = None
        for number, address in enumerate(addresses):
            # Each gets its share of the time to be reached, so that a dead one does not use up all of it.
            share = clock() + (deadline - clock()) / (len(addresses) - number)
            try:
                await self._connections.reach(address, ASK, share)
                return await self._connections.send(address, ASK, request, deadline)
            except Unsent as error:
                failure = error
                self._last(address)
            except Unanswered:
                self._last(address)
                raise
        raise failure or Unsent("no address of a broker is known")

    async def metadata(self, topics: Collection[str] | None, deadline: float) -> Any:
        """Some topics as they are now, all of them for None; what is known of the cluster is renewed by the way."""
        asked = None if topics is None else list(topics)
        answer = await self.anywhere(Spoken(MetadataRequest_v5(asked, False)), deadline)  # noqa: FBT003 - creates no topic
        self.controller = answer.controller_id
        self._nodes = {node: (host, port) for node, host, port, _ in answer.brokers}
        there = self._bootstrap.union(self._nodes.values())
        self._addresses = [address for address in self._addresses if address in there]
        self._addresses += there.difference(self._addresses)
        for _, topic, _, partitions in answer.topics:
            for _, partition, leader, *_ in partitions:
                self._leaders[TopicPartition(topic, partition)] = leader
        return answer

    async def leaders(
        self, partitions: Collection[TopicPartition], what: str, deadline: float
    ) -> dict[int, list[TopicPartition]]:
        """The partitions by the node that leads them; Refused if there is one without a leader."""
        unknown = {p.topic for p in partitions if self._leaders.get(p, -1) not in self._nodes}
        codes: dict[str, int] = {}
        if unknown:
            try:
                answer = await self.metadata(unknown, deadline)
            except Unanswered as error:
                raise Unsent(str(error)) from error
            codes = {topic: code for code, topic, *_ in answer.topics}
        led = defaultdict(list)
        for partition in partitions:
            leader = self._leaders.get(partition)
            if leader is None:
                code = codes.get(partition.topic) or Code.UNKNOWN_TOPIC_OR_PARTITION
                raise Refused(code, f"{what} {partition}")
            if leader not in self._nodes:
                raise Refused(Code.LEADER_NOT_AVAILABLE, f"{what} {partition}")
            led[leader].append(partition)
        return dict(led)

    async def led(
        self,
        partitions: Collection[TopicPartition],
        what: str,
        purpose: Purpose,
        request: Callable[[list[TopicPartition]], Any],
        deadline: float,
    ) -> list[Any]:
        """What each leader answers to the request for its partitions, or a BrokerError; all are asked at once."""
        led = await self.leaders(partitions, what, deadline)
        asked = [self._ask_leader(node, mine, purpose, Spoken(request(mine)), deadline) for node, mine in led.items()]
        return await asyncio.gather(*asked)

    async def _ask_leader(
        self, node: int, mine: list[TopicPartition], purpose: Purpose, request: Spoken, deadline: float
    ) -> Any:
        try:
            return await self._connections.send(self.address(node), purpose, request, deadline)
        except BrokerError as error:
            self.unreachable(mine)
            return error

    async def offsets(
        self, partitions: Collection[TopicPartition], place: int, level: int, deadline: float
    ) -> dict[TopicPartition, int]:
        """Offsets as ListOffsets gives them: of a time, or a place where `place` is negative."""
        what = "list offsets of"
        found = {}
        for answer in await self.led(partitions, what, ASK, _places(place, level), deadline):
            if isinstance(answer, BrokerError):
                raise answer
            for topic, partition, code, _, offset in flat(answer.topics):
                of = TopicPartition(topic, partition)
                self.misled(code, of)
                check(code, f"{what} {of}")
                found[of] = offset
        return found

    async def trimmed(
        self, before: Mapping[TopicPartition, int], deadline: float, patience: int
    ) -> dict[TopicPartition, int]:
        """Delete what lies before an offset of each partition (-1: all); gives where each begins now."""
        what = "delete records of"

        def request(mine: list[TopicPartition]) -> Any:
            return DeleteRecordsRequest_v1(by_topic((p, (p.partition, before[p])) for p in mine), patience)

        found = {}
        for answer in await self.led(before, what, ASK, request, deadline):
            if isinstance(answer, BrokerError):
                raise answer
            for topic, partition, start, code in flat(answer.topics):
                place = TopicPartition(topic, partition)
                self.misled(code, place)
                check(code, f"{what} {place}")
                found[place] = start
        return found

    def misled(self, code: int, partition: TopicPartition) -> None:
        """Forget the leader of a partition if the code says that it is none."""
        if code in _MISLED:
            self._leaders.pop(partition, None)

    def unreachable(self, partitions: Iterable[TopicPartition]) -> None:
        """Forget the leaders of partitions whose broker does not answer."""
        for partition in partitions:
            self._leaders.pop(partition, None)

    async def coordinator(self, kind: Kind, key: str, deadline: float) -> Endpoint:
        """Where the coordinator of a group or a transactional id is."""
        if (known := self._coordinators.get((kind, key))) is not None:
            return known
        try:
            answer = await self.anywhere(Spoken(FindCoordinatorRequest_v1(key, _KINDS[kind])), deadline)
        except Unanswered as error:
            raise Unsent(str(error)) from error
        if answer.error_code:
            raise Refused(answer.error_code, f"coordinator of {kind} {key!r}")
        found = self._coordinators[kind, key] = (answer.host, answer.port)
        return found

    async def coordinate(self, kind: Kind, key: str, purpose: Purpose, request: Spoken, deadline: float) -> Any:
        """The coordinator's answer; one that cannot be reached is forgotten."""
        address = await self.coordinator(kind, key, deadline)
        try:
            return await self._connections.send(address, purpose, request, deadline)
        except BrokerError:
            self._coordinators.pop((kind, key), None)
            raise

    def moved(self, code: int, kind: Kind, key: str) -> None:
        """Forget a coordinator if the code says that it is none any more."""
        if code in _MOVED:
            self._coordinators.pop((kind, key), None)

    def _last(self, address: Endpoint) -> None:
        self._addresses.sort(key=address.__eq__)


def _places(place: int, level: int) -> Callable[[list[TopicPartition]], Any]:
    return lambda mine: OffsetRequest_v3(-1, level, by_topic((p, (p.partition, place)) for p in mine))
