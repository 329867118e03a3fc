"""Workers and brokers that are killed, frozen, cut off and lied to: what comes out is what a calm run gives.

Each of these is small.  The same faults at full size are in `chaos`, for `make chaos`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import select
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions

from streamproc.ports.broker import Code
from tests.kafka.brokers import Kafka, OwnKafka, free_port
from tests.kafka.oracle import FUTURE, START, Message, event, load
from tests.kafka.proxy import Api, Fault, Proxy
from tests.kafka.proxy import Message as Passing
from tests.kafka.runs import KILLED, Scene, measured

pytestmark = pytest.mark.slow

SceneOf = Callable[..., Scene]

FULL = 1 << 16
"""Bytes that no file of a broker may have more of when its disk is full."""

STEPS = (
    "after_init_pid:2",
    "after_produce:1",
    "after_offsets:2",
    "before_endtxn:3",
    "after_endtxn:3",
    "before_fold:2",
    "mid_restore:2",
)
"""A step and its how many-th time; the first dies in its first transaction, before there is any offset."""


def plenty(seed: int = 1, count: int = 60_000) -> list[Message]:
    """More events than any test here needs: a second brings sixteen of event time, at 400 a second."""
    return load(seed, count, users=100, step=40)


@pytest.fixture
def scene(kafka: Kafka, prefix: str, tmp_path: Path) -> SceneOf:
    """Makes scenes on the shared broker."""

    def make(topology: str = "keyed", *, partitions: int = 4, **more: Any) -> Scene:
        return Scene(kafka.bootstrap, prefix, topology, tmp_path, partitions=partitions, **more)

    return make


# ------------------------------------------------------------------------------------------------------- workers die


@pytest.mark.parametrize("topology", ["keyed", "rekeyed"])
async def test_a_worker_killed_at_each_step_of_a_commit_leaves_no_trace(scene: SceneOf, topology: str) -> None:
    """One after the other dies at another step, and takes over from one that has; nothing is lost or there twice."""
    async with scene(topology, partitions=3) as stage:
        async with stage.sending(plenty(), rate=300):
            for step in STEPS:
                worker = stage.worker(CRASH_AT=step, GROUP__INSTANCE_ID="one")
                assert await worker.ended() == KILLED, f"{step}: {worker.said[-2000:]}"
            stage.worker(GROUP__INSTANCE_ID="one")
        await stage.finish()


async def test_at_least_once_may_repeat_results_and_loses_none(scene: SceneOf) -> None:
    """Each result that is there is right, however often, and none is missing."""
    async with scene(partitions=3, watched=False, GUARANTEE="at_least_once") as stage:
        async with stage.sending(plenty(), rate=300):
            for step in ("after_produce:2", "before_endtxn:3"):
                worker = stage.worker(CRASH_AT=step, GROUP__INSTANCE_ID="one")
                assert await worker.ended() == KILLED, f"{step}: {worker.said[-2000:]}"
            last = stage.worker(GROUP__INSTANCE_ID="one")
        await stage.until_committed(stage.ends)
        assert await last.stop() == 0
        await stage.equal(repeated=True)
        await stage.nothing_open(time.monotonic())
        await stage.nothing_kept()


async def test_others_take_over_from_a_worker_that_was_killed(scene: SceneOf) -> None:
    """They have its tasks when the group has missed it for the session timeout."""
    async with scene() as stage:
        victim, other = stage.worker(), stage.worker()
        async with stage.sending(plenty(), rate=400):
            await stage.flowing()
            await stage.shared(victim, other)
            victim.kill()
            stage.fault()
            await stage.recovered("F1 kill -9 of one of two")
            await stage.shared(other)
        await stage.finish()


async def test_a_zombie_writes_nothing_and_comes_back_by_itself(scene: SceneOf) -> None:
    """Frozen until others have its tasks, it finds out when it goes on; it joins again, and nobody fences twice."""
    async with scene() as stage:
        zombie, other = stage.worker(), stage.worker()
        async with stage.sending(plenty(), rate=400):
            await stage.flowing()
            await stage.shared(zombie, other)
            zombie.freeze()
            stage.fault()
            await stage.recovered("F2 SIGSTOP of one of two")
            await stage.until(lambda: len(stage.tasks(other)) == 4, "the other one has all")
            await asyncio.sleep(max(0.0, 15 - stage.since_fault))
            zombie.thaw()
            stage.fault()
            await stage.recovered("F2 SIGCONT of the zombie")
            await stage.shared(zombie, other)
            measured(f"F2 zombie has tasks again {stage.since_fault:.1f} s after SIGCONT")
            await stage.flowing()
        await stage.finish()
        assert len(other.events("partitions_lost")) == 0


async def test_workers_come_and_go(scene: SceneOf) -> None:
    """One, then three, then one again: tasks are handed over, and nobody loses any."""
    async with scene(partitions=6) as stage:
        first = stage.worker()
        async with stage.sending(plenty(), rate=400):
            await stage.flowing()
            stage.fault()
            others = stage.worker(), stage.worker()
            await stage.shared(first, *others)
            stage.pause("F9 from one worker to three")
            stage.fault()
            for each in others:
                assert await each.stop() == 0
            await stage.shared(first)
            stage.pause("F9 from three workers to one")
        await stage.finish()
        generation = max(int(text) for text in re.findall(r'"generation (\d+):', first.said))
        assert generation <= 1 + 4 * 2, "more than two rebalances for each worker that came or went"
        assert [worker.events("partitions_lost") for worker in stage.workers] == [[], [], []]


async def test_whoever_uses_the_transactional_id_of_a_task_is_put_out(scene: SceneOf) -> None:
    """Another process that writes under it fences the worker, which joins again and takes the task back."""
    async with scene(partitions=2) as stage:
        worker = stage.worker()
        async with stage.sending(plenty(), rate=300):
            await stage.flowing()
            for _ in range(2):
                lost = len(worker.events("partitions_lost"))
                await stage.usurp(stage.transactional_id(0))
                stage.fault()
                await stage.until(lambda lost=lost: len(worker.events("partitions_lost")) > lost, "it was fenced")
                await stage.recovered("F18 another process with the same transactional id")
        await stage.finish()
        assert worker.code == 0


# ------------------------------------------------------------------------------------------------------- brokers die


async def test_a_broker_that_dies_and_comes_back_loses_nothing(
    own_kafka: OwnKafka, prefix: str, tmp_path: Path
) -> None:
    """Workers wait for it; one that is started meanwhile gives up after its time, and says who did not answer."""
    broker = await asyncio.to_thread(own_kafka)
    async with Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=4) as stage:
        stage.worker()
        async with stage.sending(plenty(), rate=300):
            await stage.flowing()
            await asyncio.to_thread(broker.kill)
            early = stage.worker(CONNECT__TIMEOUT="3s")
            assert await early.ended(20) == 4
            assert broker.bootstrap in early.conclusion
            stage.workers.remove(early)
            await asyncio.sleep(max(0.0, early.began + 5 - time.monotonic()))
            await asyncio.to_thread(broker.start)
            stage.fault()
            await stage.recovered("F4 kill -9 of the broker, back after 5 s")
        await stage.finish()


def _ends(pid: int, limit: float) -> bool:
    """Whether a process comes to its end within so many seconds."""
    process = os.pidfd_open(pid)
    try:
        return bool(select.select([process], [], [], limit)[0])
    finally:
        os.close(process)


async def test_a_broker_whose_disk_is_full_loses_nothing(own_kafka: OwnKafka, prefix: str, tmp_path: Path) -> None:
    """It writes no more, and gives up; workers say that it cannot be reached, wait, and go on where they were."""
    broker = await asyncio.to_thread(own_kafka)
    async with Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=4) as stage:
        worker = stage.worker()
        async with stage.sending(plenty(), rate=300):
            await stage.flowing()
            resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (FULL, FULL))
            assert await asyncio.to_thread(_ends, broker.pid, 60.0)
            assert worker.code is None
            await asyncio.to_thread(broker.kill)  # its guard may not have noticed yet
            await asyncio.to_thread(broker.start)
            assert broker.bootstrap in worker.said
            stage.fault()
            await stage.recovered("F11 the broker's disk full, and room again")
        await stage.finish()


async def test_a_join_that_is_lost_on_its_way_is_made_again_soon(
    own_kafka: OwnKafka, prefix: str, tmp_path: Path
) -> None:
    """Nobody waits for its answer as long as a rebalance may take: a member has missed its session long before."""
    port = free_port()
    broker = await asyncio.to_thread(own_kafka, advertised_port=port)
    scene = Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=2, KAFKA__REQUEST_TIMEOUT="2s")
    async with Proxy(broker.port, port=port) as proxy, scene as stage:
        first = stage.worker(KAFKA__CLIENT_ID="first")
        async with stage.sending(plenty(), rate=300):
            await stage.flowing()
            lost = proxy.drop(Api.JOIN_GROUP, when=lambda message: message.client_id == "first")
            second = stage.worker()
            await lost.happened()
            stage.fault()
            await stage.shared(first, second, limit=20)
            measured(f"F6 a lost JoinGroup: tasks are shared {stage.since_fault:.1f} s after it")
            await stage.flowing()
        await stage.finish()


# ---------------------------------------------------------------------------------------------------- late requests


@pytest.mark.parametrize("version", ["4.4.0", "3.9.1"])
@pytest.mark.timeout(240)
async def test_requests_that_arrive_late_tear_no_transaction(
    own_kafka: OwnKafka, prefix: str, tmp_path: Path, version: str
) -> None:
    """The worker has given up waiting, and the broker gets them in the middle of the next transaction, or after it.

    By then the worker writes under a new epoch, so that they are refused, or change nothing.
    """
    port = free_port()
    broker = await asyncio.to_thread(own_kafka, version, advertised_port=port)
    scene = Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=2, KAFKA__REQUEST_TIMEOUT="2s")
    async with Proxy(broker.port, port=port) as proxy, scene as stage:
        wire = Wire(proxy, stage)
        ends = proxy.watch(Api.END_TXN, when=wire.ours)
        async with stage.sending(plenty(), rate=300):
            waiting = proxy.hold(Api.INIT_PRODUCER_ID, when=wire.ours)
            stage.worker()
            for inside in (True, False):
                for api in (Api.INIT_PRODUCER_ID, Api.END_TXN, Api.TXN_OFFSET_COMMIT, Api.PRODUCE):
                    if api != Api.INIT_PRODUCER_ID:
                        await stage.flowing()
                        waiting = proxy.hold(api, when=wire.ours)
                    elif not inside:
                        waiting = proxy.hold(api, when=wire.ours)
                        await stage.usurp(stage.transactional_id(0))
                    await wire.late(waiting, inside=inside)
                    stage.fault()
                    await stage.recovered(f"F7 {version} late {api.name}, {'inside' if inside else 'after'}")
        await stage.finish()
        assert {message.version >= 5 for message in ends.struck} == {version == "4.4.0"}


class Wire:
    """What passes between the worker of a scene and its broker."""

    def __init__(self, proxy: Proxy, stage: Scene) -> None:
        self._proxy = proxy
        self._name = re.compile(re.escape(stage.app.encode()) + rb"-[a-z0-9_]+-\d+")

    def ours(self, message: Passing) -> bool:
        """Whether it is the worker's."""
        return message.client_id.startswith("streamproc")

    def name(self, message: Passing) -> bytes:
        """The transactional id in a request."""
        found = self._name.search(message.frame)
        assert found, message.frame
        return found[0]

    def writer(self, message: Passing) -> tuple[int, int]:
        """Producer id and epoch of an EndTxn."""
        name = self.name(message)
        producer, epoch = struct.unpack_from(">qh", message.frame, message.frame.index(name) + len(name))
        return producer, epoch

    async def late(self, waiting: Fault, *, inside: bool) -> None:
        """Let go of a request once its client has given it up and is about to end another transaction, or has."""
        held = await waiting.happened()
        name = self.name(held)

        def following(message: Passing) -> bool:
            return message is not held and self.ours(message) and self.name(message) == name

        if inside:
            end = self._proxy.hold(Api.END_TXN, when=following)
            again = await end.happened()
            answer = await waiting.release()
            await end.release()
        else:
            again = await self._proxy.watch(Api.END_TXN, when=following).happened(2)
            answer = await waiting.release()
        if held.api == Api.END_TXN:
            assert self.writer(again) > self.writer(held), "the next transaction has the epoch of the one before"
            (code,) = struct.unpack_from(">h", answer, 5 if held.version >= 3 else 4)
            refused = {Code.INVALID_PRODUCER_EPOCH, Code.PRODUCER_FENCED, Code.CONCURRENT_TRANSACTIONS}
            assert code in refused, f"a late end was answered with {code}"


