"""The port to Kafka against a real broker: what each call does, and what each way of failing looks like."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from streamproc.adapters.kafka import Access, KafkaAdmin, KafkaBroker, Topic
from streamproc.ports.broker import (
    NOBODY,
    Appending,
    Code,
    Described,
    Fetched,
    Isolation,
    Membership,
    Outgoing,
    Read,
    Refused,
    TopicPartition,
    Unanswered,
    Unauthenticated,
    Unsent,
    Writer,
)
from tests.kafka.brokers import Kafka, OwnKafka, free_port
from tests.kafka.proxy import Api, Proxy

T = TypeVar("T")

LASTING = 10_000
PASSING = {
    Code.COORDINATOR_LOADING,
    Code.COORDINATOR_NOT_AVAILABLE,
    Code.NOT_COORDINATOR,
    Code.CONCURRENT_TRANSACTIONS,
    Code.UNSTABLE_OFFSET_COMMIT,
}


@pytest.fixture
async def broker(kafka: Kafka) -> AsyncIterator[KafkaBroker]:
    """The adapter, connected."""
    made = KafkaBroker(Access(kafka.bootstrap))
    await made.connect()
    yield made
    await made.close()


@pytest.fixture
async def admin(kafka: Kafka) -> AsyncIterator[KafkaAdmin]:
    """What creates this test's topics."""
    made = KafkaAdmin(Access(kafka.bootstrap))
    yield made
    await made.close()


@pytest.fixture
async def topic(admin: KafkaAdmin, prefix: str) -> str:
    """A topic of three partitions."""
    assert await admin.create_topics([Topic(prefix, 3, 1)]) == [prefix]
    return prefix


