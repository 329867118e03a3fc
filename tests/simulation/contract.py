"""Scripts of calls that Kafka and its model must answer alike.

Each is an async function of a `Stage`, which gives it fresh names, topics and clients; what it returns is made of plain
values: answers, error codes by name, what can be read.  Nothing in them depends on time, on ids or on how many others
use the brokers.  A difference is a fault of the model until shown otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol, TypeAlias, TypeVar

from streamproc.ports.broker import (
    NOBODY,
    Appending,
    Broker,
    Code,
    Fetched,
    Isolation,
    Joined,
    Membership,
    Outgoing,
    Read,
    Refused,
    TopicPartition,
    Unanswered,
    Writer,
)

T = TypeVar("T")

LASTING: Final = 30_000
PASSING: Final = {
    Code.COORDINATOR_LOADING,
    Code.COORDINATOR_NOT_AVAILABLE,
    Code.NOT_COORDINATOR,
    Code.CONCURRENT_TRANSACTIONS,
    Code.UNSTABLE_OFFSET_COMMIT,
    Code.NOT_ENOUGH_REPLICAS,
}


class Stage(Protocol):
    """Where a script plays."""

    async def client(self) -> Broker:
        """A new client, with connections of its own."""
        ...

    async def topic(self, partitions: int = 1, *, compacted: bool = False) -> str:
        """A new topic."""
        ...

    async def delete_records(self, partition: TopicPartition, before: int) -> None:
        """Delete what lies below an offset."""
        ...

    def name(self) -> str:
        """A name for a group, a transactional id or an instance that nobody used."""
        ...

    def now(self) -> int:
        """The wall clock in ms."""
        ...


Script: TypeAlias = Callable[[Stage], Awaitable[object]]

SCRIPTS: dict[str, Script] = {}
SLOW: dict[str, Script] = {}
"""Those that wait for seconds."""


def script(play: Script) -> Script:
    """Make a function one of the scripts."""
    SCRIPTS[play.__name__] = play
    return play


def slow(play: Script) -> Script:
    """Make a function one of the slow scripts."""
    SLOW[play.__name__] = play
    return play


# What the scripts are made of.


async def told(call: Awaitable[object]) -> object:
    """What is told to the caller: "done" for no answer, the answer, or the code of a refusal."""
    try:
        answer = await call
    except Refused as refusal:
        return Code(refusal.code).name
    except Unanswered:
        return "unanswered"
    return "done" if answer is None else answer


async def settled(call: Callable[[], Awaitable[T]]) -> T:
    """The answer to a call that may be refused for the moment."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except Refused as refusal:
                if refusal.code not in PASSING:
                    raise
            await asyncio.sleep(0.02)


async def finally_told(call: Callable[[], Awaitable[object]]) -> object:
    """As `told`, once it is not refused for the moment any more."""
    return await told(settled(call))


async def init(broker: Broker, name: str) -> Writer:
    """A writer."""
    return await settled(lambda: broker.init_producer(name, LASTING))


async def begin(broker: Broker, writer: Writer, *partitions: TopicPartition) -> None:
    """Open a transaction."""
    await settled(lambda: broker.add_partitions(writer, partitions))


async def commit(broker: Broker, writer: Writer) -> Writer:
    """End a transaction well."""
    return await settled(lambda: broker.end_txn(writer, commit=True))


async def abort(broker: Broker, writer: Writer) -> Writer:
    """End a transaction."""
    return await settled(lambda: broker.end_txn(writer, commit=False))


async def end(broker: Broker, writer: Writer, *, commit: bool) -> object:
    """How a transaction may be ended: "done", "raised" if the epoch was raised, or the code of a refusal."""
    answer = await finally_told(lambda: broker.end_txn(writer, commit=commit))
    return ("done" if answer == writer else "raised") if isinstance(answer, Writer) else answer


def batch(partition: TopicPartition, sequence: int, *values: bytes) -> Appending:
    """A batch of values without keys."""
    return Appending(*partition, sequence, [Outgoing(None, value, 1_000) for value in values])


async def append(broker: Broker, writer: Writer, partition: TopicPartition, sequence: int, *values: bytes) -> object:
    """Where a batch went, or why not."""
    answer = await finally_told(lambda: broker.produce(writer, [batch(partition, sequence, *values)]))
    return answer[partition] if isinstance(answer, Mapping) else answer


async def transaction(
    broker: Broker, writer: Writer, partition: TopicPartition, sequence: int, *values: bytes
) -> Writer:
    """Write in a transaction and commit it."""
    await begin(broker, writer, partition)
    await append(broker, writer, partition, sequence, *values)
    return await commit(broker, writer)


async def add_offsets(broker: Broker, writer: Writer, group: str, offsets: Mapping[TopicPartition, int]) -> None:
    """Offsets into a transaction."""
    await settled(lambda: broker.add_offsets(writer, group))
    await settled(lambda: broker.txn_offsets(writer, group, offsets))


async def ends(broker: Broker, partition: TopicPartition) -> tuple[int, int]:
    """The last stable offset and the end."""
    stable = await broker.list_offsets([partition], "end", "read_committed")
    end = await broker.list_offsets([partition], "end", "read_uncommitted")
    return stable[partition], end[partition]


async def settled_ends(broker: Broker, partition: TopicPartition) -> tuple[int, int]:
    """Both, once no transaction is open."""
    stable, end = await ends(broker, partition)
    async with asyncio.timeout(30):
        while stable != end:
            stable, end = await ends(broker, partition)
    return stable, end


async def fetch(broker: Broker, *reads: Read, wait: int = 0, isolation: Isolation = "read_committed") -> list[Fetched]:
    """A fetch from whoever leads the first partition."""
    leaders = (await broker.metadata([reads[0].topic]))[reads[0].topic].leaders
    return await broker.fetch(leaders.get(reads[0].partition, 0), reads, wait, isolation)


async def values(
    broker: Broker, partition: TopicPartition, isolation: Isolation = "read_committed"
) -> list[bytes | None]:
    """All values that can be read by now, up to the end as it is."""
    upto = (await broker.list_offsets([partition], "end", isolation))[partition]
    at = (await broker.list_offsets([partition], "start", isolation))[partition]
    found: list[bytes | None] = []
    while at < upto:
        (got,) = await fetch(broker, Read(*partition, at), wait=100, isolation=isolation)
        found += got.values
        at = got.next_offset
    return found


def plain(got: Fetched) -> tuple[object, ...]:
    """What a fetch brought, without sizes."""
    if got.code:
        return (Code(got.code).name,)
    return got.next_offset, got.end, got.stable, got.start, list(got.offsets), list(got.values)


def one(topic: str, partition: int = 0) -> TopicPartition:
    """A partition."""
    return TopicPartition(topic, partition)


def membership(group: str, instance: str | None = None, *, session: int = 6_000, rebalance: int = 10_000) -> Membership:
    """What a member says of itself."""
    return Membership(group, "streamproc", session, rebalance, instance)


async def alone(broker: Broker, who: Membership, share: bytes = b"all") -> Joined:
    """Join as the only member and take everything."""
    joined = await settled(lambda: broker.join(who, "", b"plan"))
    await broker.sync(who, joined.generation, joined.member, {joined.member: share})
    return joined


def shape(joined: Joined) -> tuple[object, ...]:
    """A generation without ids: its number, whether one leads, and what the members said."""
    return joined.generation, joined.leader == joined.member, sorted(member.metadata for member in joined.members)