# -------------------------------------------------------------------------------------------------- records and time


async def test_records_that_cannot_be_read_end_as_dead_letters(scene: SceneOf) -> None:
    """A hundred of a hundred, byte for byte, and the stream goes on around them."""
    async with scene() as stage:
        stage.worker()
        kinds = (b"{", b"\xff\xfe", b"[" * 20_000, b'{"ts": "soon"}', b'{"ts":1e999,"user":"u1","shop":"s","n":1}')
        messages = plenty(count=5_000)
        for n in range(100):
            messages.insert(40 * n, Message(f"u{n}".encode(), kinds[n % len(kinds)] + b" " * n))
        await stage.produce(messages, last=range(4))
        await stage.finish()
        assert stage.expected.dead.total() == 100


async def test_a_function_that_fails_or_takes_longer_than_a_session_costs_no_other_record(scene: SceneOf) -> None:
    """A hundred that raise or recurse without end are dead letters; two that are slow cost no membership."""
    async with scene("stubborn", partitions=1, watched=False) as stage:
        shops = ["10", "raises", "20", "recurses"] * 50
        shops[60:60], shops[140:140] = ["sleeps"], ["computes"]
        events = [event(n, at=START, user="u1", shop=shop) for n, shop in enumerate(shops)]
        worker = stage.worker()
        await stage.produce(events)
        await stage.until_committed({0: len(events)})
        (results,), (dead,) = await stage.read(f"{stage.prefix}-totals"), await stage.read(f"{stage.prefix}-dead")
        failing = [n for n, shop in enumerate(shops) if shop in {"raises", "recurses"}]
        assert [json.loads(record.value) for record in results] == sorted(set(range(len(shops))) - set(failing))
        assert [json.loads(record.value)["n"] for record in dead] == failing
        assert set(re.findall(r'"generation (\d+):', worker.said)) == {"1"}