async def passed(call: Callable[[], Awaitable[T]]) -> T:
    """The answer to a call that is refused as long as the broker is busy with something else."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except Refused as refusal:
                if refusal.code not in PASSING:
                    raise
            await asyncio.sleep(0.02)


async def asked(broker: KafkaBroker) -> None:
    """Wait until a request is under way."""
    async with asyncio.timeout(30):
        while True:
            if any(link.waiting for link in broker._connections._links.values()):  # noqa: SLF001
                return
            await asyncio.sleep(0)


async def refusal_of(call: Awaitable[object]) -> Refused:
    """How a call is refused."""
    with pytest.raises(Refused) as caught:
        await call
    return caught.value


async def begun(broker: KafkaBroker, name: str, *partitions: TopicPartition) -> Writer:
    """A writer with an open transaction."""
    writer = await passed(lambda: broker.init_producer(name, LASTING))
    await passed(lambda: broker.add_partitions(writer, partitions))
    return writer


def written(topic: str, partition: int, sequence: int, *values: bytes) -> Appending:
    """A batch of values without keys, all at 0."""
    return Appending(topic, partition, sequence, [Outgoing(None, value, 0) for value in values])


async def read(
    broker: KafkaBroker, topic: str, partition: int = 0, isolation: Isolation = "read_committed", start: int = 0
) -> list[Fetched]:
    """All that lies in a partition, fetch by fetch, up to its end."""
    place = TopicPartition(topic, partition)
    leader = (await broker.metadata([topic]))[topic].leaders[partition]
    end = (await broker.list_offsets([place], "end", isolation))[place]
    found = []
    async with asyncio.timeout(30):
        while start < end:
            (fetched,) = await broker.fetch(leader, [Read(topic, partition, start)], 100, isolation)
            assert fetched.code == Code.NONE, fetched
            start = fetched.next_offset
            found.append(fetched)
    return found


def values(found: Sequence[Fetched]) -> list[bytes | None]:
    """The values of all fetches."""
    return [value for fetched in found for value in fetched.values]


async def test_what_is_produced_is_fetched(broker: KafkaBroker, topic: str) -> None:
    """Keys, values, nulls, headers and times come back as they were written, in one list for each."""
    records = [
        Outgoing(b"k", b"v", 5, (("h", b"1"), ("h", b""), ("ü", b"2"))),
        Outgoing(None, b"", 3),
        Outgoing(b"", None, 1_700_000_000_000),
    ]
    place = TopicPartition(topic, 1)
    assert await broker.produce(NOBODY, [Appending(topic, 1, 0, records)]) == {place: 0}
    (found,) = await read(broker, topic, 1)
    assert found == Fetched(
        topic,
        1,
        Code.NONE,
        next_offset=3,
        end=3,
        stable=3,
        start=0,
        offsets=range(3),
        keys=[b"k", None, b""],
        values=[b"v", b"", None],
        stamps=[5, 3, 1_700_000_000_000],
        headers=[records[0].headers, (), ()],
        size=found.size,
    )
    assert found.size > 61


async def test_a_read_may_begin_inside_a_batch(broker: KafkaBroker, topic: str) -> None:
    """What lies before the offset that was asked for does not come out."""
    await broker.produce(NOBODY, [written(topic, 0, 0, *(b"%d" % n for n in range(10)))])
    (found,) = await read(broker, topic, start=7)
    assert (found.offsets, found.values) == (range(7, 10), [b"7", b"8", b"9"])


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_records_come_back(kafka: Kafka, topic: str, compression: str) -> None:
    """Each compression is written and read."""
    if compression != "gzip":
        pytest.importorskip("cramjam")
    broker = KafkaBroker(Access(kafka.bootstrap), compression=compression)  # type: ignore[arg-type]
    many = [b"the same again %d" % (n // 100) for n in range(1000)]
    await broker.produce(NOBODY, [written(topic, 0, 0, *many)])
    found = await read(broker, topic)
    assert values(found) == many
    assert sum(fetched.size for fetched in found) < 10_000
    await broker.close()


async def test_one_call_writes_to_several_partitions(broker: KafkaBroker, topic: str) -> None:
    """One batch for each partition, and where each begins."""
    batches = [written(topic, n, 0, b"a", b"b") for n in range(3)]
    places = [TopicPartition(topic, n) for n in range(3)]
    assert await broker.produce(NOBODY, batches) == dict.fromkeys(places, 0)
    assert await broker.produce(NOBODY, batches) == dict.fromkeys(places, 2)
    assert await broker.list_offsets(places, "end", "read_uncommitted") == dict.fromkeys(places, 4)


async def test_a_fetch_waits_for_news_and_holds_up_nothing_else(broker: KafkaBroker, topic: str) -> None:
    """While one fetch waits, another of the same broker and a write go through; the write ends the wait."""
    leader = (await broker.metadata([topic]))[topic].leaders[0]
    waiting = asyncio.create_task(broker.fetch(leader, [Read(topic, 0, 0)], 5_000, "read_committed"))
    other = await broker.fetch(leader, [Read(topic, 1, 0)], 1, "read_committed")
    assert [(found.offsets, found.values, found.headers) for found in other] == [((), (), None)]
    assert not waiting.done()
    await broker.produce(NOBODY, [written(topic, 0, 0, b"news")])
    assert values(await waiting) == [b"news"]


async def test_a_cancelled_fetch_holds_up_nothing(broker: KafkaBroker, topic: str) -> None:
    """Its connection is given up, since the broker would answer it before anything else."""
    leader = (await broker.metadata([topic]))[topic].leaders[0]
    waiting = asyncio.create_task(broker.fetch(leader, [Read(topic, 0, 0)], 60_000, "read_committed"))
    await asked(broker)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(5):
        await broker.fetch(leader, [Read(topic, 0, 0)], 1, "read_committed")


async def test_what_is_wrong_with_a_read_is_said_of_its_partition(broker: KafkaBroker, topic: str) -> None:
    """A bad offset, a partition or a topic that does not exist leave the other reads alone."""
    await broker.produce(NOBODY, [written(topic, 0, 0, b"here")])
    leader = (await broker.metadata([topic]))[topic].leaders[0]
    reads = [Read(topic, 0, 0), Read(topic, 1, 99), Read(topic, 7, 0), Read(f"no-{topic}", 0, 0)]
    found = {(f.topic, f.partition): f for f in await broker.fetch(leader, reads, 1, "read_committed")}
    assert {place: fetched.code for place, fetched in found.items()} == {
        (topic, 0): Code.NONE,
        (topic, 1): Code.OFFSET_OUT_OF_RANGE,
        (topic, 7): Code.UNKNOWN_TOPIC_OR_PARTITION,
        (f"no-{topic}", 0): Code.UNKNOWN_TOPIC_OR_PARTITION,
    }
    assert found[topic, 0].values == [b"here"]


async def test_metadata_says_what_is_not_there(broker: KafkaBroker, topic: str) -> None:
    """A topic that does not exist has no leaders and a code, and is not created by asking for it."""
    for _ in range(2):
        found = await broker.metadata([topic, f"no-{topic}"])
        assert found[f"no-{topic}"] == Described({}, Code.UNKNOWN_TOPIC_OR_PARTITION)
        assert (sorted(found[topic].leaders), found[topic].code) == ([0, 1, 2], Code.NONE)


async def test_writing_to_what_is_not_there_is_refused(broker: KafkaBroker, topic: str) -> None:
    """Topic and partition are named."""
    for place in (TopicPartition(topic, 3), TopicPartition(f"no-{topic}", 0)):
        refusal = await refusal_of(broker.produce(NOBODY, [written(*place, 0, b"v")]))
        assert refusal.code == Code.UNKNOWN_TOPIC_OR_PARTITION
        assert str(place) in refusal.what
        refusal = await refusal_of(broker.list_offsets([place], "end", "read_committed"))
        assert (refusal.code, str(place) in refusal.what) == (Code.UNKNOWN_TOPIC_OR_PARTITION, True)


async def test_a_topic_that_was_made_anew_is_found(broker: KafkaBroker, admin: KafkaAdmin, topic: str) -> None:
    """What is remembered of a leader is forgotten once it is wrong."""
    await broker.produce(NOBODY, [written(topic, 0, 0, b"old")])
    await admin.delete_topics([topic])
    with contextlib.suppress(Refused):
        await broker.produce(NOBODY, [written(topic, 0, 0, b"old")])
    async with asyncio.timeout(30):
        while await admin.describe_topics([topic]):
            pass
    await admin.create_topics([Topic(topic, 1, 1)])
    await broker.produce(NOBODY, [written(topic, 0, 0, b"new")])
    assert values(await read(broker, topic)) == [b"new"]


async def test_too_large_a_record_is_refused(broker: KafkaBroker, topic: str) -> None:
    """It is named by its partition; the good batch of the same call is written."""
    batches = [written(topic, 0, 0, b"small"), written(topic, 1, 0, bytes(2_000_000))]
    refusal = await refusal_of(broker.produce(NOBODY, batches))
    assert (refusal.code, f"{topic}/1" in refusal.what) == (Code.MESSAGE_TOO_LARGE, True)
    assert values(await read(broker, topic, 0)) == [b"small"]
    assert values(await read(broker, topic, 1)) == []


async def test_a_record_of_tomorrow_is_refused_where_the_topic_says_so(
    broker: KafkaBroker, admin: KafkaAdmin, prefix: str
) -> None:
    """A record may be stamped ahead of the broker's clock by what the topic allows, and brokers say why not."""
    await admin.create_topics([Topic(prefix, 1, 1, {"message.timestamp.after.max.ms": "3600000"})])
    tomorrow = Appending(prefix, 0, 0, [Outgoing(None, b"v", 9_999_999_999_999)])
    refusal = await refusal_of(broker.produce(NOBODY, [tomorrow]))
    assert (refusal.code, f"{prefix}/0 (" in refusal.what) == (Code.INVALID_TIMESTAMP, True)