async def pair(first: Broker, second: Broker, who: Membership, other: Membership) -> tuple[Joined, Joined]:
    """Two members in one generation, synced; the first leads."""
    old = await alone(first, who)
    joining = asyncio.create_task(settled(lambda: second.join(other, "", b"second")))
    await rebalancing(first, who, old)
    leader, follower = await asyncio.gather(first.join(who, old.member, b"first"), joining)
    shares = {leader.member: b"one", follower.member: b"two"}
    await asyncio.gather(
        first.sync(who, leader.generation, leader.member, shares),
        second.sync(other, follower.generation, follower.member, {}),
    )
    return leader, follower


async def rebalancing(broker: Broker, who: Membership, joined: Joined) -> None:
    """Wait until the group is in a rebalance."""
    async with asyncio.timeout(30):
        while await told(broker.heartbeat(who, joined.generation, joined.member)) == "done":
            pass


# Taking over.


@script
async def offsets_are_right_at_once_after_a_take_over(stage: Stage) -> object:
    """EndTxn was answered, its offsets may not be visible yet; after InitProducerId they are."""
    old, new = await stage.client(), await stage.client()
    source, group, name = one(await stage.topic()), stage.name(), stage.name()
    seen = []
    for upto in range(1, 6):
        writer = await init(old, name)
        await add_offsets(old, writer, group, {source: upto})
        await commit(old, writer)
        await init(new, name)
        seen.append((await told(new.offset_fetch(group, [source]))) == {source: upto})
    return seen


@script
async def a_take_over_aborts_what_is_open(stage: Stage) -> object:
    """Offsets and records of an open transaction are gone, and both ends meet at once."""
    old, new = await stage.client(), await stage.client()
    source, out, group, name = one(await stage.topic()), one(await stage.topic()), stage.name(), stage.name()
    writer = await init(old, name)
    await add_offsets(old, writer, group, {source: 3})
    writer = await commit(old, writer)
    await begin(old, writer, out)
    await append(old, writer, out, 0, b"open")
    await add_offsets(old, writer, group, {source: 9})
    before = await ends(new, out)
    await init(new, name)
    after = await ends(new, out)
    offsets = await told(new.offset_fetch(group, [source]))
    return before, after, offsets == {source: 3}, await values(new, out), await values(new, out, "read_uncommitted")


@script
async def a_take_over_keeps_what_was_committed(stage: Stage) -> object:
    """Nothing that was answered is lost."""
    old, new = await stage.client(), await stage.client()
    out, name = one(await stage.topic()), stage.name()
    writer = await init(old, name)
    await transaction(old, writer, out, 0, b"a", b"b")
    await init(new, name)
    return await ends(new, out), await values(new, out)


@script
async def a_new_incarnation_keeps_the_producer_and_raises_the_epoch(stage: Stage) -> object:
    """The first has epoch 0; each one after it the same producer and a higher epoch."""
    broker, name = await stage.client(), stage.name()
    first, second, third = [await init(broker, name) for _ in range(3)]
    return (
        first.epoch,
        first.producer_id == second.producer_id == third.producer_id,
        first.epoch < second.epoch < third.epoch,
    )


@script
async def a_transaction_may_not_last_for_ever(stage: Stage) -> object:
    """The timeout has bounds."""
    broker = await stage.client()
    return [
        isinstance(answer, Writer) or answer
        for answer in [
            await finally_told(partial(broker.init_producer, stage.name(), lasting))
            for lasting in (1, 0, 900_000, 900_001)
        ]
    ]


async def _late(stage: Stage, act: Callable[[Broker, Writer, TopicPartition, str], Awaitable[object]]) -> object:
    """What becomes of something that the old incarnation does, and of the transaction that the new one has open."""
    old, new = await stage.client(), await stage.client()
    out, group, name = one(await stage.topic()), stage.name(), stage.name()
    writer = await init(old, name)
    await begin(old, writer, out)
    await append(old, writer, out, 0, b"old")
    await add_offsets(old, writer, group, {out: 1})
    late = await init(new, name)
    between = await act(old, writer, out, group)
    await begin(new, late, out)
    await append(new, late, out, 0, b"new")
    await add_offsets(new, late, group, {out: 2})
    during = await act(old, writer, out, group)
    ending = await end(new, late, commit=True)
    await init(new, name)
    return between, during, ending, await values(new, out), (await new.offset_fetch(group, [out])) == {out: 2}


@script
async def a_late_commit_after_a_take_over(stage: Stage) -> object:
    """It does nothing."""
    return await _late(stage, lambda broker, writer, *_: end(broker, writer, commit=True))


@script
async def a_late_abort_after_a_take_over(stage: Stage) -> object:
    """It does nothing."""
    return await _late(stage, lambda broker, writer, *_: end(broker, writer, commit=False))


@script
async def a_late_batch_after_a_take_over(stage: Stage) -> object:
    """It is refused."""
    return await _late(stage, lambda broker, writer, out, _: append(broker, writer, out, 1, b"late"))


@script
async def a_late_repetition_of_a_batch_after_a_take_over(stage: Stage) -> object:
    """It is refused, though it was appended once."""
    return await _late(stage, lambda broker, writer, out, _: append(broker, writer, out, 0, b"old"))


@script
async def a_late_partition_after_a_take_over(stage: Stage) -> object:
    """It is refused."""
    return await _late(stage, lambda broker, writer, out, _: finally_told(lambda: broker.add_partitions(writer, [out])))


@script
async def late_offsets_after_a_take_over(stage: Stage) -> object:
    """They are refused, both ways."""

    async def act(broker: Broker, writer: Writer, out: TopicPartition, group: str) -> object:
        return (
            await finally_told(lambda: broker.add_offsets(writer, group)),
            await finally_told(lambda: broker.txn_offsets(writer, group, {out: 7})),
        )

    return await _late(stage, act)


@script
async def a_fenced_writer_in_a_partition_that_it_never_wrote_to(stage: Stage) -> object:
    """It is refused there, too."""
    old, new = await stage.client(), await stage.client()
    out, name = one(await stage.topic()), stage.name()
    writer = await init(old, name)
    await init(new, name)
    added = await finally_told(lambda: old.add_partitions(writer, [out]))
    return added, await append(old, writer, out, 0, b"x"), await ends(new, out)


# The end of a transaction.


async def _ended(stage: Stage, first: bool, then: bool) -> object:  # noqa: FBT001
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    await append(broker, writer, out, 0, b"x")
    return (
        await end(broker, writer, commit=first),
        await end(broker, writer, commit=then),
        await settled_ends(broker, out),
        await values(broker, out),
    )


@script
async def a_commit_that_is_repeated(stage: Stage) -> object:
    """The same EndTxn again."""
    return await _ended(stage, True, True)  # noqa: FBT003


@script
async def an_abort_after_a_commit(stage: Stage) -> object:
    """The other EndTxn again."""
    return await _ended(stage, True, False)  # noqa: FBT003


@script
async def a_commit_after_an_abort(stage: Stage) -> object:
    """The other EndTxn again."""
    return await _ended(stage, False, True)  # noqa: FBT003


@script
async def an_abort_that_is_repeated(stage: Stage) -> object:
    """The same EndTxn again."""
    return await _ended(stage, False, False)  # noqa: FBT003


@script
async def an_end_of_nothing(stage: Stage) -> object:
    """EndTxn right after InitProducerId."""
    broker = await stage.client()
    writers = [await init(broker, stage.name()) for _ in range(2)]
    return await end(broker, writers[0], commit=True), await end(broker, writers[1], commit=False)


async def _end_of_nothing_after(stage: Stage, first: bool, then: bool) -> object:  # noqa: FBT001
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    following = await settled(lambda: broker.end_txn(writer, commit=first))
    await settled(lambda: broker.end_txn(writer, commit=first))  # it can be repeated when it is done
    return await end(broker, following, commit=then)


