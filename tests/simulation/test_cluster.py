"""The model of Kafka where no script of the contract can look: time, compaction, habits."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from streamproc.ports.broker import NOBODY, Appending, Code, Outgoing, Refused, TopicPartition
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.logs import Settings
from streamproc.testing.simulation.world import World
from tests.simulation.contract import add_offsets, append, begin, commit, init, told, transaction

SOURCE = TopicPartition("in", 0)
LOG = TopicPartition("log", 0)


def simulated(
    play: Callable[[World, SimBroker], Awaitable[object]], seed: int = 0, habits: Habits | None = None
) -> object:
    """What comes of a play in a calm world with two topics."""
    with World(seed, habits=habits) as world:
        world.cluster.create_topic("in")
        world.cluster.create_topic("log", settings=Settings(compacted=True))

        async def scene() -> object:
            return await play(world, SimBroker(world.cluster, world.network, object()))

        return world.loop.run_until_complete(world.loop.process("play").start(scene()))


async def committed_and_asked_at_once(_: World, broker: SimBroker) -> object:
    """The offset right after EndTxn was answered, and right after InitProducerId."""
    writer = await init(broker, "t")
    await add_offsets(broker, writer, "g", {SOURCE: 5})
    await broker.end_txn(writer, commit=True)
    early = await broker.offset_fetch("g", [SOURCE])
    await init(broker, "t")
    return early == {SOURCE: 5}, await broker.offset_fetch("g", [SOURCE]) == {SOURCE: 5}


def test_offsets_lag_behind_the_answer_to_an_end_of_a_transaction() -> None:
    """Without stable reads the old one is told at first, in some worlds; after InitProducerId it never is."""
    told = [simulated(committed_and_asked_at_once, seed, Habits(stable_reads=False)) for seed in range(50)]
    assert sorted(set(told)) == [(False, True), (True, True)]  # type: ignore[type-var]


async def committed_after_a_late_refusal(_: World, broker: SimBroker) -> object:
    """A late TxnOffsetCommit of an old incarnation while the new one holds its own."""
    old = await init(broker, "t")
    await add_offsets(broker, old, "g", {SOURCE: 1})
    old = await commit(broker, old)
    new = await init(broker, "t")
    await add_offsets(broker, new, "g", {SOURCE: 2})
    try:
        await broker.txn_offsets(old, "g", {SOURCE: 1})
    except Refused as refusal:
        assert refusal.code == Code.INVALID_PRODUCER_EPOCH  # noqa: PT017  # how it is refused is the point
    await commit(broker, new)
    last = await init(broker, "t")
    seen = [await broker.offset_fetch("g", [SOURCE])]
    await add_offsets(broker, last, "g", {SOURCE: 3})
    await commit(broker, last)
    await init(broker, "t")
    return [found[SOURCE] for found in [*seen, await broker.offset_fetch("g", [SOURCE])]]


def test_a_forgetful_broker_loses_offsets_by_a_late_refusal() -> None:
    """The old offset is told until the next commit; others forget nothing."""
    assert simulated(committed_after_a_late_refusal, habits=Habits(bumps=False, forgetful=True)) == [1, 3]
    assert simulated(committed_after_a_late_refusal, habits=Habits(bumps=False)) == [2, 3]


def test_a_transaction_that_lasts_too_long_is_ended_by_the_next_sweep() -> None:
    """Not when its time is over, but when somebody looks."""

    async def play(world: World, broker: SimBroker) -> object:
        writer = await broker.init_producer("t", 12_000)
        await begin(broker, writer, SOURCE)
        await append(broker, writer, SOURCE, 0, b"x")
        seen = []
        for _ in range(4):
            await asyncio.sleep(6)
            seen.append(bool(world.open_transactions()))
        return seen

    assert simulated(play) == [
        True,
        True,
        True,
        False,
    ]  # the sweep at 10 s finds it too young, the one at 20 s does not


async def written(broker: SimBroker, *records: tuple[bytes, bytes | None]) -> None:
    """Records in batches of their own."""
    for key, value in records:
        await broker.produce(NOBODY, [Appending(*LOG, 0, [Outgoing(key, value, 0)])])


def test_compaction_keeps_the_last_value_of_each_key_in_its_place() -> None:
    """Offsets stay, the end stays, tombstones and markers go when they are old enough."""

    async def play(world: World, broker: SimBroker) -> object:
        await written(broker, (b"a", b"1"), (b"b", b"1"), (b"a", b"2"), (b"b", None))
        writer = await init(broker, "t")
        await begin(broker, writer, LOG)
        await broker.produce(writer, [Appending(*LOG, 0, [Outgoing(b"c", b"1", 0)])])
        await commit(broker, writer)
        await asyncio.sleep(1)
        log, seen = world.cluster.log(LOG), []
        for wait, retention in ((0, 60.0), (61, 60.0)):
            await asyncio.sleep(wait)
            world.cluster.compact("log", retention)
            kept = [(offset, record.key, record.value) for offset, record in log.records()]
            seen.append((kept, sum(batch.marker for batch in log.batches), log.start, log.end))
        return seen

    kept = [(2, b"a", b"2"), (3, b"b", None), (4, b"c", b"1")]
    assert simulated(play) == [(kept, 1, 0, 6), ([kept[0], kept[2]], 1, 0, 6)]  # the last marker says where the end is


def test_compaction_stops_at_the_last_stable_offset() -> None:
    """What an open transaction wrote, and all behind it, stays as it is; what was aborted goes."""

    async def play(world: World, broker: SimBroker) -> object:
        await written(broker, (b"a", b"1"))
        writer = await init(broker, "t")
        await begin(broker, writer, LOG)
        await broker.produce(writer, [Appending(*LOG, 0, [Outgoing(b"a", b"open", 0)])])
        await written(broker, (b"a", b"2"), (b"a", b"3"))
        world.cluster.compact("log", 0.0)
        log = world.cluster.log(LOG)
        during = [offset for batch in log.batches for offset in batch.offsets]
        await broker.end_txn(writer, commit=False)
        await asyncio.sleep(1)
        world.cluster.compact("log", 0.0)
        return during, [offset for batch in log.batches for offset in batch.offsets], log.end

    assert simulated(play) == ([0, 1, 2, 3], [3], 5)


def test_a_reader_gets_over_what_compaction_took() -> None:
    """The place to read on reaches the end, whatever is left."""

    async def play(world: World, broker: SimBroker) -> object:
        for value in (b"1", b"2", None):
            await written(broker, *((b"%d" % key, value) for key in range(10)))
        await asyncio.sleep(1)
        world.cluster.compact("log", 0.0)
        at, steps = 0, 0
        while at < 30:
            got = world.cluster.log(LOG).read(at, 100, committed=True)
            assert got.next_offset > at
            at, steps = got.next_offset, steps + 1
        return at, steps

    assert simulated(play) == (30, 1)


def test_a_fetch_ends_with_its_segment() -> None:
    """However much it may bring, and nothing is lost by it."""

    async def play(world: World, broker: SimBroker) -> object:
        for _ in range(5):
            await append(broker, NOBODY, SOURCE, 0, b"x")
        return [world.cluster.log(SOURCE).read(at, 10_000, committed=True).next_offset for at in range(5)]

    always, never = replace(Habits(), rolls=1.0), replace(Habits(), rolls=0.0)
    assert simulated(play, habits=always) == [1, 2, 3, 4, 5]
    assert simulated(play, habits=never) == [5] * 5


def test_what_is_output_is_what_a_watcher_saw() -> None:
    """It grows, it holds nothing that is open or aborted, and no compaction takes it back."""

    async def play(world: World, broker: SimBroker) -> object:
        writer = await init(broker, "t")
        seen = []
        for number, commits in enumerate((True, False, True)):
            await begin(broker, writer, LOG)
            await broker.produce(writer, [Appending(*LOG, 0, [Outgoing(b"k", b"%d" % number, 0)])])
            seen.append([record.value for record in world.output("log")[0]])
            await broker.end_txn(writer, commit=commits)
            writer = await init(broker, "t")
            world.cluster.compact("log", 0.0)
            seen.append([record.value for record in world.output("log")[0]])
        return seen

    assert simulated(play) == [[], [b"0"], [b"0"], [b"0"], [b"0"], [b"0", b"2"]]


async def near_the_last_epoch(_: World, broker: SimBroker) -> object:
    """Producer and epoch over several commits, whether each may be repeated, and what its writer may do after it."""
    writer = await init(broker, "t")
    first, seen = writer.producer_id, []
    for _commit in range(5):
        await begin(broker, writer, SOURCE)
        await append(broker, writer, SOURCE, 0, b"x")
        following = await commit(broker, writer)
        assert following == await commit(broker, writer)
        late = await append(broker, writer, SOURCE, 1, b"y"), await told(broker.add_partitions(writer, [SOURCE]))
        seen.append((following.producer_id - first, following.epoch, *late))
        writer = following
    return seen


def test_behind_the_last_epoch_comes_a_new_producer() -> None:
    """As seen on Kafka 4.4 at 32,766."""
    fenced, nobody = Code.INVALID_PRODUCER_EPOCH.name, Code.INVALID_PRODUCER_ID_MAPPING.name
    assert simulated(near_the_last_epoch, habits=Habits(last_epoch=2)) == [
        (0, 1, fenced, fenced),
        (0, 2, fenced, fenced),
        (1, 0, fenced, nobody),
        (1, 1, fenced, fenced),
        (1, 2, fenced, fenced),
    ]


def test_a_partition_is_added_to_a_topic_that_is_there() -> None:
    """What is in the others stays."""

    async def play(world: World, broker: SimBroker) -> object:
        await transaction(broker, await init(broker, "t"), SOURCE, 0, b"x")
        world.cluster.create_topic("in", 3)
        return len(world.cluster.topics["in"]), world.cluster.log(SOURCE).end > 0

    assert simulated(play) == (3, True)