async def test_the_brokers_own_timestamps_are_told_apart(broker: KafkaBroker, admin: KafkaAdmin, prefix: str) -> None:
    """With LogAppendTime all records of a batch have the broker's time, and `appended` says so."""
    await admin.create_topics([Topic(prefix, 1, 1, {"message.timestamp.type": "LogAppendTime"})])
    await broker.produce(NOBODY, [written(prefix, 0, 0, b"a", b"b")])
    (found,) = await read(broker, prefix)
    assert found.appended
    assert found.stamps[0] == found.stamps[1] > 1_600_000_000_000


async def test_offsets_are_listed_by_place_and_time(broker: KafkaBroker, topic: str) -> None:
    """The start, the end, the first record at or behind a time, and the end where there is none."""
    place, empty = TopicPartition(topic, 0), TopicPartition(topic, 1)
    await broker.produce(NOBODY, [Appending(topic, 0, 0, [Outgoing(None, b"", at) for at in (10, 20, 30)])])

    async def listed(at: object) -> list[int]:
        found = await broker.list_offsets([place, empty], at, "read_committed")  # type: ignore[arg-type]
        return [found[place], found[empty]]

    assert await listed("start") == [0, 0]
    assert await listed("end") == [3, 0]
    assert await listed(20) == [1, 0]
    assert await listed(21) == [2, 0]
    assert await listed(31) == [3, 0]


async def test_a_transaction_is_seen_when_it_commits(broker: KafkaBroker, topic: str) -> None:
    """While it is open its end is not the log's; an aborted one is never seen, but passed over."""
    place, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    writer = await begun(broker, f"{topic}-w", place, other)
    await broker.produce(writer, [written(topic, 0, 0, b"a"), written(topic, 1, 0, b"b")])
    ends = {}
    for isolation in ("read_committed", "read_uncommitted"):
        ends[isolation] = (await broker.list_offsets([place], "end", isolation))[place]
    assert ends == {"read_committed": 0, "read_uncommitted": 1}
    assert values(await read(broker, topic)) == []
    assert values(await read(broker, topic, isolation="read_uncommitted")) == [b"a"]

    writer = await broker.end_txn(writer, commit=True)
    assert values(await settled(broker, topic)) == [b"a"]
    assert values(await settled(broker, topic, 1)) == [b"b"]

    sequence = 0 if writer.epoch else 1
    await passed(lambda: broker.add_partitions(writer, [place]))
    await broker.produce(writer, [written(topic, 0, sequence, b"gone")])
    await broker.end_txn(writer, commit=False)
    await broker.produce(NOBODY, [written(topic, 0, 0, b"last")])
    found = await settled(broker, topic)
    assert values(found) == [b"a", b"last"]
    assert found[-1].next_offset == 5
    assert [offset for fetched in found for offset in fetched.offsets] == [0, 4]
    assert values(await read(broker, topic, isolation="read_uncommitted")) == [b"a", b"gone", b"last"]