@script
async def an_end_of_nothing_by_who_writes_next(stage: Stage) -> object:
    """EndTxn by the writer that the EndTxn before it gave."""
    return [await _end_of_nothing_after(stage, first, then) for first in (True, False) for then in (True, False)]


@script
async def an_end_by_the_writer_of_the_transaction_before(stage: Stage) -> object:
    """A late EndTxn: whether it ends the transaction that is open now."""
    broker, out = await stage.client(), one(await stage.topic())
    seen = []
    for commits in (True, False):
        writer = await init(broker, stage.name())
        following = await transaction(broker, writer, out, 0, b"before")
        sequence = 0 if following != writer else 1
        await begin(broker, following, out)
        await append(broker, following, out, sequence, b"now")
        seen.append((await end(broker, writer, commit=commits), await end(broker, following, commit=True)))
    await settled_ends(broker, out)
    return seen, await values(broker, out)


@script
async def offsets_by_the_writer_of_the_transaction_before(stage: Stage) -> object:
    """A late TxnOffsetCommit: whether it counts for the transaction that is open now."""
    broker, out, group, name = await stage.client(), one(await stage.topic()), stage.name(), stage.name()
    writer = await init(broker, name)
    await add_offsets(broker, writer, group, {out: 1})
    following = await commit(broker, writer)
    await add_offsets(broker, following, group, {out: 2})
    late = await finally_told(lambda: broker.txn_offsets(writer, group, {out: 1}))
    await commit(broker, following)
    await init(broker, name)
    return late, (await broker.offset_fetch(group, [out]))[out]


@script
async def partitions_by_the_writer_of_the_transaction_before(stage: Stage) -> object:
    """A late AddPartitionsToTxn and AddOffsetsToTxn."""
    broker, out, group = await stage.client(), one(await stage.topic()), stage.name()
    writer = await init(broker, stage.name())
    following = await transaction(broker, writer, out, 0, b"x")
    await begin(broker, following, out)
    return (
        await finally_told(lambda: broker.add_partitions(writer, [out])),
        await finally_told(lambda: broker.add_offsets(writer, group)),
    )


@script
async def an_end_by_somebody_unknown(stage: Stage) -> object:
    """A transactional id that nobody opened, and one with another's producer."""
    broker = await stage.client()
    writer, other = await init(broker, stage.name()), await init(broker, stage.name())
    return [
        await end(broker, writer._replace(transactional_id=stage.name()), commit=True),
        await end(broker, writer._replace(producer_id=other.producer_id), commit=True),
        await end(broker, writer._replace(epoch=writer.epoch + 1), commit=True),
    ]


@script
async def partitions_by_somebody_unknown(stage: Stage) -> object:
    """The same for AddPartitionsToTxn."""
    broker, out = await stage.client(), one(await stage.topic())
    writer, other = await init(broker, stage.name()), await init(broker, stage.name())
    return [
        await finally_told(partial(broker.add_partitions, who, [out]))
        for who in (
            writer._replace(transactional_id=stage.name()),
            writer._replace(producer_id=other.producer_id),
            writer._replace(epoch=writer.epoch + 1),
        )
    ]


@script
async def a_transaction_over_two_partitions_and_offsets(stage: Stage) -> object:
    """All of it is visible after the commit, nothing before."""
    broker, topic, group, name = await stage.client(), await stage.topic(2), stage.name(), stage.name()
    first, second = one(topic, 0), one(topic, 1)
    writer = await init(broker, name)
    await begin(broker, writer, first, second)
    at = await broker.produce(writer, [batch(first, 0, b"a", b"b"), batch(second, 0, b"c")])
    await add_offsets(broker, writer, group, {first: 5, second: 6})
    before = [await ends(broker, first), await ends(broker, second)]
    await commit(broker, writer)
    after = [await settled_ends(broker, first), await settled_ends(broker, second)]
    await init(broker, name)
    offsets = await broker.offset_fetch(group, [first, second])
    return at[first], at[second], before, after, await values(broker, first), offsets == {first: 5, second: 6}


@script
async def an_empty_transaction_leaves_a_marker(stage: Stage) -> object:
    """A partition that was added and not written to gets a marker."""
    broker, out = await stage.client(), one(await stage.topic())
    seen = []
    for commits in (True, False):
        writer = await init(broker, stage.name())
        await begin(broker, writer, out)
        await settled(partial(broker.end_txn, writer, commit=commits))
        await init(broker, writer.transactional_id or "")
        seen.append(await ends(broker, out))
    return seen


@slow
async def a_transaction_that_lasts_too_long(stage: Stage) -> object:
    """It is aborted, and its writer is fenced in everything that it does."""
    broker, out, group, name = await stage.client(), one(await stage.topic()), stage.name(), stage.name()
    writer = await settled(lambda: broker.init_producer(name, 1_000))
    await begin(broker, writer, out)
    await append(broker, writer, out, 0, b"x")
    before = await ends(broker, out)
    await settled_ends(broker, out)
    return (
        before,
        await end(broker, writer, commit=True),
        await end(broker, writer, commit=False),
        await append(broker, writer, out, 1, b"y"),
        await finally_told(lambda: broker.add_partitions(writer, [out])),
        await finally_told(lambda: broker.add_offsets(writer, group)),
        await values(broker, out),
        (await init(broker, name)).producer_id == writer.producer_id,
    )


@script
async def two_take_over_at_once(stage: Stage) -> object:
    """One of them is the last, and the other is fenced."""
    first, second, name, out = await stage.client(), await stage.client(), stage.name(), one(await stage.topic())
    writers = await asyncio.gather(init(first, name), init(second, name))
    older, newer = sorted(writers, key=lambda writer: writer.epoch)
    return (
        older.epoch < newer.epoch,
        await finally_told(lambda: first.add_partitions(older, [out])),
        await finally_told(lambda: first.add_partitions(newer, [out])),
    )


@script
async def a_take_over_while_a_commit_is_on_its_way(stage: Stage) -> object:
    """Either it counts, and all of it, or nothing does."""
    old, new = await stage.client(), await stage.client()
    out, group, seen = one(await stage.topic()), stage.name(), []
    for number in range(5):
        name = stage.name()
        writer = await init(old, name)
        await begin(old, writer, out)
        await append(old, writer, out, 0, b"%d" % number)
        await add_offsets(old, writer, group, {out: number})
        ending, _ = await asyncio.gather(end(old, writer, commit=True), init(new, name))
        offset = (await new.offset_fetch(group, [out])).get(out)
        visible = b"%d" % number in await values(new, out)
        seen.append(visible == (offset == number) == (ending in {"done", "raised"}))
    return seen


# Appending.


@script
async def a_batch_of_the_transaction_before(stage: Stage) -> object:
    """It never arrived, its transaction was aborted, and now it does: whether the next one shows it."""
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    following = await abort(broker, writer)
    await begin(broker, following, out)
    late = await append(broker, writer, out, 0, b"late")
    ending = await end(broker, following, commit=True)
    await settled_ends(broker, out)
    return isinstance(late, int) or late, ending, await values(broker, out)


@script
async def a_batch_of_the_transaction_before_that_comes_again(stage: Stage) -> object:
    """A late repetition is recognised, or refused."""
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    following = await transaction(broker, writer, out, 0, b"x")
    await begin(broker, following, out)
    again = await append(broker, writer, out, 0, b"x")
    right = await append(broker, following, out, 0 if following != writer else 1, b"y")
    ending = await end(broker, following, commit=True)
    await settled_ends(broker, out)
    return isinstance(again, int) or again, isinstance(right, int), ending, await values(broker, out)


