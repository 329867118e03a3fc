"""A small client of the port that counts records per key exactly once, and what it would be with one thing wrong.

    in/n --> count per key --> out/n        changelog/n: the count of each key, and how far in/n was read

It is as plain as it can be while it is right under every fault of the simulation; each `Bug` takes one rule away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Final, TypeVar

from streamproc.ports.broker import (
    Appending,
    Broker,
    BrokerError,
    Code,
    Joined,
    Membership,
    Outgoing,
    Read,
    Refused,
    TopicPartition,
    Unanswered,
    Writer,
)
from streamproc.testing.simulation.cluster import EPOCH
from streamproc.testing.simulation.habits import Habits
from streamproc.testing.simulation.logs import Settings
from streamproc.testing.simulation.world import Faults, World

T = TypeVar("T")

GROUP: Final = "app"
POSITION: Final = b"position"
MEMBERSHIP: Final = Membership(GROUP, "counting", 6_000, 20_000)
LASTING: Final = 12_000
HUGE: Final = b"x" * 300
LARGEST: Final = 350
PACE: Final = 0.3
"""A transaction is open for some time, as it is where it takes more than one batch."""


class Bug(Flag):
    """One rule that is not kept."""

    NONE = 0
    OFFSETS_BEFORE_INIT = auto()
    """The committed offsets are asked for before the predecessor is fenced."""
    END_AGAIN = auto()
    """An EndTxn without an answer is sent again."""
    ID_OF_WORKER = auto()
    """The transactional id is the worker's and not the partition's."""
    STABLE_RESTORE = auto()
    """The state is read up to the last stable offset, not the end."""
    FAILED_RECORD = auto()
    """A record that could not be written does not hinder the commit."""
    EARLY_STATE = auto()
    """State is changed before the commit, and believed after a failure."""
    WRITER_AGAIN = auto()
    """A transaction is aborted and its writer used again, though nobody knows what became of what it sent."""
    GO_ON = auto()
    """After a failure the work in hand is committed under a new incarnation, without a look at where the group is."""
    NO_CROSS_CHECK = auto()
    """The committed offset is believed, whatever the changelog says."""


class Gone(Exception):
    """Somebody else writes under this id now."""


FENCED = {Code.INVALID_PRODUCER_EPOCH, Code.PRODUCER_FENCED, Code.INVALID_PRODUCER_ID_MAPPING}
PASSING = {
    Code.CONCURRENT_TRANSACTIONS,
    Code.NOT_COORDINATOR,
    Code.UNSTABLE_OFFSET_COMMIT,
    Code.COORDINATOR_LOADING,
    Code.NOT_ENOUGH_REPLICAS,
}


@dataclass(slots=True)
class Task:
    """The work of one partition."""

    broker: Broker
    partition: int
    transactional_id: str
    bugs: Bug
    state: dict[bytes, int] = field(default_factory=dict)
    position: int = 0
    node: int = 0
    shrinks: bool = False
    """Whether what comes next was too large as it is."""
    ending: bool = False
    """Whether the transaction may be committed by now."""
    writer: Writer = field(default_factory=lambda: Writer(None))
    sequences: dict[str, int] = field(default_factory=dict)

    @property
    def source(self) -> TopicPartition:
        """What it reads."""
        return TopicPartition("in", self.partition)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                await self.take_over()
                while True:
                    await self.work()
            except Gone:
                self.broker.discard(self.transactional_id)
                await asyncio.sleep(3)  # if it is still ours by then, it was us
            except BrokerError:
                self.broker.discard(self.transactional_id)
                await asyncio.sleep(0.2)

    async def take_over(self) -> None:
        """Fence, then ask how far it was, then restore."""
        early = await self.committed() if Bug.OFFSETS_BEFORE_INIT in self.bugs else None
        self.writer = await patient(lambda: self.broker.init_producer(self.transactional_id, LASTING))
        self.sequences.clear()
        committed = await self.committed() if early is None else early
        await self.restore()
        if Bug.NO_CROSS_CHECK in self.bugs or self.position < committed:
            self.position = committed

    async def committed(self) -> int:
        """Where the group is."""
        offsets = await patient(lambda: self.broker.offset_fetch(GROUP, [self.source]))
        return offsets.get(self.source, 0)

    async def restore(self) -> None:
        """Read the changelog from start to end."""
        log = TopicPartition("changelog", self.partition)
        self.node = (await self.broker.metadata(["in"]))["in"].leaders[self.partition]  # and of the changelog
        if Bug.EARLY_STATE in self.bugs and self.state:
            self.position = 0
            return
        self.state.clear()
        self.position = at = 0
        isolation = "read_committed" if Bug.STABLE_RESTORE in self.bugs else "read_uncommitted"
        target = (await self.broker.list_offsets([log], "end", isolation))[log]  # type: ignore[arg-type]
        while at < target:
            (got,) = await self.broker.fetch(self.node, [Read(*log, at)], 1000, "read_committed")
            at = got.next_offset
            for key, value in zip(got.keys, got.values, strict=True):
                if key == POSITION:
                    self.position = int(value or b"0")
                else:
                    self.state[key or b""] = int(value or b"0")

    async def work(self) -> None:
        """One transaction over what there is to read."""
        (got,) = await self.broker.fetch(self.node, [Read(*self.source, self.position, 200)], 2000, "read_committed")
        if not got.values:
            self.position = max(self.position, got.next_offset)
            return
        seen = self.state if Bug.EARLY_STATE in self.bugs else dict(self.state)
        out, changes = [], dict[bytes, int]()
        for raw, value in zip(got.keys, got.values, strict=True):
            key = raw or b""
            changes[key] = seen[key] = seen.get(key, 0) + 1
            told = small(value) if self.shrinks else value or b""
            out.append(Outgoing(key, b"%d" % seen[key] + told, EPOCH))
        await self.commit(out, changes, got.next_offset)
        if Bug.EARLY_STATE not in self.bugs:
            self.state.update(changes)
        self.position = got.next_offset

    async def commit(self, out: list[Outgoing], changes: dict[bytes, int], upto: int) -> None:
        """Output, state and position become visible together, or not at all."""
        try:
            await self.send(out, changes, upto)
        except Refused as refusal:
            if refusal.code in FENCED:
                raise Gone from refusal
            self.shrinks = refusal.code == Code.MESSAGE_TOO_LARGE
            if Bug.GO_ON not in self.bugs or not self.shrinks:
                raise
            await self.start_over()
            await self.commit([Outgoing(record.key, small(record.value), EPOCH) for record in out], changes, upto)
        except Unanswered:
            if Bug.GO_ON in self.bugs and not self.ending:
                await self.start_over()
            elif Bug.WRITER_AGAIN in self.bugs:
                with suppress(BrokerError):
                    await self.broker.end_txn(self.writer, commit=False)
            else:
                raise
            await self.commit(out, changes, upto)
        self.shrinks = False

    async def start_over(self) -> None:
        """What was sent under this incarnation is void; and what others did meanwhile is not looked at."""
        self.broker.discard(self.transactional_id)
        self.writer = await patient(lambda: self.broker.init_producer(self.transactional_id, LASTING))
        self.sequences.clear()

    async def send(self, out: list[Outgoing], changes: dict[bytes, int], upto: int) -> None:
        """One transaction."""
        changed = [Outgoing(key, b"%d" % count, EPOCH) for key, count in changes.items()]
        changed.append(Outgoing(POSITION, b"%d" % upto, EPOCH))
        batches = {"out": out, "changelog": changed}
        places = [TopicPartition(topic, self.partition) for topic in batches]
        broker, writer, self.ending = self.broker, self.writer, False
        await patient(lambda: broker.add_partitions(writer, places))
        for topic, records in batches.items():
            await self.append(topic, records)
            await asyncio.sleep(PACE)
        await patient(lambda: broker.add_offsets(writer, GROUP))
        await patient(lambda: broker.txn_offsets(writer, GROUP, {self.source: upto}))
        await asyncio.sleep(PACE)
        self.ending = True
        following = await self.end()
        if following != writer:
            self.sequences.clear()
        self.writer = following

    async def append(self, topic: str, records: Sequence[Outgoing]) -> None:
        """One batch."""
        sequence = self.sequences.get(topic, 0)
        batch = Appending(topic, self.partition, sequence, records)
        try:
            await patient(lambda: self.broker.produce(self.writer, [batch]))
        except Refused as refusal:
            if Bug.FAILED_RECORD not in self.bugs or refusal.code in FENCED:
                raise
            return
        self.sequences[topic] = sequence + len(records)

    async def end(self) -> Writer:
        """Commit."""
        while True:
            try:
                return await patient(lambda: self.broker.end_txn(self.writer, commit=True))
            except Unanswered:
                if Bug.END_AGAIN not in self.bugs:
                    raise


async def patient(call: Callable[[], Awaitable[T]]) -> T:
    """What comes of a call that may be refused for the moment."""
    while True:
        try:
            return await call()
        except Refused as refusal:
            if refusal.code not in PASSING:
                raise
            await asyncio.sleep(0.02)


def small(value: bytes | None) -> bytes:
    """What is written in the place of a value that is too large."""
    return (value or b"").replace(HUGE, b"!")


@dataclass(slots=True)
class Client:
    """A member of the group with the tasks that it was given; eager: each rebalance takes all of them."""

    broker: Broker
    name: str
    bugs: Bug
    partitions: int
    member: str = ""
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Work until cancelled, then leave."""
        try:
            while True:
                with suppress(BrokerError):
                    await self.stay(await self.enter())
                await self.drop()
                await asyncio.sleep(0.1)
        finally:
            await self.drop()
            if self.member:
                with suppress(BrokerError):
                    await self.broker.leave(MEMBERSHIP, self.member)

    async def enter(self) -> Joined:
        """Join, and start what was assigned."""
        try:
            joined = await self.broker.join(MEMBERSHIP, self.member, b"")
            self.member = joined.member
            members = [member.id for member in joined.members]
            shares = {
                member: bytes(range(index, self.partitions, len(members))) for index, member in enumerate(members)
            }
            assigned = await self.broker.sync(MEMBERSHIP, joined.generation, self.member, shares)
        except Refused as refusal:
            if refusal.code == Code.UNKNOWN_MEMBER_ID:
                self.member = ""
            raise
        for partition in assigned:
            owner = self.name if Bug.ID_OF_WORKER in self.bugs else "task"
            task = Task(self.broker, partition, f"{owner}-{partition}", self.bugs)
            self.tasks[partition] = asyncio.create_task(task.run())
        return joined

    async def stay(self, joined: Joined) -> None:
        """Be a member until there is a rebalance or nobody answers."""
        while not any(task.done() for task in self.tasks.values()):
            await asyncio.sleep(1.0)
            try:
                await self.broker.heartbeat(MEMBERSHIP, joined.generation, joined.member)
            except Refused as refusal:
                if refusal.code in {Code.UNKNOWN_MEMBER_ID, Code.ILLEGAL_GENERATION}:
                    self.member = ""
                raise
        for task in self.tasks.values():
            if task.done():
                task.result()

    async def drop(self) -> None:
        """Give up every task; what it had begun is for its successor to end."""
        for partition, task in self.tasks.items():
            task.cancel()
            self.broker.discard(f"task-{partition}")
            with suppress(asyncio.CancelledError):
                await task
        self.tasks.clear()