async def test_times_out_of_the_ordinary_harm_nobody_else(scene: SceneOf) -> None:
    """What comes from the future is a dead letter; what is from before 1970 or its first instant is just late."""
    async with scene() as stage:
        stage.worker()
        messages = plenty(count=5_000)
        for n, at in enumerate((FUTURE, -5, 0, FUTURE * 2, -(10**12)) * 8):
            messages.insert(1_000 + 50 * n, event(60_000_000 + 10 * n, at=at, user=f"u{n}"))
        await stage.produce(messages, last=range(4))
        await stage.finish()
        assert stage.expected.dead.total() == 16
        assert sum(n >= 60_000_000 for n in stage.expected.late) == 24


async def test_windows_close_although_a_partition_has_nothing_more(scene: SceneOf) -> None:
    """After `idle_timeout` nobody waits for it any more, and results come from what the others have."""
    async with scene("brisk", partitions=3) as stage:
        stage.worker()
        messages = [message for message in plenty() if json.loads(message.value)["ts"] >= START]
        quiet = [message for message in messages[:400] if stage.place(message.key) == 2]
        await stage.produce(quiet)
        await stage.until_committed({2: len(quiet)})
        busy = [message for message in messages if stage.place(message.key) != 2]
        stage.fault()
        async with stage.sending(busy, rate=400, last=(0, 1)):
            await stage.recovered("F12 windows close beside an idle partition (idle_timeout 2 s)")
        await stage.finish()


