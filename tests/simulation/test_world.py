"""A world: processes that die and come back, checks at every second, and an end to everything."""

import asyncio
import gc
import math
import re
from contextlib import suppress

import pytest

from streamproc.ports.broker import Outgoing, TopicPartition, Unanswered
from streamproc.testing.simulation.broker import SimBroker
from streamproc.testing.simulation.network import Weather
from streamproc.testing.simulation.world import CALM, Failed, Faults, World
from tests.simulation.contract import begin, init

IN = TopicPartition("in", 0)


async def idle(_: SimBroker, __: str) -> None:
    """Do nothing until asked to stop."""
    await asyncio.Event().wait()


def failure(world: World, *, ready: bool = False) -> str:
    """How a world fails."""
    with pytest.raises(Failed) as caught:
        world.run(lambda: ready)
    return str(caught.value)


def test_workers_are_killed_and_come_back() -> None:
    """Each life is a new process with connections of its own; nothing of an old one runs."""
    lives: list[str] = []

    async def work(_: SimBroker, name: str) -> None:
        lives.append(name)
        try:
            for _lap in range(10_000):
                await asyncio.sleep(0.1)
        finally:
            lives.append("finally")

    with World(1, Faults(kills=6.0)) as world:
        world.start("a", work)
        world.start("b", work)
        world.run(lambda: world.loop.time() > 70)
        kills = world.happened["kills"]
    gc.collect()
    assert kills > 5
    assert len(lives) == kills + 2
    assert set(lives) == {"a", "b"}


def test_workers_are_stopped_and_started() -> None:
    """To be stopped is to be cancelled; what a worker does then is done."""
    said: list[str] = []

    async def work(_: SimBroker, __: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1)
            said.append("stopped")

    with World(1, Faults(stops=6.0)) as world:
        world.start("a", work)
        world.run(lambda: world.loop.time() > 90)
        assert len(said) == world.happened["stops"] > 2


def test_a_worker_that_does_not_stop_is_killed() -> None:
    """After a minute."""

    async def work(_: SimBroker, __: str) -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    with World(1, Faults(stops=6.0)) as world:
        world.start("a", work)
        world.run(lambda: world.happened["did not stop"] > 0)


def test_a_worker_that_fails_ends_the_world_and_one_that_may_fail_does_not() -> None:
    """What may happen is said beforehand."""

    async def work(_: SimBroker, __: str) -> None:
        await asyncio.sleep(1)
        raise KeyError("oh")

    with World(1) as world:
        world.start("a", work)
        assert "a ended by KeyError('oh')" in failure(world)
    with World(1, tolerated=(KeyError,)) as world:
        world.start("a", work)
        world.run(lambda: world.happened["ended by KeyError"] > 2)
        assert [(name, type(error)) for name, error in world.ends] == [("a", KeyError)] * len(world.ends)


def test_a_task_that_fails_alone_ends_the_world() -> None:
    """Somebody forgot to wait for it."""

    async def fail() -> None:
        raise KeyError("oh")

    async def work(_: SimBroker, __: str) -> None:
        task = asyncio.create_task(fail())
        await asyncio.Event().wait()
        await task

    with World(1) as world:
        world.start("a", work)
        assert "nobody waited for KeyError('oh')" in failure(world)


def test_a_check_that_fails_tells_how_to_see_it_again() -> None:
    """Seed, trace, faults, habits and the command."""
    with World(7, Faults(kills=1.0), replay="play {seed}") as world:
        world.always(lambda: "the sky fell" if world.loop.time() >= 3 else None)
        told = failure(world).splitlines()
        assert told[0] == "the sky fell"
        assert re.fullmatch(r"at 3\.000 s, seed 7, trace -?[0-9a-f]+, \d+ steps", told[1])
        assert told[2].startswith("Faults(kills=1.0,")
        assert told[3].startswith("Habits(bumps=True,")
        assert told[-1] == "again: play 7"


def test_what_is_not_done_in_time_is_a_failure() -> None:
    """Three hundred seconds after the last fault."""
    with World(1, Faults(heal=20.0)) as world:
        assert "not done 300 s after the last fault" in failure(world)
        assert world.loop.time() == pytest.approx(321.0)