async def settled(broker: KafkaBroker, topic: str, partition: int = 0) -> list[Fetched]:
    """What is committed, once no transaction is open in the partition: markers are written behind the answer."""
    place = TopicPartition(topic, partition)
    ends: list[int] = []
    async with asyncio.timeout(30):
        while len(set(ends)) != 1:
            both: tuple[Isolation, Isolation] = ("read_committed", "read_uncommitted")
            ends = [(await broker.list_offsets([place], "end", isolation))[place] for isolation in both]
    return await read(broker, topic, partition)


async def test_the_epoch_rises_with_each_end_where_the_broker_can(
    broker: KafkaBroker, kafka: Kafka, topic: str
) -> None:
    """From transaction.version 2 on; and then who writes under the old epoch is refused."""
    place = TopicPartition(topic, 0)
    first = await begun(broker, f"{topic}-w", place)
    await broker.produce(first, [written(topic, 0, 0, b"a")])
    second = await broker.end_txn(first, commit=True)
    if kafka.version.startswith("3."):
        assert second == first
        return
    assert second == first._replace(epoch=first.epoch + 1)
    assert (await refusal_of(passed(lambda: broker.add_partitions(first, [place])))).code in {
        Code.INVALID_PRODUCER_EPOCH,
        Code.PRODUCER_FENCED,
    }
    assert (await refusal_of(broker.produce(first, [written(topic, 0, 1, b"late")]))).code in {
        Code.INVALID_PRODUCER_EPOCH,
        Code.INVALID_TXN_STATE,
        Code.PRODUCER_FENCED,
    }


async def test_a_new_producer_fences_the_old_and_ends_its_transaction(broker: KafkaBroker, topic: str) -> None:
    """Each request of the old one is refused, and nothing of it is seen."""
    place, group = TopicPartition(topic, 0), f"{topic}-g"
    old = await begun(broker, f"{topic}-w", place)
    await broker.produce(old, [written(topic, 0, 0, b"gone")])
    new = await passed(lambda: broker.init_producer(f"{topic}-w", LASTING))
    assert new.epoch > old.epoch
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: broker.add_partitions(old, [place]),
        lambda: broker.produce(old, [written(topic, 0, 1, b"late")]),
        lambda: broker.add_offsets(old, group),
        lambda: broker.txn_offsets(old, group, {place: 1}),
        lambda: broker.end_txn(old, commit=True),
    ]
    fencing = {Code.INVALID_PRODUCER_EPOCH, Code.PRODUCER_FENCED}
    codes = [(await refusal_of(passed(call))).code for call in calls]
    assert [code in fencing for code in codes] == [True] * 5, codes
    assert values(await settled(broker, topic)) == []


async def test_offsets_become_the_groups_when_the_transaction_commits(broker: KafkaBroker, topic: str) -> None:
    """Not before, and not if it aborts; while one hangs over an offset, asking for it is refused."""
    place, other, group = TopicPartition(topic, 0), TopicPartition(topic, 2), f"{topic}-g"
    for end, commit in ((5, True), (9, False)):
        writer = await passed(lambda: broker.init_producer(f"{topic}-w", LASTING))
        await passed(lambda: broker.add_offsets(writer, group))  # noqa: B023 - called at once
        await passed(lambda: broker.txn_offsets(writer, group, {place: end}))  # noqa: B023
        refusal = await refusal_of(broker.offset_fetch(group, [place, other]))
        assert (refusal.code, str(place) in refusal.what) == (Code.UNSTABLE_OFFSET_COMMIT, True)
        await broker.end_txn(writer, commit=commit)
        assert await passed(lambda: broker.offset_fetch(group, [place, other])) == {place: 5}


async def test_a_discarded_writer_leaves_nothing_behind(broker: KafkaBroker, topic: str) -> None:
    """What it waited for is unanswered at once, and the next of its name begins afresh."""
    place = TopicPartition(topic, 0)
    writer = await begun(broker, f"{topic}-w", place)
    await broker.list_offsets([place], "end", "read_committed")  # so that the leader is known
    producing = asyncio.create_task(broker.produce(writer, [written(topic, 0, 0, bytes(500_000))]))
    await asked(broker)
    broker.discard(f"{topic}-w")
    with pytest.raises(Unanswered):
        await producing
    again = await passed(lambda: broker.init_producer(f"{topic}-w", LASTING))
    assert again.epoch > writer.epoch
    await settled(broker, topic)


async def test_what_a_discarded_writer_was_about_to_send_is_not_sent(broker: KafkaBroker, topic: str) -> None:
    """A call that still looked for the leader or the coordinator when it was discarded ends as unsent."""
    writer = await begun(broker, f"{topic}-w", TopicPartition(topic, 0))
    broker._cluster.moved(Code.NOT_COORDINATOR, "transaction", f"{topic}-w")  # noqa: SLF001
    waiting = asyncio.gather(
        broker.produce(writer, [written(topic, 0, 0, b"late")]),
        broker.end_txn(writer, commit=True),
        return_exceptions=True,
    )
    await asked(broker)
    broker.discard(f"{topic}-w")
    assert [type(outcome) for outcome in await waiting] == [Unsent, Unsent]
    await passed(lambda: broker.init_producer(f"{topic}-w", LASTING))
    assert values(await settled(broker, topic)) == []