@script
async def a_batch_for_a_partition_of_the_transaction_and_one_for_another(stage: Stage) -> object:
    """Each counts for itself."""
    broker, topic = await stage.client(), await stage.topic(2)
    inside, outside = one(topic, 0), one(topic, 1)
    writer = await init(broker, stage.name())
    await begin(broker, writer, inside)
    told_ = await finally_told(lambda: broker.produce(writer, [batch(inside, 0, b"x"), batch(outside, 0, b"x")]))
    return told_, await ends(broker, inside), await ends(broker, outside)


@script
async def a_batch_without_its_partition_in_the_transaction(stage: Stage) -> object:
    """Nothing is written by who has not said where."""
    broker, topic = await stage.client(), await stage.topic(2)
    writer = await init(broker, stage.name())
    before = await append(broker, writer, one(topic, 0), 0, b"x")
    await begin(broker, writer, one(topic, 0))
    other = await append(broker, writer, one(topic, 1), 0, b"x")
    return before, other, await ends(broker, one(topic, 0)), await ends(broker, one(topic, 1))


@script
async def a_batch_after_the_end(stage: Stage) -> object:
    """A batch of a transaction that is over, by its writer and by the next one, in turn and again."""
    broker, out = await stage.client(), one(await stage.topic())
    seen = []
    for commits in (True, False):
        name = stage.name()
        writer = await init(broker, name)
        await begin(broker, writer, out)
        await append(broker, writer, out, 0, b"x")
        following = await settled(partial(broker.end_txn, writer, commit=commits))
        await settled_ends(broker, out)
        in_turn = await append(broker, writer, out, 1, b"late")
        again = await append(broker, writer, out, 0, b"x")
        by_the_next = await append(broker, following, out, 0 if following != writer else 1, b"next")
        seen.append((in_turn, again if isinstance(again, str) else "done", by_the_next, await ends(broker, out)))
    return seen


@script
async def a_batch_that_is_repeated(stage: Stage) -> object:
    """It is known again and told the same offset, up to five batches back."""
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    written = [await append(broker, writer, out, 2 * n, b"a", b"b") for n in range(7)]
    again = [await append(broker, writer, out, 2 * n, b"a", b"b") for n in range(7)]
    return written, again, await ends(broker, out)


@script
async def a_batch_out_of_turn(stage: Stage) -> object:
    """A gap, a step back, an overlap."""
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    first = await append(broker, writer, out, 0, b"a", b"b")
    gap = await append(broker, writer, out, 3, b"d")
    overlap = await append(broker, writer, out, 1, b"b", b"c")
    shorter = await append(broker, writer, out, 0, b"a")
    right = await append(broker, writer, out, 2, b"c")
    return first, gap, overlap, shorter, right, await ends(broker, out)


@script
async def a_first_batch_that_does_not_begin_at_zero(stage: Stage) -> object:
    """Of a writer that the partition does not know, and of one of a new incarnation."""
    broker, topic, name = await stage.client(), await stage.topic(2), stage.name()
    out, other = one(topic, 0), one(topic, 1)
    writer = await init(broker, name)
    await begin(broker, writer, out, other)
    unknown = await append(broker, writer, out, 5, b"x")
    await append(broker, writer, other, 0, b"x")
    await commit(broker, writer)
    writer = await init(broker, name)
    await begin(broker, writer, other)
    return unknown, await append(broker, writer, other, 1, b"x"), await append(broker, writer, other, 0, b"x")


@script
async def sequences_over_transactions(stage: Stage) -> object:
    """They start again where the epoch was raised, and go on where it was not."""
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    following = await transaction(broker, writer, out, 0, b"a", b"b")
    await begin(broker, following, out)
    right, wrong = (0, 2) if following != writer else (2, 0)
    wrongly = await append(broker, following, out, wrong, b"c")
    return wrongly, await append(broker, following, out, right, b"c")


@script
async def a_record_that_is_too_large(stage: Stage) -> object:
    """It is refused, and the transaction can be committed without it."""
    broker, out = await stage.client(), one(await stage.topic())
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    large = await append(broker, writer, out, 0, bytes(1_100_000))
    gap = await append(broker, writer, out, 1, b"y")
    ended = await end(broker, writer, commit=True)
    await settled_ends(broker, out)
    return large, gap, ended, await values(broker, out)


@script
async def one_of_two_batches_is_refused(stage: Stage) -> object:
    """The other one is written all the same."""
    broker, topic = await stage.client(), await stage.topic(2)
    batches = [batch(one(topic, 0), 0, bytes(1_100_000)), batch(one(topic, 1), 0, b"x")]
    return (
        await told(broker.produce(NOBODY, batches)),
        await ends(broker, one(topic, 0)),
        await ends(broker, one(topic, 1)),
    )


@script
async def a_stamp_far_ahead(stage: Stage) -> object:
    """An hour ahead is the limit, unless a topic has another or the broker none."""
    broker, out = await stage.client(), one(await stage.topic())
    seen = []
    for ahead in (-86_400_000, 0, 3_000_000):
        record = Outgoing(b"k", b"v", stage.now() + ahead)
        seen.append(isinstance(await told(broker.produce(NOBODY, [Appending(*out, 0, [record])])), Mapping))
    return seen


@script
async def a_record_without_a_key_in_a_compacted_topic(stage: Stage) -> object:
    """It is refused."""
    broker, out = await stage.client(), one(await stage.topic(compacted=True))
    refused = await told(broker.produce(NOBODY, [batch(out, 0, b"x")]))
    written = await told(broker.produce(NOBODY, [Appending(*out, 0, [Outgoing(b"k", None, 0)])]))
    return refused, isinstance(written, Mapping), await ends(broker, out)


@script
async def where_there_is_nothing_to_write_to(stage: Stage) -> object:
    """Unknown topics and partitions; with one of them in a request none of the others is added."""
    broker, topic = await stage.client(), await stage.topic()
    nowhere, beyond, out = one(stage.name()), one(topic, 7), one(topic)
    writer = await init(broker, stage.name())
    added = [await finally_told(partial(broker.add_partitions, writer, [where])) for where in (nowhere, beyond)]
    mixed = await finally_told(lambda: broker.add_partitions(writer, [out, nowhere]))  # one or the other comes first
    known = mixed in {"UNKNOWN_TOPIC_OR_PARTITION", "OPERATION_NOT_ATTEMPTED"}
    written = [await append(broker, NOBODY, where, 0, b"x") for where in (nowhere, beyond)]
    return added, known, written, await append(broker, writer, out, 0, b"x"), await end(broker, writer, commit=True)


@script
async def nobody_in_particular_writes(stage: Stage) -> object:
    """What is written without a transaction is there at once, and there twice if it is sent twice."""
    broker, out = await stage.client(), one(await stage.topic())
    at = [await append(broker, NOBODY, out, 0, b"a"), await append(broker, NOBODY, out, 0, b"a")]
    return at, await ends(broker, out), await values(broker, out)


@script
async def records_come_back_as_they_went(stage: Stage) -> object:
    """Keys, values, stamps and headers, empty and null ones."""
    broker, out = await stage.client(), one(await stage.topic())
    records = [
        Outgoing(b"k", b"v", 1_000),
        Outgoing(None, None, 0),
        Outgoing(b"", b"", 5, (("a", b"1"), ("a", b""), ("b", b"\x00"))),
    ]
    await broker.produce(NOBODY, [Appending(*out, 0, records)])
    (got,) = await fetch(broker, Read(*out, 0), wait=1_000)
    return list(got.keys), list(got.values), list(got.stamps), list(got.headers or ()), got.appended