def test_a_transaction_that_stays_open_is_a_failure() -> None:
    """Whatever else is done; and one that its timeout ends is not."""

    async def hold(broker: SimBroker, name: str) -> None:
        while True:
            await begin(broker, await init(broker, name), IN)
            await asyncio.sleep(10)

    async def forget(broker: SimBroker, name: str) -> None:
        await begin(broker, await init(broker, name), IN)
        await asyncio.Event().wait()

    with World(1) as world:
        world.cluster.create_topic("in")
        world.start("holder", hold)
        assert "open transactions: holder" in failure(world, ready=True)
    with World(1) as world:
        world.cluster.create_topic("in")
        world.start("forgetful", forget)
        world.run(lambda: True)
        assert world.loop.time() >= 30


def test_committed_offsets_that_go_back_are_a_failure() -> None:
    """Nobody has to ask for that check."""

    async def work(broker: SimBroker, _: str) -> None:
        for offset in (5, 3):
            await broker.offset_commit("g", {IN: offset}, -1, "")
            await asyncio.sleep(5)

    with World(1) as world:
        world.cluster.create_topic("in")
        world.start("a", work)
        assert "the offset of group g for in/0 fell from 5 to 3" in failure(world)


def test_the_dead_leave_their_messages_behind() -> None:
    """What a worker sent before it was killed arrives after its death."""

    async def work(broker: SimBroker, name: str) -> None:
        writer = await broker.init_producer(name, 10_000)
        world.network.weather = Weather(slow_requests=1.0, tail=(5.0, 5.0), noticed=0.0)
        await broker.add_partitions(writer, [IN])

    with World(1, Faults(back=(50.0, 50.0))) as world:
        world.cluster.create_topic("in")
        world.start("a", work)
        world.at(1.0, lambda: world.process("a").kill())
        opened: list[tuple[float, bool]] = []
        world.always(lambda: opened.append((round(world.loop.time()), bool(world.open_transactions()))))
        world.run(lambda: world.loop.time() > 8)
        assert next(at for at, is_open in opened if is_open) == 6


def test_the_clock_of_a_process_is_wrong_and_jumps() -> None:
    """By as much as was said; that of the brokers is right."""
    off: dict[float, None] = {}

    async def work(_: SimBroker, __: str) -> None:
        while True:
            await asyncio.sleep(1)
            off[round(world.wall() - world.cluster.wall() / 1000, 6)] = None

    with World(1, Faults(skew=30.0, jumps=6.0)) as world:
        world.start("a", work)
        world.run(lambda: world.loop.time() > 70)
        assert len(off) > 3
        assert all(abs(seconds) <= 30 for seconds in off)
        assert world.wall() == world.cluster.wall() / 1000


def test_outages_come_and_go() -> None:
    """A node is away for some time, and everything is well after the world has healed."""
    told: dict[str, None] = {}

    async def work(broker: SimBroker, _: str) -> None:
        while True:
            await asyncio.sleep(0.2)
            try:
                await broker.metadata(["in"])
            except Unanswered:
                told["unanswered"] = None

    with World(3, Faults(outages=6.0, silent=1.0)) as world:
        world.start("a", work)
        world.run(lambda: world.loop.time() > 65)
        assert world.happened["outages"] > 1
        assert list(told) == ["unanswered"]


def test_a_feed_over_time_is_a_matter_of_the_world() -> None:
    """`at` does something at its time."""
    with World(1, CALM) as world:
        world.cluster.create_topic("in")
        world.start("a", idle)
        for second in range(3):
            world.at(second + 0.5, world.cluster.append, "in", 0, [Outgoing(None, b"%d" % second, 0)])
        world.run(lambda: len(world.output("in")[0]) == 3)
        assert world.loop.time() == 3


def test_a_world_ends_though_somebody_always_asks_for_something() -> None:
    """What must have arrived is what is late; a heartbeat on every second is not."""

    async def beat(broker: SimBroker, _: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(math.ceil(loop.time() + 0.5) - loop.time() - 0.0001)
            await broker.metadata(["in"])

    with World(1, Faults(heal=5.0)) as world:
        world.cluster.create_topic("in")
        world.start("a", beat)
        world.run(lambda: world.loop.time() > 4)
        assert world.network.under_way == 1
        assert world.loop.time() < 10