async def joined(
    broker: KafkaBroker, membership: Membership, *members: tuple[str, bytes]
) -> list[tuple[int, str, bytes]]:
    """The members' generations, ids and shares after all of them have joined; the leader gives each its metadata."""

    async def one(member: str, metadata: bytes) -> tuple[int, str, bytes]:
        answer = await passed(lambda: broker.join(membership, member, metadata))
        shares = {each.id: b"for " + each.metadata for each in answer.members}
        return answer.generation, answer.member, await broker.sync(membership, answer.generation, answer.member, shares)

    return await asyncio.gather(*(one(*member) for member in members))


async def rebalancing(broker: KafkaBroker, membership: Membership, generation: int, member: str) -> None:
    """Wait until a heartbeat tells the member to join again."""
    async with asyncio.timeout(30):
        while True:
            try:
                await broker.heartbeat(membership, generation, member)
            except Refused as refusal:
                if refusal.code == Code.REBALANCE_IN_PROGRESS:
                    return
                raise
            await asyncio.sleep(0.02)


async def test_two_members_share_a_group(kafka: Kafka, broker: KafkaBroker, admin: KafkaAdmin, topic: str) -> None:
    """The first learns of the second by its heartbeat; both get what the leader gives them; one leaves."""
    second = KafkaBroker(Access(kafka.bootstrap, client_id="second"))
    membership = Membership(f"{topic}-g", "streamproc", 10_000, 10_000, topics=(topic,))
    ((generation, one, share),) = await joined(broker, membership, ("", b"one"))
    assert share == b"for one"
    await broker.heartbeat(membership, generation, one)
    joining = asyncio.create_task(joined(second, membership, ("", b"two")))
    await rebalancing(broker, membership, generation, one)
    ((again, same, share),) = await joined(broker, membership, (one, b"one"))
    ((theirs, two, other),) = await joining
    assert (again, same, share, theirs, other) == (generation + 1, one, b"for one", again, b"for two")
    assert (await refusal_of(broker.heartbeat(membership, generation, one))).code == Code.ILLEGAL_GENERATION
    assert (await refusal_of(broker.heartbeat(membership, again, "nobody"))).code == Code.UNKNOWN_MEMBER_ID

    group = await admin.describe_group(membership.group)
    assert (group.state, group.kind, group.protocol) == ("Stable", "consumer", "streamproc")
    assert {(m.id, m.client, m.metadata, m.assignment) for m in group.members} == {
        (one, "streamproc", b"one", b"for one"),
        (two, "second", b"two", b"for two"),
    }
    await second.leave(membership, two)
    assert (await refusal_of(second.heartbeat(membership, again, two))).code == Code.UNKNOWN_MEMBER_ID
    assert (await refusal_of(broker.heartbeat(membership, again, one))).code == Code.REBALANCE_IN_PROGRESS
    await second.close()


async def test_a_join_that_waits_holds_up_no_heartbeat_and_ends_in_time(
    kafka: Kafka, broker: KafkaBroker, topic: str
) -> None:
    """Whoever joins again waits until the rebalance timeout for one that does not, and then has all."""
    second = KafkaBroker(Access(kafka.bootstrap))
    membership = Membership(f"{topic}-g", "streamproc", 6_000, 1_000)
    ((generation, one, _),) = await joined(broker, membership, ("", b"one"))
    other = asyncio.create_task(joined(second, membership, ("", b"two")))
    await rebalancing(broker, membership, generation, one)
    ((generation, one, _),) = await joined(broker, membership, (one, b"one"))
    await other
    joining = asyncio.create_task(joined(broker, membership, (one, b"again")))
    await asked(broker)
    answered = 0
    while not joining.done():
        with contextlib.suppress(Refused):
            await broker.heartbeat(membership, generation, one)
        answered += not joining.done()
        await asyncio.sleep(0.02)
    assert answered > 1
    ((_, one, share),) = await joining
    assert share == b"for again"
    await broker.leave(membership, one)
    await second.close()


async def test_a_doubled_instance_is_fenced(kafka: Kafka, broker: KafkaBroker, topic: str) -> None:
    """Whoever joins under an instance's name takes its place; the one before is told at its heartbeat."""
    second = KafkaBroker(Access(kafka.bootstrap))
    membership = Membership(f"{topic}-g", "streamproc", 10_000, 10_000, "worker-0")
    ((generation, one, share),) = await joined(broker, membership, ("", b"meta"))
    answer = await passed(lambda: second.join(membership, "", b"meta"))
    assert (answer.generation, answer.member != one) == (generation, True)
    assert await second.sync(membership, answer.generation, answer.member, {}) == share
    assert (await refusal_of(broker.heartbeat(membership, generation, one))).code == Code.FENCED_INSTANCE_ID
    await second.heartbeat(membership, answer.generation, answer.member)
    await second.leave(membership, answer.member)
    await second.close()