# Offsets.


@script
async def offsets_without_their_group_in_the_transaction(stage: Stage) -> object:
    """TxnOffsetCommit without AddOffsetsToTxn, in a transaction and out of one."""
    broker, out, group = await stage.client(), one(await stage.topic()), stage.name()
    writer = await init(broker, stage.name())
    before = await finally_told(lambda: broker.txn_offsets(writer, group, {out: 1}))
    await begin(broker, writer, out)
    during = await finally_told(lambda: broker.txn_offsets(writer, group, {out: 1}))
    await commit(broker, writer)
    return before, during


@script
async def offsets_of_an_aborted_transaction(stage: Stage) -> object:
    """They were never there."""
    broker, out, group, name = await stage.client(), one(await stage.topic()), stage.name(), stage.name()
    writer = await init(broker, name)
    await add_offsets(broker, writer, group, {out: 1})
    await abort(broker, writer)
    await init(broker, name)
    return await told(broker.offset_fetch(group, [out]))


@script
async def offsets_while_a_transaction_holds_them(stage: Stage) -> object:
    """Those that are held are not told; others are."""
    broker, topic, group = await stage.client(), await stage.topic(2), stage.name()
    held, free = one(topic, 0), one(topic, 1)
    await broker.offset_commit(group, {held: 1, free: 2}, -1, "")
    writer = await init(broker, stage.name())
    await add_offsets(broker, writer, group, {held: 3})
    during = [await told(broker.offset_fetch(group, [held])), await told(broker.offset_fetch(group, [held, free]))]
    other = await broker.offset_fetch(group, [free])
    await commit(broker, writer)
    return during, other == {free: 2}, await settled(lambda: broker.offset_fetch(group, [held])) == {held: 3}


@script
async def offsets_of_several_transactions(stage: Stage) -> object:
    """Two writers of one group hold different partitions."""
    broker, topic, group = await stage.client(), await stage.topic(2), stage.name()
    first, second = one(topic, 0), one(topic, 1)
    writers = [await init(broker, stage.name()) for _ in range(2)]
    await add_offsets(broker, writers[0], group, {first: 3})
    await add_offsets(broker, writers[1], group, {second: 4})
    await commit(broker, writers[0])
    one_of_them = await settled(lambda: broker.offset_fetch(group, [first]))
    held = await told(broker.offset_fetch(group, [second]))
    await commit(broker, writers[1])
    both = await settled(lambda: broker.offset_fetch(group, [first, second]))
    return one_of_them == {first: 3}, held, both == {first: 3, second: 4}


@script
async def no_offsets(stage: Stage) -> object:
    """Of a group that never was, and of partitions and topics that it or anybody never heard of."""
    broker, out, group = await stage.client(), one(await stage.topic()), stage.name()
    unknown = await told(broker.offset_fetch(group, [out]))
    await broker.offset_commit(group, {out: 1}, -1, "")
    return (
        unknown,
        await told(broker.offset_fetch(group, [one(out.topic, 5)])),
        await told(broker.offset_fetch(group, [one(stage.name())])),
    )


@script
async def offsets_for_what_is_not_there(stage: Stage) -> object:
    """Committed for unknown topics and partitions, in and out of a transaction."""
    broker, out, group = await stage.client(), one(await stage.topic()), stage.name()
    writer = await init(broker, stage.name())
    await settled(lambda: broker.add_offsets(writer, group))
    return [
        await told(broker.offset_commit(group, {one(stage.name()): 1}, -1, "")),
        await told(broker.offset_commit(group, {one(out.topic, 5): 1}, -1, "")),
        await finally_told(lambda: broker.txn_offsets(writer, group, {one(stage.name()): 1})),
        await finally_told(lambda: broker.txn_offsets(writer, group, {one(out.topic, 5): 1})),
    ]


@script
async def offsets_go_back_if_they_are_told_to(stage: Stage) -> object:
    """The last commit counts, whatever it says."""
    broker, out, group = await stage.client(), one(await stage.topic()), stage.name()
    for offset in (5, 3):
        await broker.offset_commit(group, {out: offset}, -1, "")
    return (await broker.offset_fetch(group, [out]))[out]


@script
async def offsets_committed_by_members_and_others(stage: Stage) -> object:
    """While a group has members only they commit, and only in their generation."""
    broker, out, group = await stage.client(), one(await stage.topic()), stage.name()
    who = membership(group)
    unknown = await told(broker.offset_commit(group, {out: 1}, 3, "somebody"))
    joined = await alone(broker, who)
    seen = [
        await told(broker.offset_commit(group, {out: 1}, generation, member))
        for generation, member in (
            (joined.generation, joined.member),
            (joined.generation + 1, joined.member),
            (joined.generation - 1, joined.member),
            (joined.generation, "somebody"),
            (-1, ""),
        )
    ]
    await broker.leave(who, joined.member)
    left = await told(broker.offset_commit(group, {out: 1}, joined.generation, joined.member))
    return unknown, seen, left, await told(broker.offset_commit(group, {out: 2}, -1, ""))


@script
async def transactional_offsets_while_the_group_has_members(stage: Stage) -> object:
    """They need no membership."""
    broker, out, group, name = await stage.client(), one(await stage.topic()), stage.name(), stage.name()
    await alone(broker, membership(group))
    writer = await init(broker, name)
    await add_offsets(broker, writer, group, {out: 4})
    await commit(broker, writer)
    return (await settled(lambda: broker.offset_fetch(group, [out])))[out]


# What there is.


@script
async def topics_known_and_unknown(stage: Stage) -> object:
    """Metadata tells each as it is."""
    broker, topic, nowhere = await stage.client(), await stage.topic(3), stage.name()
    found = await broker.metadata([topic, nowhere])
    return (
        sorted(found[topic].leaders),
        Code(found[topic].code).name,
        dict(found[nowhere].leaders),
        Code(found[nowhere].code).name,
    )


@script
async def ends_while_a_transaction_is_open(stage: Stage) -> object:
    """The stable one stays at its first record, whatever others append."""
    broker, out = await stage.client(), one(await stage.topic())
    await append(broker, NOBODY, out, 0, b"a")
    writers = [await init(broker, stage.name()) for _ in range(2)]
    seen = []
    for writer in writers:
        await begin(broker, writer, out)
        seen.append(await ends(broker, out))
        await append(broker, writer, out, 0, b"b")
        await append(broker, NOBODY, out, 0, b"c")
        seen.append(await ends(broker, out))
    for writer in writers:
        await commit(broker, writer)
        await init(broker, writer.transactional_id or "")
        seen.append(await ends(broker, out))
    return seen


@script
async def offsets_by_time(stage: Stage) -> object:
    """The first at or after an instant, else the end."""
    broker, out = await stage.client(), one(await stage.topic())
    for at in (1_000, 3_000, 2_000, 5_000):
        await broker.produce(NOBODY, [Appending(*out, 0, [Outgoing(None, b"x", at)])])
    return [
        (await broker.list_offsets([out], at, "read_committed"))[out] for at in (0, 1_000, 1_001, 3_000, 3_001, 5_001)
    ]


@script
async def offsets_by_time_while_a_transaction_is_open(stage: Stage) -> object:
    """What is not stable yet is not found by readers with read_committed."""
    broker, out = await stage.client(), one(await stage.topic())
    await broker.produce(NOBODY, [Appending(*out, 0, [Outgoing(None, b"x", 500)])])
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    await append(broker, writer, out, 0, b"x")  # at 1,000
    isolations: tuple[Isolation, ...] = ("read_committed", "read_uncommitted")
    return [
        (await broker.list_offsets([out], at, isolation))[out] for isolation in isolations for at in (400, 900, 2_000)
    ]


