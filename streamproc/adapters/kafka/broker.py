"""The port to Kafka over aiokafka's connections: each call is one request, or one for each broker concerned.

Nothing is tried twice in here, but for the join that the broker asks to be repeated.  What waits has a connection of
its own: each fetch, each group's join, its heartbeats, its offsets, and each transactional id.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from aiokafka.protocol.fetch import FetchRequest_v11
from aiokafka.protocol.group import JoinGroupRequest_v5, SyncGroupRequest_v3
from aiokafka.protocol.produce import ProduceRequest_v8
from aiokafka.protocol.transaction import (
    AddOffsetsToTxnRequest_v0,
    AddPartitionsToTxnRequest_v0,
    EndTxnRequest_v0,
    InitProducerIdRequest_v0,
    TxnOffsetCommitRequest_v0,
)

from streamproc.adapters.kafka.cluster import Cluster
from streamproc.adapters.kafka.connections import Access, Answered, Connections, Endpoint, Line, Purpose
from streamproc.adapters.kafka.records import Compression, codec_of, packed, prove_bounds, unpacked
from streamproc.adapters.kafka.requests import (
    NO_TAGS,
    EndTxn,
    Heartbeat,
    LeaveGroup,
    OffsetCommit,
    OffsetFetch,
    Spoken,
)
from streamproc.adapters.kafka.shapes import by_topic, check, flat
from streamproc.ports.broker import (
    Appending,
    BrokerError,
    Code,
    Described,
    Fetched,
    Isolation,
    Joined,
    Member,
    Membership,
    Read,
    Refused,
    TopicPartition,
    Unanswered,
    Unsent,
    Writer,
)

REQUEST_TIMEOUT = 8.0
"""Seconds that a call may take, unless it is one that waits."""

BATCH_LIMIT = 64 * 2**20
"""Bytes that a batch may become when it is decompressed."""

_LEVELS: Mapping[Isolation, int] = {"read_uncommitted": 0, "read_committed": 1}
_PLACES = {"start": -2, "end": -1}
_MOST = 2**31 - 1
_BUMPS = 2  # the level of transaction.version from which EndTxn raises the epoch
_JOINING = 5.0  # seconds for the way there and back, on top of the time that the broker waits for others

# What is said though it may have been done: the leader has the records and waited in vain for its followers, or the
# coordinator could not tell whether its own log has the decision.
_UNCERTAIN_APPEND = {Code.UNKNOWN, Code.REQUEST_TIMED_OUT, Code.NOT_ENOUGH_REPLICAS_AFTER_APPEND}
_UNCERTAIN_END = {Code.UNKNOWN, Code.REQUEST_TIMED_OUT, Code.COORDINATOR_NOT_AVAILABLE, Code.NOT_COORDINATOR}


class KafkaBroker:
    """Kafka, as the port has it.  Times are in seconds, sizes in bytes."""

    def __init__(
        self,
        access: Access,
        *,
        request_timeout: float = REQUEST_TIMEOUT,
        batch_limit: int = BATCH_LIMIT,
        compression: Compression = "none",
        answered: Answered = lambda _, __: None,
    ) -> None:
        prove_bounds()
        self._timeout = request_timeout
        self._limit = batch_limit
        self._compression = codec_of(compression)
        self._connections = Connections(access, request_timeout, answered)
        self._cluster = Cluster(self._connections, access.endpoints())
        self._fetching: dict[Endpoint, set[int]] = defaultdict(set)
        self._writers: dict[str, Line] = defaultdict(Line)

    async def connect(self, within: float = REQUEST_TIMEOUT) -> None:
        """Wait until a broker answers; Unsent, with the addresses that were tried, if none does."""
        await self._cluster.connect(asyncio.get_running_loop().time() + within)

    # what there is

    async def metadata(self, topics: Collection[str]) -> Mapping[str, Described]:
        answer = await self._cluster.metadata(topics, self._deadline())
        return {
            topic: Described({partition: leader for _, partition, leader, *_ in partitions}, code)
            for code, topic, _, partitions in answer.topics
        }

    async def list_offsets(
        self, partitions: Collection[TopicPartition], at: Literal["start", "end"] | int, isolation: Isolation
    ) -> Mapping[TopicPartition, int]:
        deadline, level = self._deadline(), _LEVELS[isolation]
        found = await self._cluster.offsets(partitions, at if isinstance(at, int) else _PLACES[at], level, deadline)
        if behind := [partition for partition, offset in found.items() if offset < 0]:
            found |= await self._cluster.offsets(behind, _PLACES["end"], level, deadline)
        return found

    async def trim(self, before: Mapping[TopicPartition, int]) -> None:
        await self._cluster.trimmed(before, self._deadline(), int(self._timeout * 1000))

    # the group

    async def join(self, membership: Membership, member: str, metadata: bytes) -> Joined:
        what, deadline = f"join group {membership.group!r}", self._deadline_of(membership, known=bool(member))
        # Brokers keep the offsets of a "consumer" group for the topics that its members subscribe to only.
        kind = "consumer" if membership.topics else membership.protocol
        answer = await self._join(membership, kind, member, metadata, deadline)
        if answer.error_code == Code.MEMBER_ID_REQUIRED:
            answer = await self._join(membership, kind, answer.member_id, metadata, deadline)
        self._group_check(answer.error_code, membership.group, what)
        members = tuple(Member(id_, raw or b"", instance) for id_, instance, raw in answer.members or ())
        return Joined(answer.generation_id, answer.member_id, answer.leader_id, members)

    async def _join(self, membership: Membership, kind: str, member: str, said: bytes, deadline: float) -> Any:
        request = JoinGroupRequest_v5(
            membership.group,
            membership.session_timeout,
            membership.rebalance_timeout,
            member,
            membership.instance,
            kind,
            [(membership.protocol, said)],
        )
        return await self._grouped("join", membership.group, Spoken(request), deadline)

    async def sync(self, membership: Membership, generation: int, member: str, shares: Mapping[str, bytes]) -> bytes:
        given = list(shares.items())
        request = SyncGroupRequest_v3(membership.group, generation, member, membership.instance, given)
        deadline = self._deadline_of(membership, known=True)
        answer = await self._grouped("join", membership.group, Spoken(request), deadline)
        self._group_check(answer.error_code, membership.group, f"sync group {membership.group!r}")
        return answer.member_assignment or b""

    async def heartbeat(self, membership: Membership, generation: int, member: str) -> None:
        request = Heartbeat(membership.group, generation, member, membership.instance)
        answer = await self._grouped("heartbeat", membership.group, Spoken(request), self._deadline())
        self._group_check(answer.error_code, membership.group, f"heartbeat to group {membership.group!r}")

    async def leave(self, membership: Membership, member: str) -> None:
        request = LeaveGroup(membership.group, [(member, membership.instance)])
        answer = await self._grouped("heartbeat", membership.group, Spoken(request), self._deadline())
        for code in (answer.error_code, *(code for _, _, code in answer.members)):
            self._group_check(code, membership.group, f"leave group {membership.group!r}")

    async def offset_fetch(self, group: str, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        asked = [(topic, mine, NO_TAGS) for topic, mine in by_topic((p, p.partition) for p in partitions)]
        request = OffsetFetch(group, asked, True, NO_TAGS)  # noqa: FBT003 - require_stable
        answer = await self._grouped("offsets", group, Spoken(request), self._deadline())
        self._group_check(answer.error_code, group, f"offsets of group {group!r}")
        found = {}
        for topic, mine, _ in answer.topics:
            for partition, offset, _, _, code, _ in mine:
                place = TopicPartition(topic, partition)
                self._group_check(code, group, f"offset of group {group!r} for {place}")
                if offset >= 0:
                    found[place] = offset
        return found

    async def offset_commit(
        self, group: str, offsets: Mapping[TopicPartition, int], generation: int, member: str
    ) -> None:
        asked = by_topic((p, (p.partition, offset, -1, "")) for p, offset in offsets.items())
        request = OffsetCommit(group, generation, member, None, asked)
        answer = await self._grouped("offsets", group, Spoken(request), self._deadline())
        for topic, partition, code in flat(answer.topics):
            self._group_check(code, group, f"offset of group {group!r} for {TopicPartition(topic, partition)}")

    async def _grouped(self, purpose: str, group: str, request: Spoken, deadline: float) -> Any:
        return await self._cluster.coordinate("group", group, (purpose, group), request, deadline)

    def _group_check(self, code: int, group: str, what: str) -> None:
        self._cluster.moved(code, "group", group)
        check(code, what)

    # reading

    async def fetch(self, node: int, reads: Sequence[Read], wait: int, isolation: Isolation) -> list[Fetched]:
        address, deadline = self._cluster.address(node), self._deadline(wait / 1000)
        asked = by_topic(
            (TopicPartition(r.topic, r.partition), (r.partition, -1, r.offset, -1, r.limit)) for r in reads
        )
        most = min(_MOST, sum(read.limit for read in reads))
        request = FetchRequest_v11(-1, wait, 1, most, _LEVELS[isolation], 0, -1, asked, [], "")
        busy = self._fetching[address]
        slot = next(number for number in range(len(busy) + 1) if number not in busy)
        busy.add(slot)
        try:
            answer = await self._connections.send(address, ("fetch", slot), Spoken(request), deadline)
        except BrokerError:
            self._cluster.unreachable(TopicPartition(read.topic, read.partition) for read in reads)
            raise
        finally:
            busy.discard(slot)
        check(answer.error_code, f"fetch from broker {node}")
        starts = {(read.topic, read.partition): read.offset for read in reads}
        fetched = []
        for topic, partition, code, end, stable, start, aborted, _, raw in flat(answer.topics):
            self._cluster.misled(code, TopicPartition(topic, partition))
            found = Fetched(topic, partition, code, starts[topic, partition], end, stable, start)
            if raw and not code:
                found.size = len(raw)
                unpacked(found, raw, aborted or (), self._limit)
                await asyncio.sleep(0)  # a megabyte is some milliseconds, and heartbeats are due meanwhile
            fetched.append(found)
        return fetched

    # writing

    async def init_producer(self, transactional_id: str, lasting: int) -> Writer:
        deadline, purpose = self._deadline(), self._writing(transactional_id)
        coordinator = await self._cluster.coordinator("transaction", transactional_id, deadline)
        await self._features(coordinator, transactional_id, purpose, deadline)  # the end need not ask
        request = Spoken(InitProducerIdRequest_v0(transactional_id, lasting))
        answer = await self._cluster.coordinate("transaction", transactional_id, purpose, request, deadline)
        self._writer_check(answer.error_code, transactional_id, f"init producer {transactional_id!r}")
        return Writer(transactional_id, answer.producer_id, answer.producer_epoch)

    async def add_partitions(self, writer: Writer, partitions: Collection[TopicPartition]) -> None:
        request = AddPartitionsToTxnRequest_v0(*writer, by_topic((p, p.partition) for p in partitions))
        answer = await self._written(writer, request)
        for topic, partition, code in flat(answer.errors):
            what = f"add {TopicPartition(topic, partition)} to the transaction of {writer.transactional_id!r}"
            self._writer_check(code, _id(writer), what)

    async def produce(self, writer: Writer, batches: Sequence[Appending]) -> Mapping[TopicPartition, int]:
        deadline = self._deadline()
        waiting = {TopicPartition(batch.topic, batch.partition): batch for batch in batches}

        def request(mine: list[TopicPartition]) -> Any:
            asked = by_topic((p, (p.partition, packed(writer, waiting[p], self._compression))) for p in mine)
            patience = max(1, int((deadline - asyncio.get_running_loop().time()) * 1000))
            return ProduceRequest_v8(writer.transactional_id, -1, patience, asked)

        purpose = self._writing(writer.transactional_id)
        answers = await self._cluster.led(waiting, "produce to", purpose, request, deadline)
        failures = [answer for answer in answers if isinstance(answer, BrokerError)]
        appended = {}
        for answer in answers:
            if not isinstance(answer, BrokerError):
                for topic, partition, code, offset, _, _, _, message in flat(answer.topics):
                    place = TopicPartition(topic, partition)
                    appended[place] = offset
                    if code:
                        self._cluster.misled(code, place)
                        failures.append(_not_appended(code, place, message))
        if failures:
            raise next((failure for failure in failures if isinstance(failure, Unanswered)), failures[0])
        return appended

    async def add_offsets(self, writer: Writer, group: str) -> None:
        answer = await self._written(writer, AddOffsetsToTxnRequest_v0(*writer, group))
        what = f"add group {group!r} to the transaction of {writer.transactional_id!r}"
        self._writer_check(answer.error_code, _id(writer), what)

    async def txn_offsets(self, writer: Writer, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        asked = by_topic((p, (p.partition, offset, "")) for p, offset in offsets.items())
        request = TxnOffsetCommitRequest_v0(writer.transactional_id, group, writer.producer_id, writer.epoch, asked)
        purpose = self._writing(_id(writer))
        answer = await self._cluster.coordinate("group", group, purpose, Spoken(request), self._deadline())
        for topic, partition, code in flat(answer.errors):
            what = f"offset of group {group!r} for topic {topic!r} partition {partition} in a transaction"
            self._group_check(code, group, what)

    async def end_txn(self, writer: Writer, *, commit: bool) -> Writer:
        deadline, name = self._deadline(), _id(writer)
        purpose = self._writing(name)
        coordinator = await self._cluster.coordinator("transaction", name, deadline)
        features = await self._features(coordinator, name, purpose, deadline)
        bumps = features.get("transaction.version", 0) >= _BUMPS
        request = EndTxn(*writer, commit, NO_TAGS) if bumps else EndTxnRequest_v0(*writer, commit)
        answer = await self._cluster.coordinate("transaction", name, purpose, Spoken(request), deadline)
        what = f"{'commit' if commit else 'abort'} the transaction of {name!r}"
        if answer.error_code in _UNCERTAIN_END:
            self._cluster.moved(answer.error_code, "transaction", name)
            raise Unanswered(f"{what}: {Code(answer.error_code).name}")
        self._writer_check(answer.error_code, name, what)
        return Writer(name, answer.producer_id, answer.epoch) if bumps else writer

    async def _features(self, coordinator: Endpoint, name: str, purpose: Purpose, deadline: float) -> Mapping[str, int]:
        try:
            return await self._connections.features(coordinator, purpose, deadline)
        except BrokerError:
            self._cluster.moved(Code.NOT_COORDINATOR, "transaction", name)
            raise

    async def _written(self, writer: Writer, request: Any) -> Any:
        name = _id(writer)
        return await self._cluster.coordinate(
            "transaction", name, self._writing(name), Spoken(request), self._deadline()
        )

    def _writing(self, name: str | None) -> Purpose:
        return self._writers[name] if name is not None else "produce"

    def _writer_check(self, code: int, transactional_id: str, what: str) -> None:
        self._cluster.moved(code, "transaction", transactional_id)
        check(code, what)

    # letting go

    def discard(self, transactional_id: str) -> None:
        if (line := self._writers.pop(transactional_id, None)) is not None:
            self._connections.cut(line)

    async def close(self) -> None:
        await self._connections.close(self._deadline())

    def _deadline(self, more: float = 0.0) -> float:
        return asyncio.get_running_loop().time() + self._timeout + more

    def _deadline_of(self, membership: Membership, *, known: bool) -> float:
        """Until when to wait for the others of a group.

        A rebalance may take longer.  But a member that has an id may join again at any time, and by then it has missed
        its session, so that an answer which is lost is not waited for as long as others may take.
        """
        if known:
            return self._deadline(membership.session_timeout / 1000)
        return asyncio.get_running_loop().time() + membership.rebalance_timeout / 1000 + _JOINING


def _id(writer: Writer) -> str:
    if writer.transactional_id is None:
        raise Unsent("a writer without a transactional id has no transactions")
    return writer.transactional_id


def _not_appended(code: int, place: TopicPartition, message: str | None) -> BrokerError:
    what = f"produce to {place}" + (f" ({message})" if message else "")
    return Unanswered(f"{what}: {Code(code).name}") if code in _UNCERTAIN_APPEND else Refused(code, what)