async def test_offsets_are_committed_by_a_member_or_by_nobody(
    broker: KafkaBroker, admin: KafkaAdmin, topic: str
) -> None:
    """By nobody only while the group is empty; a stale generation is refused."""
    group, place = f"{topic}-g", TopicPartition(topic, 0)
    await passed(lambda: broker.offset_commit(group, {place: 3}, -1, ""))
    membership = Membership(group, "streamproc", 10_000, 10_000)
    ((generation, member, _),) = await joined(broker, membership, ("", b""))
    await broker.offset_commit(group, {place: 4}, generation, member)
    assert await broker.offset_fetch(group, [place, TopicPartition(topic, 1)]) == {place: 4}
    refusal = await refusal_of(broker.offset_commit(group, {place: 5}, generation - 1, member))
    assert (refusal.code, str(place) in refusal.what) == (Code.ILLEGAL_GENERATION, True)
    assert (await refusal_of(admin.set_offsets(group, {place: 0}))).code == Code.UNKNOWN_MEMBER_ID
    await broker.leave(membership, member)
    await admin.set_offsets(group, {place: 0})
    assert await admin.offsets(group) == {place: 0}


async def test_groups_are_listed_described_and_deleted(broker: KafkaBroker, admin: KafkaAdmin, topic: str) -> None:
    """An empty group keeps its offsets until they or it are deleted; one that is not there is dead."""
    group, places = f"{topic}-g", [TopicPartition(topic, n) for n in range(3)]
    await passed(lambda: broker.offset_commit(group, dict.fromkeys(places, 1), -1, ""))
    assert group in await admin.list_groups()
    assert (await admin.describe_group(group)).state == "Empty"
    await admin.delete_offsets(group, places[:1])
    assert await admin.offsets(group) == dict.fromkeys(places[1:], 1)
    await admin.delete_group(group)
    assert group not in await admin.list_groups()
    assert (await admin.describe_group(group)).state == "Dead"
    assert await admin.offsets(group) == {}


async def test_topics_are_created_once_and_described(admin: KafkaAdmin, prefix: str) -> None:
    """What is there already is left as it is; what must not be is refused with the broker's reason."""
    wanted = Topic(prefix, 2, 1, {"cleanup.policy": "compact", "message.timestamp.after.max.ms": "9223372036854775807"})
    assert await admin.create_topics([wanted]) == [prefix]
    assert await admin.create_topics([wanted, Topic(f"{prefix}-2")]) == [f"{prefix}-2"]
    found = await admin.describe_topics([prefix, f"{prefix}-2", f"{prefix}-3"])
    assert sorted(found) == [prefix, f"{prefix}-2"]
    assert (found[prefix].partitions, found[prefix].replication) == (2, 1)
    assert {name: found[prefix].configs[name] for name in wanted.configs} == wanted.configs
    asked = {"retention.ms", "max.message.bytes", "message.timestamp.type", "cleanup.policy"}
    assert asked <= set(found[f"{prefix}-2"].configs)
    assert (await refusal_of(admin.create_topics([Topic("no name", 1, 1)]))).code == Code.INVALID_TOPIC
    refusal = await refusal_of(admin.create_topics([Topic(f"{prefix}-4", 1, 1, {"cleanup.policy": "burn"})]))
    assert "burn" in refusal.what
    await admin.delete_topics([prefix, f"{prefix}-2"])


async def test_records_are_deleted_up_to_an_offset(broker: KafkaBroker, admin: KafkaAdmin, topic: str) -> None:
    """The log begins there afterwards; what was read before it is out of range."""
    place = TopicPartition(topic, 0)
    await broker.produce(NOBODY, [written(topic, 0, 0, b"a", b"b", b"c")])
    assert await admin.delete_records({place: 2}) == {place: 2}
    assert await broker.list_offsets([place], "start", "read_committed") == {place: 2}
    leader = (await broker.metadata([topic]))[topic].leaders[0]
    (found,) = await broker.fetch(leader, [Read(topic, 0, 0)], 1, "read_committed")
    assert (found.code, found.values) == (Code.OFFSET_OUT_OF_RANGE, ())


