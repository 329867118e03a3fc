"""What lies between the processes and the brokers: messages on their way.

    process --- request ---> broker            A message belongs to nobody once it is sent: its sender may be dead,
            <--- answer ---                    fenced or long at other work when it arrives.

A connection joins one process to one node for one purpose; what goes through it keeps its order, so one slow message
holds up those behind it.  Across connections there is no order.  A connection that is lost fails all that waits for an
answer through it, at once; whether the requests arrive all the same is another question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from streamproc.ports.broker import BrokerError, Code, Refused, Unanswered, Unsent
from streamproc.testing.simulation.loop import Call, Loop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Weather:
    """How messages fare, each a probability per message unless it says otherwise; times in s.

    `latency` is the greatest of a usual way.  A slow message takes one of `tail` on top.  Of what is lost or a slow
    request, the share `noticed` is a connection that breaks, which the caller sees soon; the rest is silence until its
    limit.
    `doubled` is for InitProducerId alone: a client that asks again by itself.  `moved` is the share of requests that
    a coordinator refuses as not its own.
    """

    latency: float = 0.002
    slow_requests: float = 0.0
    slow_answers: float = 0.0
    tail: tuple[float, float] = (2.0, 45.0)
    lost_requests: float = 0.0
    lost_answers: float = 0.0
    noticed: float = 0.5
    doubled: float = 0.0
    moved: float = 0.0


FAIR = Weather()


class Parked:
    """An answer that the broker owes: it comes when others have done their part."""

    __slots__ = ("_answer", "reply", "resolved")

    def __init__(self) -> None:
        self.reply: Callable[[Any], None] | None = None
        self.resolved = False
        self._answer: Any = None

    def resolve(self, answer: Any) -> None:
        """Answer; the first answer is the one that counts."""
        if not self.resolved:
            self.resolved, self._answer = True, answer
            if self.reply is not None:
                self.reply(answer)

    def on_resolved(self, reply: Callable[[Any], None]) -> None:
        """Send the answer by `reply`, now or when it is there."""
        self.reply = reply
        if self.resolved:
            reply(self._answer)


class Message:
    """A request on its way, or the wait for its answer."""

    __slots__ = ("args", "arrival", "connection", "coordinated", "deadline", "fate", "function", "future", "way")

    def __init__(
        self,
        connection: Connection,
        deadline: float,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        future: asyncio.Future[Any],
    ) -> None:
        self.connection = connection
        self.deadline = deadline
        self.function = function
        self.args = args
        self.future = future
        self.fate = ARRIVES
        self.arrival = 0.0
        self.coordinated = False
        self.way: Call | None = None


AFTER = 1e-6
"""What keeps its order is so far apart, since of what is due at one time anything may be first."""

LATE = 0.2
"""A request that takes longer, in s, is late."""

ARRIVES, REQUEST_LOST, ANSWER_LOST, ANSWER_SLOW, MOVED = range(5)


@dataclass(slots=True, eq=False)
class Connection:
    """One way to a node; `arrived` and `answered` are the times of the last message in either direction."""

    node: int
    arrived: float = 0.0
    answered: float = 0.0
    under_way: dict[Message, None] = field(default_factory=dict)


class Network:
    """All connections of a world."""

    def __init__(self, loop: Loop, seed: int, weather: Weather = FAIR) -> None:
        self._loop = loop
        self._random = Random(seed)
        self._chance = self._random.random
        self._connections: dict[tuple[object, str, int], Connection] = {}
        self._down: dict[int, bool] = {}
        self.weather = weather
        self.sent = 0
        self.under_way = 0
        """Requests that have not arrived yet, whether anybody waits for them or not."""
        self.quiet = 0.0
        """When the last of those arrives that are late."""

    def up(self, nodes: int) -> int:
        """A node that can be reached, for what any of them can answer; the first if none can."""
        return next((node for node in range(nodes) if node not in self._down), 0)

    @property
    def weather(self) -> Weather:
        """How messages fare from now on."""
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self._weather = weather
        self._stormy = any(
            (
                weather.slow_requests,
                weather.slow_answers,
                weather.lost_requests,
                weather.lost_answers,
                weather.doubled,
                weather.moved,
            )
        )

    async def ask(  # noqa: PLR0913  # who, where to, how long, and what
        self,
        asker: object,
        purpose: str,
        node: int,
        limit: float,
        function: Callable[..., T | Parked],
        *args: Any,
        coordinated: bool = False,
        repeatable: bool = False,
    ) -> T:
        """Have `function(*args)` called at a node, and its answer back; within `limit` s there is one or an error."""
        loop = self._loop
        if self._down and node in self._down and not self._down[node]:
            await asyncio.sleep(0.001 + 0.02 * self._chance())
            raise Unsent(f"node {node} cannot be reached")
        connection = self._connections.get((asker, purpose, node))
        if connection is None:
            connection = self._connections[asker, purpose, node] = Connection(node)
        message = Message(connection, loop.time() + limit, function, args, loop.create_future())
        message.coordinated = coordinated
        self._send(message, limit, repeatable=repeatable)
        answer: T = await message.future
        return answer

    def _send(self, message: Message, limit: float, *, repeatable: bool) -> None:
        loop, connection = self._loop, message.connection
        self.sent += 1
        connection.under_way[message] = None
        delay = (0.1 + 0.9 * self._chance()) * self._weather.latency
        if self._stormy:
            delay += self._trouble(message, repeatable=repeatable)
        if connection.node in self._down:  # and yet it was sent: it is a black hole
            loop.later(limit, self._unanswered, message)
        elif message.fate == REQUEST_LOST:
            loop.later(delay if self._chance() < self._weather.noticed else limit, self._unanswered, message)
        else:
            message.arrival = connection.arrived = max(connection.arrived + AFTER, loop.time() + delay)
            message.way = loop.call_at(message.arrival, self._arrive, message, context=loop.outside)
            self.under_way += 1
            if message.arrival > loop.time() + LATE:
                self.quiet = max(self.quiet, message.arrival)
            if message.arrival >= message.deadline:
                loop.later(limit, self._unanswered, message)

    def _trouble(self, message: Message, *, repeatable: bool) -> float:
        """Decide on the fate of a message; how much later it arrives."""
        weather, chance = self._weather, self._chance()
        if repeatable and weather.doubled and self._chance() < weather.doubled:
            delay = self._random.uniform(0.0, 10.0)
            self.under_way += 1
            self.quiet = max(self.quiet, self._loop.time() + delay)
            self._loop.later(delay, self._again, message)
        chance -= weather.lost_requests
        if chance < 0:
            message.fate = REQUEST_LOST
            return 0.0
        chance -= weather.lost_answers
        if chance < 0:
            message.fate = ANSWER_LOST
            return 0.0
        chance -= weather.slow_answers
        if chance < 0:
            message.fate = ANSWER_SLOW
            return 0.0
        chance -= weather.moved
        if chance < 0:
            message.fate = MOVED
            return 0.0
        chance -= weather.slow_requests
        if chance >= 0:
            return 0.0
        if self._chance() < weather.noticed:  # the way breaks, and yet what was sent arrives
            self._loop.later(self._chance(), self._unanswered, message)
        return self._random.uniform(*weather.tail)

    def _again(self, message: Message) -> None:
        """A second copy arrives; nobody hears its answer."""
        self.under_way -= 1
        with suppress(BrokerError):
            message.function(*message.args)

    def _arrive(self, message: Message) -> None:
        message.way = None
        self.under_way -= 1
        try:
            if message.fate == MOVED and message.coordinated:
                raise Refused(Code.NOT_COORDINATOR, f"node {message.connection.node}")
            answer = message.function(*message.args)
        except BrokerError as refusal:
            answer = refusal
        if type(answer) is Parked:
            if not message.future.done():
                self._loop.call_at(message.deadline, self._unanswered, message, context=self._loop.outside)
            answer.on_resolved(lambda late: self._answer(message, late))
        else:
            self._answer(message, answer)

    def _answer(self, message: Message, answer: Any) -> None:
        if message.future.done():
            message.connection.under_way.pop(message, None)
            return
        loop, connection = self._loop, message.connection
        if message.fate == ANSWER_LOST:
            noticed = self._chance() < self._weather.noticed
            when = loop.time() if noticed else message.deadline
            loop.call_at(when, self._unanswered, message, context=loop.outside)
            return
        delay = (0.1 + 0.9 * self._chance()) * self._weather.latency
        if message.fate == ANSWER_SLOW:
            delay += self._random.uniform(*self._weather.tail)
        connection.answered = when = max(connection.answered + AFTER, loop.time() + delay)
        if when >= message.deadline:
            loop.call_at(message.deadline, self._unanswered, message, context=loop.outside)
        else:
            loop.call_at(when, _deliver, message, answer, context=loop.outside)

    def _unanswered(self, message: Message) -> None:
        """No answer within the limit, or the connection is gone: which ends the wait for all that it carries."""
        if not message.future.done():
            self._break(message.connection)

    def _break(self, connection: Connection) -> None:
        for key, found in self._connections.items():
            if found is connection:
                del self._connections[key]
                break
        for message in connection.under_way:
            if not message.future.done():
                message.future.set_exception(Unanswered(f"no answer from node {connection.node}"))
                message.future.exception()  # its caller may be gone, and nobody need hear of it
        connection.under_way.clear()

    def cut(self, asker: object, purpose: str | None) -> None:
        """Close the connections for a purpose (None for all); what is on the wire may still arrive in part."""
        for key in [key for key in self._connections if key[0] is asker and purpose in {None, key[1]}]:
            self._lose(self._connections[key])

    def _lose(self, connection: Connection) -> None:
        under_way = [message for message in connection.under_way if message.way is not None]
        for message in under_way[self._random.randrange(len(under_way) + 1) :]:
            if message.way is not None:
                message.way.cancel()
                message.way = None
                self.under_way -= 1
        self._break(connection)

    def forget(self, asker: object) -> None:
        """A process is gone, and nobody waits any more; what it sent is on its way."""
        for key in [key for key in self._connections if key[0] is asker]:
            del self._connections[key]

    def outage(self, node: int, *, silent: bool) -> None:
        """Make a node unreachable: nothing connects any more, or (silent) nothing comes through."""
        self._down[node] = silent
        for connection in list(self._connections.values()):
            if connection.node == node:
                if silent:
                    for message in connection.under_way:
                        message.fate = ANSWER_LOST
                else:
                    self._lose(connection)

    def recover(self, node: int) -> None:
        """Make a node reachable again."""
        self._down.pop(node, None)


def _deliver(message: Message, answer: Any) -> None:
    message.connection.under_way.pop(message, None)
    if not message.future.done():
        if isinstance(answer, BaseException):
            message.future.set_exception(answer)
            message.future.exception()
        else:
            message.future.set_result(answer)