def expected(records: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The output for an input."""
    seen: dict[bytes, int] = {}
    out = []
    for key, value in records:
        seen[key] = seen.get(key, 0) + 1
        out.append((key, b"%d" % seen[key] + small(value)))
    return out


def play(seed: int, faults: Faults, habits: Habits, bugs: Bug = Bug.NONE, *, partitions: int = 2) -> World:
    """One world with two clients; raises Failed if their output is ever wrong."""
    replay = "STREAMPROC_SEED={seed} pytest tests/simulation/test_protocol.py"
    with World(seed, faults, habits, replay=replay) as world:
        cluster = world.cluster
        cluster.create_topic("in", partitions)
        cluster.create_topic("out", partitions, Settings(largest=LARGEST))
        cluster.create_topic("changelog", partitions, Settings(compacted=True))
        keys = (b"a", b"b", b"a", b"a", b"c", b"b", b"a", b"b") * 3
        fed = [[(key, HUGE if n == 13 else b".") for n, key in enumerate(keys)] for _ in range(partitions)]
        for partition, records in enumerate(fed):
            for number, (key, value) in enumerate(records):
                at = 1.0 + number * faults.heal / len(records)
                world.at(at, cluster.append, "in", partition, [Outgoing(key, value, EPOCH)])
        oracle = {partition: expected(records) for partition, records in enumerate(fed)}

        def wrong() -> str | None:
            for partition, records in world.output("out").items():
                got = [(record.key, record.value) for record in records]
                if got != oracle[partition][: len(got)]:
                    return f"out/{partition} is {got} and should be {oracle[partition]}"
            return None

        world.always(wrong)
        for name in ("x", "y"):
            world.start(name, lambda broker, name: Client(broker, name, bugs, partitions).run())
        world.run(lambda: sum(map(len, world.output("out").values())) == sum(map(len, oracle.values())))
    return world