async def test_a_record_of_ten_megabytes_is_a_record(scene: SceneOf) -> None:
    """Where the topics take it: a good one is counted, a bad one is a dead letter, byte for byte."""
    wide = {"max_message_bytes": str(12 << 20)}
    async with scene(partitions=2, topics={"events": wide, "dead": wide}) as stage:
        stage.worker()
        messages = plenty(count=2_000)
        messages.insert(500, event(5_000, at=START + 20_000, user="u1", more="x" * (10 << 20)))
        messages.insert(900, Message(b"u2", b"{" * (10 << 20)))
        await stage.produce(messages, last=range(2))
        await stage.finish()
        assert stage.expected.dead.total() == 1


async def test_a_dead_letter_that_a_broker_refuses_stops_the_worker_and_is_not_passed_over(scene: SceneOf) -> None:
    """Too large for its topic: exit 1 with that topic, and no commit without the record."""
    topics = {"events": {"max_message_bytes": str(4 << 20)}}
    async with scene("swollen", partitions=1, watched=False, topics=topics) as stage:
        good = event(1, at=START, user="u1", shop="10")
        await stage.produce([good])
        first = stage.worker()
        await stage.until_committed({0: 1})
        await stage.produce([Message(b"u1", b"{" * (2 << 20)), good])
        for worker in (first, stage.worker()):  # starting again does not help, and harms nobody
            assert await worker.ended() == 1, worker.said[-2000:]
            assert f"{stage.prefix}-dead" in worker.conclusion, worker.conclusion
        (results,) = await stage.read(f"{stage.prefix}-totals")
        assert [record.value for record in results] == [b'{"n":1,"text":"xxxxxxxxxx"}']
        assert await stage.committed() == {TopicPartition(f"{stage.prefix}-events", 0): 1}
        await stage.nothing_open(time.monotonic(), within=5)  # its last transaction has been ended by itself