@script
async def offsets_of_what_is_not_there(stage: Stage) -> object:
    """Unknown topics and partitions are refused."""
    broker, topic = await stage.client(), await stage.topic()
    return [
        await told(broker.list_offsets([place], "end", "read_committed"))
        for place in (one(stage.name()), one(topic, 7))
    ]


@script
async def deleted_records_below_an_open_transaction(stage: Stage) -> object:
    """The stable offset stays where it is, or goes with the start."""
    broker, out = await stage.client(), one(await stage.topic())
    await append(broker, NOBODY, out, 0, b"a")
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    await append(broker, writer, out, 0, b"b")
    await append(broker, NOBODY, out, 0, b"c")
    await stage.delete_records(out, 1)
    before = await ends(broker, out), plain((await fetch(broker, Read(*out, 1)))[0])
    await commit(broker, writer)
    return before, await settled_ends(broker, out), await values(broker, out)


@script
async def several_offsets_at_once(stage: Stage) -> object:
    """One partition that is not there spoils the answer."""
    broker, topic = await stage.client(), await stage.topic(2)
    await append(broker, NOBODY, one(topic, 1), 0, b"a")
    known = await broker.list_offsets([one(topic, 0), one(topic, 1)], "end", "read_committed")
    return sorted(known.values()), await told(
        broker.list_offsets([one(topic, 0), one(topic, 7)], "end", "read_committed")
    )


@script
async def deleted_records(stage: Stage) -> object:
    """The start moves, the end does not; more than there is cannot be deleted."""
    broker, out = await stage.client(), one(await stage.topic())
    await append(broker, NOBODY, out, 0, b"a", b"b", b"c")
    await append(broker, NOBODY, out, 0, b"d")
    seen = []
    for before in (1, 3, 2, 4):
        await stage.delete_records(out, before)
        start = (await broker.list_offsets([out], "start", "read_committed"))[out]
        seen.append((start, await ends(broker, out), await values(broker, out)))
    return seen


# Fetching.


@script
async def a_fetch_at_the_end_and_beyond(stage: Stage) -> object:
    """At the end there is nothing yet; beyond it and below the start is no place."""
    broker, out = await stage.client(), one(await stage.topic())
    await append(broker, NOBODY, out, 0, b"a", b"b", b"c")
    await stage.delete_records(out, 2)
    return [plain((await fetch(broker, Read(*out, at)))[0]) for at in (3, 4, 1, 2, 99)]


@script
async def a_fetch_of_what_is_not_there(stage: Stage) -> object:
    """Unknown topics and partitions are told in their place, with the others."""
    broker, topic = await stage.client(), await stage.topic()
    await append(broker, NOBODY, one(topic), 0, b"a")
    got = await fetch(broker, Read(topic, 0, 0), Read(topic, 7, 0), Read(stage.name(), 0, 0))
    return sorted(str(plain(each)) for each in got)


@script
async def a_fetch_over_markers_and_what_was_aborted(stage: Stage) -> object:
    """Readers with read_committed are led over them, others see the aborted."""
    broker, out, name = await stage.client(), one(await stage.topic()), stage.name()
    writer = await init(broker, name)
    await begin(broker, writer, out)
    await append(broker, writer, out, 0, b"aborted")
    await abort(broker, writer)
    writer = await init(broker, name)
    await transaction(broker, writer, out, 0, b"committed")
    await init(broker, name)
    await append(broker, NOBODY, out, 0, b"plain")
    committed = [plain((await fetch(broker, Read(*out, at)))[0]) for at in range(6)]
    return committed, [plain((await fetch(broker, Read(*out, at), isolation="read_uncommitted"))[0]) for at in range(6)]


@script
async def a_fetch_over_nothing_but_what_was_aborted(stage: Stage) -> object:
    """There are no records, and yet the place to read on moves."""
    broker, out, name = await stage.client(), one(await stage.topic()), stage.name()
    writer = await init(broker, name)
    await begin(broker, writer, out)
    await append(broker, writer, out, 0, b"a", b"b")
    await abort(broker, writer)
    await init(broker, name)
    return plain((await fetch(broker, Read(*out, 0), wait=5_000))[0])


@script
async def a_fetch_into_a_batch(stage: Stage) -> object:
    """It begins where it was told to."""
    broker, out = await stage.client(), one(await stage.topic())
    await append(broker, NOBODY, out, 0, b"a", b"b", b"c")
    await append(broker, NOBODY, out, 0, b"d", b"e")
    return [plain((await fetch(broker, Read(*out, at)))[0]) for at in range(5)]


@script
async def a_fetch_of_little(stage: Stage) -> object:
    """The first batch comes whole, whatever the limit; others only if they fit."""
    broker, out = await stage.client(), one(await stage.topic())
    for _ in range(3):
        await append(broker, NOBODY, out, 0, bytes(1_000), bytes(1_000))
    return [(await fetch(broker, Read(*out, 0, limit)))[0].next_offset for limit in (1, 2_000, 5_000, 1_000_000)]


@script
async def a_fetch_while_a_transaction_is_open(stage: Stage) -> object:
    """Readers with read_committed come up to its first record."""
    broker, out = await stage.client(), one(await stage.topic())
    await append(broker, NOBODY, out, 0, b"a")
    writer = await init(broker, stage.name())
    await begin(broker, writer, out)
    await append(broker, writer, out, 0, b"b")
    await append(broker, NOBODY, out, 0, b"c")
    committed = [plain((await fetch(broker, Read(*out, at)))[0]) for at in range(4)]
    return committed, plain((await fetch(broker, Read(*out, 0), isolation="read_uncommitted"))[0])


@script
async def a_fetch_of_several(stage: Stage) -> object:
    """Each partition is told of, also those with nothing new."""
    broker, topic = await stage.client(), await stage.topic(3)
    await append(broker, NOBODY, one(topic, 1), 0, b"a")
    got = await fetch(broker, *(Read(topic, number, 0) for number in range(3)), wait=1_000)
    return sorted((each.partition, *plain(each)) for each in got)


@script
async def a_fetch_that_waits(stage: Stage) -> object:
    """It is answered by what is appended meanwhile, or with nothing in the end."""
    broker, other, out = await stage.client(), await stage.client(), one(await stage.topic())
    nothing = await fetch(broker, Read(*out, 0), wait=50)
    waiting = asyncio.create_task(fetch(broker, Read(*out, 0), wait=20_000))
    await asyncio.sleep(0.1)
    await append(other, NOBODY, out, 0, b"a")
    async with asyncio.timeout(5):
        return plain(nothing[0]), plain((await waiting)[0])


@script
async def a_fetch_that_waits_for_a_commit(stage: Stage) -> object:
    """What is appended in a transaction is no news to readers with read_committed; its end is."""
    broker, other, out, name = await stage.client(), await stage.client(), one(await stage.topic()), stage.name()
    writer = await init(other, name)
    await begin(other, writer, out)
    waiting = asyncio.create_task(fetch(broker, Read(*out, 0), wait=20_000))
    await append(other, writer, out, 0, b"a")
    await asyncio.sleep(0.2)
    early = waiting.done()
    await commit(other, writer)
    async with asyncio.timeout(5):
        got = (await waiting)[0]
    return early, list(got.values)


# Groups.


