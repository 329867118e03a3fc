"""What tools need of Kafka: topics and what is set for them, groups and their offsets."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiokafka.protocol.admin import (
    DeleteGroupsRequest_v1,
    DeleteTopicsRequest_v3,
    DescribeConfigsRequest_v2,
    ListGroupsRequest_v1,
)
from aiokafka.protocol.group import MemberAssignment, ProtocolMetadata

from streamproc.adapters.kafka.cluster import ASK, Cluster
from streamproc.adapters.kafka.connections import Access, Connections
from streamproc.adapters.kafka.requests import (
    NO_TAGS,
    CreateTopics,
    DescribeGroups,
    OffsetCommit,
    OffsetDelete,
    OffsetFetch,
    Spoken,
)
from streamproc.adapters.kafka.shapes import by_topic, check, flat
from streamproc.ports.broker import Code, Refused, TopicPartition

_TOPICS, _BROKER = 2, 4  # what configs are asked for
_GROUPS = "admin"
_PAUSE = 0.05


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; with -1 the brokers' own number of partitions or of replicas.

    `configs` of one to be created are those that differ from the brokers' own, of one that is there all.
    """

    name: str
    partitions: int = -1
    replication: int = -1
    configs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A member of a group, with what it said of itself and what it was given."""

    id: str
    instance: str | None
    client: str
    host: str
    metadata: bytes
    assignment: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """A group; its state is Dead if there is none of that name, and Empty if nobody is in it."""

    name: str
    state: str
    kind: str
    protocol: str
    members: tuple[GroupMember, ...] = ()


class KafkaAdmin:
    """Administration.  Errors are those of the port; `request_timeout` in seconds bounds each call."""

    def __init__(self, access: Access, *, request_timeout: float = 8.0) -> None:
        self._timeout = request_timeout
        self._connections = Connections(access, request_timeout)
        self._cluster = Cluster(self._connections, access.endpoints())

    async def connect(self, within: float = 8.0) -> None:
        """Wait until a broker answers; Unsent, with the addresses that were tried, if none does."""
        await self._cluster.connect(asyncio.get_running_loop().time() + within)

    async def close(self) -> None:
        """Let go of all connections."""
        await self._connections.close(self._deadline())

    async def brokers(self) -> int:
        """How many brokers there are."""
        await self._cluster.metadata((), self._deadline())
        return len(self._cluster.nodes())

    async def broker_configs(self) -> dict[str, str]:
        """The settings of one of the brokers; none where this principal may not see them."""
        deadline = self._deadline()
        await self._cluster.metadata((), deadline)
        node = min(self._cluster.nodes())
        request = Spoken(DescribeConfigsRequest_v2([(_BROKER, str(node), None)], False))  # noqa: FBT003 - no synonyms
        answer = await self._connections.send(self._cluster.address(node), ASK, request, deadline)
        ((code, message, _, _, entries),) = answer.resources
        if code == Code.CLUSTER_AUTHORIZATION_FAILED:
            return {}
        check(code, f"describe broker {node}" + (f" ({message})" if message else ""))
        return {key: value or "" for key, value, *_ in entries}

    # topics

    async def create_topics(self, topics: Collection[Topic]) -> list[str]:
        """Create those that are not there yet, and wait until they are led; gives the names of those it created."""
        deadline = self._deadline()
        asked: list[Any] = [(t.name, t.partitions, t.replication, [], list(t.configs.items())) for t in topics]
        answer = await self._controlled(CreateTopics(asked, self._patience(), False), deadline)  # noqa: FBT003 - in earnest
        created = []
        for name, code, message in answer.topics:
            if code != Code.TOPIC_ALREADY_EXISTS:
                check(code, f"create topic {name!r}" + (f" ({message})" if message else ""))
                created.append(name)
        await self._led(created, deadline)
        return created

    async def _led(self, names: list[str], deadline: float) -> None:
        """A leader is known a little before it leads: it must have answered for its partition."""
        clock = asyncio.get_running_loop().time
        while names and clock() < deadline:
            answer = await self._cluster.metadata(names, deadline)
            places = [TopicPartition(name, n) for _, name, _, parts in answer.topics for _, n, *_ in parts]
            try:
                await self._cluster.offsets(places, -1, 0, deadline)
            except Refused:
                await asyncio.sleep(_PAUSE)
            else:
                if {place.topic for place in places} == set(names):
                    return

    async def describe_topics(self, names: Collection[str] | None = None) -> dict[str, Topic]:
        """Topics with their configs, all of them for None; what is not there is left out."""
        deadline = self._deadline()
        answer = await self._cluster.metadata(names, deadline)
        sizes = {}
        for code, name, _, partitions in answer.topics:
            if code != Code.UNKNOWN_TOPIC_OR_PARTITION:
                check(code, f"describe topic {name!r}")
                sizes[name] = (len(partitions), min((len(replicas) for *_, replicas, _, _ in partitions), default=0))
        configs = await self._configs(sizes, deadline)
        return {name: Topic(name, *size, configs.get(name, {})) for name, size in sizes.items()}

    async def _configs(self, names: Collection[str], deadline: float) -> dict[str, dict[str, str]]:
        if not names:
            return {}
        asked = [(_TOPICS, name, None) for name in names]
        answer = await self._cluster.anywhere(Spoken(DescribeConfigsRequest_v2(asked, False)), deadline)  # noqa: FBT003 - no synonyms
        found = {}
        for code, message, _, name, entries in answer.resources:
            if code != Code.UNKNOWN_TOPIC_OR_PARTITION:  # deleted between the two requests
                check(code, f"describe topic {name!r}" + (f" ({message})" if message else ""))
                found[name] = {key: value or "" for key, value, *_ in entries}
        return found

    async def delete_topics(self, names: Collection[str]) -> None:
        """Delete topics with all that is in them."""
        answer = await self._controlled(DeleteTopicsRequest_v3(list(names), self._patience()), self._deadline())
        for name, code in answer.topic_error_codes:
            check(code, f"delete topic {name!r}")

    async def delete_records(self, before: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Delete what lies before an offset of each partition (-1: all); gives where each begins now."""
        return await self._cluster.trimmed(before, self._deadline(), self._patience())

    # groups

    async def list_groups(self) -> dict[str, str]:
        """The groups of all brokers, and of what kind each is."""
        deadline = self._deadline()
        await self._cluster.metadata((), deadline)
        found: dict[str, str] = {}
        for node in self._cluster.nodes():
            request = Spoken(ListGroupsRequest_v1())
            answer = await self._connections.send(self._cluster.address(node), ASK, request, deadline)
            check(answer.error_code, f"list groups of broker {node}")
            found |= dict(answer.groups)
        return found

    async def describe_group(self, group: str) -> Group:
        """A group and its members."""
        answer = await self._coordinated(group, DescribeGroups([group], False))  # noqa: FBT003 - without what is allowed
        ((code, name, state, kind, protocol, members, _),) = answer.groups
        self._check(code, group, f"describe group {group!r}")
        told = tuple(
            GroupMember(id_, instance, client, host, _inner(ProtocolMetadata, said), _inner(MemberAssignment, given))
            for id_, instance, client, host, said, given in members
        )
        return Group(name, state, kind, protocol, told)

    async def delete_group(self, group: str) -> None:
        """Delete a group without members, with its offsets."""
        answer = await self._coordinated(group, DeleteGroupsRequest_v1([group]))
        for _, code in answer.results:
            self._check(code, group, f"delete group {group!r}")

    async def offsets(self, group: str) -> dict[TopicPartition, int]:
        """All committed offsets of a group, whatever transactions may be under way."""
        answer = await self._coordinated(group, OffsetFetch(group, None, False, NO_TAGS))  # noqa: FBT003 - stable or not
        self._check(answer.error_code, group, f"offsets of group {group!r}")
        found = {}
        for topic, mine, _ in answer.topics:
            for partition, offset, _, _, code, _ in mine:
                self._check(code, group, f"offset of group {group!r} for {TopicPartition(topic, partition)}")
                found[TopicPartition(topic, partition)] = offset
        return found

    async def set_offsets(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set offsets of a group that nobody is in; Refused(UNKNOWN_MEMBER_ID) if somebody is."""
        asked = by_topic((p, (p.partition, offset, -1, "")) for p, offset in offsets.items())
        answer = await self._coordinated(group, OffsetCommit(group, -1, "", None, asked))
        for topic, partition, code in flat(answer.topics):
            self._check(code, group, f"offset of group {group!r} for {TopicPartition(topic, partition)}")

    async def delete_offsets(self, group: str, partitions: Collection[TopicPartition]) -> None:
        """Delete offsets of a group that nobody is in."""
        asked = by_topic((p, p.partition) for p in partitions)
        answer = await self._coordinated(group, OffsetDelete(group, asked))
        self._check(answer.error_code, group, f"delete offsets of group {group!r}")
        for topic, partition, code in flat(answer.topics):
            self._check(code, group, f"delete offset of group {group!r} for {TopicPartition(topic, partition)}")

    async def _coordinated(self, group: str, request: Any) -> Any:
        return await self._cluster.coordinate("group", group, _GROUPS, Spoken(request), self._deadline())

    def _check(self, code: int, group: str, what: str) -> None:
        self._cluster.moved(code, "group", group)
        check(code, what)

    async def _controlled(self, request: Any, deadline: float) -> Any:
        await self._cluster.metadata((), deadline)
        address = self._cluster.address(self._cluster.controller)
        return await self._connections.send(address, ASK, Spoken(request), deadline)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout

    def _patience(self) -> int:
        return int(self._timeout * 1000)


def _inner(envelope: Any, raw: bytes | None) -> bytes:
    """What a worker put into the envelope; of a member that is none of ours all there is."""
    try:
        inner: bytes = envelope.decode(raw or b"").user_data or b""
    except (ValueError, TypeError):
        return raw or b""
    return inner