@pytest.mark.parametrize("lifted", [False, True], ids=["an hour", "lifted"])
async def test_a_result_stamped_too_far_ahead_makes_a_dead_letter_of_its_record(
    scene: SceneOf,
    lifted: bool,  # noqa: FBT001
) -> None:
    """Unless its topic takes it; those around it are written, and the worker goes on."""
    ahead = str(2**63 - 1) if lifted else "3600000"  # as brokers have it from 4.0 on
    topics = {"totals": {"message_timestamp_after_max_ms": ahead}}
    async with scene("swollen", partitions=1, watched=False, topics=topics) as stage:
        good, far = (event(n, at=at, user="u1", shop="10") for n, at in ((1, START), (2, FUTURE)))
        stage.worker()
        await stage.produce([good, far, good])
        await stage.until_committed({0: 3})
        (results,), (dead,) = await stage.read(f"{stage.prefix}-totals"), await stage.read(f"{stage.prefix}-dead")
        assert [json.loads(record.value)["n"] for record in results] == ([1, 2, 1] if lifted else [1, 1])
        assert [record.value for record in dead] == ([] if lifted else [far.value])
        said = b" ".join(content for record in dead for _, content in record.headers).decode()
        assert lifted or ("production_error" in said and f"{stage.prefix}-totals" in said)


async def test_a_result_that_is_too_large_makes_a_dead_letter_of_its_record(scene: SceneOf) -> None:
    """With the reason, and where it came from; those around it are written."""
    async with scene("swollen", partitions=1, watched=False) as stage:
        good, large = (event(n, at=START, user="u1", shop=shop) for n, shop in ((1, "10"), (2, str(2 << 20))))
        stage.worker()
        await stage.produce([good, large, good])
        await stage.until_committed({0: 3})
        (results,), (dead,) = await stage.read(f"{stage.prefix}-totals"), await stage.read(f"{stage.prefix}-dead")
        assert [json.loads(record.value)["n"] for record in results] == [1, 1]
        assert [record.value for record in dead] == [large.value]
        said = b" ".join(content for _, content in dead[0].headers).decode()
        assert f"{stage.prefix}-events" in said
        assert "at most" in said


# ------------------------------------------------------------------------------------------- topics that do not fit


async def test_a_changelog_whose_records_were_deleted_is_refused(scene: SceneOf) -> None:
    """All of them or the first ones: state is gone, so exit 3 with what may be done; nothing is guessed."""
    async with scene(partitions=2) as stage:
        await _worked(stage)
        changelog = stage.changelog
        for before in ({0: 3}, {0: -1}):
            await stage.delete_records(changelog, before)
            worker = stage.worker()
            assert await worker.ended() == 3, worker.said[-2000:]
            assert changelog in worker.conclusion
            assert "streamproc offsets reset" in worker.conclusion


async def test_a_changelog_is_restored_whatever_compaction_has_left_of_it(
    own_kafka: OwnKafka, prefix: str, tmp_path: Path
) -> None:
    """Offsets without records, and markers at its end: a restore ends where the log does, with all state."""
    eager = {"log.cleaner.backoff.ms": 100, "log.initial.task.delay.ms": 100}
    broker = await asyncio.to_thread(own_kafka, properties=eager)
    async with Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=2) as stage:
        await stage.configure(
            stage.changelog,
            **{"cleanup.policy": "compact", "segment.ms": "500", "min.cleanable.dirty.ratio": "0.01"},
        )
        first = stage.worker()
        async with stage.sending(plenty(), rate=300):
            await stage.flowing()
            while await stage.compacted(stage.changelog) < 5:
                stage.watcher.check()
            assert await first.stop() == 0
            stage.worker()
            await stage.flowing()
        await stage.finish()