@script
async def a_group_of_one(stage: Stage) -> object:
    """It leads, it is told of itself, it gets what it gives itself; without a share it gets nothing."""
    broker, group = await stage.client(), stage.name()
    who = membership(group)
    joined = await settled(lambda: broker.join(who, "", b"plan"))
    early = await told(broker.heartbeat(who, joined.generation, joined.member))
    share = await broker.sync(who, joined.generation, joined.member, {joined.member: b"all"})
    again = await broker.sync(who, joined.generation, joined.member, {joined.member: b"other"})
    beat = await told(broker.heartbeat(who, joined.generation, joined.member))
    left = await told(broker.leave(who, joined.member))
    return shape(joined), early, share, again, beat, left


@script
async def a_member_without_a_share(stage: Stage) -> object:
    """It gets nothing."""
    broker, who = await stage.client(), membership(stage.name())
    joined = await settled(lambda: broker.join(who, "", b"plan"))
    return await broker.sync(who, joined.generation, joined.member, {})


@script
async def members_that_are_none(stage: Stage) -> object:
    """Unknown groups, members and generations."""
    broker, who = await stage.client(), membership(stage.name())
    nowhere = [
        await told(broker.heartbeat(who, 1, "m")),
        await told(broker.sync(who, 1, "m", {})),
        await told(broker.leave(who, "m")),
        await told(broker.join(who, "m", b"")),
    ]
    joined = await alone(broker, who)
    unknown = [
        await told(broker.heartbeat(who, joined.generation, "m")),
        await told(broker.sync(who, joined.generation, "m", {})),
        await told(broker.leave(who, "m")),
        await told(broker.join(who, "m", b"")),
        await told(broker.heartbeat(who, joined.generation + 5, "m")),
    ]
    stale = [
        await told(call(who, generation, joined.member))
        for generation in (joined.generation - 1, joined.generation + 1)
        for call in (broker.heartbeat, lambda who, generation, member: broker.sync(who, generation, member, {}))
    ]
    return nowhere, unknown, stale, await told(broker.heartbeat(who, joined.generation, joined.member))


@script
async def a_session_that_is_too_short(stage: Stage) -> object:
    """The broker has bounds for it."""
    broker = await stage.client()
    return [
        await finally_told(partial(broker.join, membership(stage.name(), session=session), "", b""))
        for session in (5_999, 1_800_001)
    ]


@script
async def another_way_of_assigning(stage: Stage) -> object:
    """Nobody joins who assigns in another way."""
    broker, group = await stage.client(), stage.name()
    await alone(broker, membership(group))
    return await told(broker.join(Membership(group, "other", 6_000, 10_000), "", b""))


@script
async def a_second_member(stage: Stage) -> object:
    """The first learns of it by its heartbeat, joins again, leads on and gives each its share."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who = membership(group)
    old = await alone(first, who)
    joining = asyncio.create_task(settled(lambda: second.join(who, "", b"second")))
    await rebalancing(first, who, old)
    during = [
        await told(first.heartbeat(who, old.generation, old.member)),
        await told(first.sync(who, old.generation, old.member, {})),
    ]
    leader, follower = await asyncio.gather(first.join(who, old.member, b"first"), joining)
    waiting = asyncio.create_task(second.sync(who, follower.generation, follower.member, {}))
    await asyncio.sleep(0.1)
    early = waiting.done(), await told(second.heartbeat(who, follower.generation, follower.member))
    shares = {leader.member: b"one", follower.member: b"two"}
    given = await first.sync(who, leader.generation, leader.member, shares), await waiting
    stale = await told(first.heartbeat(who, old.generation, old.member))
    return shape(leader), shape(follower), leader.leader == follower.leader, during, early, given, stale


@script
async def offsets_during_a_rebalance(stage: Stage) -> object:
    """Members commit until they join again, and not between that and their share."""
    first, second, group, out = await stage.client(), await stage.client(), stage.name(), one(await stage.topic())
    who = membership(group)
    old = await alone(first, who)
    joining = asyncio.create_task(settled(lambda: second.join(who, "", b"second")))
    await rebalancing(first, who, old)
    before = await told(first.offset_commit(group, {out: 1}, old.generation, old.member))
    leader, _ = await asyncio.gather(first.join(who, old.member, b"first"), joining)
    between = await told(first.offset_commit(group, {out: 2}, leader.generation, leader.member))
    stale = await told(first.offset_commit(group, {out: 3}, old.generation, old.member))
    return before, between, stale, (await first.offset_fetch(group, [out]))[out]


@script
async def one_of_two_leaves(stage: Stage) -> object:
    """The other learns of it and is alone in the next generation, leader or not."""
    seen = []
    for leader_leaves in (False, True):
        first, second, who = await stage.client(), await stage.client(), membership(stage.name())
        leader, follower = await pair(first, second, who, who)
        gone, left = ((first, leader), (second, follower)) if leader_leaves else ((second, follower), (first, leader))
        await gone[0].leave(who, gone[1].member)
        beat = await told(left[0].heartbeat(who, left[1].generation, left[1].member))
        again = await left[0].join(who, left[1].member, b"left")
        ghost = await told(gone[0].heartbeat(who, gone[1].generation, gone[1].member))
        twice = await told(gone[0].leave(who, gone[1].member))
        seen.append((beat, shape(again), ghost, twice))
    return seen


@script
async def a_member_that_joins_again_without_need(stage: Stage) -> object:
    """A follower that says the same is told the same; the leader, or news of another, starts a rebalance."""
    first, second, who = await stage.client(), await stage.client(), membership(stage.name())
    leader, follower = await pair(first, second, who, who)
    same = await second.join(who, follower.member, b"second")
    share = await second.sync(who, same.generation, same.member, {})
    quiet = await told(first.heartbeat(who, leader.generation, leader.member))
    joining = asyncio.create_task(first.join(who, leader.member, b"first"))
    await rebalancing(second, who, follower)
    again, other = await asyncio.gather(joining, second.join(who, follower.member, b"new"))
    return shape(same), share, quiet, shape(again), shape(other)


@script
async def a_member_that_asks_again_while_it_waits(stage: Stage) -> object:
    """It joins again by its id: it is one member, and the first time is never answered."""
    first, second, third, who = (
        await stage.client(),
        await stage.client(),
        await stage.client(),
        membership(stage.name()),
    )
    leader, follower = await pair(first, second, who, who)
    waiting = asyncio.create_task(told(first.join(who, leader.member, b"first")))
    await rebalancing(second, who, follower)
    again = asyncio.create_task(third.join(who, leader.member, b"again"))
    await asyncio.sleep(0.2)
    other = await second.join(who, follower.member, b"second")
    joined, answered = await again, waiting.done()
    waiting.cancel()
    return shape(joined), shape(other), answered


@script
async def one_leaves_while_another_waits_for_it(stage: Stage) -> object:
    """The one that waits has its generation at once."""
    first, second, who = await stage.client(), await stage.client(), membership(stage.name())
    old = await alone(first, who)
    joining = asyncio.create_task(settled(lambda: second.join(who, "", b"second")))
    await rebalancing(first, who, old)
    left = await told(first.leave(who, old.member))
    async with asyncio.timeout(5):
        return left, shape(await joining)


@script
async def a_rebalance_before_the_shares_were_given(stage: Stage) -> object:
    """Who waits for a share is told to join again."""
    first, second, third, who = (
        await stage.client(),
        await stage.client(),
        await stage.client(),
        membership(stage.name()),
    )
    old = await alone(first, who)
    joining = asyncio.create_task(settled(lambda: second.join(who, "", b"second")))
    await rebalancing(first, who, old)
    leader, follower = await asyncio.gather(first.join(who, old.member, b"first"), joining)
    waiting = asyncio.create_task(told(second.sync(who, follower.generation, follower.member, {})))
    await asyncio.sleep(0.1)
    newcomer = asyncio.create_task(settled(lambda: third.join(who, "", b"third")))
    waited = await waiting
    stale = await told(first.sync(who, leader.generation, leader.member, {follower.member: b"two"}))
    one_, two, three = await asyncio.gather(
        first.join(who, leader.member, b"first"), second.join(who, follower.member, b"second"), newcomer
    )
    return waited, stale, shape(one_), shape(two), shape(three)


@script
async def a_follower_with_news_before_the_shares_were_given(stage: Stage) -> object:
    """It starts the rebalance again; with nothing new it is told the same."""
    first, second, who = await stage.client(), await stage.client(), membership(stage.name())
    old = await alone(first, who)
    joining = asyncio.create_task(settled(lambda: second.join(who, "", b"second")))
    await rebalancing(first, who, old)
    leader, follower = await asyncio.gather(first.join(who, old.member, b"first"), joining)
    same = await second.join(who, follower.member, b"second")
    leads = await first.join(who, leader.member, b"first")
    news = asyncio.create_task(second.join(who, follower.member, b"news"))
    await rebalancing(first, who, leader)
    again = await first.join(who, leader.member, b"first")
    return shape(same), shape(leads), shape(again), shape(await news)


@script
async def two_with_one_instance(stage: Stage) -> object:
    """The later one has the place."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who = membership(group, stage.name())
    old = await alone(first, who)
    new = await second.join(who, "", b"plan")
    share = await second.sync(who, new.generation, new.member, {})
    return (
        shape(new),
        share,
        await told(first.heartbeat(who, old.generation, old.member)),
        await told(first.join(who, old.member, b"plan")),
        await told(second.heartbeat(who, new.generation, new.member)),
    )


