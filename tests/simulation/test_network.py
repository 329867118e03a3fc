"""The network between processes and brokers: what is sent may be late, lost or heard of by nobody."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest

from streamproc.ports.broker import Code, Refused, Unanswered, Unsent
from streamproc.testing.simulation.loop import Loop, running
from streamproc.testing.simulation.network import FAIR, Network, Parked, Weather

LIMIT = 8.0


@dataclass
class Node:
    """A node that writes down when it was asked for what."""

    loop: Loop
    asked: list[tuple[float, str]] = field(default_factory=list)

    def ask(self, what: str) -> str:
        """Answer at once."""
        self.asked.append((self.loop.time(), what))
        return what.upper()

    def refuse(self, what: str) -> str:
        """Refuse."""
        raise Refused(Code.UNKNOWN, what)


def never() -> str | Parked:
    """Owe an answer for ever."""
    return Parked()


async def outcome(network: Network, node: Node, what: str = "a", purpose: str = "p") -> str:
    """The answer, or what became of the request."""
    try:
        return await network.ask("me", purpose, 0, LIMIT, node.ask, what)
    except (Unanswered, Unsent) as error:
        return type(error).__name__


Scene: TypeAlias = Callable[[Network, Node], Coroutine[Any, Any, Any]]


def play(seed: int, weather: Weather, scene: Scene) -> tuple[Any, float, list[str]]:
    """What comes of a scene, when it was over, and what the node was asked for within a minute."""
    with running(Loop(seed)) as loop:
        network, node = Network(loop, seed, weather), Node(loop)
        told = loop.run_until_complete(scene(network, node))
        over = loop.time()
        loop.run_until_complete(asyncio.sleep(60))
        assert network.under_way == 0
        assert loop.unseen() == []
        return told, over, [what for _, what in node.asked]


def test_in_fair_weather_a_request_takes_some_milliseconds() -> None:
    """There and back."""
    told, over, asked = play(0, FAIR, outcome)
    assert told == "A"
    assert asked == ["a"]
    assert 0 < over < 0.005


def test_a_refusal_is_an_answer() -> None:
    """It is raised where the call was made."""

    async def scene(network: Network, node: Node) -> None:
        with pytest.raises(Refused):
            await network.ask("me", "p", 0, LIMIT, node.refuse, "a")

    play(0, FAIR, scene)


@pytest.mark.parametrize(
    ("weather", "arrives"),
    [
        (Weather(lost_requests=1.0, noticed=0.0), False),
        (Weather(lost_answers=1.0, noticed=0.0), True),
        (Weather(slow_requests=1.0, tail=(20.0, 20.0), noticed=0.0), True),
        (Weather(slow_answers=1.0, tail=(20.0, 20.0)), True),
    ],
)
def test_what_is_lost_or_slow_is_unanswered_at_the_limit(weather: Weather, *, arrives: bool) -> None:
    """And may have been done, or be done long after."""
    told, over, asked = play(0, weather, outcome)
    assert told == "Unanswered"
    assert over == pytest.approx(LIMIT, abs=0.01)
    assert asked == (["a"] if arrives else [])


@pytest.mark.parametrize("weather", [Weather(lost_requests=1.0, noticed=1.0), Weather(lost_answers=1.0, noticed=1.0)])
def test_a_broken_connection_is_unanswered_at_once(weather: Weather) -> None:
    """Nobody waits for the limit."""
    told, over, _ = play(0, weather, outcome)
    assert told == "Unanswered"
    assert over < 1.0


def test_a_broken_connection_may_have_let_the_request_through() -> None:
    """It arrives when its sender has long gone on."""
    told, over, asked = play(0, Weather(slow_requests=1.0, tail=(20.0, 20.0), noticed=1.0), outcome)
    assert (told, asked) == ("Unanswered", ["a"])
    assert over <= 1.0


def test_a_connection_keeps_order_and_several_do_not() -> None:
    """Requests for one purpose arrive as they were sent."""

    async def apart(network: Network, node: Node) -> object:
        await asyncio.gather(*(outcome(network, node, f"{n}", purpose) for n, purpose in enumerate("abcdefgh")))
        return [what for _, what in node.asked]

    async def in_order(network: Network, node: Node) -> object:
        tasks = []
        for number in range(8):
            tasks.append(asyncio.ensure_future(outcome(network, node, f"{number}")))
            await asyncio.sleep(0.0001)
        await asyncio.gather(*tasks)
        return [what for _, what in node.asked]

    assert [play(seed, FAIR, in_order)[0] for seed in range(10)] == [list("01234567")] * 10
    assert len({tuple(play(seed, FAIR, apart)[0]) for seed in range(10)}) > 5


def test_one_slow_request_holds_up_those_behind_it() -> None:
    """All of a connection are unanswered with it, and all arrive."""

    async def scene(network: Network, node: Node) -> object:
        network.weather = Weather(slow_requests=1.0, tail=(20.0, 20.0), noticed=0.0)
        first = asyncio.ensure_future(outcome(network, node, "first"))
        await asyncio.sleep(1)
        network.weather = FAIR
        second = asyncio.ensure_future(outcome(network, node, "second"))
        other = await outcome(network, node, "other", "q")
        return await first, await second, other

    told, over, asked = play(0, FAIR, scene)
    assert told == ("Unanswered", "Unanswered", "OTHER")
    assert asked == ["other", "first", "second"]
    assert over == pytest.approx(LIMIT, abs=0.01)


def test_what_is_cut_may_arrive_up_to_some_point() -> None:
    """All that waits is unanswered at once; what was on the wire arrives in part, a first part of it."""

    async def scene(network: Network, node: Node) -> object:
        tasks = []
        for number in range(4):
            tasks.append(asyncio.ensure_future(outcome(network, node, f"{number}")))
            await asyncio.sleep(0.00001)
        network.cut("me", "p")
        return set(await asyncio.gather(*tasks))

    arrived = set()
    for seed in range(40):
        told, _, asked = play(seed, FAIR, scene)
        assert told == {"Unanswered"}
        arrived.add(tuple(asked))
    assert arrived == {tuple("0123"[:count]) for count in range(5)}


def test_a_node_that_is_down_cannot_be_reached() -> None:
    """What waits is unanswered, what comes after is not sent, until it is back."""

    async def scene(network: Network, node: Node) -> object:
        waiting = asyncio.ensure_future(network.ask("me", "w", 0, LIMIT, never))
        await asyncio.sleep(1)
        network.outage(0, silent=False)
        down = await outcome(network, node)
        network.recover(0)
        with pytest.raises(Unanswered):
            await waiting
        return down, await outcome(network, node)

    assert play(0, FAIR, scene)[0] == ("Unsent", "A")


def test_a_black_hole_takes_everything() -> None:
    """It is sent, and that is all."""

    async def scene(network: Network, node: Node) -> object:
        network.outage(0, silent=True)
        hole = await outcome(network, node)
        network.recover(0)
        return hole, await outcome(network, node)

    told, over, asked = play(0, FAIR, scene)
    assert (told, asked) == (("Unanswered", "A"), ["a"])
    assert over == pytest.approx(LIMIT, abs=0.01)


def test_an_answer_that_is_owed_comes_late_or_not_within_the_limit() -> None:
    """What the broker parks is bounded like everything else."""

    async def scene(network: Network, _: Node) -> object:
        parked = Parked()

        def owed() -> str | Parked:
            return parked

        asyncio.get_running_loop().call_later(3, parked.resolve, "late")
        answer = await network.ask("me", "p", 0, LIMIT, owed)
        with pytest.raises(Unanswered):
            await network.ask("me", "p", 0, LIMIT, never)
        return answer

    assert play(0, FAIR, scene)[0] == "late"


def test_a_call_that_is_cancelled_was_sent_all_the_same() -> None:
    """Its message belongs to nobody."""

    async def scene(network: Network, node: Node) -> object:
        call = asyncio.ensure_future(outcome(network, node))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        call.cancel()
        return network.under_way

    told, _, asked = play(3, FAIR, scene)
    assert asked == ["a"] * told


def test_a_request_that_may_come_twice_does() -> None:
    """But for what is marked so, nothing does."""

    async def scene(network: Network, node: Node) -> object:
        await network.ask("me", "p", 0, LIMIT, node.ask, "twice", repeatable=True)
        return await outcome(network, node, "once")

    assert sorted(play(0, Weather(doubled=1.0), scene)[2]) == ["once", "twice", "twice"]


def test_a_coordinator_that_moved_refuses_without_doing_it() -> None:
    """Others do not."""

    async def scene(network: Network, node: Node) -> object:
        with pytest.raises(Refused) as refused:
            await network.ask("me", "p", 0, LIMIT, node.ask, "moved", coordinated=True)
        return refused.value.code, await outcome(network, node)

    assert play(0, Weather(moved=1.0), scene)[::2] == ((Code.NOT_COORDINATOR, "A"), ["a"])