async def test_records_that_were_deleted_before_they_were_read_are_not_passed_over(scene: SceneOf) -> None:
    """The committed offset lies before the beginning of the log: exit 1 with topic, partition and offset."""
    async with scene(partitions=2) as stage:
        await _worked(stage)
        await stage.produce(plenty(2, 1_000))
        await stage.delete_records(f"{stage.prefix}-events", {1: -1})
        worker = stage.worker()
        assert await worker.ended() == 1, worker.said[-2000:]
        offset = (await stage.committed())[TopicPartition(f"{stage.prefix}-events", 1)]
        assert f"'{stage.prefix}-events' partition 1 offset {offset}" in worker.conclusion
        assert "streamproc offsets reset" in worker.conclusion


async def test_a_source_with_another_number_of_partitions_is_refused(scene: SceneOf) -> None:
    """State would have to be dealt out anew: exit 3, with both numbers."""
    async with scene(partitions=2) as stage:
        await _worked(stage)
        async with stage.admin() as admin:
            await admin.create_partitions({f"{stage.prefix}-events": NewPartitions(3)})
        worker = stage.worker()
        assert await worker.ended() == 3, worker.said[-2000:]
        assert re.search(r"has 2 partitions and the plan needs 3", worker.conclusion)


async def test_a_topic_that_is_deleted_ends_the_worker(scene: SceneOf) -> None:
    """Under its hands: exit 1 with topic and partition."""
    async with scene(partitions=2) as stage:
        worker = stage.worker()
        async with stage.sending(plenty(), rate=300):
            await stage.flowing()
        async with stage.admin() as admin:
            await admin.delete_topics([f"{stage.prefix}-events"])
        assert await worker.ended() == 1, worker.said[-2000:]
        assert re.search(rf"'{stage.prefix}-events' partition [01]\b", worker.conclusion), worker.conclusion


async def test_a_topic_that_is_deleted_while_a_task_begins_ends_the_worker(
    own_kafka: OwnKafka, prefix: str, tmp_path: Path
) -> None:
    """It was there when the worker started, and nobody says that permissions are wrong: exit 1 with its name too."""
    port = free_port()
    broker = await asyncio.to_thread(own_kafka, advertised_port=port)
    scene = Scene(broker.bootstrap, prefix, "keyed", tmp_path, partitions=1, watched=False)
    async with Proxy(broker.port, port=port) as proxy, scene as stage:
        topic = f"{prefix}-events"
        asked = proxy.hold(Api.LIST_OFFSETS, when=lambda message: topic.encode() in message.frame)
        worker = stage.worker()
        await asked.happened()
        async with stage.admin() as admin:
            await admin.delete_topics([topic])
        await asked.release()
        assert await worker.ended() == 1, worker.said[-2000:]
        assert topic in worker.conclusion
        assert "does not exist" in worker.conclusion


async def test_topics_that_are_missing_are_named(scene: SceneOf) -> None:
    """Exit 3, and what creates them."""
    async with scene(partitions=2, watched=False) as stage:
        for topic in (stage.changelog, f"{stage.prefix}-totals", f"{stage.prefix}-events"):
            async with stage.admin() as admin:
                await admin.delete_topics([topic])
            worker = stage.worker()
            assert await worker.ended() == 3, worker.said[-2000:]
            assert f"topic '{topic}' does not exist" in worker.conclusion
            assert "`streamproc topics apply`" in worker.conclusion


async def test_an_optimized_python_is_refused(scene: SceneOf) -> None:
    """It takes out the assertions that a Kafka client relies on: exit 2 before anything is read."""
    async with scene(partitions=1, watched=False) as stage:
        worker = stage.worker(flags=("-O",))
        assert await worker.ended() == 2
        assert "python -O" in worker.conclusion


async def _worked(stage: Scene) -> None:
    """A worker has done something, and has gone."""
    worker = stage.worker()
    await stage.produce(plenty(count=3_000))
    await stage.flowing()
    assert await worker.stop() == 0