@script
async def a_member_that_forgets_its_instance(stage: Stage) -> object:
    """It is a member by its id all the same."""
    broker, group = await stage.client(), stage.name()
    who = membership(group, stage.name())
    joined = await alone(broker, who)
    plain_ = membership(group)
    return (
        await told(broker.heartbeat(plain_, joined.generation, joined.member)),
        await told(broker.heartbeat(membership(group, stage.name()), joined.generation, joined.member)),
    )


@script
async def a_generation_after_all_have_left(stage: Stage) -> object:
    """Their number goes on."""
    broker, who = await stage.client(), membership(stage.name())
    seen = []
    for _ in range(3):
        joined = await alone(broker, who)
        seen.append(joined.generation)
        await broker.leave(who, joined.member)
    return seen


@script
async def a_static_member_that_comes_back(stage: Stage) -> object:
    """It takes its place and its share without a rebalance, and who it was is fenced."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who, other = membership(group, stage.name()), membership(group, stage.name())
    leader, follower = await pair(first, second, who, other)
    back = await second.join(other, "", b"second")
    share = await second.sync(other, back.generation, back.member, {})
    quiet = await told(first.heartbeat(who, leader.generation, leader.member))
    fenced = [
        await told(second.heartbeat(other, follower.generation, follower.member)),
        await told(second.sync(other, follower.generation, follower.member, {})),
        await told(second.join(other, follower.member, b"second")),
        await told(second.leave(other, follower.member)),
    ]
    beat = await told(second.heartbeat(other, back.generation, back.member))
    return shape(back), back.member == follower.member, share, quiet, fenced, beat


@script
async def a_static_leader_that_comes_back(stage: Stage) -> object:
    """It does not think that it has to assign anything."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who, other = membership(group, stage.name()), membership(group, stage.name())
    _, follower = await pair(first, second, who, other)
    back = await first.join(who, "", b"first")
    share = await first.sync(who, back.generation, back.member, {})
    quiet = await told(second.heartbeat(other, follower.generation, follower.member))
    joining = asyncio.create_task(first.join(who, back.member, b"first"))
    await asyncio.sleep(0.2)
    beat = await told(second.heartbeat(other, follower.generation, follower.member))
    if beat == "REBALANCE_IN_PROGRESS":
        await second.join(other, follower.member, b"second")
    return shape(back), share, quiet, beat, shape(await joining)


@script
async def a_static_member_that_comes_back_with_news(stage: Stage) -> object:
    """What it says of itself is not looked at; it is told the old generation."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who, other = membership(group, stage.name()), membership(group, stage.name())
    leader, _ = await pair(first, second, who, other)
    back = await second.join(other, "", b"news")
    return shape(back), await told(first.heartbeat(who, leader.generation, leader.member))


@script
async def a_static_member_during_a_rebalance(stage: Stage) -> object:
    """It takes part with its new id, and the wait of the old one ends."""
    first, second, third, group = await stage.client(), await stage.client(), await stage.client(), stage.name()
    who, other = membership(group), membership(group, stage.name())
    old = await alone(first, who)
    joining = asyncio.create_task(told(second.join(other, "", b"second")))
    await rebalancing(first, who, old)
    again = asyncio.create_task(settled(lambda: third.join(other, "", b"third")))
    replaced = await joining
    leader, follower = await asyncio.gather(first.join(who, old.member, b"first"), again)
    return replaced, shape(leader), shape(follower)


@script
async def a_static_member_that_leaves(stage: Stage) -> object:
    """It leaves like others, and comes back as somebody new."""
    broker, who = await stage.client(), membership(stage.name(), stage.name())
    joined = await alone(broker, who)
    left = await told(broker.leave(who, joined.member))
    beat = await told(broker.heartbeat(who, joined.generation, joined.member))
    return left, beat, (await alone(broker, who)).generation


@slow
async def a_member_that_does_not_join_again(stage: Stage) -> object:
    """After its rebalance timeout it is out."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who = membership(group, rebalance=1_000)
    old = await alone(first, who)
    joined = await settled(lambda: second.join(who, "", b"second"))
    ghost = await told(first.heartbeat(who, old.generation, old.member))
    return shape(joined), ghost, await told(first.join(who, old.member, b"first"))


@slow
async def a_member_that_lost_its_id(stage: Stage) -> object:
    """It joins as somebody new, and waits until who it was is out."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who = membership(group, rebalance=1_500)
    lost = await settled(lambda: first.join(who, "", b"lost"))
    found = await settled(lambda: second.join(who, "", b"found"))
    return shape(lost), shape(found), await told(first.heartbeat(who, lost.generation, lost.member))


@slow
async def a_member_that_does_not_sync(stage: Stage) -> object:
    """It is put out, and the others start again."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who = membership(group, rebalance=1_500)
    old = await alone(first, who)
    joining = asyncio.create_task(settled(lambda: second.join(who, "", b"second")))
    await rebalancing(first, who, old)
    leader, follower = await asyncio.gather(first.join(who, old.member, b"first"), joining)
    waited = await told(second.sync(who, follower.generation, follower.member, {}))
    ghost = await told(first.heartbeat(who, leader.generation, leader.member))
    return waited, ghost, shape(await second.join(who, follower.member, b"second"))


@slow
async def a_member_that_is_silent(stage: Stage) -> object:
    """After its session timeout it is out, static or not, and the others learn of it."""
    first, second, group = await stage.client(), await stage.client(), stage.name()
    who, other = membership(group), membership(group, stage.name())
    leader, follower = await pair(first, second, who, other)
    beats: object = "done"
    async with asyncio.timeout(30):
        while beats == "done":
            await asyncio.sleep(0.5)
            beats = await told(first.heartbeat(who, leader.generation, leader.member))
    again = await first.join(who, leader.member, b"first")
    return beats, shape(again), await told(second.heartbeat(other, follower.generation, follower.member))
