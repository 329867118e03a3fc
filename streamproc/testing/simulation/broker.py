"""Kafka as one simulated process sees it: the port, over a network that loses and delays.

Each call is one message there and one back, so that it can happen and its sender never hear of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, Literal, TypeVar

from streamproc.ports.broker import (
    Appending,
    BrokerError,
    Code,
    Described,
    Fetched,
    Isolation,
    Joined,
    Membership,
    Read,
    Refused,
    TopicPartition,
    Unanswered,
    Writer,
)
from streamproc.testing.simulation.cluster import Cluster
from streamproc.testing.simulation.groups import Given
from streamproc.testing.simulation.network import Network, Parked

T = TypeVar("T")

REQUEST_TIMEOUT = 8.0
"""A request is given up after so many s; one that may wait at the broker has that on top."""


class SimBroker:
    """A client of a cluster; `asker` tells its connections from those of others."""

    def __init__(self, cluster: Cluster, network: Network, asker: object, limit: float = REQUEST_TIMEOUT) -> None:
        self._cluster = cluster
        self._network = network
        self._asker = asker
        self._limit = limit
        self._fetching: dict[int, dict[int, None]] = {}

    # what there is

    async def metadata(self, topics: Collection[str]) -> Mapping[str, Described]:
        node = self._network.up(self._cluster.habits.nodes)
        return await self._ask("metadata", node, self._cluster.metadata, list(topics))

    async def list_offsets(
        self, partitions: Collection[TopicPartition], at: Literal["start", "end"] | int, isolation: Isolation
    ) -> Mapping[TopicPartition, int]:
        def ask(node: int, there: list[TopicPartition]) -> Awaitable[Mapping[TopicPartition, int]]:
            return self._ask("offsets", node, self._cluster.list_offsets, there, at, isolation)

        return _merged(await self._each_leader(list(partitions), ask))

    async def trim(self, before: Mapping[TopicPartition, int]) -> None:
        def ask(node: int, there: list[TopicPartition]) -> Awaitable[Mapping[TopicPartition, int]]:
            return self._ask("offsets", node, self._cluster.trim, {place: before[place] for place in there})

        await self._each_leader(list(before), ask)

    # the group

    async def join(self, membership: Membership, member: str, metadata: bytes) -> Joined:
        try:
            return await self._join(membership, member, metadata)
        except Given as given:
            return await self._join(membership, given.member, metadata)

    async def _join(self, membership: Membership, member: str, metadata: bytes) -> Joined:
        limit = self._limit + membership.rebalance_timeout / 1000
        groups = self._cluster.groups
        return await self._to_group("join", membership.group, groups.join, membership, member, metadata, limit=limit)

    async def sync(self, membership: Membership, generation: int, member: str, shares: Mapping[str, bytes]) -> bytes:
        limit = self._limit + membership.rebalance_timeout / 1000
        groups = self._cluster.groups
        return await self._to_group(
            "join", membership.group, groups.sync, membership, generation, member, dict(shares), limit=limit
        )

    async def heartbeat(self, membership: Membership, generation: int, member: str) -> None:
        groups = self._cluster.groups
        await self._to_group("heartbeat", membership.group, groups.heartbeat, membership, generation, member)

    async def leave(self, membership: Membership, member: str) -> None:
        await self._to_group("heartbeat", membership.group, self._cluster.groups.leave, membership, member)

    async def offset_fetch(self, group: str, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await self._to_group("offsets", group, self._cluster.groups.fetch, group, list(partitions))

    async def offset_commit(
        self, group: str, offsets: Mapping[TopicPartition, int], generation: int, member: str
    ) -> None:
        commit = self._cluster.groups.commit
        await self._to_group("offsets", group, commit, group, dict(offsets), generation, member)

    # reading

    async def fetch(self, node: int, reads: Sequence[Read], wait: int, isolation: Isolation) -> list[Fetched]:
        busy = self._fetching.setdefault(node, {})
        slot = next(number for number in range(len(busy) + 1) if number not in busy)
        busy[slot] = None  # what waits has a connection of its own
        limit = self._limit + wait / 1000
        try:
            return await self._network.ask(
                self._asker, f"fetch {slot}", node, limit, self._cluster.fetch, node, list(reads), wait, isolation
            )
        finally:
            del busy[slot]

    # writing

    async def init_producer(self, transactional_id: str, lasting: int) -> Writer:
        return await self._network.ask(
            self._asker,
            f"writer {transactional_id}",
            self._cluster.coordinator(transactional_id),
            self._limit,
            self._cluster.transactions.init,
            transactional_id,
            lasting,
            coordinated=True,
            repeatable=True,
        )

    async def add_partitions(self, writer: Writer, partitions: Collection[TopicPartition]) -> None:
        await self._to_coordinator(writer, self._cluster.add_partitions, writer, list(partitions))

    async def produce(self, writer: Writer, batches: Sequence[Appending]) -> Mapping[TopicPartition, int]:
        def ask(node: int, there: list[Appending]) -> Awaitable[Mapping[TopicPartition, int]]:
            return self._ask(f"writer {writer.transactional_id}", node, self._cluster.produce, writer, there)

        return _merged(await self._each_leader(list(batches), ask))

    async def add_offsets(self, writer: Writer, group: str) -> None:
        await self._to_coordinator(writer, self._cluster.add_offsets, writer, group)

    async def txn_offsets(self, writer: Writer, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        await self._ask(
            f"writer {writer.transactional_id}",
            self._cluster.coordinator(group),
            self._cluster.groups.commit_in,
            writer,
            group,
            dict(offsets),
        )

    async def end_txn(self, writer: Writer, *, commit: bool) -> Writer:
        try:
            return await self._to_coordinator(writer, self._cluster.transactions.end, writer, commit)
        except Refused as refusal:
            if refusal.code == Code.NOT_COORDINATOR:  # a coordinator says so, too, if it lost its place while deciding
                raise Unanswered(f"{refusal}") from refusal
            raise

    # letting go

    def discard(self, transactional_id: str) -> None:
        self._network.cut(self._asker, f"writer {transactional_id}")

    async def close(self) -> None:
        self._network.cut(self._asker, None)

    # messages

    def _ask(self, purpose: str, node: int, function: Callable[..., T | Parked], *args: Any) -> Coroutine[Any, Any, T]:
        return self._network.ask(self._asker, purpose, node, self._limit, function, *args)

    def _to_group(
        self, purpose: str, group: str, function: Callable[..., T | Parked], *args: Any, limit: float | None = None
    ) -> Coroutine[Any, Any, T]:
        node, limit = self._cluster.coordinator(group), limit or self._limit
        return self._network.ask(self._asker, f"{purpose} {group}", node, limit, function, *args, coordinated=True)

    def _to_coordinator(
        self, writer: Writer, function: Callable[..., T | Parked], *args: Any
    ) -> Coroutine[Any, Any, T]:
        name = writer.transactional_id or ""
        node, limit = self._cluster.coordinator(name), self._limit
        return self._network.ask(self._asker, f"writer {name}", node, limit, function, *args, coordinated=True)

    async def _each_leader(self, parts: list[Any], ask: Callable[[int, list[Any]], Awaitable[T]]) -> list[T]:
        """Ask each node about the partitions that it leads; an unanswered part counts before a refused one."""
        nodes = self._cluster.habits.nodes
        by_node: dict[int, list[Any]] = {}
        for part in parts:
            by_node.setdefault(part.partition % nodes, []).append(part)
        if len(by_node) == 1:
            return [await ask(node, there) for node, there in by_node.items()]

        async def asked(node: int, there: list[Any]) -> T | BrokerError:
            try:
                return await ask(node, there)
            except BrokerError as error:  # if all of it is cancelled, nobody will look at it
                return error

        answers = await asyncio.gather(*(asked(node, there) for node, there in by_node.items()))
        failures = [answer for answer in answers if isinstance(answer, BrokerError)]
        for failure in sorted(failures, key=_certainty):
            raise failure
        return answers  # type: ignore[return-value]


def _merged(parts: list[Mapping[TopicPartition, int]]) -> Mapping[TopicPartition, int]:
    if len(parts) == 1:
        return parts[0]
    return {partition: offset for part in parts for partition, offset in part.items()}


def _certainty(failure: BrokerError) -> int:
    return 0 if isinstance(failure, Unanswered) else 1