async def test_nothing_is_sent_where_no_broker_is() -> None:
    """Whatever is asked for is unsent; connecting names the addresses that were tried."""
    one, two = free_port(), free_port()
    broker = KafkaBroker(Access(f"127.0.0.1:{one},127.0.0.1:{two}"), request_timeout=1)
    with pytest.raises(Unsent, match=rf"(?=.*127\.0\.0\.1:{one})(?=.*127\.0\.0\.1:{two})"):
        await broker.connect(0.3)
    writer = Writer("w", 1, 1)
    calls: list[Awaitable[object]] = [
        broker.metadata(["t"]),
        broker.list_offsets([TopicPartition("t", 0)], "end", "read_committed"),
        broker.join(Membership("g", "p", 6_000, 1_000), "", b""),
        broker.offset_fetch("g", []),
        broker.fetch(1, [Read("t", 0, 0)], 1, "read_committed"),
        broker.init_producer("w", LASTING),
        broker.produce(NOBODY, [written("t", 0, 0, b"")]),
        broker.end_txn(writer, commit=True),
    ]
    for call in calls:
        with pytest.raises(Unsent):
            await call
    await broker.close()
    with pytest.raises(Unsent, match="closed"):
        await broker.metadata([])


async def test_a_broker_that_goes_down_leaves_requests_unsent_or_unanswered(own_kafka: OwnKafka, prefix: str) -> None:
    """What waits when it goes is unanswered, what comes later unsent; when it is back, all is found again."""
    process = own_kafka()
    broker = KafkaBroker(Access(process.bootstrap), request_timeout=3)
    admin = KafkaAdmin(Access(process.bootstrap))
    await broker.connect(30)
    await admin.create_topics([Topic(prefix, 1, 1)])
    await admin.close()
    writer = await begun(broker, f"{prefix}-w", TopicPartition(prefix, 0))
    node = (await broker.metadata([prefix]))[prefix].leaders[0]
    waiting = asyncio.create_task(broker.fetch(node, [Read(prefix, 0, 0)], 30_000, "read_committed"))
    await asked(broker)
    await asyncio.to_thread(process.kill)
    with pytest.raises(Unanswered):
        await waiting
    for call in (
        broker.produce(writer, [written(prefix, 0, 0, b"v")]),
        broker.end_txn(writer, commit=True),
        broker.metadata([prefix]),
    ):
        with pytest.raises(Unsent):
            await call
    await asyncio.to_thread(process.start)
    await broker.connect(60)
    again = await passed(lambda: broker.init_producer(f"{prefix}-w", LASTING))
    assert again.epoch > writer.epoch
    await broker.produce(NOBODY, [written(prefix, 0, 0, b"back")])
    await broker.close()


async def test_what_is_not_answered_was_asked_once(own_kafka: OwnKafka, prefix: str) -> None:
    """A request that goes astray, or its answer, ends by its limit as unanswered, and is not tried again."""
    process = own_kafka(advertised_port=(port := free_port()))
    async with Proxy(process.port, port=port) as proxy:
        admin = KafkaAdmin(Access(proxy.bootstrap))
        await admin.create_topics([Topic(prefix, 1, 1)])
        await admin.close()
        broker = KafkaBroker(Access(proxy.bootstrap), request_timeout=0.5)
        place, group, name = TopicPartition(prefix, 0), f"{prefix}-g", f"{prefix}-w"
        membership = Membership(group, "streamproc", 6_000, 1_000)
        node = (await broker.metadata([prefix]))[prefix].leaders[0]
        await broker.list_offsets([place], "end", "read_committed")
        writer = await begun(broker, name, place)
        await passed(lambda: broker.offset_fetch(group, [place]))
        calls: dict[Api, Callable[[], Awaitable[object]]] = {
            Api.METADATA: lambda: broker.metadata([prefix]),
            Api.LIST_OFFSETS: lambda: broker.list_offsets([place], "end", "read_committed"),
            Api.FETCH: lambda: broker.fetch(node, [Read(prefix, 0, 0)], 1, "read_committed"),
            Api.HEARTBEAT: lambda: broker.heartbeat(membership, 1, "nobody"),
            Api.LEAVE_GROUP: lambda: broker.leave(membership, "nobody"),
            Api.OFFSET_FETCH: lambda: broker.offset_fetch(group, [place]),
            Api.OFFSET_COMMIT: lambda: broker.offset_commit(group, {place: 1}, -1, ""),
            Api.INIT_PRODUCER_ID: lambda: broker.init_producer(name, LASTING),
            Api.ADD_PARTITIONS_TO_TXN: lambda: broker.add_partitions(writer, [place]),
            Api.ADD_OFFSETS_TO_TXN: lambda: broker.add_offsets(writer, group),
            Api.TXN_OFFSET_COMMIT: lambda: broker.txn_offsets(writer, group, {place: 1}),
            Api.PRODUCE: lambda: broker.produce(writer, [written(prefix, 0, 0, b"v")]),
            Api.END_TXN: lambda: broker.end_txn(writer, commit=True),
        }
        for api, call in calls.items():
            for strike in (partial(proxy.drop, api), partial(proxy.cut, api, side="answer")):
                fault, asked = strike(), proxy.counts["request", api]
                with pytest.raises(Unanswered):
                    await call()
                assert len(fault.struck) == 1, api
                assert proxy.counts["request", api] - asked == 1, api
                # What a call looks up first is none of the call: it is looked up again where it was forgotten.
                await passed(lambda: broker.metadata([prefix]))
        await broker.close()


async def test_nothing_of_a_discarded_writer_is_sent_later(own_kafka: OwnKafka, prefix: str) -> None:
    """What is held up on its way when the writer is discarded never reaches the broker whole."""
    process = own_kafka(advertised_port=(port := free_port()))
    async with Proxy(process.port, port=port) as proxy:
        admin = KafkaAdmin(Access(proxy.bootstrap))
        await admin.create_topics([Topic(prefix, 1, 1)])
        await admin.close()
        broker = KafkaBroker(Access(proxy.bootstrap))
        writer = await begun(broker, f"{prefix}-w", TopicPartition(prefix, 0))
        await broker.list_offsets([TopicPartition(prefix, 0)], "end", "read_uncommitted")
        proxy.rate = 1_000_000  # of a large request only a part can have left when the writer is discarded
        large = [Appending(prefix, 0, 0, [Outgoing(None, bytes(900_000), 0)] * 40)]
        producing = asyncio.create_task(broker.produce(writer, large))
        await asked(broker)
        broker.discard(f"{prefix}-w")
        with pytest.raises(Unanswered):
            await producing
        await broker.close()
        proxy.rate = None
        broker = KafkaBroker(Access(proxy.bootstrap))
        await passed(lambda: broker.init_producer(f"{prefix}-w", LASTING))
        assert proxy.counts["request", Api.PRODUCE] == 0
        await broker.close()


async def test_name_and_certificate_are_checked(own_kafka: OwnKafka, prefix: str, tmp_path: Path) -> None:
    """Over TLS with a password: who does not know ours, and whose we do not know, is unauthenticated."""
    store, certificate = tmp_path / "store.p12", tmp_path / "broker.pem"
    keytool = ["keytool", "-keystore", str(store), "-storepass", "store-word", "-alias", "broker"]
    made = ["-genkeypair", "-keyalg", "EC", "-dname", "CN=broker", "-ext", "san=ip:127.0.0.1", "-storetype", "PKCS12"]
    await asyncio.to_thread(subprocess.run, [*keytool, *made], check=True, capture_output=True)
    shown = ["-exportcert", "-rfc", "-file", str(certificate)]
    await asyncio.to_thread(subprocess.run, [*keytool, *shown], check=True, capture_output=True)
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    process = own_kafka(
        properties={
            "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "listener.name.client.ssl.keystore.location": store,
            "listener.name.client.ssl.keystore.password": "store-word",
            "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.client.plain.sasl.jaas.config": f'{module} required user_me="pass-word";',
        }
    )
    access = Access(
        process.bootstrap,
        "SASL_SSL",
        sasl_plain_username="me",
        sasl_plain_password="pass-word",  # noqa: S106 - of a broker that lives for seconds
        cafile=str(certificate),
    )
    admin, broker = KafkaAdmin(access), KafkaBroker(access)
    await admin.create_topics([Topic(prefix, 1, 1)])
    await broker.produce(NOBODY, [written(prefix, 0, 0, b"v")])
    assert values(await read(broker, prefix)) == [b"v"]
    writer = await begun(broker, f"{prefix}-w", TopicPartition(prefix, 0))
    broker.discard(f"{prefix}-w")
    assert (await passed(lambda: broker.init_producer(f"{prefix}-w", LASTING))).epoch > writer.epoch
    await admin.close()
    await broker.close()
    strangers = [
        replace(access, cafile=None),
        replace(access, bootstrap_servers=process.bootstrap.replace("127.0.0.1", "localhost")),
        replace(access, sasl_plain_password="guessed"),  # noqa: S106
        replace(access, sasl_mechanism="SCRAM-SHA-256"),
    ]
    for stranger in strangers:
        broker = KafkaBroker(stranger)
        with pytest.raises(Unauthenticated):
            await broker.connect()
        await broker.close()


async def test_a_socket_that_never_answers(prefix: str) -> None:
    """Nothing that a broker must know was said to it, so that all is unsent, and within the limit."""
    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    broker = KafkaBroker(Access(f"{host}:{port}"), request_timeout=0.3)
    async with asyncio.timeout(5):
        with pytest.raises(Unsent, match="no connection to"):
            await broker.init_producer(prefix, LASTING)
    await broker.close()
    server.close()
    assert len(accepted) == 1
    accepted[0].transport.abort()
    await server.wait_closed()


async def test_what_lies_before_an_offset_is_deleted(broker: KafkaBroker, topic: str) -> None:
    """A topic that only one group reads can be cut behind what that group has committed."""
    place = TopicPartition(topic, 0)
    await broker.produce(NOBODY, [written(topic, 0, 0, b"a", b"b", b"c", b"d", b"e")])
    await broker.trim({place: 3})
    assert await broker.list_offsets([place], "start", "read_uncommitted") == {place: 3}
    assert await broker.list_offsets([place], "end", "read_uncommitted") == {place: 5}
